"""A lock where there are no locks: an object that says who works here and that he is alive.

The holder of the highest number under ``lock/`` has the lease. Taking one is a conditional put of
the next number, so that of two takers one wins. The holder writes the time into it every
BEAT_S seconds; a lease that has been silent for STALE_S, or whose process is gone from this host,
may be taken over. The hosts' clocks must agree to within a minute or two.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from typing import Any

from geopanoptic.errors import StoreError
from geopanoptic.store.disk import process_lives
from geopanoptic.store.objects import object_errors, put, put_new

log = logging.getLogger("geopanoptic.store")

BEAT_S = 30.0
STALE_S = 300.0


class Lease:
    """A lease on the work directory at `root` (a path of `fs`); made by `take`."""

    def __init__(self, fs: Any, path: str, mine: dict[str, Any]) -> None:
        self._fs = fs
        self._path = path
        self._mine = mine
        self._ended = threading.Event()
        self.lost = False
        self._thread = threading.Thread(target=self._beat, name="geopanoptic-lease", daemon=True)
        self._thread.start()

    @classmethod
    def take(cls, fs: Any, root: str) -> Lease | str:
        """Take the lease; return it, or who holds it. Raises StoreError: the store fails."""
        mine = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "beat": time.time(),
            "token": uuid.uuid4().hex,
        }
        with object_errors(root, "locking"):
            number, held = _highest(fs, root)
            if held and _is_alive(held):
                return _said(held)
            path = f"{root}/lock/{number + 1:06d}"
            if not put_new(fs, path, json.dumps(mine).encode()):
                # Another taker was first; or the put was ours, sent twice by a patient client.
                other = _read(fs, path)
                if other.get("token") != mine["token"]:
                    return _said(other)
            for old in range(max(1, number - 8), number + 1):
                _remove(fs, f"{root}/lock/{old:06d}")
        return cls(fs, path, mine)

    def check(self) -> None:
        """Raise StoreError when another run has taken over meanwhile."""
        with object_errors(self._path, "reading"):
            if _read(self._fs, self._path).get("token") == self._mine["token"]:
                return
        self.lost = True
        raise StoreError(
            f"another run has taken over the work directory of {self._path}, because this one "
            f"did not answer for {STALE_S:.0f} s; leave it to that run"
        )

    def release(self) -> None:
        """Give the lease back, unless it is another's by now."""
        if self._ended.is_set():
            return
        self._ended.set()
        self._thread.join()
        if not self.lost:
            _remove(self._fs, self._path)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                self.check()
                put(self._fs, self._path, json.dumps(self._mine | {"beat": time.time()}).encode())
            except StoreError as error:
                log.warning("%s", error)
                if self.lost:
                    return
            except Exception as error:
                log.warning("the lease %s was not renewed: %s", self._path, error)


def _highest(fs: Any, root: str) -> tuple[int, dict[str, Any]]:
    """Return the highest number under lock/ and what it says (0 and nothing when there is none)."""
    numbers = [int(name.rsplit("/", 1)[1]) for name in fs.find(f"{root}/lock")]
    if not numbers:
        return 0, {}
    return max(numbers), _read(fs, f"{root}/lock/{max(numbers):06d}")


def _read(fs: Any, path: str) -> dict[str, Any]:
    try:
        said = json.loads(fs.cat_file(path))
    except (FileNotFoundError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}


def _remove(fs: Any, path: str) -> None:
    try:
        fs.rm_file(path)
    except FileNotFoundError:
        pass
    except Exception as error:
        log.warning("removing %s: %s", path, error)


def _is_alive(held: dict[str, Any]) -> bool:
    if held.get("host") == socket.gethostname():
        return process_lives(int(held.get("pid", 0)))
    return time.time() - float(held.get("beat", 0)) < STALE_S


def _said(held: dict[str, Any]) -> str:
    who = f"process {held.get('pid')} on {held.get('host')}, since {held.get('since')}"
    return f"{who}; its lease runs out {STALE_S:.0f} s after it has died"

"""The user's cache of exported graphs: made once per model and version, then read in a moment.

A file is a sha256 and the bytes it is of, written beside and renamed; what does not match, because
a disk failed, counts as absent. Nothing here is needed: a folder that cannot be written costs time.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER_VARIABLE = "GEOPANOPTIC_CACHE"
_KEEP_BYTES = 2 * 2**30  # of all files together; the ones unused for longest go first


def cache_folder() -> Path:
    """Return the folder for cached graphs: GEOPANOPTIC_CACHE, or the system's place for it."""
    given = os.environ.get(FOLDER_VARIABLE)
    if given:
        return Path(given)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "geopanoptic"


def cached(name: str, make: Callable[[], bytes]) -> bytes:
    """Return the bytes kept under `name`, making and keeping them when they are not there.

    Processes that want the same name at once wait for the one that makes it. Law: the answer is
    what `make` once gave, or gives now.
    """
    path = cache_folder() / name
    found = _read(path)
    if found is not None:
        return found
    with _alone(path):
        found = _read(path)  # another process may have made it meanwhile
        if found is None:
            found = make()
            _write(path, found)
    return found


def _read(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, body = data[:32], data[32:]
    if hashlib.sha256(body).digest() != digest:
        return None
    with suppress(OSError):
        os.utime(path)  # in use: the last to be cleared away
    return body


def _write(path: Path, body: bytes) -> None:
    """Keep bytes if that is possible; a full or read-only disk is no reason to fail."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(body).digest() + body)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)
            raise
        _clear(path.parent)
    except OSError:
        return


def _clear(folder: Path) -> None:
    """Remove the files unused for longest while there are more bytes than we may keep."""
    files = sorted(
        (p for p in folder.iterdir() if p.is_file()), key=lambda p: p.stat().st_mtime, reverse=True
    )
    total = 0
    for path in files:
        total += path.stat().st_size
        if total > _KEEP_BYTES:
            path.unlink(missing_ok=True)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold a lock file beside `path`, where the system and the disk have such a thing."""
    try:
        import fcntl

        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = path.with_name(f"{path.name}.lock").open("wb")
    except (ImportError, OSError):
        yield
        return
    with file:
        with suppress(OSError):  # a network disk without locks: the work may be done twice
            fcntl.flock(file, fcntl.LOCK_EX)
        yield

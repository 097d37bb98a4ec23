"""A region of tiles that only sleeps; a module of its own so that workers can import it."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

TILES = 16


@dataclass(frozen=True)
class Times:
    """Seconds per tile of 1024 px of one worker: reading and decoding as measured on a CPU."""

    read_s: float = 0.012
    forward_s: float = 0.020  # a GPU of 50 tiles/s
    decode_s: float = 0.051


_locks: dict[str, threading.Lock] = {}
_guard = threading.Lock()


def region(times: Times, _key: int) -> dict[str, Any]:
    """Sleep as a region of tiles would work; report when its device was busy."""
    from distributed import get_worker

    name = str(get_worker().name)
    with _guard:
        device = _locks.setdefault(name, threading.Lock())
    time.sleep(TILES * times.read_s)
    with device:
        begin = time.time()
        time.sleep(TILES * times.forward_s)
        end = time.time()
    time.sleep(TILES * times.decode_s)
    return {"worker": name, "begin": begin, "end": end, "px": TILES * 1024**2}

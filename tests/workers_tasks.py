"""Tasks for the tests of engines; in a module of their own so that worker processes find them."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from geopanoptic.errors import CheckpointError, SceneError, StoreError, TileError
from geopanoptic.grid import Window
from geopanoptic.store import JobRef


def square(key: int) -> dict[str, Any]:
    return {"square": key * key}


def write_part(ref: JobRef, key: int, seconds: float = 0.0) -> dict[str, Any]:
    """Stand in for a region: some pixels that depend only on the key, after some time."""
    store = ref.parts("infer")
    if store.has(key):
        return {"key": key, "cached": True}
    time.sleep(seconds)
    pixels = np.random.default_rng(key).integers(0, 9, (64, 64)).astype(np.uint8)
    store.put(key, {"semantic": pixels}, {"sum": int(pixels.sum())})
    return {"key": key, "cached": False}


def fails_on(key: int, bad: int, how: str, marks: str | None = None) -> dict[str, Any]:
    """Go wrong on the key `bad` in the way `how`; note each attempt as a file in `marks`."""
    if marks is not None:
        Path(marks, f"{key}-{time.monotonic_ns()}").touch()
    if key == bad:
        _fail(key, how)
    time.sleep(0.05)
    return {"key": key}


def _fail(key: int, how: str) -> None:
    if how == "exit":
        os._exit(3)
    if how == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "hang":
        time.sleep(600)
    raise {
        "tile": TileError(key, Window(0, 0, 1, 1), "64 values are not finite"),
        "scene": SceneError("block 3 cannot be read"),
        "store": StoreError("no space left: 3 MB needed, 1 MB free"),
        "model": CheckpointError("the weights are damaged"),
        "bug": ZeroDivisionError("a fault of the program"),
        "local": _LocalError("an exception that the other side may not know"),
    }[how]


class _LocalError(Exception):
    def __init__(self, message: str) -> None:
        super().__init__(message, lambda: None)  # cannot be pickled

    def __str__(self) -> str:
        return str(self.args[0])


def look_around(key: int) -> dict[str, Any]:
    """Report what is effective in this process."""
    import dask
    import psutil

    process = psutil.Process()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, set())
    names = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TOP_PAD_")
    names += ("MALLOC_ARENA_MAX",)
    names += ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
    names += ("VRT_NUM_THREADS", "GDAL_NUM_THREADS", "GDAL_CACHEMAX", "CUDA_VISIBLE_DEVICES")
    born_with = Path(f"/proc/{os.getpid()}/environ").read_bytes().decode()
    return {
        "pid": os.getpid(),
        "environment": {name: os.environ.get(name) for name in names},
        "born_with": [name for name in names if f"\0{name}=" in "\0" + born_with],
        "pause": dask.config.get("distributed.worker.memory.pause"),
        "spill": dask.config.get("distributed.worker.memory.spill"),
        "target": dask.config.get("distributed.worker.memory.target"),
        "profile": dask.config.get("distributed.worker.profile.enabled"),
        "tick": dask.config.get("distributed.admin.tick.interval"),
        "addresses": sorted({c.laddr.ip for c in process.net_connections() if c.laddr}),
        "interrupt_blocked": signal.SIGINT in blocked,
    }

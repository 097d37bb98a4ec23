"""Settings of glibc's malloc under which inference on a CPU does not drown in page faults.

A network's activations are blocks of 1 to 100 MB that come and go with every layer. By default
glibc maps and unmaps each of them (or trims its heap), so that the kernel zeroes gigabytes of pages
per tile. Kept in one heap that is never given back, the same blocks are used again. Measured (one
thread, U-Net with EfficientNet-Lite0, 1152 px, glibc 2.36): 3.5 CPU seconds per tile with 700,000
page faults become 1.9 with 10,000; the peak of memory stays the same (1.5 GB).

Large pages on top of that: torch asks the kernel for 2-MB pages when THP_MEM_ALLOC_ENABLE is 1
(it reads the variable at its first allocation). The whole Banepa scene then takes 54 instead of 67
CPU seconds with a peak of 2.2 instead of 2.7 GB, because the heap stays small enough not to be
trimmed (see `trim_heap`; two busy cores, torch 2.14).

One arena: threads other than the first get heaps of at most 64 MB each, which such blocks do not
fit, and would map them after all. Dask's own default (MALLOC_TRIM_THRESHOLD_=65536) is the worst.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress

# Bytes at which this process trims its heap at the latest, where --max-ram allows less than usual.
HEAP_VARIABLE = "GEOPANOPTIC_HEAP_BYTES"
_HEAP_SHARE = 0.8  # of what a process may use; Dask ends a worker at 0.95

_NEVER = 2**31 - 1  # mallopt takes an int
# mallopt(3): the number of each parameter in <malloc.h>, and its environment variable.
_PARAMETERS = {
    "MALLOC_TRIM_THRESHOLD_": (-1, _NEVER),
    "MALLOC_TOP_PAD_": (-2, 64 * 2**20),
    "MALLOC_MMAP_THRESHOLD_": (-3, 2**30),
    "MALLOC_ARENA_MAX": (-8, 1),
}
_LARGE_PAGES = "THP_MEM_ALLOC_ENABLE"

# What follows the network works on blocks of a megabyte or so: in a heap that is never given back
# their gaps add up with the size of the scene (16,384^2: 744 MB at the peak with 2**21 instead of
# 2**18 below, then 547; 40 CPU seconds instead of 38).
_SETTLED = {
    "MALLOC_TRIM_THRESHOLD_": 32 * 2**20,
    "MALLOC_TOP_PAD_": 2**17,  # else what is kept ready is used before anything is mapped
    "MALLOC_MMAP_THRESHOLD_": 2**18,
}
_state = {"tuned": False}


def malloc_environment() -> dict[str, str]:
    """Return the variables to be in a process's environment when it begins."""
    return {_LARGE_PAGES: "1"} | {name: str(value) for name, (_, value) in _PARAMETERS.items()}


def heap_environment(max_ram: int | None) -> dict[str, str]:
    """Return the variable that keeps a process's heap within the memory it may use."""
    return {} if max_ram is None else {HEAP_VARIABLE: str(int(_HEAP_SHARE * max_ram))}


def tune_malloc() -> bool:
    """Apply the settings to this process, from now on; tell whether malloc took them.

    A user who has set one of the variables has decided; another C library has no such thing.
    """
    os.environ.setdefault(_LARGE_PAGES, "1")
    if any(name in os.environ for name in _PARAMETERS):
        return False
    _state["tuned"] = _mallopt({name: value for name, (_, value) in _PARAMETERS.items()})
    return _state["tuned"]


def settle_malloc() -> bool:
    """Undo `tune_malloc` when the network is done; tell whether there was something to undo.

    From now on large blocks are the system's again as soon as they are free, and what is free now
    is given back.
    """
    tuned, _state["tuned"] = _state["tuned"], False
    done = tuned and _mallopt(_SETTLED)
    trim_heap(0)
    return done


def _mallopt(values: dict[str, int]) -> bool:
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        return all(mallopt(_PARAMETERS[name][0], value) == 1 for name, value in values.items())
    return False


def trim_heap(above_bytes: int) -> bool:
    """Give freed memory back to the system if this process holds more than so many bytes.

    A heap that is never trimmed by itself grows with every tile of another shape: on the Banepa
    scene (24 tiles of up to 1280 px) to 3.2 GB. Trimming costs page faults (there 9 instead of 3
    CPU seconds in the kernel, with a bound of 2.35 GB), so it is done when it matters. Tells
    whether it was done.
    """
    import psutil

    above_bytes = min(above_bytes, int(os.environ.get(HEAP_VARIABLE, above_bytes)))
    if psutil.Process().memory_info().rss <= above_bytes:
        return False
    with suppress(OSError, AttributeError):
        return bool(ctypes.CDLL(None).malloc_trim(0))
    return False

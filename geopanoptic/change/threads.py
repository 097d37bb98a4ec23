"""Element-wise work on long arrays, in threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.workers.spec import available_cores

_CHUNK = 20_000


def in_threads(operation: Callable[..., Any], *arrays: npt.NDArray[Any]) -> Any:
    """Apply an element-wise operation of shapely (which lets other threads run) chunk by chunk.

    Law: equals ``operation(*arrays)``, for any number of cores.
    """
    n = len(arrays[0])
    if n <= _CHUNK:
        return operation(*arrays)
    starts = range(0, n, _CHUNK)
    with ThreadPoolExecutor(min(available_cores(), 8)) as pool:
        return np.concatenate(
            list(pool.map(lambda s: operation(*(a[s : s + _CHUNK] for a in arrays)), starts))
        )

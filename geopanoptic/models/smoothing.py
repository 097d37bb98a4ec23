"""Average the stuff probabilities, on a CPU without torch: compiled, in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

SMOOTH_PX = 5  # as `fields.SMOOTH_PX`, which needs torch


def smooth(field: npt.NDArray[np.float32], channels: npt.NDArray[np.int64], size: int) -> None:
    """Average channels of (class, h, w) over `size` x `size` pixels, in place.

    `size` is odd; at the rim only pixels that exist count. Down the columns, then along the rows.
    Law: equal to `fields.box_mean` up to rounding.
    """
    _smooth(field, channels, size // 2)


@njit(cache=True, nogil=True, boundscheck=False)
def _smooth(field: Any, channels: Any, reach: int) -> None:
    rows, cols = field.shape[1:]
    down = np.empty((rows, cols), np.float32)
    total = np.empty(cols, np.float32)
    for k in channels:
        plane = field[k]
        for r in range(rows):
            first, stop = max(0, r - reach), min(rows, r + reach + 1)
            total[:] = plane[first]
            for other in range(first + 1, stop):
                for c in range(cols):
                    total[c] += plane[other, c]
            share = np.float32(1.0) / np.float32(stop - first)
            for c in range(cols):
                down[r, c] = total[c] * share
        for r in range(rows):
            _along(down[r], plane[r], reach)


@njit(cache=True, nogil=True, boundscheck=False)
def _along(line: Any, out: Any, reach: int) -> None:
    cols = len(line)
    share = np.float32(1.0) / np.float32(2 * reach + 1)
    for c in range(reach, cols - reach):
        total = np.float32(0.0)
        for other in range(c - reach, c + reach + 1):
            total += line[other]
        out[c] = total * share
    for c in range(cols):
        if reach <= c < cols - reach:
            continue
        first, stop = max(0, c - reach), min(cols, c + reach + 1)
        total = np.float32(0.0)
        for other in range(first, stop):
            total += line[other]
        out[c] = total / np.float32(stop - first)

"""Draw very many outlines on a small picture."""

from __future__ import annotations

import math

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def draw(outlines, value, filled, rims):  # type: ignore[no-untyped-def]
    """Put each object's value into `filled` where it lies and into `rims` where its outline runs.

    `outlines`: (xy (m, 2) in pixels, ring offsets, first ring and number of rings of each object).
    Later objects lie on top. An object smaller than a pixel still marks the one it touches.
    """
    xy, rings, first, count = outlines
    height, width = filled.shape
    crossings = np.empty(16, np.float64)
    for n in range(len(value)):
        begin, end = rings[first[n]], rings[first[n] + count[n]]
        if count[n] == 0:
            continue
        if len(crossings) < end - begin:
            crossings = np.empty(2 * (end - begin), np.float64)
        low, high = xy[begin:end, 1].min(), xy[begin:end, 1].max()
        top, bottom = max(0, math.ceil(low - 0.5)), min(height - 1, math.floor(high - 0.5))
        for row in range(top, bottom + 1):
            k = _cross(xy, rings, first[n], first[n] + count[n], row + 0.5, crossings)
            found = np.sort(crossings[:k])
            for i in range(0, k - 1, 2):
                left = max(0, math.ceil(found[i] - 0.5))
                right = min(width - 1, math.floor(found[i + 1] - 0.5))
                filled[row, left : right + 1] = value[n]
        for r in range(first[n], first[n] + count[n]):
            for i in range(rings[r], rings[r + 1] - 1):
                _line(xy[i], xy[i + 1], value[n], filled, rims)


@numba.njit(cache=True, nogil=True)
def _cross(xy, rings, first, stop, y, crossings):  # type: ignore[no-untyped-def]
    """Collect where the edges of an object cross the height y; return how many."""
    k = 0
    for r in range(first, stop):
        for i in range(rings[r], rings[r + 1] - 1):
            a, b = xy[i, 1], xy[i + 1, 1]
            if (a <= y) != (b <= y):
                crossings[k] = xy[i, 0] + (y - a) / (b - a) * (xy[i + 1, 0] - xy[i, 0])
                k += 1
    return k


@numba.njit(cache=True, nogil=True)
def _line(a, b, value, filled, rims):  # type: ignore[no-untyped-def]
    """Mark the pixels under a line, half a pixel at a time."""
    height, width = filled.shape
    steps = int(2 * max(abs(b[0] - a[0]), abs(b[1] - a[1]))) + 1
    for i in range(steps + 1):
        col = math.floor(a[0] + (b[0] - a[0]) * i / steps)
        row = math.floor(a[1] + (b[1] - a[1]) * i / steps)
        if 0 <= row < height and 0 <= col < width:
            filled[row, col] = value
            rims[row, col] = value

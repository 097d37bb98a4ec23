"""Compiled loops over pixels: look up, interpolate, count, find edges."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(cache=True, nogil=True, inline="always")
def _between(knots: Any, i: int, j: int, u: float, v: float) -> Any:
    top = knots[i, j] * (1.0 - v) + knots[i, j + 1] * v
    bottom = knots[i + 1, j] * (1.0 - v) + knots[i + 1, j + 1] * v
    return top * (1.0 - u) + bottom * u


@numba.njit(cache=True, nogil=True)
def nearest(place: Any, knots: Any, nudge: float, array: Any, out: Any, inside: Any) -> None:
    """Put array[floor(own row), floor(own col)] into `out`; see `Lattice.nearest`.

    `place`: first row and col of the window, first knot (i, j), first row and col of `array`, the
    shape of the raster it was read from, and the distance of knots. `knots` = (rows, cols).
    """
    r0, c0, i0, j0, sr, sc, height, width, cell = place
    rows, cols = knots
    for r in range(out.shape[0]):
        i = (r0 + r) // cell - i0
        u = (r0 + r) % cell / cell
        for c in range(out.shape[1]):
            j = (c0 + c) // cell - j0
            v = (c0 + c) % cell / cell
            y = np.floor(_between(rows, i, j, u, v) + nudge)
            x = np.floor(_between(cols, i, j, u, v) + nudge)
            if y >= 0 and y < height and x >= 0 and x < width:
                out[r, c] = array[int(y) - sr, int(x) - sc]
                inside[r, c] = True
            else:
                inside[r, c] = False


@numba.njit(cache=True, nogil=True)
def bilinear(place: Any, knots: Any, source: Any, out: Any, good: Any) -> None:
    """Interpolate source = (float32 array, bool valid) between pixel centres."""
    array, valid = source
    rows, cols = knots
    r0, c0, i0, j0, sr, sc, _, _, cell = place
    for r in range(out.shape[0]):
        i = (r0 + r) // cell - i0
        u = (r0 + r) % cell / cell
        for c in range(out.shape[1]):
            j = (c0 + c) // cell - j0
            v = (c0 + c) % cell / cell
            y = _between(rows, i, j, u, v) - 0.5 - sr
            x = _between(cols, i, j, u, v) - 0.5 - sc
            p, q = int(np.floor(y)), int(np.floor(x))
            if p < 0 or q < 0 or p + 1 >= array.shape[0] or q + 1 >= array.shape[1]:
                continue
            if not (valid[p, q] and valid[p + 1, q] and valid[p, q + 1] and valid[p + 1, q + 1]):
                continue
            a, b = np.float32(y - p), np.float32(x - q)
            top = array[p, q] * (1 - b) + array[p, q + 1] * b
            bottom = array[p + 1, q] * (1 - b) + array[p + 1, q + 1] * b
            out[r, c] = top * (1 - a) + bottom * a
            good[r, c] = True


@numba.njit(cache=True, nogil=True)
def label_edges(classes: Any, ids: Any, out: Any) -> None:
    """Put the number of 4-neighbours with another label into `out` (float32).

    Counted on both sides of a boundary, so that the centre of an edge lies on the boundary whatever
    the pixel size. Nodata (0) has no label: it makes no edge.
    """
    height, width = classes.shape
    for r in range(height):
        for c in range(width):
            if classes[r, c] == 0:
                continue
            for k in range(2):
                y, x = r + 1 - k, c + k
                if y >= height or x >= width or classes[y, x] == 0:
                    continue
                if classes[y, x] != classes[r, c] or ids[y, x] != ids[r, c]:
                    out[r, c] += 1
                    out[y, x] += 1


@numba.njit(cache=True, nogil=True)
def count_changes(
    before: Any, after: Any, row_units: Any, factor: int, codes: Any, sums: Any
) -> None:
    """Count the pairs of classes of a block and write its from-to codes.

    `before`, `after` uint8 (0 = not observed, 255 = void); `row_units` int64: the area of a pixel
    of each row in whole units; `codes` gets from * factor + to, 0 where either is nodata or void;
    `sums` = (pixels, units), int64 (256, 256), are added to: whole numbers, so in any order.
    """
    pixels, units = sums
    for r in range(before.shape[0]):
        unit = row_units[r]
        for c in range(before.shape[1]):
            a, b = before[r, c], after[r, c]
            pixels[a, b] += 1
            units[a, b] += unit
            if a != 0 and b != 0 and a != 255 and b != 255:
                codes[r, c] = a * factor + b
            else:
                codes[r, c] = 0

"""The smallest rotated rectangle around a polygon of pixels, in compiled code."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@numba.njit(cache=True, nogil=True)
def smallest_rectangles(
    coords: Ints, coord_offsets: Longs, frames: Floats, rectangles: Floats
) -> None:
    """Fill `rectangles` (n, 3): length, width, azimuth in degrees from north of the long side.

    Feature i has the vertices ``coords[coord_offsets[i]:coord_offsets[i + 1]]`` (row, col);
    ``frames[i] @ (row, col)`` are metres east and north. One side of the smallest rectangle lies
    on an edge of the convex hull (Freeman and Shapira 1975), and the hull of lattice points is
    that of the outermost two of each row.
    """
    tallest = 0
    for i in range(coord_offsets.size - 1):
        rows = coords[coord_offsets[i] : coord_offsets[i + 1], 0]
        tallest = max(tallest, rows.max() - rows.min() + 1)
    leftmost, rightmost = np.empty(tallest, np.int64), np.empty(tallest, np.int64)
    hull = np.empty((2 * tallest + 2, 2), np.int64)
    east, north = np.empty(len(hull)), np.empty(len(hull))
    for i in range(coord_offsets.size - 1):
        points = coords[coord_offsets[i] : coord_offsets[i + 1]]
        first, last = points[:, 0].min(), points[:, 0].max()
        leftmost[: last - first + 1] = np.iinfo(np.int64).max
        for k in range(len(points)):
            r, c = points[k, 0] - first, np.int64(points[k, 1])
            if leftmost[r] == np.iinfo(np.int64).max:
                leftmost[r] = rightmost[r] = c
            leftmost[r], rightmost[r] = min(leftmost[r], c), max(rightmost[r], c)
        n = 0
        for r in range(last - first + 1):
            if leftmost[r] != np.iinfo(np.int64).max:
                n = _add(hull, 0, n, r, leftmost[r])
        turn = n
        for r in range(last - first, -1, -1):
            if leftmost[r] != np.iinfo(np.int64).max:
                n = _add(hull, turn, n, r, rightmost[r])
        for k in range(n):
            east[k] = frames[i, 0, 0] * hull[k, 0] + frames[i, 0, 1] * hull[k, 1]
            north[k] = frames[i, 1, 0] * hull[k, 0] + frames[i, 1, 1] * hull[k, 1]
        _fit(east[:n], north[:n], rectangles[i])


@numba.njit(cache=True, nogil=True)
def _add(hull: Longs, bottom: int, n: int, row: int, col: int) -> int:
    """Add a point to the chain that begins at place `bottom`; drop those that no longer stand out.

    Left chain downwards and right chain upwards turn the same way, so one test serves both.
    """
    while n >= bottom + 2:
        a, b = hull[n - 2], hull[n - 1]
        if (b[0] - a[0]) * (col - a[1]) - (b[1] - a[1]) * (row - a[0]) > 0:
            break
        n -= 1
    hull[n, 0], hull[n, 1] = row, col
    return n + 1


@numba.njit(cache=True, nogil=True)
def _fit(east: Floats, north: Floats, rectangle: Floats) -> None:
    """Try every edge of a hull as the direction of a side."""
    n, best = east.size, np.inf
    for k in range(n):
        de, dn = east[(k + 1) % n] - east[k], north[(k + 1) % n] - north[k]
        size = np.hypot(de, dn)
        if size == 0:
            continue
        de, dn = de / size, dn / size
        low = side_low = np.inf
        high = side_high = -np.inf
        for j in range(n):
            along = (east[j] - east[k]) * de + (north[j] - north[k]) * dn
            aside = (north[j] - north[k]) * de - (east[j] - east[k]) * dn
            low, high = min(low, along), max(high, along)
            side_low, side_high = min(side_low, aside), max(side_high, aside)
        a, b = high - low, side_high - side_low
        if a * b < best * (1 - 1e-9):  # of equal ones the first, whatever the rounding
            best = a * b
            if a < b:
                a, b, de, dn = b, a, -dn, de
            rectangle[0], rectangle[1] = a, b
            rectangle[2] = np.degrees(np.arctan2(de, dn)) % 180.0
            if rectangle[2] >= 180.0:
                rectangle[2] = 0.0

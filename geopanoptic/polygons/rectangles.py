"""The smallest rotated rectangle around a polygon of pixels, in compiled code."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


def smallest_rectangles(
    coords: Ints, coord_offsets: Longs, frames: Floats
) -> tuple[Floats, Floats, Floats]:
    """Return length, width and azimuth (degrees from north of the long side, 0 <= a < 180).

    Feature i has the vertices ``coords[coord_offsets[i]:coord_offsets[i + 1]]`` (row, col);
    ``frames[i] @ (row, col)`` are metres east and north. One side of the smallest rectangle lies
    on an edge of the convex hull (Freeman and Shapira 1975), and the hull of lattice points is
    that of the outermost two of each row.
    """
    first = np.minimum.reduceat(coords[:, 0], coord_offsets[:-1]).astype(np.int64)
    last = np.maximum.reduceat(coords[:, 0], coord_offsets[:-1]).astype(np.int64)
    tallest = int((last - first).max()) + 1
    scratch = np.empty((2, tallest), np.int64)
    hull = np.empty((2 * tallest + 2, 2), np.int64)
    sides = np.empty((len(first), 4))
    _fit_all(coords, coord_offsets, (first, last), frames, (scratch, hull), sides)
    long_first = sides[:, 0] >= sides[:, 1]
    east = np.where(long_first, sides[:, 2], -sides[:, 3])
    north = np.where(long_first, sides[:, 3], sides[:, 2])
    azimuth = np.degrees(np.arctan2(east, north)) % 180.0
    both = sides[:, :2]
    return both.max(axis=1), both.min(axis=1), np.where(azimuth >= 180.0, 0.0, azimuth)


@numba.njit(cache=True, nogil=True)
def _fit_all(
    coords: Ints,
    coord_offsets: Longs,
    rows: tuple[Longs, Longs],
    frames: Floats,
    space: tuple[Longs, Longs],
    sides: Floats,
) -> None:
    """Fill `sides` (n, 4): the two sides, and the direction (east, north) of the first one.

    `space` is room for the outermost columns of each row and for a hull.
    """
    scratch, hull = space
    for i in range(coord_offsets.size - 1):
        first, last = rows[0][i], rows[1][i]
        for r in range(last - first + 1):
            scratch[0, r], scratch[1, r] = 1, 0  # no vertex in this row
        for k in range(coord_offsets[i], coord_offsets[i + 1]):
            r, c = coords[k, 0] - first, coords[k, 1]
            if scratch[0, r] > scratch[1, r]:
                scratch[0, r] = c
                scratch[1, r] = c
            elif c < scratch[0, r]:
                scratch[0, r] = c
            elif c > scratch[1, r]:
                scratch[1, r] = c
        n = 0
        for side in range(2):  # down the left side, then up the right: both turn the same way
            bottom = n
            for k in range(last - first + 1):
                r = k if side == 0 else last - first - k
                if scratch[0, r] > scratch[1, r]:
                    continue
                c = scratch[side, r]
                while n >= bottom + 2 and not _stands_out(hull, n, r, c):
                    n -= 1
                hull[n, 0] = r
                hull[n, 1] = c
                n += 1
        _fit(hull, n, frames[i], sides[i])


@numba.njit(cache=True, nogil=True)
def _stands_out(hull: Longs, n: int, row: int, col: int) -> bool:
    """Tell whether the last point of the hull is still a corner when (row, col) follows it."""
    down, right = hull[n - 1, 0] - hull[n - 2, 0], hull[n - 1, 1] - hull[n - 2, 1]
    ahead: bool = down * (col - hull[n - 2, 1]) - right * (row - hull[n - 2, 0]) > 0
    return ahead


@numba.njit(cache=True, nogil=True)
def _fit(hull: Longs, n: int, frame: Floats, sides: Floats) -> None:
    """Try every edge of a hull as the direction of a side."""
    best = np.inf
    for k in range(n):
        after = k + 1 if k + 1 < n else 0
        down, right = hull[after, 0] - hull[k, 0], hull[after, 1] - hull[k, 1]
        east = frame[0, 0] * down + frame[0, 1] * right
        north = frame[1, 0] * down + frame[1, 1] * right
        size = np.sqrt(east * east + north * north)
        if size == 0:
            continue
        east, north = east / size, north / size
        low = high = aside_low = aside_high = 0.0
        for j in range(n):
            down, right = hull[j, 0] - hull[k, 0], hull[j, 1] - hull[k, 1]
            e = frame[0, 0] * down + frame[0, 1] * right
            m = frame[1, 0] * down + frame[1, 1] * right
            along, aside = e * east + m * north, m * east - e * north
            low, high = min(low, along), max(high, along)
            aside_low, aside_high = min(aside_low, aside), max(aside_high, aside)
        a, b = high - low, aside_high - aside_low
        if a * b < best * (1 - 1e-9):  # of equal ones the first, whatever the rounding
            best = a * b
            sides[0], sides[1], sides[2], sides[3] = a, b, east, north

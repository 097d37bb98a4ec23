"""Cells between wall lines: which building owns which, and which lines are worth their corners.

Wall lines along two axes cut a group of buildings into cells. A cell belongs to whom most of its
pixels do (cell decomposition: Kada and McKinley 2009). So outlines have right angles, neighbours
share their walls to the last bit, and nothing can overlap. A line goes when the pixels that would
change hands are worth less than the corners it costs.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@numba.njit(cache=True, nogil=True)
def paint(coords: Ints, ring_offsets: Longs, value: int, canvas: Ints) -> None:
    """Add `value` to the pixels of one feature in a canvas of differences along rows.

    `coords` are (row, col) on the canvas; the interior lies on the left of each edge, so it is
    entered where an edge runs south. A running sum along rows makes the picture.
    """
    for ring in range(len(ring_offsets) - 1):
        for k in range(ring_offsets[ring], ring_offsets[ring + 1] - 1):
            r, c, r2 = coords[k, 0], coords[k, 1], coords[k + 1, 0]
            for row in range(r, r2):
                canvas[row, c] += value
            for row in range(r2, r):
                canvas[row, c] -= value


@numba.njit(cache=True, nogil=True)
def count_pixels(canvas: Ints, frame: Floats, xs: Floats, ys: Floats, counts: Floats) -> None:
    """Count the pixels of every label in every cell: `counts` (ny + 1, nx + 1, labels + 1).

    ``frame`` (2, 3): (u, v) = frame @ (row, col, 1). Cell (j, i) lies before ``ys[j]`` and
    ``xs[i]``; the outermost ones have no end. Label 0 is what is left of the area of a cell.
    """
    counts[:] = 0.0
    for r in range(canvas.shape[0]):
        value = 0
        for c in range(canvas.shape[1]):
            value += canvas[r, c]
            if value > 0:
                u = frame[0, 0] * (r + 0.5) + frame[0, 1] * (c + 0.5) + frame[0, 2]
                v = frame[1, 0] * (r + 0.5) + frame[1, 1] * (c + 0.5) + frame[1, 2]
                counts[_place(ys, v), _place(xs, u), value] += 1.0
    for j in range(1, len(ys)):
        for i in range(1, len(xs)):
            area = (ys[j] - ys[j - 1]) * (xs[i] - xs[i - 1])
            counts[j, i, 0] = max(0.0, area - counts[j, i, 1:].sum())


@numba.njit(cache=True, nogil=True)
def _place(lines: Floats, at: float) -> int:
    k = 0
    while k < len(lines) and lines[k] <= at:
        k += 1
    return k


@numba.njit(cache=True, nogil=True)
def own_cells(counts: Floats, size: tuple[int, int], owner: Ints) -> float:
    """Give each cell to the label with most of it; return how many pixels are on the wrong side.

    `size` = (rows, cols) of cells in use; the outermost ones belong to nobody.
    """
    wrong = 0.0
    for j in range(size[0]):
        for i in range(size[1]):
            outer = j == 0 or i == 0 or j == size[0] - 1 or i == size[1] - 1
            best, total = 0, counts[j, i, 0]
            for k in range(1, counts.shape[2]):
                total += counts[j, i, k]
                if not outer and counts[j, i, k] > counts[j, i, best]:
                    best = k
            owner[j, i] = best
            wrong += total - counts[j, i, best]
    return wrong


@numba.njit(cache=True, nogil=True)
def count_corners(owner: Ints, size: tuple[int, int]) -> int:
    """Count the lattice points of cells where an outline turns or three owners meet."""
    corners = 0
    for j in range(size[0] - 1):
        for i in range(size[1] - 1):
            a, b, c, d = owner[j, i], owner[j, i + 1], owner[j + 1, i], owner[j + 1, i + 1]
            if not ((a == b and c == d) or (a == c and b == d)):
                corners += 1
    return corners


@numba.njit(cache=True, nogil=True)
def drop_lines(
    counts: Floats, lines: tuple[Floats, Floats], size: tuple[int, int], worth_px: float
) -> tuple[int, int]:
    """Drop wall lines as long as that makes (wrong pixels + `worth_px` x corners) smaller.

    `lines` = (xs, ys) and `counts` are changed in place; `size` = (rows, cols) of cells. Returns
    the new size. Each time the line goes that gains most.
    """
    rows, cols = size
    xs, ys = lines
    spare = np.empty_like(counts)
    owner = np.empty((rows, cols), np.int32)
    now = own_cells(counts, (rows, cols), owner) + worth_px * count_corners(owner, (rows, cols))
    while True:
        best, axis, at = now, -1, 0
        for k in range(cols - 1 if cols > 3 else 0):
            _merge(counts, (rows, cols), (1, k), spare)
            cost = own_cells(spare, (rows, cols - 1), owner)
            cost += worth_px * count_corners(owner, (rows, cols - 1))
            if cost <= best:
                best, axis, at = cost, 1, k
        for k in range(rows - 1 if rows > 3 else 0):
            _merge(counts, (rows, cols), (0, k), spare)
            cost = own_cells(spare, (rows - 1, cols), owner)
            cost += worth_px * count_corners(owner, (rows - 1, cols))
            if cost <= best:
                best, axis, at = cost, 0, k
        if axis < 0:
            return rows, cols
        now = best
        _merge(counts, (rows, cols), (axis, at), spare)
        if axis == 1:
            xs[at : cols - 2] = xs[at + 1 : cols - 1]
            cols -= 1
        else:
            ys[at : rows - 2] = ys[at + 1 : rows - 1]
            rows -= 1
        counts[:rows, :cols] = spare[:rows, :cols]


@numba.njit(cache=True, nogil=True)
def _merge(counts: Floats, size: tuple[int, int], line: tuple[int, int], merged: Floats) -> None:
    """Merge the cells on both sides of a line = (axis, number) of (row, col) lines."""
    axis, at = line
    rows, cols = size[0] - (axis == 0), size[1] - (axis == 1)
    for j in range(rows):
        for i in range(cols):
            y = j + 1 if axis == 0 and j > at else j
            x = i + 1 if axis == 1 and i > at else i
            for k in range(counts.shape[2]):
                merged[j, i, k] = counts[y, x, k]
            if axis == 0 and j == at:
                for k in range(counts.shape[2]):
                    merged[j, i, k] += counts[y + 1, x, k]
            elif axis == 1 and i == at:
                for k in range(counts.shape[2]):
                    merged[j, i, k] += counts[y, x + 1, k]

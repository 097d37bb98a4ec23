"""Simplify outlines arc by arc, so that neighbours keep sharing their edges, block by block.

The boundaries in a block make a graph: its nodes are the corners where three or more regions
meet, or where a boundary touches the line between blocks; its arcs run from node to node. Both
neighbours of an arc, and both layers of a map, see the same arc, and what becomes of it depends
on nothing else but the corners in the same block. So each side simplifies it alone, to the same
vertices, without a halo and without waiting for anybody.

A vertex is removed when the triangle it makes with its two neighbours on the arc is small and
holds no other corner of any boundary, as it was in the raster (Visvalingam and Whyatt 1993; the
triangle test keeps the topology). An arc that had a corner keeps at least one, a loop two, so
that no polygon collapses. Hence outlines never cross, and no gap or overlap arises: take any
order of the arcs, and each removal sweeps a triangle that nothing else reaches into.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Kinds = npt.NDArray[np.uint8]

_HEAVY = 1 << 40
CORNER, NODE = 1, 2  # what stands at a lattice vertex: an end of two straight runs; a fixed point


def simplify_block(padded: Ints, traced: tuple[Ints, Longs], area_px: float) -> tuple[Ints, Longs]:
    """Remove vertices whose triangle is not larger than `area_px` square pixels.

    `padded` and `traced` are what `kernels.trace_block` was given and returned (with `cut`).
    Returns the same two arrays with fewer vertices; a closed ring may begin elsewhere.
    """
    vertices, rings = traced
    if not len(rings):
        return traced
    kinds = _corner_kinds(padded).reshape(-1)
    longest = int(np.diff(rings[:, 0], prepend=0).max()) + 2
    kept = np.empty(len(vertices), np.int32), np.empty(len(rings), np.int64)
    space = np.empty((4, longest), np.int64)
    n = _simplify_rings(traced, kinds, padded.shape[1], 2 * area_px, space, kept)
    fewer = rings.copy()
    fewer[:, 0] = kept[1]
    return kept[0][:n].copy(), fewer


def _corner_kinds(padded: Ints) -> Kinds:
    """Tell of every lattice vertex (by its north-west pixel) what stands there: 0, CORNER, NODE."""
    across = padded[:, 1:] != padded[:, :-1]  # a crack between two pixels of a row
    along = padded[1:] != padded[:-1]
    north, south = across[:-1], across[1:]
    west, east = along[:, :-1], along[:, 1:]
    degree = north.astype(np.uint8) + south + west + east
    straight = (degree == 2) & (north == south)
    kinds = np.zeros(padded.shape, np.uint8)
    inner = kinds[:-1, :-1]
    inner[(degree == 2) & ~straight] = CORNER
    inner[degree > 2] = NODE
    for line in (inner[0], inner[-1], inner[:, 0], inner[:, -1]):
        line[:] = NODE  # the seam itself: nothing may come to lie on it or across it
    return kinds


@numba.njit(cache=True, nogil=True)
def _simplify_rings(
    traced: tuple[Ints, Longs],
    kinds: Kinds,
    stride: int,
    most: float,
    space: Longs,
    kept: tuple[Ints, Longs],
) -> int:
    """Simplify every ring; fill `kept` = (vertices, stop of each ring), return their number.

    `most` is twice the area of the largest triangle that goes; `space` is room for an arc.
    """
    vertices, rings = traced
    arc = space[0]
    n, begin = 0, 0
    for i in range(len(rings)):
        stop = rings[i, 0]
        closed = rings[i, 3] < 0
        turn, length = 0, stop - begin
        if closed:  # begin at a node, else at the least vertex, which both sides find
            length -= 1
            turn = _anchor(vertices, begin, length, kinds)
            arc[0] = vertices[begin + turn]
            kept[0][n] = arc[0]
            n += 1
        else:
            arc[0] = rings[i, 2] >> 2
        last = vertices[begin + turn] if closed else vertices[stop - 1]
        m = 1
        for k in range(length):
            at = (turn + 1 + k) % length if closed else k
            vertex = vertices[begin + at]
            arc[m] = vertex
            m += 1
            if kinds[vertex] == NODE or vertex == last:
                n = _simplify_arc(space, m, kinds, (stride, most), kept[0], n)
                arc[0] = vertex
                m = 1
        kept[1][i] = n
        begin = stop
    return n


@numba.njit(cache=True, nogil=True)
def _anchor(vertices: Ints, begin: int, length: int, kinds: Kinds) -> int:
    least = 0
    for k in range(length):
        if kinds[vertices[begin + k]] == NODE:
            return k
        if vertices[begin + k] < vertices[begin + least]:
            least = k
    return least


@numba.njit(cache=True, nogil=True)
def _simplify_arc(
    space: Longs, m: int, kinds: Kinds, rule: tuple[int, float], kept: Ints, n: int
) -> int:
    """Simplify the arc ``space[0, :m]`` from node to node; put all but its first vertex in `kept`.

    Sweep by sweep, vertices whose triangle is smaller than those of both their neighbours go.
    The arc is always worked on from the same end, whichever side asks.
    """
    arc, before, after, weight = space[0], space[1], space[2], space[3]
    loop = arc[0] == arc[m - 1]
    flip = _lay(space, m, rule)
    left, least = m - 2, 2 if loop else 1
    again = left > least
    while again:
        again = False
        k = after[0]
        while k != m - 1 and left > least:
            p, q = before[k], after[k]
            if weight[k] < weight[p] and weight[k] <= weight[q]:
                again = True
                if _is_free(kinds, rule[0], arc[p], arc[k], arc[q]):
                    after[p], before[q] = q, p
                    kinds[arc[k]] = 0
                    left -= 1
                    if p > 0:
                        weight[p] = _weight(arc, (before[p], p, q), rule)
                    if q < m - 1:
                        weight[q] = _weight(arc, (p, q, after[q]), rule)
                else:
                    weight[k] = _HEAVY
            k = q
    for k in range(1, m - 1):
        kinds[arc[k]] = CORNER  # for the arcs to come, all corners are there as in the raster
    k = before[m - 1] if flip else after[0]
    while 0 <= k < m:
        kept[n] = arc[k]
        n += 1
        k = before[k] if flip else after[k]
    return n


@numba.njit(cache=True, nogil=True)
def _lay(space: Longs, m: int, rule: tuple[int, float]) -> bool:
    """Link and weigh the vertices of an arc; turn it to its canonical end first, and tell so."""
    arc, before, after, weight = space[0], space[1], space[2], space[3]
    flip: bool = arc[m - 1] < arc[0] or (arc[0] == arc[m - 1] and arc[m - 2] < arc[1])
    if flip:
        for k in range(m // 2):
            arc[k], arc[m - 1 - k] = arc[m - 1 - k], arc[k]
    for k in range(m):
        before[k], after[k], weight[k] = k - 1, k + 1, _HEAVY
    for k in range(1, m - 1):
        weight[k] = _weight(arc, (k - 1, k, k + 1), rule)
    return flip


@numba.njit(cache=True, nogil=True)
def _weight(arc: Longs, three: tuple[int, int, int], rule: tuple[int, float]) -> int:
    """Return twice the area of a triangle of the arc; _HEAVY when it is too large to go."""
    stride, most = rule
    a, b, c = arc[three[0]], arc[three[1]], arc[three[2]]
    row, col = a // stride, a % stride
    doubled = abs(
        (b // stride - row) * (c % stride - col) - (b % stride - col) * (c // stride - row)
    )
    return doubled if doubled <= most else _HEAVY


@numba.njit(cache=True, nogil=True)
def _is_free(kinds: Kinds, stride: int, a: int, b: int, c: int) -> bool:
    """Tell whether no other corner lies in or on the triangle of three vertices."""
    rows = (a // stride, b // stride, c // stride)
    cols = (a % stride, b % stride, c % stride)
    for r in range(min(rows), max(rows) + 1):
        low, high = float(stride), -1.0
        for i in range(3):
            j = (i + 1) % 3
            if min(rows[i], rows[j]) <= r <= max(rows[i], rows[j]):
                if rows[i] == rows[j]:
                    low = min(low, cols[i], cols[j])
                    high = max(high, cols[i], cols[j])
                else:
                    x = cols[i] + (r - rows[i]) * (cols[j] - cols[i]) / (rows[j] - rows[i])
                    low, high = min(low, x), max(high, x)
        # columns are fractions with denominators far below 1e6, so rounding cannot hide one
        for col in range(int(np.ceil(low - 1e-6)), int(np.floor(high + 1e-6)) + 1):
            here = r * stride + col
            if kinds[here] != 0 and here not in (a, b, c):
                return False
    return True

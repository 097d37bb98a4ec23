"""Which buildings share a wall and are to be straightened together."""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt
import shapely

from geopanoptic.polygons.batch import PolygonBatch

Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Geometries = npt.NDArray[np.object_]

_ALIKE_DEG = 4.0  # directions of members of a group differ by less,
_ROW_DEG = 15.0  # or by less than this where they share a long wall: row houses
_ROW_SHARE = 0.5  # of the smaller one's square root of area makes a wall long
_NEAR_PX = 2.5


def shared_walls(batch: PolygonBatch) -> tuple[Longs, Longs, Floats]:
    """Return pairs of features (a < b) with a common outline, and its length in pixels.

    Both sides of a wall have the same vertices (a node stands wherever the neighbour changes), so
    a common edge is found twice, once each way round.
    """
    vertex = np.ones(len(batch.coords), bool)
    vertex[batch.ring_offsets[1:] - 1] = False  # the repeated last one starts no edge
    begin = np.flatnonzero(vertex)
    low = np.minimum(batch.coords[begin], batch.coords[begin + 1]).astype(np.int64)
    step = np.abs(batch.coords[begin + 1] - batch.coords[begin])
    width = int(batch.coords[:, 1].max(initial=0)) + 1
    key = 2 * (low[:, 0] * width + low[:, 1]) + (step[:, 1] > 0)  # an edge is named by its start
    length = step.sum(axis=1)
    owner = np.repeat(np.arange(len(batch)), np.diff(batch.coord_offsets))[begin]
    order = np.argsort(key)
    key = key[order]
    twin = np.flatnonzero(key[1:] == key[:-1])
    one, other = owner[order[twin]], owner[order[twin + 1]]
    a, b = np.minimum(one, other), np.maximum(one, other)
    pairs, which = np.unique(a * len(batch) + b, return_inverse=True)
    total = np.bincount(which, length[order[twin]].astype(float), minlength=len(pairs))
    n = max(len(batch), 1)
    return pairs // n, pairs % n, total.astype(float)


def group_neighbours(
    batch: PolygonBatch, plain: Geometries, votes: Floats, most: int
) -> tuple[Longs, Longs]:
    """Group features that share a wall, or nearly, and stand alike: (members, offsets).

    `plain` are the outlines in pixels. The longest walls come first, then those a passage of less
    than `_NEAR_PX` apart; a group has at most `most` members.
    """
    a, b, length = shared_walls(batch)
    near = shapely.STRtree(plain).query(plain, predicate="dwithin", distance=_NEAR_PX)
    near = near[:, near[0] < near[1]]
    a, b = np.append(a, near[0]), np.append(b, near[1])
    length = np.append(length, np.zeros(near.shape[1]))
    order = np.lexsort((b, a, -length))
    root = np.arange(len(batch))
    size = np.ones(len(batch), np.int64)
    side = np.sqrt(batch.area_px)
    row = length >= _ROW_SHARE * np.minimum(side[a], side[b])
    alike = np.cos(np.radians(4 * np.where(row, _ROW_DEG, _ALIKE_DEG)))
    _unite((a[order], b[order], alike[order]), (root, size), votes.copy(), most)
    for k in range(len(root)):  # roots are always smaller
        root[k] = root[root[k]]
    member = np.argsort(root, kind="stable")
    _, first = np.unique(root[member], return_index=True)
    return member, np.append(first, len(root))


@numba.njit(cache=True, nogil=True)
def _unite(
    pairs: tuple[Longs, Longs, Floats], sets: tuple[Longs, Longs], votes: Floats, most: int
) -> None:
    """Unite the pairs (a, b, least cosine between their votes), one after the other, in place."""
    a, b, alike = pairs
    root, size = sets
    for k in range(len(a)):
        x, y = a[k], b[k]
        while root[x] != x:
            x = root[x]
        while root[y] != y:
            y = root[y]
        if x == y or size[x] + size[y] > most:
            continue
        dot = votes[x, 0] * votes[y, 0] + votes[x, 1] * votes[y, 1]
        norm = np.hypot(votes[x, 0], votes[x, 1]) * np.hypot(votes[y, 0], votes[y, 1])
        if dot < alike[k] * norm:
            continue
        x, y = min(x, y), max(x, y)
        root[y] = x
        size[x] += size[y]
        votes[x] += votes[y]

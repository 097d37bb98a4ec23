"""Rings between the walk and the polygon: sorted, joined across seams, nested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from geopanoptic.polygons.batch import PolygonBatch, ranges

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]

NEVER = np.iinfo(np.int64).max


@dataclass(frozen=True, slots=True)
class Rings:
    """Closed rings and chains (open pieces of rings) of some parts, with vertices row, col.

    Per ring: `length` in vertices, `group` (the feature it goes into), `part` (the 4-connected
    part it bounds), `label`, `start` and `end`. `end` is -1 for a closed ring. A chain's `start`
    and `end` name its first edge and the first edge after it, so the chain that starts with the
    `end` of this one follows it. `first` is the corner (`corner_key`) where the first southward
    edge in scan order begins (NEVER without one): it orders rings as a scan would meet them.
    """

    coords: Ints
    length: Longs
    group: Longs
    part: Longs
    label: Ints
    first: Longs
    start: Longs
    end: Longs
    touches: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.length)

    def take(self, rows: npt.NDArray[np.intp]) -> Rings:
        """Return the rings picked by an index array, in its order."""
        columns = {f.name: getattr(self, f.name)[rows] for f in fields(self) if f.name != "coords"}
        begin = np.cumsum(self.length) - self.length
        return Rings(self.coords[ranges(begin[rows], columns["length"])], **columns)

    @classmethod
    def concatenate(cls, pieces: Sequence[Rings]) -> Rings:
        return cls(*(np.concatenate([getattr(p, f.name) for p in pieces]) for f in fields(cls)))

    def split_by_group(self) -> list[tuple[int, Rings]]:
        """Return (group, its rings) for every group."""
        order = np.argsort(self.group, kind="stable")
        rings = self.take(order)
        groups, at = np.unique(rings.group, return_index=True)
        stops = np.append(at, len(rings))[1:]
        offsets = np.append(0, np.cumsum(rings.length))
        out = []
        for group, a, b in zip(groups.tolist(), at.tolist(), stops.tolist(), strict=True):
            columns = [getattr(rings, f.name)[a:b] for f in fields(self)[1:]]
            out.append((group, Rings(rings.coords[offsets[a] : offsets[b]], *columns)))
        return out


def close(rings: Rings, scene_width: int) -> Rings:
    """Join all chains end to start into closed rings; rings that were closed stay as they are.

    A joined ring begins, like one traced in a single block, with the tail of its first
    southward edge in scan order (if simplification left that corner). Every chain must have its
    follower among `rings`.
    """
    is_chain = rings.end >= 0
    if not is_chain.any():
        return rings
    chains, whole = rings.take(np.flatnonzero(is_chain)), rings.take(np.flatnonzero(~is_chain))
    order = np.argsort(chains.start)
    at = np.searchsorted(chains.start[order], chains.end)
    assert (chains.start[order][np.minimum(at, len(order) - 1)] == chains.end).all(), "lost chain"
    sequence, lengths = _cycles(order[at])
    laid = chains.take(sequence)
    ring = np.repeat(np.arange(len(lengths)), lengths)
    first = np.cumsum(lengths) - lengths
    touches = np.zeros(len(lengths), bool)
    np.logical_or.at(touches, ring, laid.touches)
    n = np.add.reduceat(laid.length, first)
    met = np.minimum.reduceat(laid.first, first)
    coords = _rotate(laid.coords, n, corner_key(laid.coords, scene_width) == np.repeat(met, n))
    none = np.full(len(n), -1, np.int64)
    one = laid.take(first)
    joined = Rings(coords, n + 1, one.group, one.part, one.label, met, none, none, touches)
    return Rings.concatenate([whole, joined])


def _cycles(follower: Longs) -> tuple[npt.NDArray[np.intp], Longs]:
    """Return the cycles of a permutation laid one after the other, and their lengths."""
    following, seen = follower.tolist(), bytearray(len(follower))
    sequence: list[int] = []
    lengths: list[int] = []
    for i in range(len(following)):
        if seen[i]:
            continue
        k, before = i, len(sequence)
        while not seen[k]:
            seen[k] = 1
            sequence.append(k)
            k = following[k]
        lengths.append(len(sequence) - before)
    return np.array(sequence, np.intp), np.array(lengths, np.int64)


def _rotate(coords: Ints, n: Longs, is_start: npt.NDArray[np.bool_]) -> Ints:
    """Turn rings (`n` vertices each, not yet closed) to their start, if they have one; close them.

    A ring passes each corner once, so at most one vertex of each can be its start.
    """
    first = np.cumsum(n) - n
    at = np.zeros(len(n), np.int64)
    here = np.flatnonzero(is_start)
    ring = np.searchsorted(first, here, side="right") - 1
    at[ring] = here - first[ring]
    turn = ranges(at, n + 1) % np.repeat(n, n + 1)
    return coords[np.repeat(first, n + 1) + turn]


def corner_key(coords: Ints, scene_width: int) -> Longs:
    """Return a number for each lattice corner, in scan order."""
    return coords[:, 0].astype(np.int64) * (scene_width + 1) + coords[:, 1]


def assemble(rings: Rings, area_px: tuple[Longs, Longs], scene_width: int) -> PolygonBatch:
    """Nest closed rings into features: by group, its parts and rings as a scan meets them.

    `area_px` = (sorted groups, their pixels). The first ring a scan meets of a part is its
    outer one, the rest are holes: no test of points in polygons is needed.
    """
    parts, of_part = np.unique(rings.part, return_inverse=True)
    met = np.full(len(parts), NEVER)
    np.minimum.at(met, of_part, rings.first)
    rings = rings.take(np.lexsort((rings.first, met[of_part], rings.group)))
    new_group = np.append(True, rings.group[1:] != rings.group[:-1])
    new_part = new_group | np.append(True, rings.part[1:] != rings.part[:-1])
    n = len(rings)
    first_ring = np.flatnonzero(new_group)
    outer = np.flatnonzero(new_part)
    ring_offsets = np.append(0, np.cumsum(rings.length))
    row, col = np.divmod(rings.first[first_ring], scene_width + 1)
    groups = rings.group[first_ring]
    return PolygonBatch(
        labels=rings.label[first_ring],
        coords=rings.coords,
        ring_offsets=ring_offsets,
        polygon_offsets=np.append(outer, n),
        multi_offsets=np.append(np.searchsorted(outer, first_ring), len(outer)),
        area_px=area_px[1][np.searchsorted(area_px[0], groups)],
        first_px=row * scene_width + col,
        touches_edge=np.logical_or.reduceat(rings.touches, first_ring),
    )

"""Trace the outlines of a label raster block by block: exact, whole, whatever the block grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from geopanoptic.grid import Shape, TileGrid, Window
from geopanoptic.polygons import kernels
from geopanoptic.polygons.batch import PolygonBatch
from geopanoptic.polygons.rings import NEVER, Rings, assemble, close
from geopanoptic.polygons.seams import Block, BlockReader, Group, Seams
from geopanoptic.polygons.simplifying import simplify_block

Longs = npt.NDArray[np.int64]


def trace(
    blocks: BlockReader,
    shape: Shape,
    block: int,
    *,
    group: Group,
    simplify_px: Callable[[Window], float] | None = None,
) -> Iterator[PolygonBatch]:
    """Trace every positive label of a raster of `shape` = (rows, cols) into polygons.

    `blocks(window)` returns the int32 labels of a window, None where all are 0; it is called for
    each block of `block` x `block` pixels, one after the other, and once more for those that are
    not empty, from the thread that takes the results. With
    `group` 'id' a feature is a label (its parts in one MultiPolygon), with 'part' a 4-connected
    part. Labels of 0 or below are not traced; still, a negative label is a neighbour of its own,
    so outlines get a vertex where their neighbour changes from one to another (see
    `thing_labels`), and 0 means nothing, so what lies beside it `touches_edge`.

    Features come out as soon as all of their blocks are done, each exactly once, so memory is
    bounded by one block, the seams and the features that are still open.

    `simplify_px(window)` is the largest area, in square pixels, of a triangle that
    simplification may cut off in that block (see `simplifying`); the layers of one map must be
    traced with the same blocks and areas to fit together afterwards. Outlines are then no longer
    exact, and are pinned where they cross from block to block.

    Laws, without simplification: the pixels whose centres lie in a feature are exactly its own;
    the features are the same, vertex by vertex, for every block size. With it or without: the
    features are valid and together a valid coverage, because a vertex stands wherever three
    regions meet.
    """
    grid = TileGrid(shape, block, 0)
    seams = Seams.survey(blocks, grid, group)
    waiting = _Waiting(seams)
    for tile in grid:
        if seams.is_empty(tile.index):
            continue
        part = Block.read(blocks, tile.core)
        roots = seams.put_rim(tile.index, part)
        traced = kernels.trace_block(part.padded, cut=simplify_px is not None)
        if simplify_px is not None:
            traced = simplify_block(part.padded, traced, simplify_px(tile.core))
        rings, areas = _name(seams, part, roots, traced)
        yield from waiting.add(rings, areas)
    assert not waiting.rings, f"{len(waiting.rings)} features never closed"


def _name(
    seams: Seams, block: Block, roots: Longs, traced: tuple[npt.NDArray[np.int32], Longs]
) -> tuple[Rings, tuple[Longs, Longs]]:
    """Give traced rings scene-wide coordinates and names; return the pixels of each group too."""
    vertices, table = traced
    window, stride = block.window, block.window.width + 2
    scene_width = seams.grid.shape[1]
    coords = np.empty((len(vertices), 2), np.int32)
    coords[:, 0], coords[:, 1] = np.divmod(vertices, np.int32(stride))
    coords += np.array([window.row, window.col], np.int32)
    # Parts that touch no border are named below all roots, differently in every block.
    index = seams.grid.index_at(window.row, window.col)
    inside = -1 - index * seams.grid.core**2 - np.arange(len(roots))
    part = np.where(roots >= 0, roots, inside)
    group = block.label.astype(np.int64) if seams.group == "id" else part
    mine = table[:, 1]

    def scene_wide(vertex: Longs) -> Longs:
        r, c = np.divmod(vertex, stride)
        return (r + window.row) * (scene_width + 1) + c + window.col

    first, start, end = table[:, 5], table[:, 2], table[:, 3]
    rings = Rings(
        coords,
        np.diff(table[:, 0], prepend=0),
        group[mine],
        part[mine],
        block.label[mine],
        np.where(first < block.padded.size, scene_wide(first), NEVER),
        scene_wide(start >> 2) * 4 + (start & 3),
        np.where(end < 0, -1, scene_wide(end >> 2) * 4 + (end & 3)),
        table[:, 4] > 0,
    )
    groups, of_group = np.unique(group[1:], return_inverse=True)
    areas = np.zeros(len(groups), np.int64)
    np.add.at(areas, of_group, block.area[1:])
    return rings, (groups, areas)


@dataclass(slots=True)
class _Waiting:
    """Features that live in several blocks, until the last of them has been traced."""

    seams: Seams
    rings: dict[int, list[Rings]] = field(default_factory=dict)
    left: Longs = field(init=False)
    area: Longs = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.seams.open_blocks.copy()
        self.area = np.zeros(len(self.left), np.int64)

    def add(self, rings: Rings, areas: tuple[Longs, Longs]) -> Iterator[PolygonBatch]:
        """Take the rings of one block; yield the features that are complete now."""
        width = self.seams.grid.shape[1]
        open_groups = self.seams.open_groups
        is_open = np.isin(rings.group, open_groups)
        done = np.flatnonzero(~is_open)
        if len(done):
            yield assemble(rings.take(done), areas, width)
        if not len(open_groups):
            return
        for name, pieces in rings.take(np.flatnonzero(is_open)).split_by_group():
            self.rings.setdefault(name, []).append(pieces)
        here = np.isin(areas[0], open_groups)
        at = np.searchsorted(open_groups, areas[0][here])
        self.area[at] += areas[1][here]
        self.left[at] -= 1
        last = at[self.left[at] == 0]
        if len(last):
            ended = [p for name in open_groups[last].tolist() for p in self.rings.pop(name)]
            closed = close(Rings.concatenate(ended), width)
            yield assemble(closed, (open_groups[last], self.area[last]), width)

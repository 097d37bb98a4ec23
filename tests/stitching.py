"""Run the stitcher over a whole scene in memory, in any order, for tests and benchmarks."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geopanoptic.grid import Tile, TileGrid
from geopanoptic.segments import PanopticTile
from geopanoptic.stitch import (
    NodeTable,
    Resolution,
    SeamTable,
    TileLabels,
    assemble_core,
    label_tile,
    match_seam,
    number,
    resolve,
)

THRESHOLD = 0.25


@dataclass(frozen=True)
class Stitched:
    """The result of one scene: `gid` (scene shape), final `ids` (scene shape), and the tables."""

    gid: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int32]
    class_id: npt.NDArray[np.uint8]
    tiles: dict[int, TileLabels]
    nodes: NodeTable
    seams: SeamTable
    resolution: Resolution


def stitch(
    predict: Callable[[Tile], PanopticTile],
    grid: TileGrid,
    order: Sequence[int] | None = None,
    threshold: float = THRESHOLD,
) -> Stitched:
    """Segment, match, resolve, assemble and number; tiles and seams are met in `order`."""
    order = range(len(grid)) if order is None else order
    tiles = {k: label_tile(predict(grid.tile(k)), grid.shape) for k in order}
    return stitch_tiles(tiles, grid, threshold)


def stitch_tiles(
    tiles: dict[int, TileLabels], grid: TileGrid, threshold: float = THRESHOLD
) -> Stitched:
    """Stitch ready tile products; a tile that is not in `tiles` was skipped or failed."""
    seams = [
        match_seam(tiles[a], tiles[b], threshold)
        for a in tiles
        for b in grid.forward_neighbours(a)
        if b in tiles
    ]
    nodes = NodeTable.concatenate([t.nodes for t in tiles.values()])
    table = SeamTable.concatenate(seams)
    with warnings.catch_warnings():
        if grid.halo == 0:
            warnings.simplefilter("ignore", UserWarning)
        resolution = resolve(nodes, table, grid)
    gid = np.zeros(grid.shape, np.int64)
    for k in tiles:
        tile = grid.tile(k)
        views = {
            n: (tiles[n].tile.window, tiles[n].labels)
            for n in (k, *grid.neighbours(k))
            if n in tiles
        }
        gid[tile.core.slices] = assemble_core(tile, views, resolution)
    found, area = np.unique(gid[gid > 0], return_counts=True)
    lut = np.zeros(len(resolution.segments) + 1, np.int32)
    lut[found] = number(found, area)
    class_id = np.concatenate([[0], resolution.segments.class_id]).astype(np.uint8)[gid]
    return Stitched(gid, lut[gid], class_id, tiles, nodes, table, resolution)


def same_partition(a: npt.NDArray[np.integer], b: npt.NDArray[np.integer]) -> bool:
    """Tell whether two label arrays are equal up to renaming, with 0 kept."""
    if not np.array_equal(a == 0, b == 0):
        return False
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(pairs[1]))

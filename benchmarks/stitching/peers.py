"""Rules of peers for joining tiles, written here from their descriptions, to compare with ours.

Every rule takes the same tile products and returns ids over the scene; 0 = none. None of the
peers' code is used; the sources that describe each rule are named at it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from scipy.ndimage import label as scipy_label
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from geopanoptic.contingency import Contingency
from geopanoptic.grid import TileGrid
from geopanoptic.stitch import NodeTable, TileLabels

Tiles = Mapping[int, TileLabels]
Ids = npt.NDArray[np.int64]
Rule = Callable[[Tiles, TileGrid], Ids]


class Numbered:
    """All nodes of a scene numbered from 1 on, in tile order."""

    def __init__(self, tiles: Tiles) -> None:
        self.order = sorted(tiles)
        self.nodes = NodeTable.concatenate([tiles[k].nodes for k in self.order])
        counts = [len(tiles[k].nodes) for k in self.order]
        self.offset = dict(zip(self.order, np.cumsum([0, *counts[:-1]]), strict=True))
        self.n = sum(counts)
        self.tiles = tiles

    def of(self, k: int) -> Ids:
        """Return a tile's labels with their numbers in the scene."""
        labels = self.tiles[k].labels.astype(np.int64)
        return np.where(labels > 0, labels + self.offset[k], 0)

    @property
    def score(self) -> npt.NDArray[np.float64]:
        return self.nodes.score_sum / np.maximum(self.nodes.scored_px, 1)


def crop_cores(numbered: Numbered, grid: TileGrid) -> Ids:
    """Paint every core from its own tile."""
    out = np.zeros(grid.shape, np.int64)
    for k in numbered.order:
        tile = grid.tile(k)
        out[tile.core.slices] = numbered.of(k)[tile.core.within(tile.window).slices]
    return out


def united(n: int, edges: list[npt.NDArray[Any]]) -> Ids:
    """Return the component number (from 1 on) of numbers 0..n; 0 stays 0."""
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *edges]).astype(np.int64)
    ones = np.ones(len(pairs), np.int8)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(n + 1, n + 1))
    component = connected_components(graph, directed=False)[1].astype(np.int64) + 1
    component[0] = 0
    return component


def none(tiles: Tiles, grid: TileGrid) -> Ids:
    """Crop to the cores and paste (samgeo `generate_masks_tiled`, rslearn vectors): no joining."""
    return crop_cores(Numbered(tiles), grid)


def connected(tiles: Tiles, grid: TileGrid) -> Ids:
    """Crop to the cores, forget instances, label connected pixels of a class (FTW, Raster Vision,
    GeoDeep)."""
    numbered = Numbered(tiles)
    cores = crop_cores(numbered, grid)
    class_of = np.concatenate([[0], numbered.nodes.class_id])[cores]
    out, top = np.zeros(grid.shape, np.int64), 0
    for c in np.unique(class_of[class_of > 0]):
        labels, n = scipy_label(class_of == c)
        out[labels > 0] = labels[labels > 0] + top
        top += n
    return out


def iou_union(threshold: float) -> Rule:
    """Union of labels whose IoU in the shared strip reaches a threshold (ngio, dask-image #409)."""

    def rule(tiles: Tiles, grid: TileGrid) -> Ids:
        numbered, edges = Numbered(tiles), []
        for a in numbered.order:
            for b in grid.forward_neighbours(a):
                strip = grid.tile(a).window & grid.tile(b).window
                if b not in tiles or strip.is_empty:
                    continue
                sides = [numbered.of(k)[strip.within(grid.tile(k).window).slices] for k in (a, b)]
                table = Contingency.of(*sides)
                good = (table.a > 0) & (table.b > 0) & (table.iou() >= threshold)
                edges.append(np.stack([table.a[good], table.b[good]], axis=1))
        return united(numbered.n, edges)[crop_cores(numbered, grid)]

    return rule


def _facing_lines(cores: Ids, grid: TileGrid):
    """Yield the two lines of pixels on both sides of every seam between side neighbours."""
    for tile in grid:
        core = tile.core
        if core.col_stop < grid.shape[1]:
            rows = slice(core.row, core.row_stop)
            yield cores[rows, core.col_stop - 1], cores[rows, core.col_stop]
        if core.row_stop < grid.shape[0]:
            cols = slice(core.col, core.col_stop)
            yield cores[core.row_stop - 1, cols], cores[core.row_stop, cols]


def touch(tiles: Tiles, grid: TileGrid) -> Ids:
    """Union of whatever touches across a seam, halo trimmed (patchworks, funlib, dask-image)."""
    numbered = Numbered(tiles)
    cores = crop_cores(numbered, grid)
    edges = []
    for one, two in _facing_lines(cores, grid):
        both = (one > 0) & (two > 0)
        edges.append(np.unique(np.stack([one[both], two[both]], axis=1), axis=0))
    return united(numbered.n, edges)[cores]


def shrink_touch(tiles: Tiles, grid: TileGrid) -> Ids:
    """As touch, but every label first loses its end pixels on the seam's lines (cellpose)."""
    numbered = Numbered(tiles)
    cores = crop_cores(numbered, grid)
    edges = []
    for pair in _facing_lines(cores, grid):
        shrunk = []
        for line in pair:
            inner = line.copy()
            change = line[1:] != line[:-1]
            inner[1:][change] = 0
            inner[:-1][change] = 0
            shrunk.append(inner)
        both = (shrunk[0] > 0) & (shrunk[1] > 0)
        edges.append(np.unique(np.stack([s[both] for s in shrunk], axis=1), axis=0))
    return united(numbered.n, edges)[cores]


def _paint(numbered: Numbered, grid: TileGrid, keep: npt.NDArray[np.bool_], name: Ids) -> Ids:
    """Paint kept nodes in full under their `name`, best score first where they overlap."""
    out = np.zeros(grid.shape, np.int64)
    best = np.full(grid.shape, -1.0, np.float32)
    score = np.concatenate([[-1.0], numbered.score]).astype(np.float32)
    kept = np.concatenate([[False], keep])
    for k in numbered.order:
        ids, where = numbered.of(k), grid.tile(k).window.slices
        wins = kept[ids] & (score[ids] > best[where])
        out[where] = np.where(wins, name[ids], out[where])
        best[where] = np.where(wins, score[ids], best[where])
    return out


def centroid_owner(tiles: Tiles, grid: TileGrid) -> Ids:
    """Keep an object in the tile whose core holds its centre, paint it whole (stardist)."""
    numbered = Numbered(tiles)
    nodes = numbered.nodes
    keep = np.zeros(numbered.n, bool)
    centre = (nodes.bbox[:, :2] + nodes.bbox[:, 2:]) // 2
    for row, (k, (r, c)) in enumerate(zip(nodes.tile, centre, strict=True)):
        keep[row] = grid.index_at(int(r), int(c)) == k
    return _paint(numbered, grid, keep, np.arange(numbered.n + 1))


def _box_pairs(numbered: Numbered) -> tuple[Ids, Ids, Any, Any]:
    """Return pairs (i, j) of nodes of one class whose boxes meet: intersection and both areas."""
    box = numbered.nodes.bbox.astype(np.float64)
    shapes = shapely.box(box[:, 1], box[:, 0], box[:, 3], box[:, 2])
    i, j = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    same = (i != j) & (numbered.nodes.class_id[i] == numbered.nodes.class_id[j])
    i, j = i[same], j[same]
    high = np.minimum(box[i, 2], box[j, 2]) - np.maximum(box[i, 0], box[j, 0])
    wide = np.minimum(box[i, 3], box[j, 3]) - np.maximum(box[i, 1], box[j, 1])
    area = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])
    return i, j, np.maximum(high, 0) * np.maximum(wide, 0), area


def _partners(i: Ids, j: Ids, good: npt.NDArray[np.bool_], n: int) -> list[Ids]:
    i, j = i[good], j[good]
    order = np.argsort(i, kind="stable")
    return np.split(j[order], np.searchsorted(i[order], np.arange(1, n)))


def box_nms(tiles: Tiles, grid: TileGrid) -> Ids:
    """Drop what overlaps a better-scored box by IoU > 0.3, paint the rest (geoai, DeepForest)."""
    numbered = Numbered(tiles)
    if numbered.n == 0:
        return np.zeros(grid.shape, np.int64)
    i, j, shared, area = _box_pairs(numbered)
    rivals = _partners(i, j, shared / (area[i] + area[j] - shared) > 0.3, numbered.n)
    keep = np.ones(numbered.n, bool)
    for k in np.argsort(-numbered.score, kind="stable"):
        if keep[k]:
            keep[rivals[k]] = False
    return _paint(numbered, grid, keep, np.arange(numbered.n + 1))


def greedy_nmm(tiles: Tiles, grid: TileGrid) -> Ids:
    """Merge into the best-scored box what overlaps it by half of the smaller (SAHI)."""
    numbered = Numbered(tiles)
    if numbered.n == 0:
        return np.zeros(grid.shape, np.int64)
    i, j, shared, area = _box_pairs(numbered)
    rivals = _partners(i, j, shared / np.minimum(area[i], area[j]) > 0.5, numbered.n)
    name = np.zeros(numbered.n + 1, np.int64)
    for k in np.argsort(-numbered.score, kind="stable"):
        if name[k + 1] == 0:
            name[k + 1] = k + 1
            free = rivals[k][name[rivals[k] + 1] == 0]
            name[free + 1] = k + 1
    return _paint(numbered, grid, np.ones(numbered.n, bool), name)


PEERS: dict[str, Rule] = {
    "none (core crop)": none,
    "centre crop + connected components": connected,
    "IoU union 0.5": iou_union(0.5),
    "IoU union 0.3": iou_union(0.3),
    "touch": touch,
    "shrink and touch": shrink_touch,
    "centroid ownership": centroid_owner,
    "box NMS": box_nms,
    "greedy NMM": greedy_nmm,
}

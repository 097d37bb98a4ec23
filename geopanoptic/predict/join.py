"""Stages 2 to 4: compare tiles at their seams, resolve ids over the scene, assemble the cores.

Seam and core work runs on workers and leaves parts; only `resolve_ids` and `number_ids` run in
the coordinator, on tables of segments, never on pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.grid import Tile, Window
from geopanoptic.predict.plan import Plan
from geopanoptic.predict.tables import pack, unpack
from geopanoptic.segments import SCORE_NONE, SegmentTable
from geopanoptic.stitch import (
    NodeTable,
    Resolution,
    SeamCounts,
    SeamTable,
    TileLabels,
    assemble_core,
    match_seam,
    measure_core,
    resolve,
)
from geopanoptic.store import JobRef, Packed, pack_array

Array = npt.NDArray[Any]


@lru_cache(maxsize=8)
def _nodes(job: JobRef, region: int) -> tuple[NodeTable, frozenset[int]]:
    """Return the nodes of a region's part and its tiles; cached, for neighbours ask again."""
    store = job.parts("infer")
    names = [f"nodes.{name}" for name in NodeTable.__dataclass_fields__]
    part = store.get(region, names)
    return unpack(NodeTable, part.arrays, "nodes"), frozenset(part.meta["tiles"]) - frozenset(
        int(t) for t in part.meta["failed"]
    )


class _Labels:
    """Tile labels read from the parts on demand; keeps those of three rows of a region's tiles.

    Regions are walked row by row: a tile's neighbours lie in its own row and those beside it.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.store = plan.parts("infer")
        self.seen = plan.seen  # taken once: to find it again means to hash the whole scene
        self.kept: OrderedDict[int, Array] = OrderedDict()

    def has(self, tile: int) -> bool:
        region = self.plan.regions.region_of(tile)
        return self.seen.has(region) and tile in _nodes(self.plan.job, region)[1]

    def of(self, tile: int) -> Array:
        if tile not in self.kept:
            region = self.plan.regions.region_of(tile)
            name = f"labels/{tile}"
            self.kept[tile] = self.store.get(region, [name]).arrays[name]
            while len(self.kept) > 3 * (self.plan.k + 2):
                self.kept.popitem(last=False)
        self.kept.move_to_end(tile)
        return self.kept[tile]

    def product(self, tile: int) -> TileLabels:
        nodes, _ = _nodes(self.plan.job, self.plan.regions.region_of(tile))
        mine = nodes.take(nodes.tile == tile)
        return TileLabels(self.plan.grid.tile(tile), self.of(tile), mine)


def seam_region(plan: Plan, index: int) -> dict[str, Any]:
    """Match the tiles of a region with their forward neighbours; store the seam tables."""
    store = plan.parts("seam")
    if store.has(index):
        return {"cached": True}
    labels = _Labels(plan)
    tables = []
    for tile in plan.regions.region(index).tiles:
        if not labels.has(tile):
            continue
        mine = labels.product(tile)
        tables += [
            match_seam(mine, labels.product(other), plan.join_threshold)
            for other in plan.grid.forward_neighbours(tile)
            if labels.has(other)
        ]
    store.put(index, pack(SeamTable.concatenate(tables), "seam"), {})
    return {"seams": len(tables)}


@dataclass(frozen=True, slots=True)
class Ids:
    """What the coordinator knows after the resolution: per gid 1..M its class and facts.

    Row g-1 of each column belongs to gid g. `touches_edge` comes from the nodes of the winning
    views; the rest is `Resolution.segments`.
    """

    resolution: Resolution
    touches_edge: npt.NDArray[np.bool_]
    seams: SeamCounts
    failed: dict[int, str]


def resolve_ids(plan: Plan) -> Ids:
    """Read all node and seam tables, decide which segments are one, leave LUTs for the workers.

    A pure function of the parts: the same for any number of workers and order of completion.
    """
    infer, seam, lut = (plan.parts(kind) for kind in ("infer", "seam", "lut"))
    nodes, seams, edges = [], [], []
    failed: dict[int, str] = {}
    names = [f"nodes.{name}" for name in NodeTable.__dataclass_fields__]
    for index in plan.seen.indexes:
        part = infer.get(index, [*names, "edge"])
        nodes.append(unpack(NodeTable, part.arrays, "nodes"))
        edges.append(part.arrays["edge"])
        failed |= {int(t): why for t, why in part.meta["failed"].items()}
        seams.append(unpack(SeamTable, seam.get(index).arrays, "seam"))
    table, touching = NodeTable.concatenate(nodes), np.concatenate(edges)
    # Regions of k x k tiles are not in tile order; the resolution wants rows by (tile, label).
    order = np.lexsort((table.label, table.tile))
    table, touching = table.take(order), touching[order]
    met = SeamTable.concatenate(seams)
    resolution = resolve(table, met, plan.grid)
    for index in plan.seen.indexes:
        if not lut.has(index):
            lut.put(index, _lut_arrays(plan, resolution, index), {})
    edge = np.zeros(len(resolution.segments) + 1, bool)
    gid = resolution.gid
    np.logical_or.at(edge, gid, touching & (resolution.mode > 0))
    return Ids(resolution, edge[1:], met.per_seam(), failed)


def _lut_arrays(plan: Plan, resolution: Resolution, index: int) -> dict[str, Array]:
    arrays: dict[str, Array] = {}
    for tile in plan.regions.region(index).tiles:
        gid, mode = resolution.lut(tile)
        arrays[f"gid/{tile}"], arrays[f"mode/{tile}"] = gid, mode
    return arrays


class _Luts:
    """The look-up tables of single tiles, read from the parts: what `assemble_core` asks for."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.store = plan.parts("lut")

        self.kept: dict[int, tuple[Array, Array]] = {}

    def lut(self, tile: int) -> tuple[Array, Array]:
        if tile not in self.kept:
            names = [f"gid/{tile}", f"mode/{tile}"]
            arrays = self.store.get(self.plan.regions.region_of(tile), names).arrays
            self.kept[tile] = arrays[names[0]], arrays[names[1]]
        return self.kept[tile]


@dataclass(frozen=True, slots=True)
class CoreRow:
    """The assembled pixels of one row of a region's tiles: scene-wide ids before numbering."""

    window: Window
    gid: npt.NDArray[np.int32]
    stuff: npt.NDArray[np.uint8]
    score: npt.NDArray[np.uint8]


def core_region(plan: Plan, index: int) -> dict[str, Any]:
    """Paint a region's core with global ids; store ids, stuff, score and areas per id.

    The part holds one array per row of tiles, so that whoever makes or reads it holds no more.
    """
    store = plan.parts("core")
    if store.has(index):
        return {"cached": True}
    region = plan.regions.region(index)
    labels, luts = _Labels(plan), _Luts(plan)
    arrays: dict[str, Packed | Array] = {}
    areas = []
    for i, (tiles, window) in enumerate(_rows(plan, index)):
        row = _assembled_row(plan, tiles, window, (labels, luts))
        for name in _PIXELS:
            arrays[f"{name}/{i}"] = pack_array(getattr(row, name))
        areas.append(measure_core(row.gid, window)[:2])
    there, of = np.unique(np.concatenate([gids for gids, _ in areas]), return_inverse=True)
    area_px = np.zeros(len(there), np.int64)
    np.add.at(area_px, of.ravel(), np.concatenate([px for _, px in areas]))
    store.put(index, arrays | {"area.gid": there, "area.px": area_px}, {})
    return {"px": region.core.area_px}


_PIXELS = ("gid", "stuff", "score")


def core_rows(plan: Plan, index: int) -> Iterator[CoreRow]:
    """Yield what `core_region` stored of a region, row of tiles by row of tiles."""
    store = plan.parts("core")
    for i, (_, window) in enumerate(_rows(plan, index)):
        names = [f"{name}/{i}" for name in _PIXELS]
        arrays = store.get(index, names).arrays
        yield CoreRow(window, *(arrays[name] for name in names))


def _rows(plan: Plan, index: int) -> Iterator[tuple[list[Tile], Window]]:
    """Yield the rows of tiles of a region, with the window of their cores."""
    region = plan.regions.region(index)
    across = len({number % plan.grid.n_cols for number in region.tiles})
    for start in range(0, len(region.tiles), across):
        tiles = [plan.grid.tile(number) for number in region.tiles[start : start + across]]
        first, last = tiles[0].core, tiles[-1].core
        yield tiles, Window.from_bounds(first.row, first.col, last.row_stop, last.col_stop)


def _assembled_row(
    plan: Plan, tiles: list[Tile], window: Window, known: tuple[_Labels, _Luts]
) -> CoreRow:
    gid = np.zeros(window.shape, np.int32)
    stuff = np.zeros(window.shape, np.uint8)
    score = np.full(window.shape, SCORE_NONE, np.uint8)
    infer, (labels, luts) = plan.parts("infer"), known
    for tile in tiles:
        number = tile.index
        if not labels.has(number):
            continue
        views: dict[int, tuple[Window, Array]] = {number: (tile.window, labels.of(number))}
        for other in plan.grid.neighbours(number):
            if labels.has(other):
                views[other] = (plan.grid.tile(other).window, labels.of(other))
        here = tile.core.within(window).slices
        names = [f"stuff/{number}", f"score/{number}"]
        part = infer.get(plan.regions.region_of(number), names).arrays
        stuff[here], score[here] = part[names[0]], part[names[1]]
        painted = assemble_core(tile, views, luts)
        # nodata stays nodata, whatever a neighbour's view paints
        gid[here] = np.where(stuff[here] == 0, 0, painted)
    return CoreRow(window, gid, stuff, score)


def number_ids(plan: Plan, ids: Ids) -> tuple[npt.NDArray[np.int32], SegmentTable]:
    """Give the final ids 1..N in gid order, without things under the least area.

    Returns the look-up table gid -> id (index 0 = 0, dropped = 0) and the table of things, whose
    boxes are still empty: they are found when the rasters are written, on the grid of the rasters.
    """
    facts = ids.resolution.segments
    area = np.zeros(len(facts) + 1, np.int64)
    store = plan.parts("core")
    for index in plan.seen.indexes:
        part = store.get(index, ["area.gid", "area.px"]).arrays
        area[part["area.gid"]] += part["area.px"]
    keep = np.zeros(len(area), bool)
    keep[1:] = area[1:] >= plan.min_area_px[facts.class_id]
    final = np.where(keep, np.cumsum(keep), 0).astype(np.int32)
    rows = np.flatnonzero(keep) - 1
    # whole segments only are calibrated: the mean over tiles of a bent score is not the bent mean
    score = plan.card.calibrated(facts.class_id, facts.score)
    table = SegmentTable(
        id=final[1:][rows].astype(np.int64),
        class_id=facts.class_id[rows].astype(np.uint8),
        area_px=area[1:][rows],
        score=score[rows].astype(np.float32),
        bbox=np.zeros((len(rows), 4), np.int32),
        touches_edge=ids.touches_edge[rows],
        on_seam=facts.on_seam[rows],
        n_tiles=facts.n_tiles[rows].astype(np.uint16),
        seam_agreement=facts.seam_agreement[rows].astype(np.float32),
    )
    return final, table

"""Stage 5a: write the label rasters region by region, and count what streams past."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import SceneError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.predict.join import core_rows
from geopanoptic.predict.kernels import add_scores, add_up, final_labels
from geopanoptic.predict.plan import Plan
from geopanoptic.raster import LabelReader, LabelWriter
from geopanoptic.segments import SCORE_NONE, SCORE_ONE, SegmentTable

_SCENE_BLOCK = 2048  # window of the scene's grid that is filled at a time with --grid scene


@dataclass(frozen=True, slots=True)
class Layers:
    """One window of the map: class per pixel, instance id per pixel, score 0..200 (255 none)."""

    window: Window
    semantic: npt.NDArray[np.uint8]
    instances: npt.NDArray[np.int32]
    score: npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Rasters:
    """The finished rasters (plain tiled GeoTIFFs in the work directory) and their table.

    `score` is None unless it was asked for.
    """

    semantic: Path
    instances: Path
    score: Path | None
    georef: GeoRef
    table: SegmentTable

    @property
    def shape(self) -> tuple[int, int]:
        return self.georef.shape


def write_rasters(
    plan: Plan, ids: tuple[npt.NDArray[np.int32], SegmentTable], folder: Path, *, scores: bool
) -> Rasters:
    """Write semantic, instances and, with `scores`, score rasters into `folder`.

    `ids`: what `number_ids` gave. They lie on the grid that was asked for.
    """
    final, things = ids
    as_worked = plan.settings.grid == "working" or not plan.scene.is_resampled
    target = folder, scores or not as_worked
    rasters = _write(_assembled(plan, final, things), plan.scene.georef, things, target)
    if as_worked:
        return rasters
    scene_folder = folder / "scene"
    scene_folder.mkdir(exist_ok=True)
    georef = plan.scene.scene.georef
    return _write(_regridded(rasters, georef), georef, things, (scene_folder, scores))


def _assembled(plan: Plan, final: npt.NDArray[np.int32], things: SegmentTable) -> Iterator[Layers]:
    """Yield the cores of the regions with final ids."""
    class_of = _class_of(things)
    for index in plan.seen.indexes:
        for row in core_rows(plan, index):
            shape = row.window.shape
            semantic, instances = np.empty(shape, np.uint8), np.empty(shape, np.int32)
            final_labels((row.gid, row.stuff), final, class_of, semantic, instances)
            yield Layers(row.window, semantic, instances, row.score)


def _class_of(things: SegmentTable) -> npt.NDArray[np.uint8]:
    class_of = np.zeros(int(things.id.max(initial=0)) + 1, np.uint8)
    class_of[things.id] = things.class_id
    return class_of


def _regridded(rasters: Rasters, target: GeoRef) -> Iterator[Layers]:
    """Yield the map on the scene's own grid: each pixel takes the labels at its centre."""
    source = rasters.georef
    if source.is_rotated or target.is_rotated or source.crs != target.crs:
        raise SceneError(
            "--grid scene: the scene's own grid is rotated or in another reference system than "
            "the map's; leave the option out, the map is georeferenced anyway"
        )
    assert rasters.score is not None
    readers = [LabelReader(p) for p in (rasters.semantic, rasters.instances, rasters.score)]
    for row in range(0, target.shape[0], _SCENE_BLOCK):
        for col in range(0, target.shape[1], _SCENE_BLOCK):
            window = Window(row, col, _SCENE_BLOCK, _SCENE_BLOCK).clipped(target.shape)
            rows, cols, needed = _nearest(window, source, target)
            parts = [r.read(needed)[np.ix_(rows, cols)] for r in readers]
            yield Layers(window, *parts)


def _nearest(
    window: Window, source: GeoRef, target: GeoRef
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Window]:
    """Return row and column numbers, within the returned source window, of target pixel centres."""
    x, _ = target.xy(0.5, np.arange(window.col, window.col_stop) + 0.5)
    _, y = target.xy(np.arange(window.row, window.row_stop) + 0.5, 0.5)
    rows = np.clip(np.floor(source.rowcol(x[0], y)[0]), 0, source.shape[0] - 1).astype(np.int64)
    cols = np.clip(np.floor(source.rowcol(x, y[0])[1]), 0, source.shape[1] - 1).astype(np.int64)
    needed = Window.from_bounds(rows.min(), cols.min(), rows.max() + 1, cols.max() + 1)
    return rows - needed.row, cols - needed.col, needed


def _write(
    layers: Iterator[Layers], georef: GeoRef, things: SegmentTable, target: tuple[Path, bool]
) -> Rasters:
    """Write all windows; `target`: the folder, and whether scores are kept too."""
    folder, scores = target
    kinds = [("semantic", "uint8", 0), ("instances", "int32", 0), ("score", "uint8", SCORE_NONE)]
    kinds = kinds if scores else kinds[:2]
    paths = [folder / f"{name}.tif" for name, _, _ in kinds]
    tally = _Tally(georef.shape, int(things.id.max(initial=0)))
    with ExitStack() as files:
        for path in paths:
            path.unlink(missing_ok=True)
        writers = [
            files.enter_context(LabelWriter(path, georef, dtype, nodata=nodata))
            for path, (_, dtype, nodata) in zip(paths, kinds, strict=True)
        ]
        # one window is being compressed while the next one is read and counted
        beside = files.enter_context(ThreadPoolExecutor(1, thread_name_prefix="rasters"))
        waiting: Future[None] | None = None
        for part in layers:
            tally.add(part)
            if waiting is not None:
                waiting.result()
            waiting = beside.submit(_put, writers, part)
        if waiting is not None:
            waiting.result()
    score = paths[2] if scores else None
    return Rasters(paths[0], paths[1], score, georef, tally.table(things))


def _put(writers: list[LabelWriter], part: Layers) -> None:
    arrays: tuple[npt.NDArray[Any], ...] = (part.semantic, part.instances, part.score)
    for writer, array in zip(writers, arrays, strict=False):
        writer.write(part.window, array)


class _Tally:
    """Areas, boxes and scores of all segments, added up window by window."""

    def __init__(self, shape: tuple[int, int], things: int) -> None:
        self._shape = shape
        nowhere = np.array([2**31 - 1, 2**31 - 1, 0, 0], np.int32)
        self._boxes = np.tile(nowhere, (things + 1, 1))
        self._areas = np.zeros(things + 1, np.int64)
        self._class_boxes = np.tile(nowhere, (256, 1))
        self._class_px = np.zeros(256, np.int64)
        self._class_score = np.zeros((2, 256), np.int64)

    def add(self, part: Layers) -> None:
        """Count one window; windows must not overlap."""
        corner = part.window.row, part.window.col
        add_up(part.instances, corner, self._areas, self._boxes)
        add_up(part.semantic, corner, self._class_px, self._class_boxes)
        add_scores(part.semantic, part.score, SCORE_NONE, self._class_score)

    def table(self, things: SegmentTable) -> SegmentTable:
        """Return the table of things and stuff classes."""
        there = self._areas[things.id] > 0
        kept = things.take(there)
        kept = replace(kept, area_px=self._areas[kept.id], bbox=self._boxes[kept.id])
        thing_classes = np.unique(things.class_id)
        stuff_ids = [c for c in range(1, 255) if self._class_px[c] > 0 and c not in thing_classes]
        stuff = self._stuff_rows(np.array(stuff_ids, np.int64))
        return SegmentTable.concatenate([kept, stuff])

    def _stuff_rows(self, ids: npt.NDArray[np.int64]) -> SegmentTable:
        total, count = self._class_score[:, ids]
        n = len(ids)
        box, (height, width) = self._class_boxes[ids], self._shape
        score = np.divide(total, count * SCORE_ONE, out=np.full(n, np.nan), where=count > 0)
        at_rim = (box[:, :2] == 0).any(axis=1) | (box[:, 2] == height) | (box[:, 3] == width)
        return SegmentTable(
            id=-ids,
            class_id=ids.astype(np.uint8),
            area_px=self._class_px[ids],
            score=score.astype(np.float32),
            bbox=box,
            touches_edge=at_rim,
            on_seam=np.ones(n, bool),
            n_tiles=np.ones(n, np.uint16),
            seam_agreement=np.full(n, np.nan, np.float32),
        )

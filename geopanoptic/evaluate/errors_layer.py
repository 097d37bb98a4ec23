"""errors.gpkg: every object of both sides with what became of it; mistakes one can fly to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from geopanoptic.errors import SceneError
from geopanoptic.evaluate.figures import Judged
from geopanoptic.evaluate.polygons import PolygonScene
from geopanoptic.evaluate.scene import Scene
from geopanoptic.grid import Window
from geopanoptic.metrics import Fate, Overlap, SegmentSide
from geopanoptic.polygons import PolygonBatch, thing_labels, trace
from geopanoptic.schema import LabelSchema
from geopanoptic.vector import LayerSpec, Style, write_gpkg

Ints = npt.NDArray[np.int64]

TRACE_BLOCK = 2048
_COLUMNS = (
    ("scene", pa.string()),
    ("object_id", pa.int64()),
    ("class_name", pa.string()),
    ("status", pa.string()),
    ("iou", pa.float64()),
    ("partner_id", pa.int64()),
    ("partner_ids", pa.string()),
    ("partner_class", pa.string()),
    ("area_m2", pa.float64()),
    ("score", pa.float64()),
)
LAYERS = (LayerSpec("truth", _COLUMNS), LayerSpec("predictions", _COLUMNS))

# Green: right. Red and orange: what the map lacks. Purple and blue: what it has too much.
COLORS = {
    "matched": "#2a9d4b",
    "missed": "#d7191c",
    "false": "#7b3294",
    "split": "#fd8d3c",
    "merged": "#e7298a",
    "misclassified": "#225ea8",
    "duplicate": "#9ecae1",
    "ignored": "#bdbdbd",
}
_STATUS = (
    ("matched", "missed", "split", "merged", "misclassified", "ignored"),
    ("matched", "false", "duplicate", "ignored"),
)


def write_errors(path: Path, scenes: Sequence[Scene], compared: Sequence[PolygonScene]) -> None:
    """Write the layers `truth` and `predictions` of all things, styled by status.

    Outlines are traced block by block from the rasters (or are the polygons compared), so memory
    holds a block and the table. Raises SceneError when scenes have different CRSs: one file has
    one.
    """
    crs = [s.pair.georef.crs for s in scenes] + [s.crs for s in compared]
    if len(set(crs)) > 1:
        raise SceneError("the scenes have different CRSs; write --errors for each pair by itself")
    styles = {
        spec.name: Style("status", tuple((w, w, COLORS[w]) for w in words), outlined=True)
        for spec, words in zip(LAYERS, _STATUS, strict=True)
    }
    layers: dict[str | LayerSpec, Iterator[pa.RecordBatch]] = {
        spec: _batches(k, scenes, compared) for k, spec in enumerate(LAYERS)
    }
    write_gpkg(path, layers, crs[0], LabelSchema(()), styles=styles)


def _batches(
    k: int, scenes: Sequence[Scene], compared: Sequence[PolygonScene]
) -> Iterator[pa.RecordBatch]:
    """Yield the batches of side k: 0 truth, 1 predictions."""
    for scene in scenes:
        names = [c.name for c in scene.classes.classes]
        rows = Rows.of(scene, k, names, scene.classes.things)
        for batch in _traced(scene, k):
            geometry = batch.to_geometry(scene.pair.georef.transform)
            yield rows.batch(batch.labels.astype(np.int64), geometry, LAYERS[k])
    for pair in compared:
        every = frozenset(range(1, len(pair.class_names) + 1))
        side = (pair.overlap.truth, pair.overlap.pred)[k]
        rows = Rows.of(pair, k, pair.class_names, every)
        yield rows.batch(side.label, multi(pair.geometry[k]), LAYERS[k])


def multi(geometry: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    """Return polygons as MultiPolygons; parts without area fall away."""
    parts, of = shapely.get_parts(shapely.make_valid(geometry), return_index=True)
    flat = shapely.get_dimensions(parts) == 2
    polygons, inner = shapely.get_parts(parts[flat], return_index=True)
    out: npt.NDArray[np.object_] = shapely.multipolygons(
        polygons, indices=of[flat][inner], out=np.full(len(geometry), None, object)
    )
    return out


def _traced(scene: Scene, k: int) -> Iterator[PolygonBatch]:
    """Trace the things of one side: instance ids where the class is a thing that is judged."""
    panoptic = (scene.pair.truth, scene.pair.pred)[k]
    code = (scene.pair.sides.truth, scene.pair.sides.pred)[k]
    thing = np.zeros(256, bool)
    for value in range(256):
        thing[value] = int(code.code[value]) in scene.classes.things and code.keeps_id[value]

    def labels(window: Window) -> npt.NDArray[np.int32]:
        classes, ids = panoptic.source.read(window)
        return thing_labels(classes, np.where(thing[classes], ids, np.int32(0)))

    return trace(labels, scene.pair.georef.shape, TRACE_BLOCK, group="id")


class Rows:
    """The attributes of one side's segments, by label."""

    def __init__(self, scene: Judged, k: int, names: Sequence[str], things: frozenset[int]) -> None:
        o, found = scene.overlap, scene.fates
        side, other = (o.truth, o.pred) if k == 0 else (o.pred, o.truth)
        fate = found.truth if k == 0 else found.pred
        self.side = side
        class_of = dict(zip(other.label.tolist(), other.class_id.tolist(), strict=True))
        self.columns: dict[str, Any] = {
            "scene": [scene.names[1 - k]] * len(side),
            "object_id": side.label,
            "class_name": [_named(names, int(c)) for c in side.class_id],
            "status": fate.status.tolist(),
            "iou": fate.iou,
            "partner_id": [_identity(p) for p in fate.partner.tolist()],
            "partner_ids": _partner_ids(o, k, fate),
            "partner_class": [_named(names, class_of.get(p, 0)) for p in fate.partner.tolist()],
            "area_m2": scene.area_m2(side),
            "score": scene.scores if k == 1 else None,
        }
        self.is_thing = np.isin(side.class_id, list(things))

    @classmethod
    def of(cls, scene: Judged, k: int, names: Sequence[str], things: frozenset[int]) -> Rows:
        """Collect the rows of side k (0 truth, 1 predictions)."""
        return cls(scene, k, names, things)

    def batch(self, labels: Ints, geometry: Any, spec: LayerSpec) -> pa.RecordBatch:
        """Return the rows of these labels with their geometry."""
        at = self.side.index(labels)
        chosen = pa.array(at)
        arrays = []
        for name, kind in spec.columns:
            values = self.columns[name]
            column = pa.nulls(len(self.side), kind) if values is None else pa.array(values, kind)
            arrays.append(column.take(chosen))
        arrays.append(pa.array(list(shapely.to_wkb(geometry)), pa.large_binary()))
        return pa.RecordBatch.from_arrays(arrays, schema=spec.arrow_schema)


def _named(names: Sequence[str], number: int) -> str | None:
    return names[number - 1] if 0 < number <= len(names) else None


def _identity(label: int) -> int | None:
    """Return the id of a partner; None where there is none, or a stuff class without ids."""
    return label if 0 < label < 2**31 else None


def _partner_ids(o: Overlap, k: int, fate: Fate) -> list[str]:
    """List each segment's partner and all that share more than half of either, by id."""
    mine, other = (o.t, o.p) if k == 0 else (o.p, o.t)
    labels: SegmentSide = o.pred if k == 0 else o.truth
    close = (2 * o.px > o.pred.area_px[o.p]) | (2 * o.px > o.truth.area_px[o.t])
    close &= o.judged
    lists: list[list[int]] = [[p] if 0 < p < 2**31 else [] for p in fate.partner.tolist()]
    for row, label in zip(mine[close].tolist(), labels.label[other[close]].tolist(), strict=True):
        if label not in lists[row] and label < 2**31:
            lists[row].append(label)
    return [";".join(map(str, ids)) for ids in lists]

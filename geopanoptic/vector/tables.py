"""Polygons and the segment table -> Arrow batches with the attributes of `things` and `stuff`."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from geopanoptic.errors import ConfigError, StoreError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.polygons import Measures, MetreMap, PolygonBatch, measure, measure_pixels
from geopanoptic.schema import LabelSchema
from geopanoptic.segments import SegmentTable
from geopanoptic.vector.regular import OUTLINES, drawn_things
from geopanoptic.vector.specs import GEOMETRY, RUN, STUFF, THINGS, TIME, LayerSpec

Columns = dict[str, Any]

_MOST_ROWS = 16_384  # of one Arrow batch, so that a block full of noise stays a small piece


@dataclass(frozen=True)
class TableContext:
    """What all polygons of a map share.

    `schema` and `georef` of the map; `scene_date` (a date, a datetime, ISO text or None; without
    a zone it is UTC), `scene_id` and `model` names. `classes`: keep only these class names.
    `min_area_m2`: leave smaller features out. `simplify_m`: outlines may leave the pixels' by about
    that much, and were traced with `simplify_px`; pixel_count stays that of the map, areas and
    lengths are those of the outline. `regularize`: classes of things that get right angles where
    that fits (`regular_classes`); things must then be traced exactly. Raises SchemaError for an
    unknown class, ConfigError for a bad date or a negative number, SceneError for a number of
    metres without a CRS.
    """

    schema: LabelSchema
    georef: GeoRef
    scene_date: dt.date | str | None = None
    scene_id: str | None = None
    model: str | None = None
    classes: tuple[str, ...] | None = None
    min_area_m2: float = 0.0
    simplify_m: float = 0.0
    regularize: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.schema.subset(self.classes or ())
        self.schema.subset(self.regularize)
        if self.min_area_m2 > 0:
            self.georef.need_metres("a least area (--min-area)")
        if self.simplify_m > 0:
            self.georef.need_metres("simplification (--simplify)")
        for name, value in (("min-area", self.min_area_m2), ("simplify", self.simplify_m)):
            if not value >= 0:
                raise ConfigError(f"--{name} {value} must be a number that is not negative")
        object.__setattr__(self, "scene_date", _as_utc(self.scene_date))

    @cached_property
    def metres(self) -> MetreMap | None:
        """What a pixel measures where; None when metres are not known."""
        return MetreMap.of(self.georef) if self.georef.has_metres else None

    @property
    def simplify_px(self) -> Callable[[Window], float] | None:
        """What `polygons.trace` takes to simplify: the square of `simplify_m`, in pixels."""
        if self.simplify_m == 0:
            return None

        def area_px(window: Window) -> float:
            (pixel_m2,) = self.georef.row_area_m2(window.row + window.height // 2, 1)
            return float(self.simplify_m**2 / pixel_m2)

        return area_px

    def measured(self, batch: PolygonBatch, *, rectangles: bool) -> Measures:
        """Measure traced polygons, whether they follow the pixels or were simplified."""
        if self.simplify_m == 0:
            return measure_pixels(batch, self.metres, rectangles=rectangles)
        geometry = batch.to_geometry(self.georef.transform)
        return measure(geometry, self.georef.crs, rectangles=rectangles)

    def wanted(self, class_id: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Tell which class ids are to be kept."""
        if self.classes is None:
            return np.ones(len(class_id), bool)
        return np.isin(class_id, [self.schema.by_name(name).id for name in self.classes])


def things_table(
    batches: Iterable[PolygonBatch], segments: SegmentTable, context: TableContext
) -> Iterator[pa.RecordBatch]:
    """Turn polygons traced by instance id into batches of the `things` layer.

    Law: one row per polygon whose class is wanted. Raises StoreError when an id of the raster
    has no row in the segment table.
    """
    things = segments.things
    things = things.take(np.argsort(things.id))
    known = (_all_known(batch, things) for batch in batches)
    for drawn in drawn_things(known, things, context):
        of = things.take(np.searchsorted(things.id, drawn.batch.labels))
        keep = np.flatnonzero(context.wanted(of.class_id))
        of, kept = of.take(keep), drawn.batch.take(keep)
        if drawn.geometry is None:
            m = context.measured(kept, rectangles=True)
        else:
            m = measure(drawn.geometry[keep], context.georef.crs)
        columns: Columns = {
            "instance_id": kept.labels,
            "score": of.score,
            "length_m": m.length_m,
            "width_m": m.width_m,
            "azimuth_deg": m.azimuth_deg,
            "compactness": m.compactness,
            "n_parts": m.n_parts,
            "outline": pa.array(OUTLINES, pa.string()).take(pa.array(drawn.level[keep])),
            "touches_edge": of.touches_edge,
            "on_seam": of.on_seam,
            "n_tiles": of.n_tiles,
            "seam_agreement": of.seam_agreement,
        }
        if drawn.geometry is not None:
            wkb = shapely.to_wkb(drawn.geometry[keep], byte_order=1)
            columns[GEOMETRY] = pa.array(wkb, pa.large_binary())
        yield from _finish(THINGS, columns, (of.class_id, m, kept), context)


def _all_known(batch: PolygonBatch, things: SegmentTable) -> PolygonBatch:
    """Return the batch; StoreError when one of its ids is not in the table (sorted by id)."""
    lost = batch.labels[~np.isin(batch.labels, things.id)]
    if len(lost):
        raise StoreError(
            f"instance id {lost[0]} of the raster (and {len(lost) - 1} more in its block) is "
            f"not in the segment table; the map is damaged, predict it anew"
        )
    return batch


def stuff_table(batches: Iterable[PolygonBatch], context: TableContext) -> Iterator[pa.RecordBatch]:
    """Turn polygons traced by part, labelled with class ids, into batches of the `stuff` layer.

    `part_id` is 1 + the number of the part's first pixel in scan order: the same for every block
    grid. `touches_edge` needs labels that are 0 only on nodata (`polygons.stuff_labels`).
    """
    for batch in batches:
        kept = batch.take(np.flatnonzero(context.wanted(batch.labels)))
        m = context.measured(kept, rectangles=False)
        columns: Columns = {
            "part_id": kept.first_px + 1,
            "score": np.full(len(kept), np.nan, np.float32),
            "touches_edge": kept.touches_edge,
        }
        yield from _finish(STUFF, columns, (kept.labels, m, kept), context)


def run_table(record: Mapping[str, Any]) -> pa.RecordBatch:
    """Turn a run record into the `run` table: one row per key, values as JSON."""
    keys = [str(k) for k in record]
    values = [json.dumps(v, ensure_ascii=False, default=str) for v in record.values()]
    return pa.RecordBatch.from_pydict({"key": keys, "value": values}, schema=RUN.arrow_schema)


def _finish(
    spec: LayerSpec,
    columns: Columns,
    shared: tuple[npt.NDArray[Any], Measures, PolygonBatch],
    context: TableContext,
) -> Iterator[pa.RecordBatch]:
    """Add what both layers have, drop what is too small, and make the Arrow batch."""
    class_id, m, batch = shared
    n = len(batch)
    names = [c.name for c in context.schema.classes]
    place = np.searchsorted(context.schema.ids, class_id)
    columns |= {
        "class_id": class_id,
        "class_name": pa.array(names, pa.string()).take(pa.array(place)),
        "area_m2": m.area_m2,
        "perimeter_m": m.perimeter_m,
        "pixel_count": batch.area_px,
        "n_vertices": m.n_vertices,
        "scene_date": pa.repeat(pa.scalar(context.scene_date, TIME), n),
        "scene_id": pa.repeat(pa.scalar(context.scene_id, pa.string()), n),
        "model": pa.repeat(pa.scalar(context.model, pa.string()), n),
    }
    if GEOMETRY not in columns:
        columns[GEOMETRY] = _wkb_array(*batch.to_wkb(context.georef.transform))
    schema = spec.arrow_schema
    arrays = [
        pa.array(values, from_pandas=True).cast(field.type)  # NaN is null in a file
        if isinstance(values := columns[field.name], np.ndarray)
        else values
        for field in schema
    ]
    made = pa.RecordBatch.from_arrays(arrays, schema=schema)
    if context.min_area_m2 > 0:
        made = made.filter(pa.array(m.area_m2 >= context.min_area_m2))
    for start in range(0, made.num_rows, _MOST_ROWS):
        yield made.slice(start, _MOST_ROWS)


def _wkb_array(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> pa.Array:
    """Wrap WKB bytes as an Arrow column without copying them; `binary` ends at 2 GB."""
    n = len(offsets) - 1
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), n, buffers)


def _as_utc(when: dt.date | str | None) -> dt.datetime | None:
    if when is None or when == "":
        return None
    if isinstance(when, str):
        try:
            when = dt.datetime.fromisoformat(when)
        except ValueError as why:
            raise ConfigError(f"date '{when}' is not ISO 8601; write 2024-05-01") from why
    if not isinstance(when, dt.datetime):
        when = dt.datetime(when.year, when.month, when.day)
    return when.astimezone(dt.UTC) if when.tzinfo else when.replace(tzinfo=dt.UTC)

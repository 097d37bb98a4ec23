"""The object layers of changes.gpkg: events, objects of both dates, links between them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from geopanoptic.change.columns import EVENT_COLUMNS
from geopanoptic.change.objects import STATUSES, Events, Geometries, ObjectSet
from geopanoptic.change.threads import in_threads
from geopanoptic.errors import ConfigError
from geopanoptic.vector import LayerSpec, Style
from geopanoptic.vector.specs import TIME

Layers = dict[LayerSpec, Iterator[pa.RecordBatch]]

# Blue came and red went, so that red-green blindness takes nothing away; what stayed is grey.
STATUS_COLORS = {
    "unchanged": "#9e9e9e",
    "added": "#2166ac",
    "removed": "#d6191b",
    "grown": "#67a9cf",
    "shrunk": "#f4a582",
    "modified": "#e6c229",
    "reclassified": "#7b3294",
    "split": "#1b9e77",
    "merged": "#66c2a5",
    "complex": "#8c510a",
    "unobserved": "#d9d9d9",
}
assert tuple(STATUS_COLORS) == STATUSES

_BATCH = 16_384
_KIND = {"int": pa.int64(), "float": pa.float64(), "text": pa.string(), "flag": pa.bool_()}


@dataclass(frozen=True)
class Dated:
    """The events with the objects of both dates (in one CRS, where their maps have them).

    `dates`: ISO texts or None.
    """

    events: Events
    before: ObjectSet
    after: ObjectSet
    dates: tuple[str | None, str | None] = (None, None)


def object_layers(found: Dated) -> Layers:
    """Return the layers `events`, `objects_before`, `objects_after`, `links` with their batches.

    For `vector.write_gpkg`, which takes the batches one by one; memory holds the outlines once.
    """
    return {
        _EVENTS: _event_batches(found),
        _objects_spec("before", found.before): _object_batches(found, "before"),
        _objects_spec("after", found.after): _object_batches(found, "after"),
        _links_spec(found): _link_batches(found),
    }


def object_styles(labels: dict[str, str] | None = None) -> dict[str, Style]:
    """Return how QGIS draws the object layers: by status; `labels` for other words than its own."""
    shown = tuple((s, (labels or {}).get(s, s), c) for s, c in STATUS_COLORS.items())
    outlined = Style("status", shown, outlined=True)
    return {
        "events": outlined,
        "objects_before": outlined,
        "objects_after": outlined,
        "links": Style("status", shown, line=True),
    }


_EVENTS = LayerSpec(
    "events",
    (
        *((name, _KIND[kind]) for name, kind in EVENT_COLUMNS.items()),
        ("date_before", TIME),
        ("date_after", TIME),
    ),
)


def _id_type(objects: ObjectSet) -> pa.DataType:
    return pa.int64() if np.issubdtype(objects.ids.dtype, np.integer) else pa.string()


def _objects_spec(date: str, objects: ObjectSet) -> LayerSpec:
    return LayerSpec(
        f"objects_{date}",
        (
            ("object_id", _id_type(objects)),
            ("event_id", pa.int64()),
            ("status", pa.string()),
            ("class_name", pa.string()),
            ("area_m2", pa.float64()),
            ("score", pa.float64()),
            ("observed", pa.float64()),
            ("touches_edge", pa.bool_()),
            ("date", TIME),
        ),
    )


def _links_spec(found: Dated) -> LayerSpec:
    return LayerSpec(
        "links",
        (
            ("event_id", pa.int64()),
            ("status", pa.string()),
            ("before_id", _id_type(found.before)),
            ("after_id", _id_type(found.after)),
            ("overlap_m2", pa.float64()),
            ("frac_before", pa.float64()),
            ("frac_after", pa.float64()),
            ("iou", pa.float64()),
        ),
        "LineString",
    )


def _event_batches(found: Dated) -> Iterator[pa.RecordBatch]:
    geometry = event_geometry(found)
    when = [as_time(d) for d in found.dates]
    for rows in _slices(len(found.events)):
        columns = {name: values[rows] for name, values in found.events.columns.items()}
        yield _batch(
            _EVENTS,
            {**columns, "date_before": when[0], "date_after": when[1]},
            as_multi(geometry[rows]),
        )


def event_geometry(found: Dated) -> Geometries:
    """Return the outline of every event: of its after objects, else of its before objects."""
    made = np.full(len(found.events), None, object)
    for objects, event in (
        (found.before, found.events.event_of_before),
        (found.after, found.events.event_of_after),
    ):
        order = np.argsort(event, kind="stable")
        which = event[order] - 1
        geometry = objects.geometry[order]
        first = np.flatnonzero(np.diff(which, prepend=-1))
        count = np.diff(np.append(first, len(which)))
        made[which[first]] = geometry[first]
        several = np.repeat(count > 1, count)
        if several.any():
            _, place = np.unique(which[several], return_inverse=True)
            joined = shapely.geometrycollections(geometry[several], indices=place)
            made[which[first[count > 1]]] = in_threads(_dissolved, joined)
    return made


def _dissolved(collections: Geometries) -> Geometries:
    made: Geometries = shapely.union_all(collections[:, None], axis=1)
    return made


def _object_batches(found: Dated, date: str) -> Iterator[pa.RecordBatch]:
    objects, event = (
        (found.before, found.events.event_of_before)
        if date == "before"
        else (found.after, found.events.event_of_after)
    )
    when = as_time(found.dates[date == "after"])
    order = np.argsort(objects.ids, kind="stable")
    for part in _slices(len(objects)):
        rows = order[part]
        columns = {
            "object_id": objects.ids[rows],
            "event_id": event[rows],
            "status": found.events.status_of(event[rows]),
            "class_name": objects.class_names[rows],
            "area_m2": objects.area_m2[rows],
            "score": objects.scores[rows],
            "observed": objects.observed[rows],
            "touches_edge": objects.touches_edge[rows],
            "date": when,
        }
        yield _batch(_objects_spec(date, objects), columns, as_multi(objects.geometry[rows]))


def _link_batches(found: Dated) -> Iterator[pa.RecordBatch]:
    links, spec = found.events.links, _links_spec(found)
    for rows in _slices(len(links)):
        b, a, event = links.before[rows], links.after[rows], links.event_id[rows]
        columns = {
            "event_id": event,
            "status": found.events.status_of(event),
            "before_id": found.before.ids[b],
            "after_id": found.after.ids[a],
            "overlap_m2": links.overlap_m2[rows],
            "frac_before": links.frac_before[rows],
            "frac_after": links.frac_after[rows],
            "iou": links.iou[rows],
        }
        ends = np.stack(
            [_centres(found.before.geometry[b]), _centres(found.after.geometry[a])], axis=1
        )
        yield _batch(spec, columns, _lines(ends))


def _lines(ends: npt.NDArray[np.float64]) -> Geometries:
    """Join ends (n, 2, 2) by lines; parts at one place get none: a line needs a length."""
    made = np.full(len(ends), None, object)
    apart = (ends[:, 0] != ends[:, 1]).any(axis=1)
    made[apart] = shapely.linestrings(ends[apart])
    return made


def _centres(geometry: Geometries) -> npt.NDArray[np.float64]:
    return np.asarray(shapely.get_coordinates(shapely.centroid(geometry)), np.float64)


def _slices(n: int) -> Iterator[slice]:
    return (slice(k, min(k + _BATCH, n)) for k in range(0, n, _BATCH))


def _batch(spec: LayerSpec, columns: dict[str, Any], geometry: Geometries) -> pa.RecordBatch:
    """Return a batch; NaN and None become null, one value stands for all rows."""
    arrays = [
        pa.array(columns[name], kind, from_pandas=True)
        if isinstance(columns[name], np.ndarray)
        else pa.repeat(pa.scalar(columns[name], kind), len(geometry))
        for name, kind in spec.columns
    ]
    arrays.append(pa.array(shapely.to_wkb(geometry), pa.large_binary()))
    return pa.RecordBatch.from_arrays(arrays, schema=spec.arrow_schema)


def as_multi(geometry: Geometries) -> Geometries:
    """Return polygons as MultiPolygons; parts without area fall away."""
    made = geometry.copy()
    kind = shapely.get_type_id(geometry)
    single = np.flatnonzero(kind == shapely.GeometryType.POLYGON)
    if len(single):
        made[single] = shapely.multipolygons(geometry[single], indices=np.arange(len(single)))
    other = np.flatnonzero(kind == shapely.GeometryType.GEOMETRYCOLLECTION)
    if len(other):
        parts, of = shapely.get_parts(geometry[other], return_index=True)
        inner, which = shapely.get_parts(parts, return_index=True)
        flat = shapely.get_dimensions(inner) == 2
        out = np.full(len(other), shapely.MultiPolygon(), object)
        shapely.multipolygons(inner[flat], indices=of[which][flat], out=out)
        made[other] = out
    return made


def as_time(date: str | None) -> dt.datetime | None:
    """Return an ISO date as a moment in UTC; ConfigError for text that is none."""
    if date is None or date == "":
        return None
    try:
        when = dt.datetime.fromisoformat(str(date))
    except ValueError as why:
        raise ConfigError(f"date '{date}' is not ISO 8601; write 2024-05-01") from why
    return when.astimezone(dt.UTC) if when.tzinfo else when.replace(tzinfo=dt.UTC)

"""tracks.gpkg: written whole, and read back to be continued."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from geopanoptic.change.objects import ObjectSet
from geopanoptic.errors import StoreError
from geopanoptic.schema import LabelSchema
from geopanoptic.track import specs
from geopanoptic.track.opening import Opened
from geopanoptic.track.settings import TrackSettings
from geopanoptic.track.tables import (
    Rows,
    Tracked,
    lineage_rows,
    moment,
    observation_rows,
    timeline_rows,
    track_rows,
)
from geopanoptic.track.views import DateView, Geometries
from geopanoptic.vector import LayerSpec, write_gpkg

FORMAT, VERSION = "geopanoptic-tracks", 1
_BATCH = 16_384


@dataclass(frozen=True)
class Series:
    """What is written: the dates as opened, the tracks, and how they were made."""

    opened: tuple[Opened, ...]
    tracked: Tracked
    settings: TrackSettings
    reference: str
    tolerance_m: float
    record: dict[str, Any]

    @property
    def crs(self) -> str | None:
        return self.tracked.views[0].objects.crs


def write_package(path: Path, series: Series, trajectories: Rows | None) -> dict[str, int]:
    """Write all layers; return the number of rows of each.

    Raises StoreError when the file does not read back as it was written.
    """
    t = series.tracked
    objects = t.of_sightings("geometry")
    observations, tracks = observation_rows(t), track_rows(t)
    rows = tracks.pop("_row")
    ids = observations["object_id"]
    whole = all(isinstance(v, int) for v in ids)
    if not whole:
        observations["object_id"] = [str(v) for v in ids]
    dates = _date_rows(series)
    unseen, why = _unseen_rows(t.views)
    tables: tuple[tuple[LayerSpec, Rows, Geometries | None], ...] = (
        (specs.observations_spec(pa.int64() if whole else pa.string()), observations, objects),
        (specs.TRACKS, tracks, objects[rows] if len(rows) else objects),
        (specs.LINEAGE, lineage_rows(t), None),
        (specs.TIMELINE, timeline_rows(t), None),
        (specs.DATES, dates, None),
        (specs.FOOTPRINTS, *_footprint_rows(t.views)),
        (specs.UNSEEN, unseen, why),
        (specs.PARAMETERS, _parameters(series), None),
    )
    layers: dict[str | LayerSpec, Iterator[pa.RecordBatch]] = {
        spec: _batches(spec, columns, geometry) for spec, columns, geometry in tables
    }
    if trajectories is not None:
        layers[specs.TRAJECTORIES] = _batches(specs.TRAJECTORIES, trajectories, None)
    return write_gpkg(path, layers, series.crs, LabelSchema(()), styles=specs.layer_styles())


def _batches(
    spec: LayerSpec, columns: Rows, geometry: Geometries | None
) -> Iterator[pa.RecordBatch]:
    n = len(next(iter(columns.values())))
    arrays = [pa.array(columns[name], kind) for name, kind in spec.columns]
    for start in range(0, n, _BATCH):
        part = [a.slice(start, _BATCH) for a in arrays]
        if geometry is not None:
            wkb = shapely.to_wkb(geometry[start : start + _BATCH])
            part.append(pa.array(list(wkb), pa.large_binary()))
        yield pa.RecordBatch.from_arrays(part, schema=spec.arrow_schema)


def _date_rows(series: Series) -> Rows:
    opened = series.opened
    return {
        "date": [o.view.date for o in opened],
        "date_from": [moment(o.view.date) for o in opened],
        "source": [o.source for o in opened],
        "is_reference": [o.view.date == series.reference for o in opened],
        "n_objects": [len(o.view) for o in opened],
        "id_type": [_id_type(o.view.objects) for o in opened],
        "left_out": [o.left_out for o in opened],
        "offset_x": [o.offset[0] for o in opened],
        "offset_y": [o.offset[1] for o in opened],
        "registration": [json.dumps(o.registration) for o in opened],
    }


def _id_type(objects: ObjectSet) -> str:
    return "text" if objects.ids.dtype == object else "number"


def _footprint_rows(views: Sequence[DateView]) -> tuple[Rows, Geometries]:
    """Return the ground that each date covers; vector files do not say."""
    known = [v for v in views if v.footprint is not None]
    made = np.full(len(known), None, object)
    for k, view in enumerate(known):
        parts = shapely.get_parts(view.footprint)
        made[k] = shapely.multipolygons(parts[shapely.get_dimensions(parts) == 2])
    dates = [v.date for v in known]
    return {"date": dates, "date_from": [moment(d) for d in dates]}, made


def _unseen_rows(views: Sequence[DateView]) -> tuple[Rows, Geometries]:
    rows: Rows = {"date": [], "date_from": [], "why": []}
    parts: list[Any] = []
    for view in views:
        for why, polygons in (("nodata", view.hidden), ("mask", view.masked)):
            for polygon in polygons:
                rows["date"].append(view.date)
                rows["date_from"].append(moment(view.date))
                rows["why"].append(why)
                inner = shapely.get_parts(polygon)
                parts.append(shapely.multipolygons(inner[shapely.get_dimensions(inner) == 2]))
    made = np.full(len(parts), None, object)
    made[:] = parts
    return rows, made


def _parameters(series: Series) -> Rows:
    values = {
        "format": FORMAT,
        "version": VERSION,
        "settings": series.settings.to_json(),
        "reference": series.reference,
        "tolerance_m": series.tolerance_m,
        **series.record,
    }
    return {
        "key": list(values),
        "value": [json.dumps(v, ensure_ascii=False) for v in values.values()],
    }


@dataclass(frozen=True)
class Stored:
    """A series read back: its dates, the track of every object, and how it was made."""

    opened: tuple[Opened, ...]
    track: tuple[npt.NDArray[np.int64], ...]
    settings: TrackSettings
    reference: str
    tolerance_m: float


def read_package(path: Path) -> Stored:
    """Read a tracks.gpkg back, so that later dates can be added.

    Raises StoreError for a file that is none, or of a newer version.
    """
    from geopanoptic.vector import read_layer

    if not path.exists():
        raise StoreError(
            f"--append {path}: there is no such file; leave --append out the first time"
        )
    parameters = read_layer(path, "parameters")
    values = {k: json.loads(v) for k, v in zip(parameters["key"], parameters["value"], strict=True)}
    if values.get("format") != FORMAT:
        raise StoreError(f"{path} is not of the format '{FORMAT}'")
    if int(values["version"]) > VERSION:
        raise StoreError(
            f"{path} has version {values['version']}, this program reads up to {VERSION}; update it"
        )
    known = {k: _tuples(v) for k, v in values["settings"].items()}
    seen, dates = read_layer(path, "observations"), read_layer(path, "dates")
    unseen = read_layer(path, "unseen")
    ground = {
        r.date: r.geometry if len(r.geometry.geoms) > 1 else r.geometry.geoms[0]
        for r in read_layer(path, "footprints").itertuples()
    }
    crs = None if seen.crs is None else seen.crs.to_wkt()
    opened, track = [], []
    for row in dates.itertuples():
        mine = seen[seen["date"] == row.date]
        objects, order = _objects(mine, crs, row.id_type)
        track.append(mine["track_id"].to_numpy(np.int64)[order])
        out = unseen[unseen["date"] == row.date]
        hidden, masked = (
            np.asarray(out.geometry[out["why"] == why].array, object) for why in ("nodata", "mask")
        )
        view = DateView(row.date, objects, ground.get(row.date), hidden, masked)
        record = json.loads(row.registration)
        offset = float(row.offset_x), float(row.offset_y)
        opened.append(Opened(view, row.source, None, offset, record, (), int(row.left_out)))
    return Stored(
        tuple(opened), tuple(track), TrackSettings(**known), values["reference"],
        float(values["tolerance_m"]),
    )  # fmt: skip


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value


def _objects(frame: Any, crs: str | None, id_type: str) -> tuple[ObjectSet, npt.NDArray[np.int64]]:
    """Return the objects of one date in order of their ids, and that order."""
    number = id_type == "number"
    ids = np.array(
        [int(v) if number else str(v) for v in frame["object_id"].tolist()],
        np.int64 if number else object,
    )
    order = np.argsort(ids, kind="stable")
    rows = frame.iloc[order]
    return (
        ObjectSet(
            ids[order],
            rows["class"].to_numpy(object),
            np.asarray(rows.geometry.array, object),
            rows["score"].to_numpy(np.float64, na_value=np.nan),
            np.ones(len(rows)),
            rows["area_m2"].to_numpy(np.float64),
            rows["touches_edge"].to_numpy(bool),
            crs,
        ),
        order,
    )

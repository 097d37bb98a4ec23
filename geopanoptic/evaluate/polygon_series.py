"""A series of dates as two vector files: one row per object and date (SpaceNet 7)."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import SceneError
from geopanoptic.evaluate.figures import Figures
from geopanoptic.evaluate.polygons import PolygonScene, compare_polygons, polygon_result
from geopanoptic.evaluate.series import date_objects, scot_figures
from geopanoptic.evaluate.settings import EvaluateSettings
from geopanoptic.metrics import scot
from geopanoptic.panoptic_map import Polygons
from geopanoptic.panoptic_map.vector import CLASS_FIELDS
from geopanoptic.quiet import ignored

Ints = npt.NDArray[np.int64]
Names = npt.NDArray[np.object_]

ID_FIELDS = ("track_id", "id", "Id", "instance_id", "object_id")
DATE_FIELDS = ("timestep", "date", "time", "datetime")
AOI_FIELDS = ("aoi", "AOI", "aoi_id")
LAYER = "observations"  # of what `geopanoptic track` writes

# SpaceNet 7 names a row's image like global_monthly_2018_01_mosaic_L15-0331E-1257N_1327_3160_13
_MONTHLY = re.compile(r"global_monthly_(\d{4})_(\d{2})_mosaic_(.+?)(?:_Buildings|\.\w+)?$")


@dataclass(frozen=True, slots=True)
class ObjectRows:
    """Objects over time as columns: area of interest, date, id over time, class and polygon."""

    aoi: Names
    date: Names
    track: Names
    polygons: Polygons

    def take(self, rows: npt.ArrayLike) -> ObjectRows:
        """Return the rows picked by an index or boolean array."""
        k = np.asarray(rows)
        return ObjectRows(self.aoi[k], self.date[k], self.track[k], self.polygons.take(k))


def read_object_rows(path: str | Path, class_field: str | None = None) -> ObjectRows:
    """Read a series from a vector file, or from a CSV with its polygons as WKT in `geometry`.

    Columns: `track_id` or `id`; `timestep` or `date` (or SpaceNet 7's `filename`); `aoi` where
    there are several. The file that `geopanoptic track` writes is read as it is. Rows of one
    object and date are parts of one polygon. Raises SceneError when a column is missing.
    """
    import shapely

    frame, crs = _frame(Path(path))
    columns = [str(c) for c in frame.columns]
    if "filename" in columns and not set(DATE_FIELDS) & set(columns):
        found = frame["filename"].astype(str).str.extract(_MONTHLY)
        frame = frame.assign(date=found[0] + "-" + found[1], aoi=found[2])
        columns += ["date", "aoi"]
    id_field, date_field = _need(path, columns, ID_FIELDS), _need(path, columns, DATE_FIELDS)
    aoi_field = next((c for c in AOI_FIELDS if c in columns), None)
    named = class_field or next((c for c in CLASS_FIELDS if c in columns), None)
    n = len(frame)
    geometry = shapely.make_valid(shapely.force_2d(np.asarray(frame["geometry"], object)))
    one = np.full(n, "", object)
    classes = np.full(n, "object", object)
    if named is not None:
        classes = frame[named].astype(str).to_numpy(object)
    rows = ObjectRows(
        one if aoi_field is None else frame[aoi_field].astype(str).to_numpy(object),
        np.array([_date(v) for v in frame[date_field]], object),
        frame[id_field].to_numpy(object),
        Polygons(geometry, classes, np.full(n, np.nan), np.zeros(n, bool), one, crs),
    )
    flat = shapely.area(geometry) > 0
    return _dissolved(rows.take(flat))


def _frame(path: Path) -> tuple[Any, str | None]:
    import geopandas
    import pandas
    import pyogrio
    import shapely

    if not path.exists():
        raise SceneError(f"there is no file {path}")
    try:
        if path.suffix.lower() == ".csv":
            table = pandas.read_csv(path)
            if "geometry" in table:
                table["geometry"] = shapely.from_wkt(table["geometry"].to_numpy(object))
                return table, None
            raise SceneError(f"{path} has no column 'geometry' (WKT)")
        if path.suffix.lower() == ".parquet":
            frame = geopandas.read_parquet(path)
        else:
            layers = [str(name) for name, _ in pyogrio.list_layers(path)]
            # GeoJSON: GDAL makes the feature's own id unique; the attribute stays as it is
            with ignored(RuntimeWarning, "Several features with id"):
                frame = geopandas.read_file(path, layer=LAYER if LAYER in layers else layers[0])
    except (OSError, ValueError, RuntimeError, shapely.errors.GEOSException) as why:
        raise SceneError(f"cannot read {path} as a series of polygons: {why}") from why
    frame = frame.rename_geometry("geometry") if frame.geometry.name != "geometry" else frame
    return frame, frame.crs.to_wkt() if frame.crs else None


def _need(path: str | Path, columns: Sequence[str], usual: Sequence[str]) -> str:
    found = next((c for c in usual if c in columns), None)
    if found is None:
        raise SceneError(
            f"{path} is no series of objects: it has no column {' or '.join(usual[:2])}; it has "
            f"{', '.join(columns)}"
        )
    return found


def _date(value: Any) -> Any:
    """Return what sorts in time: numbers as they are, the rest as (ISO) text."""
    if isinstance(value, int | float | np.number):
        return float(value)
    text = value.isoformat() if hasattr(value, "isoformat") else str(value)
    try:
        when = dt.datetime.fromisoformat(text)
    except ValueError:
        return text
    # a reader of files may make times of dates, so that the two sides would not meet
    when = when.replace(tzinfo=None) if when.tzinfo is None else when.astimezone(dt.UTC)
    when = when.replace(tzinfo=None)
    return when.date().isoformat() if when.time() == dt.time() else when.isoformat()


def _dissolved(rows: ObjectRows) -> ObjectRows:
    """Unite the rows of one object and date."""
    import pandas
    import shapely

    key = pandas.DataFrame({"aoi": rows.aoi, "date": rows.date, "track": rows.track})
    group = key.groupby(["aoi", "date", "track"], sort=False).ngroup().to_numpy()
    first = np.unique(group, return_index=True)[1]
    if len(first) == len(group):
        return rows
    order = np.argsort(group, kind="stable")
    parts = np.split(rows.polygons.geometry[order], np.cumsum(np.bincount(group))[:-1])
    out = rows.take(first)
    out.polygons.geometry[:] = [shapely.union_all(p) if len(p) > 1 else p[0] for p in parts]
    return out


def evaluate_polygon_series(
    pred: str | Path, truth: str | Path, settings: EvaluateSettings
) -> tuple[dict[str, Any], list[PolygonScene]]:
    """Return the result of a series of polygons: the figures of all dates summed, and `series`.

    Areas of interest and dates are the truth's (solaris). Raises SceneError for files that are no
    series.
    """
    t = read_object_rows(truth, settings.truth_class_field)
    p = _in_crs_of(read_object_rows(pred, settings.pred_class_field), t)
    if set(t.polygons.class_name) == {"object"} or set(p.polygons.class_name) == {"object"}:
        for side in (t, p):
            side.polygons.class_name[:] = "object"
    names = sorted({str(n) for side in (t, p) for n in side.polygons.class_name})
    scenes: list[PolygonScene] = []
    found, dates = {}, {}
    for aoi in sorted(set(t.aoi)):
        objects = []
        of_truth, of_pred = t.take(t.aoi == aoi), p.take(p.aoi == aoi)
        dates[aoi] = sorted(set(of_truth.date))
        for date in dates[aoi]:
            a, b = of_truth.take(of_truth.date == date), of_pred.take(of_pred.date == date)
            label = f"#{aoi}/{_shown(date)}"
            scene = compare_polygons(
                (f"{pred}{label}", f"{truth}{label}"), b.polygons, a.polygons, names, settings
            )
            keep = scene.chosen.truth, scene.chosen.pred
            objects.append(date_objects(scene.overlap, (_codes(t, a), _codes(p, b)), keep))
            scenes.append(scene)
        found[aoi] = scot(objects)
    things = frozenset(range(1, len(names) + 1))
    result = polygon_result(Figures(scenes, names, things, settings, len(names)), scenes, settings)
    result["series"] = scot_figures(found, {k: [_shown(d) for d in v] for k, v in dates.items()})
    return result, scenes


def _codes(whole: ObjectRows, part: ObjectRows) -> Ints:
    """Return the ids over time as whole numbers, in the order of the ids."""
    every = np.unique(whole.track.astype(str)) if _mixed(whole.track) else np.unique(whole.track)
    wanted = part.track.astype(every.dtype) if len(part.track) else part.track
    return np.searchsorted(every, wanted).astype(np.int64)


def _mixed(track: Names) -> bool:
    return not all(isinstance(v, int | float | np.number) for v in track)


def _shown(date: Any) -> str:
    return str(int(date)) if isinstance(date, float) and date.is_integer() else str(date)


def _in_crs_of(rows: ObjectRows, other: ObjectRows) -> ObjectRows:
    from dataclasses import replace

    from geopanoptic.georef import GeoRef
    from geopanoptic.panoptic_map.vector import in_crs

    p, crs = rows.polygons, other.polygons.crs
    if p.crs is None and crs is None:
        return rows
    moved = in_crs(p, GeoRef(crs, GeoRef.of_pixels((1, 1)).transform, (1, 1)))
    return replace(rows, polygons=replace(p, geometry=moved, crs=crs))

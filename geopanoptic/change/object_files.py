"""Objects from files: the polygons of a vector layer, the things of a panoptic map."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from geopanoptic.change.objects import UNNAMED, Floats, Geometries, ObjectSet
from geopanoptic.errors import SceneError, nearest_name
from geopanoptic.georef import metre_frame
from geopanoptic.grid import Window
from geopanoptic.panoptic_map.vector import CLASS_FIELDS, SCORE_FIELDS

if TYPE_CHECKING:
    from geopanoptic.panoptic_map import PanopticMap

T = TypeVar("T")
ID_FIELDS = ("id", "instance_id")
FEATURE_ID = "fid"  # what the format itself calls a feature, when no attribute has that name
_BLOCK = 2048
_EXACT = 20_000  # so many objects are measured one by one; more by a grid of area factors
_KNOTS = 257


@dataclass(frozen=True, slots=True)
class ObjectFields:
    """Which attributes name an object, its class; the layer; the class of files without one."""

    id_field: str | None = None
    class_field: str | None = None
    layer: str | None = None
    only_class: str = UNNAMED


def read_objects(path: str | Path, fields: ObjectFields | None = None) -> ObjectSet:
    """Read the polygons of a vector layer (GeoPackage, GeoJSON, FlatGeobuf, GeoParquet, ...).

    The id is the attribute `fields.id_field`, else `id`, else `instance_id`, else the feature id
    of the format ('fid'). Invalid outlines are repaired, rows without a polygon left out. All are
    taken as observed. The layer is `things` where there is one, else the first.
    Raises SceneError for an unreadable file, an unknown attribute, ids that are missing or occur
    twice, and geometries that are no polygons.
    """
    fields = ObjectFields() if fields is None else fields
    frame, names = _read(Path(path), fields)
    geometry = _polygons(np.asarray(frame.geometry.array, object), path)
    full = ~(shapely.is_missing(geometry) | shapely.is_empty(geometry))
    n = len(frame)
    id_field = fields.id_field or next((c for c in ID_FIELDS if c in names), FEATURE_ID)
    raw = frame.index if id_field not in names else frame[id_field]
    class_field = fields.class_field or next((c for c in CLASS_FIELDS if c in names), None)
    classes = np.full(n, fields.only_class, object)
    if class_field is not None:
        classes = _texts(frame[class_field])
    score_field = next((c for c in SCORE_FIELDS if c in names), None)
    scores = np.full(n, np.nan)
    if score_field is not None:
        scores = frame[score_field].to_numpy(np.float64, na_value=np.nan)
    edge = np.zeros(n, bool)
    if "touches_edge" in names:
        edge = frame["touches_edge"].fillna(False).astype(bool).to_numpy()
    ids = _ids(raw[full], id_field, path)
    crs = frame.crs.to_wkt() if frame.crs else None
    geometry = geometry[full]
    return ObjectSet(
        ids, classes[full], geometry, scores[full], np.ones(len(ids)),
        true_areas_m2(geometry, crs), edge[full], crs,
    )  # fmt: skip


def attributes(path: str | Path, layer: str | None = None) -> list[str]:
    """Return the attribute names of the layer that `read_objects` would read."""
    return _opened(Path(path), lambda p: _names(p, layer)[1])


def _read(path: Path, fields: ObjectFields) -> tuple[Any, list[str]]:
    """Return the rows with the attributes that are needed, and all attribute names."""
    return _opened(path, lambda p: _read_frame(p, fields))


def _opened(path: Path, read: Callable[[Path], T]) -> T:
    if not path.exists():
        raise SceneError(f"there is no file {path}")
    try:
        return read(path)
    except SceneError:
        raise
    except Exception as why:
        raise SceneError(
            f"cannot read {path} as a vector file: {why}; GeoPackage, GeoJSON, FlatGeobuf and "
            f"GeoParquet are read"
        ) from why


def _names(path: Path, wanted: str | None) -> tuple[str | None, list[str]]:
    """Return the layer to read and its attributes."""
    import pyogrio

    if path.suffix.lower() == ".parquet":
        import pyarrow.parquet as pq

        return None, [
            c for c in pq.read_schema(path).names if c not in ("geometry", "geom", "bbox")
        ]
    layers = [str(name) for name in pyogrio.list_layers(path)[:, 0]]
    layer = wanted or ("things" if "things" in layers else layers[0])
    if layer not in layers:
        raise SceneError(
            f"{path} has no layer '{layer}'{nearest_name(layer, layers)}; it has "
            f"{', '.join(layers)}"
        )
    return layer, [str(c) for c in pyogrio.read_info(path, layer=layer)["fields"]]


def _read_frame(path: Path, fields: ObjectFields) -> tuple[Any, list[str]]:
    import geopandas
    import pyogrio

    layer, names = _names(path, fields.layer)
    _check_fields(path, names, fields)
    if layer is None:
        return geopandas.read_parquet(path), names
    usual = (*ID_FIELDS, *CLASS_FIELDS, *SCORE_FIELDS, "touches_edge")
    wanted = [c for c in names if c in (*usual, fields.id_field, fields.class_field)]
    # in Arrow tables GDAL calls the feature id of GeoJSON 'id', also beside such an attribute
    arrow = path.suffix.lower() not in (".geojson", ".json")
    frame = pyogrio.read_dataframe(
        path, layer=layer, columns=wanted, fid_as_index=True, use_arrow=arrow
    )
    return frame, names


def _check_fields(path: Path, names: list[str], fields: ObjectFields) -> None:
    for field in (fields.id_field, fields.class_field):
        if field is not None and field not in names and field != FEATURE_ID:
            raise SceneError(
                f"{path} has no attribute '{field}'{nearest_name(field, names)}; it has "
                f"{', '.join(names) or 'none'}"
            )


def _texts(column: Any) -> npt.NDArray[np.object_]:
    """Return classes as text; whole numbers without '.0', missing ones as 'unknown'."""
    values = column.to_numpy(object, na_value=None)
    return np.array(
        [
            "unknown" if v is None or v != v
            else str(int(v)) if isinstance(v, float) and v.is_integer()
            else str(v)
            for v in values.tolist()
        ],
        object,
    )  # fmt: skip


def _ids(column: Any, name: str, path: str | Path) -> npt.NDArray[Any]:
    """Return ids as int64 where they are whole numbers, else as text; SceneError when unusable."""
    import pandas

    missing = int(pandas.isna(column).sum())
    if missing:
        raise SceneError(
            f"{path}: {missing} of {len(column)} objects have no '{name}'; name another attribute "
            f"with --id-field ('{FEATURE_ID}': the feature id)"
        )
    counts = pandas.Index(column).duplicated(keep=False)
    if counts.any():
        example = pandas.Index(column)[counts][0]
        raise SceneError(
            f"{path}: {int(counts.sum())} objects share their '{name}' with others (the first: "
            f"{example}); an id must name one object: give another attribute with --id-field "
            f"('{FEATURE_ID}': the feature id)"
        )
    values = np.asarray(column)
    if np.issubdtype(values.dtype, np.integer):
        return values.astype(np.int64)
    if np.issubdtype(values.dtype, np.floating) and (values == np.rint(values)).all():
        return values.astype(np.int64)
    return np.array([str(v) for v in values.tolist()], object)


def _polygons(geometry: Geometries, path: str | Path) -> Geometries:
    """Return flat, valid (multi)polygons; SceneError for points and lines."""
    if shapely.has_z(geometry).any():
        geometry = shapely.force_2d(geometry)
    full = ~(shapely.is_missing(geometry) | shapely.is_empty(geometry))
    flat = full & (shapely.get_dimensions(geometry) < 2)
    if flat.any():
        raise SceneError(
            f"{path}: {int(flat.sum())} of {len(geometry)} geometries are points or lines; "
            f"objects are polygons"
        )
    bad = np.flatnonzero(full & ~shapely.is_valid(geometry))
    if len(bad):
        geometry = geometry.copy()
        geometry[bad] = areal(shapely.make_valid(geometry[bad]))
    return geometry


def areal(geometry: Geometries) -> Geometries:
    """Return the polygons of each geometry as one multipolygon; None where it has no area."""
    parts, of = shapely.get_parts(geometry, return_index=True)
    inner, which = shapely.get_parts(parts, return_index=True)  # collections may hold multis
    keep = shapely.get_dimensions(inner) == 2
    made: Geometries = np.full(len(geometry), None, object)
    if keep.any():
        shapely.multipolygons(inner[keep], indices=of[which][keep], out=made)
    return made


def true_areas_m2(geometry: Geometries, crs: str | None) -> Floats:
    """Return areas on the ellipsoid: plane area x true area of a square unit at the centroid.

    Second order in the object's size: 1e-6 at 10 km. For many objects the factor is interpolated
    between knots of a grid over their extent; of second order in the distance of knots. Plain
    areas without a CRS.
    """
    plain: Floats = shapely.area(geometry)
    if crs is None or not len(geometry):
        return plain
    centre = shapely.get_coordinates(shapely.centroid(geometry))
    if len(centre) <= _EXACT:
        factor = np.abs(np.linalg.det(metre_frame(crs, centre[:, 0], centre[:, 1])))
        return np.asarray(plain * factor, np.float64)
    from scipy.interpolate import RegularGridInterpolator

    low, high = centre.min(axis=0), centre.max(axis=0)
    high = np.maximum(high, low + 1e-9 * np.maximum(np.abs(low), 1.0))
    x, y = (np.linspace(low[k], high[k], _KNOTS) for k in (0, 1))
    grid = metre_frame(crs, *np.meshgrid(x, y, indexing="ij"))
    factor = RegularGridInterpolator((x, y), np.abs(np.linalg.det(grid)))(centre)
    return np.asarray(plain * factor, np.float64)


def in_crs_of(objects: ObjectSet, crs: str | None) -> ObjectSet:
    """Return the objects with coordinates in another CRS; ids and true areas stay.

    Raises SceneError when just one of the two has a CRS.
    """
    if (objects.crs is None) != (crs is None):
        raise SceneError(
            "one of the two dates has a coordinate reference system and the other has none; "
            "assign the missing one (ogr2ogr -a_srs EPSG:XXXX, gdal_edit.py -a_srs EPSG:XXXX)"
        )
    if objects.crs is None or crs is None or objects.crs == crs:
        return objects
    if pyproj.CRS.from_wkt(objects.crs) == pyproj.CRS.from_wkt(crs):
        return replace(objects, crs=crs)
    change = pyproj.Transformer.from_crs(objects.crs, crs, always_xy=True)
    moved = shapely.transform(
        objects.geometry, lambda xy: np.stack(change.transform(xy[:, 0], xy[:, 1]), axis=1)
    )
    bad = np.flatnonzero(~shapely.is_valid(moved))
    if len(bad):
        moved[bad] = areal(shapely.make_valid(moved[bad]))
    return replace(objects, geometry=moved, crs=crs)


def map_objects(panoptic: PanopticMap) -> ObjectSet:
    """Return the things of a map with their exact outlines, traced block by block, by id.

    All are taken as observed (see `ObjectSet.seen`).
    """
    from geopanoptic.panoptic_map import segment_areas_m2
    from geopanoptic.polygons import thing_labels, trace

    is_thing = np.zeros(256, bool)
    is_thing[[c.id for c in panoptic.schema.things]] = True

    def labels(window: Window) -> npt.NDArray[np.int32]:
        classes, ids = panoptic.read(window)
        return thing_labels(classes, np.where(is_thing[classes], ids, np.int32(0)))

    batches = list(trace(labels, panoptic.georef.shape, _BLOCK, group="id"))
    ids = np.concatenate([b.labels for b in batches] or [np.zeros(0, np.int32)]).astype(np.int64)
    geometry = np.concatenate(
        [b.to_geometry(panoptic.georef.transform) for b in batches] or [np.zeros(0, object)]
    )
    edge = np.concatenate([b.touches_edge for b in batches] or [np.zeros(0, bool)])
    table = panoptic.segment_table.things
    table = table.take(np.argsort(table.id, kind="stable"))
    order = np.argsort(ids, kind="stable")
    ids = ids[order]
    lost = ids[~np.isin(ids, table.id)]
    if len(lost):
        raise SceneError(
            f"{panoptic.name}: instance {lost[0]} of the raster (and {len(lost) - 1} more) is not "
            f"in its table of segments; the map is damaged, predict it anew"
        )
    table = table.take(np.searchsorted(table.id, ids))
    scores = table.score.astype(np.float64)
    if panoptic.score:
        scores = np.array([panoptic.score.get(int(k), np.nan) for k in ids], np.float64)
    names = {c.id: c.name for c in panoptic.schema.classes}
    classes = np.array([names[int(c)] for c in table.class_id], object)
    return ObjectSet(
        ids, classes, geometry[order], scores, np.ones(len(ids)),
        np.asarray(segment_areas_m2(table, panoptic.georef), np.float64), edge[order],
        panoptic.georef.crs,
    )  # fmt: skip

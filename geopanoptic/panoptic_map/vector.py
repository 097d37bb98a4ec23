"""A vector file as a map of things: polygons rasterised window by window on somebody's grid."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import SceneError, nearest_name
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.schema import VOID, ClassSpec, LabelSchema

VECTOR_SUFFIXES = (".gpkg", ".geojson", ".json", ".fgb", ".parquet", ".shp", ".csv")
CLASS_FIELDS = ("class_name", "class", "category", "label", "class_id")
SCORE_FIELDS = ("score", "confidence", "Confidence", "conf")
_COLORS = ("#d1495b", "#edae49", "#00798c", "#66a182", "#2e4057", "#8d96a3", "#9b5de5", "#f15bb5")


@dataclass(frozen=True, slots=True)
class Polygons:
    """Polygons of things as columns; `geometry` an object array of shapely geometries.

    `class_name` str, `score` float64 (NaN unknown), `ignore` bool (crowds), `image` str ('' for a
    file of one scene), `crs` WKT or None.
    """

    geometry: npt.NDArray[np.object_]
    class_name: npt.NDArray[np.object_]
    score: npt.NDArray[np.float64]
    ignore: npt.NDArray[np.bool_]
    image: npt.NDArray[np.object_]
    crs: str | None

    def __len__(self) -> int:
        return len(self.geometry)

    def take(self, rows: npt.ArrayLike) -> Polygons:
        """Return the rows picked by an index or boolean array."""
        k = np.asarray(rows)
        return Polygons(
            self.geometry[k], self.class_name[k], self.score[k], self.ignore[k], self.image[k],
            self.crs,
        )  # fmt: skip

    def schema(self) -> LabelSchema:
        """Return a schema of the classes named, all of them things, in order of name."""
        names = sorted({str(n) for n in self.class_name})
        return LabelSchema(
            tuple(
                ClassSpec(k, name, "thing", _COLORS[k % len(_COLORS)])
                for k, name in enumerate(names, 1)
            )
        )


@dataclass(frozen=True, slots=True)
class FieldChoice:
    """Which attributes of a vector file say class, ignore flag; and which layer to read."""

    class_field: str | None = None
    crowd_field: str | None = None
    layer: str | None = None
    only_class: str = "building"


def read_polygons(path: str | Path, fields: FieldChoice) -> Polygons:
    """Read the polygons of a vector file (any format GDAL or pyarrow reads; SpaceNet CSV).

    Rows without a polygon are left out. Without a class attribute all are of `only_class`.
    Raises SceneError for an unreadable file, an unknown field, or geometries without area.
    """
    import shapely

    frame, crs = _read_frame(Path(path), fields.layer)
    columns = [c for c in frame.columns if c != "geometry"]
    geometry = np.asarray(frame["geometry"].array, dtype=object)
    class_field = _field(path, columns, fields.class_field, CLASS_FIELDS)
    score_field = _field(path, columns, None, SCORE_FIELDS)
    n = len(frame)
    names = (
        np.full(n, fields.only_class, object)
        if class_field is None
        else np.array([_text(v) for v in frame[class_field]], object)
    )
    score = np.full(n, np.nan) if score_field is None else frame[score_field].to_numpy(float)
    ignore = np.zeros(n, bool)
    if fields.crowd_field is not None:
        crowd = _field(path, columns, fields.crowd_field, ())
        ignore = frame[crowd].fillna(0).astype(bool).to_numpy()
    image = frame["ImageId"].astype(str).to_numpy(object) if "ImageId" in columns else None
    out = Polygons(
        geometry, names, score, ignore, np.full(n, "", object) if image is None else image, crs
    )
    full = ~(shapely.is_missing(geometry) | shapely.is_empty(geometry))
    flat = full & (shapely.get_dimensions(geometry) < 2)
    if flat.any():
        raise SceneError(
            f"{path}: {int(flat.sum())} of {n} geometries are points or lines; things are polygons"
        )
    return out.take(full)


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _field(path: Any, columns: list[str], wanted: str | None, usual: tuple[str, ...]) -> str | None:
    if wanted is not None:
        if wanted not in columns:
            raise SceneError(
                f"{path} has no attribute '{wanted}'{nearest_name(wanted, columns)}; "
                f"it has {', '.join(columns) or 'none'}"
            )
        return wanted
    return next((c for c in usual if c in columns), None)


def _read_frame(path: Path, layer: str | None) -> tuple[Any, str | None]:
    import geopandas

    if not path.exists():
        raise SceneError(f"there is no file {path}")
    if path.suffix.lower() == ".csv":
        return _read_spacenet(path), None
    try:
        if path.suffix.lower() == ".parquet":
            frame = geopandas.read_parquet(path)
        else:
            frame = geopandas.read_file(path, layer=layer or _things_layer(path))
    except Exception as why:
        raise SceneError(
            f"cannot read {path} as a vector file: {why}; GeoPackage, GeoJSON, FlatGeobuf, "
            f"GeoParquet and SpaceNet's CSV are read"
        ) from why
    frame = frame.rename_geometry("geometry") if frame.geometry.name != "geometry" else frame
    return frame, frame.crs.to_wkt() if frame.crs else None


def _read_spacenet(path: Path) -> Any:
    """Read SpaceNet's CSV: one row per building, WKT in pixels, images told apart by ImageId."""
    import pandas
    import shapely

    frame = pandas.read_csv(path)
    if "PolygonWKT_Pix" not in frame or "ImageId" not in frame:
        raise SceneError(
            f"{path}: of CSV files only SpaceNet's is read, with columns ImageId, PolygonWKT_Pix"
        )
    wkt = frame["PolygonWKT_Pix"].to_numpy(object)
    return frame.assign(geometry=shapely.force_2d(shapely.from_wkt(wkt)))


def _things_layer(path: Path) -> str | None:
    """Return 'things' when the file has that layer (ours does), else None: its first one."""
    import pyogrio

    names = [str(name) for name, _ in pyogrio.list_layers(path)]
    return "things" if "things" in names else None


@dataclass(frozen=True, slots=True)
class VectorSource:
    """Polygons burnt on a grid: pixel centres inside (all-touched off), the later one on top.

    `geometry` lies in pixel coordinates (x = col, y = row) of the whole grid, so that a window
    is burnt with a whole-number shift and windows agree to the pixel. The id of a polygon is its
    row number + 1; pixels outside every polygon are void.
    """

    geometry: npt.NDArray[np.object_] = field(repr=False)
    class_id: npt.NDArray[np.uint8] = field(repr=False)
    bounds: npt.NDArray[np.float64] = field(repr=False)

    @classmethod
    def of(cls, polygons: Polygons, schema: LabelSchema, georef: GeoRef) -> VectorSource:
        """Bring the polygons to the grid of `georef`; SceneError when CRSs cannot be related."""
        import shapely

        geometry = in_crs(polygons, georef)
        pixels = shapely.transform(
            geometry, lambda xy: np.stack(georef.rowcol(xy[:, 0], xy[:, 1])[::-1], axis=1)
        )
        class_id = np.array([schema.by_name(str(n)).id for n in polygons.class_name], np.uint8)
        return cls(pixels, class_id, shapely.bounds(pixels).reshape(-1, 4))

    def __len__(self) -> int:
        return len(self.geometry)

    def overlapping(self) -> int:
        """Return how many pairs of polygons share ground; the later one of a pair lies on top."""
        import shapely

        tree = shapely.STRtree(self.geometry)
        a, b = tree.query(self.geometry, predicate="intersects")
        a, b = a[a < b], b[a < b]
        shared = shapely.area(
            shapely.intersection(
                shapely.make_valid(self.geometry[a]), shapely.make_valid(self.geometry[b])
            )
        )
        return int((shared > 1e-3).sum())  # of a pixel: less is rounding of shared borders

    def read(self, window: Window) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Return the window's classes (void outside polygons) and ids."""
        from affine import Affine
        from rasterio.features import rasterize

        x0, y0, x1, y1 = self.bounds.T
        meets = (
            (x0 < window.col_stop) & (x1 > window.col) & (y0 < window.row_stop) & (y1 > window.row)
        )
        rows = np.flatnonzero(meets)
        if len(rows) == 0:
            return np.full(window.shape, VOID, np.uint8), np.zeros(window.shape, np.int32)
        ids = rasterize(
            zip(self.geometry[rows], (rows + 1).tolist(), strict=True),
            out_shape=window.shape,
            transform=Affine.translation(window.col, window.row),
            fill=0,
            dtype="int32",
        )
        classes = np.concatenate(([np.uint8(VOID)], self.class_id))[ids]
        return classes.astype(np.uint8), ids


def in_crs(polygons: Polygons, georef: GeoRef) -> npt.NDArray[np.object_]:
    """Return the geometries in the CRS of `georef`; pixel polygons (no CRS) become map ones."""
    import pyproj
    import shapely

    if polygons.crs is None:
        if georef.crs is None:
            return polygons.geometry
        raise SceneError(
            "the polygons have no coordinate reference system but the raster has one; assign "
            "theirs (ogr2ogr -a_srs EPSG:XXXX)"
        )
    if georef.crs is None:
        raise SceneError(
            "the polygons have a coordinate reference system but the raster has none; assign the "
            "raster's (gdal_edit.py -a_srs EPSG:XXXX)"
        )
    if pyproj.CRS.from_wkt(polygons.crs) == pyproj.CRS.from_wkt(georef.crs):
        return polygons.geometry
    move = pyproj.Transformer.from_crs(polygons.crs, georef.crs, always_xy=True)
    moved: npt.NDArray[np.object_] = shapely.transform(
        polygons.geometry, lambda xy: np.stack(move.transform(xy[:, 0], xy[:, 1]), axis=1)
    )
    return moved

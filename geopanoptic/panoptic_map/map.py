"""PanopticMap: a map on disk, whatever its form, read block by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import SceneError, StoreError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.panoptic_map.coco import CocoImage, read_coco
from geopanoptic.panoptic_map.derive import derive_segments
from geopanoptic.panoptic_map.source import (
    LabelSource,
    PackedSource,
    RasterFacts,
    RasterSource,
    raster_facts,
)
from geopanoptic.panoptic_map.tables import MapInfo, load_segments, read_map_json
from geopanoptic.panoptic_map.vector import (
    VECTOR_SUFFIXES,
    FieldChoice,
    Polygons,
    VectorSource,
    read_polygons,
)
from geopanoptic.schema import LabelSchema
from geopanoptic.segments import SegmentTable


@dataclass(frozen=True)
class PanopticMap:
    """A panoptic map: class and instance of every pixel, a table of segments, a georeference.

    Small and picklable; pixels stay on disk. `name` tells it apart in messages, `folder` is the
    map directory (None for other forms), `info` what map.json says. `crowd`: ids of regions that
    hold a class but no single objects. `score`: id -> score where the source's own table has
    them. `listed`: id -> class id of the segments a COCO table lists. `stuff_ids`: the instance
    raster also tells stuff segments apart (COCO). `things_only`: made from polygons, so void
    pixels are background. `loose_kinds`: thing or stuff is only guessed from the pixels.
    `polygons`: what the source burns, whatever is made of the source later.
    `by_rows`: the file is laid out in whole rows, so whole rows are cheapest to read.
    """

    name: str
    georef: GeoRef
    info: MapInfo
    source: LabelSource
    folder: Path | None = None
    has_instances: bool = True
    crowd: frozenset[int] = frozenset()
    score: Mapping[int, float] = field(default_factory=dict)
    listed: Mapping[int, int] = field(default_factory=dict)
    listed_area: Mapping[int, int] = field(default_factory=dict)
    stuff_ids: bool = False
    things_only: bool = False
    loose_kinds: bool = False
    by_rows: bool = False
    polygons: VectorSource | None = None

    @classmethod
    def open(cls, path: str | Path, like: GeoRef | None = None) -> PanopticMap:
        """Open a MAP of contracts.md section 2.

        A map directory; `X.json` + `X/` PNGs (of one image); `SEMANTIC.tif,INSTANCES.tif`; a
        class raster alone; a vector file, which needs the grid to burn it on: `like`.
        Raises SceneError, StoreError or SchemaError with the cure.
        """
        maps = open_maps(path, like=like)
        if len(maps) != 1:
            raise SceneError(
                f"{path} holds {len(maps)} images, not one; read them with open_maps, or give "
                f"a file of one image"
            )
        return maps[0]

    @property
    def schema(self) -> LabelSchema:
        return self.info.schema

    @property
    def date(self) -> str | None:
        return self.info.date

    def read(self, window: Window) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """Return (class_id uint8, instance_id int32) of a window inside the map.

        class_id 0 = nodata, 255 = void; instance_id 0 = not a thing (COCO: 0 = void).
        """
        if not Window.whole(self.georef.shape).contains(window):
            raise SceneError(f"{window} is not inside {self.name} of {self.georef.shape} pixels")
        return self.source.read(window)

    @cached_property
    def segment_table(self) -> SegmentTable:
        """The table of segments: segments.parquet where there is one, else read from the pixels."""
        if self.folder is not None and (self.folder / "segments.parquet").exists():
            return load_segments(self.folder)
        return derive_segments(self.georef.shape, self.read, self.schema)

    @property
    def segments(self) -> Any:
        """The segments as a pandas DataFrame: one row per segment, columns as in the Parquet."""
        from geopanoptic.panoptic_map.frames import segments_frame

        return segments_frame(self)

    def things(self) -> Any:
        """Return the things as a GeoDataFrame: from panoptic.gpkg, else traced from the pixels."""
        from geopanoptic.panoptic_map.frames import layer_frame

        return layer_frame(self, "things")

    def stuff(self) -> Any:
        """Return the connected parts of the stuff classes as a GeoDataFrame."""
        from geopanoptic.panoptic_map.frames import layer_frame

        return layer_frame(self, "stuff")

    @property
    def semantic(self) -> Any:
        """The class raster as a lazy xarray.DataArray (y, x), uint8, with its CRS (rio)."""
        from geopanoptic.panoptic_map.frames import lazy_raster

        return lazy_raster(self, 0, "semantic")

    @property
    def instances(self) -> Any:
        """The instance raster as a lazy xarray.DataArray (y, x), int32, with its CRS (rio)."""
        from geopanoptic.panoptic_map.frames import lazy_raster

        return lazy_raster(self, 1, "instances")


def open_maps(
    path: str | Path,
    *,
    like: GeoRef | None = None,
    schema: LabelSchema | None = None,
    fields: FieldChoice | None = None,
) -> list[PanopticMap]:
    """Open a MAP that may hold several images (COCO); one map per image, in the file's order.

    `like`: the grid for polygons. `schema`: the classes of rasters that do not name theirs and
    of COCO files without categories. `fields`: the attributes of vector files.
    """
    text, file = str(path), Path(path)
    if file.is_dir():
        return [_open_directory(file)]
    if "," in text and not file.exists():
        semantic, _, instances = text.partition(",")
        return [_open_rasters(text, semantic.strip(), instances.strip(), schema)]
    if not file.exists():
        raise SceneError(
            f"there is no map {path}; a map is a directory NAME.panoptic, a COCO panoptic X.json "
            f"with its folder X/, SEMANTIC.tif,INSTANCES.tif, or a vector file"
        )
    if file.suffix.lower() == ".json" and is_coco(file):
        classes, images = read_coco(file, schema)
        return [_from_coco(file, classes, image) for image in images]
    if file.suffix.lower() in VECTOR_SUFFIXES:
        if like is None:
            raise SceneError(
                f"{path} is a vector file: pixels are needed here, and it does not say on which "
                f"grid; give a map directory or a raster"
            )
        return [from_polygons(text, read_polygons(file, fields or FieldChoice()), like, schema)]
    return [_open_rasters(text, text, None, schema)]


def is_coco(path: Path) -> bool:
    """Tell whether a .json file is COCO panoptic (and not GeoJSON) by its beginning."""
    with path.open(encoding="utf-8", errors="replace") as file:
        head = file.read(4096)
    return "FeatureCollection" not in head and '"Feature"' not in head


def is_vector(path: str | Path) -> bool:
    """Tell whether a MAP argument is a vector file."""
    file = Path(path)
    if file.is_dir() or file.suffix.lower() not in VECTOR_SUFFIXES or not file.exists():
        return False
    return file.suffix.lower() != ".json" or not is_coco(file)


def from_polygons(
    name: str, polygons: Polygons, georef: GeoRef, schema: LabelSchema | None = None
) -> PanopticMap:
    """Make a map of things from polygons on the grid of `georef`.

    The schema is the polygons' own class names, with the ids and colours of `schema` where it
    names them all.
    """
    classes = polygons.schema()
    if schema is not None and set(classes.names) <= set(schema.names):
        classes = schema.subset(classes.names)
    source = VectorSource.of(polygons, classes, georef)
    known = np.flatnonzero(~np.isnan(polygons.score))
    return PanopticMap(
        name,
        georef,
        MapInfo(classes),
        source,
        crowd=frozenset((np.flatnonzero(polygons.ignore) + 1).tolist()),
        score={int(k) + 1: float(polygons.score[k]) for k in known},
        things_only=True,
        polygons=source,
    )


def _open_directory(folder: Path) -> PanopticMap:
    info = read_map_json(folder)
    for name in ("semantic.tif", "instances.tif"):
        if not (folder / name).exists():
            raise StoreError(f"{folder} is an incomplete map: it has no {name}")
    source, facts = _raster_pair(folder / "semantic.tif", folder / "instances.tif")
    return PanopticMap(str(folder), facts.georef, info, source, folder, by_rows=facts.by_rows)


def _raster_pair(semantic: Path, instances: Path | None) -> tuple[RasterSource, RasterFacts]:
    facts = raster_facts(semantic)
    nodata = None if facts.nodata is None else int(facts.nodata)
    if instances is None:
        return RasterSource(str(semantic), None, nodata), facts
    other = raster_facts(instances)
    difference = grid_difference(facts.georef, other.georef)
    if difference:
        raise SceneError(f"{semantic} and {instances} lie on different grids: {difference}")
    by_rows = facts.by_rows or other.by_rows
    return RasterSource(str(semantic), str(instances), nodata), replace(facts, by_rows=by_rows)


def grid_difference(a: GeoRef, b: GeoRef) -> str:
    """Say how two grids differ (shape, CRS, pixel corners by > 0.001 px), or return ''."""
    import pyproj

    if a.shape != b.shape:
        return f"{a.shape[0]} x {a.shape[1]} against {b.shape[0]} x {b.shape[1]} pixels"
    if (a.crs is None) != (b.crs is None):
        return f"one has no coordinate reference system ({_crs_name(a)} against {_crs_name(b)})"
    if a.crs and b.crs and pyproj.CRS.from_wkt(a.crs) != pyproj.CRS.from_wkt(b.crs):
        return f"{_crs_name(a)} against {_crs_name(b)}"
    h, w = a.shape
    x, y = a.xy([0, 0, h, h], [0, w, 0, w])
    row, col = b.rowcol(x, y)
    off = max(np.abs(row - [0, 0, h, h]).max(), np.abs(col - [0, w, 0, w]).max())
    if off > 1e-3:
        return f"corners differ by up to {off:.3f} pixels ({_corner(a)} against {_corner(b)})"
    return ""


def _crs_name(georef: GeoRef) -> str:
    import pyproj

    return "no CRS" if georef.crs is None else pyproj.CRS.from_wkt(georef.crs).name


def _corner(georef: GeoRef) -> str:
    t = georef.transform
    return f"corner {t.c:.6g}, {t.f:.6g}, pixel {t.a:.6g} x {t.e:.6g}"


def _open_rasters(
    name: str, semantic: str, instances: str | None, schema: LabelSchema | None
) -> PanopticMap:
    from geopanoptic.panoptic_map.names import raster_schema

    source, facts = _raster_pair(Path(semantic), Path(instances) if instances else None)
    georef = facts.georef
    classes = schema or raster_schema(source, georef)
    return PanopticMap(
        name,
        georef,
        MapInfo(classes),
        source,
        has_instances=instances is not None,
        loose_kinds=schema is None,
        by_rows=facts.by_rows,
    )


def packed_map(path: str | Path, divisor: int, schema: LabelSchema | None = None) -> PanopticMap:
    """Open one raster of class x divisor + instance; SceneError when it is none.

    Without a `schema` classes are called class_N, and those with instances are things.
    """
    from geopanoptic.panoptic_map.names import raster_schema

    facts = raster_facts(path)
    source = PackedSource(str(path), divisor)
    classes = schema or raster_schema(source, facts.georef)
    return PanopticMap(
        str(path), facts.georef, MapInfo(classes), source, loose_kinds=schema is None,
        by_rows=facts.by_rows,
    )  # fmt: skip


def _from_coco(path: Path, schema: LabelSchema, image: CocoImage) -> PanopticMap:
    return PanopticMap(
        f"{path}#{image.key}",
        GeoRef.of_pixels(image.shape),
        MapInfo(schema),
        image.source,
        crowd=image.crowd,
        score=image.score,
        listed=image.source.class_of,
        listed_area=image.area,
        stuff_ids=True,
        by_rows=True,
    )

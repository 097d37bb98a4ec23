"""Pick the writer for a product by its suffix, and put the product in place whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from geopanoptic.errors import ConfigError
from geopanoptic.export.coco import write_coco
from geopanoptic.export.directory import write_directory
from geopanoptic.export.opening import MapOpening
from geopanoptic.export.packed import write_packed
from geopanoptic.export.report import write_report
from geopanoptic.panoptic_map import PanopticMap, polygon_layers
from geopanoptic.store import atomic_output, atomic_outputs, check_output
from geopanoptic.vector import TableContext, regular_classes, write_vectors

VECTORS = (".gpkg", ".parquet", ".fgb", ".geojson", ".pmtiles")


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """What to export of a map.

    `classes`: names, for polygons. `min_area_m2`, `simplify_m`: for polygons. `regularize`: right
    angles for buildings (None: our default; True: the map must have the class). `tile` px: cut COCO
    images of this size (None: one image of the whole map). `divisor`: packed ids are
    class x divisor + instance. `scene`: the raster that a report shows (None: the one the map was
    made of, if it is still there). `opening`: how to read the map.
    """

    classes: tuple[str, ...] | None = None
    min_area_m2: float = 0.0
    simplify_m: float = 0.0
    regularize: bool | None = None
    tile: int | None = None
    divisor: int = 1000
    scene: str | None = None
    opening: MapOpening = field(default_factory=MapOpening)
    overwrite: bool = False


def export(map_path: str | Path, out: str | Path, settings: ExportSettings | None = None) -> Path:
    """Write a map in another format; the suffix of `out` picks it.

    `.gpkg .parquet .fgb .geojson .pmtiles`: polygons. `.json`: COCO panoptic, with its PNGs in the
    folder of the same name. `.tif`: one raster of class x divisor + instance (Cityscapes ids when
    the divisor is 1000), int32, stuff = its class id. `.html`: the map's report. `.panoptic`: a map
    directory, from whatever form the map has.

    Returns `out`. Raises ConfigError for another suffix, StoreError for an output that cannot be
    written, SchemaError for an unknown class, SceneError for ids that do not fit.
    """
    settings = settings or ExportSettings()
    final = Path(out)
    suffix = final.suffix.lower()
    if suffix not in (*VECTORS, ".json", ".tif", ".html", ".panoptic"):
        cure = " (write .gpkg: a Shapefile cuts names and sizes)" if suffix == ".shp" else ""
        raise ConfigError(
            f"{out}: no export has the suffix '{suffix}'{cure}; use {', '.join(VECTORS)} for "
            f"polygons, .json for COCO panoptic, .tif for packed ids, .html for a report, "
            f".panoptic for a map directory"
        )
    check_output(final, settings.overwrite)
    panoptic = settings.opening.open(map_path)
    if suffix == ".panoptic":
        with atomic_output(final, settings.overwrite) as folder:
            write_directory(panoptic, folder, final)
    elif suffix in VECTORS:
        _write_polygons(panoptic, final, settings)
    elif suffix == ".json":
        write_coco(panoptic, final, settings.tile, overwrite=settings.overwrite)
    elif suffix == ".html":
        with atomic_output(final, settings.overwrite) as temporary:
            write_report(panoptic, temporary, settings.scene)
    else:
        with atomic_output(final, settings.overwrite) as temporary:
            write_packed(panoptic, temporary, settings.divisor)
    return final


def _write_polygons(panoptic: PanopticMap, final: Path, settings: ExportSettings) -> None:
    model = panoptic.info.model
    context = TableContext(
        schema=panoptic.schema,
        georef=panoptic.georef,
        scene_date=panoptic.date,
        scene_id=panoptic.info.run.get("scene"),
        model=f"{model['name']} {model['version']}" if {"name", "version"} <= set(model) else None,
        classes=settings.classes,
        min_area_m2=settings.min_area_m2,
        simplify_m=settings.simplify_m,
        regularize=regular_classes(panoptic.schema, settings.regularize),
    )
    layers = polygon_layers(panoptic.read, panoptic.segment_table, context)
    files = [final]
    if len(layers) > 1 and final.suffix.lower() != ".gpkg":  # one layer a file: stuff beside
        files.append(final.with_suffix(f".stuff{final.suffix}"))
    with atomic_outputs(files, settings.overwrite) as folder:
        write_vectors(folder / final.name, layers, panoptic.georef.crs, panoptic.schema)

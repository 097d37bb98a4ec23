"""Vector files by suffix: GeoPackage, GeoParquet, FlatGeobuf, GeoJSON, PMTiles."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio

from geopanoptic.errors import ConfigError, StoreError
from geopanoptic.quiet import ignored
from geopanoptic.schema import LabelSchema
from geopanoptic.vector.geopackage import Layers, describe, publish, space_left, write_gpkg
from geopanoptic.vector.geoparquet import write_geoparquet
from geopanoptic.vector.specs import GEOMETRY, LayerSpec
from geopanoptic.vector.streaming import Stream
from geopanoptic.vector.styles import LayerStyle

SUFFIXES = (".gpkg", ".parquet", ".fgb", ".geojson", ".pmtiles")
_TILE_UNITS = 4096  # steps across a vector tile
_AROUND_M = 40_075_016.686  # of the equator
_LEVELS = 6  # zoom levels above the finest
_USUAL_ZOOM = 16  # of layers that do not tell their pixels


def need_vector_suffix(path: str | os.PathLike[str]) -> str:
    """Return the lower-case suffix of a vector path; ConfigError, with the cure, for another."""
    suffix = Path(path).suffix.lower()
    if suffix == ".shp":
        raise ConfigError(
            f"{path}: a Shapefile cuts names to 10 letters, holds no times or 64-bit numbers and "
            f"ends at 2 GB, so polygons would lose attributes; write "
            f"{Path(path).with_suffix('.gpkg')} (every GIS reads it), and convert that if need be"
        )
    if suffix not in SUFFIXES:
        raise ConfigError(
            f"{path}: polygons cannot be written as '{suffix}'; use one of {', '.join(SUFFIXES)}"
        )
    return suffix


def write_vectors(
    path: str | os.PathLike[str],
    layers: Layers,
    crs_wkt: str | None,
    schema: LabelSchema,
    *,
    styles: Mapping[str, LayerStyle] | None = None,
) -> dict[str, int]:
    """Write layers to vector files by the suffix of `path`; return the features of each layer.

    .gpkg holds all layers. The others hold one: the first layer with polygons takes `path`, each
    further one goes to NAME.LAYER.suffix beside it, and plain tables are left out. .parquet is
    GeoParquet 1.1 (WKB, bbox column, zstd; rows sorted along a Hilbert curve). .geojson follows
    RFC 7946: longitude and latitude on WGS 84, 7 decimals. .pmtiles holds vector tiles for maps on
    the web, from an overview to pixels: for the eye, outlines are cut and rounded.

    Every file appears whole or not at all. Raises ConfigError for another suffix, and for .geojson
    without a CRS; StoreError when a file cannot be written.
    """
    suffix = need_vector_suffix(path)
    if suffix == ".gpkg":
        return write_gpkg(path, layers, crs_wkt, schema, styles=styles)
    if suffix in (".geojson", ".pmtiles") and crs_wkt is None:
        name = "GeoJSON" if suffix == ".geojson" else "PMTiles"
        raise ConfigError(
            f"{path}: {name} holds places on the earth, but the scene has no coordinate "
            f"reference system; write .gpkg instead, or assign one (gdal_edit.py -a_srs)"
        )
    target = Path(path)
    counts: dict[str, int] = {}
    for key, batches in layers.items():
        spec, stream = describe(key, batches)
        if spec is None or spec.geometry_type is None:
            continue
        own = target if not counts else target.with_suffix(f".{spec.name}{target.suffix}")
        counts[spec.name] = _write_one(own, suffix, spec, stream, crs_wkt)
    return counts


def _write_one(
    target: Path,
    suffix: str,
    spec: LayerSpec,
    batches: Iterator[pa.RecordBatch],
    crs_wkt: str | None,
) -> int:
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{suffix}")
    temporary.unlink(missing_ok=True)
    try:
        if suffix == ".parquet":
            written = write_geoparquet(temporary, spec, batches, crs_wkt)
            found = pq.read_metadata(temporary).num_rows
        elif suffix == ".pmtiles":
            written = _write_tiles(temporary, spec, batches, crs_wkt or "")
            # an object lies in several tiles, or in none when it is a fraction of their step
            found = written if pyogrio.read_info(temporary)["features"] else 0
        else:
            written = _write_ogr(temporary, suffix, spec, batches, crs_wkt)
            found = pyogrio.read_info(temporary, force_feature_count=True)["features"]
        if found != written:
            raise StoreError(f"{target} holds {found} features, but {written} were written")
        publish(temporary, target)
    except (OSError, pa.ArrowException, pyogrio.errors.DataSourceError, RuntimeError) as why:
        raise StoreError(f"cannot write {target}: {why}; {space_left(target)}") from why
    finally:
        # also what GDAL leaves beside it when it fails: vector tiles wait in an SQLite file
        for left in target.parent.glob(f"{glob.escape(temporary.name)}*"):
            left.unlink()
    return written


def _write_ogr(
    path: Path,
    suffix: str,
    spec: LayerSpec,
    batches: Iterator[pa.RecordBatch],
    crs_wkt: str | None,
) -> int:
    driver, options = {
        ".fgb": ("FlatGeobuf", {"SPATIAL_INDEX": "YES"}),
        ".geojson": ("GeoJSON", {"RFC7946": "YES", "COORDINATE_PRECISION": "7"}),
    }[suffix]
    with ignored(UserWarning, "'crs' was not provided"), Stream(spec, batches) as stream:
        pyogrio.write_arrow(
            stream.reader(),
            path,
            driver=driver,
            layer=spec.name,
            geometry_name=GEOMETRY,
            geometry_type=spec.geometry_type,
            crs=crs_wkt,
            layer_options=options,
        )
    return stream.rows


def _write_tiles(
    path: Path, spec: LayerSpec, batches: Iterator[pa.RecordBatch], crs_wkt: str
) -> int:
    """Write vector tiles whose finest zoom resolves half a pixel of the map."""
    with Stream(spec, batches) as stream:
        rows = iter(stream)
        first = next(rows, None)
        if first is None:
            raise ConfigError(
                f"layer '{spec.name}' has no polygons, so there is nothing to cut into tiles; "
                f"choose other --classes"
            )
        finest = _finest_zoom(first)
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(spec.arrow_schema, chain([first], rows)),
            path,
            driver="PMTiles",
            layer=spec.name,
            geometry_name=GEOMETRY,
            geometry_type=spec.geometry_type,
            crs=crs_wkt,
            dataset_options={
                "NAME": spec.name,
                "MINZOOM": str(max(0, finest - _LEVELS)),
                "MAXZOOM": str(finest),
                "MAX_SIZE": "5000000",  # GDAL's default drops objects from crowded tiles
                "MAX_FEATURES": "1000000",
            },
        )
    return stream.rows


def _finest_zoom(batch: pa.RecordBatch) -> int:
    """Return the zoom at which one of the 4096 steps of a tile is half a pixel at most."""
    if not {"area_m2", "pixel_count"} <= set(batch.schema.names):
        return _USUAL_ZOOM
    area = np.nansum(batch.column("area_m2").to_numpy(False).astype(float))
    pixels = np.nansum(batch.column("pixel_count").to_numpy(False).astype(float))
    if not (area > 0 and pixels > 0):
        return _USUAL_ZOOM
    step = np.sqrt(area / pixels) / 2
    return int(np.clip(np.ceil(np.log2(_AROUND_M / (_TILE_UNITS * step))), 0, 22))

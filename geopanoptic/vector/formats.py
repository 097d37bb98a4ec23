"""Vector files by suffix: GeoPackage, GeoParquet, FlatGeobuf, GeoJSON."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
import shapely

from geopanoptic.errors import ConfigError, StoreError
from geopanoptic.schema import LabelSchema
from geopanoptic.vector.geopackage import Layers, describe, publish, space_left, write_gpkg
from geopanoptic.vector.specs import GEOMETRY, LayerSpec
from geopanoptic.vector.streaming import Stream
from geopanoptic.vector.styles import LayerStyle

SUFFIXES = (".gpkg", ".parquet", ".fgb", ".geojson")
_ROW_GROUP = 50_000
_BBOX = ("xmin", "ymin", "xmax", "ymax")


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
    GeoParquet 1.1 (WKB, bbox column, zstd; rows in the order they come, block by block, so row
    groups are compact). .geojson follows RFC 7946: longitude and latitude on WGS 84, 7 decimals.

    Every file appears whole or not at all. Raises ConfigError for another suffix, and for .geojson
    without a CRS; StoreError when a file cannot be written.
    """
    suffix = need_vector_suffix(path)
    if suffix == ".gpkg":
        return write_gpkg(path, layers, crs_wkt, schema, styles=styles)
    if suffix == ".geojson" and crs_wkt is None:
        raise ConfigError(
            f"{path}: GeoJSON holds longitude and latitude, but the scene has no coordinate "
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
            written = _write_parquet(temporary, spec, batches, crs_wkt)
            found = pq.read_metadata(temporary).num_rows
        else:
            written = _write_ogr(temporary, suffix, spec, batches, crs_wkt)
            found = pyogrio.read_info(temporary, force_feature_count=True)["features"]
        if found != written:
            raise StoreError(f"{target} holds {found} features, but {written} were written")
        publish(temporary, target)
    except (OSError, pa.ArrowException, pyogrio.errors.DataSourceError, RuntimeError) as why:
        raise StoreError(f"cannot write {target}: {why}; {space_left(target)}") from why
    finally:
        temporary.unlink(missing_ok=True)
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
    with warnings.catch_warnings(), Stream(spec, batches) as stream:
        warnings.filterwarnings("ignore", "'crs' was not provided", UserWarning)
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


def _write_parquet(
    path: Path, spec: LayerSpec, batches: Iterable[pa.RecordBatch], crs_wkt: str | None
) -> int:
    """Stream GeoParquet 1.1 with a bbox covering; memory holds one row group."""
    box = pa.struct([(name, pa.float64()) for name in _BBOX])
    fields = [f.remove_metadata() for f in spec.arrow_schema]
    schema = pa.schema([*fields, pa.field("bbox", box)])
    waiting, bounds = 0, np.array([np.inf, np.inf, -np.inf, -np.inf])
    held: list[pa.RecordBatch] = []
    with (
        Stream(spec, batches) as stream,
        pq.ParquetWriter(path, schema, compression="zstd") as writer,
    ):
        for batch in stream:
            boxes = shapely.bounds(shapely.from_wkb(batch.column(GEOMETRY).to_numpy(False)))
            bounds[:2] = np.fmin(bounds[:2], boxes[:, :2].min(axis=0, initial=np.inf))
            bounds[2:] = np.fmax(bounds[2:], boxes[:, 2:].max(axis=0, initial=-np.inf))
            corners = pa.StructArray.from_arrays([pa.array(c) for c in boxes.T], fields=list(box))
            held.append(pa.RecordBatch.from_arrays([*batch.columns, corners], schema=schema))
            waiting += batch.num_rows
            if waiting >= _ROW_GROUP:
                writer.write_table(pa.Table.from_batches(held), row_group_size=_ROW_GROUP)
                held, waiting = [], 0
        if held:
            writer.write_table(pa.Table.from_batches(held), row_group_size=_ROW_GROUP)
        about = _geo_metadata(spec, crs_wkt, bounds.tolist() if stream.rows else None)
        writer.add_key_value_metadata({"geo": json.dumps(about)})
    return stream.rows


def _geo_metadata(
    spec: LayerSpec, crs_wkt: str | None, bounds: list[float] | None
) -> dict[str, Any]:
    """Return the `geo` key of GeoParquet 1.1.0; a CRS of null means unknown there."""
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": [spec.geometry_type],
        "crs": None if crs_wkt is None else pyproj.CRS.from_wkt(crs_wkt).to_json_dict(),
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {"bbox": {name: ["bbox", name] for name in _BBOX}},
    }
    if bounds is not None:
        column["bbox"] = bounds
    return {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}

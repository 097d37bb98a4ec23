"""GeoPackage: streamed in one transaction per layer, styled for QGIS, verified, then published."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyogrio

from geopanoptic.errors import StoreError, nearest_name
from geopanoptic.quiet import ignored
from geopanoptic.schema import LabelSchema
from geopanoptic.vector.specs import GEOMETRY, KNOWN, LayerSpec
from geopanoptic.vector.streaming import Stream
from geopanoptic.vector.styles import LayerStyle, default_styles, other_styles

Layers = Mapping[str | LayerSpec, Iterable[pa.RecordBatch]]

_STYLES_DDL = """
CREATE TABLE layer_styles (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
 f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256),
 f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT,
 useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
 update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ','now')));
INSERT INTO gpkg_contents(table_name,data_type,identifier,description,last_change,srs_id)
 VALUES('layer_styles','attributes','layer_styles','',strftime('%Y-%m-%dT%H:%M:%fZ','now'),0);
"""


def write_gpkg(
    path: str | os.PathLike[str],
    layers: Layers,
    crs_wkt: str | None,
    schema: LabelSchema,
    *,
    styles: Mapping[str, LayerStyle] | None = None,
) -> dict[str, int]:
    """Write layers to a GeoPackage; return the number of features of each.

    `layers` maps a name ('things', 'stuff', 'run', or any other) or a LayerSpec to its batches,
    which are consumed one by one: memory holds one batch. A layer of another name takes its
    columns from its first batch, and is left out when it has none. `styles` (by layer name) are
    what QGIS draws on opening; by default things and stuff by class in the schema's colours.

    The file is written beside `path` under a hidden name, reopened and checked (integrity,
    feature counts, spatial index) and only then takes its name, replacing an older file.
    Raises StoreError when it cannot be written or does not read back as it was written.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp.gpkg")
    _remove(temporary)
    try:
        counts: dict[str, int] = {}
        specs: list[LayerSpec] = []
        for key, batches in layers.items():
            spec, stream = describe(key, batches)
            if spec is not None:
                counts[spec.name] = _write_layer(temporary, spec, stream, crs_wkt)
                specs.append(spec)
        drawn = default_styles(schema) | dict(styles or {})
        with closing(sqlite3.connect(temporary)) as db, db:
            _add_styles(db, {s.name: drawn[s.name] for s in specs if s.name in drawn})
        with closing(sqlite3.connect(temporary)) as db:
            _verify(db, specs, counts)
        publish(temporary, target)
    except (OSError, sqlite3.Error, pyogrio.errors.DataSourceError, RuntimeError) as why:
        raise StoreError(f"cannot write {target}: {why}; {space_left(target)}") from why
    finally:
        _remove(temporary)
    return counts


def read_layer(path: str | os.PathLike[str], layer: str | None = None) -> Any:
    """Read one layer of a vector file as a geopandas GeoDataFrame.

    Without `layer` the file must hold just one. Raises StoreError for a file that is none, and
    for an unknown layer (the nearest known one is named).
    """
    if Path(path).suffix.lower() == ".parquet":
        return _read_parquet(path)
    try:
        names = [str(row[0]) for row in pyogrio.list_layers(path)]
        if layer is not None and layer not in names:
            raise StoreError(
                f"{path} has no layer '{layer}'{nearest_name(layer, names)}; "
                f"it has {', '.join(names)}"
            )
        return pyogrio.read_dataframe(path, layer=layer, use_arrow=True)
    except pyogrio.errors.DataSourceError as why:
        raise StoreError(f"cannot read polygons from {path}: {why}") from why


def _read_parquet(path: str | os.PathLike[str]) -> Any:
    import geopandas

    try:
        return geopandas.read_parquet(path).rename_geometry("geometry")
    except (OSError, ValueError) as why:
        raise StoreError(f"cannot read polygons from {path}: {why}") from why


def publish(temporary: Path, target: Path) -> None:
    """Flush a finished file to disk and give it its name."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(target)


def describe(
    key: str | LayerSpec, batches: Iterable[pa.RecordBatch]
) -> tuple[LayerSpec | None, Iterator[pa.RecordBatch]]:
    """Return what a layer is (None for an unknown one without batches) and its batches."""
    stream = iter(batches)
    if isinstance(key, LayerSpec):
        return key, stream
    if key in KNOWN:
        return KNOWN[key], stream
    first = next(stream, None)
    if first is None:
        return None, stream
    return LayerSpec.of_batch(key, first.schema), chain([first], stream)


def _write_layer(
    path: Path, spec: LayerSpec, batches: Iterator[pa.RecordBatch], crs_wkt: str | None
) -> int:
    """Stream one layer in a single transaction; return how many rows it was given."""
    # a scene without CRS is told so by its empty _m2 columns; GDAL need not say it again
    with ignored(UserWarning, "'crs' was not provided"), Stream(spec, batches) as stream:
        pyogrio.write_arrow(
            stream.reader(),
            path,
            driver="GPKG",
            layer=spec.name,
            geometry_name=GEOMETRY if spec.geometry_type else None,
            geometry_type=spec.geometry_type,
            crs=crs_wkt if spec.geometry_type else None,
            # QGIS 3.22 (GDAL 3.6) warns on 1.4, which GDAL 3.12 would write
            dataset_options={} if path.exists() else {"VERSION": "1.3"},
        )
    return stream.rows


def _add_styles(db: sqlite3.Connection, styles: Mapping[str, LayerStyle]) -> None:
    """Append QGIS's `layer_styles` table; what it must hold was measured, not documented.

    f_geometry_column must be the real one, f_table_schema must be '' (not NULL) and update_time
    must exist, else QGIS ignores the style without a word.
    """
    if not styles:
        return
    db.executescript(_STYLES_DDL)
    column = dict(db.execute("SELECT table_name, column_name FROM gpkg_geometry_columns"))
    # the default comes last: some QGIS take the newest row whatever its flag (qgis/QGIS#18933)
    rows = [
        (layer, column[layer], name, style.to_qml(), 0, f"by {name}, to be chosen")
        for layer, (name, style) in other_styles().items()
        if layer in styles
    ] + [
        (layer, column[layer], "classes", style.to_qml(), 1, "classes by name and colour")
        for layer, style in styles.items()
    ]
    db.executemany(
        "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name,"
        " f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description, owner)"
        " VALUES ('', '', ?, ?, ?, ?, '', ?, ?, '')",
        rows,
    )


def _verify(db: sqlite3.Connection, specs: list[LayerSpec], counts: Mapping[str, int]) -> None:
    """Raise StoreError unless the reopened file holds what was written."""
    (answer,) = db.execute("PRAGMA integrity_check(1)").fetchone()
    if answer != "ok":
        raise StoreError(f"the GeoPackage is damaged right after writing: {answer}")
    for spec in specs:
        (found,) = db.execute(f'SELECT count(*) FROM "{spec.name}"').fetchone()
        if found != counts[spec.name]:
            raise StoreError(
                f"layer '{spec.name}' holds {found} rows, but {counts[spec.name]} were written"
            )
        if spec.geometry_type is None:
            continue
        (indexed,) = db.execute(f'SELECT count(*) FROM "rtree_{spec.name}_{GEOMETRY}"').fetchone()
        placed = f'SELECT count(*) FROM "{spec.name}" WHERE {GEOMETRY} IS NOT NULL'
        (drawn,) = db.execute(placed).fetchone()
        if indexed != drawn:
            raise StoreError(
                f"layer '{spec.name}' has {drawn} geometries but {indexed} in its index"
            )


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def space_left(target: Path) -> str:
    """Say in words how much space there is for `target`."""
    try:
        space = os.statvfs(target.parent)
    except OSError:
        return f"the folder {target.parent} must exist and be writable"
    return f"{space.f_bavail * space.f_frsize / 1e6:.0f} MB are free in {target.parent}"

"""GeoParquet 1.1: WKB, a bbox column, rows along a Hilbert curve: few row groups meet a view."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pyproj
import shapely

from geopanoptic.vector.specs import GEOMETRY, LayerSpec
from geopanoptic.vector.streaming import Stream

_ROW_GROUP = 50_000
_BBOX = ("xmin", "ymin", "xmax", "ymax")
_ORDER = 16  # bits of a Hilbert coordinate
Floats = npt.NDArray[np.float64]


def write_geoparquet(
    path: Path, spec: LayerSpec, batches: Iterator[pa.RecordBatch], crs_wkt: str | None
) -> int:
    """Write one layer; return its rows. Memory holds a row group: the rest waits in a file beside.

    Law: rows are sorted by the Hilbert index of their box's centre in the layer's extent; ties keep
    the order they came in.
    """
    waiting = path.with_name(f"{path.name}.arrow")
    box = pa.struct([(name, pa.float64()) for name in _BBOX])
    schema = pa.schema([*(f.remove_metadata() for f in spec.arrow_schema), pa.field("bbox", box)])
    try:
        with Stream(spec, batches) as stream:
            boxes, rows_of = _park(waiting, schema, stream)
        about = _geo_metadata(spec, crs_wkt, boxes)
        with ExitStack() as stack:
            writer = stack.enter_context(pq.ParquetWriter(path, schema, compression="zstd"))
            if len(boxes):
                source = stack.enter_context(pa.memory_map(str(waiting)))
                reader = stack.enter_context(pa.ipc.open_file(source))
                order = np.argsort(hilbert(_centres(boxes), _extent(boxes)), kind="stable")
                for start in range(0, len(order), _ROW_GROUP):
                    table = _gather(reader, rows_of, order[start : start + _ROW_GROUP])
                    writer.write_table(table, row_group_size=_ROW_GROUP)
            writer.add_key_value_metadata({"geo": json.dumps(about)})
    finally:
        waiting.unlink(missing_ok=True)
    return len(boxes)


def _park(
    path: Path, schema: pa.Schema, batches: Iterator[pa.RecordBatch] | Stream
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Put the rows, with their boxes, into a file; return the boxes and where each batch begins."""
    found, begins = [np.zeros((0, 4))], [0]
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for batch in batches:
            boxes = shapely.bounds(shapely.from_wkb(batch.column(GEOMETRY).to_numpy(False)))
            boxes = boxes.reshape(-1, 4)
            fields = list(schema.field("bbox").type)
            corners = pa.StructArray.from_arrays([pa.array(c) for c in boxes.T], fields=fields)
            writer.write_batch(pa.RecordBatch.from_arrays([*batch.columns, corners], schema=schema))
            found.append(boxes)
            begins.append(begins[-1] + len(boxes))
    return np.concatenate(found), np.array(begins)


def _gather(reader: Any, begins: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> pa.Table:
    """Return rows by number, in the order given, from the batches of a file."""
    batch_of = np.searchsorted(begins, rows, side="right") - 1
    parts, places = [], []
    for k in np.unique(batch_of).tolist():
        here = np.flatnonzero(batch_of == k)
        parts.append(reader.get_batch(k).take(pa.array(rows[here] - begins[k])))
        places.append(here)
    back = np.argsort(np.concatenate(places))
    return pa.Table.from_batches(parts).combine_chunks().take(pa.array(back))


def _extent(boxes: Floats) -> Floats:
    seen = boxes[~np.isnan(boxes).any(axis=1)]
    if not len(seen):
        return np.array([0.0, 0.0, 1.0, 1.0])
    return np.concatenate([seen[:, :2].min(axis=0), seen[:, 2:].max(axis=0)])


def _centres(boxes: Floats) -> Floats:
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def hilbert(points: Floats, extent: Floats) -> npt.NDArray[np.int64]:
    """Return the index of points (n, 2) along a Hilbert curve of 2^16 x 2^16 cells over `extent`.

    Points next to each other along the curve are near each other. Empty places (NaN) come first.
    Source: Warren, Hacker's Delight, chapter 16 (quadrant by quadrant, turning the axes).
    """
    size = 1 << _ORDER
    span = np.maximum(extent[2:] - extent[:2], np.finfo(float).tiny)
    with np.errstate(over="ignore"):  # far outside an extent of almost nothing: infinite, then 1
        share = np.clip(np.nan_to_num((points - extent[:2]) / span), 0, 1)
    x, y = np.clip(share * size, 0, size - 1).astype(np.int64).T
    index = np.zeros(len(points), np.int64)
    step = size >> 1
    while step:
        right, up = (x & step) > 0, (y & step) > 0
        index += step * step * ((3 * right.astype(np.int64)) ^ up.astype(np.int64))
        flip = ~up & right
        x, y = np.where(flip, size - 1 - x, x), np.where(flip, size - 1 - y, y)
        x, y = np.where(up, x, y), np.where(up, y, x)
        step >>= 1
    return np.where(np.isnan(points).any(axis=1), -1, index)


def _geo_metadata(spec: LayerSpec, crs_wkt: str | None, boxes: Floats) -> dict[str, Any]:
    """Return the `geo` key of GeoParquet 1.1.0; a CRS of null means unknown there."""
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": [spec.geometry_type],
        "crs": None if crs_wkt is None else pyproj.CRS.from_wkt(crs_wkt).to_json_dict(),
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {"bbox": {name: ["bbox", name] for name in _BBOX}},
    }
    if len(boxes):
        column["bbox"] = _extent(boxes).tolist()
    return {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}

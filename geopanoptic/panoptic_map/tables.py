"""The small files of a map directory: map.json and segments.parquet."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geopanoptic.errors import StoreError
from geopanoptic.georef import GeoRef
from geopanoptic.schema import NODATA, VOID, LabelSchema
from geopanoptic.segments import SegmentTable

FORMAT, VERSION = "geopanoptic-map", 1
BBOX = ("min_row", "min_col", "max_row", "max_col")


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What map.json says beside the classes: acquisition date, model, run and counts."""

    schema: LabelSchema
    date: str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, Any] = field(default_factory=dict)


def write_map_json(path: str | Path, info: MapInfo) -> None:
    """Write `path`/map.json (contracts.md section 1); never half of it."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        {
            "format": FORMAT,
            "version": VERSION,
            "classes": info.schema.to_json(),
            "nodata": NODATA,
            "void": VOID,
            "date": info.date,
            "model": dict(info.model),
            "run": dict(info.run),
            "counts": dict(info.counts),
        },
        indent=1,
        ensure_ascii=False,
    )
    temporary = folder / "map.json.tmp"
    temporary.write_text(text + "\n", encoding="utf-8")
    temporary.replace(folder / "map.json")


def read_map_json(path: str | Path) -> MapInfo:
    """Read `path`/map.json; StoreError when it is missing, of another format or a newer version."""
    file = Path(path) / "map.json"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as why:
        raise StoreError(f"{path} is no map directory: it has no map.json") from why
    except (OSError, ValueError) as why:
        raise StoreError(f"cannot read {file}: {why}") from why
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise StoreError(f"{file} is not of the format '{FORMAT}'")
    if int(data.get("version", 0)) > VERSION:
        raise StoreError(
            f"{file} has version {data['version']}, this program reads up to {VERSION}; update it"
        )
    if (data.get("nodata", NODATA), data.get("void", VOID)) != (NODATA, VOID):
        raise StoreError(f"{file}: nodata must be {NODATA} and void {VOID}")
    return MapInfo(
        LabelSchema.from_json(data.get("classes", [])),
        data.get("date"),
        data.get("model") or {},
        data.get("run") or {},
        data.get("counts") or {},
    )


def segment_areas_m2(table: SegmentTable, georef: GeoRef) -> Any:
    """Return the true area of each segment: pixels x pixel area at the middle row of its bbox.

    Float64 (n,); map units squared without a CRS. Ellipsoidal pixel area is so nearly linear in
    the row that the middle row is its mean over an object; stuff classes get the mean over the
    rows of their bbox.
    """
    rows = georef.row_area_m2()
    total = np.concatenate(([0.0], np.cumsum(rows)))
    first, stop = table.bbox[:, 0].astype(int), table.bbox[:, 2].astype(int)
    height = np.maximum(stop - first, 1)
    return table.area_px * (total[stop] - total[first]) / height


def save_segments(
    path: str | Path, table: SegmentTable, schema: LabelSchema, georef: GeoRef
) -> None:
    """Write a segment table as Parquet: contracts.md section 1, sorted by id.

    `path` is the map directory (segments.parquet in it) or a .parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = Path(path)
    file = file if file.suffix == ".parquet" else file / "segments.parquet"
    table = table.take(np.argsort(table.id, kind="stable"))
    columns: dict[str, Any] = {
        "id": table.id,
        "class_id": table.class_id,
        "class_name": [schema.by_id(int(c)).name for c in table.class_id],
        "kind": [schema.by_id(int(c)).kind for c in table.class_id],
        "area_px": table.area_px,
        "area_m2": segment_areas_m2(table, georef),
        "score": pa.array(table.score, pa.float32(), from_pandas=True),
        **{name: table.bbox[:, k] for k, name in enumerate(BBOX)},
        "touches_edge": table.touches_edge,
        "on_seam": table.on_seam,
        "n_tiles": table.n_tiles,
        "seam_agreement": pa.array(table.seam_agreement, pa.float32(), from_pandas=True),
    }
    temporary = file.with_name(f"{file.name}.tmp")
    pq.write_table(pa.table(columns), temporary, compression="zstd")
    temporary.replace(file)


def load_segments(path: str | Path) -> SegmentTable:
    """Read what `save_segments` wrote (extra columns are left alone).

    Raises StoreError when the file is damaged or a needed column is missing.
    """
    import pyarrow.parquet as pq

    file = Path(path)
    file = file if file.suffix == ".parquet" else file / "segments.parquet"
    try:
        frame = pq.read_table(file).to_pandas()
    except Exception as why:
        raise StoreError(f"cannot read {file}: {why}") from why
    missing = [c for c in ("id", "class_id", "area_px", *BBOX) if c not in frame]
    if missing:
        raise StoreError(f"{file} has no column {', '.join(missing)}")
    n = len(frame)

    def column(name: str, dtype: Any, default: Any) -> Any:
        if name not in frame:
            return np.full(n, default, dtype)
        return frame[name].to_numpy().astype(dtype)

    return SegmentTable(
        column("id", np.int64, 0),
        column("class_id", np.uint8, 0),
        column("area_px", np.int64, 0),
        column("score", np.float32, np.nan),
        frame[list(BBOX)].to_numpy().astype(np.int32).reshape(n, 4),
        column("touches_edge", bool, False),
        column("on_seam", bool, False),
        column("n_tiles", np.uint16, 1),
        column("seam_agreement", np.float32, np.nan),
    )

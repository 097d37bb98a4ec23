"""The layers of a vector file: names, columns, geometry types."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

GEOMETRY = "geom"  # GDAL's own name for a GeoPackage's geometry; layer_styles must repeat it
TIME = pa.timestamp("ms", tz="UTC")


@dataclass(frozen=True)
class LayerSpec:
    """One layer: `name`, its attribute `columns` as (name, Arrow type), and its geometry type.

    `geometry_type` is None for a plain table. `arrow_schema` has the geometry last, as WKB.
    """

    name: str
    columns: tuple[tuple[str, pa.DataType], ...]
    geometry_type: str | None = "MultiPolygon"

    @property
    def arrow_schema(self) -> pa.Schema:
        fields = [pa.field(name, kind) for name, kind in self.columns]
        if self.geometry_type is not None:
            meta = {"ARROW:extension:name": "geoarrow.wkb"}
            fields.append(pa.field(GEOMETRY, pa.large_binary(), metadata=meta))
        return pa.schema(fields)

    @classmethod
    def of_batch(cls, name: str, schema: pa.Schema, geometry_type: str | None = None) -> LayerSpec:
        """Describe a layer by the schema of its batches; a column `geom` holds WKB polygons."""
        columns = tuple((f.name, f.type) for f in schema if f.name != GEOMETRY)
        has_geometry = GEOMETRY in schema.names
        return cls(name, columns, (geometry_type or "MultiPolygon") if has_geometry else None)


_CLASS = (("class_id", pa.int16()), ("class_name", pa.string()), ("score", pa.float32()))
_SIZE = (("area_m2", pa.float64()), ("perimeter_m", pa.float64()), ("pixel_count", pa.int64()))
_SOURCE = (("scene_date", TIME), ("scene_id", pa.string()), ("model", pa.string()))

THINGS = LayerSpec(
    "things",
    (
        ("instance_id", pa.int32()),
        *_CLASS,
        *_SIZE,
        ("length_m", pa.float64()),
        ("width_m", pa.float64()),
        ("azimuth_deg", pa.float64()),
        ("compactness", pa.float64()),
        ("n_vertices", pa.int32()),
        ("n_parts", pa.int32()),
        ("outline", pa.string()),
        ("touches_edge", pa.bool_()),
        ("on_seam", pa.bool_()),
        ("n_tiles", pa.int32()),
        ("seam_agreement", pa.float32()),
        *_SOURCE,
    ),
)
STUFF = LayerSpec(
    "stuff",
    (
        ("part_id", pa.int64()),
        *_CLASS,
        *_SIZE,
        ("n_vertices", pa.int32()),
        ("touches_edge", pa.bool_()),
        *_SOURCE,
    ),
)
RUN = LayerSpec("run", (("key", pa.string()), ("value", pa.string())), None)

KNOWN = {spec.name: spec for spec in (THINGS, STUFF, RUN)}

"""A map seen as xarray, pandas and geopandas objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from geopanoptic.grid import Window
from geopanoptic.panoptic_map.layers import polygon_layers
from geopanoptic.panoptic_map.tables import BBOX, segment_areas_m2
from geopanoptic.schema import NODATA

if TYPE_CHECKING:
    from geopanoptic.panoptic_map.map import PanopticMap

CHUNK = 2048


def lazy_raster(panoptic: PanopticMap, which: int, name: str) -> Any:
    """Return one raster as a DataArray (y, x) backed by Dask chunks of 2048 px, with its CRS."""
    import dask.array
    import rioxarray  # noqa: F401  (registers the .rio accessor)
    import xarray

    height, width = panoptic.georef.shape
    dtype = (np.uint8, np.int32)[which]

    def block(block_info: Any = None) -> Any:
        (r0, r1), (c0, c1) = block_info[None]["array-location"]
        return panoptic.read(Window.from_bounds(r0, c0, r1, c1))[which]

    sizes = tuple(tuple(min(CHUNK, n - k) for k in range(0, n, CHUNK)) for n in (height, width))
    data = dask.array.map_blocks(  # type: ignore[no-untyped-call]
        block, chunks=sizes, dtype=dtype, meta=np.zeros((0, 0), dtype)
    )
    t = panoptic.georef.transform
    coords = {}
    if not panoptic.georef.is_rotated:
        coords = {
            "y": t.f + (np.arange(height) + 0.5) * t.e,
            "x": t.c + (np.arange(width) + 0.5) * t.a,
        }
    out = xarray.DataArray(data, dims=("y", "x"), coords=coords, name=name)
    out = out.rio.write_transform(t)
    if panoptic.georef.crs is not None:
        out = out.rio.write_crs(panoptic.georef.crs)
    return out.rio.write_nodata(NODATA)


def segments_frame(panoptic: PanopticMap) -> Any:
    """Return the segment table as a DataFrame, sorted by id."""
    import pandas

    table = panoptic.segment_table
    table = table.take(np.argsort(table.id, kind="stable"))
    schema = panoptic.schema
    return pandas.DataFrame(
        {
            "id": table.id,
            "class_id": table.class_id,
            "class_name": [schema.by_id(int(c)).name for c in table.class_id],
            "kind": [schema.by_id(int(c)).kind for c in table.class_id],
            "area_px": table.area_px,
            "area_m2": segment_areas_m2(table, panoptic.georef),
            "score": table.score,
            **{name: table.bbox[:, k] for k, name in enumerate(BBOX)},
            "touches_edge": table.touches_edge,
            "on_seam": table.on_seam,
            "n_tiles": table.n_tiles,
            "seam_agreement": table.seam_agreement,
        }
    )


def layer_frame(panoptic: PanopticMap, layer: str) -> Any:
    """Return a layer ('things' or 'stuff') of panoptic.gpkg, or trace it from the pixels."""
    import geopandas

    if panoptic.folder is not None and (panoptic.folder / "panoptic.gpkg").exists():
        return geopandas.read_file(panoptic.folder / "panoptic.gpkg", layer=layer)
    return traced_frame(panoptic, layer)


def traced_frame(panoptic: PanopticMap, layer: str) -> Any:
    """Trace a layer from the pixels: exact outlines, one row per thing or per part of stuff.

    The columns are those of panoptic.gpkg. Reads blocks of 2048 px; the frame itself is in memory.
    """
    import geopandas
    import pyarrow as pa
    import shapely

    from geopanoptic.vector import STUFF, THINGS, TableContext
    from geopanoptic.vector.specs import GEOMETRY

    context = TableContext(panoptic.schema, panoptic.georef, panoptic.date)
    layers = polygon_layers(panoptic.read, panoptic.segment_table, context)
    spec = THINGS if layer == "things" else STUFF
    frame = pa.Table.from_batches(list(layers.get(layer, ())), spec.arrow_schema).to_pandas()
    geometry = shapely.from_wkb(frame.pop(GEOMETRY).to_numpy())
    return geopandas.GeoDataFrame(frame, geometry=geometry, crs=panoptic.georef.crs)

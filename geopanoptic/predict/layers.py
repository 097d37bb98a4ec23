"""Stage 5b: trace the polygons of the finished rasters and write them as layers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geopanoptic.grid import Window
from geopanoptic.panoptic_map import polygon_layers
from geopanoptic.predict.finished import Finished
from geopanoptic.predict.settings import Products
from geopanoptic.raster import LabelReader
from geopanoptic.vector import (
    Style,
    TableContext,
    regular_classes,
    run_table,
    write_gpkg,
    write_vectors,
)

SEAM_ROWS = 10_000
_SEAM_CLASSES = (("good", "#1b9e77"), ("fair", "#e6ab02"), ("poor", "#d95f02"))


def write_layers(path: Path, finished: Finished, products: Products) -> None:
    """Write things, stuff, seams_qa and run to `path`; the suffix picks the format.

    Vertices lie on the corners of the pixels of `rasters`, unless products.simplify_m is set or
    products.regularize gives buildings right angles.
    """
    plan, rasters, schema = finished.plan, finished.rasters, finished.plan.card.schema
    context = TableContext(
        schema=schema,
        georef=rasters.georef,
        scene_date=plan.scene.scene.date,
        scene_id=finished.run["scene"],
        model=f"{plan.card.name} {plan.card.version}",
        classes=products.classes,
        simplify_m=products.simplify_m or 0.0,
        regularize=regular_classes(schema, products.regularize),
    )
    semantic, instances = LabelReader(rasters.semantic), LabelReader(rasters.instances)

    on_grid, seen = rasters.georef == plan.scene.georef, plan.seen

    def read(window: Window) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]] | None:
        if on_grid and not seen.has_any(window):
            return None  # no file of the scene covers it
        return semantic.read(window), instances.read(window)

    layers = polygon_layers(read, rasters.table, context)
    if path.suffix == ".gpkg":
        if products.classes is None:
            layers["seams_qa"] = _seam_batches(finished)
        layers["run"] = iter([run_table(finished.run)])
        styles = {
            "seams_qa": Style("quality", tuple((q, q, c) for q, c in _SEAM_CLASSES), outlined=True)
        }
        write_gpkg(path, layers, rasters.georef.crs, schema, styles=styles)
    else:
        write_vectors(path, layers, rasters.georef.crs, schema)


def _seam_batches(finished: Finished) -> Iterator[Any]:
    """Yield batches with a polygon per seam: the strip, and how well its two tiles agreed."""
    import pyarrow as pa

    seams, grid, georef = finished.seams, finished.plan.grid, finished.plan.scene.georef
    for start in range(0, len(seams), SEAM_ROWS):
        rows = slice(start, start + SEAM_ROWS)
        pairs = zip(seams.tile_a[rows].tolist(), seams.tile_b[rows].tolist(), strict=True)
        strips = [grid.tile(a).window & grid.tile(b).window for a, b in pairs]
        r0, c0, h, w = np.array([(s.row, s.col, s.height, s.width) for s in strips]).T
        x, y = georef.xy(
            np.stack([r0, r0 + h, r0 + h, r0, r0], axis=1),
            np.stack([c0, c0, c0 + w, c0 + w, c0], axis=1),
        )
        rings = shapely.polygons(np.stack([x, y], axis=-1))
        any_px = seams.any_px[rows]
        agreement = seams.agree_px[rows] / np.maximum(any_px, 1)
        quality = np.select([agreement >= 0.9, agreement >= 0.7], ["good", "fair"], "poor")
        columns = {
            name: pa.array(getattr(seams, name)[rows])
            for name in ("tile_a", "tile_b", "candidates", "joins", "refused")
        }
        columns["agreement"] = pa.array(agreement.astype(np.float32))
        columns["quality"] = pa.array(quality.tolist(), pa.string())
        columns["geom"] = pa.array(shapely.to_wkb(shapely.multipolygons(rings[:, None])))
        yield pa.RecordBatch.from_pydict(columns)

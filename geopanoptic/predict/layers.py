"""Stage 5b: trace the polygons of the finished rasters and write them as layers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geopanoptic.grid import Window
from geopanoptic.panoptic_map import polygon_layers
from geopanoptic.predict.finished import Finished
from geopanoptic.predict.rasters import Rasters
from geopanoptic.predict.seen import Seen
from geopanoptic.predict.settings import Products
from geopanoptic.raster import LabelReader
from geopanoptic.vector import (
    STUFF,
    Stream,
    Style,
    TableContext,
    regular_classes,
    run_table,
    write_gpkg,
    write_vectors,
)

SEAM_ROWS = 10_000
# Both layers look at every block twice: once for what crosses its seams, once to trace. So many
# pixels of labels (5 bytes each) are kept between; a larger map is read again instead.
_KEPT_PX = 24_000_000
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
    seen = plan.seen if rasters.georef == plan.scene.georef else None
    layers = polygon_layers(_Blocks.of(rasters, seen).read, rasters.table, context)
    with ExitStack() as stack:
        if len(layers) > 1:  # stuff is being traced while things are written
            layers["stuff"] = stack.enter_context(Stream(STUFF, layers["stuff"]))
        if path.suffix == ".gpkg":
            if products.classes is None:
                layers["seams_qa"] = _seam_batches(finished)
            layers["run"] = iter([run_table(finished.run)])
            quality = tuple((q, q, c) for q, c in _SEAM_CLASSES)
            styles = {"seams_qa": Style("quality", quality, outlined=True)}
            write_gpkg(path, layers, rasters.georef.crs, schema, styles=styles)
        else:
            write_vectors(path, layers, rasters.georef.crs, schema)


Labels = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]


@dataclass(frozen=True, slots=True)
class _Blocks:
    """The labels of a finished map, block by block; those of a small map are read only once.

    `seen`: what the files of the scene cover, where the map lies on their grid.
    """

    semantic: LabelReader
    instances: LabelReader
    seen: Seen | None
    keep: bool
    kept: dict[Window, Labels] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, rasters: Rasters, seen: Seen | None) -> _Blocks:
        rows, cols = rasters.shape
        readers = LabelReader(rasters.semantic), LabelReader(rasters.instances)
        return cls(*readers, seen, keep=rows * cols <= _KEPT_PX)

    def read(self, window: Window) -> Labels | None:
        """Return class and instance of a window; None: no file of the scene covers it."""
        if self.seen is not None and not self.seen.has_any(window):
            return None
        if not self.keep:
            return self.semantic.read(window), self.instances.read(window)
        with self.lock:
            if window not in self.kept:
                self.kept[window] = self.semantic.read(window), self.instances.read(window)
            return self.kept[window]


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

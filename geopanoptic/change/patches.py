"""Patches of land-cover change: connected ground that went from one class to one other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.polygons import MetreMap, PolygonBatch, measure_pixels, trace
from geopanoptic.raster import LabelReader
from geopanoptic.schema import LabelSchema
from geopanoptic.vector import LayerSpec
from geopanoptic.vector.specs import GEOMETRY

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

LAYER = LayerSpec(
    "landcover_change",
    (
        ("patch_id", pa.int64()),
        ("from_id", pa.int16()),
        ("from_class", pa.string()),
        ("to_id", pa.int16()),
        ("to_class", pa.string()),
        ("area_m2", pa.float64()),
        ("pixel_count", pa.int64()),
        ("below_mmu", pa.bool_()),
        ("sliver", pa.bool_()),
        ("mean_confidence", pa.float64()),
        ("touches_edge", pa.bool_()),
        ("date_before", pa.string()),
        ("date_after", pa.string()),
    ),
)
_SAME = -1  # label of what did not change: a neighbour, but traced by nobody
_STRIP = 1024  # pixels: how far confidence is read at a time

# Returns the confidence (0..1, NaN unknown) of the pixels of a window of the common grid.
Confidence = Callable[[Window], npt.NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class PatchRules:
    """Patches of less than `mmu_m2` are below the minimum mapping unit; those in which no disc of
    radius `tolerance_m` fits (opening by it leaves nothing) are slivers. Map units without a CRS.
    """

    mmu_m2: float
    tolerance_m: float


KINDS = ("changed", "below_mmu", "sliver")


@dataclass
class PatchTotals:
    """Pixels and area of the patches, added up while they are traced."""

    pixels: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))
    area_m2: dict[str, float] = field(default_factory=lambda: dict.fromkeys(KINDS, 0.0))
    count: dict[str, int] = field(default_factory=lambda: dict.fromkeys(KINDS, 0))

    def add(self, small: Bools, sliver: Bools, pixels: npt.NDArray[np.int64], m2: Floats) -> None:
        """Add some patches; one that is both small and a sliver counts as small."""
        for kind, rows in (
            ("changed", ~small & ~sliver), ("below_mmu", small), ("sliver", sliver & ~small),
        ):  # fmt: skip
            self.pixels[kind] += int(pixels[rows].sum())
            self.area_m2[kind] += float(m2[rows].sum())
            self.count[kind] += int(rows.sum())


@dataclass(frozen=True)
class Patches:
    """Everything needed to trace patches out of the from-to codes of a pair."""

    codes: LabelReader
    grid: GeoRef
    schema: LabelSchema
    factor: int
    rules: PatchRules
    dates: tuple[str | None, str | None]
    block: int
    confidence: Confidence | None = None
    totals: PatchTotals = field(default_factory=PatchTotals)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Trace all patches, block by block; memory holds a block and the open patches.

        Law: their pixels and those that did not change are all comparable pixels, each once; the
        patches are the same for every size of block.
        """
        metres = MetreMap.of(self.grid) if self.grid.has_metres else None
        for batch in trace(self._labels, self.grid.shape, self.block, group="part"):
            if not len(batch):
                continue
            m = measure_pixels(batch, metres, rectangles=False)
            area = m.area_m2 if metres is not None else self._plain_area(batch)
            small = area < self.rules.mmu_m2
            sliver = self._slivers(batch, metres)
            self.totals.add(small, sliver, batch.area_px, area)
            yield self._record(batch, area, small, sliver)

    def _labels(self, window: Window) -> npt.NDArray[np.int32]:
        codes = self.codes.read(window).astype(np.int32)
        same = codes // self.factor == codes % self.factor
        return np.where(same & (codes > 0), np.int32(_SAME), codes)

    def _plain_area(self, batch: PolygonBatch) -> Floats:
        area: Floats = batch.area_px.astype(float) * float(abs(self.grid.transform.determinant))
        return area

    def _slivers(self, batch: PolygonBatch, metres: MetreMap | None) -> Bools:
        """Tell which patches no disc of the tolerance fits into.

        Two bounds spare most of the work: a disc of radius r has pi r^2 of area, and what lies
        within r of an outline of length P with k holes is at most P r + k pi r^2.
        """
        r = self.rules.tolerance_m
        if r <= 0:
            return np.zeros(len(batch), bool)
        xy = np.stack([batch.coords[:, 1], -batch.coords[:, 0]], axis=1).astype(float)
        first = np.repeat(np.arange(len(batch)), np.diff(batch.coord_offsets))
        step = self._pixel_steps(batch, metres)
        shapes = batch.with_coords(xy * step[first][:, ::-1])
        area, length = shapely.area(shapes), shapely.length(shapes)
        holes = np.diff(batch.polygon_offsets[batch.multi_offsets]) - batch.n_parts
        disc = np.pi * r * r
        sliver: Bools = area < disc
        unsure = np.flatnonzero(~sliver & (area <= length * r + holes * disc))
        # GEOS draws a parallel curve to about 1 % of its distance; what is just wide enough stays
        eroded = shapely.buffer(shapes[unsure], -0.98 * r, quad_segs=8)
        sliver[unsure] = shapely.is_empty(eroded)
        return sliver

    def _pixel_steps(self, batch: PolygonBatch, metres: MetreMap | None) -> Floats:
        """Return metres of a (row, col) step at each patch, shape (n, 2)."""
        if metres is None:
            t = self.grid.transform
            sizes = [np.hypot(t.b, t.e), np.hypot(t.a, t.d)]
            return np.broadcast_to(np.array(sizes, float), (len(batch), 2))
        row, col = np.divmod(batch.first_px, self.grid.shape[1])
        frames = metres.at(row.astype(float), col.astype(float))
        made: Floats = np.linalg.norm(frames, axis=1)
        return made

    def _record(self, batch: PolygonBatch, area: Floats, small: Bools, sliver: Bools) -> Any:
        before, after = batch.labels // self.factor, batch.labels % self.factor
        names = {c.id: c.name for c in self.schema.classes}
        n = len(batch)
        data, offsets = batch.to_wkb(self.grid.transform)
        wkb = pa.LargeBinaryArray.from_buffers(
            pa.large_binary(), n, [None, pa.py_buffer(offsets), pa.py_buffer(data)]
        )
        columns = {
            "patch_id": batch.first_px + 1,
            "from_id": before,
            "from_class": [names[int(k)] for k in before],
            "to_id": after,
            "to_class": [names[int(k)] for k in after],
            "area_m2": area,
            "pixel_count": batch.area_px,
            "below_mmu": small,
            "sliver": sliver,
            "mean_confidence": pa.array(self._means(batch), pa.float64(), from_pandas=True),
            "touches_edge": batch.touches_edge,
            "date_before": pa.repeat(pa.scalar(self.dates[0], pa.string()), n),
            "date_after": pa.repeat(pa.scalar(self.dates[1], pa.string()), n),
            GEOMETRY: wkb,
        }
        arrays = [
            v if isinstance(v := columns[f.name], pa.Array) else pa.array(v, f.type)
            for f in LAYER.arrow_schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=LAYER.arrow_schema)

    def _means(self, batch: PolygonBatch) -> Floats:
        """Return the mean confidence of each patch's pixels; NaN without score rasters."""
        n = len(batch)
        if self.confidence is None:
            return np.full(n, np.nan)
        from rasterio.features import rasterize

        xy = np.stack([batch.coords[:, 1], batch.coords[:, 0]], axis=1).astype(float)
        shapes = batch.with_coords(xy)
        boxes = shapely.bounds(shapes)
        total, pixels = np.zeros(n), np.zeros(n)
        for window in _windows_over(boxes, self.grid.shape):
            meets = (
                (boxes[:, 0] < window.col_stop) & (boxes[:, 2] > window.col)
                & (boxes[:, 1] < window.row_stop) & (boxes[:, 3] > window.row)
            )  # fmt: skip
            rows = np.flatnonzero(meets)
            if not len(rows):
                continue
            from affine import Affine

            which = rasterize(
                zip(shapes[rows], (rows + 1).tolist(), strict=True),
                out_shape=window.shape,
                transform=Affine.translation(window.col, window.row),
                dtype="int32",
            )
            value = self.confidence(window)
            known = (which > 0) & ~np.isnan(value)
            total += np.bincount(which[known] - 1, weights=value[known], minlength=n)
            pixels += np.bincount(which[known] - 1, minlength=n)
        with np.errstate(invalid="ignore"):
            mean: Floats = total / pixels
        return mean


def _windows_over(boxes: Floats, shape: tuple[int, int]) -> Iterator[Window]:
    """Yield the windows of a fixed grid that a batch of boxes (x0, y0, x1, y1 in px) reaches."""
    r0, r1 = int(boxes[:, 1].min()) // _STRIP, int(np.ceil(boxes[:, 3].max() / _STRIP))
    c0, c1 = int(boxes[:, 0].min()) // _STRIP, int(np.ceil(boxes[:, 2].max() / _STRIP))
    for i in range(r0, r1):
        for j in range(c0, c1):
            window = Window(i * _STRIP, j * _STRIP, _STRIP, _STRIP).clipped(shape)
            if not window.is_empty:
                yield window

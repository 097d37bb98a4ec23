"""Maps seen through a change: regions made void, or another grid."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import SceneError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.panoptic_map import PanopticMap, grid_difference, is_vector
from geopanoptic.panoptic_map.source import LabelSource, RasterSource, raster_facts
from geopanoptic.panoptic_map.vector import FieldChoice, VectorSource, read_polygons

Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int32]

_STRIP = 256  # rows resampled at a time, so that coordinate arrays stay small


@dataclass(frozen=True, slots=True)
class ResampledSource:
    """A map read on another grid: each pixel takes the label under its centre (nearest).

    Outside the map is nodata. Labels are never averaged.
    """

    source: LabelSource
    own: GeoRef
    grid: GeoRef

    def read(self, window: Window) -> tuple[Bytes, Ids]:
        """Return classes and ids of a window of `grid`."""
        classes = np.zeros(window.shape, np.uint8)
        ids = np.zeros(window.shape, np.int32)
        for top in range(0, window.height, _STRIP):
            rows = min(_STRIP, window.height - top)
            self._strip(window, top, rows, classes, ids)
        return classes, ids

    def _strip(self, window: Window, top: int, rows: int, classes: Bytes, ids: Ids) -> None:
        row, col = self._own_pixels(
            window.row + top + np.arange(rows)[:, None], window.col + np.arange(window.width)
        )
        height, width = self.own.shape
        inside = (row >= 0) & (row < height) & (col >= 0) & (col < width)
        if not inside.any():
            return
        seen = Window.from_bounds(
            int(row[inside].min()),
            int(col[inside].min()),
            int(row[inside].max()) + 1,
            int(col[inside].max()) + 1,
        )
        own_classes, own_ids = self.source.read(seen)
        at = row[inside] - seen.row, col[inside] - seen.col
        classes[top : top + rows][inside] = own_classes[at]
        ids[top : top + rows][inside] = own_ids[at]

    def _own_pixels(
        self, row: npt.NDArray[np.int64], col: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        import pyproj

        x, y = self.grid.xy(*np.broadcast_arrays(row + 0.5, col + 0.5))
        if self.own.crs and self.grid.crs and self.own.crs != self.grid.crs:
            move = pyproj.Transformer.from_crs(self.grid.crs, self.own.crs, always_xy=True)
            x, y = move.transform(x, y)
        r, c = self.own.rowcol(x, y)
        # a centre that lies on a pixel edge but for rounding belongs to the pixel below/right
        return np.floor(r + 1e-6).astype(np.int64), np.floor(c + 1e-6).astype(np.int64)


@dataclass(frozen=True, slots=True)
class VoidedSource:
    """A map with parts made void: outside `inside`, or inside `left_out`, or mask raster 0."""

    source: LabelSource
    inside: VectorSource | None = None
    left_out: VectorSource | None = None
    mask: RasterSource | None = None

    def read(self, window: Window) -> tuple[Bytes, Ids]:
        """Return classes (0 where void) and ids of a window."""
        classes, ids = self.source.read(window)
        void = np.zeros(window.shape, bool)
        if self.inside is not None:
            void |= self.inside.read(window)[1] == 0
        if self.left_out is not None:
            void |= self.left_out.read(window)[1] > 0
        if self.mask is not None:
            void |= self.mask.read(window)[0] == 0
        return np.where(void, np.uint8(0), classes), np.where(void, np.int32(0), ids)


@dataclass(frozen=True, slots=True)
class Limits:
    """Where to judge: `aoi` and `mask` paths, as given."""

    aoi: str | None = None
    mask: str | None = None

    def apply(self, source: LabelSource, georef: GeoRef) -> LabelSource:
        """Return the source with everything outside the limits made void."""
        if self.aoi is None and self.mask is None:
            return source
        inside = None if self.aoi is None else _burnt(self.aoi, georef)
        left_out, mask = None, None
        if self.mask is not None and is_vector(self.mask):
            left_out = _burnt(self.mask, georef)
        elif self.mask is not None:
            facts = raster_facts(self.mask)
            difference = grid_difference(facts.georef, georef)
            if difference:
                raise SceneError(f"--mask {self.mask} is not on the map's grid: {difference}")
            mask = RasterSource(self.mask)
        return VoidedSource(source, inside, left_out, mask)


def _burnt(path: str, georef: GeoRef) -> VectorSource:
    polygons = read_polygons(path, FieldChoice(only_class="area"))
    polygons.class_name[:] = "area"
    return VectorSource.of(polygons, polygons.schema(), georef)


def on_grid(truth: PanopticMap, grid: PanopticMap, resample: bool) -> LabelSource:
    """Return the truth's source on the prediction's grid.

    Raises SceneError showing both grids when they differ and `resample` is False.
    """
    difference = grid_difference(grid.georef, truth.georef)
    if not difference:
        return truth.source
    if not resample:
        raise SceneError(
            f"{grid.name} and {truth.name} lie on different grids: {difference}; bring one to the "
            f"other's grid, or use --resample-truth nearest"
        )
    if (grid.georef.crs is None) != (truth.georef.crs is None):
        raise SceneError(f"cannot resample the truth: {difference}")
    return ResampledSource(truth.source, truth.georef, grid.georef)

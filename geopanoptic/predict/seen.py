"""Which regions can hold anything: the others are nodata for certain and are not worked on."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from geopanoptic.grid import RegionGrid, TileGrid, Window
from geopanoptic.raster import WorkingScene


class Seen:
    """The regions whose windows meet what the scene covers.

    Law: a region that is not among them has no valid pixel in its window. `boxes` are the
    rectangles covered, None where all may be. There is always at least one region.
    """

    def __init__(self, scene: WorkingScene, grid: TileGrid, k: int) -> None:
        self._regions = RegionGrid(grid, k)
        self.boxes = scene.coverage()
        self.indexes: range | tuple[int, ...] = range(len(self._regions))
        if self.boxes is not None:
            self.indexes = tuple(_met(self.boxes, self._regions).tolist()) or (0,)
        self._known = frozenset(self.indexes) if self.boxes is not None else None

    def has(self, region: int) -> bool:
        """Tell whether this region is to be worked on."""
        return self._known is None or region in self._known

    def has_any(self, window: Window) -> bool:
        """Tell whether a window of the working grid meets what the scene covers."""
        if self.boxes is None:
            return True
        row, col, row_stop, col_stop = self.boxes.T
        meets = (row < window.row_stop) & (row_stop > window.row)
        return bool((meets & (col < window.col_stop) & (col_stop > window.col)).any())

    @property
    def unseen_px(self) -> int:
        """Pixels of the regions that are not worked on."""
        rows, cols = self._regions.grid.shape
        if self._known is None:
            return 0
        return rows * cols - sum(self._regions.region(i).core.area_px for i in self.indexes)


@lru_cache(maxsize=4)
def seen_regions(scene: WorkingScene, grid: TileGrid, k: int) -> Seen:
    """Return the regions to be worked on; worked out once per process."""
    return Seen(scene, grid, k)


def _met(boxes: npt.NDArray[np.int64], regions: RegionGrid) -> npt.NDArray[np.int64]:
    """Return the sorted numbers of the regions whose windows (with halo) meet a rectangle."""
    grid, side = regions.grid, regions.grid.core * regions.k
    (top, left), halo = grid.starts, grid.halo
    first = (boxes[:, :2] - halo - np.array([top, left])) // side
    last = (boxes[:, 2:] - 1 + halo - np.array([top, left])) // side
    limits = np.array([regions.n_rows - 1, regions.n_cols - 1])
    first, last = np.clip(first, 0, limits), np.clip(last, 0, limits)
    spans = np.unique(np.concatenate([first, last], axis=1), axis=0)
    met = np.zeros((regions.n_rows, regions.n_cols), bool)
    for row, col, row_last, col_last in spans.tolist():
        met[row : row_last + 1, col : col_last + 1] = True
    return np.flatnonzero(met)

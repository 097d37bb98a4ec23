"""The images behind the maps: gradients to register by, and pictures for the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geopanoptic.change.aligned import Floats32, read_edges
from geopanoptic.change.lattice import Lattice
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.raster import Scene

Picture = npt.NDArray[np.uint8]

_MOST_READ_PX = 2 * 10**8  # of an image without overviews, read for a picture
_OVERVIEW_PX = 4 * 10**6
_STRIP = 128


@dataclass(frozen=True)
class Image:
    """One date's image, seen on a grid in the frame of that date."""

    scene: Scene
    grid: GeoRef

    @classmethod
    def open(cls, path: str, grid: GeoRef) -> Image:
        """Open an image; SceneError when it cannot be read."""
        return cls(Scene.open(path), grid)

    def edges(self, window: Window) -> tuple[Floats32, npt.NDArray[np.bool_]]:
        """Return the strength of the image's gradients at the pixels of a window of the grid."""
        return read_edges(Lattice(self.scene.georef, self.grid), window, self._gradients)

    def _gradients(self, seen: Window) -> tuple[Floats32, npt.NDArray[np.bool_]]:
        array, valid = self.scene.read(seen, self._bands())
        grey = array.astype(np.float32).mean(axis=0)
        grey[~valid] = grey[valid].mean() if valid.any() else 0.0
        slopes = np.gradient(grey) if min(grey.shape) > 1 else [np.zeros_like(grey)] * 2
        strength = np.hypot(slopes[0], slopes[1])
        strength[~_eroded(valid)] = 0.0
        # gradients of two sensors compare by rank, not by size
        level = float(np.percentile(strength[valid], 98)) if valid.any() else 0.0
        scaled = np.minimum(strength / level, 1.0) if level > 0 else np.zeros_like(strength)
        return scaled.astype(np.float32), valid

    def _bands(self) -> tuple[int, ...]:
        return tuple(range(1, min(self.scene.band_count, 3) + 1))

    def picture(self) -> Picture | None:
        """Return the image at the pixels of the grid as RGB, stretched; None when that is too dear.

        Shape (rows, cols, 3), white where there is nothing.
        """
        bands = (self._bands() * 3)[:3] if self.scene.band_count < 3 else (1, 2, 3)
        georef, whole = self.scene.georef, None
        if len(self.scene.parts) == 1:
            whole = self.scene.parts[0].source.overview(_OVERVIEW_PX, bands)
        if whole is not None:
            georef = georef.zoomed(whole[1].shape)
        elif georef.shape[0] * georef.shape[1] > _MOST_READ_PX:
            return None
        out = np.zeros((3, *self.grid.shape), np.float32)
        seen = np.zeros(self.grid.shape, bool)
        lattice = Lattice(georef, self.grid)
        for top in range(0, self.grid.shape[0], _STRIP):
            rows = min(_STRIP, self.grid.shape[0] - top)
            for piece in lattice.pieces(Window(top, 0, rows, self.grid.shape[1])):
                there = lattice.seen(piece)
                if there.is_empty:
                    continue
                if whole is None:
                    array, valid = self.scene.read(there, bands)
                else:
                    array, valid = whole[0][:, *there.slices], whole[1][there.slices]
                inside = np.zeros(piece.shape, bool)
                good = np.zeros(piece.shape, bool)
                for band in range(3):
                    part = np.zeros(piece.shape, np.float32)
                    lattice.nearest(piece, there, array[band].astype(np.float32), part, inside)
                    out[band, *piece.slices] = part
                lattice.nearest(piece, there, valid, good, inside)
                seen[piece.slices] = good & inside
        return _stretched(out, seen)


def _eroded(valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return where a pixel and its neighbours are valid: next to nodata every gradient is large."""
    from scipy.ndimage import binary_erosion

    made: npt.NDArray[np.bool_] = binary_erosion(valid, np.ones((3, 3)), border_value=1)
    return made


def _stretched(bands: Floats32, seen: npt.NDArray[np.bool_]) -> Picture:
    made = np.full((*seen.shape, 3), 255, np.uint8)
    if seen.any():
        for k in range(3):
            low, high = np.percentile(bands[k][seen], [1, 99])
            scaled = (bands[k] - low) / max(high - low, 1e-6) * 255
            made[..., k] = np.where(seen, np.clip(scaled, 0, 255), 255)
    return made

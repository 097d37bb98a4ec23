"""One date's map on the common grid: classes, ids, and why a pixel is not observed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from affine import Affine

from geopanoptic.change import kernels
from geopanoptic.change.lattice import Lattice
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.panoptic_map import FieldChoice, is_vector, read_polygons
from geopanoptic.panoptic_map.source import LabelSource, RasterSource, raster_facts
from geopanoptic.panoptic_map.vector import VectorSource

Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int32]
Floats32 = npt.NDArray[np.float32]
Offset = tuple[float, float]
# Returns (strength of edges, whether they are known) of a window of the reader's own grid.
EdgeReader = Callable[[Window], tuple[Floats32, npt.NDArray[np.bool_]]]

# Why a pixel is not observed at a date; the order is that of REASONS.
SEEN, OUTSIDE, EMPTY, MASKED = 0, 1, 2, 3
REASONS = ("seen", "extent", "nodata", "mask")


def displaced(grid: GeoRef, offset: Offset) -> GeoRef:
    """Return the grid moved by map units: where a displaced map has the same ground."""
    return GeoRef(grid.crs, Affine.translation(*offset) @ grid.transform, grid.shape)


@dataclass(frozen=True, slots=True)
class Mask:
    """What must not be compared at one date: a raster that is 0 there, or polygons around it."""

    raster: RasterSource | None = None
    own: GeoRef | None = None
    polygons: VectorSource | None = None

    @classmethod
    def open(cls, path: str, grid: GeoRef) -> Mask:
        """Open a mask; `grid` is the grid it will be read on.

        Raises SceneError for a file that is neither a raster of whole numbers nor polygons.
        """
        if is_vector(path):
            polygons = read_polygons(path, FieldChoice(only_class="mask"))
            polygons.class_name[:] = "mask"
            return cls(polygons=VectorSource.of(polygons, polygons.schema(), grid))
        facts = raster_facts(path)
        return cls(RasterSource(path), facts.georef)

    def hides(self, window: Window, grid: GeoRef) -> npt.NDArray[np.bool_]:
        """Tell which pixels of a window of `grid` must not be compared.

        Beyond the rim of a mask raster nothing is known, so nothing is compared.
        """
        if self.polygons is not None:
            return self.polygons.read(window)[1] > 0
        assert self.raster is not None
        assert self.own is not None
        classes, _, _ = _sampled(self.raster, Lattice(self.own, grid), window)
        hidden: npt.NDArray[np.bool_] = classes == 0
        return hidden


@dataclass(frozen=True)
class Aligned:
    """A map read on the common grid by nearest neighbour; labels are never averaged.

    `own`: the map's own grid. `grid`: the common one, displaced by the registration when this is
    the after map. `class_of` uint8 (256,): the map's class ids -> common ids (0 nodata, 255 void).
    `thing` bool (256,), by the map's own class id: ids elsewhere are no objects.
    """

    source: LabelSource
    own: GeoRef
    grid: GeoRef
    class_of: Bytes = field(repr=False)
    thing: npt.NDArray[np.bool_] = field(repr=False)
    mask: Mask | None = None

    def read(self, window: Window) -> tuple[Bytes, Ids, Bytes]:
        """Return common class (0 where not observed), instance id, and why not observed (uint8)."""
        classes, ids, inside = _sampled(self.source, Lattice(self.own, self.grid), window)
        ids = np.where(self.thing[classes], ids, np.int32(0))
        classes = self.class_of[classes]
        why = np.where(inside, np.where(classes == 0, EMPTY, SEEN), OUTSIDE).astype(np.uint8)
        if self.mask is not None:
            hidden = self.mask.hides(window, self.grid) & (why == SEEN)
            why[hidden] = MASKED
            classes[hidden], ids[hidden] = 0, 0
        return classes, ids, why

    def edges(self, window: Window) -> tuple[Floats32, npt.NDArray[np.bool_]]:
        """Return the strength of label edges, and where they are known, at the pixels of a window.

        Edges are found and blurred on the map's own grid and only then interpolated: nearest
        neighbour would move them by up to half a pixel.
        """
        edges, known = read_edges(Lattice(self.own, self.grid), window, self._own_edges)
        if self.mask is not None:
            known &= ~self.mask.hides(window, self.grid)
        return edges, known

    def _own_edges(self, seen: Window) -> tuple[Floats32, npt.NDArray[np.bool_]]:
        classes, ids = self.source.read(seen)
        ids = np.where(self.thing[classes], ids, np.int32(0))
        edges = np.zeros(seen.shape, np.float32)
        kernels.label_edges(classes, ids, edges)
        return edges, classes != 0


def read_edges(
    lattice: Lattice, window: Window, own_edges: EdgeReader
) -> tuple[Floats32, npt.NDArray[np.bool_]]:
    """Blur edges by a pixel of the coarser grid where they were found, and interpolate them."""
    from scipy.ndimage import gaussian_filter

    sigma = lattice.step_px(window)
    seen = lattice.seen(window, margin=int(4 * sigma) + 2)
    if seen.is_empty:
        return np.zeros(window.shape, np.float32), np.zeros(window.shape, bool)
    edges, valid = own_edges(seen)
    return lattice.bilinear(window, seen, gaussian_filter(edges, sigma), valid)


def sample_bytes(
    source: LabelSource, own: GeoRef, grid: GeoRef, window: Window
) -> tuple[Bytes, npt.NDArray[np.bool_]]:
    """Return the bytes of a raster under the pixels of a window, and what lies inside it."""
    values, _, inside = _sampled(source, Lattice(own, grid), window)
    return values, inside


def _sampled(
    source: LabelSource, lattice: Lattice, window: Window
) -> tuple[Bytes, Ids, npt.NDArray[np.bool_]]:
    """Return classes, ids and what lies inside the map, by nearest neighbour."""
    shift = lattice.shift
    classes = np.zeros(window.shape, np.uint8)
    ids = np.zeros(window.shape, np.int32)
    inside = np.zeros(window.shape, bool)
    if shift is not None:
        there = window.shifted(*shift).clipped(lattice.own.shape)
        if not there.is_empty:
            at = there.shifted(-shift[0], -shift[1]).within(window).slices
            classes[at], ids[at] = source.read(there)
            inside[at] = True
        return classes, ids, inside
    for piece in lattice.pieces(window):
        seen = lattice.seen(piece)
        if seen.is_empty:
            continue
        own_classes, own_ids = source.read(seen)
        at = piece.within(window).slices
        part_classes, part_ids = np.zeros(piece.shape, np.uint8), np.zeros(piece.shape, np.int32)
        part_inside = np.zeros(piece.shape, bool)
        lattice.nearest(piece, seen, own_classes, part_classes, part_inside)
        lattice.nearest(piece, seen, own_ids, part_ids, part_inside)
        classes[at], ids[at], inside[at] = part_classes, part_ids, part_inside
    return classes, ids, inside

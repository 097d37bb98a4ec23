"""Traced polygons as arrays: whole pixels in, map coordinates out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine

from geopanoptic.polygons import kernels

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_PLAIN = ("labels", "coords", "area_px", "first_px", "touches_edge")


@dataclass(frozen=True, slots=True)
class PolygonBatch:
    """Some (multi)polygons on the pixel lattice, as nested ragged arrays.

    `labels` int32 (n,): the raster's value. `coords` int32 (m, 2): row, col of lattice corners;
    every ring ends with its first vertex. Polygon-offset arrays start with 0: ring i is
    ``coords[ring_offsets[i]:ring_offsets[i + 1]]``, polygon i has rings
    ``polygon_offsets[i]:polygon_offsets[i + 1]`` (the outer one first), feature i has polygons
    ``multi_offsets[i]:multi_offsets[i + 1]``. `area_px` int64 (n,). `first_px` int64 (n,): row *
    scene width + col of the feature's first pixel in scan order, a name that no block grid
    changes. `touches_edge` bool (n,): has a pixel beside label 0 or the scene's rim.
    """

    labels: Ints
    coords: Ints
    ring_offsets: Longs
    polygon_offsets: Longs
    multi_offsets: Longs
    area_px: Longs
    first_px: Longs
    touches_edge: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def coord_offsets(self) -> Longs:
        """Where the vertices of each feature begin in `coords`, shape (n + 1,)."""
        return self.ring_offsets[self.polygon_offsets[self.multi_offsets]]

    @property
    def n_parts(self) -> Longs:
        return np.diff(self.multi_offsets)

    @property
    def n_vertices(self) -> Longs:
        """Vertices of each feature, the repeated last one of a ring not counted."""
        rings = np.diff(self.polygon_offsets[self.multi_offsets])
        return np.diff(self.coord_offsets) - rings

    def to_xy(self, transform: Affine) -> Floats:
        """Return the map coordinates of `coords`, shape (m, 2): transform * (col, row).

        One formula from scene-wide whole numbers, so that neighbours share their vertices to the
        last bit, whichever blocks they were traced in.
        """
        row, col = self.coords[:, 0].astype(float), self.coords[:, 1].astype(float)
        t = transform
        return np.stack([t.a * col + t.b * row + t.c, t.d * col + t.e * row + t.f], axis=1)

    def to_geometry(self, transform: Affine) -> npt.NDArray[np.object_]:
        """Return a shapely MultiPolygon for every feature, in map coordinates."""
        return self.with_coords(self.to_xy(transform))

    def to_wkb(self, transform: Affine) -> tuple[npt.NDArray[np.uint8], Longs]:
        """Return little-endian WKB MultiPolygons in map coordinates: (all bytes, offsets (n+1,)).

        The same bytes as ``shapely.to_wkb(self.to_geometry(transform))``, without the objects.
        """
        heads = 9 * self.multi_offsets + 9 * np.arange(len(self) + 1)
        # per feature: its head, 9 bytes a polygon, 4 a ring, 16 a vertex
        rings = self.polygon_offsets[self.multi_offsets]
        offsets = heads + 4 * rings + 16 * self.coord_offsets
        data = np.empty(int(offsets[-1]), np.uint8)
        xy = np.ascontiguousarray(self.to_xy(transform), "<f8").reshape(-1).view(np.uint8)
        kernels.write_wkb(xy, self.ring_offsets, self.polygon_offsets, self.multi_offsets, data)
        return data, offsets

    def take(self, rows: npt.NDArray[np.intp]) -> PolygonBatch:
        """Return the features picked by an index array, in its order."""
        first = self.multi_offsets[rows]
        parts = self.multi_offsets[rows + 1] - first
        part = ranges(first, parts)
        rings = np.diff(self.polygon_offsets)[part]
        ring = ranges(self.polygon_offsets[part], rings)
        points = np.diff(self.ring_offsets)[ring]
        return PolygonBatch(
            self.labels[rows],
            self.coords[ranges(self.ring_offsets[ring], points)],
            np.append(0, np.cumsum(points)),
            np.append(0, np.cumsum(rings)),
            np.append(0, np.cumsum(parts)),
            self.area_px[rows],
            self.first_px[rows],
            self.touches_edge[rows],
        )

    @classmethod
    def concatenate(cls, batches: Iterable[PolygonBatch]) -> PolygonBatch:
        """Return the features of all batches, one after the other."""
        start, empty = np.zeros(1, np.int64), np.zeros(0, np.int64)
        none = cls(
            np.zeros(0, np.int32), np.zeros((0, 2), np.int32), start, start, start,
            empty, empty, np.zeros(0, bool),
        )  # fmt: skip
        all_ = [none, *batches]
        joined = {f: np.concatenate([getattr(b, f) for b in all_]) for f in _PLAIN}
        for name in ("ring_offsets", "polygon_offsets", "multi_offsets"):
            counts = [np.diff(getattr(b, name)) for b in all_]
            joined[name] = np.append(0, np.cumsum(np.concatenate(counts)))
        return cls(**joined)

    def with_coords(self, xy: Floats) -> npt.NDArray[np.object_]:
        """Return shapely MultiPolygons with other coordinates, one row of `xy` per vertex."""
        if not len(self):
            return np.zeros(0, object)
        offsets = (self.ring_offsets, self.polygon_offsets, self.multi_offsets)
        made: npt.NDArray[np.object_] = shapely.from_ragged_array(
            shapely.GeometryType.MULTIPOLYGON, xy, offsets
        )
        return made


def ranges(begin: Longs, length: Longs) -> Longs:
    """Return ``concatenate([arange(b, b + n) for b, n in zip(begin, length)])``, vectorised."""
    shift = begin - (np.cumsum(length) - length)
    return np.repeat(shift, length) + np.arange(int(length.sum()))

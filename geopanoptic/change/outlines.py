"""Outlines of many objects as flat arrays, for fast and exact shared areas."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import shapely

from geopanoptic.change.objects import Floats, Geometries, Ints
from geopanoptic.change.overlap_kernels import first_ring_ends, ring_signs, shared_areas
from geopanoptic.change.threads import in_threads

_MANY_EDGES = 40_000  # pairs of edges: GEOS, which sorts them, takes less time from here on
_NOTHING = 1e-9


@dataclass(frozen=True)
class Outlines:
    """Polygons and multipolygons as rings: ring k is ``xy[rings[k]:rings[k + 1]]``, closed.

    `signs` (rings,): +1 where the ring as it runs adds its area counter-clockwise, -1 where it
    must be taken the other way round (holes). Object i has the rings
    ``first[i]:first[i] + count[i]``. `area` (n,) and `corners` (n,) of every object.
    """

    geometry: Geometries = field(repr=False)
    xy: Floats = field(repr=False)
    rings: Ints
    signs: Floats
    first: Ints
    count: Ints
    area: Floats
    corners: Ints

    @classmethod
    def of(cls, geometry: Geometries) -> Outlines:
        """Take the coordinates of valid polygons; parts that have no area are left out.

        Objects of one ring (nearly all) are cut from one array of coordinates; only the others
        are taken apart by GEOS.
        """
        n = len(geometry)
        corners = np.asarray(shapely.get_num_coordinates(geometry), np.int64)
        plain = shapely.get_dimensions(geometry) == 2
        plain &= shapely.get_type_id(geometry) != shapely.GeometryType.GEOMETRYCOLLECTION
        plain &= corners > 0
        xy = shapely.get_coordinates(geometry[plain])
        stop = np.cumsum(corners[plain])
        single = first_ring_ends(xy, stop - corners[plain], stop)
        simple = np.flatnonzero(plain)[single]
        keep = np.repeat(single, corners[plain])
        other = np.setdiff1d(np.flatnonzero(corners > 0), simple)
        parts = [_apart(geometry[other], other)]
        first, count = np.zeros(n, np.int64), np.zeros(n, np.int64)
        first[simple], count[simple] = np.arange(len(simple)), 1
        more_xy, sizes, outer, owner = parts[0]
        begin = np.flatnonzero(np.diff(owner, prepend=-1))
        first[owner[begin]] = len(simple) + begin
        count[owner[begin]] = np.diff(np.append(begin, len(owner)))
        xy = np.concatenate([xy[keep], more_xy])
        rings = np.append(0, np.cumsum(np.append(corners[simple], sizes))).astype(np.int64)
        signs = np.empty(len(rings) - 1, np.float64)
        ring_signs(xy, rings, np.append(np.ones(len(simple), bool), outer), signs)
        return cls(geometry, xy, rings, signs, first, count, shapely.area(geometry), corners)

    def shared(self, rows: Ints, other: Outlines, at: Ints, step: Floats | None = None) -> Floats:
        """Return the areas that objects `rows` share with objects `at` of the other set.

        With `step` (len(at), 2) the other ones are moved by it first. A sum over pairs of edges
        (see `overlap_kernels`): a small part of the time of building the intersections, and no
        outline is too bad for it. Only two outlines with very many corners are left to GEOS. What
        is less than 1e-9 of the smaller one is rounding, and 0.
        """
        move = np.zeros((len(rows), 2)) if step is None else step

        def areas(i: Ints, j: Ints, by: Floats) -> Floats:
            made = np.zeros(len(i))
            many = self.corners[i] * other.corners[j] > _MANY_EDGES
            few = np.flatnonzero(~many)
            found = np.zeros(len(few))
            shared_areas(self._arrays, other._arrays, (i[few], j[few], by[few]), found)
            made[few] = found
            if many.any():
                right = _moved(other.geometry[j[many]], by[many])
                made[many] = shapely.area(intersection(self.geometry[i[many]], right))
            made[made < _NOTHING * np.minimum(self.area[i], other.area[j])] = 0.0
            return made

        made: Floats = in_threads(areas, rows, at, move)
        return made

    @property
    def _arrays(self) -> tuple[Floats, Ints, Floats, Ints, Ints]:
        return self.xy, self.rings, self.signs, self.first, self.count


def _apart(geometry: Geometries, rows: Ints) -> tuple[Floats, Ints, Floats, Ints]:
    """Return (coordinates, size of each ring, whether it is an outer one, whose it is)."""
    parts, of_part = shapely.get_parts(geometry, return_index=True)
    inner, of_inner = shapely.get_parts(parts, return_index=True)  # collections may hold multis
    rings, of_ring = shapely.get_rings(inner, return_index=True)
    sizes = np.asarray(shapely.get_num_coordinates(rings), np.int64)
    outer = np.diff(of_ring, prepend=-1) != 0
    return shapely.get_coordinates(rings), sizes, outer, rows[of_part[of_inner][of_ring]]


def _moved(geometry: Geometries, step: Floats) -> Geometries:
    coords, which = shapely.get_coordinates(geometry, return_index=True)
    made: Geometries = shapely.set_coordinates(geometry.copy(), coords + step[which])
    return made


def intersection(left: Geometries, right: Geometries) -> Geometries:
    """Return intersections of pairs; outlines that rounding made invalid are repaired."""
    try:
        made: Geometries = shapely.intersection(left, right)
    except shapely.errors.GEOSException:
        made = shapely.intersection(shapely.make_valid(left), shapely.make_valid(right))
    return made

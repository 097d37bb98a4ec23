"""Geometry of many objects at once: in threads, and safe against bad outlines."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely

from geopanoptic.change.objects import Bools, Floats, Geometries, Ints
from geopanoptic.change.outlines import Outlines, intersection
from geopanoptic.change.threads import in_threads

_MITRE = 1.5  # a square grown stays a square (1.414); sharper corners are cut
_EPSILON_M = 1e-6

Left = Geometries
Right = Geometries


def shared_area(left: Left, right: Right) -> Floats:
    """Return the areas of the intersections of pairs of polygons or multipolygons."""
    rows = np.arange(len(left))
    return Outlines.of(left).shared(rows, Outlines.of(right), rows)


def same_within(left: Left, right: Right, tolerance: float) -> Bools:
    """Tell of pairs whether each lies inside the other with all edges moved out by `tolerance`.

    Growing costs most, so pairs whose bounds differ by more are told at once.
    """
    made = np.zeros(len(left), bool)
    if not len(left):
        return made
    reach = tolerance + _EPSILON_M
    apart = np.abs(shapely.bounds(left) - shapely.bounds(right)).max(axis=1)
    rows = np.flatnonzero(apart <= tolerance + _EPSILON_M)

    def inside(a: Left, b: Right) -> Bools:
        return np.asarray(
            shapely.covers(shapely.buffer(b, reach, join_style="mitre", mitre_limit=_MITRE), a),
            bool,
        )

    rows = rows[in_threads(inside, left[rows], right[rows])]
    rows = rows[in_threads(inside, right[rows], left[rows])]
    made[rows] = True
    return made


def moved_by(geometry: Geometries, step: Floats) -> Geometries:
    """Return every geometry moved by its own row of `step` (n, 2)."""
    if not len(geometry):
        return geometry
    coords, which = shapely.get_coordinates(geometry, return_index=True)
    made: Geometries = shapely.set_coordinates(geometry.copy(), coords + step[which])
    return made


def cut(geometry: Geometries, footprint: Any | None, hidden: Geometries) -> Geometries:
    """Return geometries inside `footprint` (None: everywhere) and outside all `hidden`."""
    made = geometry.copy()
    if footprint is not None and len(made):
        shapely.prepare(footprint)
        rows = np.flatnonzero(~shapely.contains_properly(footprint, made))
        if len(rows):
            made[rows] = intersection(made[rows], np.full(len(rows), footprint, object))
    if len(hidden) and len(made):
        which, cover = shapely.STRtree(hidden).query(made, predicate="intersects")
        order = np.lexsort((cover, which))
        which, cover = which[order], cover[order]
        turn = _turn(which)
        for k in range(int(turn.max(initial=-1)) + 1):
            rows, by = which[turn == k], cover[turn == k]
            made[rows] = _difference(made[rows], hidden[by])
    return made


def _turn(sorted_rows: Ints) -> Ints:
    """Return how many times each value of a sorted array has been there before."""
    n = len(sorted_rows)
    first = np.flatnonzero(np.diff(sorted_rows, prepend=-1))
    return np.arange(n) - np.repeat(first, np.diff(np.append(first, n)))


def _difference(left: Left, right: Right) -> Geometries:
    try:
        made: Geometries = shapely.difference(left, right)
    except shapely.errors.GEOSException:
        made = shapely.difference(shapely.make_valid(left), shapely.make_valid(right))
    return made

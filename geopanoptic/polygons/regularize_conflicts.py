"""Choose between the outlines of a feature, so that it fits its pixels and no neighbour suffers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

Flags = npt.NDArray[np.bool_]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Geometries = npt.NDArray[np.object_]

PLAIN, SIMPLE, REGULAR = 0, 1, 2  # pixels; their outline simplified; right angles
_ROUNDING_PX = 1e-6  # area of an overlap that is none
_CUTS = 3  # times that an outline gives way before it is refused


@dataclass(frozen=True, slots=True)
class Outlines:
    """The outlines of every feature, from plain to regular; None where it has none.

    `choices` = three arrays of MultiPolygons in pixels. Plain outlines do not overlap each other,
    nor regular ones of one `group` (n,).
    """

    choices: tuple[Geometries, Geometries, Geometries]
    group: Longs

    def at(self, level: Longs) -> Geometries:
        """Return everybody's outline of a level."""
        found: Geometries = np.choose(level, self.choices)
        return found


def cheapest(outlines: Outlines, corner_px: float, oblique_px: float) -> Longs:
    """Return the level to begin with: REGULAR, or SIMPLE where that describes a group better.

    Better: fewer pixels on the wrong side + a price per corner, which is higher where the angles
    are free (the minimum description length). A group has one level, since it shares walls.
    """
    plain, simple, regular = outlines.choices
    has = np.flatnonzero([g is not None for g in regular])
    group = outlines.group[has]
    right = _summed(group, _wrong_px(regular[has], plain[has]) + corner_px * corners(regular[has]))
    free = oblique_px * corners(simple[has])
    # most groups are decided by their corners alone, and intersections are what takes the time
    open_ = (_summed(group, free) < right)[group]
    free[open_] += _wrong_px(simple[has[open_]], plain[has[open_]])
    level = np.zeros(len(plain), np.int64)
    level[has] = np.where((_summed(group, free) < right)[group], SIMPLE, REGULAR)
    return level


def _summed(group: Longs, values: npt.NDArray[Any]) -> Floats:
    n = int(group.max(initial=-1)) + 1
    total: Floats = np.bincount(group, values, minlength=n).astype(np.float64)
    return total


def _wrong_px(shape: Geometries, plain: Geometries) -> Floats:
    """Return the area that only one of two outlines has."""
    both = shapely.area(shapely.intersection(shape, plain))
    wrong: Floats = shapely.area(shape) + shapely.area(plain) - 2 * both
    return wrong


def settle(outlines: Outlines, level: Longs, least_iou: float) -> tuple[Geometries, Longs]:
    """Return everybody's outline and its level: the given ones, lowered where they do not do.

    An outline that is not plain must have `least_iou` with the plain one. Where two reach into
    each other, the one of the higher level gives way, of two alike the smaller: it is cut, or
    lowered when it then fits badly or falls apart. Plain outlines never overlap, so this ends.
    """
    plain = outlines.choices[PLAIN]
    level = level.copy()
    out = outlines.at(level)
    _lower_misfits(outlines, level, out, np.flatnonzero(level > PLAIN), least_iou)
    cuts = np.zeros(len(plain), np.int64)
    changed = np.flatnonzero(level > PLAIN)
    while len(changed):
        mine, other = _who_yields(out, level, outlines.group, changed)
        changed = np.unique(mine)
        bounds = np.append(np.searchsorted(mine, changed), len(mine))
        for k, a, b in zip(changed, bounds[:-1], bounds[1:], strict=True):
            cuts[k] += 1
            if cuts[k] <= _CUTS:
                out[k] = _cut(out[k], out[other[a:b]])
        spent = changed[cuts[changed] > _CUTS]
        level[spent], cuts[spent] = level[spent] - 1, 0
        out[spent] = outlines.at(level)[spent]
        _lower_misfits(outlines, level, out, changed, least_iou)
    return out, level


def _lower_misfits(
    outlines: Outlines, level: Longs, out: Geometries, rows: Longs, least_iou: float
) -> None:
    """Lower what fits its pixels badly, until it fits or is plain; in place."""
    while len(rows):
        rows = rows[level[rows] > PLAIN]
        rows = rows[~(iou(out[rows], outlines.choices[PLAIN][rows]) >= least_iou)]
        level[rows] -= 1
        out[rows] = outlines.at(level)[rows]


def _cut(shape: shapely.Geometry, others: Geometries) -> shapely.Geometry:
    """Return what is left of a shape beside others; nothing when it falls apart."""
    left = shapely.difference(shape, shapely.union_all(others))
    parts = shapely.get_parts(left)
    if len(parts) != shapely.get_num_geometries(shape) or shapely.get_dimensions(left) != 2:
        return shapely.MultiPolygon()
    return shapely.multipolygons(parts)


def _who_yields(out: Geometries, level: Longs, group: Longs, changed: Longs) -> tuple[Longs, Longs]:
    """Return pairs (who gives way, to whom) that share ground, sorted by the first.

    At least one of a pair is among the `changed` ones: the others were looked at before.
    """
    near = shapely.STRtree(out).query(out[changed], predicate="intersects")
    a, b = changed[near[0]], near[1]
    one, other = np.minimum(a, b), np.maximum(a, b)
    one, other = np.unique(np.stack([one, other])[:, one != other], axis=1)
    alike = (level[one] == level[other]) & (
        (level[one] == PLAIN) | ((level[one] == REGULAR) & (group[one] == group[other]))
    )
    one, other = one[~alike], other[~alike]
    shared = shapely.area(shapely.intersection(out[one], out[other])) > _ROUNDING_PX
    one, other = one[shared], other[shared]
    size = shapely.area(out)
    first = (level[one] > level[other]) | ((level[one] == level[other]) & (size[one] < size[other]))
    mine, stays = np.where(first, one, other), np.where(first, other, one)
    order = np.lexsort((stays, mine))
    return mine[order], stays[order]


def iou(a: Geometries, b: Geometries) -> Floats:
    """Return the intersection over union of pairs of geometries."""
    both = shapely.area(shapely.intersection(a, b))
    found: Floats = both / (shapely.area(a) + shapely.area(b) - both)
    return found


def corners(shapes: Geometries) -> Longs:
    """Return the vertices of every geometry, the repeated last one of a ring not counted."""
    parts, of = shapely.get_parts(shapes, return_index=True)
    rings = np.bincount(of, 1 + shapely.get_num_interior_rings(parts), minlength=len(shapes))
    found: Longs = shapely.get_num_coordinates(shapes) - rings.astype(np.int64)
    return found

"""Buildings with straight walls and right angles, from traced outlines.

Buildings that share a wall and stand alike are one group. The group's outlines vote for a main
direction (`regularize_lines`), wall lines along it cut the group into cells, every cell goes to
the building that has most of its pixels, and lines that are not worth their corners are dropped
(`regularize_cells`). So walls are straight, corners are right, shared walls stay shared, and
courtyards stay. What then fits its pixels badly keeps its plain outline, and what reaches into a
neighbour gives way (`regularize_conflicts`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import shapely

from geopanoptic.errors import ConfigError
from geopanoptic.polygons.batch import PolygonBatch
from geopanoptic.polygons.kernels import joined
from geopanoptic.polygons.regularize_conflicts import SIMPLE, Outlines, cheapest, settle
from geopanoptic.polygons.regularize_fit import (
    MOST_LINES,
    Fitted,
    Groups,
    Rules,
    Traced,
    fit_groups,
)
from geopanoptic.polygons.regularize_groups import group_neighbours, shared_walls
from geopanoptic.polygons.regularize_lines import mark_corners
from geopanoptic.polygons.tracing import trace

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Longs = npt.NDArray[np.int64]
Geometries = npt.NDArray[np.object_]

_AT_ONCE = 8192  # features or groups in memory as floating-point numbers at a time
_LOT = 512  # outlines simplified together


@dataclass(frozen=True, slots=True)
class RegularizeRules:
    """How far a regular outline may leave the pixels.

    `least_iou` with the plain outline, else a building keeps that. `corner_px`: a corner is worth
    so many pixels on the wrong side; `oblique_px`: one of an outline with free angles. `simple_px`:
    tolerance of such an outline (the square root of the largest triangle cut off). `gap_px`: wall
    lines nearer to each other than that are one. `most_members` of a group of buildings wall to
    wall. `simplify_all`: features that are not chosen are simplified too.
    """

    least_iou: float = 0.75
    corner_px: float = 6.0
    oblique_px: float = 9.0
    simple_px: float = 2.0
    gap_px: float = 2.0
    most_members: int = 16
    simplify_all: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.least_iou <= 1:
            raise ConfigError(f"least IoU {self.least_iou} of a regular outline must be in (0, 1]")


def regularize(
    batch: PolygonBatch, chosen: Flags, frames: Floats, rules: RegularizeRules | None = None
) -> tuple[Geometries, Longs]:
    """Give the `chosen` features of a whole layer right angles where that fits.

    `frames` (n, 2, 2): ``frame @ (rows, cols)`` = metres (east, north) at each feature, so that
    angles are right on the ground whatever the CRS. Returns (MultiPolygons in fractional
    (col, row) of all features, the level of each: 2 regular, 1 simplified with free angles where
    that describes it better, 0 the plain outline).

    Laws: outlines are valid; no two of them overlap (by more than 1e-6 px, rounding); one that is
    not plain has at least `least_iou` with its plain one; moving all features by whole pixels
    moves the result; rectangles along the pixels stay as they are.
    """
    rules = rules or RegularizeRules()
    rows = np.flatnonzero(chosen)
    plain = batch.with_coords(batch.coords[:, ::-1].astype(float))
    simple, regular = np.full((2, len(batch)), None, object)
    group = np.full(len(batch), -1)
    smooth = np.arange(len(batch)) if rules.simplify_all else rows
    if len(smooth):
        simple[smooth] = _simplified(batch.take(smooth), plain[smooth], rules.simple_px)
    if len(rows):
        regular[rows], group[rows] = _fit(batch.take(rows), plain[rows], frames[rows], rules)
    outlines = Outlines((plain, simple, regular), group)
    level = cheapest(outlines, rules.corner_px, rules.oblique_px)
    level[smooth] = np.maximum(level[smooth], SIMPLE)
    return settle(outlines, level, rules.least_iou)


def _fit(
    batch: PolygonBatch, plain: Geometries, frames: Floats, rules: RegularizeRules
) -> tuple[Geometries, Longs]:
    """Return regular outlines in (col, row), None where there is none, and each one's group."""
    rings = batch.polygon_offsets[batch.multi_offsets]
    square = frames / np.sqrt(np.abs(np.linalg.det(frames)))[:, None, None]
    votes, is_corner = _look_at(batch, rings, square)
    traced = Traced(batch.coords, batch.ring_offsets, rings, is_corner)
    member, offsets = group_neighbours(batch, plain, votes, rules.most_members)
    summed = np.add.reduceat(votes[member], offsets[:-1], axis=0)
    angle = np.arctan2(summed[:, 1], summed[:, 0]) / 4
    cos, sin = np.cos(angle), np.sin(angle)
    # u along the main direction and v to its right, so that (v, u) turn like (row, col)
    turn = np.stack([np.stack([cos, sin], -1), np.stack([sin, -cos], -1)], axis=1)
    turned = turn @ square[member[offsets[:-1]]]
    made = np.full(len(batch), None, object)
    for first in range(0, len(turned), _AT_ONCE):
        part = offsets[first : first + _AT_ONCE + 1]
        groups = Groups(
            member[part[0] : part[-1]], part - part[0], turned[first : first + _AT_ONCE]
        )
        fitted = fit_groups(traced, groups, Rules(rules.gap_px, rules.corner_px))
        _draw(batch, groups, fitted, made)
    group = np.empty(len(batch), np.int64)
    group[member] = np.repeat(np.arange(len(turned)), np.diff(offsets))
    return made, group


def _simplified(batch: PolygonBatch, plain: Geometries, tolerance_px: float) -> Geometries:
    """Simplify outlines some hundred at a time, those that share walls together.

    GEOS takes time with the square of how many it is given. What lies in different lots may come to
    overlap where it nearly touched; `settle` looks for that.
    """
    a, b, _ = shared_walls(batch)
    part = joined(len(batch), np.asarray(a, np.int64), np.asarray(b, np.int64))
    order = np.argsort(part, kind="stable")
    starts = np.flatnonzero(np.diff(part[order], prepend=-1))
    lots = starts[np.flatnonzero(np.diff(starts // _LOT, prepend=-1))]
    made = np.empty(len(batch), object)
    for rows in np.split(order, lots[1:]):
        made[rows] = shapely.coverage_simplify(plain[rows], tolerance_px)
    return made


def _look_at(batch: PolygonBatch, rings: Longs, square: Floats) -> tuple[Floats, Flags]:
    """Return every feature's vote for a direction, and which vertices end a straight run."""
    n, offsets = len(batch), batch.coord_offsets
    votes, is_corner = np.empty((n, 2)), np.zeros(len(batch.coords), bool)
    for first in range(0, n, _AT_ONCE):
        last = min(first + _AT_ONCE, n)
        begin, stop = offsets[first], offsets[last]
        coords = batch.coords[begin:stop]
        of = np.repeat(np.arange(first, last), np.diff(offsets[first : last + 1]))
        points = np.einsum("nij,nj->ni", square[of], coords.astype(float))
        steps = np.abs(np.diff(coords, axis=0, append=0)).sum(axis=1, dtype=np.int64)
        here = batch.ring_offsets[rings[first] : rings[last] + 1] - begin
        mark_corners(
            (points, steps), here, rings[first : last + 1] - rings[first],
            is_corner[begin:stop], votes[first:last],
        )  # fmt: skip
    return votes, is_corner


def _draw(batch: PolygonBatch, groups: Groups, fitted: Fitted, made: Geometries) -> None:
    """Fill in the outlines of the cells of every member, in (col, row).

    The cells of all groups are stacked into one small label raster, and traced like any other.
    """
    heights = np.maximum(fitted.size[:, 0] - 1, 1)  # the inner cells, and a row of nobody's
    starts = np.append(0, np.cumsum(heights))
    group = np.repeat(np.arange(len(heights)), heights)
    j = np.arange(starts[-1]) - starts[group]
    owner = fitted.owner[group, j + 1, 1:]
    inside = np.arange(MOST_LINES) < fitted.size[group, 1, None] - 2
    inside &= (j < heights[group] - 1)[:, None] & (owner > 0)
    cells = np.where(inside, groups.offsets[group, None] + owner, 0).astype(np.int32)
    first = batch.coords[batch.coord_offsets[groups.member[groups.offsets[:-1]]]]
    back = np.linalg.inv(groups.frames)
    for traced in trace(
        lambda w: np.ascontiguousarray(cells[w.slices]), cells.shape, max(cells.shape), group="id"
    ):
        member = traced.labels - 1
        of = np.searchsorted(groups.offsets, member, side="right") - 1
        of = np.repeat(of, np.diff(traced.coord_offsets))
        row, col = traced.coords.T
        uv = np.stack([fitted.xs[of, col], fitted.ys[of, row - starts[of]]], axis=-1)
        row_col = np.einsum("nij,nj->ni", back[of], uv) + first[of]
        made[groups.member[member]] = traced.with_coords(np.ascontiguousarray(row_col[:, ::-1]))

"""How far two dates lie apart on the ground, from the objects that both of them show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from geopanoptic.change.frame import MetricFrame
from geopanoptic.change.linking import fulfils
from geopanoptic.change.objects import Common, Floats, Ints, ObjectRules, ObjectSet, Offset
from geopanoptic.change.pairs import WHOLE, class_keys, find_pairs, make_sides
from geopanoptic.georef import metre_frame

_SAMPLE = 20_000  # objects used at most: the median of as many is known to a hundredth of its MAD
_ROUNDS = 8
_STILL_M = 1e-3
_LEAST_PAIRS = 8
_BIN_M = 0.5
_ALIKE = 1.1  # area ratio of objects whose centres may vote for an offset


@dataclass(frozen=True, slots=True)
class OffsetRules:
    """When an offset is believed. `max_shift_m`: larger ones are not looked for. `pixel_m`: the
    precision of outlines (a pixel; 1 m for drawn ones). It is taken off when it is more than a
    quarter of `pixel_m` and twice its own standard error, when at least 30 % of the pairs lie
    within three MAD of the median, and the MAD is at most `pixel_m`.
    """

    max_shift_m: float = 10.0
    pixel_m: float = 1.0
    least_inliers: float = 0.3


def fine_offset(
    before: ObjectSet,
    after: ObjectSet,
    rules: ObjectRules,
    limits: OffsetRules | None = None,
    start: tuple[float, float] | None = None,
) -> Offset:
    """Measure the offset of `after` against `before`: median centroid difference of 1:1 objects.

    In map units of the sets' common CRS. `start`: the offset found so far (coarse registration);
    without one, centres of objects of like size vote for it. Used are objects that are each
    other's only partner, wholly observed, not cut, and of about equal area. Repeated with the
    offset taken off until it stands still, because pairs are found best when it is right.

    Law: the offset of (after, before) is the negative one. Deterministic.
    """
    limits = OffsetRules() if limits is None else limits
    before, after = _usable(before), _usable(after)
    frame = MetricFrame.of(before.crs, before.geometry, after.geometry)
    before, after = _sample(before, after, frame, limits.max_shift_m)
    if not len(before) or not len(after):
        return _verdict(np.zeros((0, 2)), (0.0, 0.0), np.zeros((0, 2)), frame, limits)
    offset = _vote(before, after, rules, limits, frame) if start is None else start
    difference, at = np.zeros((0, 2)), np.zeros((0, 2))
    for _ in range(_ROUNDS):
        difference, at = _differences(before, after, rules, offset)
        if not len(difference):
            break
        found = np.median(difference, axis=0)
        moved = _metres(frame, at, (found - offset)[None, :])
        offset = (float(found[0]), float(found[1]))
        if np.hypot(*moved[0]) < _STILL_M:
            break
    return _verdict(difference, offset, at, frame, limits)


def _usable(objects: ObjectSet) -> ObjectSet:
    order = np.argsort(objects.ids, kind="stable")
    good = (objects.observed >= WHOLE) & ~objects.touches_edge
    return objects.take(order[good[order]])


def _sample(
    before: ObjectSet, after: ObjectSet, frame: MetricFrame, reach_m: float
) -> tuple[ObjectSet, ObjectSet]:
    """Return the objects of both sets around every k-th of the before ones."""
    step = -(-len(before) // _SAMPLE)
    if step <= 1:
        return before, after
    some = frame.to_metres(before.geometry[::step])
    reach = np.array([-reach_m, -reach_m, reach_m, reach_m])
    places = shapely.box(*(shapely.bounds(some) + reach).T)
    near = [
        np.unique(shapely.STRtree(frame.to_metres(s.geometry)).query(places)[1])
        for s in (before, after)
    ]
    return before.take(near[0]), after.take(near[1])


def _differences(
    before: ObjectSet, after: ObjectSet, rules: ObjectRules, offset: tuple[float, float]
) -> tuple[Floats, Floats]:
    """Return centroid differences (n, 2) of mutual pairs in map units, and where (n, 2)."""
    one, two, _ = make_sides(before, after, Common(offset), rules.compatible)
    pairs = find_pairs(one, two)
    linked = pairs.same & fulfils(pairs.frac_before, pairs.frac_after, rules)
    b, a = pairs.before[linked], pairs.after[linked]
    only = (np.bincount(b, minlength=len(one))[b] == 1) & (
        np.bincount(a, minlength=len(two))[a] == 1
    )
    b, a = b[only], a[only]
    wide = np.maximum(one.area[b] / two.area[a], two.area[a] / one.area[b])
    b, a = b[wide <= rules.ratio], a[wide <= rules.ratio]
    at = _centres(before, one.rows[b])
    return _centres(after, two.rows[a]) - at, at


def _centres(objects: ObjectSet, rows: Ints | None = None) -> Floats:
    geometry = objects.geometry if rows is None else objects.geometry[rows]
    return np.asarray(shapely.get_coordinates(shapely.centroid(geometry)), np.float64)


def _vote(
    before: ObjectSet, after: ObjectSet, rules: ObjectRules, limits: OffsetRules, frame: MetricFrame
) -> tuple[float, float]:
    """Return the offset that most centres of like objects agree on, within half a metre.

    All pairs of the same class, of like area and closer than the largest shift vote with the
    difference of their centres; wrong pairs scatter, right ones meet in one cell. (0, 0) when the
    fullest cell is not clearly fuller than the one of no offset.
    """
    from scipy.spatial import cKDTree

    reach = limits.max_shift_m
    centre = [shapely.get_coordinates(shapely.centroid(frame.to_metres(s.geometry)))
              for s in (before, after)]  # fmt: skip
    key_b, key_a = class_keys(before, after, rules.compatible)
    near = cKDTree(centre[0]).sparse_distance_matrix(
        cKDTree(centre[1]), reach, output_type="coo_matrix"
    )
    b, a = near.row.astype(np.int64), near.col.astype(np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        wide = before.area_m2[b] / after.area_m2[a]
    like = (key_b[b] == key_a[a]) & (wide <= _ALIKE) & (wide >= 1 / _ALIKE)
    b, a = b[like], a[like]
    step = centre[1][a] - centre[0][b]
    half = int(np.ceil(reach / _BIN_M)) + 1
    edges = (np.arange(-half, half + 2) - 0.5) * _BIN_M
    votes, _, _ = np.histogram2d(step[:, 0], step[:, 1], bins=(edges, edges))
    wider = np.pad(votes, 1)
    rows, cols = votes.shape
    votes = np.sum([wider[i : i + rows, j : j + cols] for i in range(3) for j in range(3)], axis=0)
    best = np.unravel_index(int(np.argmax(votes)), votes.shape)
    if votes[best] < max(_LEAST_PAIRS, 1.5 * votes[half, half]):
        return 0.0, 0.0
    guess = (np.array(best) - half) * _BIN_M
    close = np.abs(step - guess).max(axis=1) <= 1.5 * _BIN_M
    found = np.median(_centres(after, a[close]) - _centres(before, b[close]), axis=0)
    return float(found[0]), float(found[1])


def _metres(frame: MetricFrame, at: Floats, step: Floats) -> Floats:
    """Return steps in map units as metres along the map's axes; one place serves for all."""
    if not len(at) or frame.crs is None:
        return step
    middle = np.median(at, axis=0)
    return np.asarray(step * np.linalg.norm(metre_frame(frame.crs, *middle), axis=0), np.float64)


def _verdict(
    difference: Floats,
    offset: tuple[float, float],
    at: Floats,
    frame: MetricFrame,
    limits: OffsetRules,
) -> Offset:
    """Decide whether the offset is to be taken off, and say why."""
    n = len(difference)
    if n == 0:
        nan = float("nan")
        return Offset(0.0, 0.0, 0.0, 0.0, 0, 0, nan, False, "no object is there at both dates")
    east, north = (float(v) for v in _metres(frame, at, np.array([offset]))[0])
    apart = np.abs(_metres(frame, at, difference - np.array(offset)))
    mad = float(np.median(apart, axis=0).max())
    inliers = int((apart.max(axis=1) <= 3 * max(mad, 0.1 * limits.pixel_m)).sum())
    size, error = float(np.hypot(east, north)), 1.2533 * 1.4826 * mad / np.sqrt(n)
    if n < _LEAST_PAIRS:
        no = f"only {n} objects are there at both dates unchanged, {_LEAST_PAIRS} are needed"
    elif inliers < limits.least_inliers * n:
        no = f"only {inliers} of {n} objects agree"
    elif mad > limits.pixel_m:
        no = f"objects differ by {mad:.2f} m (MAD), more than the precision {limits.pixel_m:.2f} m"
    elif size > limits.max_shift_m:
        no = f"{size:.2f} m is more than the largest shift looked for, {limits.max_shift_m:g} m"
    elif size <= 0.25 * limits.pixel_m:
        no = f"{size:.2f} m is no more than a quarter of the precision {limits.pixel_m:.2f} m"
    elif size <= 2 * error:
        no = f"{size:.2f} m is within its own error of {2 * error:.2f} m"
    else:
        no = ""
    reason = no or f"{inliers} of {n} objects agree within {mad:.2f} m (MAD)"
    return Offset(*offset, east, north, inliers, n, mad, not no, reason)

"""From links to events: groups of objects that belong together, and what became of each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from geopanoptic.change.geometry import moved_by, same_within
from geopanoptic.change.linking import LinkTable
from geopanoptic.change.objects import Bools, Floats, Geometries, Ints, ObjectRules
from geopanoptic.change.pairs import Pairs, Side

_STILL_M = 1e-6
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Groups:
    """Connected components of the link graph: events 0..n-1.

    `of_before`, `of_after`: the event of every object of the two sides. Events with objects of
    before come first, by their least id, then the others by theirs.
    """

    of_before: Ints
    of_after: Ints
    n_before: Ints
    n_after: Ints

    def __len__(self) -> int:
        return len(self.n_before)

    def sum_before(self, values: Floats | Bools) -> Floats:
        """Sum a value of the before objects over each event."""
        return np.bincount(self.of_before, values, len(self)).astype(np.float64)

    def sum_after(self, values: Floats | Bools) -> Floats:
        """Sum a value of the after objects over each event."""
        return np.bincount(self.of_after, values, len(self)).astype(np.float64)

    @property
    def first_before(self) -> Ints:
        """The first object of before in each event, -1 where there is none."""
        return _first(self.of_before, len(self))

    @property
    def first_after(self) -> Ints:
        """The first object of after in each event, -1 where there is none."""
        return _first(self.of_after, len(self))


def _first(event: Ints, n: int) -> Ints:
    first = np.full(n, len(event), np.int64)
    np.minimum.at(first, event, np.arange(len(event)))
    first[first == len(event)] = -1
    return first


def group(links: LinkTable, n_before: int, n_after: int) -> Groups:
    """Collect linked objects; sides are in order of ids, so numbers do not depend on the files."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = n_before + n_after
    if n == 0:
        none = np.zeros(0, np.int64)
        return Groups(none, none, none, none)
    ends = links.before, links.after + n_before
    graph = coo_matrix((np.ones(len(links.before), np.int8), ends), shape=(n, n))
    component = connected_components(graph, directed=False)[1]
    _, first, event = np.unique(component, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    event = rank[event.reshape(-1)]
    b, a = event[:n_before], event[n_before:]
    return Groups(b, a, np.bincount(b, minlength=len(first)), np.bincount(a, minlength=len(first)))


@dataclass(frozen=True)
class Judged:
    """What was measured and decided of every event; NaN where it does not apply.

    `overlap`: plane area that the observed parts share. `iou`, `iou_aligned`, `step` (n, 2):
    centroid of after minus before in the plane, of one-to-one events. `ratio`: after / before,
    of the observed parts.
    """

    status: Geometries
    overlap: Floats
    iou: Floats
    iou_aligned: Floats
    step: Floats
    ratio: Floats
    observed_before: Floats
    observed_after: Floats
    partly: Bools


def judge(
    sides: tuple[Side, Side], pairs: Pairs, links: LinkTable, groups: Groups, rules: ObjectRules
) -> Judged:
    """Decide the status of every event (docs/change.md, "What became of an object")."""
    before, after = sides
    n = len(groups)
    inside = groups.of_before[pairs.before] == groups.of_after[pairs.after]
    event = groups.of_before[pairs.before[inside]]
    overlap: Floats = np.bincount(event, pairs.shared[inside], n).astype(np.float64)
    visible_b, visible_a = groups.sum_before(before.visible), groups.sum_after(after.visible)
    overlap = np.minimum(overlap, np.minimum(visible_b, visible_a))
    with np.errstate(divide="ignore", invalid="ignore"):
        observed_b = visible_b / groups.sum_before(before.area)
        observed_a = visible_a / groups.sum_after(after.area)
        both = (groups.n_before > 0) & (groups.n_after > 0)
        iou = np.where(both, overlap / (visible_b + visible_a - overlap), np.nan)
        ratio = np.where(both, visible_a / visible_b, np.nan)
    sure = np.zeros(n, bool)
    sure[groups.of_before[links.before[links.sure]]] = True
    least = rules.least_observed + _ROUNDING
    hidden = (observed_b <= least) | (observed_a <= least) | (both & ~sure)
    single = (groups.n_before == 1) & (groups.n_after == 1) & ~hidden
    rows = np.flatnonzero(single)
    one = _OneToOne.of(before, after, groups, rows)
    iou_aligned, step = np.full(n, np.nan), np.full((n, 2), np.nan)
    step[rows] = one.step
    iou_aligned[rows] = one.aligned(iou[rows], rules)
    by_shape = np.zeros(n, bool)
    by_shape[rows] = one.same_shape(iou[rows], iou_aligned[rows], ratio[rows], rules)
    same_class = np.ones(n, bool)
    same_class[rows] = before.key[one.b] == after.key[one.a]
    status = _status(groups, hidden, ratio, by_shape & same_class, rules)
    status[single & ~same_class] = "reclassified"
    partly = groups.sum_before(before.partly) + groups.sum_after(after.partly) > 0
    nothing = hidden | (groups.n_before == 0) | (groups.n_after == 0)
    iou[nothing], ratio[nothing] = np.nan, np.nan
    overlap[hidden] = np.nan
    return Judged(
        status, overlap, iou, iou_aligned, step, ratio, _shown(observed_b), _shown(observed_a),
        partly & ~hidden,
    )  # fmt: skip


def _shown(observed: Floats) -> Floats:
    """Return observed shares without the noise of rounding."""
    made: Floats = np.where(observed > 1 - 1e-6, 1.0, observed)
    return made


def _status(
    groups: Groups, hidden: Bools, ratio: Floats, same: Bools, rules: ObjectRules
) -> Geometries:
    nb, na = groups.n_before, groups.n_after
    larger = np.nan_to_num(ratio, nan=1.0)
    choices = [
        (hidden, "unobserved"),
        (na == 0, "removed"),
        (nb == 0, "added"),
        ((nb == 1) & (na > 1), "split"),
        ((nb > 1) & (na == 1), "merged"),
        ((nb > 1) & (na > 1), "complex"),
        (same, "unchanged"),
        (larger > rules.ratio + _ROUNDING, "grown"),
        (1 / np.maximum(larger, 1e-300) > rules.ratio + _ROUNDING, "shrunk"),
    ]
    status = np.full(len(groups), "modified", object)
    for where, name in reversed(choices):
        status[where] = name
    return status


@dataclass(frozen=True)
class _OneToOne:
    """The pairs of one-to-one events: positions `b`, `a` in the sides, `step` between centroids.

    `step` is NaN where only areas are known of an observed part, not its outline.
    """

    sides: tuple[Side, Side]
    b: Ints
    a: Ints
    step: Floats

    @classmethod
    def of(cls, before: Side, after: Side, groups: Groups, rows: Ints) -> _OneToOne:
        b, a = groups.first_before[rows], groups.first_after[rows]
        step = _centres(after.geometry[a]) - _centres(before.geometry[b])
        step[~(before.is_true_shape[b] & after.is_true_shape[a])] = np.nan
        return cls((before, after), b, a, step)

    def aligned(self, iou: Floats, rules: ObjectRules) -> Floats:
        """Return the IoU with the centroids put on each other; NaN for larger shifts."""
        far = np.hypot(*self.step.T)
        made = np.where(far <= _STILL_M, iou, np.nan)
        rows = np.flatnonzero((far > _STILL_M) & (far <= rules.max_object_shift_m))
        one, two = (side.outlines for side in self.sides)
        b, a = self.b[rows], self.a[rows]
        shared = one.shared(b, two, a, -self.step[rows])
        union = one.area[b] + two.area[a] - shared
        made[rows] = np.minimum(shared / np.maximum(union, 1e-300), 1.0)
        return made

    def same_shape(self, iou: Floats, aligned: Floats, ratio: Floats, rules: ObjectRules) -> Bools:
        """Tell which pairs are one object but for the outline's noise."""
        best = np.fmax(iou, aligned)
        wide = np.maximum(ratio, 1 / ratio)
        made = (best >= rules.iou - _ROUNDING) & (wide <= rules.ratio + _ROUNDING)
        rows = np.flatnonzero(~made & np.isfinite(self.step[:, 0]))
        left, right = (s.geometry[k] for s, k in zip(self.sides, (self.b, self.a), strict=True))
        made[rows] = same_within(left[rows], right[rows], rules.tolerance_m)
        rows = np.flatnonzero(~made & np.isfinite(aligned))
        aligned_right = moved_by(right[rows], -self.step[rows])
        made[rows] = same_within(left[rows], aligned_right, rules.tolerance_m)
        return made


def _centres(geometry: Geometries) -> Floats:
    centre = shapely.centroid(geometry)
    return np.stack([shapely.get_x(centre), shapely.get_y(centre)], axis=1).reshape(-1, 2)

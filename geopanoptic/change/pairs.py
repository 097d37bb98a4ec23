"""What two sets share: the observed part of every object, and all pairs that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely

from geopanoptic.change.frame import MetricFrame
from geopanoptic.change.geometry import cut
from geopanoptic.change.objects import UNNAMED, Bools, Common, Floats, Geometries, Ints, ObjectSet
from geopanoptic.change.outlines import Outlines

WHOLE = 1.0 - 1e-6  # an observed share above this is 1, but for rounding


@dataclass(frozen=True)
class Side:
    """One date's objects in a plane of metres, in order of their ids.

    `rows`: their row numbers in the set. `key` int: equal for classes that count as one.
    `whole`, `geometry`: outline of all, and of the observed part. `area`, `visible`: the plane
    areas of both. `m2`: true m2 per plane m2. `clipped`: where `geometry` was really cut to what
    was observed (False: taken whole, its area scaled). `outlines`: `geometry` as flat arrays.
    """

    rows: Ints
    key: Ints
    whole: Geometries
    geometry: Geometries
    area: Floats
    visible: Floats
    m2: Floats
    clipped: Bools
    scores: Floats
    touches_edge: Bools
    outlines: Outlines

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def partly(self) -> Bools:
        """Where a part was not observed."""
        return self.visible < self.area * WHOLE

    @property
    def is_true_shape(self) -> Bools:
        """Where `geometry` is what was observed, so that outlines can be compared."""
        return (self.clipped | ~self.partly) & (self.visible > 0)


@dataclass(frozen=True)
class Pairs:
    """Objects of the two sides whose observed parts overlap, sorted by (before, after).

    `before`, `after`: positions in the sides. `shared`: plane area of the overlap. `same`: the
    classes count as one.
    """

    before: Ints
    after: Ints
    shared: Floats
    same: Bools
    frac_before: Floats
    frac_after: Floats
    iou: Floats


def class_keys(
    before: ObjectSet, after: ObjectSet, compatible: Sequence[Sequence[str]]
) -> tuple[Ints, Ints]:
    """Return a number for every object, equal where the classes count as one.

    All are one class when a date names none.
    """
    if any(len(s) and (s.class_names == UNNAMED).all() for s in (before, after)):
        return np.zeros(len(before), np.int64), np.zeros(len(after), np.int64)
    joined = {name: min(group) for group in compatible for name in group}
    names = sorted({*before.class_names.tolist(), *after.class_names.tolist()})
    shown = sorted({joined.get(n, n) for n in names})
    number = {n: shown.index(joined.get(n, n)) for n in names}
    one, two = (
        np.array([number[n] for n in s.class_names.tolist()], np.int64) for s in (before, after)
    )
    return one, two


def make_sides(
    before: ObjectSet, after: ObjectSet, common: Common, compatible: Sequence[Sequence[str]]
) -> tuple[Side, Side, MetricFrame]:
    """Bring both sets to one plane of metres; the after objects are moved back by the offset."""
    keys = class_keys(before, after, compatible)
    dx, dy = common.offset
    after = after.moved(-dx, -dy) if dx or dy else after
    frame = MetricFrame.of(before.crs, before.geometry, after.geometry)
    one, two = (_side(s, k, common, frame) for s, k in zip((before, after), keys, strict=True))
    return one, two, frame


def _side(objects: ObjectSet, key: Ints, common: Common, frame: MetricFrame) -> Side:
    rows = np.argsort(objects.ids, kind="stable").astype(np.int64)
    s = objects.take(rows)
    whole = frame.to_metres(s.geometry)
    area = shapely.area(whole)
    observed = np.where(s.observed >= WHOLE, 1.0, np.clip(s.observed, 0.0, 1.0))
    seen = whole
    partly = np.flatnonzero(observed < 1)
    clipped = np.zeros(len(s), bool)
    visible = area * observed
    if len(partly):
        seen = whole.copy()
        seen[observed == 0] = shapely.Polygon()
        some = partly[observed[partly] > 0]
        if common.footprint is not None or len(common.hidden):
            seen[some] = frame.to_metres(cut(s.geometry[some], common.footprint, common.hidden))
            clipped[some] = True
            visible[some] = shapely.area(seen[some])
    with np.errstate(divide="ignore", invalid="ignore"):
        m2 = np.where(area > 0, s.area_m2 / area, 1.0)
    return Side(
        rows, key[rows], whole, seen, area, visible, m2, clipped, s.scores, s.touches_edge,
        Outlines.of(seen),
    )  # fmt: skip


def find_pairs(before: Side, after: Side) -> Pairs:
    """Return all pairs that share ground, exactly; never a table of all by all."""
    b, a = shapely.STRtree(after.geometry).query(before.geometry)
    order = np.lexsort((a, b))
    b, a = b[order].astype(np.int64), a[order].astype(np.int64)
    shared = before.outlines.shared(b, after.outlines, a)
    real = shared > 0
    b, a, shared = b[real], a[real], shared[real]
    vb, va = before.visible[b], after.visible[a]
    shared = np.minimum(shared, np.minimum(vb, va))
    return Pairs(
        b, a, shared, before.key[b] == after.key[a],
        shared / vb, shared / va, shared / (vb + va - shared),
    )  # fmt: skip

"""Which object of before is which of after: the link rule, and what nobody could see."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely

from geopanoptic.change.geometry import same_within
from geopanoptic.change.objects import Bools, Floats, Ints, ObjectRules
from geopanoptic.change.pairs import Pairs, Side
from geopanoptic.matching import assign

_ROUNDING = 1e-9
_TWIN_IOU = 1.0 - 1e-6


@dataclass(frozen=True)
class LinkTable:
    """Links as positions in the two sides, sorted by (before, after).

    `shared` plane area; `sure`: both were seen to belong together, False for a link that only
    could be, because the part in question was not observed.
    """

    before: Ints
    after: Ints
    shared: Floats
    sure: Bools


def share(pairs: Pairs) -> Floats:
    """Return the shared area over that of the smaller one (its observed part)."""
    return np.maximum(pairs.frac_before, pairs.frac_after)


def fulfils(frac_before: Floats, frac_after: Floats, rules: ObjectRules) -> Bools:
    """Tell for which pairs the link rule holds."""
    most = np.maximum(frac_before, frac_after)
    if rules.link_both is None:
        return np.asarray(most >= rules.link - _ROUNDING)
    least = np.minimum(frac_before, frac_after)
    return (least > rules.link_both) | (most > rules.link_either)


def link(before: Side, after: Side, pairs: Pairs, rules: ObjectRules) -> LinkTable:
    """Choose the links among the pairs; see `ObjectRules` for what they mean."""
    meets = fulfils(pairs.frac_before, pairs.frac_after, rules)
    chosen = meets & pairs.same
    if rules.twins:
        chosen = _twins_only(pairs, chosen)
    has_b, has_a = _ends(pairs, chosen, before, after)
    other = meets & ~pairs.same & (pairs.iou >= rules.same_place_iou)
    chosen |= other & ~has_b[pairs.before] & ~has_a[pairs.after]
    b, a, shared = pairs.before[chosen], pairs.after[chosen], pairs.shared[chosen]
    sure = np.ones(len(b), bool)
    if rules.near and rules.tolerance_m > 0:
        nb, na, overlap = _near(before, after, (b, a), pairs, rules.tolerance_m)
        b, a, shared = np.append(b, nb), np.append(a, na), np.append(shared, overlap)
        sure = np.append(sure, np.ones(len(nb), bool))
    ub, ua = _possible(before, after, (b, a), rules)
    b, a, shared = np.append(b, ub), np.append(a, ua), np.append(shared, np.zeros(len(ub)))
    sure = np.append(sure, np.zeros(len(ub), bool))
    order = np.lexsort((a, b))
    return LinkTable(b[order], a[order], shared[order], sure[order])


def _ends(pairs: Pairs, chosen: Bools, before: Side, after: Side) -> tuple[Bools, Bools]:
    has_b, has_a = np.zeros(len(before), bool), np.zeros(len(after), bool)
    has_b[pairs.before[chosen]] = True
    has_a[pairs.after[chosen]] = True
    return has_b, has_a


def _twins_only(pairs: Pairs, chosen: Bools) -> Bools:
    """Take away the links of twins to others: change(A, A) is all unchanged, nested or not."""
    twin = np.flatnonzero(chosen & (pairs.iou >= _TWIN_IOU))
    if not len(twin):
        return chosen
    best = twin[assign(pairs.before[twin], pairs.after[twin], pairs.iou[twin])]
    kept = chosen & ~np.isin(pairs.before, pairs.before[best])
    kept &= ~np.isin(pairs.after, pairs.after[best])
    kept[best] = True
    return kept


def _near(
    before: Side, after: Side, linked: tuple[Ints, Ints], pairs: Pairs, tolerance: float
) -> tuple[Ints, Ints, Floats]:
    """Link what stayed alone and lies within the tolerance, one to one, the closest first."""
    b = np.setdiff1d(np.flatnonzero(before.is_true_shape), linked[0])
    a = np.setdiff1d(np.flatnonzero(after.is_true_shape), linked[1])
    none = np.zeros(0, np.int64)
    if not len(b) or not len(a):
        return none, none, np.zeros(0)
    tree = shapely.STRtree(after.geometry[a])
    i, j = tree.query(before.geometry[b], predicate="dwithin", distance=tolerance)
    b, a = b[i], a[j]
    keep = before.key[b] == after.key[a]
    b, a = b[keep], a[keep]
    keep = same_within(before.geometry[b], after.geometry[a], tolerance)
    b, a = b[keep], a[keep]
    apart = shapely.hausdorff_distance(before.geometry[b], after.geometry[a])
    best = assign(b, a, 1.0 / (1.0 + apart))
    b, a = b[best], a[best]
    overlap = _shared_of(pairs, b, a, len(after))
    return b, a, overlap


def _shared_of(pairs: Pairs, b: Ints, a: Ints, width: int) -> Floats:
    """Return what the pairs (b, a) share, 0 where they do not overlap."""
    code, wanted = pairs.before * width + pairs.after, b * width + a
    if not len(code):
        return np.zeros(len(b))
    at = np.minimum(np.searchsorted(code, wanted), len(code) - 1)
    return np.where(code[at] == wanted, pairs.shared[at], 0.0)


def _possible(
    before: Side, after: Side, linked: tuple[Ints, Ints], rules: ObjectRules
) -> tuple[Ints, Ints]:
    """Return the pairs that may belong together in what was not observed, one end being alone.

    Either the whole outlines fulfil the link rule (vector files know what lies under a cloud), or
    an outline was cut off by nodata, and the hidden part of the other one lies beneath that: right
    beside it, or, for an outline that has no partner, no further away than the other one is wide
    (of several the nearest). Without these links a cloud over half a
    house would make the other half a new one.
    """
    alone_b, alone_a = np.ones(len(before), bool), np.ones(len(after), bool)
    alone_b[linked[0]] = False
    alone_a[linked[1]] = False
    b1, a1 = _hidden_pairs(before, after, (alone_b, alone_a), rules)
    a2, b2 = _hidden_pairs(after, before, (alone_a, alone_b), rules)
    ends = np.stack([np.append(b1, b2), np.append(a1, a2)], axis=1)
    pairs = np.unique(ends, axis=0).astype(np.int64)
    return pairs[:, 0], pairs[:, 1]


def _hidden_pairs(
    one: Side, other: Side, alone: tuple[Bools, Bools], rules: ObjectRules
) -> tuple[Ints, Ints]:
    """Return (partly observed objects of `one`, objects of `other`) that may belong together."""
    none = np.zeros(0, np.int64)
    part = np.flatnonzero(one.partly)
    if not len(part) or not len(other):
        return none, none
    reach = np.maximum(np.sqrt(one.area), rules.tolerance_m)
    i, j = shapely.STRtree(other.whole).query(
        one.whole[part], predicate="dwithin", distance=reach[part]
    )
    i, j = part[i].astype(np.int64), j.astype(np.int64)
    keep = (alone[0][i] | alone[1][j]) & (one.key[i] == other.key[j])
    i, j = i[keep], j[keep]
    shared = shapely.area(shapely.intersection(one.whole[i], other.whole[j]))
    with np.errstate(divide="ignore", invalid="ignore"):
        belongs = fulfils(shared / one.area[i], shared / other.area[j], rules)
    hidden = shapely.difference(one.whole[i], one.geometry[i])
    hidden = np.where(one.is_true_shape[i], hidden, one.whole[i])
    apart = shapely.distance(hidden, other.whole[j])
    belongs |= other.touches_edge[j] & (apart <= rules.tolerance_m)
    cut = np.flatnonzero(other.touches_edge[j] & alone[1][j] & (apart <= reach[i]))
    cut = cut[np.lexsort((i[cut], apart[cut], j[cut]))]
    belongs[cut[np.flatnonzero(np.diff(j[cut], prepend=-1))]] = True
    return i[belongs], j[belongs]

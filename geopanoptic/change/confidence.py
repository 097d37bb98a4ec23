"""How much to trust an event: a documented heuristic with all of its factors, no probability."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.change.linking import LinkTable, share
from geopanoptic.change.objects import Floats, Ints, ObjectRules
from geopanoptic.change.pairs import Pairs, Side
from geopanoptic.change.statuses import Groups, Judged

_SURE_RATIO = 2.5  # an area ratio of twice the default threshold leaves no doubt


def confidence_columns(
    sides: tuple[Side, Side],
    found: tuple[Pairs, LinkTable, Groups, Judged],
    rules: ObjectRules,
) -> dict[str, npt.NDArray[Any]]:
    """Return scores and confidence = existence x absence x observed x margin of every event.

    `existence`: the lower of the mean scores of the dates at which there is an object. `absence`:
    1 - the best score of any object of the class that overlaps an added or removed one at the
    other date; 1 for others. `margin`: 0.5 at the threshold that decided, 1 far from it. `observed`
    is the lower of the two observed shares. NaN for unobserved events and without scores.
    """
    pairs, links, groups, judged = found
    before, after = sides
    score_b, score_a = (
        _mean(before, groups.of_before, groups),
        _mean(after, groups.of_after, groups),
    )
    existence = np.fmin(score_b, score_a)
    existence[np.isnan(score_b) & (groups.n_before > 0)] = np.nan
    existence[np.isnan(score_a) & (groups.n_after > 0)] = np.nan
    absence = 1.0 - _rivals(sides, pairs, groups)
    margin = _margin(pairs, links, groups, judged, rules)
    observed = np.fmin(judged.observed_before, judged.observed_after)
    confidence = existence * absence * observed * margin
    hidden = judged.status == "unobserved"
    for factor in (absence, margin, confidence):
        factor[hidden] = np.nan
    return {
        "score_before": score_b,
        "score_after": score_a,
        "confidence": confidence,
        "existence": existence,
        "absence": absence,
        "margin": margin,
    }


def _mean(side: Side, event: Ints, groups: Groups) -> Floats:
    """Return the mean score of an event's objects at one date, weighted by area."""
    known = np.isfinite(side.scores) & (side.area > 0)
    weight = np.where(known, side.area, 0.0)
    total = np.bincount(event, weight, len(groups))
    score = np.bincount(event, weight * np.nan_to_num(side.scores), len(groups))
    mean: Floats = np.full(len(groups), np.nan)
    np.divide(score, total, out=mean, where=total > 0)
    return mean


def _rivals(sides: tuple[Side, Side], pairs: Pairs, groups: Groups) -> Floats:
    """Return the best score of what overlaps a lone object of its class, 0 where nothing does."""
    before, after = sides
    best = np.zeros(len(groups))
    b, a = pairs.before[pairs.same], pairs.after[pairs.same]
    event_b, event_a = groups.of_before[b], groups.of_after[a]
    lone = groups.n_after[event_b] == 0
    np.maximum.at(best, event_b[lone], np.nan_to_num(after.scores[a[lone]]))
    lone = groups.n_before[event_a] == 0
    np.maximum.at(best, event_a[lone], np.nan_to_num(before.scores[b[lone]]))
    return best


def _margin(
    pairs: Pairs, links: LinkTable, groups: Groups, judged: Judged, rules: ObjectRules
) -> Floats:
    """Return 0.5..1: how far the figure that decided lies from its threshold."""
    n = len(groups)
    limit = rules.link if rules.link_both is None else rules.link_either
    strength = share(pairs)
    nearest = np.zeros(n)  # of alone objects: the largest share that was too little
    for event, count in (
        (groups.of_before[pairs.before], groups.n_after),
        (groups.of_after[pairs.after], groups.n_before),
    ):
        lone = (count[event] == 0) & pairs.same
        np.maximum.at(nearest, event[lone], strength[lone])
    weakest = np.ones(n)  # of groups: the smallest share that still was enough
    width = int(links.after.max(initial=0)) + int(pairs.after.max(initial=0)) + 1
    linked = np.isin(pairs.before * width + pairs.after, links.before * width + links.after)
    np.minimum.at(weakest, groups.of_before[pairs.before[linked]], strength[linked])
    iou = np.nan_to_num(np.fmax(judged.iou, judged.iou_aligned))
    wide = np.nan_to_num(np.fmax(judged.ratio, 1 / judged.ratio), nan=1.0)
    above = np.minimum((iou - rules.iou) / (1 - rules.iou + 1e-9), 2 - wide / rules.ratio)
    by_status = {
        "removed": 1 - nearest / limit,
        "added": 1 - nearest / limit,
        "unchanged": np.minimum(above, (rules.ratio - wide) / max(rules.ratio - 1, 1e-9)),
        "reclassified": iou,
        "grown": (wide - rules.ratio) / (_SURE_RATIO - rules.ratio),
        "shrunk": (wide - rules.ratio) / (_SURE_RATIO - rules.ratio),
        "modified": (rules.iou - iou) / rules.iou,
    }
    far = (weakest - limit) / max(1 - limit, 1e-9)
    for name, value in by_status.items():
        far = np.where(judged.status == name, value, far)
    return np.asarray(0.5 + 0.5 * np.clip(far, 0.0, 1.0), np.float64)

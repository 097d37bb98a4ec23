"""What became of every object: matched, missed, split, merged, misclassified, ignored, ..."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geopanoptic.metrics.overlap import Overlap, SegmentSide
from geopanoptic.metrics.quality import Matching

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

TRUTH_STATUS = ("matched", "missed", "split", "merged", "misclassified", "ignored")
PRED_STATUS = ("matched", "false", "duplicate", "ignored")


@dataclass(frozen=True, slots=True)
class Fate:
    """One side's objects: `status` (a word per segment), best IoU of its class, and partners.

    `partner` int64: the label of the matched or else most overlapping segment, 0 where none.
    `partners`: how many segments of the other side lie (or hold it) by more than half.
    """

    status: npt.NDArray[np.str_]
    iou: Floats
    partner: Ints
    partners: Ints


@dataclass(frozen=True, slots=True)
class Fates:
    """What became of the objects of both sides."""

    truth: Fate
    pred: Fate

    def count(self, side: str, status: str, class_ids: Ints, class_id: int) -> int:
        """Count one status among the segments of a class ('truth' or 'pred' side)."""
        fate = self.truth if side == "truth" else self.pred
        return int(((fate.status == status) & (class_ids == class_id)).sum())


def fates(matched: Matching) -> Fates:
    """Name what became of each segment of both sides; every segment has exactly one status.

    Truth, the first that holds: *matched*; *ignored* (crowd, too small, under void);
    *misclassified*: a prediction of another class with IoU > 0.5; *merged*: a prediction of its
    class holds more than half of it and of another truth object; *split*: two or more
    predictions of its class lie in it by more than half; else *missed*.
    Predictions: *matched*; *ignored*; *duplicate*: lies by more than half in a truth object of
    its class that another prediction matches, or that is split; else *false*.
    """
    o = matched.overlap
    n_t, n_p = len(o.truth), len(o.pred)
    hit_t, hit_p = np.zeros(n_t, bool), np.zeros(n_p, bool)
    hit_t[o.t[matched.pair]] = True
    hit_p[o.p[matched.pair]] = True
    judged = o.judged
    inside = judged & (2 * o.px > o.pred.area_px[o.p])  # the prediction lies in the truth
    holds = judged & (2 * o.px > o.truth.area_px[o.t])  # the prediction holds the truth
    parts = np.bincount(o.t[inside], minlength=n_t)
    held = np.bincount(o.p[holds], minlength=n_p)
    split = parts >= 2
    merged = np.zeros(n_t, bool)
    merged[o.t[holds]] = held[o.p[holds]] >= 2
    iou = o.iou()
    mixed = np.flatnonzero(~o.same_class & ~o.pred.crowd[o.p] & (iou > 0.5))
    other = np.zeros(n_t, bool)
    other[o.t[mixed]] = True
    left = matched.fn
    truth = np.select(
        [hit_t, ~left, other, merged, split],
        ["matched", "ignored", "misclassified", "merged", "split"],
        "missed",
    )
    lies_in = np.zeros(n_p, bool)
    lies_in[o.p[inside]] = (hit_t | split)[o.t[inside]]
    pred = np.select([hit_p, ~matched.fp, lies_in], ["matched", "ignored", "duplicate"], "false")
    best_t, partner_t = _best(o, o.t, o.pred, o.p, n_t)
    # what was taken for another class is named, not some sliver of its own class nearby
    mixed = mixed[truth[o.t[mixed]] == "misclassified"]
    best_t[o.t[mixed]], partner_t[o.t[mixed]] = iou[mixed], o.pred.label[o.p[mixed]]
    best_p, partner_p = _best(o, o.p, o.truth, o.t, n_p)
    return Fates(
        Fate(truth, best_t, partner_t, parts.astype(np.int64)),
        Fate(pred, best_p, partner_p, held.astype(np.int64)),
    )


def _best(
    o: Overlap, rows: Ints, other: SegmentSide, other_rows: Ints, n: int
) -> tuple[Floats, Ints]:
    """Return each segment's best IoU and the label of that partner, its own class before others."""
    iou = o.iou()
    best, partner = np.zeros(n), np.zeros(n, np.int64)
    # of several, the last assignment wins: sort so that the best comes last
    order = np.lexsort((-other.label[other_rows], iou, o.same_class))
    order = order[~other.crowd[other_rows[order]]]
    partner[rows[order]] = other.label[other_rows[order]]
    best[rows[order]] = iou[order]
    return best, partner

"""VPQ and STQ: panoptic quality of objects over time, from the joint histograms of the dates.

A *tube* is what has one id over several dates. Its areas and overlaps are sums over the dates, so
everything here is addition of the tables that a single date's figures come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from geopanoptic.metrics.count import CLASS_LABEL, PanopticCount
from geopanoptic.metrics.overlap import Overlap, Rules
from geopanoptic.metrics.quality import (
    PanopticQuality,
    QualityStats,
    match,
    mean,
    panoptic_quality,
)
from geopanoptic.metrics.semantic import class_accuracy

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CountedDate:
    """One date of a series: its count, and what is not judged there."""

    count: PanopticCount
    rules: Rules


@dataclass(frozen=True, slots=True)
class VideoQuality:
    """VPQ: the panoptic quality of tubes over 1, 2, ... k dates, and the means over k."""

    windows: tuple[PanopticQuality, ...]

    def mean(self, group: str) -> float | None:
        """Return the mean PQ over the windows of 'all', 'things' or 'stuff'."""
        return mean(getattr(w, group).pq for w in self.windows)


def vpq(dates: Sequence[CountedDate], n_classes: int, windows: int = 4) -> VideoQuality:
    """Return Video Panoptic Quality (Kim 2020; the semantics of vps `eval_vpq.py`).

    For each length 1..`windows` (at most the number of dates) every run of that many successive
    dates is scored as one volume, with the rules of PQ on tubes; statistics are summed over the
    runs before ratios are taken. A tube's class is that of its first date in the run.

    Law: with one date, or windows 1 and one date, it is PQ.
    """
    things = dates[0].rules.things if dates else frozenset[int]()
    lengths = range(1, min(windows, len(dates)) + 1)
    return VideoQuality(
        tuple(
            panoptic_quality(
                QualityStats.sum(
                    [
                        _volume(dates[k : k + length], n_classes)
                        for k in range(len(dates) - length + 1)
                    ]
                ),
                things,
            )
            for length in lengths
        )
    )


def _volume(dates: Sequence[CountedDate], n_classes: int) -> QualityStats:
    """Return the statistics of one run of dates seen as one volume."""
    sides = {side: _first_date(dates, side) for side in ("truth", "pred")}
    count = PanopticCount.sum([_with_classes(d.count, sides) for d in dates])
    seen = set(sides["truth"].label.tolist())
    unseen = {u[0]: u for d in reversed(dates) for u in d.rules.unseen_truth if u[0] not in seen}
    rules = replace(
        dates[0].rules,
        truth_crowd=frozenset(sides["truth"].crowd),
        pred_crowd=frozenset(sides["pred"].crowd),
        unseen_truth=tuple(unseen[k] for k in sorted(unseen)),
    )
    return match(Overlap.of(count, rules)).statistics(n_classes)


@dataclass(frozen=True, slots=True)
class _Tubes:
    """The labels of one side, sorted, with the class of their first date; which are crowds."""

    label: Ints
    class_id: npt.NDArray[np.uint8]
    crowd: tuple[int, ...]


def _first_date(dates: Sequence[CountedDate], side: str) -> _Tubes:
    labels = np.concatenate([getattr(d.count, side) for d in dates])
    classes = np.concatenate([getattr(d.count, f"{side}_class") for d in dates])
    when = np.repeat(np.arange(len(dates)), [len(d.count) for d in dates])
    label, at = np.unique(labels, return_index=True)  # the first occurrence: the first date
    listed = [d.rules.truth_crowd if side == "truth" else d.rules.pred_crowd for d in dates]
    crowd = tuple(
        int(v) for v, d in zip(label, when[at], strict=True) if any(listed) and v in listed[d]
    )
    return _Tubes(label, classes[at], crowd)


def _with_classes(count: PanopticCount, sides: dict[str, _Tubes]) -> PanopticCount:
    def named(labels: Ints, tubes: _Tubes) -> npt.NDArray[np.uint8]:
        return tubes.class_id[np.searchsorted(tubes.label, labels)]

    return replace(
        count,
        truth_class=named(count.truth, sides["truth"]),
        pred_class=named(count.pred, sides["pred"]),
    )


@dataclass(frozen=True, slots=True)
class TrackingQuality:
    """STQ = sqrt(AQ x mIoU); None where there is no truth tube or no class."""

    aq: float | None
    iou: float | None

    @property
    def stq(self) -> float | None:
        if self.aq is None or self.iou is None:
            return None
        return math.sqrt(self.aq * self.iou)


@dataclass(frozen=True, slots=True)
class TubeOverlap:
    """The tubes of things and their common pixels, in the order in which they first appear.

    `truth_px`, `pred_px` int64: areas of the tubes. `t`, `p` (rows): numbers of a truth and a
    prediction tube that meet on `px` pixels; sorted by (t, p). `confusion` int64 (n+1, n+1): all
    dates' pixels by class.
    """

    truth_px: Ints
    pred_px: Ints
    t: Ints
    p: Ints
    px: Ints
    confusion: Ints

    @classmethod
    def of(cls, dates: Sequence[CountedDate], n_classes: int) -> TubeOverlap:
        """Add up the dates of one series.

        Crowds, and thing pixels without an id, are left out on both sides; like deeplab2, a
        predicted tube keeps the pixels that it has on void truth.
        """
        rows = [_thing_rows(d) for d in dates]
        none = [np.zeros(0, np.int64)]
        truth, pred, px = (np.concatenate(none + [r[k] for r in rows]) for k in range(3))
        when = np.repeat(np.arange(len(rows)), [len(r[0]) for r in rows])
        truth_no, truth_px = _numbered(truth, when, px)
        pred_no, pred_px = _numbered(pred, when, px)
        both = (truth_no >= 0) & (pred_no >= 0)
        pair, where = np.unique(
            truth_no[both] * max(len(pred_px), 1) + pred_no[both], return_inverse=True
        )
        t, p = np.divmod(pair, max(len(pred_px), 1))
        confusion = np.sum(
            [np.zeros((n_classes + 1,) * 2, np.int64)]
            + [d.count.confusion(n_classes) for d in dates],
            axis=0,
        )
        return cls(truth_px, pred_px, t, p, _summed(where, px[both], len(pair)), confusion)

    def exact(self, classes: Sequence[int]) -> TrackingQuality:
        """Return STQ in double precision; mIoU over those of `classes` that either side holds.

        Law: renaming ids changes nothing.
        """
        iou = mean(class_accuracy(self.confusion, c).iou for c in classes)
        if len(self.truth_px) == 0:
            return TrackingQuality(None, iou)
        area_t, area_p = self.truth_px[self.t], self.pred_px[self.p]
        terms = self.px * (self.px / (area_t + area_p - self.px)) / area_t
        return TrackingQuality(math.fsum(terms.tolist()) / len(self.truth_px), iou)

    def like_deeplab2(self, classes: Sequence[int]) -> TrackingQuality:
        """Return STQ digit by digit as deeplab2's numpy STQuality prints it.

        It adds in float32, tube by tube in the order of their first date and id, and where the
        prediction has void on judged truth, void is one more class of IoU 0.
        """
        found = [v for c in classes if (v := class_accuracy(self.confusion, c).iou) is not None]
        n = len(found) + bool(self.confusion[1:, 0].any())
        iou = math.fsum(found) / n if n else None
        if len(self.truth_px) == 0:
            return TrackingQuality(None, iou)
        px, one = self.px.astype(np.float32), np.float32(1)
        truth_px, pred_px = self.truth_px.astype(np.float32), self.pred_px.astype(np.float32)
        union = px + (pred_px[self.p] - px) + (truth_px[self.t] - px)
        inner = np.zeros(len(truth_px), np.float32)
        np.add.at(inner, self.t, px * (px / union))  # one after the other, as a loop would
        outer = np.cumsum(one / truth_px * inner, dtype=np.float32)[-1]
        return TrackingQuality(float(np.float64(outer) / len(truth_px)), iou)


def stq(dates: Sequence[CountedDate], classes: Sequence[int], n_classes: int) -> TrackingQuality:
    """Return Segmentation and Tracking Quality (Weber 2021), as deeplab2 computes it.

    AQ: over truth tubes g of things, the mean of sum_p TPA(p, g) IoU(p, g) / |g|, TPA the pixels
    that both share. mIoU leaves void truth out; void in the prediction is a miss.
    `TubeOverlap.exact` has the same figure without deeplab2's rounding.
    """
    return TubeOverlap.of(dates, n_classes).like_deeplab2(classes)


def _thing_rows(date: CountedDate) -> tuple[Ints, Ints, Ints]:
    """Return (truth tube, prediction tube, pixels) of a date's rows; tube 0 = not judged."""
    count, rules = date.count, date.rules
    things = list(rules.things)
    is_truth, is_pred = np.isin(count.truth_class, things), np.isin(count.pred_class, things)
    crowd = np.isin(count.truth, list(rules.truth_crowd)) | (count.truth >= CLASS_LABEL)
    crowd &= is_truth
    truth = np.where(is_truth & ~crowd, _tube(count.truth, count.truth_class), 0)
    pred = np.where(is_pred & ~crowd, _tube(count.pred, count.pred_class), 0)
    return truth, pred, count.px


def _tube(label: Ints, class_id: npt.NDArray[np.uint8]) -> Ints:
    """Name a tube by class and label: an id that changes its class is another tube (deeplab2)."""
    tube: Ints = (class_id.astype(np.int64) << 33) + np.where(label < CLASS_LABEL, label, 0)
    return tube


def _numbered(tube: Ints, when: Ints, px: Ints) -> tuple[Ints, Ints]:
    """Number tubes 0.. by (first date, name); return each row's number (-1: none) and areas."""
    unique, where = np.unique(tube, return_inverse=True)
    first = np.full(len(unique), np.iinfo(np.int64).max)
    np.minimum.at(first, where, when)
    order = np.lexsort((unique, first))
    order = order[unique[order] != 0]
    number = np.full(len(unique), -1, np.int64)
    number[order] = np.arange(len(order))
    return number[where], _summed(where, px, len(unique))[order]


def _summed(where: Ints, px: Ints, n: int) -> Ints:
    # float64 weights are exact up to 2^53 pixels
    return np.bincount(where.ravel(), weights=px, minlength=n).astype(np.int64)

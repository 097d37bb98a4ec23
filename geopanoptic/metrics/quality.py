"""Panoptic Quality, exactly, from one count (Kirillov 2019; semantics of panopticapi)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geopanoptic.metrics.count import PanopticCount
from geopanoptic.metrics.overlap import Overlap, Rules, class_counts, unseen_counts

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ClassQuality:
    """TP, FP, FN and the sum of the matches' IoU of one class; None where a ratio has no base."""

    tp: int
    fp: int
    fn: int
    iou_sum: float

    @property
    def seen(self) -> bool:
        return self.tp + self.fp + self.fn > 0

    @property
    def pq(self) -> float | None:
        return self.iou_sum / (self.tp + 0.5 * self.fp + 0.5 * self.fn) if self.seen else None

    @property
    def sq(self) -> float | None:
        """Mean IoU of the matches; 0 when the class is seen but never matched (panopticapi)."""
        if not self.seen:
            return None
        return self.iou_sum / self.tp if self.tp else 0.0

    @property
    def rq(self) -> float | None:
        return self.tp / (self.tp + 0.5 * self.fp + 0.5 * self.fn) if self.seen else None


@dataclass(frozen=True, slots=True)
class Matching:
    """Which pairs are matched, and which segments of either side then count as FN or FP."""

    overlap: Overlap
    pair: Ints
    iou: Floats
    fn: Bools
    fp: Bools

    def statistics(self, n_classes: int) -> QualityStats:
        """Return the per-class statistics of this scene."""
        o = self.overlap
        cls = o.truth.class_id[o.t[self.pair]]
        iou_terms: list[list[float]] = [[] for _ in range(n_classes + 1)]
        for c in np.unique(cls):
            iou_terms[c] = self.iou[cls == c].tolist()
        return QualityStats(
            np.bincount(cls, minlength=n_classes + 1).astype(np.int64),
            class_counts(o.pred.class_id, self.fp, n_classes),
            class_counts(o.truth.class_id, self.fn, n_classes)
            + unseen_counts(o.rules.unseen_truth, n_classes),
            # fsum is exactly rounded, so the sum does not depend on the order of segments
            np.array([math.fsum(terms) for terms in iou_terms]),
        )


@dataclass(frozen=True, slots=True)
class QualityStats:
    """TP, FP, FN int64 and IoU sums float64 per class, shape (n_classes + 1,); additive."""

    tp: Ints
    fp: Ints
    fn: Ints
    iou_sum: Floats

    @classmethod
    def sum(cls, stats: Sequence[QualityStats]) -> QualityStats:
        """Add the statistics of several scenes (before any ratio is taken)."""
        sums = [[math.fsum(column) for column in zip(*(s.iou_sum for s in stats), strict=True)]]
        return cls(
            np.sum([s.tp for s in stats], axis=0),
            np.sum([s.fp for s in stats], axis=0),
            np.sum([s.fn for s in stats], axis=0),
            np.array(sums[0]),
        )

    def of_class(self, c: int) -> ClassQuality:
        """Return the quality of one class."""
        return ClassQuality(
            int(self.tp[c]), int(self.fp[c]), int(self.fn[c]), float(self.iou_sum[c])
        )

    def mean(self, classes: Iterable[int]) -> MeanQuality:
        """Return the means over those of the classes that are seen (TP + FP + FN > 0)."""
        seen = [q for q in (self.of_class(c) for c in classes) if q.seen]
        return MeanQuality(
            mean([q.pq for q in seen]),
            mean([q.sq for q in seen]),
            mean([q.rq for q in seen]),
            len(seen),
        )


@dataclass(frozen=True, slots=True)
class MeanQuality:
    """PQ, SQ and RQ averaged over `n` seen classes; None when none was seen."""

    pq: float | None
    sq: float | None
    rq: float | None
    n: int


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the numbers among the values, or None when there is none."""
    numbers = [v for v in values if v is not None]
    return math.fsum(numbers) / len(numbers) if numbers else None


def match(overlap: Overlap, iou: Floats | None = None, threshold: float = 0.5) -> Matching:
    """Match truth and prediction segments of one class with IoU > `threshold` (>= 0.5), strictly.

    Above one half a segment has at most one partner (Kirillov 2019, theorem 1), so there is
    nothing to assign. FN: unmatched truth that is no crowd. FP: unmatched predictions unless more
    than half of their pixels are void or crowd of their class.
    `iou` float64 (pairs,) replaces the mask IoU (boundary PQ).
    """
    assert threshold >= 0.5, "below 0.5 matches are not unique; use detection.assign"
    value = overlap.iou() if iou is None else iou
    pair = np.flatnonzero(overlap.judged & (value > threshold))
    return matching(overlap, pair, value[pair])


def matching(overlap: Overlap, pair: Ints, iou: Floats) -> Matching:
    """Turn chosen pairs into a Matching: what is left over is FN, FP or ignored."""
    fn = ~overlap.ignored_truth()
    fn[overlap.t[pair]] = False
    fp = ~overlap.ignored_pred()
    fp[overlap.p[pair]] = False
    return Matching(overlap, pair, iou, fn, fp)


@dataclass(frozen=True, slots=True)
class PanopticQuality:
    """The result of `panoptic_quality`: per class (1..n), and means over all, things, stuff."""

    per_class: dict[int, ClassQuality]
    all: MeanQuality
    things: MeanQuality
    stuff: MeanQuality


def panoptic_quality(stats: QualityStats, things: Iterable[int]) -> PanopticQuality:
    """Return PQ per class and its means from (summed) statistics."""
    classes = range(1, len(stats.tp))
    is_thing = set(things)
    return PanopticQuality(
        {c: stats.of_class(c) for c in classes},
        stats.mean(classes),
        stats.mean([c for c in classes if c in is_thing]),
        stats.mean([c for c in classes if c not in is_thing]),
    )


def quality_of(
    count: PanopticCount, n_classes: int, things: Iterable[int], rules: Rules | None = None
) -> PanopticQuality:
    """Return the Panoptic Quality of one scene's whole count: the short way for one pair."""
    is_thing = frozenset(things)
    overlap = Overlap.of(count, rules or Rules(things=is_thing))
    return panoptic_quality(match(overlap).statistics(n_classes), is_thing)


def dagger_terms(confusion: Ints) -> list[float | None]:
    """Return the stuff terms of PQ-dagger of one scene: each class's IoU, without a threshold.

    Porzi 2019, "Seamless Scene Segmentation". `confusion` int64 (n+1, n+1), 0 = void. None where
    the truth does not hold the class. The union leaves out the prediction's pixels on void truth.
    """
    diagonal = np.diagonal(confusion)
    union = confusion.sum(axis=1) + confusion[1:].sum(axis=0) - diagonal
    return [
        float(diagonal[c] / union[c]) if c and confusion[c].any() else None
        for c in range(len(confusion))
    ]


def dagger(
    stats: QualityStats,
    terms: Sequence[Sequence[float | None]],
    things: Iterable[int],
    classes: Iterable[int],
) -> float | None:
    """Return PQ-dagger over `classes`: PQ of things, mean IoU over scenes of stuff classes.

    `terms`: `dagger_terms` of each scene. A stuff class counts when some scene's truth holds it.
    """
    is_thing = set(things)
    return mean(
        stats.of_class(c).pq if c in is_thing else mean(t[c] for t in terms) for c in classes
    )

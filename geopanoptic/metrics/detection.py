"""Objects as detections: F1 at any IoU, and COCO's average precision, from overlaps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geopanoptic.matching import COUNT_FIRST, assign
from geopanoptic.metrics.overlap import Overlap
from geopanoptic.metrics.quality import Matching, match, matching, mean

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

COCO_IOUS = tuple(float(t) for t in np.linspace(0.5, 0.95, 10))
_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which segments take part: bool masks over the truth's and the prediction's segments."""

    truth: Bools
    pred: Bools

    @classmethod
    def larger_than(cls, truth_m2: Floats, pred_m2: Floats, least_m2: float) -> Chosen:
        """Keep truth of at least, and predictions of more than, `least_m2` (SpaceNet's rule)."""
        if least_m2 <= 0:
            return cls(np.ones(len(truth_m2), bool), np.ones(len(pred_m2), bool))
        return cls(truth_m2 >= least_m2, pred_m2 > least_m2)


def match_objects(
    overlap: Overlap, threshold: float, chosen: Chosen | None = None, *, unique: bool = True
) -> Matching:
    """Match segments one to one at IoU > `threshold`, strictly; at any threshold in (0, 1).

    From 0.5 on matches are unique. Below, as many pairs as possible are matched and among those
    the ones of highest IoU, by assignment per component of the candidate graph. `chosen` leaves
    the others out on both sides: they are no TP, FP or FN. `unique` False: segments of one side
    may overlap each other (polygons of a file), so that even above 0.5 partners can compete.
    """
    iou = overlap.iou()
    if chosen is not None:
        iou = np.where(chosen.truth[overlap.t] & chosen.pred[overlap.p], iou, 0.0)
    if unique and threshold >= 0.5:
        found = match(overlap, iou, threshold)
    else:
        rows = np.flatnonzero(overlap.judged & (iou > threshold))
        rows = rows[assign(overlap.t[rows], overlap.p[rows], COUNT_FIRST + iou[rows])]
        found = matching(overlap, rows, iou[rows])
    if chosen is None:
        return found
    return Matching(overlap, found.pair, found.iou, found.fn & chosen.truth, found.fp & chosen.pred)


@dataclass(frozen=True, slots=True)
class F1:
    """Counts of one class and what follows; None where there is nothing to divide by."""

    tp: int
    fp: int
    fn: int

    @property
    def precision(self) -> float | None:
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else None

    @property
    def recall(self) -> float | None:
        return self.tp / (self.tp + self.fn) if self.tp + self.fn else None

    @property
    def f1(self) -> float | None:
        seen = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / seen if seen else None


@dataclass(frozen=True, slots=True)
class Candidates:
    """What COCO's matcher needs of one class in one image.

    `score` float64 (d,) of the detections; `n_truth` objects that count (no crowds). Pairs with
    IoU >= 0.5: `det`, `truth` int, `iou`; `on_crowd` float64 (d,): the largest share of each
    detection on a crowd. `truth_kept`, `det_kept`: inside the area range.
    """

    score: Floats
    det: Ints
    truth: Ints
    iou: Floats
    on_crowd: Floats
    truth_kept: Bools
    det_kept: Bools

    @classmethod
    def of(
        cls, overlap: Overlap, score: Floats, class_id: int, chosen: Chosen | None = None
    ) -> Candidates:
        """Read one class of an overlap; `score` float64 over all prediction segments.

        IoU as COCO takes it: void counts as any other pixel (there is none in COCO masks), on a
        crowd it is the share of the detection.
        """
        dets = np.flatnonzero((overlap.pred.class_id == class_id) & ~overlap.pred.crowd)
        truths = np.flatnonzero((overlap.truth.class_id == class_id) & ~overlap.truth.crowd)
        det_row = np.full(len(overlap.pred), -1)
        det_row[dets] = np.arange(len(dets))
        truth_row = np.full(len(overlap.truth), -1)
        truth_row[truths] = np.arange(len(truths))
        iou = overlap.plain_iou()
        same = overlap.same_class & (det_row[overlap.p] >= 0)
        pairs = np.flatnonzero(same & (truth_row[overlap.t] >= 0) & (iou >= COCO_IOUS[0] - 1e-9))
        crowd = np.flatnonzero(same & overlap.truth.crowd[overlap.t])
        on_crowd = np.zeros(len(dets))
        share = overlap.px[crowd] / overlap.pred.area_px[overlap.p[crowd]]
        np.maximum.at(on_crowd, det_row[overlap.p[crowd]], share)
        every = chosen or Chosen(
            np.ones(len(overlap.truth), bool), np.ones(len(overlap.pred), bool)
        )
        return cls(
            score[dets],
            det_row[overlap.p[pairs]],
            truth_row[overlap.t[pairs]],
            iou[pairs],
            on_crowd,
            every.truth[truths],
            every.pred[dets],
        )


def average_precision(
    images: Sequence[Candidates],
    ious: Iterable[float] = COCO_IOUS,
    max_dets: int | None = None,
) -> list[float | None]:
    """Return COCO's 101-point average precision of one class at each IoU; None without truth.

    pycocotools `COCOeval`: greedy by score within each image, `max_dets` per image (None: all),
    detections of all images ranked together, precision made monotone, mean over 101 recalls.
    """
    return [_precision_at(images, t, max_dets) for t in ious]


def _precision_at(images: Sequence[Candidates], iou: float, max_dets: int | None) -> float | None:
    n_truth = sum(int(c.truth_kept.sum()) for c in images)
    if n_truth == 0:
        return None
    scores, hits, ignores = [], [], []
    for image in images:
        order = np.argsort(-image.score, kind="stable")[:max_dets]
        hit, ignore = _greedy(image, order, iou)
        scores.append(image.score[order])
        hits.append(hit)
        ignores.append(ignore)
    rank = np.argsort(-np.concatenate(scores), kind="stable")
    hit, ignore = np.concatenate(hits)[rank], np.concatenate(ignores)[rank]
    tp = np.cumsum(hit & ~ignore)
    fp = np.cumsum(~hit & ~ignore)
    recall = tp / n_truth
    precision = tp / (tp + fp + np.spacing(1))
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, _RECALLS, side="left")
    picked = np.where(at < len(precision), np.append(precision, 0.0)[at.clip(0, len(tp))], 0.0)
    return float(picked.mean())


def _greedy(image: Candidates, order: Ints, iou: float) -> tuple[Bools, Bools]:
    """Return (matched, ignored) of the detections in `order` at one IoU."""
    least = min(iou, 1 - 1e-10)
    rank = np.full(len(image.score), -1)
    rank[order] = np.arange(len(order))
    pair = np.flatnonzero((image.iou >= least) & (rank[image.det] >= 0))
    partner = _partners(image, pair, rank)
    hit = partner >= 0
    ignored = np.zeros(len(image.score), bool)
    ignored[hit] = ~image.truth_kept[partner[hit]]
    on_crowd = ~hit & (image.on_crowd >= least)
    ignored |= on_crowd | (~hit & ~image.det_kept)
    return hit[order], ignored[order]


def _partners(image: Candidates, pair: Ints, rank: Ints) -> Ints:
    """Return each detection's truth object, or -1.

    At IoU > 0.5 partners are unique; only pairs of exactly 0.5 can compete, and go by score.
    """
    partner = np.full(len(image.score), -1)
    det, truth = image.det[pair], image.truth[pair]
    lone = (np.bincount(det, minlength=1)[det] == 1) & (np.bincount(truth, minlength=1)[truth] == 1)
    partner[det[lone]] = truth[lone]
    taken: set[int] = set()
    rest = pair[~lone]
    keys = (image.truth[rest], image.iou[rest], image.truth_kept[image.truth[rest]])
    for k in rest[np.lexsort((-keys[0], -keys[1], ~keys[2], rank[image.det[rest]]))].tolist():
        d, t = int(image.det[k]), int(image.truth[k])
        if partner[d] < 0 and t not in taken:
            partner[d] = t
            taken.add(t)
    return partner


def mean_ap(values: Iterable[Sequence[float | None]]) -> float | None:
    """Return AP over classes and IoUs: the mean of all defined values."""
    return mean(v for row in values for v in row)

"""Segments of both sides and the pairs of them that meet, read from one count."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import SchemaError
from geopanoptic.metrics.count import CLASS_LABEL, VOID_LABEL, PanopticCount

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

PredVoid = Literal["miss", "ignore"]


@dataclass(frozen=True, slots=True)
class Rules:
    """What is not judged, besides void truth.

    `things`: common classes that are things. `truth_crowd`, `pred_crowd`: labels of regions
    that hold a class but no single objects (COCO `iscrowd`); thing pixels without an instance id
    are that too. `pred_void` 'miss' (panopticapi): void of the prediction stays in the truth's
    area; 'ignore' (torchmetrics): it leaves it, and a truth segment more than half under it is no
    miss. `unseen_truth`: (label -> class) segments that the truth lists but no pixel shows.
    """

    things: frozenset[int]
    truth_crowd: frozenset[int] = frozenset()
    pred_crowd: frozenset[int] = frozenset()
    pred_void: PredVoid = "miss"
    unseen_truth: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class SegmentSide:
    """The segments of one side, sorted by label; columns of equal length.

    `area_px` counts all pixels, `void_px` those where the other side is void, `crowd_px` those on
    a crowd of the same class. `bbox` (n, 4) stop-exclusive.
    """

    label: Ints
    class_id: Ints
    area_px: Ints
    bbox: Ints
    crowd: Bools
    void_px: Ints
    crowd_px: Ints

    def __len__(self) -> int:
        return len(self.label)

    def index(self, labels: Ints) -> Ints:
        """Return the rows of these labels (each must be there)."""
        return np.searchsorted(self.label, labels)


@dataclass(frozen=True, slots=True)
class Overlap:
    """Both sides' segments and one row per pair of segments (void excluded) that meet.

    `t`, `p`: row numbers in `truth` and `pred`; `px` their common pixels.
    """

    truth: SegmentSide
    pred: SegmentSide
    t: Ints
    p: Ints
    px: Ints
    rules: Rules

    @classmethod
    def of(cls, count: PanopticCount, rules: Rules) -> Overlap:
        """Read the segments and pairs of a count.

        Raises SchemaError when an instance lies on pixels of two classes.
        """
        truth = _side(count, "truth", rules)
        pred = _side(count, "pred", rules)
        real = (count.truth != VOID_LABEL) & (count.pred != VOID_LABEL)
        t, p = truth.index(count.truth[real]), pred.index(count.pred[real])
        px = count.px[real]
        same = truth.class_id[t] == pred.class_id[p]
        on_crowd = same & truth.crowd[t] & ~pred.crowd[p]
        np.add.at(pred.crowd_px, p[on_crowd], px[on_crowd])
        return cls(truth, pred, t, p, px, rules)

    @property
    def same_class(self) -> Bools:
        return self.truth.class_id[self.t] == self.pred.class_id[self.p]

    @property
    def judged(self) -> Bools:
        """Tell which pairs are of two segments of one class, none of them a crowd."""
        return self.same_class & ~self.truth.crowd[self.t] & ~self.pred.crowd[self.p]

    def union_px(self) -> Ints:
        """Return |p| + |t| - I less the prediction's pixels on void truth, per pair.

        panopticapi `evaluation.py`; with pred_void 'ignore' the truth's pixels under void
        prediction leave it too (torchmetrics).
        """
        union = self.truth.area_px[self.t] + self.pred.area_px[self.p] - self.px
        union = union - self.pred.void_px[self.p]
        if self.rules.pred_void == "ignore":
            union = union - self.truth.void_px[self.t]
        return union

    def iou(self) -> Floats:
        """Return the IoU of each pair with void left out."""
        return self.px / self.union_px()

    def plain_iou(self) -> Floats:
        """Return |t ∩ p| / |t ∪ p| of each pair, void counting as any other pixel."""
        return self.px / (self.truth.area_px[self.t] + self.pred.area_px[self.p] - self.px)

    def ignored_pred(self) -> Bools:
        """Tell which predictions lie more than half on void truth or a crowd of their class."""
        side = self.pred
        return (2 * (side.void_px + side.crowd_px) > side.area_px) | side.crowd

    def ignored_truth(self) -> Bools:
        """Tell which truth segments are not asked for: crowds, or under void prediction."""
        side = self.truth
        if self.rules.pred_void == "ignore":
            return side.crowd | (2 * side.void_px > side.area_px)
        return side.crowd.copy()


def _side(count: PanopticCount, side: str, rules: Rules) -> SegmentSide:
    labels, other = (count.truth, count.pred) if side == "truth" else (count.pred, count.truth)
    classes = count.truth_class if side == "truth" else count.pred_class
    crowd_labels = rules.truth_crowd if side == "truth" else rules.pred_crowd
    rows = np.flatnonzero(labels != VOID_LABEL)
    rows = rows[np.argsort(labels[rows], kind="stable")]
    label, at, where = np.unique(labels[rows], return_index=True, return_inverse=True)
    class_id = classes[rows][at].astype(np.int64)
    two = class_id[where] != classes[rows]
    if two.any():
        bad = int(labels[rows][two][0])
        raise SchemaError(
            f"instance {bad} of the {'truth' if side == 'truth' else 'prediction'} lies on pixels "
            f"of two classes; an instance has one class: run 'geopanoptic check' on it"
        )
    n, px = len(label), count.px[rows]
    on_void = px * (other[rows] == VOID_LABEL)
    box = count.bbox[rows]
    bbox = np.zeros((n, 4), np.int64)
    if n:
        bbox[:, :2] = np.minimum.reduceat(box[:, :2], at, axis=0)
        bbox[:, 2:] = np.maximum.reduceat(box[:, 2:], at, axis=0)
    no_identity = (label > CLASS_LABEL) & np.isin(class_id, list(rules.things))
    return SegmentSide(
        label=label,
        class_id=class_id,
        area_px=_sums(where, px, n),
        bbox=bbox,
        crowd=np.isin(label, list(crowd_labels)) | no_identity,
        void_px=_sums(where, on_void, n),
        crowd_px=np.zeros(n, np.int64),
    )


def _sums(where: npt.NDArray[np.intp], px: Ints, n: int) -> Ints:
    # float64 weights are exact up to 2^53 pixels
    return np.bincount(where, weights=px, minlength=n).astype(np.int64)


def class_counts(class_ids: Ints, which: Bools, n_classes: int) -> Ints:
    """Count the chosen segments per class; shape (n_classes + 1,)."""
    return np.bincount(class_ids[which], minlength=n_classes + 1).astype(np.int64)


def unseen_counts(unseen: Iterable[tuple[int, int]], n_classes: int) -> Ints:
    """Count listed but unseen truth segments per class."""
    out = np.zeros(n_classes + 1, np.int64)
    for _, class_id in unseen:
        out[class_id] += 1
    return out

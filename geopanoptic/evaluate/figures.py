"""Figures of segments and objects: the same for counted rasters and for compared polygons."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from geopanoptic.evaluate.settings import EvaluateSettings
from geopanoptic.metrics import (
    COCO_IOUS,
    F1,
    PRED_STATUS,
    TRUTH_STATUS,
    Candidates,
    Chosen,
    Fates,
    Matching,
    Overlap,
    QualityStats,
    SegmentSide,
    average_precision,
    mean,
    mean_ap,
)

SIDES = ("truth", "pred")
SIZES_M2 = (0.0, 50.0, 250.0, 1000.0, math.inf)


class Judged(Protocol):
    """One judged pair, however its overlaps were measured."""

    @property
    def overlap(self) -> Overlap: ...
    @property
    def matched(self) -> Matching: ...
    @property
    def objects(self) -> Matching: ...
    @property
    def chosen(self) -> Chosen: ...
    @property
    def fates(self) -> Fates: ...
    @property
    def scores(self) -> npt.NDArray[np.float64] | None: ...
    @property
    def names(self) -> tuple[str, str]: ...
    def area_m2(self, side: SegmentSide) -> npt.NDArray[np.float64]: ...


class Figures:
    """Statistics of several scenes, summed before any ratio is taken.

    `names`: class names, numbered 1..n. `things`: the numbers of things. `count`: codes in use.
    """

    def __init__(
        self,
        scenes: Sequence[Judged],
        names: Sequence[str],
        things: frozenset[int],
        settings: EvaluateSettings,
        count: int,
    ) -> None:
        self.scenes, self.names, self.things, self.settings = scenes, names, things, settings
        numbers = range(1, len(names) + 1)
        self.groups = {
            "all": list(numbers),
            "things": [c for c in numbers if c in things],
            "stuff": [c for c in numbers if c not in things],
        }
        self.stats = QualityStats.sum([s.matched.statistics(count) for s in scenes])
        found = QualityStats.sum([s.objects.statistics(count) for s in scenes])
        counts = {c: found.of_class(c) for c in numbers}
        self.f1 = {c: F1(q.tp, q.fp, q.fn) for c, q in counts.items()}
        self.ap = {}
        if "ap" in settings.metrics:
            self.ap = {c: self._ap(c) for c in self.groups["things"]}

    def quality_row(self, c: int) -> dict[str, Any]:
        """Tp fp fn iou_sum pq sq rq of one class."""
        q = self.stats.of_class(c)
        return {
            "tp": q.tp,
            "fp": q.fp,
            "fn": q.fn,
            "iou_sum": q.iou_sum,
            "pq": q.pq,
            "sq": q.sq,
            "rq": q.rq,
        }

    def object_row(self, c: int) -> dict[str, Any]:
        """F1, AP, counts and fates of one class."""
        row: dict[str, Any] = {}
        if "f1" in self.settings.metrics:
            f1 = self.f1[c]
            row |= {"precision": f1.precision, "recall": f1.recall, "f1": f1.f1}
        if c in self.ap:
            row |= {"ap": mean_ap([self.ap[c]]), "ap50": self.ap[c][0]}
        counts = [self._count(side, c) for side in SIDES]
        row |= {"count_truth": counts[0], "count_pred": counts[1]}
        row["count_error"] = counts[1] - counts[0]
        if "errors" in self.settings.metrics and c in self.things:
            row |= self._fates_row(c)
        return row

    def _fates_row(self, c: int) -> dict[str, Any]:
        row: dict[str, Any] = {}
        for status in ("missed", "split", "merged", "misclassified"):
            row[status] = self._fate("truth", status, c)
        for status in ("false", "duplicate"):
            row[status] = self._fate("pred", status, c)
        over = under = 0
        for s in self.scenes:
            over += int((s.fates.truth.partners[s.overlap.truth.class_id == c] >= 2).sum())
            under += int((s.fates.pred.partners[s.overlap.pred.class_id == c] >= 2).sum())
        return row | {"over_segmented": over, "under_segmented": under}

    def _fate(self, side: str, status: str, c: int) -> int:
        return sum(
            s.fates.count(side, status, getattr(s.overlap, side).class_id, c) for s in self.scenes
        )

    def _count(self, side: str, c: int) -> int:
        segments = [getattr(s.overlap, side) for s in self.scenes]
        return sum(int(((x.class_id == c) & ~x.crowd).sum()) for x in segments)

    def _ap(self, c: int) -> list[float | None]:
        images = []
        for s in self.scenes:
            if s.scores is None:
                return [None] * len(COCO_IOUS)
            images.append(Candidates.of(s.overlap, s.scores, c, s.chosen))
        return average_precision(images, max_dets=self.settings.max_dets)

    def f1_overall(self) -> dict[str, Any]:
        """F1 of things: summed counts, and the mean over classes."""
        things = [self.f1[c] for c in self.groups["things"]]
        total = F1(sum(f.tp for f in things), sum(f.fp for f in things), sum(f.fn for f in things))
        return {
            "iou": self.settings.iou,
            "min_area_m2": self.settings.min_area_m2,
            "tp": total.tp,
            "fp": total.fp,
            "fn": total.fn,
            "precision": total.precision,
            "recall": total.recall,
            "f1": total.f1,
            "mean_precision": mean(f.precision for f in things),
            "mean_recall": mean(f.recall for f in things),
            "mean_f1": mean(f.f1 for f in things),
        }

    def ap_overall(self) -> dict[str, Any]:
        """AP over thing classes; null with the reason when there are no scores."""
        rows = list(self.ap.values())
        lacking = [s.names[0] for s in self.scenes if s.scores is None]
        reason = f"{lacking[0]} has no scores" if lacking else None
        return {
            "ap": mean_ap(rows),
            "ap50": mean(r[0] for r in rows),
            "ap75": mean(r[5] for r in rows),
            "max_dets": self.settings.max_dets,
            "reason": reason if rows else "there is no class of things",
        }

    def object_counts(self) -> dict[str, Any]:
        """How many things of either side ended how."""
        return {
            side: {
                status: sum(self._fate(side, status, c) for c in self.groups["things"])
                for status in words
            }
            for side, words in (("truth", TRUTH_STATUS), ("pred", PRED_STATUS))
        }

    def mistaken(self) -> list[dict[str, Any]]:
        """Count the well-shaped things that were taken for another class: from, to, number."""
        pairs: dict[tuple[int, int], int] = {}
        for s in self.scenes:
            truth, fate = s.overlap.truth, s.fates.truth
            rows = np.flatnonzero(fate.status == "misclassified")
            rows = rows[np.isin(truth.class_id[rows], list(self.things))]
            to = s.overlap.pred.class_id[s.overlap.pred.index(fate.partner[rows])]
            for pair in zip(truth.class_id[rows].tolist(), to.tolist(), strict=True):
                pairs[pair] = pairs.get(pair, 0) + 1
        return [
            {"truth": self.names[a - 1], "pred": self._name(b), "count": n}
            for (a, b), n in sorted(pairs.items())
        ]

    def _name(self, number: int) -> str:
        return self.names[number - 1] if number <= len(self.names) else "background"

    def by_size(self) -> list[dict[str, Any]]:
        """Recall by true size and precision by predicted size, of all things (m2)."""
        return [self._size_row(low, high) for low, high in pairwise(SIZES_M2)]

    def _size_row(self, low: float, high: float) -> dict[str, Any]:
        n_t = n_p = hit_t = hit_p = 0
        ious: list[float] = []
        for s in self.scenes:
            truth = self._within(s, "truth", low, high) & s.chosen.truth
            pred = self._within(s, "pred", low, high) & s.chosen.pred
            t, p = s.overlap.t[s.objects.pair], s.overlap.p[s.objects.pair]
            hit_t += int(truth[t].sum())
            hit_p += int(pred[p].sum())
            n_t += int((truth & s.objects.fn).sum()) + int(truth[t].sum())
            n_p += int((pred & s.objects.fp).sum()) + int(pred[p].sum())
            ious += s.objects.iou[truth[t]].tolist()
        return {
            "from_m2": low,
            "to_m2": None if math.isinf(high) else high,
            "count_truth": n_t,
            "count_pred": n_p,
            "recall": hit_t / n_t if n_t else None,
            "precision": hit_p / n_p if n_p else None,
            "mean_iou": mean(ious),
            "ap": self._ap_within(low, high),
        }

    def _ap_within(self, low: float, high: float) -> float | None:
        """Return AP of the things of a size; others are ignored, as COCO's area ranges do."""
        rows = []
        for c in self.groups["things"] if self.ap else ():
            images = []
            for s in self.scenes:
                if s.scores is None:
                    return None
                kept = Chosen(
                    self._within(s, "truth", low, high) & s.chosen.truth,
                    self._within(s, "pred", low, high) & s.chosen.pred,
                )
                images.append(Candidates.of(s.overlap, s.scores, c, kept))
            rows.append(average_precision(images, max_dets=self.settings.max_dets))
        return mean_ap(rows)

    def _within(self, scene: Judged, side: str, low: float, high: float) -> Any:
        segments = getattr(scene.overlap, side)
        area = scene.area_m2(segments)
        return np.isin(segments.class_id, list(self.things)) & (area >= low) & (area < high)

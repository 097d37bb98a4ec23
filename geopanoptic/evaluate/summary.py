"""From counted scenes to the one JSON object of an evaluation."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from geopanoptic import __version__
from geopanoptic.evaluate.classes import CommonClasses
from geopanoptic.evaluate.pairing import Pairs
from geopanoptic.evaluate.scene import Scene
from geopanoptic.evaluate.settings import EvaluateSettings
from geopanoptic.metrics import (
    COCO_IOUS,
    F1,
    PRED_STATUS,
    TRUTH_STATUS,
    Candidates,
    GroundStats,
    MeanQuality,
    QualityStats,
    average_precision,
    bootstrap,
    class_accuracy,
    dagger,
    dagger_terms,
    mean,
    mean_ap,
    mean_iou,
    overall_accuracy,
    panoptic_quality,
)

GROUPS = ("all", "things", "stuff")
SIZES_M2 = (0.0, 50.0, 250.0, 1000.0, math.inf)


def summarise(scenes: Sequence[Scene], pairs: Pairs, settings: EvaluateSettings) -> dict[str, Any]:
    """Return the result: plain values only, in a fixed order, None where undefined.

    Law: it does not depend on block size, workers, or the order of blocks.
    """
    asked = set(settings.metrics)
    if not pairs.has_objects:
        asked &= {"miou"}
    maker = _Summary(scenes, pairs, settings, asked)
    result: dict[str, Any] = maker.quality()
    result["per_class"] = maker.per_class()
    if "boundary-pq" in asked or (settings.boundary and pairs.has_objects):
        result["boundary"] = maker.boundary()
    if "f1" in asked:
        result["f1"] = maker.f1_overall()
    if "ap" in asked:
        result["ap"] = maker.ap_overall()
    result |= maker.pixels()
    if "errors" in asked:
        result["objects"] = maker.object_counts()
        result["by_size"] = maker.by_size()
    result["ci95"] = maker.intervals()
    result["scenes"] = [
        {
            "prediction": s.pair.pred.name,
            "truth": s.pair.truth.name,
            "shape": list(s.pair.georef.shape),
        }
        for s in scenes
    ]
    result["warnings"] = maker.warnings()
    result["parameters"] = settings.to_json()
    result["versions"] = versions()
    return result


def versions() -> dict[str, str]:
    """Return the versions that the figures depend on."""
    import scipy

    return {
        "geopanoptic": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


class _Summary:
    """The parts of the result; each method reads the scenes and returns plain values."""

    def __init__(
        self, scenes: Sequence[Scene], pairs: Pairs, settings: EvaluateSettings, asked: set[str]
    ) -> None:
        self.scenes, self.pairs, self.settings, self.asked = scenes, pairs, settings, asked
        self.classes: CommonClasses = pairs.classes
        n = self.classes.count
        self.groups = {
            "all": list(self.classes.numbers),
            "things": [c for c in self.classes.numbers if c in self.classes.things],
            "stuff": [c for c in self.classes.numbers if c not in self.classes.things],
        }
        self.stats = QualityStats.sum([s.matched.statistics(n) for s in scenes])
        self.confusion = np.sum([s.counted.count.confusion(n) for s in scenes], axis=0)
        self.terms = [dagger_terms(s.counted.count.confusion(n)) for s in scenes]
        self.f1 = self._f1()
        self.ap = {c: self._ap(c) for c in self.groups["things"]} if "ap" in asked else {}

    def quality(self) -> dict[str, Any]:
        """`all`, `things`, `stuff`."""
        if "pq" not in self.asked:
            return {
                g: {"pq": None, "sq": None, "rq": None, "pq_dagger": None, "n": 0} for g in GROUPS
            }
        return {g: self._means(g, self.stats.mean(self.groups[g])) for g in GROUPS}

    def _means(self, group: str, found: MeanQuality) -> dict[str, Any]:
        value = dagger(self.stats, self.terms, self.classes.things, self.groups[group])
        return {
            "pq": found.pq,
            "sq": found.sq,
            "rq": found.rq,
            "pq_dagger": value if "pq-dagger" in self.asked else None,
            "n": found.n,
        }

    def per_class(self) -> dict[str, Any]:
        """One row per class, keyed by name."""
        return {c.name: self._row(k) for k, c in enumerate(self.classes.classes, 1)}

    def _row(self, c: int) -> dict[str, Any]:
        quality, pixels, f1 = self.stats.of_class(c), class_accuracy(self.confusion, c), self.f1[c]
        row: dict[str, Any] = {"kind": "thing" if c in self.classes.things else "stuff"}
        if "pq" in self.asked:
            row |= {
                "tp": quality.tp,
                "fp": quality.fp,
                "fn": quality.fn,
                "iou_sum": quality.iou_sum,
                "pq": quality.pq,
                "sq": quality.sq,
                "rq": quality.rq,
                "pq_dagger": dagger(self.stats, self.terms, self.classes.things, [c]),
            }
        row |= {"iou": pixels.iou, "ua": pixels.ua, "pa": pixels.pa}
        if "f1" in self.asked:
            row |= {"precision": f1.precision, "recall": f1.recall, "f1": f1.f1}
        if c in self.ap:
            row |= {"ap": mean_ap([self.ap[c]]), "ap50": self.ap[c][0]}
        areas = [math.fsum(s.class_area_m2(side, c) for s in self.scenes) for side in _SIDES]
        row |= {"area_truth_m2": areas[0], "area_pred_m2": areas[1]}
        row["area_bias"] = areas[1] / areas[0] - 1 if areas[0] > 0 else None
        if self.pairs.has_objects:
            counts = [self._count(side, c) for side in _SIDES]
            row |= {"count_truth": counts[0], "count_pred": counts[1]}
            row["count_error"] = counts[1] - counts[0]
        if "errors" in self.asked and c in self.classes.things:
            row |= self._row_objects(c)
        return row

    def _row_objects(self, c: int) -> dict[str, Any]:
        over = under = 0
        row: dict[str, Any] = {}
        for status in ("missed", "split", "merged", "misclassified"):
            row[status] = self._fate("truth", status, c)
        for status in ("false", "duplicate"):
            row[status] = self._fate("pred", status, c)
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

    def _f1(self) -> dict[int, F1]:
        stats = QualityStats.sum([s.objects.statistics(self.classes.count) for s in self.scenes])
        found = {c: stats.of_class(c) for c in self.classes.numbers}
        return {c: F1(q.tp, q.fp, q.fn) for c, q in found.items()}

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
            "mean_f1": mean(f.f1 for f in things),
        }

    def _ap(self, c: int) -> list[float | None]:
        if any(s.scores is None for s in self.scenes):
            return [None] * len(COCO_IOUS)
        images = [
            Candidates.of(s.overlap, s.scores, c, s.chosen)  # type: ignore[arg-type]
            for s in self.scenes
        ]
        return average_precision(images, max_dets=self.settings.max_dets)

    def ap_overall(self) -> dict[str, Any]:
        """AP over thing classes; null with the reason when there are no scores."""
        rows = list(self.ap.values())
        lacking = [s.pair.pred.name for s in self.scenes if s.scores is None]
        reason = f"{lacking[0]} has no scores" if lacking else None
        return {
            "ap": mean_ap(rows),
            "ap50": mean(r[0] for r in rows),
            "ap75": mean(r[5] for r in rows),
            "max_dets": self.settings.max_dets,
            "reason": reason if rows else "there is no class of things",
        }

    def boundary(self) -> dict[str, Any]:
        """Boundary PQ: the same shape as the main figures."""
        n = self.classes.count
        stats = QualityStats.sum([s.boundary.statistics(n) for s in self.scenes])
        found = panoptic_quality(stats, self.classes.things)
        out: dict[str, Any] = {
            "tolerance": self.settings.boundary or "1m",
            "tolerance_px": [s.pair.boundary_px for s in self.scenes],
        }
        for group in GROUPS:
            m = stats.mean(self.groups[group])
            out[group] = {"pq": m.pq, "sq": m.sq, "rq": m.rq, "n": m.n}
        out["per_class"] = {
            c.name: {
                "tp": q.tp,
                "fp": q.fp,
                "fn": q.fn,
                "iou_sum": q.iou_sum,
                "pq": q.pq,
                "sq": q.sq,
                "rq": q.rq,
            }
            for k, c in enumerate(self.classes.classes, 1)
            for q in [found.per_class[k]]
        }
        return out

    def pixels(self) -> dict[str, Any]:
        """Overall accuracy, mean IoU, and the confusion with its class names."""
        codes = range(self.classes.count + 1)
        return {
            "oa": overall_accuracy(self.confusion),
            "miou": mean_iou(self.confusion, self.groups["all"]),
            "confusion": {
                "rows_are": "truth",
                "classes": [self.classes.name(c) for c in codes],
                "pixels": [[int(x) for x in row] for row in self.confusion],
            },
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

    def by_size(self) -> list[dict[str, Any]]:
        """Recall by true size and precision by predicted size, of all things (m2)."""
        rows = []
        things = np.array(self.groups["things"], np.int64)
        for low, high in pairwise(SIZES_M2):
            n_t = n_p = hit_t = hit_p = 0
            ious: list[float] = []
            for s in self.scenes:
                truth = _within(s, "truth", things, low, high) & s.chosen.truth
                pred = _within(s, "pred", things, low, high) & s.chosen.pred
                t, p = s.overlap.t[s.objects.pair], s.overlap.p[s.objects.pair]
                hit_t += int(truth[t].sum())
                hit_p += int(pred[p].sum())
                n_t += int((truth & s.objects.fn).sum()) + int(truth[t].sum())
                n_p += int((pred & s.objects.fp).sum()) + int(pred[p].sum())
                ious += s.objects.iou[truth[t]].tolist()
            rows.append(
                {
                    "from_m2": low,
                    "to_m2": None if math.isinf(high) else high,
                    "count_truth": n_t,
                    "count_pred": n_p,
                    "recall": hit_t / n_t if n_t else None,
                    "precision": hit_p / n_p if n_p else None,
                    "mean_iou": mean(ious),
                }
            )
        return rows

    def intervals(self) -> dict[str, Any] | None:
        """95 % intervals by block bootstrap; None when switched off or too few blocks."""
        if not self.settings.bootstrap or "pq" not in self.asked:
            return None
        merged = frozenset() if self.pairs.keep_stuff else frozenset(self.groups["stuff"])
        stats = GroundStats.concatenate(
            [
                GroundStats.of(
                    s.counted.count, s.matched, s.pair.ground, self.classes.count, merged
                )
                for s in self.scenes
            ]
        )
        found = bootstrap(stats, self.settings.bootstrap, self.groups)
        if not found.values:
            return None
        per_class: dict[str, Any] = {c.name: {} for c in self.classes.classes}
        out: dict[str, Any] = {
            "replicates": found.replicates,
            "blocks": found.blocks,
            "block_px": [s.pair.ground[0] for s in self.scenes],
        }
        for name, interval in found.values.items():
            measure, colon, number = name.partition(":")
            if colon:
                per_class[self.classes.name(int(number))][measure] = interval
            else:
                out[name] = interval
        return out | {"per_class": per_class}

    def warnings(self) -> list[str]:
        """What the reader of the figures should know."""
        out = [w for s in self.scenes for w in s.warnings]
        if not self.pairs.has_objects:
            out.append("a map has no instance raster: only pixel measures of classes are given")
        if self.classes.background is not None:
            out.append(
                "one map holds things only, so only the classes "
                f"{', '.join(c.name for c in self.classes.classes)} are judged"
            )
        for s in self.scenes:
            for side in _SIDES:
                segments = getattr(s.overlap, side)
                bare = segments.crowd & (segments.label >= 2**31)
                if bare.any() and self.pairs.has_objects:
                    name = getattr(s.pair, side).name
                    out.append(
                        f"{name}: {int(segments.area_px[bare].sum())} pixels of things have no "
                        f"instance id; they are judged by class only"
                    )
        return out


_SIDES = ("truth", "pred")


def _within(scene: Scene, side: str, things: Any, low: float, high: float) -> Any:
    segments = getattr(scene.overlap, side)
    area = scene.area_m2(segments)
    return np.isin(segments.class_id, things) & (area >= low) & (area < high)

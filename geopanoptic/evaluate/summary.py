"""From counted scenes to the one JSON object of an evaluation."""

from __future__ import annotations

import math
import platform
from collections.abc import Sequence
from typing import Any

import numpy as np

from geopanoptic import __version__
from geopanoptic.evaluate.figures import SIDES, Figures
from geopanoptic.evaluate.pairing import Pairs
from geopanoptic.evaluate.scene import Scene
from geopanoptic.evaluate.settings import EvaluateSettings
from geopanoptic.metrics import (
    CLASS_LABEL,
    GroundStats,
    QualityStats,
    bootstrap,
    class_accuracy,
    dagger,
    dagger_terms,
    mean_iou,
    overall_accuracy,
)

GROUPS = ("all", "things", "stuff")


def summarise(scenes: Sequence[Scene], pairs: Pairs, settings: EvaluateSettings) -> dict[str, Any]:
    """Return the result: plain values only, in a fixed order, None where undefined.

    Law: it does not depend on block size, workers, or the order of blocks.
    """
    asked = set(settings.metrics) if pairs.has_objects else {"miou"}
    maker = _Summary(scenes, pairs, settings, asked)
    result: dict[str, Any] = maker.quality()
    result["per_class"] = maker.per_class()
    if settings.tolerance is not None and pairs.has_objects:
        result["boundary"] = maker.boundary()
    if "f1" in asked:
        result["f1"] = maker.figures.f1_overall()
    if "ap" in asked:
        result["ap"] = maker.figures.ap_overall()
    result |= maker.pixels()
    if "errors" in asked:
        result["objects"] = maker.figures.object_counts()
        result["mistaken"] = maker.figures.mistaken()
        result["by_size"] = maker.figures.by_size()
    result["ci95"] = maker.intervals()
    result["scenes"] = [
        {"prediction": s.names[0], "truth": s.names[1], "shape": list(s.pair.georef.shape)}
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
        self.classes = pairs.classes
        n = self.classes.count
        names = [c.name for c in self.classes.classes]
        self.figures = Figures(scenes, names, self.classes.things, settings, n)
        self.groups = self.figures.groups
        self.confusion = np.sum([s.counted.count.confusion(n) for s in scenes], axis=0)
        self.terms = [dagger_terms(s.counted.count.confusion(n)) for s in scenes]

    def quality(self) -> dict[str, Any]:
        """`all`, `things`, `stuff`."""
        return {group: self._means(group) for group in GROUPS}

    def _means(self, group: str) -> dict[str, Any]:
        if "pq" not in self.asked:
            return {"pq": None, "sq": None, "rq": None, "pq_dagger": None, "n": 0}
        found = self.figures.stats.mean(self.groups[group])
        return {
            "pq": found.pq,
            "sq": found.sq,
            "rq": found.rq,
            "pq_dagger": self._dagger(self.groups[group]),
            "n": found.n,
        }

    def _dagger(self, classes: Sequence[int]) -> float | None:
        if "pq-dagger" not in self.asked:
            return None
        return dagger(self.figures.stats, self.terms, self.classes.things, classes)

    def per_class(self) -> dict[str, Any]:
        """One row per class, keyed by name."""
        return {c.name: self._row(k) for k, c in enumerate(self.classes.classes, 1)}

    def _row(self, c: int) -> dict[str, Any]:
        pixels = class_accuracy(self.confusion, c)
        row: dict[str, Any] = {"kind": "thing" if c in self.classes.things else "stuff"}
        if "pq" in self.asked:
            row |= self.figures.quality_row(c) | {"pq_dagger": self._dagger([c])}
        row |= {"iou": pixels.iou, "ua": pixels.ua, "pa": pixels.pa}
        if self.pairs.has_objects:
            row |= self.figures.object_row(c)
        areas = [math.fsum(s.class_area_m2(side, c) for s in self.scenes) for side in SIDES]
        row |= {"area_truth_m2": areas[0], "area_pred_m2": areas[1]}
        row["area_bias"] = areas[1] / areas[0] - 1 if areas[0] > 0 else None
        return row

    def boundary(self) -> dict[str, Any]:
        """Boundary PQ: the same shape as the main figures."""
        n = self.classes.count
        stats = QualityStats.sum([s.boundary.statistics(n) for s in self.scenes])
        out: dict[str, Any] = {
            "tolerance": self.settings.boundary or "1m",
            "tolerance_px": [s.pair.boundary_px for s in self.scenes],
        }
        for group in GROUPS:
            m = stats.mean(self.groups[group])
            out[group] = {"pq": m.pq, "sq": m.sq, "rq": m.rq, "n": m.n}
        out["per_class"] = {
            c.name: {
                key: getattr(stats.of_class(k), key)
                for key in ("tp", "fp", "fn", "iou_sum", "pq", "sq", "rq")
            }
            for k, c in enumerate(self.classes.classes, 1)
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

    def intervals(self) -> dict[str, Any] | None:
        """95 % intervals by block bootstrap; None when switched off or too few blocks."""
        if not self.settings.bootstrap or "pq" not in self.asked:
            return None
        merged = frozenset() if self.pairs.keep_stuff else frozenset(self.groups["stuff"])
        n = self.classes.count
        stats = GroundStats.concatenate(
            [
                GroundStats.of(s.counted.count, s.matched, s.pair.ground, n, merged)
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
            judged = ", ".join(c.name for c in self.classes.classes)
            out.append(f"one map holds things only, so only these classes are judged: {judged}")
        for s in self.scenes if self.pairs.has_objects else ():
            for name, side in zip(s.names, (s.overlap.pred, s.overlap.truth), strict=True):
                bare = side.crowd & (side.label >= CLASS_LABEL)
                if bare.any():
                    out.append(
                        f"{name}: {int(side.area_px[bare].sum())} pixels of things have no "
                        f"instance id; they are judged by class only"
                    )
        return out

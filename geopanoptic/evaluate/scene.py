"""What is known of one pair once it is counted: segments, matches, scores, true areas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from geopanoptic.evaluate.classes import CommonClasses
from geopanoptic.evaluate.pairing import Pairs, ScenePair
from geopanoptic.evaluate.settings import EvaluateSettings
from geopanoptic.evaluate.walk import SceneCount
from geopanoptic.metrics import (
    CLASS_LABEL,
    Chosen,
    Fates,
    Matching,
    Overlap,
    Rules,
    SegmentSide,
    boundary_iou,
    fates,
    match,
    match_objects,
)
from geopanoptic.panoptic_map import PanopticMap

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scene:
    """One counted pair. Everything derives from the count; nothing is read from pixels again."""

    pair: ScenePair
    counted: SceneCount
    overlap: Overlap
    settings: EvaluateSettings
    classes: CommonClasses
    warnings: tuple[str, ...]

    @classmethod
    def of(
        cls, pair: ScenePair, counted: SceneCount, pairs: Pairs, settings: EvaluateSettings
    ) -> Scene:
        """Read the segments of a counted pair, and what its tables list beside the pixels."""
        unseen, warnings = _compare_tables(pair, counted, pairs)
        rules = Rules(
            things=pairs.classes.things,
            truth_crowd=pair.truth.crowd,
            pred_void=settings.pred_void,
            unseen_truth=unseen,
        )
        overlap = Overlap.of(counted.count, rules)
        return cls(pair, counted, overlap, settings, pairs.classes, tuple(warnings))

    @property
    def names(self) -> tuple[str, str]:
        """The names of prediction and truth."""
        return self.pair.pred.name, self.pair.truth.name

    @cached_property
    def matched(self) -> Matching:
        """The matches of PQ."""
        return match(self.overlap)

    @cached_property
    def boundary(self) -> Matching:
        """The matches of boundary PQ."""
        return match(self.overlap, boundary_iou(self.overlap, self.counted.outline))

    @cached_property
    def chosen(self) -> Chosen:
        """The segments that are large enough for F1, AP and the error table."""
        return Chosen.larger_than(
            self.area_m2(self.overlap.truth),
            self.area_m2(self.overlap.pred),
            self.settings.min_area_m2,
        )

    @cached_property
    def objects(self) -> Matching:
        """The matches of F1, at the asked IoU and least area."""
        return match_objects(self.overlap, self.settings.iou, self.chosen)

    @cached_property
    def fates(self) -> Fates:
        """What became of every segment."""
        return fates(self.objects)

    @cached_property
    def _row_area_m2(self) -> Floats:
        return self.pair.georef.row_area_m2()

    def area_m2(self, side: SegmentSide) -> Floats:
        """Return the true area of segments: pixels x pixel area at the middle row of the box."""
        middle = (side.bbox[:, 0] + side.bbox[:, 2]) // 2
        row = middle.clip(0, len(self._row_area_m2) - 1)
        area: Floats = side.area_px * self._row_area_m2[row]
        return area

    def class_area_m2(self, side: str, class_id: int) -> float:
        """Return the true area of a class of 'truth' or 'pred': exact per row."""
        rows, pixels = self.counted.count.class_rows(side, class_id)
        # fsum is exactly rounded: the same on every machine and for any number of threads
        return math.fsum((pixels * self._row_area_m2[rows]).tolist())

    @cached_property
    def scores(self) -> Floats | None:
        """The score of each prediction segment; None when the prediction has no scores."""
        known = map_scores(self.pair.pred)
        if known is None:
            return None
        ids, values = known
        at = np.searchsorted(ids, self.overlap.pred.label).clip(0, max(len(ids) - 1, 0))
        if len(ids) == 0:
            return None
        found = ids[at] == self.overlap.pred.label
        return np.where(found, values[at], 0.0)


def map_scores(panoptic: PanopticMap) -> tuple[Ints, Floats] | None:
    """Return (instance ids sorted, scores) of a map, None when it has none."""
    if panoptic.score:
        ids = np.array(sorted(panoptic.score), np.int64)
        return ids, np.array([panoptic.score[i] for i in ids.tolist()])
    if panoptic.folder is None or not (panoptic.folder / "segments.parquet").exists():
        return None
    table = panoptic.segment_table.things
    known = ~np.isnan(table.score)
    if not known.any():
        return None
    order = np.argsort(table.id[known])
    return table.id[known][order], table.score[known][order].astype(np.float64)


def _compare_tables(
    pair: ScenePair, counted: SceneCount, pairs: Pairs
) -> tuple[tuple[tuple[int, int], ...], list[str]]:
    """Compare COCO tables with the pixels: unseen truth segments, and warnings.

    A truth segment that is listed but has no pixel is a miss (panopticapi); a prediction one is
    ignored. The pixels decide on areas, whatever the table says.
    """
    count, warnings = counted.count, _polygon_warnings(pair, counted)
    unseen: list[tuple[int, int]] = []
    sides = ((pair.truth, pair.sides.truth, count.truth), (pair.pred, pair.sides.pred, count.pred))
    for k, (panoptic, code, labels) in enumerate(sides):
        if not panoptic.listed:
            continue
        area = _areas(labels, count.px)
        for segment, class_id in sorted(panoptic.listed.items()):
            common = int(code.code[class_id])
            if common in (0, pairs.classes.background) or not code.keeps_id[class_id]:
                continue
            px = area.get(segment, 0)
            if px == 0 and segment not in panoptic.crowd:
                warnings.append(
                    f"{panoptic.name}: segment {segment} is listed but has no pixel; "
                    + ("it counts as missed" if k == 0 else "it is ignored")
                )
                if k == 0:
                    unseen.append((segment, common))
        warnings += _wrong_areas(panoptic, area)
    return tuple(unseen), warnings


def _polygon_warnings(pair: ScenePair, counted: SceneCount) -> list[str]:
    """Tell of polygons that were burnt over each other, or that have no pixel at all."""
    out = []
    for panoptic, labels in (
        (pair.truth, counted.count.truth),
        (pair.pred, counted.count.pred),
    ):
        burnt = panoptic.polygons
        if burnt is None:
            continue
        overlaps = burnt.overlapping()
        if overlaps:
            out.append(
                f"{panoptic.name}: {overlaps} pairs of polygons overlap; the later one lies on top"
            )
        lost = len(burnt.geometry) - len(np.intersect1d(labels, np.arange(1, len(burnt) + 1)))
        if lost:
            out.append(
                f"{panoptic.name}: {lost} of {len(burnt)} polygons have no pixel on the grid "
                f"(outside it, void there, under others, or too small); they are not judged"
            )
    return out


def _areas(labels: Ints, px: Ints) -> dict[int, int]:
    unique, where = np.unique(labels, return_inverse=True)
    sums = np.bincount(where.ravel(), weights=px, minlength=len(unique)).astype(np.int64)
    return {int(a): int(b) for a, b in zip(unique, sums, strict=True) if 0 < a < CLASS_LABEL}


def _wrong_areas(panoptic: PanopticMap, area: dict[int, int]) -> list[str]:
    wrong = [
        (segment, listed, area[segment])
        for segment, listed in sorted(panoptic.listed_area.items())
        if segment in area and area[segment] != listed
    ]
    if not wrong:
        return []
    segment, listed, pixels = wrong[0]
    return [
        f"{panoptic.name}: the table's area of {len(wrong)} segments is not that of the pixels, "
        f"which count (segment {segment}: table {listed}, pixels {pixels})"
    ]

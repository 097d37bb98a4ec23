"""Panoptic Quality and its companions against the results of others, and their laws."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geopanoptic.metrics import (
    Candidates,
    ClassCode,
    Overlap,
    PanopticCount,
    QualityStats,
    Rules,
    Sides,
    average_precision,
    boundary_iou,
    class_accuracy,
    count_outlines,
    dagger,
    dagger_terms,
    labels_of,
    match,
    mean,
    mean_ap,
    mean_iou,
    overall_accuracy,
    panoptic_quality,
)
from geopanoptic.metrics.boundary import OUTSIDE

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
PQ_CASES = REFERENCE / "pq_cases"
MALFORMED = {
    # read from COCO tables, where the malformed truth is an error or a warning of the reader
    "edge_gt_table_area_wrong",
    "edge_gt_segment_not_in_png",
    "edge_gt_png_id_not_in_table",
    "edge_two_crowds_one_class",
}


def cases(key: str = "panopticapi") -> list[str]:
    """Name the cases whose expected.json has this key."""
    if not PQ_CASES.is_dir():
        return []
    return sorted(
        p.parent.name
        for p in PQ_CASES.glob("*/expected.json")
        if p.parent.name not in MALFORMED and key in json.loads(p.read_text())
    )


@dataclass(frozen=True)
class Case:
    """One reference case: what others measured, and our counts of each image."""

    expected: dict[str, Any]
    number: dict[int, int]
    things: frozenset[int]
    labels: list[tuple[np.ndarray, np.ndarray]]
    counts: list[PanopticCount]
    rules: list[Rules]
    scores: list[dict[int, float]]
    keys: list[str]

    @property
    def n(self) -> int:
        return len(self.number)

    def overlaps(self) -> list[Overlap]:
        return [Overlap.of(c, r) for c, r in zip(self.counts, self.rules, strict=True)]


@cache
def load(name: str) -> Case:
    folder = PQ_CASES / name
    maps = np.load(folder / "maps.npz")
    truth = json.loads((folder / "gt.json").read_text())
    pred = json.loads((folder / "pred.json").read_text())
    number = {c["id"]: k for k, c in enumerate(truth["categories"], 1)}
    things = frozenset(number[c["id"]] for c in truth["categories"] if c["isthing"])
    code = ClassCode.plain(len(number), range(1, len(number) + 1))
    case = Case(
        json.loads((folder / "expected.json").read_text()), number, things, [], [], [], [], []
    )
    by_image = {a["image_id"]: a for a in pred["annotations"]}
    for note in truth["annotations"]:
        k = note["image_id"]
        sides = [
            painted(maps[f"gt_{k}"], note["segments_info"], number),
            painted(maps[f"pred_{k}"], by_image[k]["segments_info"], number),
        ]
        case.keys.append(str(k))
        case.labels.append((labels_of(*sides[0], code), labels_of(*sides[1], code)))
        case.counts.append(PanopticCount.of(*sides, Sides(code, code, len(number))))
        crowd = frozenset(s["id"] for s in note["segments_info"] if s.get("iscrowd"))
        case.rules.append(Rules(things=things, truth_crowd=crowd))
        case.scores.append({s["id"]: s.get("score", 0) for s in by_image[k]["segments_info"]})
    return case


def painted(
    ids: np.ndarray, segments: list[dict[str, Any]], number: dict[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return (class, id) arrays of one side."""
    classes = np.zeros(int(ids.max()) + 1, np.uint8)
    for s in segments:
        if s["id"] < len(classes):
            classes[s["id"]] = number[s["category_id"]]
    return classes[ids], ids.astype(np.int32)


needs_reference = pytest.mark.skipif(
    not PQ_CASES.is_dir(), reason="needs ../shared/reference/pq_cases"
)


def compare(stats: QualityStats, things: frozenset[int], number: dict[int, int], want: Any) -> None:
    """Compare statistics and results with {'stats': ..., 'results': ...} of panopticapi."""
    for category, k in number.items():
        row = want["stats"].get(str(category), {"tp": 0, "fp": 0, "fn": 0, "iou_sum": 0.0})
        got = stats.of_class(k)
        assert (got.tp, got.fp, got.fn) == (row["tp"], row["fp"], row["fn"]), category
        assert got.iou_sum == pytest.approx(row["iou_sum"], abs=1e-9)
    result = panoptic_quality(stats, things)
    for name, got in (("All", result.all), ("Things", result.things), ("Stuff", result.stuff)):
        row = want["results"][name]
        if row is None:
            assert got.pq is None
            continue
        assert got.n == row["n"]
        assert got.pq == pytest.approx(row["pq"], abs=1e-9)
        assert got.sq == pytest.approx(row["sq"], abs=1e-9)
        assert got.rq == pytest.approx(row["rq"], abs=1e-9)


@needs_reference
@pytest.mark.parametrize("name", cases())
def test_panoptic_quality_is_that_of_panopticapi(name: str) -> None:
    case = load(name)
    stats = QualityStats.sum([match(o).statistics(case.n) for o in case.overlaps()])
    compare(stats, case.things, case.number, case.expected["panopticapi"])


@needs_reference
@pytest.mark.parametrize("name", cases("boundary_pq"))
def test_boundary_quality_is_that_of_boundary_iou_api(name: str) -> None:
    case = load(name)
    for want in case.expected["boundary_pq"]:
        parts = []
        for key, labels, overlap in zip(case.keys, case.labels, case.overlaps(), strict=True):
            d = want["dilation_px"][key]
            padded = [np.pad(x, d, constant_values=OUTSIDE) for x in labels]
            iou = boundary_iou(overlap, count_outlines(*padded, d))
            parts.append(match(overlap, iou).statistics(case.n))
        compare(QualityStats.sum(parts), case.things, case.number, want)


@needs_reference
@pytest.mark.parametrize("name", cases("torchmetrics"))
def test_pq_dagger_is_that_of_torchmetrics_where_the_prediction_has_no_void(name: str) -> None:
    case = load(name)
    if not case.expected["torchmetrics"]["agrees_with_panopticapi"]:
        pytest.skip("the prediction has void, which torchmetrics takes out of the truth")
    stats = QualityStats.sum([match(o).statistics(case.n) for o in case.overlaps()])
    terms = [dagger_terms(c.confusion(case.n)) for c in case.counts]
    value = dagger(stats, terms, case.things, range(1, case.n + 1))
    want = case.expected["torchmetrics"]["ModifiedPanopticQuality"]["value"]
    assert value == pytest.approx(want, abs=1e-6)  # torchmetrics sums in float32


@needs_reference
@pytest.mark.parametrize("name", cases("torchmetrics"))
def test_void_of_the_prediction_can_be_ignored_as_torchmetrics_does(name: str) -> None:
    case = load(name)
    rules = [replace(r, pred_void="ignore") for r in case.rules]
    stats = QualityStats.sum(
        [
            match(Overlap.of(c, r)).statistics(case.n)
            for c, r in zip(case.counts, rules, strict=True)
        ]
    )
    want = case.expected["torchmetrics"]["PanopticQuality"]["stats"]
    for category, row in want.items():
        got = stats.of_class(case.number[int(category)])
        assert (got.tp, got.fp, got.fn) == (row["tp"], row["fp"], row["fn"]), category
        assert got.iou_sum == pytest.approx(row["iou_sum"], abs=1e-4)


@needs_reference
@pytest.mark.parametrize("name", cases("semantic"))
def test_pixel_measures_are_those_of_torchmetrics(name: str) -> None:
    case = load(name)
    confusion = sum(c.confusion(case.n) for c in case.counts)
    want = case.expected["semantic"]
    number = {0: 0} | case.number
    for truth, row in want["confusion"].items():
        for pred, pixels in row.items():
            assert confusion[number[int(truth)], number[int(pred)]] == pixels
    for category, iou in want["iou"].items():
        k = case.number[int(category)]
        assert class_accuracy(confusion, k).iou == pytest.approx(iou, abs=1e-6)
    assert overall_accuracy(confusion) == pytest.approx(want["pixel_accuracy"], abs=1e-6)
    assert mean_iou(confusion, list(case.number.values())) == pytest.approx(
        want["mIoU_over_seen"], abs=1e-6
    )


@needs_reference
@pytest.mark.parametrize("name", cases("coco_ap"))
@pytest.mark.parametrize("max_dets", [100, None])
def test_average_precision_is_that_of_pycocotools(name: str, max_dets: int | None) -> None:
    case = load(name)
    want = case.expected["coco_ap"]["maxDets=100" if max_dets else "maxDets=1000000"]
    overlaps = case.overlaps()
    rows = []
    for category, value in want["per_class"].items():
        images = []
        for overlap, score in zip(overlaps, case.scores, strict=True):
            scores = np.array([score[int(k)] for k in overlap.pred.label])
            images.append(Candidates.of(overlap, scores, case.number[int(category)]))
        row = average_precision(images, max_dets=max_dets)
        rows.append(row)
        assert (mean_ap([row]) is None) == (value["AP"] is None)
        if value["AP"] is not None:
            assert mean_ap([row]) == pytest.approx(value["AP"], abs=1e-6)
            assert row[0] == pytest.approx(value["AP50"], abs=1e-6)
    assert mean_ap(rows) == pytest.approx(want["AP"], abs=1e-6)
    assert mean(r[5] for r in rows) == pytest.approx(want["AP75"], abs=1e-6)

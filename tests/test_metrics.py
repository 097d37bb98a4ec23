"""Panoptic Quality and its companions against the results of others, and their laws."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from geopanoptic.metrics import (
    ClassCode,
    Overlap,
    PanopticCount,
    QualityStats,
    Rules,
    Sides,
    match,
    panoptic_quality,
)

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
PQ_CASES = REFERENCE / "pq_cases"
MALFORMED = {
    # read from COCO tables, where the malformed truth is an error or a warning of the reader
    "edge_gt_table_area_wrong",
    "edge_gt_segment_not_in_png",
    "edge_gt_png_id_not_in_table",
    "edge_two_crowds_one_class",
}


def cases(*without: str) -> list[str]:
    if not PQ_CASES.is_dir():
        return []
    return sorted(p.name for p in PQ_CASES.iterdir() if p.is_dir() and p.name not in without)


def load(case: str) -> tuple[dict, dict[str, int], list[tuple[PanopticCount, Rules]]]:
    """Return (expected, class number of each category id, count and rules of each image)."""
    folder = PQ_CASES / case
    maps = np.load(folder / "maps.npz")
    truth = json.loads((folder / "gt.json").read_text())
    pred = json.loads((folder / "pred.json").read_text())
    number = {c["id"]: k for k, c in enumerate(truth["categories"], 1)}
    things = frozenset(number[c["id"]] for c in truth["categories"] if c["isthing"])
    code = ClassCode.plain(len(number), range(1, len(number) + 1))
    out = []
    by_image = {a["image_id"]: a for a in pred["annotations"]}
    for note in truth["annotations"]:
        k = note["image_id"]
        sides = []
        for side, table in (("gt", note), ("pred", by_image[k])):
            ids = maps[f"{side}_{k}"].astype(np.int32)
            segments = {s["id"]: s for s in table["segments_info"]}
            lut_id = np.array(sorted(segments))
            lut_class = np.array([number[segments[i]["category_id"]] for i in lut_id], np.uint8)
            flat = np.zeros(ids.shape, np.uint8)
            if len(lut_id):
                at = np.searchsorted(lut_id, ids).clip(0, len(lut_id) - 1)
                flat = np.where(lut_id[at] == ids, lut_class[at], 0).astype(np.uint8)
            sides.append((flat, ids))
        crowd = frozenset(s["id"] for s in note["segments_info"] if s.get("iscrowd"))
        count = PanopticCount.of(sides[0], sides[1], Sides(code, code, len(number)))
        out.append((count, Rules(things=things, truth_crowd=crowd)))
    return json.loads((folder / "expected.json").read_text()), number, out


@pytest.mark.skipif(not PQ_CASES.is_dir(), reason="needs ../shared/reference/pq_cases")
@pytest.mark.parametrize("case", cases(*MALFORMED))
def test_panoptic_quality_is_that_of_panopticapi(case: str) -> None:
    expected, number, counts = load(case)
    stats = QualityStats.sum([match(Overlap.of(c, r)).statistics(len(number)) for c, r in counts])
    for category, k in number.items():
        want = expected["panopticapi"]["stats"].get(
            str(category), {"tp": 0, "fp": 0, "fn": 0, "iou_sum": 0.0}
        )
        got = stats.of_class(k)
        assert (got.tp, got.fp, got.fn) == (want["tp"], want["fp"], want["fn"]), category
        assert got.iou_sum == pytest.approx(want["iou_sum"], abs=1e-9)
    result = panoptic_quality(stats, counts[0][1].things)
    for name, mean in (("All", result.all), ("Things", result.things), ("Stuff", result.stuff)):
        want = expected["panopticapi"]["results"][name]
        if want is None:
            assert mean.pq is None
            continue
        assert mean.n == want["n"]
        assert mean.pq == pytest.approx(want["pq"], abs=1e-9)
        assert mean.sq == pytest.approx(want["sq"], abs=1e-9)
        assert mean.rq == pytest.approx(want["rq"], abs=1e-9)

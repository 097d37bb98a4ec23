"""The tool `evaluate`: files in, figures out, whatever the blocks, workers and formats."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from geopanoptic.evaluate import EvaluateSettings, evaluate
from geopanoptic.workers import EngineSpec

REFERENCE = Path(__file__).parents[2] / "shared" / "reference"
PQ_CASES = REFERENCE / "pq_cases"
needs_reference = pytest.mark.skipif(
    not PQ_CASES.is_dir(), reason="needs ../shared/reference/pq_cases"
)
CASES = sorted(p.name for p in PQ_CASES.iterdir() if p.is_dir()) if PQ_CASES.is_dir() else []
FAST = EngineSpec(threads=2)
PLAIN = EvaluateSettings(bootstrap=0)


@needs_reference
@pytest.mark.parametrize("case", [c for c in CASES if c != "edge_gt_table_area_wrong"])
def test_coco_pairs_give_the_figures_of_panopticapi(case: str) -> None:
    folder = PQ_CASES / case
    want = json.loads((folder / "expected.json").read_text())["panopticapi"]
    found = evaluate(folder / "pred.json", folder / "gt.json", PLAIN, engine=FAST)
    names = {c["id"]: c["name"] for c in json.loads((folder / "gt.json").read_text())["categories"]}
    for category, name in names.items():
        row = want["stats"].get(str(category), {"tp": 0, "fp": 0, "fn": 0, "iou_sum": 0.0})
        got = found["per_class"][name]
        assert (got["tp"], got["fp"], got["fn"]) == (row["tp"], row["fp"], row["fn"]), name
        assert got["iou_sum"] == pytest.approx(row["iou_sum"], abs=1e-9)
        seen = row["tp"] + row["fp"] + row["fn"] > 0
        assert got["pq"] == (
            pytest.approx(want["results"]["per_class"][str(category)]["pq"], abs=1e-9)
            if seen
            else None
        )
    for group in ("all", "things", "stuff"):
        row = want["results"][group.capitalize()]
        if row is None:
            assert found[group]["pq"] is None
        else:
            assert found[group]["n"] == row["n"]
            for key in ("pq", "sq", "rq"):
                assert found[group][key] == pytest.approx(row[key], abs=1e-9)


@needs_reference
def test_the_pixels_decide_on_areas_and_a_wrong_table_is_told() -> None:
    folder = PQ_CASES / "edge_gt_table_area_wrong"
    found = evaluate(folder / "pred.json", folder / "gt.json", PLAIN, engine=FAST)
    assert found["all"]["pq"] == 1.0
    assert "table 64, pixels 16" in found["warnings"][0]


@needs_reference
@pytest.mark.parametrize("case", ["geo_both_void", "geo_plain_multi", "coco_sample_shift_6_4"])
def test_neither_blocks_nor_threads_change_a_byte(case: str) -> None:
    folder = PQ_CASES / case
    settings = EvaluateSettings(boundary="0.003")
    texts = {
        evaluate(
            folder / "pred.json",
            folder / "gt.json",
            settings,
            engine=EngineSpec(threads=threads),
            walk=(block, None),
        ).to_json()
        for block, threads in [(64, 2), (100, 4), (512, 1), (4096, 1)]
    }
    assert len(texts) == 1

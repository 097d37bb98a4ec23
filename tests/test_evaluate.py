"""The tool `evaluate`: files in, figures out, whatever the blocks, workers and formats."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geopanoptic.errors import SceneError
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


@needs_reference
@pytest.mark.parametrize("case", ["geo_plain_multi", "geo_gt_void", "geo_crowd"])
def test_boundary_ratio_and_average_precision_reach_the_result(case: str) -> None:
    folder = PQ_CASES / case
    want = json.loads((folder / "expected.json").read_text())
    boundary = want["boundary_pq"][0]
    for max_dets, key in ((100, "maxDets=100"), (None, "maxDets=1000000")):
        settings = EvaluateSettings(
            boundary=str(boundary["dilation_ratio"]), bootstrap=0, max_dets=max_dets
        )
        found = evaluate(folder / "pred.json", folder / "gt.json", settings, engine=FAST)
        assert found["boundary"]["tolerance_px"] == list(boundary["dilation_px"].values())
        for name in ("pq", "sq", "rq"):
            assert found["boundary"]["all"][name] == pytest.approx(
                boundary["results"]["All"][name], abs=1e-9
            )
        assert found["ap"]["ap"] == pytest.approx(want["coco_ap"][key]["AP"], abs=1e-6)
        assert found["ap"]["ap50"] == pytest.approx(want["coco_ap"][key]["AP50"], abs=1e-6)


def write_coco(path: Path, ids: np.ndarray, segments: list[dict[str, int]]) -> Path:
    """Write one image of a COCO panoptic data set: category 1 house, 2 field."""
    path.with_suffix("").mkdir(exist_ok=True)
    rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], -1).astype(np.uint8)
    Image.fromarray(rgb).save(path.with_suffix("") / "1.png")
    rows, cols = ids.shape
    path.write_text(
        json.dumps(
            {
                "images": [{"id": 1, "file_name": "1.png", "height": rows, "width": cols}],
                "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": segments}],
                "categories": [
                    {"id": 1, "name": "house", "isthing": 1},
                    {"id": 2, "name": "field", "isthing": 0},
                ],
            }
        )
    )
    return path


def test_listed_segments_without_pixels_are_missed_in_truth_and_ignored_in_predictions(
    tmp_path: Path,
) -> None:
    ids = np.full((10, 10), 5)
    ids[2:6, 2:6] = 9
    full = [{"id": 5, "category_id": 2, "area": 84}, {"id": 9, "category_id": 1, "area": 16}]
    ghost = [*full, {"id": 77, "category_id": 1, "area": 4}]
    a, b = (write_coco(tmp_path / f"{k}.json", ids, s) for k, s in (("a", full), ("b", ghost)))
    found = evaluate(a, b, PLAIN)
    row = found["per_class"]["house"]
    assert (row["tp"], row["fp"], row["fn"]) == (1, 0, 1)
    assert "segment 77 is listed but has no pixel; it counts as missed" in found["warnings"][0]
    found = evaluate(b, a, PLAIN)
    assert found["all"]["pq"] == 1.0
    assert "it is ignored" in found["warnings"][0]


def test_all_crowds_of_a_class_count(tmp_path: Path) -> None:
    """panopticapi keeps only the last crowd of a class; the sum is what is meant."""
    truth = np.full((10, 20), 5)
    truth[2:6, 2:5], truth[2:6, 5:8] = 8, 9
    crowds = [
        {"id": 5, "category_id": 2},
        {"id": 8, "category_id": 1, "iscrowd": 1},
        {"id": 9, "category_id": 1, "iscrowd": 1},
    ]
    pred = np.full((10, 20), 5)
    pred[2:6, 3:7] = 1  # half on each crowd
    listed = [{"id": 5, "category_id": 2}, {"id": 1, "category_id": 1}]
    found = evaluate(
        write_coco(tmp_path / "p.json", pred, listed),
        write_coco(tmp_path / "t.json", truth, crowds),
        PLAIN,
    )
    row = found["per_class"]["house"]
    assert (row["tp"], row["fp"], row["fn"], row["pq"]) == (0, 0, 0, None)


def test_stuff_segments_are_merged_on_request(tmp_path: Path) -> None:
    truth = np.where(np.arange(20) < 10, 5, 6)[None].repeat(8, 0)
    pred = np.full((8, 20), 5)
    two = [{"id": 5, "category_id": 2}, {"id": 6, "category_id": 2}]
    paths = (
        write_coco(tmp_path / "p.json", pred, two[:1]),
        write_coco(tmp_path / "t.json", truth, two),
    )
    kept = evaluate(*paths, PLAIN)["per_class"]["field"]
    assert (kept["tp"], kept["fp"], kept["fn"]) == (0, 1, 2)
    merged = evaluate(*paths, EvaluateSettings(stuff_segments="merge"))["per_class"]["field"]
    assert (merged["tp"], merged["pq"]) == (1, 1.0)


def test_a_truth_image_without_prediction_is_named(tmp_path: Path) -> None:
    ids = np.full((4, 4), 5)
    a = write_coco(tmp_path / "a.json", ids, [{"id": 5, "category_id": 2}])
    data = json.loads(a.read_text())
    data["annotations"].append(data["annotations"][0] | {"image_id": 2})
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "1.png").rename(tmp_path / "b" / "1.png")
    (tmp_path / "b.json").write_text(json.dumps(data))
    a.write_text(a.read_text().replace('"1.png"', '"../b/1.png"'))
    with pytest.raises(SceneError, match="1 of 2 truth images have no prediction: 2"):
        evaluate(a, tmp_path / "b.json", PLAIN)

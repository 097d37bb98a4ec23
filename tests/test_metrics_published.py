"""Figures that others printed: deeplab2's three images, SpaceNet's buildings."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from geopanoptic.evaluate import EvaluateSettings, evaluate
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


def grey(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L")).astype(np.int32)


@pytest.mark.parametrize("case", ["three_images", "team_only"])
def test_deeplab2_prints_these_digits(shared: Path, case: str) -> None:
    folder = shared / "reference" / "pq_published"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    known = json.loads((folder / "expected.json").read_text())
    want = known["cases"][case]
    n = 6  # classes 1..6; the means are over those that occur
    code = ClassCode.plain(n, range(1, n + 1))
    parts = []
    for name in want["images"]:
        image = known["images"][name]
        ids = grey(folder / image["gt_instance"])
        truth = np.zeros(ids.shape, np.uint8)
        for value, cls in image["gt_instance_to_class"].items():
            truth[ids == int(value)] = cls
        rgb = np.asarray(Image.open(folder / image["pred_class"]).convert("RGB"))
        pred = np.zeros(ids.shape, np.uint8)
        for color, cls in known["class_colors"].items():
            pred[(rgb == json.loads(color)).all(axis=-1)] = cls
        pred_ids = pred * np.int32(256) + grey(folder / image["pred_instance"])
        # instance 0 of a class is an object there; ours are > 0, so all ids are moved by one
        count = PanopticCount.of(
            (truth, truth * np.int32(256) + ids + 1), (pred, pred_ids + 1), Sides(code, code, n)
        )
        rules = Rules(things=frozenset(range(1, n + 1)))
        parts.append(match(Overlap.of(count, rules)).statistics(n))
    stats = QualityStats.sum(parts)
    result = panoptic_quality(stats, range(1, n + 1)).all
    seen = (stats.tp + stats.fp + stats.fn) > 0
    means = [float(x[seen].mean()) for x in (stats.tp, stats.fn, stats.fp)]
    got = [result.pq, result.sq, result.rq, *means]
    assert got == pytest.approx(want["pq_sq_rq_tp_fn_fp"], abs=1e-7)


@pytest.fixture
def spacenet(shared: Path) -> Path:
    folder = shared / "reference" / "spacenet_cases"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    return folder


def test_best_overlaps_are_those_of_solaris(spacenet: Path) -> None:
    """SN2_sample_iou_by_building.csv: best IoU of each truth building with any proposal."""
    found = evaluate(spacenet / "SN2_sample_preds.csv", spacenet / "SN2_sample_truth.csv")
    known = pd.read_csv(spacenet / "SN2_sample_iou_by_building.csv")
    truth = pd.read_csv(spacenet / "SN2_sample_truth.csv")
    assert (known.BuildingId == truth.BuildingId).all()
    with_area = ~truth.PolygonWKT_Pix.str.contains("EMPTY")
    for scene in found.polygons:
        image = scene.names[0].rpartition("#")[2]
        rows = known[(known.ImageId == image) & with_area]
        o, iou = scene.overlap, scene.overlap.iou()
        best = np.zeros(len(o.truth))
        for p in range(len(o.pred)):  # solaris lets each proposal speak for its best truth only
            pairs = np.flatnonzero(o.p == p)
            if len(pairs):
                k = pairs[iou[pairs].argmax()]
                best[o.t[k]] = max(best[o.t[k]], iou[k])
        assert best == pytest.approx(rows.iou_score.to_numpy(), abs=1e-9)


def test_spacenet_counts_follow_from_solaris_overlaps(spacenet: Path) -> None:
    """A match is an IoU > 0.5; truth of at least 20 px2 and proposals of more count."""
    found = evaluate(
        spacenet / "SN2_sample_preds.csv",
        spacenet / "SN2_sample_truth.csv",
        EvaluateSettings(min_area_m2=20),
    )
    known = pd.read_csv(spacenet / "SN2_sample_iou_by_building.csv")
    tp = int((known.iou_score > 0.5).sum())
    row = found["per_class"]["building"]
    assert row["tp"] == found["f1"]["tp"] == tp
    assert row["fn"] == row["count_truth"] - 2 - tp  # two truth buildings are smaller
    assert row["fp"] == row["count_pred"] - tp
    assert row["f1"] == pytest.approx(2 * tp / (2 * tp + row["fp"] + row["fn"]))

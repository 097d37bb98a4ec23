"""The tool that calibrates the bundled model: blocks keep fits honest, places are kept apart."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from geopanoptic.models.confidence import modelled

BENCHMARKS = str(Path(__file__).parents[1] / "benchmarks")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    sys.path.insert(0, BENCHMARKS)
    try:
        return importlib.import_module("model_calibration")
    finally:
        sys.path.remove(BENCHMARKS)


def buildings(tool: ModuleType, n: int = 3000) -> Any:
    rng = np.random.default_rng(0)
    mean, outline = rng.beta(12, 2, n), rng.beta(5, 3, n)
    hit = rng.random(n) < modelled((-1.0, 1.2, -0.8), mean, outline)
    region, block = rng.integers(0, 2, n), rng.integers(0, n // 10, n)
    return tool.Buildings(mean, outline, hit, region, block, rng.random(n) < 0.1)


def test_true_scores_come_out_near_the_error_that_true_probabilities_show(
    tool: ModuleType,
) -> None:
    b = buildings(tool)
    kinds = {"here": tool.failures(np.eye(3, dtype=np.int32), np.eye(3, dtype=np.int32))}
    counts = {"here": tool.Counts(tp=1, iou_sum=1.0)}
    found = tool.report(tool.Validation(b, ("one", "two"), counts, kinds))
    own, floor = found["calibrated"], found["calibrated"]["ece_of_true_probabilities"]
    assert own["segments"] == 3000
    assert own["ece"] < 1.5 * floor < 0.05
    assert found["raw"]["ece"] > 3 * floor
    assert own["auc"] > found["raw"]["auc"]
    assert set(found["regions"]) == {"one", "two"}
    assert found["f1"] == 1
    assert found["held_out_strip"]["raw"]["segments"] == b.held_out.sum()


def test_no_score_is_from_a_fit_that_saw_its_block(tool: ModuleType) -> None:
    b = buildings(tool, 400)
    plain = b.cross_validated()
    for block in (0, 7, 20):
        here = b.block == block
        other = replace(b, hit=np.where(here, ~b.hit, b.hit))
        assert np.array_equal(other.cross_validated()[here], plain[here])
        assert not np.array_equal(other.cross_validated(), plain)


def test_buildings_fall_into_blocks_of_75_m_by_rising_id(tool: ModuleType) -> None:
    pred = np.zeros((600, 600), np.int32)
    pred[10:20, 10:20], pred[300:310, 10:20], pred[10:20, 580:590] = 9, 2, 5
    assert list(tool._blocks(pred, 0.3)) == [(1, 0), (0, 2), (0, 0)]


def test_the_order_of_scores_is_the_share_of_pairs(tool: ModuleType) -> None:
    assert tool.auc(np.array([0.1, 0.9, 0.5]), np.array([False, True, True])) == 1
    assert tool.auc(np.array([0.5, 0.5]), np.array([False, True])) == 0.5
    assert tool.auc(np.array([0.5]), np.array([True])) is None


def test_places_to_calibrate_on_are_none_of_the_test_places(tool: ModuleType) -> None:
    places = importlib.import_module("model_places")
    assert {p.image for p in places.TEST[:-1]}.isdisjoint(p.image for p in places.VALIDATION)
    south = places.TEST[-1]
    for place in places.VALIDATION:
        if place.image == south.image:
            assert place.window[1] + place.window[3] <= south.window[1]
    assert [p.name for p in places.VALIDATION if not p.trained_on] == ["banepa_strip"]

"""Calibration: the published error by hand, a map that mends scores, scores that use it."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pixel_oracle import PixelOracle, oracle_card, spell
from random_model import random_card
from scenes import make_truth

from geopanoptic import Tiling, predict
from geopanoptic.errors import CheckpointError
from geopanoptic.metrics import (
    Reliability,
    apply_calibration,
    ece_of_truth,
    expected_calibration_error,
    fit_calibration,
    segment_hits,
)
from geopanoptic.models import ModelCard

KNOTS = ((0.0, 0.0), (0.8, 0.3), (1.0, 0.9))


def test_the_error_is_that_of_the_definition() -> None:
    score = np.array([0.1, 0.1, 0.9, 0.9, 0.9, 0.9])
    hit = np.array([False, True, True, True, True, False])
    # two bins: |0.1 - 0.5| on 2 of 6, |0.9 - 0.75| on 4 of 6
    assert expected_calibration_error(score, hit, bins=2) == pytest.approx(0.4 / 3 + 0.15 * 2 / 3)
    assert expected_calibration_error([1.0, 0.0], [True, False]) == 0
    assert expected_calibration_error([], []) is None


def test_the_error_of_true_probabilities_is_small_and_of_others_is_not() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    hit = rng.random(20_000) < p
    assert (expected_calibration_error(p, hit) or 1) < 0.02
    assert (expected_calibration_error(np.sqrt(p), hit) or 0) > 0.1


def test_the_error_of_true_probabilities_is_known_beforehand() -> None:
    rng = np.random.default_rng(2)
    errors, expected = [], []
    for n in (60, 240, 2000):
        p = 0.5 + rng.random(n) / 2
        drawn = [expected_calibration_error(p, rng.random(n) < p) or 0 for _ in range(100)]
        errors.append(float(np.mean(drawn)))
        expected.append(ece_of_truth(p) or 0)
    assert expected == pytest.approx(errors, rel=0.15)
    assert expected[0] > 2 * expected[2], "few segments, much noise"
    assert ece_of_truth([]) is None
    assert ece_of_truth([0.0, 1.0]) == 0


@given(st.integers(0, 10**6), st.integers(1, 200))
def test_bins_of_equal_count_hold_everything_once(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    score, hit = rng.random(n).round(1), rng.random(n) < 0.5
    found = Reliability.of_equal_counts(score, hit, bins=7)
    assert found.n.sum() == n
    assert found.n.max() - found.n.min() <= 1
    assert (found.n * found.score).sum() == pytest.approx(score.sum())
    assert (found.n * found.hit_rate).sum() == pytest.approx(hit.sum())
    assert (np.diff(found.score) >= 0).all()
    one = Reliability.of_equal_counts(score, hit, bins=1)
    assert one.ece == pytest.approx(abs(score.mean() - hit.mean()))


@pytest.mark.parametrize("score", [[1.2], [-0.1], [np.nan]])
def test_a_score_that_is_none_is_refused(score: list[float]) -> None:
    with pytest.raises(ValueError, match=r"outside 0\.\.1"):
        Reliability.of(score, [True])


def test_overconfident_scores_are_mended_on_segments_not_fitted_to() -> None:
    rng = np.random.default_rng(1)
    truth = rng.beta(2, 2, 6000)
    score = 0.7 + 0.3 * truth**0.5  # all above 0.7, as scores after a threshold are
    hit = rng.random(6000) < truth
    knots = fit_calibration(score[:3000], hit[:3000])
    before = expected_calibration_error(score[3000:], hit[3000:]) or 0
    after = expected_calibration_error(apply_calibration(knots, score[3000:]), hit[3000:]) or 1
    assert before > 0.3
    assert after < 0.04


@given(st.integers(0, 10**6), st.integers(0, 300), st.sampled_from([1, 3, 1000]))
def test_calibrated_scores_keep_the_order_and_the_range(seed: int, n: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    score = rng.integers(0, levels + 1, n) / levels
    knots = fit_calibration(score, rng.random(n) < rng.random(), least=5)
    out = apply_calibration(knots, np.sort(score))
    assert (np.diff(out) >= 0).all()
    assert ((out >= 0) & (out <= 1)).all()
    if knots:
        assert replace(random_card(), score_calibration={"building": knots}) is not None


def test_few_segments_leave_the_scores_alone() -> None:
    assert fit_calibration([0.5] * 20, [True] * 20) == ()
    assert apply_calibration((), [0.5]).tolist() == [0.5]
    assert np.isnan(apply_calibration(KNOTS, [np.nan])).all()


def test_a_segment_is_right_when_it_meets_one_truth_by_more_than_half() -> None:
    truth = np.zeros((10, 20), np.int32)
    pred = truth.copy()
    truth[0:4, 0:4], pred[0:4, 0:4] = 7, 30
    truth[5:9, 0:4], pred[5:9, 2:6] = 8, 40  # IoU 1/3
    pred[0:2, 10:12] = 5
    ids, hit = segment_hits(truth, pred)
    assert ids.tolist() == [5, 30, 40]
    assert hit.tolist() == [False, True, False]


def test_the_diagram_is_one_svg_with_a_dot_per_bin() -> None:
    found = Reliability.of([0.1, 0.5, 0.9], [False, True, True], bins=3)
    drawn = ET.fromstring(found.svg("buildings <all>"))
    assert len(drawn.findall("{http://www.w3.org/2000/svg}circle")) == 3
    assert found.to_json()["n"] == [1, 1, 1]
    assert "no segments" in Reliability.of([], []).svg("none")


def test_a_card_calibrates_the_classes_it_names() -> None:
    card = random_card(score_calibration={"building": KNOTS})
    scores = card.calibrated(np.array([1, 2, 1]), np.array([0.8, 0.8, np.nan], np.float32))
    assert scores[:2].tolist() == pytest.approx([0.3, 0.8])
    assert np.isnan(scores[2])
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card
    old = {k: v for k, v in card.to_json().items() if k != "score_calibration"}
    assert ModelCard.from_json(old).score_calibration == {}


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        ({"bilding": [[0, 0], [1, 1]]}, "no thing class"),
        ({"tree": [[0, 0], [1, 1]]}, "no thing class"),
        ({"building": [[0, 0.5], [1, 0.2]]}, "does not rise"),
        ({"building": [[0.5, 0.5], [0.5, 0.6]]}, "does not rise"),
        ({"building": [[0, 0], [1, 1.5]]}, "does not rise"),
        ({"building": [[0, 0, 1]]}, "score_calibration"),
        ({"building": 0.5}, "score_calibration"),
    ],
)
def test_a_calibration_that_cannot_be_is_refused(calibration: object, said: str) -> None:
    raw = random_card().to_json() | {"score_calibration": calibration}
    with pytest.raises(CheckpointError, match=said):
        ModelCard.from_json(raw)


def test_predict_calibrates_whole_segments_and_nothing_else(tmp_path: Path) -> None:
    scene = spell(make_truth("row houses", (120, 130), seed=3), tmp_path / "scene.tif")
    plain = predict(scene, PixelOracle(), tmp_path / "a.panoptic").segments
    model = PixelOracle(oracle_card(score_calibration={"building": KNOTS}))
    bent = predict(scene, model, tmp_path / "b.panoptic", tiling=Tiling(40, 8)).segments
    building = plain.class_id == 1
    assert building.any()
    expected = np.where(building, apply_calibration(KNOTS, plain.score), plain.score)
    rows = plain.assign(expected=expected).sort_values(["class_id", "area_px", "expected"])
    got = bent.sort_values(["class_id", "area_px", "score"])
    assert np.allclose(got.score, rows.expected, atol=1e-6, equal_nan=True)

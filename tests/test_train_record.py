"""What a training writes down: logs that go on, tuned thresholds, calibration."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from random_model import THRESHOLDS, random_card
from scipy import ndimage

from geopanoptic.dataset.planes import set_of
from geopanoptic.errors import ConfigError
from geopanoptic.metrics import QualityStats
from geopanoptic.models import ModelCard, Segmented
from geopanoptic.schema import LabelSchema
from geopanoptic.train.record import Record, colour_map, read_columns
from geopanoptic.train.tune import Sample, calibrated, tune
from geopanoptic.train.validate import ClassScore, Judgement, Truth

SCHEMA = LabelSchema.default()
NONE = ClassScore(
    QualityStats(*(np.zeros(3, np.int64) for _ in range(3)), np.zeros(3)),
    np.zeros(0),
    np.zeros(0, bool),
)


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path: Path) -> None:
    first = Record(tmp_path, 0, board=False)
    for step in (10, 20, 30):
        first.losses(step, {"semantic": 1 / step})
    first.scores(30, {"pq": 0.5})
    again = Record(tmp_path, 20, board=False)
    assert read_columns(tmp_path / "log.csv")["step"] == [10, 20]
    assert not (tmp_path / "validation.csv").exists()
    again.losses(30, {"semantic": 0.1})
    again.scores(30, {"pq": 0.4, "pq_road": 0.2})
    assert read_columns(tmp_path / "log.csv")["semantic"] == [0.1, 0.05, 0.1]
    assert read_columns(tmp_path / "validation.csv")["pq"] == [0.4]


def test_the_page_shows_curves_and_samples(tmp_path: Path) -> None:
    record = Record(tmp_path, 0, board=False)
    record.losses(10, {"semantic": 0.5})
    record.losses(20, {"semantic": float("nan")})
    semantic = np.array([[1, 1, 5], [255, 0, 5]], np.uint8)
    panel = colour_map(semantic, np.array([[1, 2, 0], [0, 0, 0]]), SCHEMA)
    assert panel[0, 2].tolist() == list(SCHEMA.by_id(5).rgb)
    record.picture(20, [panel, panel])
    record.scores(20, {"pq": 0.3})
    page = (tmp_path / "index.html").read_text()
    assert page.count("<svg") == 2
    assert "samples/0000020.png" in page


@pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is not None, reason="TensorBoard is installed"
)
def test_tensorboard_is_asked_for_by_name_when_it_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pip install tensorboard"):
        Record(tmp_path, 0, board=True)


def sample() -> Sample:
    """Return the fields of a network that is right, with probabilities of 0.62 on houses."""
    ids = np.zeros((60, 90), np.int32)
    for i in range(4):
        ids[10:30, 5 + i * 20 : 5 + i * 20 + 14] = i + 1
    ids[40:43, 40:43] = 5  # a speck that the labels do not know
    semantic = np.full((7, 60, 90), 0.02, np.float32)
    semantic[0] += 0.6 * (ids > 0)
    semantic[3] += 0.6 * (ids == 0)
    strength = np.minimum(ndimage.distance_transform_edt(ids > 0) / 8, 1).astype(np.float32)
    truth = np.where(ids == 5, 0, ids)
    sets = np.where(truth > 0, 1, 8).astype(np.uint8)[..., None]
    return Sample({"semantic": semantic, "strength": strength}, Truth(sets, truth))


def test_thresholds_are_moved_to_where_the_score_is_best() -> None:
    wrong = {**THRESHOLDS, "building_score": 0.9, "vehicle_score": 0.123}
    card, reached = tune(random_card(thresholds=wrong), [sample()], frozenset())
    assert reached["building"] == pytest.approx(1.0)
    assert card.thresholds["building_score"] < 0.62
    assert card.thresholds["building_area_px"] > 9
    assert card.thresholds["vehicle_score"] == 0.123, "nothing to choose it by"
    kept, _ = tune(random_card(thresholds=wrong), [sample()], frozenset(["building_score"]))
    assert kept.thresholds["building_score"] == 0.9


@dataclass(frozen=True)
class Masks:
    """Answers of a network of masks: a right building, and false things below some scores."""

    truth: Truth

    def decoded(self, card: ModelCard) -> Segmented:
        instance = np.zeros((40, 40), np.int32)
        instance[4:14, 4:14] = 1  # the building
        if card.thresholds["score"] < 0.5:
            instance[20:30, 4:14] = 2  # a vehicle that is none
        if card.thresholds["score"] < 0.35:
            instance[20:30, 20:30] = 3  # a building that is none
        class_of = np.array([0, 1, 2, 1], np.uint8)
        return Segmented(
            np.full((40, 40), 6, np.uint8), instance, class_of, np.zeros((40, 40), np.uint8)
        )


def test_rules_of_masks_are_chosen_by_the_classes_that_are_there() -> None:
    schema = LabelSchema.default()
    assert [schema.by_name(n).id for n in ("building", "vehicle", "bare")] == [1, 2, 6]
    ids = np.zeros((40, 40), np.int32)
    ids[4:14, 4:14] = 1
    sets = np.full((40, 40, 1), set_of(["bare"], schema), np.uint8)
    sets[ids > 0] = set_of(["building"], schema)
    card = replace(random_card(thresholds={"score": 0.2, "area_px": 4.0}), decoder="paste")
    found = [Masks(Truth(sets, ids))]
    tuned, reached = tune(card, found, frozenset())  # type: ignore[arg-type]
    assert reached == {"building": 1.0}
    assert tuned.thresholds["score"] == 0.4
    bare = Truth(np.full_like(sets, set_of(["bare"], schema)), np.zeros_like(ids))
    same, nothing = tune(card, [Masks(bare)], frozenset())  # type: ignore[list-item]
    assert nothing == {}
    assert same == card


def test_the_card_gets_a_calibration_and_its_honest_error() -> None:
    rng = np.random.default_rng(0)
    score = rng.uniform(0.6, 1.0, 800)
    hit = rng.random(800) < (score - 0.5)
    judged = dict.fromkeys(SCHEMA.names, NONE) | {"building": replace(NONE, score=score, hit=hit)}
    card = calibrated(random_card(), judged)
    assert set(card.score_calibration) == {"building"}
    value = {row["what"]: row["value"] for row in card.metrics}
    assert value["building calibration error of raw scores"] > 0.3
    assert value["building calibration error"] < 0.08


def test_a_judgement_of_nothing_has_no_score() -> None:
    assert Judgement({"building": NONE}).pq is None
    assert Judgement({"building": NONE}).row() == {"pq": -1.0}

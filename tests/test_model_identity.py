"""A model is its weights and its card, not the name of its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from random_model import random_card, write_random_model

from geopanoptic.predict import predict_array


def _classes(model: Path, pixels: np.ndarray) -> np.ndarray:
    return predict_array(pixels, str(model)).semantic.to_numpy()


def test_another_model_under_the_same_path_is_the_one_that_is_used(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (3, 96, 96), np.uint8)
    first, second, same = (tmp_path / f"{n}.safetensors" for n in ("first", "second", "same"))
    write_random_model(first, seed=1)
    write_random_model(second, seed=2)
    wanted = [_classes(m, pixels) for m in (first, second)]
    got = []
    for seed in (1, 2):
        write_random_model(same, seed=seed)
        got.append(_classes(same, pixels))
    assert not (wanted[0] == wanted[1]).all(), "the two models must differ for this to tell"
    assert all((a == b).all() for a, b in zip(got, wanted, strict=True))


def test_what_a_card_promises_is_in_its_fingerprint_and_what_it_only_says_is_not() -> None:
    card = random_card()
    stricter = {**card.thresholds, "building_score": 0.9}
    assert replace(card, thresholds=stricter).fingerprint != card.fingerprint
    assert replace(card, score_calibration={"building": ((0.0, 0.0), (1.0, 0.5))}).fingerprint != (
        card.fingerprint
    )
    assert replace(card, description="another sentence").fingerprint == card.fingerprint

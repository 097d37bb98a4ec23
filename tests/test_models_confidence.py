"""Scores of whole segments: the model's laws, its fit, and that neither tiles nor places show."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from random_model import THRESHOLDS, random_card
from scipy import ndimage

from geopanoptic import Tiling, predict
from geopanoptic.errors import CheckpointError
from geopanoptic.metrics import expected_calibration_error
from geopanoptic.models import Fields, ModelCard
from geopanoptic.models.confidence import fit_score_model, logit, modelled
from geopanoptic.models.decode import DecodesFields, SeededDecoder, decoder_of
from geopanoptic.models.pair import pair_card
from geopanoptic.models.segmenter import Segmented
from geopanoptic.schema import LabelSchema

SCHEMA = LabelSchema.default()
MODEL = {"bias": 0.4, "mean": 1.2, "outline": -0.7}
COEFFICIENTS = tuple(MODEL.values())
shares = st.floats(0, 1)


@given(st.tuples(st.floats(-5, 5), st.floats(0, 5), st.floats(-5, 5)), shares, shares, shares)
def test_scores_are_shares_and_monotone_in_each_mean(
    coefficients: tuple[float, float, float], low: float, high: float, other: float
) -> None:
    low, high = sorted((low, high))
    by_mean = modelled(coefficients, [low, high], other)
    assert ((by_mean >= 0) & (by_mean <= 1)).all()
    assert by_mean[0] <= by_mean[1]
    by_outline = modelled(coefficients, other, [low, high])
    assert (by_outline[1] - by_outline[0]) * coefficients[2] >= 0


def test_the_mean_alone_is_one_choice_of_coefficients() -> None:
    p = np.linspace(0.01, 0.99, 50)
    assert np.allclose(modelled((0.0, 1.0, 0.0), p, 0.3), p)
    assert np.allclose(modelled((0.0, 0.0, 1.0), 0.3, p), p)


def test_the_fit_finds_what_made_the_hits_and_mends_their_scores() -> None:
    rng = np.random.default_rng(4)
    mean, outline = rng.beta(8, 2, 8000), rng.beta(4, 3, 8000)
    hit = rng.random(8000) < modelled(COEFFICIENTS, mean, outline)
    found = fit_score_model(mean[:4000], outline[:4000], hit[:4000])
    assert found == pytest.approx(MODEL, abs=0.2)
    score = modelled(tuple(found.values()), mean[4000:], outline[4000:])
    assert (expected_calibration_error(score, hit[4000:]) or 1) < 0.03


def test_a_mean_that_speaks_against_hits_is_not_believed() -> None:
    rng = np.random.default_rng(5)
    mean, outline = rng.random(500), rng.random(500)
    found = fit_score_model(mean, outline, rng.random(500) < 1 - mean)
    assert found["mean"] == 0
    assert random_card(score_model={"building": found}).score_model["building"] == found


def test_a_fit_needs_hits_and_misses_and_takes_one_value_of_a_mean() -> None:
    with pytest.raises(ValueError, match="all or none"):
        fit_score_model([0.5, 0.6], [0.5, 0.6], [True, True])
    found = fit_score_model(np.full(40, 0.9), np.full(40, 0.5), np.arange(40) % 4 == 0)
    assert modelled(tuple(found.values()), 0.9, 0.5) == pytest.approx(0.25, abs=1e-4)


def random_fields(seed: int, shape: tuple[int, int]) -> Fields:
    rng = np.random.default_rng(seed)
    semantic = rng.dirichlet(np.full(len(SCHEMA), 0.15), shape)
    smooth = ndimage.uniform_filter(semantic, (5, 5, 1)).transpose(2, 0, 1).astype(np.float32)
    smooth[0] = np.clip(3 * smooth[0], 0, 1)
    strength = ndimage.uniform_filter(rng.random(shape), 3).astype(np.float32)
    return {"semantic": np.ascontiguousarray(smooth), "strength": strength}


def decoded(fields: Fields, model: Mapping[str, Mapping[str, float]]) -> Segmented:
    decoder = SeededDecoder.from_thresholds(SCHEMA, THRESHOLDS, model)
    return decoder.decode(fields, np.ones(fields["strength"].shape, bool))


@given(st.integers(0, 10**6))
def test_a_decoded_segment_scores_what_its_pixels_and_outline_say(seed: int) -> None:
    fields = random_fields(seed, (40, 50))
    plain, scored = decoded(fields, {}), decoded(fields, {"building": MODEL})
    assert np.array_equal(plain.instance, scored.instance)
    assert np.array_equal(plain.class_of, scored.class_of)
    other = plain.class_of[plain.instance] != 1
    assert np.array_equal(plain.score[other], scored.score[other])
    around = np.pad(plain.instance, 1, mode="edge")  # beyond the window nothing is known
    beside = [around[1 + r : 41 + r, 1 + c : 51 + c] for r, c in ((-1, 0), (0, -1), (0, 1), (1, 0))]
    for i in np.flatnonzero(plain.class_of == 1).tolist():
        mine = plain.instance == i
        line = mine & np.any([b != i for b in beside], axis=0)
        means = [plain.score[where].mean() / 200 for where in (mine, line if line.any() else mine)]
        expected = modelled(COEFFICIENTS, *means) * 200
        assert np.unique(scored.score[mine]).size == 1
        assert abs(int(scored.score[mine][0]) - expected) <= 0.51


@given(st.integers(0, 10**6), st.integers(0, 9), st.integers(0, 9))
def test_where_in_the_window_a_segment_lies_does_not_matter(
    seed: int, down: int, right: int
) -> None:
    small = random_fields(seed, (24, 24))
    small["semantic"][0, [0, -1], :] = small["semantic"][0, :, [0, -1]] = 0.0
    small["semantic"][1, [0, -1], :] = small["semantic"][1, :, [0, -1]] = 0.0
    pads = ((down, 9 - down), (right, 9 - right))
    wide = {"semantic": np.pad(small["semantic"], ((0, 0), *pads)),
            "strength": np.pad(small["strength"], pads)}  # fmt: skip
    here, there = decoded(small, {"building": MODEL}), decoded(wide, {"building": MODEL})
    cut = (slice(down, down + 24), slice(right, right + 24))
    things = here.instance > 0
    assert np.array_equal(here.score[things], there.score[cut][things])


class PixelFields(DecodesFields):
    """Reads its fields off the pixels: band 1 is the probability of a building, 2 the strength."""

    def __init__(self, card: ModelCard) -> None:
        self.card = card
        self.decoder = decoder_of(card)

    def forward(self, chips: npt.NDArray[Any]) -> Fields:
        share = chips[:, 0].astype(np.float32) / 255
        semantic = np.zeros((len(chips), len(SCHEMA), *share.shape[1:]), np.float32)
        semantic[:, 0], semantic[:, 3] = share, 1 - share
        return {"semantic": semantic, "strength": chips[:, 1].astype(np.float32) / 255}


def town(path: Path) -> Path:
    """Write blurred houses of 9 x 13 px whose sureness differs, some of them in rows."""
    rng = np.random.default_rng(3)
    bands = np.zeros((3, 150, 170))
    for r, c in np.ndindex(9, 9):
        corner = (slice(6 + 15 * r, 15 + 15 * r), slice(6 + 16 * c, 19 + 16 * c + 3 * (r % 2)))
        bands[0][corner] = rng.integers(150, 256)
        bands[1][corner] = rng.integers(120, 256)
        bands[1][:, 6 + 16 * c + 15 : 6 + 16 * c + 17] *= 0.3
    bands[:2] = ndimage.uniform_filter(bands[:2], (0, 3, 3))
    profile = {"driver": "GTiff", "count": 3, "height": 150, "width": 170, "dtype": "uint8",
               "crs": "EPSG:32632", "transform": Affine(0.3, 0, 5e5, 0, -0.3, 5e6)}  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(bands.round().astype(np.uint8))
    return path


def test_tiles_do_not_show_in_scores_of_things_that_one_tile_sees_whole(tmp_path: Path) -> None:
    scene = town(tmp_path / "town.tif")
    model = PixelFields(random_card(score_model={"building": MODEL}))
    tables = [
        predict(scene, model, tmp_path / f"{core}.panoptic", tiling=Tiling(core, halo)).segments
        for core, halo in ((1024, 64), (64, 24), (48, 20))
    ]
    rows = [
        t[t.class_id == 1].sort_values(["area_px", "score"])[["area_px", "score"]] for t in tables
    ]
    assert len(rows[0]) > 60
    assert rows[0].score.nunique() > 20
    for more in rows[1:]:
        assert np.allclose(rows[0].to_numpy(), more.to_numpy(), atol=1e-6)
    plain = predict(scene, PixelFields(random_card()), tmp_path / "p.panoptic").segments
    mean = plain[plain.class_id == 1].sort_values("area_px")
    assert not np.allclose(np.sort(mean.score), np.sort(rows[0].score), atol=0.02)


def test_a_card_keeps_its_score_model_and_old_cards_have_none() -> None:
    card = random_card(score_model={"building": MODEL})
    assert ModelCard.from_json(json.loads(json.dumps(card.to_json()))) == card
    old = {k: v for k, v in random_card().to_json().items() if k != "score_model"}
    assert ModelCard.from_json(old) == random_card()
    assert card.fingerprint != random_card().fingerprint
    assert np.isnan(decoder_of(random_card()).rows.score_model).all()  # type: ignore[attr-defined]
    assert logit([0.0, 1.0]).tolist() == pytest.approx([-4.595, 4.595], abs=1e-3)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"tree": MODEL}, "no thing class"),
        ({"bilding": MODEL}, "no thing class"),
        ({"building": {**MODEL, "mean": -1.0}}, "mean .0 or more"),
        ({"building": {"bias": 0.0, "mean": 1.0}}, "is not bias, mean"),
        ({"building": {**MODEL, "area": 1.0}}, "is not bias, mean"),
        ({"building": {**MODEL, "bias": "high"}}, "score_model"),
        ({"building": [0.0, 1.0, 0.0]}, "score_model"),
    ],
)
def test_a_score_model_that_cannot_be_is_refused(model: object, said: str) -> None:
    raw = random_card().to_json() | {"score_model": model}
    with pytest.raises(CheckpointError, match=said):
        ModelCard.from_json(raw)


def test_a_score_model_of_a_decoder_without_one_is_refused() -> None:
    with pytest.raises(CheckpointError, match="'paste' has no use for it"):
        replace(random_card(), decoder="paste", score_model={"building": MODEL})


def test_a_pair_scores_as_its_model_of_things_does() -> None:
    schema = random_card().schema
    stuff = random_card(schema=LabelSchema(schema.stuff), thresholds={})
    things = random_card(score_model={"building": MODEL})
    paired = pair_card(stuff, replace(things, schema=LabelSchema(schema.things)))
    assert paired.score_model == things.score_model
    assert paired.decoder == "pair"
    assert ModelCard.from_json(json.loads(json.dumps(paired.to_json()))) == paired

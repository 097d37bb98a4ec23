"""Fusion of scored masks: the rule of the field on masks drawn by hand, and laws on random ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geopanoptic.errors import CheckpointError
from geopanoptic.models.fusion import FusionRules, MaskSet, by_queries, decode_rasters, paste
from geopanoptic.schema import VOID, ClassSpec, LabelSchema

HOUSE, GRASS, ROAD = 1, 2, 3
SCHEMA = LabelSchema(
    (
        ClassSpec(HOUSE, "house", "thing", "#ff0000"),
        ClassSpec(GRASS, "grass", "stuff", "#00ff00"),
        ClassSpec(ROAD, "road", "stuff", "#888888"),
    )
)
SHAPE = (20, 30)
RULES = FusionRules()


def box(rows: slice, cols: slice, value: float = 1.0) -> np.ndarray:
    out = np.zeros(SHAPE, np.float32)
    out[rows, cols] = value
    return out


def masks(*rows: tuple[int, float, np.ndarray]) -> MaskSet:
    return MaskSet(
        np.array([r[0] for r in rows], np.uint8),
        np.array([r[1] for r in rows], np.float32),
        lambda i: rows[i][2],
    )


def everywhere(value: float = 0.9) -> np.ndarray:
    return np.full(SHAPE, value, np.float32)


def test_of_two_overlapping_masks_the_higher_score_keeps_its_pixels() -> None:
    low, high = box(slice(2, 12), slice(2, 12)), box(slice(8, 18), slice(8, 18))
    found = paste(masks((HOUSE, 0.7, low), (HOUSE, 0.9, high)), {GRASS: everywhere()}, SHAPE, RULES)
    assert (found["instance"][high > 0] == 1).all()
    assert (found["instance"][(low > 0) & (high == 0)] == 2).all()
    assert (found["stuff"] == GRASS).all()
    assert set(np.unique(found["claim"])) == {0, 140, 180}


def test_a_mask_that_is_mostly_hidden_is_dropped() -> None:
    big, hidden = box(slice(0, 12), slice(0, 12)), box(slice(4, 12), slice(6, 14))
    found = paste(masks((HOUSE, 0.9, big), (HOUSE, 0.8, hidden)), {}, SHAPE, RULES)
    assert set(np.unique(found["instance"])) == {0, 1}


def test_masks_below_the_score_claim_nothing() -> None:
    found = paste(masks((HOUSE, 0.4, everywhere())), {ROAD: everywhere()}, SHAPE, RULES)
    assert not found["instance"].any()


def test_stuff_of_little_confidence_is_void() -> None:
    found = paste(masks(), {GRASS: box(slice(0, 9), slice(0, 9))}, SHAPE, FusionRules(stuff=0.3))
    assert (found["stuff"][:9, :9] == GRASS).all()
    assert (found["stuff"][9:] == VOID).all()


def test_queries_share_pixels_by_score_times_probability() -> None:
    house = box(slice(2, 10), slice(2, 10), 0.95)
    found = by_queries(
        masks((GRASS, 0.9, everywhere(0.6)), (HOUSE, 0.9, house), (ROAD, 0.2, everywhere(0.9))),
        SCHEMA, SHAPE, RULES,
    )  # fmt: skip
    assert ((found["instance"] == 1) == (house > 0)).all()
    assert (found["stuff"] == GRASS).all(), "stuff lies beneath things too"


def test_a_query_that_keeps_little_of_its_mask_is_no_thing() -> None:
    strong, weak = box(slice(0, 10), slice(0, 30), 0.9), box(slice(0, 12), slice(0, 30), 0.6)
    found = by_queries(masks((HOUSE, 0.9, strong), (HOUSE, 0.6, weak)), SCHEMA, SHAPE, RULES)
    assert ((found["instance"] == 1) == (strong > 0)).all()


random_sets = st.integers(0, 2**31).map(np.random.default_rng)


def drawn(dice: np.random.Generator) -> MaskSet:
    n = int(dice.integers(0, 7))
    probs = dice.random((n, *SHAPE), np.float32)
    return MaskSet(
        dice.choice([HOUSE, GRASS, ROAD], n).astype(np.uint8),
        dice.permutation(np.linspace(0.3, 0.97, n, dtype=np.float32)),
        lambda i: probs[i],
    )


@given(random_sets)
def test_the_order_of_queries_does_not_matter(dice: np.random.Generator) -> None:
    given_set = drawn(dice)
    order = dice.permutation(len(given_set.score))
    turned = MaskSet(
        given_set.class_id[order], given_set.score[order], lambda i: given_set.prob(int(order[i]))
    )
    one, other = (by_queries(s, SCHEMA, SHAPE, RULES) for s in (given_set, turned))
    for name in ("stuff", "stuff_score", "thing", "claim"):
        assert np.array_equal(one[name], other[name])
    pairs = {tuple(p) for p in np.stack([one["instance"], other["instance"]], -1).reshape(-1, 2)}
    assert len(pairs) == len(np.unique(one["instance"])) == len(np.unique(other["instance"]))


@given(random_sets)
def test_decoded_rasters_are_a_panoptic_tile(dice: np.random.Generator) -> None:
    found = by_queries(drawn(dice), SCHEMA, SHAPE, FusionRules(mask=0.3, visible=0.1, area_px=3))
    valid = dice.random(SHAPE) < 0.9
    tile = decode_rasters(found, valid, FusionRules(area_px=3))
    assert ((tile.stuff == 0) == ~valid).all()
    ids = np.unique(tile.instance)
    assert np.array_equal(ids[ids > 0], np.arange(1, len(tile.class_of)))
    assert (tile.class_of[1:] == HOUSE).all()
    assert (tile.score[~valid] == 255).all()
    assert not tile.instance[~valid].any()
    for i in range(1, len(tile.class_of)):
        own = tile.instance == i
        rim = own[0].any() or own[-1].any() or own[:, 0].any() or own[:, -1].any()
        assert rim or own.sum() >= 3


def test_an_unknown_threshold_is_refused_with_the_nearest() -> None:
    with pytest.raises(CheckpointError, match=r"'visable'.*did you mean 'visible'"):
        FusionRules.from_thresholds({"visable": 0.5})

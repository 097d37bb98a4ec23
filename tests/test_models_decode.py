"""The decoder: true fields in, the true instances out; and the laws it keeps on any fields."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_model import THRESHOLDS
from scipy import ndimage

from geopanoptic.errors import CheckpointError, SceneError
from geopanoptic.models.decode import SeededDecoder
from geopanoptic.models.segmenter import Segmented
from geopanoptic.schema import LabelSchema

SCHEMA = LabelSchema.default()
DECODER = SeededDecoder.from_thresholds(SCHEMA, THRESHOLDS)
Ints = npt.NDArray[np.int32]


def true_fields(
    instance: Ints, class_of: Ints, stuff: Ints
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the semantic and strength fields a perfect network would give for a truth."""
    shown = np.where(instance > 0, class_of[instance], stuff)
    semantic = np.full((len(SCHEMA), *instance.shape), 0.01, np.float32)
    for k, class_id in enumerate(SCHEMA.ids):
        semantic[k] += 0.9 * (shown == class_id) + 0.03 * (stuff == class_id)
    distance = np.zeros(instance.shape, np.float32)
    for i in range(1, int(instance.max()) + 1):
        inside = ndimage.distance_transform_edt(np.pad(instance == i, 1))[1:-1, 1:-1]
        distance = np.maximum(distance, inside / 8)
    return semantic, distance.clip(0, 1).astype(np.float32)


def decoded(instance: Ints, class_of: Ints, stuff: Ints) -> Segmented:
    semantic, strength = true_fields(instance, class_of, stuff)
    return DECODER(semantic, strength, np.ones(instance.shape, bool))


def same_partition(a: Ints, b: Ints) -> bool:
    """Tell whether two instance rasters are equal up to the names of the ids."""
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return (
        len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(pairs[1]))
        and ((a > 0) == (b > 0)).all()
    )


def row_houses(width: int, n: int, depth: int = 18) -> Ints:
    """Return n abutting houses in a row, `width` pixels each, with a gap below to a shed."""
    truth = np.zeros((depth + 30, width * n + 12), np.int32)
    for i in range(n):
        truth[6 : 6 + depth, 6 + i * width : 6 + (i + 1) * width] = i + 1
    truth[depth + 12 : depth + 22, 10:24] = n + 1
    return truth


@pytest.mark.parametrize("width", [8, 12, 20])
def test_touching_row_houses_come_out_one_by_one(width: int) -> None:
    truth = row_houses(width, 6)
    stuff = np.full(truth.shape, 4, np.int32)
    class_of = np.array([0, *[1] * 7], np.int32)
    out = decoded(truth, class_of, stuff)
    assert out.instance.max() == 7
    assert (out.class_of == class_of).all()
    found = [np.bincount(out.instance[truth == i]).argmax() for i in range(1, 8)]
    assert len(set(found)) == 7
    for i, mine in enumerate(found, start=1):
        a, b = truth == i, out.instance == mine
        assert (a & b).sum() / (a | b).sum() > 0.9


def test_things_apart_come_out_exactly() -> None:
    truth = np.zeros((90, 120), np.int32)
    truth[5:30, 5:40] = 1
    truth[20:30, 15:40] = 0  # an L
    truth[40:80, 10:16] = 2  # narrow: below the first seed level
    truth[40:43, 60:67] = 3  # a car
    truth[44:47, 60:67] = 4  # another, a pixel away
    truth[60:85, 70:110] = 5
    truth[66:80, 80:100] = 0  # with a court
    class_of = np.array([0, 1, 1, 2, 2, 1], np.int32)
    stuff = np.full(truth.shape, 5, np.int32)
    stuff[:, 60:] = 6
    out = decoded(truth, class_of, stuff)
    assert same_partition(out.instance, truth)
    assert (out.class_of[out.instance] == class_of[truth]).all()
    assert (out.stuff == stuff).all(), "stuff is there beneath the things too"


def test_a_building_and_a_vehicle_that_touch_are_two() -> None:
    truth = np.zeros((40, 60), np.int32)
    truth[5:35, 5:30] = 1
    truth[15:19, 30:38] = 2
    class_of = np.array([0, 1, 2], np.int32)
    out = decoded(truth, class_of, np.full(truth.shape, 5, np.int32))
    assert same_partition(out.instance, truth)
    assert (out.class_of[out.instance] == class_of[truth]).all()


def test_a_big_flat_roof_is_one_thing() -> None:
    truth = np.zeros((200, 260), np.int32)
    truth[10:190, 10:250] = 1
    out = decoded(truth, np.array([0, 1], np.int32), np.full(truth.shape, 5, np.int32))
    assert same_partition(out.instance, truth)


def test_specks_and_doubtful_segments_return_to_stuff() -> None:
    semantic = np.full((len(SCHEMA), 40, 40), 0.01, np.float32)
    semantic[3] = 0.5
    semantic[0, 5, 5:8] = 0.9  # three pixels: a speck
    semantic[0, 20:30, 20:30] = 0.9
    semantic[0, 0, 30:33] = 0.9  # as small, but cut by the rim: the next tile may see the rest
    out = DECODER(semantic, np.full((40, 40), 0.9, np.float32), np.ones((40, 40), bool))
    assert out.instance.max() == 2
    assert (out.instance[5, 5:8] == 0).all()
    assert (out.stuff == 4).all()
    strict = SeededDecoder.from_thresholds(SCHEMA, {**THRESHOLDS, "building_score": 0.95})
    assert strict(semantic, semantic[0], np.ones((40, 40), bool)).instance.max() == 0


def test_scores_are_the_probability_of_what_is_shown() -> None:
    semantic = np.full((len(SCHEMA), 20, 20), 0.0, np.float32)
    semantic[3] = 0.4
    semantic[0, 5:15, 5:15] = 0.6
    out = DECODER(semantic, np.ones((20, 20), np.float32), np.ones((20, 20), bool))
    assert (out.score[out.instance > 0] == 120).all()
    assert (out.score[out.instance == 0] == 80).all()


def test_pixels_without_measurement_are_nodata_and_no_thing_bridges_them() -> None:
    semantic = np.full((len(SCHEMA), 30, 50), 0.01, np.float32)
    semantic[0] = 0.9
    valid = np.ones((30, 50), bool)
    valid[:, 20:23] = False
    out = DECODER(semantic, np.ones((30, 50), np.float32), valid)
    assert out.instance.max() == 2
    assert (out.instance[~valid] == 0).all()
    assert (out.stuff[~valid] == 0).all()
    assert (out.score[~valid] == 255).all()


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_an_answer_that_is_not_finite_is_an_error_with_its_number(poison: float) -> None:
    semantic = np.full((len(SCHEMA), 10, 10), 0.1, np.float32)
    semantic[:, 3, 4] = poison
    valid = np.ones((10, 10), bool)
    with pytest.raises(SceneError, match="on 1 of 100 pixels"):
        DECODER(semantic, np.ones((10, 10), np.float32), valid)
    valid[3, 4] = False  # nobody asked for that pixel
    DECODER(semantic, np.ones((10, 10), np.float32), valid)


def test_thresholds_are_checked_by_name() -> None:
    with pytest.raises(CheckpointError, match="lacks the threshold vehicle_region"):
        SeededDecoder.from_thresholds(
            SCHEMA, {k: v for k, v in THRESHOLDS.items() if k != "vehicle_region"}
        )
    with pytest.raises(CheckpointError, match="did you mean 'building_score'"):
        SeededDecoder.from_thresholds(SCHEMA, {**THRESHOLDS, "building_scor": 1.0})


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 40))
def test_laws_on_random_fields(seed: int, rows: int, cols: int) -> None:
    rng = np.random.default_rng(seed)
    semantic = rng.dirichlet(np.full(len(SCHEMA), 0.2), (rows, cols)).astype(np.float32)
    semantic = ndimage.uniform_filter(semantic, (3, 3, 1)).transpose(2, 0, 1)
    strength = rng.random((rows, cols), np.float32)
    valid = rng.random((rows, cols)) > 0.1
    out = DECODER(np.ascontiguousarray(semantic), strength, valid)
    assert ((out.stuff == 0) == ~valid).all()
    assert set(np.unique(out.instance)) - {0} == set(range(1, len(out.class_of)))
    assert all(SCHEMA.is_thing(int(c)) for c in out.class_of[1:])
    for i in range(1, len(out.class_of)):
        assert ndimage.label(out.instance == i)[1] == 1, "an instance is one piece"
    # a view with strides decodes as its copy does: tiles are cropped without copying
    wide = np.zeros((len(SCHEMA), rows + 4, cols + 4), np.float32)
    wide[:, 2:-2, 2:-2] = semantic
    again = DECODER(wide[:, 2:-2, 2:-2], strength, valid)
    assert all(np.array_equal(a, b) for a, b in zip(out, again, strict=True))

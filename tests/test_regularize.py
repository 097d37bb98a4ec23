"""Laws of regular outlines: valid, disjoint, close to the pixels, the same wherever they lie."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import rasterio.features
import shapely
import shapely.affinity
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from geopanoptic.errors import ConfigError
from geopanoptic.polygons import PolygonBatch, RegularizeRules, regularize, trace
from geopanoptic.polygons.regularize_conflicts import corners, iou
from geopanoptic.polygons.regularize_groups import shared_walls

PLAIN, REGULAR = 0, 2
Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Geometries = npt.NDArray[np.object_]
NORTH_UP = np.array([[0.0, 1.0], [-1.0, 0.0]])


def batch_of(labels: Ints) -> PolygonBatch:
    batches = trace(lambda w: labels[w.slices], labels.shape, 64, group="id")  # type: ignore[arg-type]
    batch = PolygonBatch.concatenate(batches)
    return batch.take(np.argsort(batch.labels))


def regular(
    labels: Ints, frame: Floats = NORTH_UP, rules: RegularizeRules | None = None
) -> tuple[PolygonBatch, Geometries, npt.NDArray[np.int64]]:
    batch = batch_of(labels)
    frames = np.tile(frame, (len(batch), 1, 1))
    return batch, *regularize(batch, np.ones(len(batch), bool), frames, rules)


def plain(batch: PolygonBatch) -> Geometries:
    return batch.with_coords(batch.coords[:, ::-1].astype(float))


def burnt(shapes: list[shapely.Geometry], size: int) -> Ints:
    labels = rasterio.features.rasterize(
        zip(shapes, range(1, len(shapes) + 1), strict=True), (size, size), dtype="int32"
    )
    return np.asarray(labels, np.int32)


def ragged(labels: Ints, strength_px: float, seed: int = 0) -> Ints:
    """Bend a map of labels as if seen through moving water: neighbours still touch."""
    rng = np.random.default_rng(seed)
    row, col = np.indices(labels.shape).astype(float)
    for at in (row, col):
        wave = ndimage.gaussian_filter(rng.normal(size=labels.shape), 1.5)
        at += wave * strength_px / wave.std()
    last = np.array(labels.shape) - 1
    return labels[
        np.clip(np.rint(row), 0, last[0]).astype(int), np.clip(np.rint(col), 0, last[1]).astype(int)
    ]


def angles(geometry: shapely.Geometry) -> Floats:
    """Return how far every corner is from a right angle, degrees."""
    found = []
    for part in shapely.get_parts(geometry):
        for ring in [part.exterior, *part.interiors]:
            step = np.diff(shapely.get_coordinates(ring), axis=0)
            turn = np.degrees(np.arctan2(step[:, 1], step[:, 0]))
            found.append(np.abs((np.diff(turn, append=turn[0]) + 45) % 90 - 45))
    return np.concatenate(found)


@st.composite
def towns(draw: st.DrawFn) -> Ints:
    """Rectangles and Ls at all angles, touching or overlapping, with ragged edges."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = []
    for _ in range(draw(st.integers(1, 9))):
        w, h = rng.uniform(4, 22, 2)
        box = shapely.box(0, 0, w, h)
        if rng.random() < 0.4:
            box = shapely.difference(box, shapely.box(0, 0, w * 0.4, h * 0.5))
        turned = shapely.affinity.rotate(box, rng.choice([0, 30, rng.uniform(0, 90)]))
        shapes.append(shapely.affinity.translate(turned, *rng.uniform(2, 42, 2)))
    return ragged(burnt(shapes, 64), draw(st.sampled_from([0.01, 0.5, 1.2])))


@given(towns(), st.sampled_from([0.5, 0.75, 0.9]))
def test_outlines_are_valid_apart_and_close_to_their_pixels(labels: Ints, least: float) -> None:
    batch, found, level = regular(labels, rules=RegularizeRules(least_iou=least))
    assert len(found) == len(batch) == len(np.unique(labels[labels > 0]))
    assert shapely.is_valid(found).all()
    assert (shapely.area(found) > 0).all()
    fit = iou(found, plain(batch))
    assert (fit >= least - 1e-9).all()
    assert (fit[level == PLAIN] > 1 - 1e-9).all()
    a, b = shapely.STRtree(found).query(found, predicate="intersects")
    shared = shapely.area(shapely.intersection(found[a[a < b]], found[b[a < b]]))
    assert shared.max(initial=0) <= 1e-6


@given(towns(), st.integers(0, 40), st.integers(0, 40))
def test_moved_by_whole_pixels_outlines_move_along(labels: Ints, down: int, right: int) -> None:
    _, here, level = regular(labels)
    moved = np.pad(labels, ((down, 0), (right, 0)))
    _, there, level_there = regular(moved)
    assert level.tolist() == level_there.tolist()
    for a, b in zip(here, there, strict=True):
        shifted = shapely.affinity.translate(a, right, down)
        assert shapely.area(shapely.symmetric_difference(shifted, b)) < 1e-6 * b.area


@pytest.mark.parametrize("turn", [7, 20, 45, 71, 90])
def test_turned_buildings_give_turned_outlines(turn: float) -> None:
    house = shapely.box(-15, -9, 15, 9).difference(shapely.box(3, -9, 15, 0))
    upright = shapely.affinity.translate(house, 40, 40)
    turned = shapely.affinity.rotate(upright, turn, origin=(40, 40))
    for shape in (upright, turned):
        _, (found,), level = regular(burnt([shape], 80))
        assert level.tolist() == [REGULAR]
        assert corners(np.array([found]))[0] == 6
        assert angles(found).max() < 1e-6
        assert iou(np.array([found]), np.array([shape]))[0] > 0.95


def test_rectangles_along_the_pixels_stay_as_they_are() -> None:
    labels = np.zeros((60, 60), np.int32)
    labels[5:20, 7:30] = 1
    labels[5:20, 30:41] = 2  # wall to wall
    labels[30:50, 10:40] = 3
    labels[36:43, 20:29] = 0  # a courtyard
    batch, found, level = regular(labels)
    assert level.tolist() == [REGULAR] * 3
    assert shapely.equals(found, plain(batch)).all()
    assert [len(shapely.get_parts(g)[0].interiors) for g in found] == [0, 0, 1]


@given(st.integers(2, 7), st.floats(0, 90), st.integers(0, 2**32 - 1))
def test_row_houses_keep_their_shared_walls(n: int, turn: float, seed: int) -> None:
    row = [shapely.box(14 * k, 0, 14 * (k + 1), 22) for k in range(n)]
    size = 14 * n + 60
    middle = (7 * n, 11)
    shapes = [
        shapely.affinity.translate(
            shapely.affinity.rotate(g, turn, origin=middle), size / 2 - 7 * n, size / 2 - 11
        )
        for g in row
    ]
    batch, found, level = regular(ragged(burnt(shapes, size), 0.6, seed))
    assert shared_walls(batch)[0].tolist() == list(range(n - 1))
    assert len(set(level.tolist())) == 1, "the row is treated as one"
    for a, b in pairwise(found):
        wall = shapely.intersection(a, b)
        assert wall.area < 1e-9
        assert wall.length > 15
    assert shapely.union_all(found).geom_type == "Polygon"


def test_right_angles_are_right_on_the_ground_where_pixels_are_oblong() -> None:
    frame = np.array([[0.0, 0.5], [-1.0, 0.0]])  # a column is half as wide as a row is high
    house = shapely.affinity.rotate(shapely.box(10, 10, 34, 26), 33)
    _, (found,), level = regular(
        burnt([shapely.affinity.scale(house, 2, 1, origin=(0, 0))], 90), frame
    )
    assert level.tolist() == [REGULAR]
    on_ground = shapely.affinity.scale(found, 0.5, 1, origin=(0, 0))
    assert angles(on_ground).max() < 1e-6
    assert iou(np.array([on_ground]), np.array([house]))[0] > 0.9


def test_a_round_building_is_not_forced_into_a_box() -> None:
    row, col = np.indices((60, 60))
    disc = ((row - 30) ** 2 + (col - 30) ** 2 < 400).astype(np.int32)
    batch, found, level = regular(disc, rules=RegularizeRules(least_iou=0.93))
    assert level[0] > PLAIN
    assert iou(found, plain(batch))[0] >= 0.93
    batch, found, level = regular(disc, rules=RegularizeRules(least_iou=0.999))
    assert level.tolist() == [PLAIN]
    assert shapely.equals(found, plain(batch)).all()


def test_what_was_not_chosen_keeps_its_outline_and_its_ground() -> None:
    labels = ragged(burnt([shapely.box(10, 10, 40, 34), shapely.box(40, 14, 52, 20)], 64), 0.8)
    batch = batch_of(labels)
    frames = np.tile(NORTH_UP, (2, 1, 1))
    found, level = regularize(batch, np.array([True, False]), frames)
    assert level[1] == PLAIN
    assert shapely.equals(found[1], plain(batch)[1])
    assert shapely.intersection(*found).area <= 1e-6


def test_regular_outlines_are_nearer_to_the_truth_than_ragged_ones() -> None:
    rng = np.random.default_rng(1)
    truth = []
    for k in range(64):
        w, h = rng.uniform(14, 26, 2)
        box = shapely.box(-w / 2, -h / 2, w / 2, h / 2)
        if k % 3 == 0:
            box = box.difference(shapely.box(0, 0, w / 2, h / 2))
        box = shapely.affinity.rotate(box, rng.uniform(0, 90), origin=(0, 0))
        truth.append(shapely.affinity.translate(box, 24 + 48 * (k % 8), 24 + 48 * (k // 8)))
    batch, found, _ = regular(ragged(burnt(truth, 384), 1.0))
    before, after = (iou(g, np.array(truth)).mean() for g in (plain(batch), found))
    assert after > before + 0.02
    assert corners(found).mean() < 1.2 * corners(np.array(truth)).mean()


def test_no_features_and_wrong_rules_are_told_apart() -> None:
    batch, found, level = regular(np.zeros((5, 5), np.int32))
    assert (len(batch), len(found), len(level)) == (0, 0, 0)
    with pytest.raises(ConfigError, match=r"0\.0"):
        RegularizeRules(least_iou=0.0)


def test_batches_laid_end_to_end_are_one() -> None:
    labels = np.kron(np.arange(1, 17).reshape(4, 4), np.ones((9, 9))).astype(np.int32)
    parts = list(trace(lambda w: labels[w.slices], labels.shape, 10, group="id"))  # type: ignore[arg-type]
    whole = PolygonBatch.concatenate(parts)
    to_map = Affine.identity()
    want = [w for b in parts for w in shapely.to_wkb(b.to_geometry(to_map))]
    assert list(shapely.to_wkb(whole.to_geometry(to_map))) == want
    assert whole.area_px.tolist() == [81] * 16

"""Laws of the stitcher that hold for any prediction, also a bad one."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Noise, NoisySegmenter, OracleSegmenter
from scenes import Truth, make_truth
from stitching import Stitched, same_partition, stitch, stitch_tiles
from strategies import orders, tilings, truths

from geopanoptic.grid import TileGrid, Window
from geopanoptic.segments import PanopticTile
from geopanoptic.stitch import NodeTable, SeamTable, label_tile, measure_core, resolve

BAD = Noise(miss=0.05, split=0.1, merge=0.1, dropout=0.3, class_flip=0.1, least_px=1)


def badly(truth: Truth, seed: int = 0) -> NoisySegmenter:
    return NoisySegmenter(truth, BAD, seed)


@given(truths(), tilings(), orders())
def test_shuffled_completion_gives_the_same_bytes(truth: Truth, tiling, order) -> None:
    grid = TileGrid(truth.shape, *tiling)
    predict = badly(truth).predict
    one, two = stitch(predict, grid), stitch(predict, grid, order(len(grid)))
    assert one.gid.tobytes() == two.gid.tobytes()
    assert one.ids.tobytes() == two.ids.tobytes()
    assert pickle.dumps(one.resolution) == pickle.dumps(two.resolution)


@given(truths(), tilings(), st.integers(0, 99))
def test_the_order_of_rows_does_not_matter(truth: Truth, tiling, seed: int) -> None:
    grid = TileGrid(truth.shape, *tiling)
    done = stitch(badly(truth).predict, grid)
    rng = np.random.default_rng(seed)
    nodes = done.nodes.take(rng.permutation(len(done.nodes)))
    seams = done.seams.take(rng.permutation(len(done.seams)))
    again = resolve(nodes, seams, grid)
    assert pickle.dumps(again) == pickle.dumps(done.resolution)


@given(truths(), tilings(least_halo=0))
def test_ids_are_compact_and_pixels_are_not_invented(truth: Truth, tiling) -> None:
    grid = TileGrid(truth.shape, *tiling)
    done = stitch(badly(truth).predict, grid)
    assert np.array_equal(np.unique(done.ids[done.ids > 0]), np.arange(1, done.ids.max() + 1))
    assert done.gid.max() <= len(done.resolution.segments)
    said = np.zeros(truth.shape, bool)
    for k, product in done.tiles.items():
        window = grid.tile(k).window.slices
        gid, _ = done.resolution.lut(k)
        said[window] |= (gid[product.labels] == done.gid[window]) & (product.labels > 0)
    assert np.array_equal(said & (done.ids > 0), done.ids > 0), "some tile said so at that pixel"


@given(truths(), tilings())
def test_a_segment_has_one_thing_class_and_nodata_has_none(truth: Truth, tiling) -> None:
    grid = TileGrid(truth.shape, *tiling)
    done = stitch(badly(truth).predict, grid)
    assert set(np.unique(done.class_id[done.ids > 0])) <= {1, 2}, "no stuff class on a thing"
    assert not done.ids[truth.stuff == 0].any()
    painted = np.unique(done.gid[done.gid > 0])
    votes = {int(g): set(np.unique(done.class_id[done.gid == g]).tolist()) for g in painted[:20]}
    assert all(len(v) == 1 for v in votes.values())


@given(truths(), tilings())
def test_stitching_a_consistent_map_again_changes_nothing(truth: Truth, tiling) -> None:
    grid = TileGrid(truth.shape, *tiling)
    first = stitch(badly(truth).predict, grid)
    found = Truth.of(first.ids, np.concatenate([[0], np.ones(first.ids.max(), int)]))
    again = stitch(OracleSegmenter(found).predict, grid)
    assert same_partition(again.ids, found.instance)


def mirrored(truth: Truth, how: str) -> Truth:
    turn = {"left-right": np.fliplr, "upside down": np.flipud, "transposed": np.transpose}[how]
    return Truth(np.ascontiguousarray(turn(truth.instance)), truth.class_of, turn(truth.stuff))


@given(truths(), tilings(), st.sampled_from(["left-right", "upside down", "transposed"]))
def test_a_mirrored_scene_has_the_mirrored_map(truth: Truth, tiling, how: str) -> None:
    other = mirrored(truth, how)
    grid = TileGrid(other.shape, *tiling)
    assert same_partition(stitch(OracleSegmenter(other).predict, grid).ids, other.instance)


def test_one_pixel_cores_and_a_scene_smaller_than_a_tile_are_fine() -> None:
    truth = make_truth("labyrinth", (9, 7), 1)
    for core, halo, origin in ((2, 1, (1, 1)), (100, 50, (0, 0)), (100, 50, (99, 99))):
        done = stitch(OracleSegmenter(truth).predict, TileGrid(truth.shape, core, halo, origin))
        assert same_partition(done.ids, truth.instance)


def test_tiles_without_a_valid_pixel_may_be_left_out() -> None:
    holes = np.zeros((60, 60), bool)
    holes[:40, 20:] = True
    whole = make_truth("parcels", (60, 60), 4)
    truth = Truth.of(whole.instance, nodata=holes)
    grid = TileGrid(truth.shape, 10, 3)
    predict = OracleSegmenter(truth).predict
    tiles = {
        t.index: label_tile(predict(t), truth.shape)
        for t in grid
        if truth.stuff[t.window.slices].any()
    }
    assert len(tiles) < len(grid)
    assert same_partition(stitch_tiles(tiles, grid).ids, truth.instance)


@settings(max_examples=30)
@given(truths(least=30), st.integers(0, 99))
def test_changing_one_tile_changes_only_objects_near_it(truth: Truth, seed: int) -> None:
    grid = TileGrid(truth.shape, 8, 2)
    rng = np.random.default_rng(seed)
    changed = int(rng.integers(len(grid)))
    tiles = {t.index: label_tile(badly(truth).predict(t), truth.shape) for t in grid}
    before = stitch_tiles(tiles, grid)
    said = badly(truth, seed + 1).predict(grid.tile(changed))
    after = stitch_tiles({**tiles, changed: label_tile(said, truth.shape)}, grid)
    far = untouched(before, after, grid, changed)
    assert same_partition(np.where(far, before.ids, 0), np.where(far, after.ids, 0))


def untouched(before: Stitched, after: Stitched, grid: TileGrid, changed: int) -> np.ndarray:
    """Return pixels of objects that, before and after, come nowhere within two tiles of one."""
    reach = grid.tile(changed).window.grown(2 * grid.core + 2 * grid.halo).clipped(grid.shape)
    far = np.ones(grid.shape, bool)
    for done in (before, after):
        far &= ~np.isin(done.ids, np.unique(done.ids[reach.slices])) | (done.ids == 0)
    far[reach.slices] = False
    return far


@given(truths(), st.integers(0, 40))
def test_what_is_painted_in_a_core_is_measured_pixel_by_pixel(truth: Truth, at: int) -> None:
    core = Window(at, 2 * at, *truth.shape)
    gids, area, boxes = measure_core(truth.instance.astype(np.int64), core)
    assert gids.tolist() == list(range(1, truth.n + 1))
    for k in range(1, min(truth.n, 9) + 1):
        rows, cols = np.nonzero(truth.instance == k)
        low, high = (rows.min() + at, cols.min() + 2 * at), (rows.max() + at, cols.max() + 2 * at)
        assert area[k - 1] == len(rows)
        assert boxes[k - 1].tolist() == [*low, high[0] + 1, high[1] + 1]


def test_no_halo_joins_what_touches_and_keeps_every_pixel() -> None:
    truth = make_truth("halls", (40, 40), 2)
    done = stitch(OracleSegmenter(truth).predict, TileGrid(truth.shape, 10, 0))
    assert np.array_equal(done.ids > 0, truth.instance > 0)


@pytest.mark.slow
def test_a_scene_of_more_than_2_to_the_24_segments_has_as_many_ids() -> None:
    edge, n = 4200, 2**24 + 1000  # one-pixel segments in two tiles, resolved as tables only
    grid = TileGrid((edge, 2 * edge), edge, 8)
    half = n // 2
    tile = np.repeat(np.array([0, 1]), [half, n - half])
    at = np.concatenate([np.arange(half), np.arange(n - half)])
    bbox = np.zeros((n, 4), np.int32)
    bbox[:, 0], bbox[:, 1] = at // (edge - 20) % edge, at % (edge - 20) + edge * tile + 10 * tile
    bbox[:, 2:] = bbox[:, :2] + 1
    one = np.ones(n, np.int64)
    nodes = NodeTable(
        tile, (at + 1).astype(np.int32), one.astype(np.uint8), one, one.astype(float), one, bbox,
        np.zeros(n, bool),
    )  # fmt: skip
    done = resolve(nodes, SeamTable.empty(), grid)
    gid, _ = done.lut(1)
    assert len(done.segments) == n > 2**24
    assert gid[-1] == n
    assert gid[-2] == n - 1


def test_a_prediction_of_a_window_is_not_changed_by_stitching() -> None:
    truth = make_truth("rings", (30, 30), 0)
    grid = TileGrid(truth.shape, 10, 3)
    said = {t.index: badly(truth).predict(t) for t in grid}
    kept = pickle.dumps(said)
    stitch(lambda t: said[t.index], grid)
    assert pickle.dumps(said) == kept
    assert isinstance(said[0], PanopticTile)

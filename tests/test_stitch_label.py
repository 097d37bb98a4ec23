"""One tile's labels: canonical, connected, measured, and told whether they may be cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from oracle import OracleSegmenter
from scenes import Truth, connected_pieces, make_truth
from strategies import truths

from geopanoptic.grid import Tile, TileGrid, Window
from geopanoptic.segments import PanopticTile
from geopanoptic.stitch import label_tile
from geopanoptic.stitch.kernels import cc4
from geopanoptic.stitch.label import is_truncated


def whole_tile(truth: Truth) -> Tile:
    window = Window.whole(truth.shape)
    return Tile(0, window, window)


@given(
    hnp.arrays(
        np.int32, st.tuples(st.integers(1, 24), st.integers(1, 24)), elements=st.integers(0, 3)
    )
)
def test_components_are_those_of_a_graph_of_pixels(labels: np.ndarray) -> None:
    pieces, n = cc4(labels)
    expected, first = connected_pieces(labels)
    assert n == len(first)
    assert np.array_equal(pieces, expected), "the same pieces, numbered in the same raster order"


@given(truths(), st.integers(0, 1000))
def test_the_models_own_numbering_changes_nothing(truth: Truth, seed: int) -> None:
    tile = whole_tile(truth)
    said = OracleSegmenter(truth).predict(tile)
    names = np.concatenate(
        [[0], 1 + np.random.default_rng(seed).permutation(len(said.class_of) - 1)]
    )
    class_of = np.zeros_like(said.class_of)
    class_of[names] = said.class_of
    renamed = PanopticTile(
        tile, said.stuff, names[said.instance].astype(np.int32), class_of, said.score
    )
    one, two = label_tile(said, truth.shape), label_tile(renamed, truth.shape)
    assert one.labels.tobytes() == two.labels.tobytes()
    for name in one.nodes.__dataclass_fields__:
        assert getattr(one.nodes, name).tobytes() == getattr(two.nodes, name).tobytes(), name


@given(truths())
def test_nodes_measure_their_pixels(truth: Truth) -> None:
    said = OracleSegmenter(truth).predict(whole_tile(truth))
    done = label_tile(said, truth.shape)
    assert np.array_equal(done.nodes.label, np.arange(1, truth.n + 1))
    for k in range(1, min(truth.n, 12) + 1):
        mask = done.labels == k
        rows, cols = np.nonzero(mask)
        score = said.score[mask].astype(float)
        assert done.nodes.area_px[k - 1] == mask.sum()
        assert done.nodes.class_id[k - 1] == truth.class_of[k]
        assert done.nodes.bbox[k - 1].tolist() == [
            rows.min(),
            cols.min(),
            rows.max() + 1,
            cols.max() + 1,
        ]
        assert done.nodes.scored_px[k - 1] == (score != 255).sum()
        assert done.nodes.score_sum[k - 1] == pytest.approx(score[score != 255].sum() / 200)


def test_an_instance_in_two_pieces_becomes_two_labels() -> None:
    truth = Truth.of(np.array([[1, 0, 2], [1, 0, 2]]))
    tile = whole_tile(truth)
    said = OracleSegmenter(truth).predict(tile)
    joined = PanopticTile(
        tile,
        said.stuff,
        (said.instance > 0).astype(np.int32),
        np.array([0, 1], np.uint8),
        said.score,
    )
    assert label_tile(joined, truth.shape).labels.tolist() == [[1, 0, 2], [1, 0, 2]]


def test_pixels_of_nodata_are_no_instance() -> None:
    truth = make_truth("parcels", (12, 12), 0)
    said = OracleSegmenter(truth).predict(whole_tile(truth))
    said.stuff[3:6, 2:9] = 0
    done = label_tile(said, truth.shape)
    assert not done.labels[3:6, 2:9].any()
    assert (done.labels > 0).sum() == done.nodes.area_px.sum() == 144 - 21


def test_an_all_nodata_tile_has_no_nodes() -> None:
    truth = Truth.of(np.ones((8, 8)), nodata=np.ones((8, 8), bool))
    done = label_tile(OracleSegmenter(truth).predict(whole_tile(truth)), truth.shape)
    assert len(done.nodes) == 0
    assert not done.labels.any()


def test_truncated_is_what_ends_within_two_pixels_of_an_edge_the_scene_goes_on_beyond() -> None:
    window, shape = Window(10, 0, 20, 20), (100, 20)
    boxes = np.array(
        [
            [11, 5, 15, 9],  # one pixel from the upper edge
            [12, 5, 15, 9],  # two pixels: whole
            [15, 5, 28, 9],  # two pixels from the lower edge: whole
            [15, 5, 29, 9],  # one pixel
            [15, 0, 20, 20],  # the scene itself ends left and right
        ],
        np.int32,
    )
    assert is_truncated(boxes, window, shape).tolist() == [True, False, False, True, False]
    assert not is_truncated(boxes, Window(0, 0, 100, 20), shape).any()


def test_a_tile_may_have_more_than_65535_labels() -> None:
    edge = 520
    instance = np.zeros((edge, edge), np.int32)
    instance[::2, ::2] = 1
    truth_like = PanopticTile(
        Tile(0, Window(0, 0, edge, edge), Window(0, 0, edge, edge)),
        np.ones((edge, edge), np.uint8),
        instance,
        np.array([0, 1], np.uint8),
        np.full((edge, edge), 200, np.uint8),
    )
    done = label_tile(truth_like, (edge, edge))
    assert len(done.nodes) == 260 * 260 > 65535
    assert done.labels.max() == len(done.nodes)


def test_windows_of_a_grid_label_independently_of_their_number() -> None:
    truth = make_truth("row houses", (40, 40), 3)
    grid = TileGrid(truth.shape, 20, 4)
    one = label_tile(OracleSegmenter(truth).predict(grid.tile(2)), truth.shape)
    moved = Tile(7, one.tile.core, one.tile.window)
    two = label_tile(OracleSegmenter(truth).predict(moved), truth.shape)
    assert np.array_equal(one.labels, two.labels)
    assert set(two.nodes.tile.tolist()) <= {7}

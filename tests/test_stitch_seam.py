"""A seam: only the strip is looked at, pieces decide, touching objects stay apart."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from oracle import Noise, NoisySegmenter, OracleSegmenter
from scenes import Truth
from strategies import tilings, truths

from geopanoptic.contingency import Contingency
from geopanoptic.grid import Tile, TileGrid, Window
from geopanoptic.segments import PanopticTile
from geopanoptic.stitch import SeamTable, TileLabels, label_tile, match_seam
from geopanoptic.stitch.tables import OVERLAP, REFUSED, SAME

SHAPE = (12, 30)
LEFT = Tile(0, Window(0, 0, 12, 15), Window(0, 0, 12, 20))
RIGHT = Tile(1, Window(0, 15, 12, 15), Window(0, 10, 12, 20))


def view(tile: Tile, painted: np.ndarray, class_of=(0, 1, 1, 1, 1)) -> TileLabels:
    """Return the product of a tile that saw `painted` (scene frame) in its window."""
    instance = painted[tile.window.slices].astype(np.int32)
    said = PanopticTile(
        tile,
        np.ones(instance.shape, np.uint8),
        instance,
        np.array(class_of, np.uint8),
        np.full(instance.shape, 200, np.uint8),
    )
    return label_tile(said, SHAPE)


def blank() -> np.ndarray:
    return np.zeros(SHAPE, np.int32)


def joined(table: SeamTable) -> set[tuple[int, int]]:
    same = table.verdict == SAME
    return set(zip(table.label_a[same].tolist(), table.label_b[same].tolist(), strict=True))


@given(truths(), tilings())
def test_the_order_of_the_two_tiles_does_not_matter(truth: Truth, tiling) -> None:
    grid = TileGrid(truth.shape, *tiling)
    noisy = NoisySegmenter(truth, Noise(least_px=1, class_flip=0.1))
    tiles = [label_tile(noisy.predict(t), truth.shape) for t in grid]
    for a in range(len(grid)):
        for b in grid.forward_neighbours(a):
            one, two = match_seam(tiles[a], tiles[b], 0.25), match_seam(tiles[b], tiles[a], 0.25)
            assert pickle.dumps(one) == pickle.dumps(two)


@given(truths(), tilings())
def test_the_table_is_the_contingency_of_the_strip(truth: Truth, tiling) -> None:
    grid = TileGrid(truth.shape, *tiling)
    oracle = OracleSegmenter(truth)
    tiles = [label_tile(oracle.predict(t), truth.shape) for t in grid]
    for a in range(len(grid)):
        for b in grid.forward_neighbours(a):
            strip = grid.tile(a).window & grid.tile(b).window
            sides = [t.labels[strip.within(t.tile.window).slices] for t in (tiles[a], tiles[b])]
            whole = Contingency.of(*sides)
            keep = (whole.a > 0) | (whole.b > 0)
            table = match_seam(tiles[a], tiles[b], 0.25)
            assert np.array_equal(table.label_a, whole.a[keep])
            assert np.array_equal(table.label_b, whole.b[keep])
            assert np.array_equal(table.pixels, whole.pixels[keep])


def test_pixels_outside_the_strip_are_not_looked_at() -> None:
    a, b = blank(), blank()
    a[2:6, 0:20], b[2:6, 10:30] = 1, 1
    before = match_seam(view(LEFT, a), view(RIGHT, b), 0.25)
    a[8:, :10] = 2
    b[:, 22:] = 1
    after = match_seam(view(LEFT, a), view(RIGHT, b), 0.25)
    assert joined(before) == joined(after) == {(1, 1)}
    assert pickle.dumps(before) == pickle.dumps(after)


def test_an_object_that_leaves_and_re_enters_the_strip_is_joined_by_its_pieces() -> None:
    comb = blank()
    comb[1:11, 5:10] = 1  # the back, which only the left tile sees
    comb[1:3, 10:20] = comb[5:7, 10:20] = comb[9:11, 10:20] = 1  # three teeth in the strip
    for seen_left, seen_right in ((comb, comb), (comb[:, ::-1], comb[:, ::-1])):
        left, right = view(LEFT, seen_left), view(RIGHT, seen_right)
        assert sorted((len(left.nodes), len(right.nodes))) == [1, 3]
        assert len(joined(match_seam(left, right, 0.25))) == 3
    filled = comb.copy()
    filled[1:11, 10:20] = 1  # one tile sees a block: a single piece, which has a single best tooth
    assert len(joined(match_seam(view(LEFT, filled), view(RIGHT, comb), 0.1))) == 1


def test_row_houses_that_share_a_wall_in_the_strip_stay_two() -> None:
    both = blank()
    both[0:6, 8:24], both[6:12, 8:24] = 1, 2
    shifted = blank()
    shifted[0:7, 8:24], shifted[7:12, 8:24] = 1, 2  # the wall one pixel off
    table = match_seam(view(LEFT, both), view(RIGHT, shifted), 0.25)
    assert joined(table) == {(1, 1), (2, 2)}
    assert table.verdict[(table.label_a == 2) & (table.label_b == 1)].tolist() == [OVERLAP]


def test_pieces_below_the_threshold_or_too_small_stay_apart() -> None:
    a, b = blank(), blank()
    a[0:12, 10:20], b[0:2, 10:20] = 1, 1
    assert joined(match_seam(view(LEFT, a), view(RIGHT, b), 0.25)) == set(), "IoU 1/6"
    assert joined(match_seam(view(LEFT, a), view(RIGHT, b), 0.16)) == {(1, 1)}
    a, b = blank(), blank()
    a[3, 10:13], b[3, 10:14] = 1, 1
    assert joined(match_seam(view(LEFT, a), view(RIGHT, b), 0.25)) == set(), "3 px shared"
    b[3, 13] = 0
    assert joined(match_seam(view(LEFT, a), view(RIGHT, b), 0.25)) == {(1, 1)}, "equal pieces"


def test_one_pixel_in_common_is_enough_when_it_is_the_same_pixel() -> None:
    a = blank()
    a[5, 12] = 1
    assert joined(match_seam(view(LEFT, a), view(RIGHT, a), 0.25)) == {(1, 1)}


def test_ties_go_to_the_piece_that_comes_first() -> None:
    a, b = blank(), blank()
    a[2:6, 10:20] = 1
    b[2:4, 10:20], b[4:6, 10:20] = 1, 2
    assert joined(match_seam(view(LEFT, a), view(RIGHT, b), 0.25)) == {(1, 1)}


@pytest.mark.parametrize(
    "rows, verdict", [(12, SAME), (9, SAME), (8, REFUSED), (4, REFUSED), (2, OVERLAP)]
)
def test_other_classes_join_only_where_pieces_fit_by_seven_tenths(rows: int, verdict: int) -> None:
    a, b = blank(), blank()
    a[0:12, 10:20], b[0:rows, 10:20] = 1, 1
    table = match_seam(view(LEFT, a), view(RIGHT, b, (0, 2)), 0.25)
    met = (table.label_a == 1) & (table.label_b == 1)
    assert table.verdict[met].tolist() == [verdict]
    same_class = match_seam(view(LEFT, a), view(RIGHT, b), 0.25)
    assert joined(same_class) == ({(1, 1)} if rows > 2 else set())


def test_without_a_halo_the_two_lines_at_the_seam_are_compared() -> None:
    left = Tile(0, Window(0, 0, 12, 15), Window(0, 0, 12, 15))
    right = Tile(1, Window(0, 15, 12, 15), Window(0, 15, 12, 15))
    a = blank()
    a[0:5, 4:30], a[5:12, 9:22] = 1, 2
    assert joined(match_seam(view(left, a), view(right, a), 0.25)) == {(1, 1), (2, 2)}
    b = a.copy()
    b[2:5] = 0
    assert joined(match_seam(view(left, a), view(right, b), 0.25)) == {(2, 2)}, "2 px in touch"


def test_diagonal_neighbours_without_a_halo_have_nothing_to_compare() -> None:
    grid = TileGrid((20, 20), 10, 0)
    truth = Truth.of(np.ones((20, 20)))
    tiles = [label_tile(OracleSegmenter(truth).predict(t), truth.shape) for t in grid]
    assert len(match_seam(tiles[0], tiles[3], 0.25)) == 0
    assert len(match_seam(tiles[0], tiles[1], 0.25)) == 1
    assert len(match_seam(tiles[0], tiles[2], 0.25)) == 1


def test_counts_per_seam_add_up_and_tables_survive_pickling() -> None:
    a, b = blank(), blank()
    a[0:6, 8:20], a[7:11, 10:14] = 1, 2
    b[0:6, 10:22] = 1
    table = SeamTable.concatenate([match_seam(view(LEFT, a), view(RIGHT, b), 0.25)])
    counts = pickle.loads(pickle.dumps(table)).per_seam()
    assert (counts.tile_a.tolist(), counts.tile_b.tolist()) == ([0], [1])
    assert (counts.candidates.tolist(), counts.joins.tolist()) == ([1], [1])
    assert (counts.agree_px.tolist(), counts.any_px.tolist()) == ([60], [76])
    assert len(SeamTable.empty().per_seam()) == 0

"""What becomes of views that disagree: each outcome is decided, documented and the same always.

Two tiles, 60 x 120 px, cores 60 px wide, halo 20: the strip is columns 40..80, the seam at 60.
"""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from stitching import Stitched, same_partition, stitch_tiles

from geopanoptic.grid import TileGrid
from geopanoptic.polygons.kernels import joined
from geopanoptic.segments import SCORE_NONE, PanopticTile
from geopanoptic.stitch import (
    CORE,
    DROP,
    PAINT,
    NodeTable,
    Resolution,
    SeamTable,
    TileLabels,
    assemble_core,
    label_tile,
    number,
    resolve,
)
from geopanoptic.stitch.kernels import components

GRID = TileGrid((60, 120), 60, 20)
BUILDING, VEHICLE, TREE = 1, 2, 3


class Scene:
    """Two tiles' opinions, painted box by box in the scene frame."""

    def __init__(self, grid: TileGrid = GRID) -> None:
        self.grid = grid
        self.painted = [np.zeros(grid.shape, np.int32) for _ in range(len(grid))]
        self.class_of = [[0] for _ in range(len(grid))]

    def sees(self, tile: int, row: int, col: int, stop: tuple[int, int], class_id=BUILDING):
        """Let a tile see a box (row, col) .. stop, as far as its window goes."""
        self.painted[tile][row : stop[0], col : stop[1]] = len(self.class_of[tile])
        self.class_of[tile].append(class_id)
        return self

    def tiles(self, skipped=()) -> dict[int, TileLabels]:
        done = {}
        for tile in self.grid:
            if tile.index in skipped:
                continue
            instance = self.painted[tile.index][tile.window.slices]
            said = PanopticTile(
                tile,
                np.full(instance.shape, TREE, np.uint8),
                instance.copy(),
                np.array(self.class_of[tile.index], np.uint8),
                np.full(instance.shape, 100 + 50 * (tile.index % 3), np.uint8),
            )
            done[tile.index] = label_tile(said, self.grid.shape)
        return done

    def stitched(self, skipped=()) -> Stitched:
        return stitch_tiles(self.tiles(skipped), self.grid)


def modes(done: Stitched) -> list[list[int]]:
    return [
        done.resolution.lut(k)[1][1:].tolist() for k in range(len(done.resolution.first_row) - 1)
    ]


def segments(done: Stitched) -> set[tuple[int, int, int, int, int]]:
    """Return (rows, cols, stop) and class of every segment of the map."""
    found = set()
    for k in np.unique(done.ids[done.ids > 0]):
        r, c = np.nonzero(done.ids == k)
        found.add((r.min(), c.min(), r.max() + 1, c.max() + 1, done.class_id[r[0], c[0]]))
    return {tuple(int(v) for v in s) for s in found}


def test_the_tile_whose_core_holds_the_centre_wins_with_its_whole_mask() -> None:
    done = Scene().sees(0, 10, 46, (20, 66)).sees(1, 11, 47, (21, 67)).stitched()
    assert segments(done) == {(10, 46, 20, 66, BUILDING)}, "painted over the seam, no step"
    assert modes(done) == [[PAINT], [DROP]]
    done = Scene().sees(0, 10, 53, (20, 72)).sees(1, 11, 54, (21, 73)).stitched()
    assert segments(done) == {(11, 54, 21, 73, BUILDING)}


def test_whole_views_of_different_class_take_the_owners_class() -> None:
    done = Scene().sees(0, 10, 46, (20, 66), VEHICLE).sees(1, 10, 46, (20, 66)).stitched()
    assert segments(done) == {(10, 46, 20, 66, VEHICLE)}
    assert done.resolution.counts["conflicts"] == 0


@pytest.mark.parametrize("owner, expected", [(0, 1), (1, 2)])
def test_one_object_here_and_two_there_is_as_the_owner_says_entirely(owner, expected) -> None:
    shift = 0 if owner == 0 else 8  # moves the centre over the seam
    scene = Scene().sees(0, 10, 46 + shift, (20, 66 + shift))
    scene.sees(1, 10, 46 + shift, (20, 56 + shift)).sees(1, 10, 56 + shift, (20, 66 + shift))
    done = scene.stitched()
    assert done.ids.max() == expected
    assert (done.ids > 0).sum() == 200, "no pixel twice, none lost"


def test_what_the_owner_missed_is_rescued_from_the_tile_that_saw_it() -> None:
    done = Scene().sees(0, 10, 55, (20, 70)).stitched()
    assert segments(done) == {(10, 55, 20, 70, BUILDING)}
    assert modes(done)[0] == [PAINT]


def test_a_whole_view_outside_its_core_yields_to_what_the_owner_saw_there() -> None:
    scene = Scene().sees(0, 10, 62, (20, 72)).sees(1, 14, 66, (44, 96))
    done = scene.stitched()
    assert segments(done) == {(14, 66, 44, 96, BUILDING)}
    assert modes(done) == [[DROP], [PAINT]]


def test_a_speck_of_the_owners_does_not_swallow_what_another_tile_saw_whole() -> None:
    scene = Scene().sees(0, 10, 52, (30, 76)).sees(1, 12, 72, (16, 75))
    done = scene.stitched()
    assert modes(done) == [[PAINT], [PAINT]]
    areas = np.bincount(done.ids[done.ids > 0])[1:].tolist()
    assert sorted(areas) == [12, 20 * 24 - 12]


def test_in_its_own_core_a_tile_paints_first() -> None:
    done = Scene().sees(0, 10, 50, (20, 62)).sees(1, 10, 58, (20, 74)).stitched()
    assert segments(done) == {(10, 50, 20, 60, BUILDING), (10, 60, 20, 74, BUILDING)}


def test_a_cut_view_yields_to_the_whole_view_that_covers_it() -> None:
    done = Scene().sees(0, 10, 50, (20, 90)).sees(1, 10, 50, (20, 90)).stitched()
    assert segments(done) == {(10, 50, 20, 90, BUILDING)}
    assert modes(done) == [[DROP], [PAINT]]
    assert done.resolution.segments.n_tiles.tolist() == [2]
    assert done.resolution.segments.seam_agreement.tolist() == [1.0]


def test_views_cut_on_both_sides_are_united_across_the_seam() -> None:
    done = Scene().sees(0, 10, 5, (20, 115)).sees(1, 10, 5, (20, 115)).stitched()
    assert segments(done) == {(10, 5, 20, 115, BUILDING)}
    assert modes(done) == [[CORE], [CORE]]
    assert done.resolution.segments.on_seam.tolist() == [True]


def test_a_united_object_takes_the_class_with_most_area_and_ties_go_to_the_lower_class() -> None:
    done = Scene().sees(0, 10, 5, (20, 115), VEHICLE).sees(1, 10, 5, (20, 90)).stitched()
    assert segments(done) == {(10, 5, 20, 90, VEHICLE)} or done.ids.max() == 1
    assert set(done.class_id[done.ids > 0].tolist()) == {VEHICLE}, "75 columns against 50"
    done = Scene().sees(0, 10, 5, (20, 115), VEHICLE).sees(1, 10, 5, (20, 115)).stitched()
    assert set(done.class_id[done.ids > 0].tolist()) == {BUILDING}


def test_cut_views_of_different_class_that_fit_badly_stay_two_and_are_counted() -> None:
    done = Scene().sees(0, 10, 5, (30, 115), VEHICLE).sees(1, 10, 5, (20, 115)).stitched()
    assert segments(done) == {(10, 5, 30, 60, VEHICLE), (10, 60, 20, 115, BUILDING)}
    counts = done.resolution.counts
    assert (counts["refused"], counts["joins"], counts["conflicts"]) == (1, 0, 1)


def test_a_cut_object_that_the_neighbour_split_keeps_the_larger_part() -> None:
    scene = Scene().sees(0, 10, 5, (30, 115))
    scene.sees(1, 10, 5, (22, 115)).sees(1, 22, 5, (30, 115))
    done = scene.stitched()
    assert segments(done) == {(10, 5, 30, 115, BUILDING), (22, 60, 30, 115, BUILDING)}
    assert done.resolution.counts["conflicts"] == 1


def test_what_looks_whole_here_but_is_a_piece_of_a_cut_object_there_joins_it() -> None:
    # the left tile lost the object's end beyond column 70, so that its view seems to be whole
    done = Scene().sees(0, 10, 45, (20, 70)).sees(1, 10, 40, (20, 115)).stitched()
    assert segments(done) == {(10, 45, 20, 115, BUILDING)}
    assert modes(done) == [[PAINT], [CORE]]
    assert done.resolution.counts["conflicts"] == 0


def test_a_skipped_or_failed_neighbour_gives_no_pair_and_the_object_ends_at_its_core() -> None:
    scene = Scene().sees(0, 10, 5, (20, 115)).sees(1, 10, 5, (20, 115))
    done = scene.stitched(skipped={1})
    assert segments(done) == {(10, 5, 20, 60, BUILDING)}
    assert done.resolution.lut(1)[0].tolist() == [0]
    assert np.isnan(done.resolution.segments.seam_agreement[0])


def test_agreement_is_the_iou_of_the_views_in_the_strips() -> None:
    done = Scene().sees(0, 10, 46, (20, 66)).sees(1, 10, 46, (15, 66)).stitched()
    assert done.resolution.segments.seam_agreement.tolist() == [0.5]
    counts = done.resolution.counts
    assert (counts["agreement_px"], counts["strip_px"], counts["agreement"]) == (100, 200, 0.5)


def test_one_tile_alone_has_no_agreement_to_speak_of() -> None:
    done = Scene().sees(0, 10, 10, (20, 30)).stitched()
    facts = done.resolution.segments
    assert np.isnan(facts.seam_agreement[0])
    assert (facts.n_tiles.tolist(), facts.on_seam.tolist()) == ([1], [False])
    assert facts.score.tolist() == [0.5], "100 of 200"


def test_an_object_without_any_score_has_none() -> None:
    tiles = Scene().sees(0, 10, 10, (20, 30)).tiles()
    said = PanopticTile(
        GRID.tile(0),
        np.ones((60, 80), np.uint8),
        (tiles[0].labels > 0).astype(np.int32),
        np.array([0, 1], np.uint8),
        np.full((60, 80), SCORE_NONE, np.uint8),
    )
    done = stitch_tiles({0: label_tile(said, GRID.shape)}, GRID)
    assert np.isnan(done.resolution.segments.score[0])


def test_an_object_on_a_four_corner_point_is_one() -> None:
    grid = TileGrid((80, 80), 40, 10)
    scene = Scene(grid)
    for k in range(4):
        scene.sees(k, 35, 35, (46, 46)).sees(k, 0, 39, (30, 41)).sees(k, 60, 2, (70, 78))
    done = scene.stitched()
    assert segments(done) == {
        (35, 35, 46, 46, BUILDING),
        (0, 39, 30, 41, BUILDING),
        (60, 2, 70, 78, BUILDING),
    }


def test_only_the_diagonal_pair_sees_that_two_ends_are_one() -> None:
    # A staircase through the four-corner point: its side neighbours see only other pieces of it.
    grid = TileGrid((8, 8), 4, 1)
    truth = np.zeros((8, 8), np.int32)
    truth[0:4, 3], truth[3, 3:5], truth[3:8, 4] = 1, 1, 1
    scene = Scene(grid)
    for k in range(4):
        scene.painted[k][:] = truth
        scene.class_of[k].append(BUILDING)
    assert same_partition(scene.stitched().ids, truth)


def test_no_halo_runs_and_warns() -> None:
    grid = TileGrid((60, 120), 60, 0)
    scene = Scene(grid).sees(0, 10, 5, (20, 115)).sees(1, 10, 5, (20, 115))
    tiles = scene.tiles()
    nodes = NodeTable.concatenate([t.nodes for t in tiles.values()])
    with pytest.warns(UserWarning, match="without a halo"):
        resolve(nodes, SeamTable.empty(), grid)
    assert segments(scene.stitched()) == {(10, 5, 20, 115, BUILDING)}


def test_no_objects_at_all_is_an_answer_too() -> None:
    done = Scene().stitched()
    assert not done.ids.any()
    assert done.resolution.counts["agreement"] is None
    assert len(done.resolution.segments) == 0
    nothing = resolve(NodeTable.empty(), SeamTable.empty(), GRID)
    assert nothing.lut(1)[0].tolist() == [0]


def test_ids_beyond_2_to_the_24_stay_apart_where_they_are_painted() -> None:
    class Luts:
        def lut(self, tile: int):
            gid = np.array([0, 2**24 + 1, 2**24 + 2, 2**31 + 5], np.int64)
            return gid, np.array([DROP, CORE, CORE, CORE], np.uint8)

    tile = TileGrid((1, 3), 4, 0).tile(0)
    views = {0: (tile.window, np.array([[1, 2, 3]], np.int32))}
    assert assemble_core(tile, views, Luts()).tolist() == [[2**24 + 1, 2**24 + 2, 2**31 + 5]]
    assert number([2**24 + 2, 2**24 + 1, 2**31 + 5], [1, 1, 1]).tolist() == [2, 1, 3]


def test_keys_of_tile_and_label_beyond_2_to_the_31_are_sound() -> None:
    grid = TileGrid((300, 300), 1, 0)  # 90 000 tiles of one pixel
    last = len(grid) - 1
    one = np.ones(3, np.int64)
    nodes = NodeTable(
        tile=np.array([last, last, 0]),
        label=np.array([2, 1, 1], np.int32),
        class_id=np.array([1, 2, 1], np.uint8),
        area_px=one,
        score_sum=one.astype(float),
        scored_px=one,
        bbox=np.array([[299, 299, 300, 300]] * 2 + [[0, 0, 1, 1]], np.int32),
        truncated=np.array([True, True, False]),
    )
    with pytest.warns(UserWarning, match="without a halo"):
        done = resolve(nodes, SeamTable.empty(), grid)
    assert done.lut(0)[0].tolist() == [0, 1]
    assert done.lut(last)[0].tolist() == [0, 2, 3], "rows may come in any order"
    assert done.segments.class_id.tolist() == [1, 2, 1]


def test_numbering_leaves_out_what_is_too_small_by_class_and_leaves_no_gap() -> None:
    least = np.array([0, 10, 3])[[1, 2, 1, 2, 1]]
    assert number([4, 7, 9, 12, 9], [9, 3, 6, 2, 6], least).tolist() == [0, 1, 2, 0, 2]
    assert number([], []).tolist() == []
    assert number([0, 3], [50, 1]).tolist() == [0, 1], "0 is no segment"


def test_a_sliver_left_at_a_seam_is_dropped_by_the_least_area() -> None:
    scene = Scene().sees(0, 10, 5, (30, 115)).sees(1, 10, 5, (28, 115)).sees(1, 28, 5, (30, 63))
    done = scene.stitched()
    gids, area = np.unique(done.gid[done.gid > 0], return_counts=True)
    assert sorted(area.tolist())[0] == 6, "a sliver 2 x 3 px beside the seam"
    assert number(gids, area, 10).max() == len(gids) - 1


def test_a_resolution_survives_pickling() -> None:
    done = Scene().sees(0, 10, 5, (20, 115)).sees(1, 10, 5, (20, 115)).stitched().resolution
    again = pickle.loads(pickle.dumps(done))
    assert isinstance(again, Resolution)
    assert again.lut(1)[0].tolist() == done.lut(1)[0].tolist() == [0, 1]
    assert again.counts == done.counts


@given(n=st.integers(1, 40), seed=st.integers(0, 999), share=st.floats(0, 1))
def test_components_are_numbered_as_scipy_numbers_them(n: int, seed: int, share: float) -> None:
    i, j = np.random.default_rng(seed).integers(0, n, (2, int(share * n)))
    graph = coo_array((np.ones(len(i), bool), (i, j)), shape=(n, n))
    truth = connected_components(graph, directed=False)[1]
    assert np.array_equal(components(n, i, j), truth)
    assert np.array_equal(joined(n, i, j), truth)

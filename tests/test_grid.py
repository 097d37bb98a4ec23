"""Windows, tiles and regions: whole-pixel arithmetic keeps its laws."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geopanoptic.errors import GridError
from geopanoptic.grid import RegionGrid, TileGrid, Tiling, Window

windows = st.builds(
    Window, st.integers(0, 20), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20)
)


@st.composite
def grids(draw: st.DrawFn) -> TileGrid:
    core = draw(st.integers(1, 17))
    return TileGrid(
        (draw(st.integers(1, 60)), draw(st.integers(1, 60))),
        core,
        draw(st.integers(0, core // 2)),
        (draw(st.integers(-40, 40)), draw(st.integers(-40, 40))),
    )


@given(windows, st.data())
def test_a_window_within_another_reads_the_same_pixels(outer: Window, data: st.DataObject) -> None:
    array = np.arange(40 * 40).reshape(40, 40)
    row = data.draw(st.integers(outer.row, outer.row_stop))
    col = data.draw(st.integers(outer.col, outer.col_stop))
    inner = Window.from_bounds(
        row,
        col,
        data.draw(st.integers(row, outer.row_stop)),
        data.draw(st.integers(col, outer.col_stop)),
    )
    assert outer.contains(inner) or inner.is_empty
    seen = array[outer.slices][inner.within(outer).slices]
    assert np.array_equal(seen, array[inner.slices])


@given(windows, windows)
def test_the_intersection_holds_the_pixels_of_both(a: Window, b: Window) -> None:
    both = np.zeros((45, 45), int)
    both[a.slices] += 1
    both[b.slices] += 1
    assert (a & b).area_px == (both == 2).sum()
    assert (both[(a & b).slices] == 2).all()


@given(grids())
def test_the_cores_partition_the_scene(grid: TileGrid) -> None:
    times = np.zeros(grid.shape, int)
    for tile in grid:
        assert not tile.core.is_empty
        times[tile.core.slices] += 1
        for row, col in ((tile.core.row, tile.core.col), (tile.core.row_stop - 1, tile.core.col)):
            assert grid.index_at(row, col) == tile.index
    assert (times == 1).all()


@given(grids())
def test_a_window_is_its_core_grown_by_the_halo_and_clipped(grid: TileGrid) -> None:
    for tile in grid:
        assert tile.window == tile.core.grown(grid.halo).clipped(grid.shape)
        nominal = grid.nominal_window(tile.index)
        assert nominal.shape == grid.window_shape
        assert nominal.contains(tile.window)


@given(grids())
def test_only_neighbours_overlap_and_each_pair_is_met_once(grid: TileGrid) -> None:
    pairs = {(t, n) for t in range(len(grid)) for n in grid.forward_neighbours(t)}
    tiles = list(grid)
    for a in tiles:
        assert set(grid.neighbours(a.index)) == {
            n for pair in pairs if a.index in pair for n in pair if n != a.index
        }
        for b in tiles[a.index + 1 :]:
            if not (a.window & b.window).is_empty:
                assert (a.index, b.index) in pairs


@given(grids(), st.integers(1, 5))
def test_every_tile_is_in_exactly_one_region(grid: TileGrid, k: int) -> None:
    regions = RegionGrid(grid, k)
    seen = []
    for region in regions:
        covered = np.zeros(grid.shape, bool)
        for t in region.tiles:
            assert regions.region_of(t) == region.index
            assert region.window.contains(grid.tile(t).window)
            covered[grid.tile(t).core.slices] = True
        assert covered[region.core.slices].all()
        assert covered.sum() == region.core.area_px
        seen += region.tiles
    assert sorted(seen) == list(range(len(grid)))


def test_the_plan_of_a_boundless_scene_costs_nothing() -> None:
    grid = TileGrid((2**31, 2**31), 1024, 64)
    assert grid.tile(len(grid) - 1).core.row_stop == 2**31


@pytest.mark.parametrize(("core", "halo", "number"), [(64, 33, "33"), (0, 0, "0"), (64, -1, "-1")])
def test_a_grid_that_cannot_be_is_refused_with_the_number(
    core: int, halo: int, number: str
) -> None:
    with pytest.raises(GridError, match=number):
        TileGrid((100, 100), core, halo)


def test_an_empty_scene_has_no_tiles() -> None:
    with pytest.raises(GridError, match="0 x 5"):
        TileGrid((0, 5), 16, 2)


def test_tiles_and_grids_survive_pickling() -> None:
    grid = Tiling(64, 8, (3, 5)).grid((200, 300))
    assert pickle.loads(pickle.dumps(grid)) == grid
    assert pickle.loads(pickle.dumps(grid.tile(3))) == grid.tile(3)

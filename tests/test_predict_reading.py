"""A region is read row of tiles by row of tiles: the same pixels, each once, damage kept apart."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geopanoptic.errors import SceneError
from geopanoptic.grid import RegionGrid, TileGrid, Window
from geopanoptic.predict.reading import read_tiles


@dataclass
class Pretended:
    """What reading asks of a plan, over pixels in memory; notes the windows that were read."""

    grid: TileGrid
    k: int
    batch: int = 1
    damage: Window | None = None
    asked: list[Window] = field(default_factory=list)

    @property
    def regions(self) -> RegionGrid:
        return RegionGrid(self.grid, self.k)

    @property
    def pixels(self) -> npt.NDArray[np.uint8]:
        return np.random.default_rng(1).integers(0, 255, (2, *self.grid.shape)).astype(np.uint8)

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """An upper left corner without a valid pixel, and holes."""
        seen = np.random.default_rng(2).random(self.grid.shape) < 0.9
        seen[: self.grid.shape[0] // 2, : self.grid.shape[1] // 2] = False
        return seen

    def read(self, window: Window) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
        if self.damage is not None and not (self.damage & window).is_empty:
            raise SceneError(f"damaged at {window}")
        self.asked.append(window)
        rows, cols = window.slices
        return self.pixels[:, rows, cols].copy(), self.valid[rows, cols].copy()


@st.composite
def plans(draw: st.DrawFn) -> Pretended:
    core = draw(st.integers(2, 12))
    shape = draw(st.integers(1, 60)), draw(st.integers(1, 60))
    origin = draw(st.integers(0, core - 1)), draw(st.integers(0, core - 1))
    grid = TileGrid(shape, core, draw(st.integers(0, core // 2)), origin)
    return Pretended(grid, draw(st.integers(1, 4)), draw(st.integers(1, 6)))


def chips_of(plan: Pretended, index: int) -> tuple[list[Any], dict[str, str]]:
    failed: dict[str, str] = {}
    bands = read_tiles(cast("Any", plan), plan.regions.region(index), failed)
    return [chip for band in bands for chip in band], failed


@given(plan=plans())
def test_tiles_get_their_windows_and_no_pixel_is_read_twice(plan: Pretended) -> None:
    pixels, valid = plan.pixels, plan.valid
    for region in plan.regions:
        plan.asked.clear()
        chips, failed = chips_of(plan, region.index)
        assert not failed
        wanted = [t for t in region.tiles if valid[plan.grid.tile(t).window.slices].any()]
        assert [tile.index for tile, _, _ in chips] == wanted
        for tile, seen, is_valid in chips:
            rows, cols = tile.window.slices
            assert np.array_equal(seen, pixels[:, rows, cols])
            assert np.array_equal(is_valid, valid[rows, cols])
        assert sum(w.area_px for w in plan.asked) == region.window.area_px


@given(plan=plans(), data=st.data())
def test_only_tiles_that_meet_the_damage_fail(plan: Pretended, data: st.DataObject) -> None:
    height, width = plan.grid.shape
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    plan.damage = Window(row, col, 3, 2)
    for region in plan.regions:
        chips, failed = chips_of(plan, region.index)
        meets = {t for t in region.tiles if not (plan.grid.tile(t).window & plan.damage).is_empty}
        assert set(map(int, failed)) == meets
        for tile, seen, _ in chips:
            rows, cols = tile.window.slices
            assert tile.index not in meets
            assert np.array_equal(seen, plan.pixels[:, rows, cols])


@pytest.mark.parametrize(("batch", "rows"), [(1, 1), (4, 1), (5, 2)])
def test_a_band_holds_as_many_rows_as_a_batch_needs(batch: int, rows: int) -> None:
    plan = Pretended(TileGrid((80, 80), 10, 2), k=4, batch=batch)
    chips_of(plan, 3)
    assert plan.asked[0].height == rows * 10 + 4
    assert len(plan.asked) == 4 // rows

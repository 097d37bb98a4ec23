"""Read the tiles of a region, a few rows of tiles at a time: each pixel once, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import SceneError
from geopanoptic.grid import Region, Tile, Window

if TYPE_CHECKING:
    from geopanoptic.predict.plan import Plan

Pixels = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Chip = tuple[Tile, Pixels, Mask]


def read_tiles(plan: Plan, region: Region, failed: dict[str, str]) -> Iterator[list[Chip]]:
    """Yield (tile, pixels (band, row, col), valid (row, col)) of a region's tiles, band by band.

    A band is as many rows of tiles as one network call asks for. What it shares with the band
    before (twice the halo) is kept, not read again. Tiles without a valid pixel are left out.
    When a block of the file is damaged the band is read tile by tile to save the rest; those
    that fail go into `failed`: tile number -> reason.
    """
    kept: tuple[Window, Pixels, Mask] | None = None
    bands = _bands(plan, region)
    for n, (tiles, window) in enumerate(bands):
        try:
            pixels, valid = _read(plan, window, kept)
        except SceneError:
            kept = None
            yield _read_one_by_one(plan, tiles, failed)
            continue
        if n + 1 < len(bands):
            shared = window & bands[n + 1][1]
            rows, cols = shared.within(window).slices
            kept = shared, pixels[:, rows, cols].copy(), valid[rows, cols].copy()
        chips = []
        for tile in tiles:
            rows, cols = tile.window.within(window).slices
            if valid[rows, cols].any():
                chips.append((tile, pixels[:, rows, cols], valid[rows, cols]))
        yield chips


def _bands(plan: Plan, region: Region) -> list[tuple[list[Tile], Window]]:
    """Cut a region into bands: their tiles, and their window over the region's width."""
    across = len({number % plan.grid.n_cols for number in region.tiles})
    step = across * -(-plan.batch // across)
    bands = []
    for start in range(0, len(region.tiles), step):
        tiles = [plan.grid.tile(number) for number in region.tiles[start : start + step]]
        first, last = tiles[0].window, tiles[-1].window
        window = Window.from_bounds(
            first.row, region.window.col, last.row_stop, region.window.col_stop
        )
        bands.append((tiles, window))
    return bands


def _read(plan: Plan, window: Window, kept: tuple[Window, Pixels, Mask] | None) -> tuple[
    Pixels, Mask
]:  # fmt: skip
    """Read a window of which the rows `kept`, its first ones, are there already."""
    if kept is None or kept[0].is_empty:
        return plan.read(window)
    above, pixels, valid = kept
    below = Window.from_bounds(above.row_stop, window.col, window.row_stop, window.col_stop)
    if below.is_empty:
        return pixels, valid
    more, seen = plan.read(below)
    return np.concatenate([pixels, more], axis=1), np.concatenate([valid, seen])


def _read_one_by_one(plan: Plan, tiles: list[Tile], failed: dict[str, str]) -> list[Chip]:
    chips = []
    for tile in tiles:
        try:
            pixels, valid = plan.read(tile.window)
        except SceneError as why:
            failed[str(tile.index)] = str(why)
            continue
        if valid.any():
            chips.append((tile, pixels, valid))
    return chips

"""One streamed pass over both maps: which class became which, and the raster of it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from geopanoptic.change import kernels
from geopanoptic.change.aligned import REASONS, SEEN, Aligned
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Shape, TileGrid, Window
from geopanoptic.raster import LabelWriter
from geopanoptic.schema import VOID

T = TypeVar("T")
Told = Callable[[int, int], None]

BLOCK = 1024
# Area units per pixel: a block of 4096 x 4096 px of them fits 63 bits, a pixel is right to 4e-12.
_UNIT_BITS = 38
MOST_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class Pair:
    """Both dates on one grid. `n_before`, `n_after`: how the from-to code is put together."""

    before: Aligned
    after: Aligned
    grid: GeoRef
    factor: int

    @property
    def code_dtype(self) -> str:
        return "uint16" if self.factor == 100 else "uint32"


@dataclass(frozen=True)
class Counts:
    """What the pass adds up. `pixels` int64 and `area_m2` float64, both (256, 256) by common class
    before and after; `why` int64 (4, 4): pixels by the reason at either date (`REASONS`).
    """

    pixels: npt.NDArray[np.int64]
    area_m2: npt.NDArray[np.float64]
    why: npt.NDArray[np.int64]

    @property
    def valid(self) -> npt.NDArray[np.bool_]:
        """Which cells of the matrix are comparable: classes at both dates."""
        known = np.ones(256, bool)
        known[[0, VOID]] = False
        return known[:, None] & known[None, :]

    @property
    def common_px(self) -> int:
        return int(self.pixels[self.valid].sum())

    @property
    def common_m2(self) -> float:
        return float(self.area_m2[self.valid].sum())


def blocks(shape: Shape, block: int) -> Iterator[Window]:
    """Cut a raster into blocks, row by row."""
    return (tile.core for tile in TileGrid(shape, block, 0))


def in_order(
    task: Callable[[Window], T], windows: Iterator[Window], threads: int
) -> Iterator[tuple[Window, T]]:
    """Do a task for all windows in threads; yield results in order, only a few of them waiting."""
    with ThreadPoolExecutor(max_workers=threads) as pool:
        waiting: deque[tuple[Window, Future[T]]] = deque()
        try:
            for window in windows:
                waiting.append((window, pool.submit(task, window)))
                if len(waiting) > threads:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def count_pair(pair: Pair, folder: Path, block: int, threads: int, told: Told) -> Counts:
    """Count a pair and write `codes.tif` (from-to) and `why.tif` (4 x why before + why after).

    Memory holds a few blocks. Law: the counts do not depend on `block` or `threads`, to the last
    bit: areas are added as whole units.
    """
    rows_m2 = pair.grid.row_area_m2()
    unit = float(rows_m2.max(initial=0.0)) * 2.0**-_UNIT_BITS or 1.0
    row_units = np.round(rows_m2 / unit).astype(np.int64)
    pixels = np.zeros((256, 256), np.int64)
    units = np.zeros((256, 256), object)
    why = np.zeros(16, np.int64)

    def task(window: Window) -> tuple[npt.NDArray[Any], ...]:
        before, _, why_before = pair.before.read(window)
        after, _, why_after = pair.after.read(window)
        codes = np.zeros(window.shape, pair.code_dtype)
        px, area = np.zeros((256, 256), np.int64), np.zeros((256, 256), np.int64)
        kernels.count_changes(
            before, after, row_units[window.row : window.row_stop], pair.factor, codes, (px, area)
        )
        reasons = (why_before * np.uint8(4) + why_after).astype(np.uint8)
        return codes, reasons, px, area

    height, width = pair.grid.shape
    done = 0
    with (
        LabelWriter(folder / "codes.tif", pair.grid, pair.code_dtype) as codes_file,
        LabelWriter(folder / "why.tif", pair.grid, "uint8", nodata=None) as why_file,
    ):
        for window, (codes, reasons, px, area) in in_order(
            task, blocks(pair.grid.shape, block), threads
        ):
            codes_file.write(window, codes)
            why_file.write(window, reasons)
            pixels += px
            where = np.nonzero(area)
            for i, j in zip(*where, strict=True):
                units[i, j] += int(area[i, j])  # Python's whole numbers do not overflow
            why += np.bincount(reasons.ravel(), minlength=16)[:16]
            done += window.area_px
            told(done, height * width)
    area_m2 = np.array([[float(int(u) * unit) for u in row] for row in units])
    return Counts(pixels, area_m2, why.reshape(4, 4))


def reasons(counts: Counts) -> dict[str, dict[str, int]]:
    """Return, for each date, how many pixels of the common grid were not seen, by reason."""
    seen = [k for k in range(len(REASONS)) if k != SEEN]
    return {
        "before": {REASONS[k]: int(counts.why[k].sum()) for k in seen},
        "after": {REASONS[k]: int(counts.why[:, k].sum()) for k in seen},
    }

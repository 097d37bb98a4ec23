"""The blocks of a label raster and of its overviews: each read once, halved, compressed once.

Blocks are visited along a Z-order curve, four children before their parent, so that memory holds
a few blocks per level, whatever the size of the raster. A block of one value is compressed once
for the whole raster, and where nothing was written nothing is read: an empty frame is free.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numba
import numpy as np
import numpy.typing as npt

from geopanoptic.raster.cog import BLOCK_PX

_HALF = BLOCK_PX // 2
_LEVEL = 6  # of DEFLATE; 9 takes ten times as long and saves nothing on labels
_WAITING = 16  # blocks that may be waiting for compression

Array = npt.NDArray[Any]
Shape = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Level:
    """The blocks of one resolution, arrays (block row, block column).

    `constant`: number of the pyramid's constant that fills the block, -1 where its bytes are
    `size` bytes at `place` of the spool. `checksum` CRC-32 of its pixels inside the raster.
    """

    shape: Shape
    constant: npt.NDArray[np.int32]
    place: npt.NDArray[np.int64]
    size: npt.NDArray[np.uint32]
    checksum: npt.NDArray[np.uint32]

    @classmethod
    def of(cls, shape: Shape) -> Level:
        grid = -(-shape[0] // BLOCK_PX), -(-shape[1] // BLOCK_PX)
        made = np.full(grid, -1, np.int32), np.zeros(grid, np.int64)
        return cls(shape, *made, np.zeros(grid, np.uint32), np.zeros(grid, np.uint32))

    def inside(self, row: int, col: int) -> Shape:
        """Return the height and width of the part of a block that lies in the raster."""
        down, right = self.shape[0] - row * BLOCK_PX, self.shape[1] - col * BLOCK_PX
        return min(BLOCK_PX, down), min(BLOCK_PX, right)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Where full resolution comes from: which blocks were ever written, how to read one (cut at
    the rim of the raster), and the value of all others.
    """

    shape: Shape
    dtype: str
    fill: int
    written: npt.NDArray[np.bool_]
    read: Callable[[int, int], Array]


@dataclass(slots=True)
class Pyramid:
    """What `build` makes: levels from full resolution up, and the constants compressed for them.

    `spool` keeps compressed blocks in the order they were made.
    """

    blocks: Blocks
    halve: Callable[[Array], Array]
    spool: BinaryIO
    levels: list[Level] = field(default_factory=list)
    constants: list[bytes] = field(default_factory=list)
    _written: list[npt.NDArray[np.bool_]] = field(default_factory=list)
    _number: dict[int, int] = field(default_factory=dict)
    _waiting: deque[tuple[Future[bytes], Level, Shape]] = field(default_factory=deque)
    _length: int = 0

    @classmethod
    def build(
        cls, blocks: Blocks, halve: Callable[[Array], Array], spool: BinaryIO, threads: int
    ) -> Pyramid:
        """Read, halve and compress all blocks; the same bytes for any number of threads."""
        made = cls(blocks, halve, spool)
        shape, written = blocks.shape, blocks.written
        made.levels.append(Level.of(shape))
        made._written.append(written)
        while max(shape) > BLOCK_PX:
            shape = -(-shape[0] // 2), -(-shape[1] // 2)
            made.levels.append(Level.of(shape))
            written = _any_of_four(written)
            made._written.append(written)
        with ThreadPoolExecutor(threads, thread_name_prefix="deflate") as pool:
            made._visit(len(made.levels) - 1, 0, 0, pool)
            made._settle(0)
        return made

    def value_of(self, constant: int) -> int:
        """Return the value of a constant by its number."""
        return list(self._number)[constant]

    def _visit(self, number: int, row: int, col: int, pool: ThreadPoolExecutor) -> Array | None:
        """Put a block and all below it; return its pixels (None: nothing was written there)."""
        level = self.levels[number]
        if not self._written[number][row, col]:
            self._put_empty(number, row, col)
            return None
        if number == 0:
            values = _padded(self.blocks.read(row, col))
        else:
            values = np.full((BLOCK_PX, BLOCK_PX), self.blocks.fill, self.blocks.dtype)
            rows, cols = self.levels[number - 1].constant.shape
            for down in range(2):
                for right in range(2):
                    r, c = 2 * row + down, 2 * col + right
                    child = self._visit(number - 1, r, c, pool) if r < rows and c < cols else None
                    if child is not None:
                        quarter = values[down * _HALF :, right * _HALF :]
                        quarter[:_HALF, :_HALF] = self.halve(child)
        self._put(level, (row, col), values, pool)
        return values

    def _put(self, level: Level, at: Shape, values: Array, pool: ThreadPoolExecutor) -> None:
        height, width = level.inside(*at)
        level.checksum[at] = zlib.crc32(np.ascontiguousarray(values[:height, :width]).data)
        if (values == values[0, 0]).all():
            level.constant[at] = self._constant(int(values[0, 0]))
            return
        self._waiting.append((pool.submit(_deflated, values), level, at))
        self._settle(_WAITING)

    def _put_empty(self, number: int, row: int, col: int) -> None:
        constant = self._constant(self.blocks.fill)
        for below in range(number + 1):
            span = 1 << (number - below)
            there = slice(row * span, (row + 1) * span), slice(col * span, (col + 1) * span)
            self.levels[below].constant[there] = constant

    def _constant(self, value: int) -> int:
        if value not in self._number:
            self._number[value] = len(self.constants)
            whole = np.full((BLOCK_PX, BLOCK_PX), value, self.blocks.dtype)
            self.constants.append(_deflated(whole))
        return self._number[value]

    def _settle(self, left: int) -> None:
        """Write finished blocks, in order, until no more than `left` are waiting."""
        while len(self._waiting) > left:
            made, level, at = self._waiting.popleft()
            data = made.result()
            self.spool.write(data)
            level.place[at], level.size[at] = self._length, len(data)
            self._length += len(data)


def _deflated(values: Array) -> bytes:
    return zlib.compress(values.astype(values.dtype.newbyteorder("<"), copy=False).data, _LEVEL)


def _padded(values: Array) -> Array:
    """Return a block of full size; beyond the rim the last pixels go on, as good as any."""
    height, width = values.shape
    if (height, width) == (BLOCK_PX, BLOCK_PX):
        return values
    return np.pad(values, ((0, BLOCK_PX - height), (0, BLOCK_PX - width)), mode="edge")


def _any_of_four(written: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    rows, cols = written.shape
    even = np.zeros((rows + rows % 2, cols + cols % 2), bool)
    even[:rows, :cols] = written
    both = even[::2] | even[1::2]
    return both[:, ::2] | both[:, 1::2]


def nearest_of_four(values: Array) -> Array:
    """Halve labels by taking one pixel of four, always the same: every id keeps its share."""
    return values[::2, ::2]


def mode_of_four(values: Array, nodata: int) -> Array:
    """Halve labels by the value most frequent among four, of equals the first that is complete.

    Pixels that are `nodata` (-1: there is none) have no vote. So does GDAL count.
    """
    out = np.empty((values.shape[0] // 2, values.shape[1] // 2), values.dtype)
    _mode(values, nodata, out)
    return out


@numba.njit(cache=True, nogil=True)
def _mode(values: Any, nodata: int, out: Any) -> None:
    rows, cols = out.shape
    for r in range(rows):
        for c in range(cols):
            a, b = values[2 * r, 2 * c], values[2 * r, 2 * c + 1]
            d, e = values[2 * r + 1, 2 * c], values[2 * r + 1, 2 * c + 1]
            if a == b == d == e:
                out[r, c] = a
                continue
            best, most = a, 0
            for k in range(4):
                here = a if k == 0 else b if k == 1 else d if k == 2 else e
                if here == nodata:
                    continue
                n = 1
                if k > 0 and a == here:
                    n += 1
                if k > 1 and b == here:
                    n += 1
                if k > 2 and d == here:
                    n += 1
                if n > most:
                    best, most = here, n
            out[r, c] = best

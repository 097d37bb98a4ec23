"""The walk over all pairs, block by block: in threads of this process or on a Dask cluster."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.contingency import Contingency
from geopanoptic.errors import SceneError
from geopanoptic.evaluate.pairing import ScenePair
from geopanoptic.grid import Shape, Window
from geopanoptic.metrics import ClassCode, PanopticCount, Tally, count_outlines, labels_of
from geopanoptic.metrics.boundary import OUTSIDE
from geopanoptic.workers import EngineSpec, open_engine

_STRIP = 512  # rows whose outlines are found at a time, so that label arrays stay small

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class Walk:
    """All blocks of all pairs, numbered through. `first[k]`: number of pair k's first block."""

    pairs: tuple[ScenePair, ...]
    block: int
    first: tuple[int, ...]

    @classmethod
    def over(cls, pairs: tuple[ScenePair, ...], block: int) -> Walk:
        """Cut every pair into blocks of `block` px."""
        first = [0]
        for pair in pairs:
            first.append(first[-1] + len(_cut(pair, block)))
        return cls(pairs, block, tuple(first))

    def __len__(self) -> int:
        return self.first[-1]

    def place(self, key: int) -> tuple[int, Window]:
        """Return (pair number, window) of a block number."""
        k = bisect_right(self.first, key) - 1
        return k, _cut(self.pairs[k], self.block).window(key - self.first[k])


@dataclass(frozen=True, slots=True)
class _Cut:
    """An array cut into blocks of `rows` x `cols`, numbered row by row."""

    shape: Shape
    rows: int
    cols: int

    def __len__(self) -> int:
        return -(-self.shape[0] // self.rows) * -(-self.shape[1] // self.cols)

    def window(self, index: int) -> Window:
        """Return a block's window."""
        i, j = divmod(index, -(-self.shape[1] // self.cols))
        return Window(i * self.rows, j * self.cols, self.rows, self.cols).clipped(self.shape)


def _cut(pair: ScenePair, block: int) -> _Cut:
    """Cut a pair into squares of `block` px; into whole rows of as many px where files have them.

    A PNG or striped TIFF must be decoded from its left edge: squares would decode it many times.
    """
    height, width = pair.georef.shape
    if pair.truth.by_rows or pair.pred.by_rows:
        return _Cut((height, width), max(1, block * block // width), width)
    return _Cut((height, width), block, block)


@dataclass(frozen=True, slots=True)
class SceneCount:
    """What one pair's blocks add up to: the count, and the outlines' count when asked for."""

    count: PanopticCount
    outline: Contingency


def count_block(walk: Walk, key: int) -> dict[str, Any]:
    """Count one block; the result is a small table, never pixels."""
    k, core = walk.place(key)
    pair = walk.pairs[k]
    d = pair.boundary_px
    seen = core.grown(d).clipped(pair.georef.shape)
    truth, pred = pair.truth.source.read(seen), pair.pred.source.read(seen)
    inner = core.within(seen).slices
    count = PanopticCount.of(
        (truth[0][inner], truth[1][inner]),
        (pred[0][inner], pred[1][inner]),
        pair.sides,
        (core.row, core.col),
    )
    outline = Tally(Contingency.sum, len)
    for top in range(0, core.height if d else 0, _STRIP):
        strip = Window(core.row + top, core.col, min(_STRIP, core.height - top), core.width)
        wanted, there = strip.grown(d), strip.grown(d).clipped(pair.georef.shape)
        part = there.within(seen).slices
        outline.add(
            count_outlines(
                _padded((truth[0][part], truth[1][part]), pair.sides.truth, wanted, there),
                _padded((pred[0][part], pred[1][part]), pair.sides.pred, wanted, there),
                d,
            )
        )
    return {"count": count, "outline": outline.total()}


def _padded(
    side: tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]],
    code: ClassCode,
    wanted: Window,
    seen: Window,
) -> npt.NDArray[np.uint32]:
    """Return the labels of the wanted window; OUTSIDE where it reaches beyond the frame."""
    return np.pad(
        labels_of(*side, code),
        (
            (seen.row - wanted.row, wanted.row_stop - seen.row_stop),
            (seen.col - wanted.col, wanted.col_stop - seen.col_stop),
        ),
        constant_values=OUTSIDE,
    )


def count_pairs(
    walk: Walk, engine: EngineSpec, progress: Progress | None = None
) -> list[SceneCount]:
    """Count all pairs; tables are added as they come, so memory does not grow with the area.

    Raises what the blocks raise: SceneError for a file that cannot be read, SchemaError for
    labels no schema knows. A figure from a part of the scene would be wrong, so none is made.
    """
    counts = [PanopticCount.tally() for _ in walk.pairs]
    outlines = [Tally(Contingency.sum, len) for _ in walk.pairs]
    done = 0

    def settle(key: int, result: dict[str, Any]) -> None:
        nonlocal done
        k, core = walk.place(key)
        counts[k].add(result["count"])
        outlines[k].add(result["outline"])
        done += core.area_px
        if progress is not None:
            progress("count", done, total)

    total = sum(p.georef.shape[0] * p.georef.shape[1] for p in walk.pairs)
    with open_engine(engine) as running:
        failures = running.run(partial(count_block, walk), range(len(walk)), settle)
    if failures:
        raise SceneError(
            f"{len(failures)} of {len(walk)} blocks could not be counted; the first: "
            f"{failures[0].cause}"
        )
    return [SceneCount(c.total(), o.total()) for c, o in zip(counts, outlines, strict=True)]

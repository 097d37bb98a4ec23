"""Uncertainty: a block bootstrap of the additive statistics over blocks of ground.

Neighbouring objects are alike, so whole blocks of ground are drawn, not objects (Künsch 1989).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.metrics.count import PanopticCount
from geopanoptic.metrics.overlap import SegmentSide
from geopanoptic.metrics.quality import Matching

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_FIXED = 2.0**30  # IoU sums are counted in whole 2^-30, so float64 sums are exact in any order


@dataclass(frozen=True, slots=True)
class GroundStats:
    """Statistics per ground block; int64. `tp fp fn iou` (blocks, n+1), iou in 2^-30;
    `confusion` (blocks, n+1, n+1). `by_pixels`: classes whose PQ comes from the confusion.
    """

    tp: Ints
    fp: Ints
    fn: Ints
    iou: Ints
    confusion: Ints
    by_pixels: frozenset[int]

    @classmethod
    def of(
        cls,
        count: PanopticCount,
        matched: Matching,
        grid: tuple[int, int, int],
        n_classes: int,
        by_pixels: frozenset[int],
    ) -> GroundStats:
        """Give each object to the block that holds the middle of its box.

        `grid` = (edge px, blocks down, blocks across). A match and a miss belong to the truth's
        block, a false object to its own. Blocks without judged pixels are left out.
        """
        edge, down, across = grid
        o, n = matched.overlap, n_classes + 1
        cells = down * across

        def table(side: SegmentSide, rows: Ints, weight: Ints | None = None) -> Ints:
            middle = (side.bbox[rows, :2] + side.bbox[rows, 2:]) // 2
            block = (middle[:, 0] // edge) * across + middle[:, 1] // edge
            flat = np.bincount(block * n + side.class_id[rows], weight, minlength=cells * n)
            return flat.astype(np.int64).reshape(cells, n)

        hit = o.t[matched.pair]
        confusion = np.zeros((cells, n, n), np.int64)
        block, code = count.ground.a, count.ground.b
        confusion[block, code // 256, code % 256] = count.ground.pixels
        kept = confusion[:, 1:].sum(axis=(1, 2)) > 0
        return cls(
            table(o.truth, hit)[kept],
            table(o.pred, np.flatnonzero(matched.fp))[kept],
            table(o.truth, np.flatnonzero(matched.fn))[kept],
            table(o.truth, hit, np.round(matched.iou * _FIXED))[kept],
            confusion[kept],
            by_pixels,
        )

    @classmethod
    def concatenate(cls, parts: Sequence[GroundStats]) -> GroundStats:
        """Stack the blocks of several scenes."""
        return cls(
            np.concatenate([p.tp for p in parts]),
            np.concatenate([p.fp for p in parts]),
            np.concatenate([p.fn for p in parts]),
            np.concatenate([p.iou for p in parts]),
            np.concatenate([p.confusion for p in parts]),
            parts[0].by_pixels,
        )

    def __len__(self) -> int:
        return len(self.tp)


@dataclass(frozen=True, slots=True)
class Intervals:
    """95 % intervals [low, high] of each named measure; None where it is mostly undefined."""

    replicates: int
    blocks: int
    values: dict[str, Any]


def bootstrap(stats: GroundStats, replicates: int, groups: dict[str, list[int]]) -> Intervals:
    """Draw as many blocks as there are, with replacement, `replicates` times (seed 0).

    `groups`: name -> classes over which PQ is averaged ('all', 'things', 'stuff'). Measures:
    ``pq`` per group and class, ``f1`` and ``iou`` per class, ``miou`` and ``oa``. The interval is
    the 2.5 and 97.5 percentile. Fewer than 2 blocks: no interval.
    """
    blocks = len(stats)
    if blocks < 2 or replicates < 2:
        return Intervals(replicates, blocks, {})
    rng = np.random.default_rng(0)
    draws = rng.multinomial(blocks, np.full(blocks, 1 / blocks), size=replicates)
    weight = draws.astype(np.float64)
    tp, fp, fn, iou = (
        weight @ x.astype(np.float64) for x in (stats.tp, stats.fp, stats.fn, stats.iou)
    )
    iou = iou / _FIXED
    n = stats.tp.shape[1]
    confusion = (weight @ stats.confusion.reshape(blocks, n * n).astype(np.float64)).reshape(
        replicates, n, n
    )
    hit = np.diagonal(confusion, axis1=1, axis2=2)
    truth, pred = confusion.sum(axis=2), confusion[:, 1:].sum(axis=1)
    union = truth + pred - hit
    class_iou = _divide(hit, union)
    for c in stats.by_pixels:
        good = np.nan_to_num(class_iou[:, c]) > 0.5
        ignored = 2 * confusion[:, 0, c] > confusion[:, :, c].sum(axis=1)
        tp[:, c], iou[:, c] = good, np.where(good, class_iou[:, c], 0.0)
        fn[:, c] = ~good & (truth[:, c] > 0)
        fp[:, c] = ~good & (confusion[:, :, c].sum(axis=1) > 0) & ~ignored
    pq = _divide(iou, tp + 0.5 * fp + 0.5 * fn)
    f1 = _divide(2 * tp, 2 * tp + fp + fn)
    named: dict[str, Floats] = {
        f"pq.{name}": _mean_defined(pq[:, classes]) for name, classes in groups.items() if classes
    }
    shown = sorted({c for classes in groups.values() for c in classes})
    named["miou"] = _mean_defined(class_iou[:, shown])
    judged = confusion[:, 1:].sum(axis=(1, 2))
    named["oa"] = _divide(hit[:, 1:].sum(axis=1), judged)
    for c in shown:
        named |= {f"pq:{c}": pq[:, c], f"f1:{c}": f1[:, c], f"iou:{c}": class_iou[:, c]}
    return Intervals(replicates, blocks, {k: _interval(v) for k, v in named.items()})


def _divide(a: Any, b: Any) -> Floats:
    return np.divide(a, b, out=np.full(np.shape(b), np.nan), where=b > 0)


def _mean_defined(values: Floats) -> Floats:
    defined = ~np.isnan(values)
    return _divide(np.where(defined, values, 0.0).sum(axis=1), defined.sum(axis=1))


def _interval(values: Floats) -> list[float] | None:
    defined = values[~np.isnan(values)]
    if len(defined) < 0.95 * len(values):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return [float(low), float(high)]

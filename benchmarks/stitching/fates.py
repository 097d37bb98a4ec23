"""Measure a stitched map against a reference: PQ, and what happened to every reference object."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.contingency import Contingency
from geopanoptic.grid import TileGrid
from geopanoptic.stitch.kernels import runs

Labels = npt.NDArray[np.integer[Any]]
ERRORS = ("lost", "merged", "split")


def panoptic_quality(table: Contingency, refs: Any = None, preds: Any = None) -> float:
    """Return PQ of one class: matches have IoU > 0.5; `refs`, `preds` bool by id say who counts.

    A match counts if its reference does; an unmatched prediction if `preds` says so.
    """
    iou = table.iou()
    match = (table.a > 0) & (table.b > 0) & (iou > 0.5)
    ref_ids, pred_ids = table.areas_a()[0], table.areas_b()[0]
    ref_ids, pred_ids = ref_ids[ref_ids > 0], pred_ids[pred_ids > 0]
    counted = match if refs is None else match & refs[table.a]
    free = np.setdiff1d(pred_ids, table.b[match])
    missed = np.setdiff1d(ref_ids, table.a[match])
    if refs is not None:
        missed, free = missed[refs[missed]], free[preds[free]]
    total = counted.sum() + (len(free) + len(missed)) / 2
    return float(iou[counted].sum() / total) if total else 1.0


def crossing(labels: Labels, grid: TileGrid) -> npt.NDArray[np.bool_]:
    """Tell for each id 0..n whether its pixels lie in more than one core."""
    first = np.full(int(labels.max(initial=0)) + 1, -1, np.int64)
    crosses = np.zeros(len(first), bool)
    for tile in grid:
        ids = np.unique(runs(labels[tile.core.slices])[:, 0])
        crosses[ids] |= (first[ids] >= 0) & (first[ids] != tile.index)
        first[ids] = tile.index
    crosses[0] = False
    return crosses


@dataclass(frozen=True)
class Fates:
    """What happened to each reference id 0..n: bool columns; `duplicated` is counted apart.

    lost: less than 25 % is covered. merged: its best piece also covers half of another object.
    split: a second piece has 10 % of it and lies mostly on it, or has 40 % of it (less may be a
    neighbour's wandering boundary). duplicated: a further piece that lies mostly on it, of 4 px
    or more. The first three exclude each other in that order; `error` is any of them.
    """

    lost: npt.NDArray[np.bool_]
    merged: npt.NDArray[np.bool_]
    split: npt.NDArray[np.bool_]
    duplicated: npt.NDArray[np.bool_]

    @property
    def error(self) -> npt.NDArray[np.bool_]:
        return self.lost | self.merged | self.split


def fates(table: Contingency, n: int) -> Fates:
    """Read the fate of references 1..n from the contingency (reference, result)."""
    area = np.zeros(n + 1, np.int64)
    ids, px = table.areas_a()
    area[ids] = px
    rows = (table.a > 0) & (table.b > 0)
    a, b, shared = table.a[rows], table.b[rows], table.pixels[rows]
    share = shared / area[a]
    lost = np.bincount(a, shared, minlength=n + 1) < 0.25 * area
    order = np.lexsort((b, -shared, a))
    first = np.unique(a[order], return_index=True)[1]
    best = np.zeros(n + 1, np.int64)
    best[a[order][first]] = b[order][first]
    half = share >= 0.5
    hosts = np.bincount(b[half], minlength=int(b.max(initial=0)) + 1)
    own_half = np.bincount(a[half & (b == best[a])], minlength=n + 1) > 0
    merged = (best > 0) & (hosts[best] - own_half >= 1)
    pred_px = np.zeros(int(table.b.max(initial=0)) + 1, np.int64)
    ids, px = table.areas_b()
    pred_px[ids] = px
    mostly = shared >= 0.5 * pred_px[b]
    second = b != best[a]
    parts = second & (((share >= 0.1) & mostly) | (share >= 0.4))
    split = np.bincount(a[parts], minlength=n + 1) > 0
    duplicated = np.bincount(a[second & mostly & (shared >= 4)], minlength=n + 1) > 0
    there = np.arange(n + 1) > 0
    merged, split = merged & ~lost, split & ~lost & ~(merged & ~lost)
    return Fates(lost & there & (area > 0), merged, split, duplicated)

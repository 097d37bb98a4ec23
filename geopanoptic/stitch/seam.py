"""Compare two neighbouring tiles in the strip they share, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.contingency import Contingency
from geopanoptic.grid import Window
from geopanoptic.stitch.kernels import cc4, label_of_pieces
from geopanoptic.stitch.tables import OVERLAP, REFUSED, SAME, SeamTable, TileLabels

MIN_SHARED_PX = 4  # fewer shared pixels join only pieces that are equal
MIN_TOUCHING_PX = 3  # without a halo: the least common length on the two lines at the seam
CLASS_IOU = 0.7  # pieces of different classes are one object only if they fit this well

Array = npt.NDArray[Any]


def match_seam(a: TileLabels, b: TileLabels, threshold: float) -> SeamTable:
    """Say which labels of two neighbouring tiles meet, and which are one.

    `a` and `b` are side or diagonal neighbours; only pixels in both windows are looked at. Each
    side is cut to the strip and falls into 4-connected pieces; two pieces are one when each is
    the other's best (most shared pixels; ties go to the piece that comes first in raster order),
    their IoU in the strip is at least `threshold`, and they share 4 px or are equal. Labels of
    such pieces are SAME if their classes agree or that IoU is at least 0.7, else REFUSED.

    Comparing pieces, not labels, is what makes the rule exact for objects that leave and re-enter
    the strip; mutual best is what keeps touching objects apart. Without a halo the windows only
    touch: then the two lines of pixels at the seam are compared (at least 3 px in common), and
    diagonal neighbours have nothing to compare.

    Law: match_seam(a, b, t) == match_seam(b, a, t).
    """
    if a.tile.index > b.tile.index:
        a, b = b, a
    crops = _strips(a, b)
    if crops is None:
        return SeamTable.empty()
    in_a, in_b, touching = crops
    pieces_a, n_a = cc4(np.ascontiguousarray(in_a))
    pieces_b, n_b = cc4(np.ascontiguousarray(in_b))
    table = Contingency.of(pieces_a, pieces_b)
    table = _rows(table, (table.a > 0) | (table.b > 0))
    iou = _mutual_iou(table, threshold, touching)
    label_a = label_of_pieces(pieces_a, n_a, in_a)[table.a]
    label_b = label_of_pieces(pieces_b, n_b, in_b)[table.b]
    return _per_label(a, b, (label_a, label_b), table.pixels, iou)


def _strips(a: TileLabels, b: TileLabels) -> tuple[Array, Array, bool] | None:
    """Return both sides' labels where they meet, and whether they only touch; None: not at all."""
    line_a = line_b = a.tile.window & b.tile.window
    touching = line_a.is_empty
    if touching:
        line_a, line_b = _touching_lines(a.tile.window, b.tile.window)
    if line_a.is_empty:
        return None
    in_a = a.labels[line_a.within(a.tile.window).slices]
    in_b = b.labels[line_b.within(b.tile.window).slices]
    return in_a, in_b, touching


def _touching_lines(a: Window, b: Window) -> tuple[Window, Window]:
    """Return the 1-px lines on both sides of the edge where `a` touches `b` (right or below)."""
    if a.col_stop == b.col:
        line = Window.from_bounds(max(a.row, b.row), b.col, min(a.row_stop, b.row_stop), b.col + 1)
        return line.shifted(0, -1), line
    if a.row_stop == b.row:
        line = Window.from_bounds(b.row, max(a.col, b.col), b.row + 1, min(a.col_stop, b.col_stop))
        return line.shifted(-1, 0), line
    return Window(0, 0, 0, 0), Window(0, 0, 0, 0)


def _rows(table: Contingency, keep: npt.NDArray[np.bool_]) -> Contingency:
    return Contingency(table.a[keep], table.b[keep], table.pixels[keep])


def _mutual_iou(table: Contingency, threshold: float, touching: bool) -> npt.NDArray[np.float64]:
    """Return the IoU of rows that are each other's best and good enough; 0 for other rows."""
    iou = table.iou() if len(table) else np.zeros(0)
    both = np.flatnonzero((table.a > 0) & (table.b > 0))
    a, b, pixels = table.a[both], table.b[both], table.pixels[both]
    mutual = _is_best(a, b, pixels) & _is_best(b, a, pixels)
    enough = pixels >= (MIN_TOUCHING_PX if touching else MIN_SHARED_PX)
    if not touching:
        enough |= iou[both] == 1
    good = mutual & enough & (iou[both] >= threshold)
    result = np.zeros(len(table))
    result[both[good]] = iou[both[good]]
    return result


def _is_best(of: npt.NDArray[np.int64], partner: Array, pixels: Array) -> npt.NDArray[np.bool_]:
    """Tell which rows are the best of their `of`: most pixels, ties to the lower partner."""
    order = np.lexsort((partner, -pixels, of))
    first = np.ones(len(of), bool)
    first[1:] = of[order][1:] != of[order][:-1]
    best = np.zeros(len(of), bool)
    best[order[first]] = True
    return best


def _per_label(
    a: TileLabels, b: TileLabels, labels: tuple[Array, Array], pixels: Array, iou: Array
) -> SeamTable:
    """Gather rows of pieces into rows of labels and let the classes have their say."""
    sums = Contingency.from_rows(*labels, pixels)
    key = (labels[0].astype(np.int64) << 32) | labels[1]
    row = np.searchsorted((sums.a << 32) | sums.b, key)
    best = np.zeros(len(sums))
    np.maximum.at(best, row, iou)
    joined = np.flatnonzero(best > 0)
    class_a = a.nodes.class_id[sums.a[joined] - 1]
    class_b = b.nodes.class_id[sums.b[joined] - 1]
    fits = (class_a == class_b) | (best[joined] >= CLASS_IOU)
    verdict = np.full(len(sums), OVERLAP, np.uint8)
    verdict[joined] = np.where(fits, SAME, REFUSED)
    n = len(sums)
    return SeamTable(
        tile_a=np.full(n, a.tile.index, np.int64),
        label_a=sums.a.astype(np.int32),
        tile_b=np.full(n, b.tile.index, np.int64),
        label_b=sums.b.astype(np.int32),
        pixels=sums.pixels,
        iou=best.astype(np.float32),
        verdict=verdict,
    )

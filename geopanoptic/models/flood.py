"""Compiled kernels of the decoder: one pass over the pixels each, 4-connected, deterministic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from geopanoptic.segments import SCORE_NONE, SCORE_ONE

if TYPE_CHECKING:
    from geopanoptic.models.decode import ThingRows

U8 = npt.NDArray[np.uint8]
I32 = npt.NDArray[np.int32]


def classify(
    semantic: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_], rows: ThingRows
) -> tuple[U8, U8, U8, U8, int]:
    """Return stuff, region, claim, score and the number of pixels that are not finite.

    `stuff`: best stuff class; `region`: row + 1 of the thing class that claims the pixel, else 0;
    `claim`, `score`: probability of that thing and of the stuff class, 0..200, 255 none.
    """
    out = np.empty((4, *valid.shape), np.uint8)
    classes = (rows.thing_channels, rows.region, rows.stuff_channels, rows.stuff)
    bad = _classify(semantic, valid, classes, out)
    stuff, region, claim, score = out
    return stuff, region, claim, score, int(bad)


@njit(cache=True, nogil=True, boundscheck=False)
def _classify(p: Any, valid: Any, classes: Any, out: Any) -> int:
    things, least, stuffs, ids = classes
    one, half = np.float32(1.0), np.float32(0.5)
    bad = 0
    for r in range(valid.shape[0]):
        for c in range(valid.shape[1]):
            out[0, r, c] = out[1, r, c] = 0
            out[2, r, c] = out[3, r, c] = SCORE_NONE
            if not valid[r, c]:
                continue
            best, value = 0, np.float32(-1.0)
            for k in range(len(stuffs)):
                q = p[stuffs[k], r, c]
                if q > value:
                    best, value = k, q
            total = np.float32(0.0)
            top, claimed = -1, np.float32(-1.0)
            for k in range(len(things)):
                q = p[things[k], r, c]
                total += q
                if q >= least[k] and q > claimed:
                    top, claimed = k, q
            if not np.isfinite(total + value) or value < 0:
                bad += 1
                continue
            out[0, r, c] = ids[best]
            out[3, r, c] = np.uint8(min(value, one) * SCORE_ONE + half)
            if top >= 0:
                out[1, r, c] = top + 1
                out[2, r, c] = np.uint8(min(claimed, one) * SCORE_ONE + half)
    return bad


@njit(cache=True, nogil=True, boundscheck=False)
def quantised(strength: Any, region: Any) -> Any:
    """Return the strength field (h, w) in 0..1 as bytes 1..255 inside the region, 0 outside."""
    out = np.zeros(region.shape, np.uint8)
    for r in range(region.shape[0]):
        for c in range(region.shape[1]):
            if region[r, c]:
                v = strength[r, c]
                if v > 0:  # also refuses NaN
                    out[r, c] = max(np.uint8(min(v, np.float32(1.0)) * 255), np.uint8(1))
                else:
                    out[r, c] = 1
    return out


@njit(cache=True, nogil=True, boundscheck=False)
def seeds(priority: Any, region: Any, ratio: Any, peak: Any) -> Any:
    """Label the seeds: tops of the strength field that are parted by a deep enough saddle.

    Pixels are taken from the strongest down, each joining the basin beside it. Where two basins of
    one class first meet, they become one unless the saddle is below `ratio` times the lower of
    their peaks and both peaks reach `peak` (bytes); so a neck inside a roof joins, the weak line
    between two roofs parts, whatever their widths (dynamics, Grimaud 1992, as a quotient).
    `ratio`, `peak`: per thing class. Returns labels (h, w) int32 of the pixels at or above `ratio`
    times their basin's peak, and per label its row of the thing classes (entry 0 unused).
    """
    rows, cols = region.shape
    order = _strongest_first(priority, region)
    parent = np.full(rows * cols, -1, np.int32)
    flat, kind = priority.ravel(), region.ravel()
    for here in order:
        parent[here] = here
        root = here
        r, c = here // cols, here % cols
        for dr, dc in ((-1, 0), (0, -1), (0, 1), (1, 0)):
            y, x = r + dr, c + dc
            if y < 0 or x < 0 or y >= rows or x >= cols:
                continue
            there = y * cols + x
            if parent[there] < 0 or kind[there] != kind[here]:
                continue
            other = _root(parent, there)
            if other == root:
                continue
            # a basin's root is its strongest pixel, so the later one is the lower peak
            k = kind[here] - 1
            low = min(flat[root], flat[other])
            if root == here or low < peak[k] or flat[here] >= ratio[k] * low:
                high = other if flat[other] >= flat[root] else root
                parent[root] = high
                parent[other] = high
                root = high
    return _core_labels(order, parent, (flat, kind, ratio), region.shape)


@njit(cache=True, nogil=True, boundscheck=False)
def _strongest_first(priority: Any, region: Any) -> Any:
    """Return the flat indices of the region's pixels by falling priority, then in raster order."""
    flat, kind = priority.ravel(), region.ravel()
    start = np.zeros(257, np.int64)
    for i in range(len(flat)):
        if kind[i]:
            start[256 - np.int64(flat[i])] += 1
    for v in range(1, 257):
        start[v] += start[v - 1]
    order = np.empty(start[256], np.int32)
    for i in range(len(flat)):
        if kind[i]:
            place = 255 - np.int64(flat[i])
            order[start[place]] = i
            start[place] += 1
    return order


@njit(cache=True, nogil=True, boundscheck=False)
def _root(parent: Any, i: int) -> int:
    """Return the root of a pixel's basin, halving the way to it."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True, nogil=True, boundscheck=False)
def _core_labels(order: Any, parent: Any, facts: Any, shape: Any) -> Any:
    """Number the basins in the order of their peaks and label their pixels near the peak."""
    flat, kind, ratio = facts
    label = np.zeros(shape[0] * shape[1], np.int32)
    number = np.zeros(shape[0] * shape[1], np.int32)
    row = [0]
    for here in order:
        root = _root(parent, here)
        k = kind[root] - 1
        if number[root] == 0:
            row.append(int(k))
            number[root] = len(row) - 1
        if flat[here] >= ratio[k] * flat[root]:
            label[here] = number[root]
    return label.reshape(shape), np.array(row, np.int64)


@njit(cache=True, nogil=True, boundscheck=False)
def grow(priority: Any, region: Any, label: Any) -> None:
    """Grow the labels over their regions in place, highest strength first, first come first served.

    Flooding with one queue per byte level (Meyer 1991); equal levels are served in the order of
    arrival, so a plateau is shared by distance.
    """
    rows, cols = region.shape
    following = np.full(rows * cols, -1, np.int64)
    head = np.full(256, -1, np.int64)
    tail = np.full(256, -1, np.int64)
    for r in range(rows):
        for c in range(cols):
            if label[r, c]:
                _push(following, head, tail, r * cols + c, priority[r, c])
    for level in range(255, -1, -1):
        while head[level] >= 0:
            here = head[level]
            head[level] = following[here]
            r, c = here // cols, here % cols
            for dr, dc in ((-1, 0), (0, -1), (0, 1), (1, 0)):
                y, x = r + dr, c + dc
                if y < 0 or x < 0 or y >= rows or x >= cols:
                    continue
                if label[y, x] == 0 and region[y, x] == region[r, c]:
                    label[y, x] = label[r, c]
                    _push(following, head, tail, y * cols + x, min(priority[y, x], level))


@njit(cache=True, nogil=True, boundscheck=False)
def _push(following: Any, head: Any, tail: Any, pixel: int, level: int) -> None:
    following[pixel] = -1
    if head[level] < 0:
        head[level] = pixel
    else:
        following[tail[level]] = pixel
    tail[level] = pixel


class Kept(NamedTuple):
    """What is known of the instances 1..n: class row, mean claim, mean claim of the outline."""

    row: npt.NDArray[np.int64]
    mean: npt.NDArray[np.float64]
    outline: npt.NDArray[np.float64]


def settle(
    label: I32, claim: U8, class_row: npt.NDArray[np.int64], rows: ThingRows
) -> tuple[I32, Kept]:
    """Drop specks and doubtful segments; return instances 1..n and what is known of them.

    The outline are the pixels that have another label or none beside them within the window; an
    instance that has no such pixel fills the window, and its outline is as sure as the rest.
    """
    n = len(class_row)
    area, total, edge_px, edge, rim = _facts(label, claim, n)
    mean = total / np.maximum(area, 1) / SCORE_ONE
    outline = np.where(edge_px > 0, edge / np.maximum(edge_px, 1) / SCORE_ONE, mean)
    row = class_row
    keep = (area > 0) & (mean >= rows.score[row]) & (rim | (area >= rows.area_px[row]))
    keep[0] = False
    number = np.zeros(n, np.int32)
    number[keep] = np.arange(1, keep.sum() + 1)
    return number[label], Kept(row[keep], mean[keep], outline[keep])


@njit(cache=True, nogil=True, boundscheck=False)
def _facts(label: Any, claim: Any, n: int) -> Any:
    """Return per label: area, summed claim, the same of the outline, whether it meets the rim."""
    rows, cols = label.shape
    area = np.zeros(n, np.int64)
    total = np.zeros(n, np.int64)
    edge_px = np.zeros(n, np.int64)
    edge = np.zeros(n, np.int64)
    rim = np.zeros(n, np.bool_)
    for r in range(rows):
        for c in range(cols):
            k = label[r, c]
            if k == 0:
                continue
            area[k] += 1
            total[k] += claim[r, c]
            if r == 0 or c == 0 or r == rows - 1 or c == cols - 1:
                rim[k] = True
            if (
                (r > 0 and label[r - 1, c] != k)
                or (c > 0 and label[r, c - 1] != k)
                or (c < cols - 1 and label[r, c + 1] != k)
                or (r < rows - 1 and label[r + 1, c] != k)
            ):
                edge_px[k] += 1
                edge[k] += claim[r, c]
    return area, total, edge_px, edge, rim

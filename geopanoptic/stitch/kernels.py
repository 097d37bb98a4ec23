"""The pixel loops of stitching: components of equal labels, sums per label, painting."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def _root(parent: Any, i: int) -> int:
    """Return the root of `i`, halving the path."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@numba.njit(cache=True, nogil=True)
def components(n: int, i: Any, j: Any) -> Any:
    """Return the component number of each of `n` nodes joined by edges (i, j); int64, shape (n,).

    Components are numbered by their lowest node. (As scipy's do, but without a quarter of a second
    to import them.)
    """
    parent = np.arange(n)
    for k in range(len(i)):
        a, b = _root(parent, i[k]), _root(parent, j[k])
        parent[max(a, b)] = min(a, b)
    number = np.empty(n, np.int64)
    count = 0
    for k in range(n):
        root = _root(parent, k)
        if root == k:
            number[k] = count
            count += 1
        else:
            number[k] = number[root]
    return number


@numba.njit(cache=True, nogil=True)
def cc4(labels: Any) -> Any:
    """Number the 4-connected components of equal non-zero labels in raster order.

    `labels`: integers, shape (rows, cols). Returns (pieces int32 of the same shape, count).
    Two passes with union-find. A union keeps the smaller provisional number, so that roots are in
    raster order of their component's first pixel.
    """
    rows, cols = labels.shape
    pieces = np.zeros((rows, cols), np.int32)
    parent = np.zeros(1024, np.int32)
    used = 1
    for r in range(rows):
        for c in range(cols):
            here = labels[r, c]
            if here == 0:
                continue
            up = pieces[r - 1, c] if r > 0 and labels[r - 1, c] == here else 0
            left = pieces[r, c - 1] if c > 0 and labels[r, c - 1] == here else 0
            if up == 0 and left == 0:
                if used == len(parent):
                    more = np.zeros(2 * used, np.int32)
                    more[:used] = parent
                    parent = more
                parent[used] = used
                pieces[r, c] = used
                used += 1
            elif up == 0 or left == 0 or up == left:
                pieces[r, c] = max(up, left)
            else:
                a, b = _root(parent, up), _root(parent, left)
                parent[max(a, b)] = min(a, b)
                pieces[r, c] = min(a, b)
    final = np.zeros(used, np.int32)
    count = 0
    for i in range(1, used):
        root = _root(parent, i)
        if root == i:
            count += 1
            final[i] = count
        else:
            final[i] = final[root]
    for r in range(rows):
        for c in range(cols):
            pieces[r, c] = final[pieces[r, c]]
    return pieces, count


@numba.njit(cache=True, nogil=True)
def node_sums(labels: Any, n: int, score: Any) -> Any:
    """Measure labels 1..n of an array in one pass.

    Returns `first` int64 (n,), the flat index of each label's first pixel; `sums` int64 (n, 3):
    pixels, sum of scores, pixels with a score (255 = none); `bbox` int32 (n, 4).
    """
    rows, cols = labels.shape
    first = np.zeros(n, np.int64)
    sums = np.zeros((n, 3), np.int64)
    bbox = np.zeros((n, 4), np.int32)
    for r in range(rows):
        for c in range(cols):
            k = labels[r, c] - 1
            if k < 0:
                continue
            if sums[k, 0] == 0:
                first[k] = r * cols + c
                bbox[k, 0], bbox[k, 1], bbox[k, 3] = r, c, c + 1
            bbox[k, 1] = min(bbox[k, 1], c)
            bbox[k, 2] = r + 1
            bbox[k, 3] = max(bbox[k, 3], c + 1)
            sums[k, 0] += 1
            if score[r, c] != 255:
                sums[k, 1] += score[r, c]
                sums[k, 2] += 1
    return first, sums, bbox


@numba.njit(cache=True, nogil=True)
def label_of_pieces(pieces: Any, n: int, labels: Any) -> Any:
    """Return for pieces 0..n the label they are part of; shape (n+1,), int32."""
    label = np.zeros(n + 1, np.int32)
    rows, cols = pieces.shape
    for r in range(rows):
        for c in range(cols):
            label[pieces[r, c]] = labels[r, c]
    label[0] = 0
    return label


@numba.njit(cache=True, nogil=True)
def paint(out: Any, labels: Any, gid: Any, mode: Any, least: int) -> None:
    """Paint the gids of labels whose mode is at least `least` where `out` is still 0."""
    rows, cols = out.shape
    for r in range(rows):
        for c in range(cols):
            k = labels[r, c]
            if k > 0 and out[r, c] == 0 and mode[k] >= least:
                out[r, c] = gid[k]


@numba.njit(cache=True, nogil=True)
def runs(ids: Any) -> Any:
    """Cut an array's rows into runs of equal non-zero ids; int64 (n, 4): id, row, start, stop."""
    rows, cols = ids.shape
    found = np.empty((1024, 4), np.int64)
    n = 0
    for r in range(rows):
        c = 0
        while c < cols:
            here = ids[r, c]
            start = c
            while c < cols and ids[r, c] == here:
                c += 1
            if here == 0:
                continue
            if n == len(found):
                more = np.empty((2 * n, 4), np.int64)
                more[:n] = found
                found = more
            found[n, 0], found[n, 1], found[n, 2], found[n, 3] = here, r, start, c
            n += 1
    return found[:n].copy()

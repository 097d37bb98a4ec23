"""Compiled loops over the pixels of a finished map: final labels, and what they add up to."""

from __future__ import annotations

from typing import Any

import numba


@numba.njit(cache=True, nogil=True)
def final_labels(
    part: tuple[Any, Any], final: Any, class_of: Any, semantic: Any, instances: Any
) -> None:
    """Fill `semantic` and `instances`, (row, col) like `part` = (gid, stuff class).

    A pixel with a gid gets its id ``final[gid]`` and that thing's class; where that is 0, and
    elsewhere, the stuff class stays.
    """
    gid, stuff = part
    rows, cols = gid.shape
    for r in range(rows):
        for c in range(cols):
            k = final[gid[r, c]]
            instances[r, c] = k
            semantic[r, c] = class_of[k] if k > 0 else stuff[r, c]


@numba.njit(cache=True, nogil=True)
def add_up(labels: Any, corner: tuple[int, int], areas: Any, boxes: Any) -> None:
    """Add the pixels of a window's labels (row, col) to `areas`, and widen their `boxes`.

    `corner` (row, col) of the window; label k > 0 has row k of `areas` int64 and `boxes` int32
    (row, col, row_stop, col_stop). Label 0 is not counted.
    """
    top, left = corner
    rows, cols = labels.shape
    for r in range(rows):
        c = 0
        while c < cols:
            k, start = labels[r, c], c
            while c < cols and labels[r, c] == k:
                c += 1
            if k == 0:
                continue
            areas[k] += c - start
            boxes[k, 0] = min(boxes[k, 0], top + r)
            boxes[k, 1] = min(boxes[k, 1], left + start)
            boxes[k, 2] = max(boxes[k, 2], top + r + 1)
            boxes[k, 3] = max(boxes[k, 3], left + c)


@numba.njit(cache=True, nogil=True)
def add_scores(semantic: Any, score: Any, none: int, total: Any) -> None:
    """Add the scores of a window to `total` int64 (2, 256): sum and count of each class.

    Scores of `none` are not counted.
    """
    rows, cols = semantic.shape
    for r in range(rows):
        for c in range(cols):
            if score[r, c] != none:
                total[0, semantic[r, c]] += score[r, c]
                total[1, semantic[r, c]] += 1

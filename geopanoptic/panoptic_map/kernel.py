"""Compiled loops over the pixels of labels."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def decode_coco(rgb: Any, listed: Any, listed_class: Any, void: int) -> Any:
    """Return (class uint8, id int32, row and col of the first unlisted id or -1, -1).

    `rgb` uint8 (3, rows, cols); `listed` int64 sorted ids with `listed_class` uint8. Neighbours
    mostly have one id, so it is looked up only where it changes. Id 0 is void.
    """
    _, height, width = rgb.shape
    classes = np.empty((height, width), np.uint8)
    ids = np.empty((height, width), np.int32)
    last, last_class = np.int64(0), np.uint8(void)
    bad_row, bad_col = -1, -1
    for r in range(height):
        for c in range(width):
            k = np.int64(rgb[0, r, c]) | np.int64(rgb[1, r, c]) << 8 | np.int64(rgb[2, r, c]) << 16
            if k != last:
                last, last_class = k, np.uint8(void)
                if k != 0:
                    at = np.searchsorted(listed, k)
                    if at < len(listed) and listed[at] == k:
                        last_class = listed_class[at]
                    elif bad_row < 0:
                        bad_row, bad_col = r, c
            classes[r, c] = last_class
            ids[r, c] = k
    return classes, ids, bad_row, bad_col

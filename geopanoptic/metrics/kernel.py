"""The counting loop: one pass over the pixels, one hash table of label pairs."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_FIRST_SLOTS = 1 << 12


@numba.njit(cache=True, nogil=True)
def _find(keys: Any, key: Any) -> int:
    """Return the slot of `key` (stored as key + 1; 0 is an empty slot): linear probing."""
    mask = np.uint64(len(keys) - 1)
    # Fibonacci hashing: the high bits of key * 2^64 / golden ratio are well mixed
    slot = ((key * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)) & mask
    wanted = key + np.uint64(1)
    while keys[slot] != np.uint64(0) and keys[slot] != wanted:
        slot = (slot + np.uint64(1)) & mask
    return slot


@numba.njit(cache=True, nogil=True)
def _grown(keys: Any, table: Any) -> Any:
    """Return a table of twice the slots with the same rows."""
    more = np.zeros(2 * len(keys), np.uint64)
    rows = np.zeros((2 * len(keys), table.shape[1]), np.int64)
    for slot in range(len(keys)):
        if keys[slot] != np.uint64(0):
            to = _find(more, keys[slot] - np.uint64(1))
            more[to] = keys[slot]
            rows[to] = table[slot]
    return more, rows


@numba.njit(cache=True, nogil=True)
def _label(value: Any, identity: Any, code: Any, keeps: Any) -> Any:
    """Return the label of a pixel: 0 void, the instance id, or 2^31 + class."""
    if code[value] == 0:
        return np.uint64(0)
    if keeps[value] and identity > 0:
        return np.uint64(identity)
    return np.uint64(2147483648) + np.uint64(code[value])


@numba.njit(cache=True, nogil=True)
def _add(keys: Any, table: Any, used: int, key: Any, place: Any, classes: Any) -> Any:
    """Add a run of pixels to its row; return keys, table, used and the row's class conflict.

    `place` = (row, first col, stop col); `classes` = (truth class, prediction class). The
    conflict is 0, or 1 (2) when the truth's (prediction's) label had another class before.
    """
    slot = _find(keys, key)
    if keys[slot] == np.uint64(0):
        if 2 * (used + 1) > len(keys):
            keys, table = _grown(keys, table)
            slot = _find(keys, key)
        used += 1
        keys[slot] = key + np.uint64(1)
        row = table[slot]
        row[1], row[2] = place[0], place[1]
        row[5], row[6] = classes
    row = table[slot]
    row[0] += place[2] - place[1]
    row[2] = min(row[2], place[1])
    row[3] = place[0] + 1
    row[4] = max(row[4], place[2])
    conflict = 1 if row[5] != classes[0] else 2 if row[6] != classes[1] else 0
    return keys, table, used, conflict


@numba.njit(cache=True, nogil=True)
def _run_end(truth: Any, pred: Any, r: int, start: int, limit: int) -> int:
    """Return the first column after `start` where one of the four rasters changes, or `limit`."""
    (t_class, t_id), (p_class, p_id) = truth, pred
    tv, ti, pv, pi = t_class[r, start], t_id[r, start], p_class[r, start], p_id[r, start]
    stop = start + 1
    while (
        stop < limit
        and t_id[r, stop] == ti
        and p_id[r, stop] == pi
        and t_class[r, stop] == tv
        and p_class[r, stop] == pv
    ):
        stop += 1
    return stop


@numba.njit(cache=True, nogil=True)
def count_block(truth: Any, pred: Any, codes: Any, keeps: Any, frame: Any, sums: Any) -> Any:
    """Count the label pairs of one block.

    `truth`, `pred`: (class uint8, instance int32), shape (rows, cols). `codes` uint8 and `keeps`
    bool (2, 256): see ClassCode. `frame` int64: row and col of the first pixel, edge of a ground
    block, first ground row and col, ground blocks side by side. `sums`: row_px (2, n, rows) and
    ground_px (blocks, n, n), added to.

    Returns keys uint64 (truth << 32 | pred), rows int64 (px, bbox, classes), and the first fault
    (kind, row, col, value, class); kind 0 = none.
    """
    (t_class, t_id), (p_class, p_id) = truth, pred
    row_px, ground_px = sums
    height, width = t_class.shape
    row0, col0, edge = frame[0], frame[1], frame[2]
    keys = np.zeros(_FIRST_SLOTS, np.uint64)
    table = np.zeros((_FIRST_SLOTS, 7), np.int64)
    used = 0
    fault = np.zeros(5, np.int64)
    for r in range(height):
        block_row = ((row0 + r) // edge - frame[3]) * frame[5]
        start = 0
        while start < width:
            tv, ti, pv, pi = t_class[r, start], t_id[r, start], p_class[r, start], p_id[r, start]
            block_col = (col0 + start) // edge
            stop = _run_end(truth, pred, r, start, min(width, (block_col + 1) * edge - col0))
            tc, pc = codes[0, tv], codes[1, pv]
            if tc == 255 or pc == 255 or ti < 0 or pi < 0:
                kind = 1 if tc == 255 else 2 if pc == 255 else 3 if ti < 0 else 4
                value = tv if kind == 1 else pv if kind == 2 else ti if kind == 3 else pi
                fault[:] = np.array([kind, row0 + r, col0 + start, value, 0])
                return keys[:0], table[:0], fault
            a = _label(tv, ti, codes[0], keeps[0])
            b = _label(pv, pi, codes[1], keeps[1])
            keys, table, used, conflict = _add(
                keys,
                table,
                used,
                (a << np.uint64(32)) | b,
                (row0 + r, col0 + start, col0 + stop),
                (np.int64(tc), np.int64(pc)),
            )
            if conflict:
                value, cls = (ti, tc) if conflict == 1 else (pi, pc)
                fault[:] = np.array([4 + conflict, row0 + r, col0 + start, value, cls])
                return keys[:0], table[:0], fault
            n = stop - start
            row_px[0, tc, r] += n
            row_px[1, pc, r] += n
            ground_px[block_row + block_col - frame[4], tc, pc] += n
            start = stop
    full = keys != np.uint64(0)
    return keys[full] - np.uint64(1), table[full], fault

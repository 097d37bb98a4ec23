"""The counting loop: one pass over the pixels, one hash table of label pairs.

Each row is cut into runs of equal labels first, which the compiler turns into wide instructions;
only runs are looked up. A row of the table: px, first row, first col, stop row, stop col, truth
class, prediction class.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

_FIRST_SLOTS = 1 << 12
_COLUMNS = 7


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
    rows = np.zeros((2 * len(keys), _COLUMNS), np.int64)
    for slot in range(len(keys)):
        if keys[slot] != np.uint64(0):
            to = _find(more, keys[slot] - np.uint64(1))
            more[to] = keys[slot]
            for k in range(_COLUMNS):  # a slice assignment would take seconds to compile
                rows[to, k] = table[slot, k]
    return more, rows


@numba.njit(cache=True, nogil=True)
def _label(value: Any, identity: Any, codes: Any, keeps: Any, side: int) -> Any:
    """Return the label of a pixel: 0 void, the instance id, or 2^31 + class."""
    code = codes[side, value]
    if code == 0:
        return np.uint64(0)
    if keeps[side, value] and identity > 0:
        return np.uint64(identity)
    return np.uint64(2147483648) + np.uint64(code)


@numba.njit(cache=True, nogil=True)
def _add(keys: Any, table: Any, key: Any, place: Any, classes: Any) -> Any:
    """Add a run of pixels to its row; return (whether the row is new, class conflict).

    `place` = (row, first col, stop col); `classes` = (truth class, prediction class). The
    conflict is 0, or 1 (2) when the truth's (prediction's) label had another class before.
    """
    slot = _find(keys, key)
    is_new = keys[slot] == np.uint64(0)
    if is_new:
        keys[slot] = key + np.uint64(1)
        table[slot, 1], table[slot, 2] = place[0], place[1]
        table[slot, 5], table[slot, 6] = classes
    elif table[slot, 5] != classes[0]:
        return False, 1
    elif table[slot, 6] != classes[1]:
        return False, 2
    table[slot, 0] += place[2] - place[1]
    table[slot, 2] = min(table[slot, 2], place[1])
    table[slot, 3] = place[0] + 1
    table[slot, 4] = max(table[slot, 4], place[2])
    return is_new, 0


@numba.njit(cache=True, nogil=True)
def _note(fault: Any, kind: int, place: Any, value: Any, cls: Any) -> None:
    """Write down a fault and its pixel."""
    fault[0], fault[1], fault[2], fault[3], fault[4] = kind, place[0], place[1], value, cls


@numba.njit(cache=True, nogil=True)
def _cut_row(truth: Any, pred: Any, r: int, frame: Any, scratch: Any) -> int:
    """Cut a row into runs of equal labels within one ground block; return how many.

    `scratch` = (flags uint8 (cols + 8,), the same as uint64, starts int64 (cols + 1,)); starts
    of the runs, and the width after them, are written.
    """
    (t_class, t_id), (p_class, p_id) = truth, pred
    flags, eights, starts = scratch
    width = t_class.shape[1]
    flags[0] = 1
    for c in range(1, width):
        flags[c] = (
            (t_id[r, c] != t_id[r, c - 1])
            | (p_id[r, c] != p_id[r, c - 1])
            | (t_class[r, c] != t_class[r, c - 1])
            | (p_class[r, c] != p_class[r, c - 1])
        )
    edge = frame[2]
    for c in range((frame[1] // edge + 1) * edge - frame[1], width, edge):
        flags[c] = 1
    n = 0
    for word in range((width + 7) // 8):
        if eights[word] != np.uint64(0):
            for c in range(8 * word, min(8 * word + 8, width)):
                starts[n] = c
                n += flags[c]
    starts[n] = width
    return n


@numba.njit(cache=True, nogil=True)
def count_block(truth: Any, pred: Any, codes: Any, keeps: Any, frame: Any, sums: Any) -> Any:
    """Count the label pairs of one block.

    `truth`, `pred`: (class uint8, instance int32), shape (rows, cols). `codes` uint8 and `keeps`
    bool (2, 256): see ClassCode. `frame` int64: row and col of the first pixel, edge of a ground
    block, first ground row and col, ground blocks side by side. `sums`: row_px (rows, 2, n) and
    ground_px (blocks, n, n), added to; fault (5,): the first fault (kind, row, col, value, class),
    untouched when there is none; `scratch` of `_cut_row`.

    Returns keys uint64 ((truth << 32 | pred) + 1; 0 where a slot is empty) and their rows.
    """
    (t_class, t_id), (p_class, p_id) = truth, pred
    row_px, ground_px, fault, scratch = sums
    height = len(t_class)
    row0, col0, edge = frame[0], frame[1], frame[2]
    keys = np.zeros(_FIRST_SLOTS, np.uint64)
    table = np.zeros((_FIRST_SLOTS, _COLUMNS), np.int64)
    starts = scratch[2]
    used = 0
    for r in range(height):
        runs = _cut_row(truth, pred, r, frame, scratch)
        while 2 * (used + runs) > len(keys):
            keys, table = _grown(keys, table)
        block = ((row0 + r) // edge - frame[3]) * frame[5]
        next_block = (frame[4] + 1) * edge - col0
        for k in range(runs):
            c, stop = starts[k], starts[k + 1]
            if c >= next_block:
                block, next_block = block + 1, next_block + edge
            tv, ti, pv, pi = t_class[r, c], t_id[r, c], p_class[r, c], p_id[r, c]
            tc, pc = codes[0, tv], codes[1, pv]
            place = (row0 + r, col0 + c, col0 + stop)
            kind = 1 if tc == 255 else 2 if pc == 255 else 3 if ti < 0 else 4 if pi < 0 else 0
            if kind:
                value = tv if kind == 1 else pv if kind == 2 else ti if kind == 3 else pi
                _note(fault, kind, place, value, 0)
                return keys, table
            a, b = _label(tv, ti, codes, keeps, 0), _label(pv, pi, codes, keeps, 1)
            classes = (np.int64(tc), np.int64(pc))
            is_new, conflict = _add(keys, table, (a << np.uint64(32)) | b, place, classes)
            if conflict:
                value, cls = (ti, tc) if conflict == 1 else (pi, pc)
                _note(fault, 4 + conflict, place, value, cls)
                return keys, table
            used += is_new
            n = stop - c
            row_px[r, 0, tc] += n
            row_px[r, 1, pc] += n
            ground_px[block, tc, pc] += n
    return keys, table


@numba.njit(cache=True, nogil=True)
def paint_labels(classes: Any, ids: Any, code: Any, keeps: Any, out: Any) -> None:
    """Write the label of every pixel into `out` uint32 (see PanopticCount)."""
    for r in range(classes.shape[0]):
        for c in range(classes.shape[1]):
            value = classes[r, c]
            if code[value] == 0:
                out[r, c] = 0
            elif keeps[value] and ids[r, c] > 0:
                out[r, c] = ids[r, c]
            else:
                out[r, c] = np.uint32(2147483648) + code[value]


@numba.njit(cache=True, nogil=True)
def find_outlines(padded: Any, distance: int, out: Any) -> None:
    """Set `out` bool (rows, cols) where the square around a pixel is not one label.

    `padded` (rows + 2 d, cols + 2 d). A square is one label when each of its rows is, and its
    middle column does not change: counted down each column, in one pass over the rows.
    """
    d = distance
    height, width = padded.shape
    even = np.zeros(width, np.bool_)  # is the row one label over c-d .. c+d?
    run = np.zeros(width, np.int64)  # rows up to this one that are even and alike at this column
    for r in range(height):
        even[:] = False
        start = 0
        for c in range(1, width + 1):
            if c == width or padded[r, c] != padded[r, start]:
                for inner in range(start + d, c - d):
                    even[inner] = True
                start = c
        for c in range(d, width - d):
            if not even[c]:
                run[c] = 0
            elif run[c] > 0 and padded[r, c] == padded[r - 1, c]:
                run[c] += 1
            else:
                run[c] = 1
            if r >= 2 * d:
                out[r - 2 * d, c - d] = run[c] < 2 * d + 1

"""Fit walls to groups of buildings: from traced to the cells between wall lines, compiled."""

from __future__ import annotations

from typing import NamedTuple

import numba
import numpy as np
import numpy.typing as npt

from geopanoptic.polygons.regularize_cells import (
    count_pixels,
    drop_lines,
    own_cells,
    paint,
)
from geopanoptic.polygons.regularize_lines import collect_lines, merge_lines

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

MOST_LINES = 32  # along an axis, of one group
_Traced = tuple[Ints, Longs, Longs, Flags]  # `Traced` without its name
_ROOM = 512  # lines before they are merged


class Traced(NamedTuple):
    """Traced features: `coords` (m, 2) row, col; feature i has the rings
    ``feature_rings[i]:feature_rings[i + 1]``; `is_corner` (m,) ends of straight runs.
    """

    coords: Ints
    ring_offsets: Longs
    feature_rings: Longs
    is_corner: Flags


class Groups(NamedTuple):
    """Features fitted together: group g has ``member[offsets[g]:offsets[g + 1]]``; its frame
    (2, 2) turns (row, col) into (u, v), both in units of one pixel.
    """

    member: Longs
    offsets: Longs
    frames: Floats


class Rules(NamedTuple):
    """What a wall line must be: `gap_px` from the next one, worth `corner_px` a corner."""

    gap_px: float
    corner_px: float


class Fitted(NamedTuple):
    """Per group: wall lines `xs`, `ys` (n, MOST_LINES) in the frame, counted from the group's
    first vertex; `size` (n, 2) rows and columns of cells, the outermost ones included; `owner`
    (n, MOST_LINES + 1, MOST_LINES + 1) whose cell it is: 1 + place of the member in its group.
    A group without two lines each way has the size 0.
    """

    xs: Floats
    ys: Floats
    size: Longs
    owner: Ints


def fit_groups(traced: Traced, groups: Groups, rules: Rules) -> Fitted:
    """Fit every group; see `Fitted`. Takes and returns plain arrays."""
    n = len(groups.offsets) - 1
    cells = MOST_LINES + 1
    fitted = Fitted(
        np.zeros((n, MOST_LINES)),
        np.zeros((n, MOST_LINES)),
        np.zeros((n, 2), np.int64),
        np.zeros((n, cells, cells), np.int32),
    )
    # plain tuples: compiled code kept from an earlier version must not ask for a class by name
    _fit_all(
        (traced.coords, traced.ring_offsets, traced.feature_rings, traced.is_corner),
        (groups.member, groups.offsets, groups.frames),
        (rules.gap_px, rules.corner_px),
        (fitted.xs, fitted.ys, fitted.size, fitted.owner),
    )
    return fitted


@numba.njit(cache=True, nogil=True)
def _fit_all(
    traced: _Traced,
    groups: tuple[Longs, Longs, Floats],
    rules: tuple[float, float],
    fitted: tuple[Floats, Floats, Longs, Ints],
) -> None:
    coords, ring_offsets, feature_rings, _ = traced
    member, offsets, frames = groups
    gap_px, corner_px = rules
    all_xs, all_ys, sizes, owner = fitted
    lines = np.empty((_ROOM, 2)), np.empty((_ROOM, 2))
    for g in range(len(offsets) - 1):
        members = member[offsets[g] : offsets[g + 1]]
        canvas, origin = _picture(traced, members)
        frame = np.zeros((2, 3))
        frame[:, :2] = frames[g]
        n_x, n_y = _lines(traced, members, (frame, origin), gap_px, lines)
        if n_x < 2 or n_y < 2:
            continue
        xs, ys = lines[0][:n_x, 0].copy(), lines[1][:n_y, 0].copy()
        counts = np.empty((n_y + 1, n_x + 1, len(members) + 1))
        count_pixels(canvas, frame, xs, ys, counts)
        rows, cols = drop_lines(counts, (xs, ys), (n_y + 1, n_x + 1), corner_px)
        own_cells(counts, (rows, cols), owner[g])
        first = ring_offsets[feature_rings[members[0]]]
        row, col = coords[first, 0] - origin[0], coords[first, 1] - origin[1]
        all_xs[g, : cols - 1] = xs[: cols - 1] - (frame[0, 0] * row + frame[0, 1] * col)
        all_ys[g, : rows - 1] = ys[: rows - 1] - (frame[1, 0] * row + frame[1, 1] * col)
        sizes[g, 0], sizes[g, 1] = rows, cols


@numba.njit(cache=True, nogil=True)
def _picture(traced: _Traced, members: Longs) -> tuple[Ints, tuple[int, int]]:
    """Return differences along rows of the members' numbers 1.., and the canvas's (row, col)."""
    coords, ring_offsets, feature_rings, _ = traced
    top = left = 2**31 - 1
    bottom = right = -(2**31)
    for k in members:
        for j in range(ring_offsets[feature_rings[k]], ring_offsets[feature_rings[k + 1]]):
            top, bottom = min(top, coords[j, 0]), max(bottom, coords[j, 0])
            left, right = min(left, coords[j, 1]), max(right, coords[j, 1])
    canvas = np.zeros((bottom - top, right - left + 1), np.int32)
    origin = np.array([top, left], np.int32)
    for number, k in enumerate(members):
        first, last = feature_rings[k], feature_rings[k + 1]
        begin, stop = ring_offsets[first], ring_offsets[last]
        here = ring_offsets[first : last + 1] - begin
        paint(coords[begin:stop] - origin, here, number + 1, canvas)
    return canvas, (top, left)


@numba.njit(cache=True, nogil=True)
def _lines(
    traced: _Traced,
    members: Longs,
    place: tuple[Floats, tuple[int, int]],
    gap_px: float,
    lines: tuple[Floats, Floats],
) -> tuple[int, int]:
    """Fill `lines` along both axes for a group of features; return how many there are."""
    coords, ring_offsets, feature_rings, is_corner = traced
    frame, origin = place
    found = np.zeros(2, np.int64)
    for k in members:
        for ring in range(feature_rings[k], feature_rings[k + 1]):
            begin, stop = ring_offsets[ring], ring_offsets[ring + 1] - 1
            turned = np.empty((stop - begin, 2))
            for j in range(begin, stop):
                r, c = coords[j, 0] - origin[0], coords[j, 1] - origin[1]
                turned[j - begin, 0] = frame[0, 0] * r + frame[0, 1] * c
                turned[j - begin, 1] = frame[1, 0] * r + frame[1, 1] * c
            collect_lines(turned, is_corner[begin:stop], lines, found)
    n = merge_lines(lines[0], found[0], gap_px, MOST_LINES)
    m = merge_lines(lines[1], found[1], gap_px, MOST_LINES)
    return n, m

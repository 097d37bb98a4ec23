"""The walls of buildings: main direction and wall lines from traced outlines, in compiled code.

Chords of an outline vote for a direction modulo 90 degrees: one of length L at angle a adds
``L**2 * exp(4j * a)``, so that walls at right angles to each other vote alike. The outline is cut
into straight runs (Douglas and Peucker 1973); in that direction's frame (u, v) every run lies
along one of the two axes, and its line stands where it leaves the area on each side as it was.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_SPLIT_PX = 1.5  # an outline may leave its straight runs by this much
_SHORTEST_PX = 1.5  # runs that make less way than this along their axis are no walls
_CHORDS, _SHORTEST_CHORD, _LONGEST_CHORD = 10, 4, 24  # of a ring; pixels


@numba.njit(cache=True, nogil=True)
def mark_corners(
    outline: tuple[Floats, Longs],
    ring_offsets: Longs,
    feature_rings: Longs,
    is_corner: Flags,
    votes: Floats,
) -> None:
    """Find the ends of straight runs of every ring, and every feature's vote for a direction.

    `outline` = points (m, 2) of closed rings in a frame of squares of one pixel (east, north), and
    the pixels (m,) from each one to the next; feature i has the rings
    ``feature_rings[i]:feature_rings[i + 1]``. Fills `is_corner` (m,) and `votes`
    (n, 2): real and imaginary part of the sum of ``L**2 * exp(4j * angle)``.
    """
    points, steps = outline
    stack = np.empty((64, 2), np.int64)
    for i in range(feature_rings.size - 1):
        votes[i] = 0.0
        for ring in range(feature_rings[i], feature_rings[i + 1]):
            begin, stop = ring_offsets[ring], ring_offsets[ring + 1] - 1
            size = stop - begin
            middle_x, middle_y = points[begin:stop, 0].mean(), points[begin:stop, 1].mean()
            first = _farthest(points, begin, size, middle_x, middle_y)
            x, y = points[begin + first]
            other = _farthest(points, begin, size, x, y)
            if other < first:
                other += size
            is_corner[begin + first] = True
            is_corner[begin + other % size] = True
            spans = ((first, other), (other, first + size))
            for a, b in spans:
                if 2 * (b - a) > stack.shape[0]:
                    stack = np.empty((4 * (b - a), 2), np.int64)
                _split(points[begin:stop], a, b, is_corner[begin:stop], stack)
            _vote(points[begin:stop], steps[begin:stop], votes[i])


@numba.njit(cache=True, nogil=True)
def _farthest(points: Floats, begin: int, size: int, x: float, y: float) -> int:
    best, at = -1.0, 0
    for k in range(size):
        far = (points[begin + k, 0] - x) ** 2 + (points[begin + k, 1] - y) ** 2
        if far > best:
            best, at = far, k
    return at


@numba.njit(cache=True, nogil=True)
def _split(ring: Floats, start: int, end: int, is_corner: Flags, stack: Longs) -> None:
    """Mark vertices between `start` and `end` (modulo the ring) until no other one is far off."""
    n = len(ring)
    stack[0, 0], stack[0, 1] = start, end
    top = 1
    while top > 0:
        top -= 1
        a, b = stack[top]
        ax, ay = ring[a % n]
        dx, dy = ring[b % n, 0] - ax, ring[b % n, 1] - ay
        length = np.hypot(dx, dy)
        worst, at = _SPLIT_PX, -1
        for k in range(a + 1, b):
            x, y = ring[k % n, 0] - ax, ring[k % n, 1] - ay
            off = abs(dx * y - dy * x) / length if length > 0 else np.hypot(x, y)
            if off > worst:
                worst, at = off, k
        if at >= 0:
            is_corner[at % n] = True
            stack[top, 0], stack[top, 1] = a, at
            stack[top + 1, 0], stack[top + 1, 1] = at, b
            top += 2


@numba.njit(cache=True, nogil=True)
def _vote(ring: Floats, steps: Longs, votes: Floats) -> None:
    """Add the votes of the chords between points a tenth of the ring apart.

    Chords see past the teeth of an outline, where its single edges all run along pixels. `steps`
    are the lengths of the edges in pixels.
    """
    n, total = len(ring), int(steps.sum())
    points = np.empty((total, 2))
    at = 0
    for k in range(n):
        x, y = ring[k]
        dx, dy = ring[(k + 1) % n, 0] - x, ring[(k + 1) % n, 1] - y
        for j in range(steps[k]):
            points[at, 0] = x + dx * j / steps[k]
            points[at, 1] = y + dy * j / steps[k]
            at += 1
    reach = min(max(int(np.round(total / _CHORDS)), _SHORTEST_CHORD), _LONGEST_CHORD, total // 2)
    for k in range(total):
        j = k + reach if k + reach < total else k + reach - total
        x, y = points[j, 0] - points[k, 0], points[j, 1] - points[k, 1]
        square = x * x + y * y
        if square > 0:
            real, imaginary = x * x - y * y, 2 * x * y
            votes[0] += (real * real - imaginary * imaginary) / square
            votes[1] += 2 * real * imaginary / square


@numba.njit(cache=True, nogil=True)
def collect_lines(
    ring: Floats, is_corner: Flags, lines: tuple[Floats, Floats], counts: Longs
) -> None:
    """Append the wall lines of one ring (n, 2) of (u, v), last vertex not repeated.

    `lines` = (those along v at a u, those along u at a v), each (room, 2): place, length; `counts`
    (2,) says how many there are. Lines beyond the room are left out.
    """
    n = len(ring)
    corners = np.flatnonzero(is_corner)
    m = len(corners)
    if m < 2:
        return
    along_u = np.empty(m, np.bool_)
    for k in range(m):
        a, b = ring[corners[k]], ring[corners[(k + 1) % m]]
        along_u[k] = abs(b[0] - a[0]) >= abs(b[1] - a[1])
    start = 0
    while start < m and along_u[start] == along_u[start - 1]:
        start += 1
    if start == m:
        return
    k = 0
    while k < m:
        axis = along_u[(start + k) % m]
        first = corners[(start + k) % m]
        while k < m and along_u[(start + k) % m] == axis:
            k += 1
        last = corners[(start + k) % m]
        _add_line(ring, (first, last if last > first else last + n), axis, lines, counts)


@numba.njit(cache=True, nogil=True)
def _add_line(
    ring: Floats,
    span: tuple[int, int],
    along_u: bool,
    lines: tuple[Floats, Floats],
    counts: Longs,
) -> None:
    n, way, moment = len(ring), 0.0, 0.0
    a, b = (0, 1) if along_u else (1, 0)
    for j in range(span[0], span[1]):
        p, q = ring[j % n], ring[(j + 1) % n]
        way += q[a] - p[a]
        moment += (q[a] - p[a]) * (p[b] + q[b]) / 2
    if abs(way) < _SHORTEST_PX:
        return
    which = 1 if along_u else 0
    if counts[which] < len(lines[which]):
        lines[which][counts[which], 0] = moment / way
        lines[which][counts[which], 1] = abs(way)
        counts[which] += 1


@numba.njit(cache=True, nogil=True)
def merge_lines(lines: Floats, n: int, gap: float, most: int) -> int:
    """Merge the nearest two of the first `n` lines until all are `gap` apart and at most `most`.

    The merged line stands at the mean, weighted by length. Returns how many are left, in order of
    place.
    """
    order = np.argsort(lines[:n, 0], kind="mergesort")
    lines[:n] = lines[:n][order]
    while n > 1:
        nearest, at = np.inf, 0
        for k in range(n - 1):
            if lines[k + 1, 0] - lines[k, 0] < nearest:
                nearest, at = lines[k + 1, 0] - lines[k, 0], k
        if nearest >= gap and n <= most:
            break
        both = lines[at, 1] + lines[at + 1, 1]
        lines[at, 0] = (lines[at, 0] * lines[at, 1] + lines[at + 1, 0] * lines[at + 1, 1]) / both
        lines[at, 1] = both
        for k in range(at + 1, n - 1):
            lines[k] = lines[k + 1]
        n -= 1
    return n

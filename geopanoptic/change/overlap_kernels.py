"""The area that two polygons share, as a sum over pairs of their edges."""

from __future__ import annotations

import math

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def ring_signs(xy, ring_offsets, is_outer, signs):  # type: ignore[no-untyped-def]
    """Put +1 or -1 into `signs` (rings,): a ring times its sign adds (outer) or takes its area."""
    for k in range(len(signs)):
        first, stop = ring_offsets[k], ring_offsets[k + 1]
        twice = 0.0
        for i in range(first, stop - 1):
            twice += (xy[i, 0] - xy[first, 0]) * (xy[i + 1, 1] - xy[first, 1])
            twice -= (xy[i + 1, 0] - xy[first, 0]) * (xy[i, 1] - xy[first, 1])
        signs[k] = 1.0 if (twice > 0) == is_outer[k] else -1.0


@numba.njit(cache=True, nogil=True)
def first_ring_ends(xy, first, stop):  # type: ignore[no-untyped-def]
    """Tell for every object whether its first ring, the one that closes first, is all of it."""
    single = np.empty(len(first), np.bool_)
    for n in range(len(first)):
        k = first[n] + 1
        while k < stop[n] and (xy[k, 0] != xy[first[n], 0] or xy[k, 1] != xy[first[n], 1]):
            k += 1
        single[n] = k == stop[n] - 1
    return single


@numba.njit(cache=True, nogil=True)
def _lower(x0, x1, one, two):  # type: ignore[no-untyped-def]
    """Integrate the lower of two lines over x0..x1; a line is (x, y, slope)."""
    a0, a1 = one[1] + (x0 - one[0]) * one[2], one[1] + (x1 - one[0]) * one[2]
    b0, b1 = two[1] + (x0 - two[0]) * two[2], two[1] + (x1 - two[0]) * two[2]
    d0, d1 = a0 - b0, a1 - b1
    if d0 <= 0 and d1 <= 0:
        return 0.5 * (a0 + a1) * (x1 - x0)
    if d0 >= 0 and d1 >= 0:
        return 0.5 * (b0 + b1) * (x1 - x0)
    t = d0 / (d0 - d1)
    middle = a0 + t * (a1 - a0)
    return 0.5 * (x1 - x0) * (t * (min(a0, b0) + middle) + (1 - t) * (middle + min(a1, b1)))


@numba.njit(cache=True, nogil=True)
def shared_areas(one, two, pairs, out):  # type: ignore[no-untyped-def]
    """Put the shared area of every pair of objects into `out` (n,).

    `one`, `two`: (xy (m, 2), ring offsets, ring signs, first ring and number of rings of every
    object). `pairs`: (objects of one, objects of two, (n, 2) by which the latter are moved). A
    polygon is the signed sum of the regions below its edges, and the region below two edges ends
    at the lower one: the shared area is the sum over all pairs of edges of sign x sign x integral
    of the lower edge where they lie above each other. Exact but for rounding (1e-13 of the
    area); shared borders and touching corners are no special case.
    """
    xy1, rings1, signs1, first1, count1 = one
    xy2, rings2, signs2, first2, count2 = two
    for n in range(len(out)):
        i, j = pairs[0][n], pairs[1][n]
        out[n] = 0.0
        if count1[i] == 0 or count2[j] == 0:
            continue
        own = (first1[i], first1[i] + count1[i])
        its = (first2[j], first2[j] + count2[j])
        origin = (xy1[rings1[own[0]], 0], xy1[rings1[own[0]], 1])
        away = (origin[0] - pairs[2][n, 0], origin[1] - pairs[2][n, 1])
        low, high = math.inf, -math.inf
        for k in range(rings2[its[0]], rings2[its[1]]):
            low, high = min(low, xy2[k, 0]), max(high, xy2[k, 0])
        low, high = low - away[0], high - away[0]
        total = 0.0
        for r in range(own[0], own[1]):
            for k in range(rings1[r], rings1[r + 1] - 1):
                ax, bx = xy1[k, 0] - origin[0], xy1[k + 1, 0] - origin[0]
                left, right = max(min(ax, bx), low), min(max(ax, bx), high)
                if right <= left:
                    continue
                ay, by = xy1[k, 1] - origin[1], xy1[k + 1, 1] - origin[1]
                edge = (ax, ay, (by - ay) / (bx - ax))
                sign = -signs1[r] if bx > ax else signs1[r]
                total += sign * _below(edge, left, right, (xy2, rings2, signs2), away, its)
        out[n] = max(total, 0.0)


@numba.njit(cache=True, nogil=True)
def _below(edge, left, right, two, origin, rings):  # type: ignore[no-untyped-def]
    """Sum over the edges of the other object what lies below them and `edge` in left..right."""
    xy, offsets, signs = two
    total = 0.0
    for r in range(rings[0], rings[1]):
        for j in range(offsets[r], offsets[r + 1] - 1):
            cx, dx = xy[j, 0] - origin[0], xy[j + 1, 0] - origin[0]
            x0, x1 = max(min(cx, dx), left), min(max(cx, dx), right)
            if x1 <= x0:
                continue
            cy, dy = xy[j, 1] - origin[1], xy[j + 1, 1] - origin[1]
            sign = -signs[r] if dx > cx else signs[r]
            total += sign * _lower(x0, x1, edge, (cx, cy, (dy - cy) / (dx - cx)))
    return total

"""Count the pixels of every stratum row by row, and draw some of them at random."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.area.planes import Plane
from geopanoptic.errors import SceneError
from geopanoptic.grid import Shape, Window

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

STRIP_PX = 2**24  # pixels read at a time
MOST = 4096  # pairs of stratum and class; more are no strata but measurements


@dataclass(frozen=True)
class Census:
    """How many pixels of every (stratum, class) pair each row of the raster has.

    `pairs` int64 (pairs, 2): the values of both rasters, sorted. `per_row` int64 (rows, pairs).
    `row_area` (rows,): the true area of a pixel in m2 (1 without a CRS).
    """

    pairs: Ints
    per_row: Ints
    row_area: Floats

    @property
    def pixels(self) -> Ints:
        """Pixels of each pair."""
        return np.asarray(self.per_row.sum(axis=0))

    @property
    def area(self) -> Floats:
        """Area of each pair in m2."""
        return np.asarray(self.row_area @ self.per_row)


def strips(shape: Shape) -> Iterator[Window]:
    """Cut a raster into strips of whole rows."""
    step = max(1, STRIP_PX // shape[1])
    for row in range(0, shape[0], step):
        yield Window(row, 0, min(step, shape[0] - row), shape[1])


def take_census(strata: Plane, classes: Plane) -> Census:
    """Count both rasters in one pass; memory holds a strip and the table of counts.

    Raises SceneError when nothing is left to sample, or when the values are no labels.
    """
    shape = strata.georef.shape
    known: dict[int, int] = {}
    parts: list[tuple[int, Ints]] = []
    for window in strips(shape):
        row, code, length = _runs(strata, classes, window)
        values, inverse = np.unique(code, return_inverse=True)
        index = np.array([known.setdefault(int(v), len(known)) for v in values], np.int64)
        if len(known) > MOST:
            raise SceneError(
                f"{strata.path} and {classes.path} have more than {MOST} pairs of values; strata "
                f"are classes, transitions or statuses, not ids or measurements"
            )
        cells = (window.height, len(known))
        place = row * len(known) + index[inverse.ravel()]
        flat = np.bincount(place, length, minlength=cells[0] * cells[1])
        parts.append((window.row, np.rint(flat).astype(np.int64).reshape(cells)))
    per_row = np.zeros((shape[0], len(known)), np.int64)
    for first, flat in parts:
        per_row[first : first + len(flat), : flat.shape[1]] = flat
    found = np.array(list(known), np.int64)
    order = np.argsort(found)
    order = order[found[order] >= 0]
    if not len(order):
        raise SceneError(f"{strata.path} has nothing but nodata, so there is nothing to sample")
    pairs = np.stack([found[order] >> 32, found[order] & 0xFFFFFFFF], axis=1)
    return Census(pairs, per_row[:, order], strata.georef.row_area_m2())


def _read(strata: Plane, classes: Plane, window: Window) -> tuple[npt.NDArray[Any], ...]:
    a = strata.read(window)
    return a, a if classes is strata else classes.read(window)


def _runs(strata: Plane, classes: Plane, window: Window) -> tuple[Ints, Ints, Ints]:
    """Return (row in the window, code, length) of the runs of equal pixels in its rows."""
    a, b = (x.ravel() for x in _read(strata, classes, window))
    begins = np.zeros(window.height * window.width, bool)
    begins[:: window.width] = True
    begins[1:] |= a[1:] != a[:-1]
    if classes is not strata:
        begins[1:] |= b[1:] != b[:-1]
    start = np.flatnonzero(begins)
    length = np.diff(start, append=len(a))
    return start // window.width, _codes(a[start], b[start], (strata, classes)), length


def _codes(a: npt.NDArray[Any], b: npt.NDArray[Any], planes: tuple[Plane, Plane]) -> Ints:
    """Return stratum << 32 | class of every pixel, -1 where either is left out."""
    strata, classes = planes
    if min(a.min(initial=0), b.min(initial=0)) < 0:
        raise SceneError(f"{strata.path} or {classes.path} holds negative values; labels are not")
    out = np.isin(a, list(strata.left_out)) | np.isin(b, list(classes.left_out))
    return np.where(out, -1, a.astype(np.int64) << 32 | b.astype(np.int64))


@dataclass(frozen=True)
class Drawn:
    """Pixels drawn: `row`, `col`, and `pair`, the row of `Census.pairs` they belong to."""

    row: Ints
    col: Ints
    pair: Ints


def draw_pixels(
    census: Census,
    stratum_of: Ints,
    units: Ints,
    planes: tuple[Plane, Plane],
    rng: np.random.Generator,
) -> Drawn:
    """Draw `units[h]` different pixels of each stratum h, every m2 of it as likely as any other.

    `stratum_of` (pairs,): the stratum of each pair. Pixels of unequal size (degrees) are drawn in
    proportion to their true area, so that the mean over the sample is the mean over the ground.
    Rows come from the census; one more pass over the rows drawn finds the columns.
    """
    row, rank, stratum = [], [], []
    for h, n in enumerate(units.tolist()):
        per_row = census.per_row[:, stratum_of == h].sum(axis=1)
        rows, ranks = _draw_ranks(per_row, census.row_area, n, rng)
        row.append(rows)
        rank.append(ranks)
        stratum.append(np.full(len(rows), h))
    rows, ranks, strata = (np.concatenate(parts) for parts in (row, rank, stratum))
    return _locate(census, stratum_of, planes, (rows, ranks, strata))


def _draw_ranks(
    per_row: Ints, row_area: Floats, n: int, rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """Draw `n` different (row, rank in the row) of a stratum with `per_row` pixels."""
    total = int(per_row.sum())
    if total <= 4 * n:  # few pixels: list them all
        rows = np.repeat(np.arange(len(per_row)), per_row)
        first = np.concatenate(([0], np.cumsum(per_row)))[:-1]
        ranks = np.arange(total) - first[rows]
        weight = row_area[rows]
        chosen = rng.choice(total, n, replace=False, p=weight / weight.sum())
        return rows[chosen], ranks[chosen]
    reach = np.cumsum(per_row * row_area)
    found: dict[tuple[int, int], None] = {}
    while len(found) < n:
        at = rng.random(n) * reach[-1]
        rows = np.searchsorted(reach, at, side="right")
        start = reach[rows] - per_row[rows] * row_area[rows]
        ranks = np.clip(((at - start) / row_area[rows]).astype(np.int64), 0, per_row[rows] - 1)
        found |= dict.fromkeys(zip(rows.tolist(), ranks.tolist(), strict=True))
    chosen = np.array(list(found)[:n], np.int64)
    return chosen[:, 0], chosen[:, 1]


def _locate(
    census: Census,
    stratum_of: Ints,
    planes: tuple[Plane, Plane],
    drawn: tuple[Ints, Ints, Ints],
) -> Drawn:
    """Turn ranks in a row into columns, reading each strip that has any."""
    rows, ranks, strata = drawn
    code = census.pairs[:, 0] << 32 | census.pairs[:, 1]
    col, pair = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    for window in strips(planes[0].georef.shape):
        here = np.flatnonzero((rows >= window.row) & (rows < window.row_stop))
        if not len(here):
            continue
        a, b = _read(*planes, window)
        for row in np.unique(rows[here]).tolist():
            line = _codes(a[row - window.row], b[row - window.row], planes)
            place = np.minimum(np.searchsorted(code, line), len(code) - 1)
            stratum = np.where(code[place] == line, stratum_of[place], -1)
            for k in here[rows[here] == row].tolist():
                col[k] = np.flatnonzero(stratum == strata[k])[ranks[k]]
                pair[k] = place[col[k]]
    return Drawn(rows, col, pair)

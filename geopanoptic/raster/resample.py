"""Resampling whose result at a pixel depends on that pixel alone, never on the window read.

An axis of `source` pixels is cut into `target` pixels of equal size. On the way down each target
pixel is the mean of the source pixels it covers, weighted by the part covered; on the way up it is
interpolated linearly between the two nearest centres. Both are short lists of taps per target
pixel, worked out in whole numbers from its index, so any two windows agree bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Zoom:
    """One axis: every `source` pixels become `target` pixels; `length` of them there are in all.

    `length` None means `source`. A last target pixel that reaches over the end is made of what is
    there.
    """

    source: int
    target: int
    length: int | None = None

    @property
    def _end(self) -> int:
        return self.source if self.length is None else self.length

    @property
    def factor(self) -> float:
        """Source pixels per target pixel; above 1 on the way down."""
        return self.source / self.target

    def span(self, start: int, stop: int) -> tuple[int, int]:
        """Return the half-open range of source pixels that target pixels start..stop need."""
        first, weights = self.taps(start, stop)
        return int(first[0]), int(first[-1] + np.flatnonzero(weights[-1])[-1] + 1)

    def taps(self, start: int, stop: int) -> tuple[Ints, Floats]:
        """Return (first source pixel (n,), weights (n, k)) of target pixels start..stop.

        Weights are >= 0, their row sums 1 up to rounding; unused taps have weight 0.
        """
        target = np.arange(start, stop, dtype=np.int64)
        if self.source >= self.target:
            return self._mean_taps(target)
        # centre of target pixel j in source pixels: (j + 1/2) S/T - 1/2 = ((2j+1) S - T) / 2T
        place = (2 * target + 1) * self.source - self.target
        first, rest = np.divmod(place, 2 * self.target)
        share = rest / (2 * self.target)
        weights = np.stack([1 - share, share], axis=1)
        below, above = first < 0, first >= self._end - 1
        weights[below] = weights[above] = [1.0, 0.0]
        first = np.clip(first, 0, self._end - 1)
        return first, weights.astype(np.float32)

    def _mean_taps(self, target: Ints) -> tuple[Ints, Floats]:
        # in units of 1/target of a source pixel, target pixel j covers [j S, (j+1) S)
        low = target * self.source
        first = low // self.target
        count = -(-self.source // self.target) + 1
        edges = (first[:, None] + np.arange(count + 1)) * self.target
        cover = np.clip(edges, low[:, None], (low + self.source)[:, None])
        weights = np.diff(cover, axis=1) / self.source
        weights[first[:, None] + np.arange(count) >= self._end] = 0
        cut = low + self.source > self._end * self.target
        weights[cut] /= weights[cut].sum(axis=1, keepdims=True)
        return first, weights.astype(np.float32)


def resample(
    array: Bytes | Floats, valid: Bools, rows: tuple[Ints, Floats], cols: tuple[Ints, Floats]
) -> tuple[Bytes, Bools]:
    """Resample (band, row, col), uint8 or float32, to uint8 with the taps of both axes.

    Taps count from the array's first row and column. Invalid pixels must be 0 in `array` and do not
    vote; a target pixel is valid when at least half of its weight is. Invalid ones are 0.
    """
    out = np.zeros((array.shape[0], len(rows[0]), len(cols[0])), np.uint8)
    out_valid = np.ones(out.shape[1:], bool)
    _resample(array, valid, rows, cols, out, out_valid)
    return out, out_valid


_TAPS = "Tuple((i8[::1], f4[:,::1]))"
_SIGNATURE = f"void({{}}[:,:,::1], b1[:,::1], {_TAPS}, {_TAPS}, u1[:,:,::1], b1[:,::1])"


@numba.njit([_SIGNATURE.format("u1"), _SIGNATURE.format("f4")], nogil=True, cache=True)
def _resample(array, valid, rows, cols, out, out_valid):  # type: ignore[no-untyped-def]  # noqa: C901
    # Sums run in the order of the taps and are divided by the sum of the weights taken in the same
    # order, with or without a mask: that keeps the two branches equal to the last bit.
    bands, _, width = array.shape
    all_valid = valid.all()
    row_first, row_weight = rows
    col_first, col_weight = cols
    line = np.empty(width, np.float32)
    seen = np.empty(width, np.float32)
    weight = np.empty(col_first.size, np.float32)
    for i in range(row_first.size):
        seen[:] = 0
        for k in range(row_weight.shape[1]):
            w, r = row_weight[i, k], row_first[i] + k
            if w == 0:
                continue
            if all_valid:
                for x in range(width):
                    seen[x] += w
            else:
                for x in range(width):
                    seen[x] += w * np.float32(valid[r, x])
        for j in range(col_first.size):
            total = np.float32(0)
            for k in range(col_weight.shape[1]):
                if col_weight[j, k] != 0:
                    total += col_weight[j, k] * seen[col_first[j] + k]
            weight[j] = total
            out_valid[i, j] = total >= np.float32(0.4999)
        for b in range(bands):
            line[:] = 0
            for k in range(row_weight.shape[1]):
                w, r = row_weight[i, k], row_first[i] + k
                if w != 0:
                    for x in range(width):
                        line[x] += w * np.float32(array[b, r, x])
            for j in range(col_first.size):
                if not out_valid[i, j]:
                    continue
                total = np.float32(0)
                for k in range(col_weight.shape[1]):
                    if col_weight[j, k] != 0:
                        total += col_weight[j, k] * line[col_first[j] + k]
                value = np.floor(total / weight[j] + np.float32(0.5))
                out[b, i, j] = np.uint8(min(max(value, np.float32(0)), np.float32(255)))

"""How far two dates lie apart, window by window: correlation of edges.

Unnormalised phase correlation: on gradient images whitened spectra are wrong by tens of pixels in a
quarter of the windows of a real pair, plain correlation in none (docs/change.md). One window proves
nothing, so many vote, and the median decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geopanoptic.grid import Shape, Window

Floats = npt.NDArray[np.float64]
# Returns (strength of edges, whether they are known) of a window of the common grid.
Edges = Callable[[Window], tuple[npt.NDArray[np.float32], npt.NDArray[np.bool_]]]

LARGEST, SMALLEST = 256, 32
_MOST = 256  # windows: more would sharpen nothing, and a scene may have a million
_LEAST_VALID = 0.9
_LEAST_EDGES = 0.005  # share of pixels with an edge
_UPSAMPLE = 20


@dataclass(frozen=True, slots=True)
class Shifts:
    """One row per window that could be measured: its centre and its shift in grid pixels.

    `row`, `col` of the centre; `d_row`, `d_col`: after minus before. `tried` windows in all, `size`
    px wide. `correlation` in [0, 1] at the best shift.
    """

    row: Floats
    col: Floats
    d_row: Floats
    d_col: Floats
    correlation: Floats
    tried: int
    size: int

    def __len__(self) -> int:
        return len(self.row)

    @property
    def length(self) -> Floats:
        return np.hypot(self.d_row, self.d_col)

    def take(self, rows: npt.NDArray[np.bool_]) -> Shifts:
        """Return the windows picked by a boolean array."""
        return Shifts(
            self.row[rows], self.col[rows], self.d_row[rows], self.d_col[rows],
            self.correlation[rows], self.tried, self.size,
        )  # fmt: skip


def place_windows(shape: Shape, reach_px: float) -> tuple[Window, ...]:
    """Choose the windows: squares at half-size strides, spread over all of a large scene.

    256 px, 192 in a scene that is less than two of those, wider where shifts of `reach_px` need it,
    the whole scene where it is smaller still.
    """
    least = min(shape)
    if least < SMALLEST:
        return ()
    wanted = LARGEST if least >= 2 * LARGEST else 192
    while wanted < 4 * reach_px and wanted < 1024:
        wanted *= 2
    size = min(wanted, least)
    rows, cols = (_starts(n, size) for n in shape)
    every = max(1, int(np.ceil(np.sqrt(len(rows) * len(cols) / _MOST))))
    rows, cols = rows[every // 2 :: every], cols[every // 2 :: every]
    return tuple(Window(int(r), int(c), size, size) for r in rows for c in cols)


def _starts(length: int, size: int) -> npt.NDArray[np.int64]:
    count = 1 + -(-(length - size) // max(1, size // 2))
    return np.unique(np.round(np.linspace(0, length - size, count)).astype(np.int64))


def measure_shifts(
    windows: tuple[Window, ...], before: Edges, after: Edges, told: Callable[[int, int], None]
) -> Shifts:
    """Measure the shift of each window that is observed and has enough edges at both dates."""
    rows = []
    for k, window in enumerate(windows, 1):
        found = _measure(window, before, after)
        if found is not None:
            rows.append((window.row + window.height / 2, window.col + window.width / 2, *found))
        told(k, len(windows))
    table = np.array(rows, float).reshape(-1, 5)
    size = windows[0].height if windows else 0
    row, col, d_row, d_col, value = table.T
    return Shifts(row, col, d_row, d_col, value, len(windows), size)


def _measure(window: Window, before: Edges, after: Edges) -> tuple[float, float, float] | None:
    sides = [before(window), after(window)]
    for edges, valid in sides:
        if valid.mean() < _LEAST_VALID or (edges[valid] > 0.05).mean() < _LEAST_EDGES:
            return None
    both = sides[0][1] & sides[1][1]
    if both.mean() < _LEAST_VALID:
        return None
    a, b = (np.where(both, e - e[both].mean(), 0.0) for e, _ in sides)
    return correlate(a, b)


def correlate(before: Floats, after: Floats) -> tuple[float, float, float]:
    """Return (d_row, d_col, correlation): after(x + d) is most like before(x).

    Both (rows, cols), zero mean. The peak of the circular cross-correlation, refined to 1/20 px by
    a matrix Fourier transform around it (Guizar-Sicairos et al. 2008, Optics Letters 33, 156).
    """
    from scipy import fft

    product = np.conj(fft.rfft2(before)) * fft.rfft2(after)
    plane = fft.irfft2(product, s=before.shape)
    peak = np.unravel_index(int(np.argmax(plane)), plane.shape)
    energy = float(np.sqrt((before**2).sum() * (after**2).sum()))
    whole = [(int(p) + n // 2) % n - n // 2 for p, n in zip(peak, plane.shape, strict=True)]
    steps = np.arange(-_UPSAMPLE, _UPSAMPLE + 1) / _UPSAMPLE
    full = np.conj(fft.fft2(before)) * fft.fft2(after)
    waves = []
    for n, at in zip(before.shape, whole, strict=True):
        frequency = fft.fftfreq(n)
        waves.append(np.exp(2j * np.pi * np.outer(at + steps, frequency)))
    fine = (waves[0] @ full @ waves[1].T).real
    i, j = np.unravel_index(int(np.argmax(fine)), fine.shape)
    value = float(fine[i, j]) / before.size / energy if energy else 0.0
    return whole[0] + float(steps[i]), whole[1] + float(steps[j]), value

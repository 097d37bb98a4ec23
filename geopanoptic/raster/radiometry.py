"""From sensor numbers to 0..255: one straight line per band for the whole scene, never per tile."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from geopanoptic.errors import SceneError
from geopanoptic.grid import Window
from geopanoptic.raster.coverage import coverage
from geopanoptic.raster.scene import Scene
from geopanoptic.raster.source import Array, Bools

_SAMPLE_PX = 2**21  # pixels looked at: the whole scene, an overview, or windows
_WINDOWS = 8  # that many windows each way,
_WINDOW_PX = 128  # each this many pixels high and wide


_BEYOND = 16 * 255.0


@dataclass(frozen=True, slots=True)
class Scaling:
    """`low` and `high` per band become 0 and 255; how they were found, for map.json."""

    low: tuple[float, ...]
    high: tuple[float, ...]
    rule: str
    sample_px: int

    def apply(self, array: Array, valid: Bools) -> Array:
        """Return (band, row, col) as float32 on the scale 0..255; invalid pixels are 0.

        Outliers are cut at 16 times the scale only: `to_bytes` clips after averaging.
        """
        out = np.empty(array.shape, np.float32)
        for band, (low, high) in enumerate(zip(self.low, self.high, strict=True)):
            # float64 first: an offset of 1e6 with steps of 0.01 does not fit float32
            values = np.where(valid, array[band], low).astype(np.float64)
            scaled = (values - low) * (255.0 / (high - low))
            out[band] = np.clip(scaled, -_BEYOND, _BEYOND)
        return out

    def to_json(self) -> dict[str, Any]:
        return {
            "low": list(self.low),
            "high": list(self.high),
            "rule": self.rule,
            "sample_px": self.sample_px,
        }


def to_bytes(scaled: Array) -> Array:
    """Round and clip the 0..255 scale to uint8."""
    return np.clip(np.floor(scaled + np.float32(0.5)), 0, 255).astype(np.uint8)


def sample(scene: Scene, bands: tuple[int, ...]) -> tuple[Array, Bools]:
    """Return a bounded sample of the whole scene: (band, row, col) and valid.

    From overviews where there are any; else from 8 x 8 windows spread evenly. It is the same for
    every worker and every run.
    """
    if scene.georef.shape[0] * scene.georef.shape[1] <= _SAMPLE_PX:
        return scene.read(Window.whole(scene.georef.shape), bands)
    if len(scene.parts) == 1:
        found = scene.parts[0].source.overview(_SAMPLE_PX, bands)
        if found is not None:
            return found
    pieces = [scene.read(w, bands) for w in _sample_windows(scene.georef.shape)]
    array = np.concatenate([a.reshape(len(bands), -1) for a, _ in pieces], axis=1)
    return array[:, None], np.concatenate([v.ravel() for _, v in pieces])[None]


def _sample_windows(shape: tuple[int, int]) -> Iterator[Window]:
    side, n = _WINDOW_PX, _WINDOWS
    height, width = min(side, shape[0]), min(side, shape[1])
    rows = np.unique(np.linspace(0, shape[0] - height, n).astype(int))
    cols = np.unique(np.linspace(0, shape[1] - width, n).astype(int))
    for row in rows:
        for col in cols:
            yield Window(int(row), int(col), height, width)


def percentile_scaling(
    found: tuple[Array, Bools], percentiles: tuple[float, float], what: str
) -> Scaling:
    """Return the scaling between two percentiles of the sample's valid pixels, band by band.

    A constant band becomes 0 rather than noise. `what` names the sample for map.json.
    """
    array, valid = found
    low: list[float] = []
    high: list[float] = []
    for band in array:
        values = band[valid].astype(np.float64)
        a, b = (float(v) for v in np.percentile(values, percentiles))
        if b <= a:  # nearly all pixels are equal: whatever differs still counts
            a, b = float(values.min()), float(values.max())
        low.append(a)
        high.append(b if b > a else a + 1.0)
    rule = f"percentiles {percentiles[0]:g} and {percentiles[1]:g} of {what}"
    return Scaling(tuple(low), tuple(high), rule, int(valid.sum()))


def need_valid(scene: Scene, bands: tuple[int, ...], found: tuple[Array, Bools]) -> None:
    """Raise SceneError unless some pixel of the scene is valid.

    When the sample holds none the scene is looked through, strip by strip, up to the first; all of
    it, or what its files cover.
    """
    if found[1].any():
        return
    height, width = scene.georef.shape
    covered = coverage(scene)
    for box in [[0, 0, height, width]] if covered is None else covered.tolist():
        whole = Window.from_bounds(*box).clipped((height, width))
        rows = max(1, 2**22 // max(whole.width, 1))
        for row in range(whole.row, whole.row_stop, rows):
            window = Window(row, whole.col, min(rows, whole.row_stop - row), whole.width)
            if not window.is_empty and scene.read(window, bands)[1].any():
                return
    nodata = "/".join(sorted({str(v) for v in scene.band_nodata}))
    raise SceneError(
        f"all {height} x {width} pixels of '{scene.uri}' are nodata (nodata value {nodata}, alpha "
        f"band: {_yes(scene.has_alpha)}, mask band: {_yes(scene.has_mask)}); if that value is "
        f"wrong give the right one with --nodata"
    )


def _yes(flag: bool) -> str:
    return "yes" if flag else "no"

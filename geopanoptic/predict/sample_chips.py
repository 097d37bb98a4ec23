"""Chips of a scene, as a model would see them: to calibrate on, to measure on."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import SceneError
from geopanoptic.grid import Window
from geopanoptic.predict.plan import make_plan
from geopanoptic.predict.settings import PredictSettings
from geopanoptic.raster import Scene

CHIP_PX = 512


def sample_chips(
    scene: str, model: str, count: int, side_px: int = CHIP_PX
) -> npt.NDArray[np.uint8]:
    """Read `count` chips (n, band, side, side), drawn evenly from the measured parts of a scene.

    Smaller scenes give smaller chips (a multiple of 32). Raises SceneError when fewer than two
    chips have measurements on most of their pixels.
    """
    plan = make_plan(Scene.open(scene), model, PredictSettings())
    rows, cols = plan.scene.georef.shape
    side = min(side_px, rows // 32 * 32, cols // 32 * 32)
    if side < 32:
        raise SceneError(f"{scene} is {rows} x {cols} px on the model's grid; 32 are the least")
    steps = _corners((rows, cols), side, side)
    if len(steps) < count:  # let them overlap
        steps = _corners((rows, cols), side, max(32, side // 4))
    order = np.random.default_rng(0).permutation(len(steps))
    found: list[npt.NDArray[np.uint8]] = []
    for k in order:
        if len(found) == count:
            break
        row, col = steps[int(k)]
        pixels, valid = plan.read(Window(row, col, side, side))
        if valid.mean() > 0.9:
            found.append(pixels)
    if len(found) < 2:
        raise SceneError(f"{scene} has {len(found)} chips of {side} px with measurements; 2 needed")
    return np.stack(found)


def _corners(shape: tuple[int, int], side: int, step: int) -> list[tuple[int, int]]:
    rows, cols = (range(0, n - side + 1, step) for n in shape)
    return [(r, c) for r in rows for c in cols]

"""Chips as a network wants them: the right number of bands, a size that it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import SceneError
from geopanoptic.models.card import ModelCard

STRIDE = 32  # of the deepest encoders


def padded_chips(
    chips: npt.NDArray[Any], card: ModelCard, window: int | None
) -> tuple[npt.NDArray[Any], tuple[int, int]]:
    """Mirror chips out to a multiple of the stride, or to the one size a network takes.

    Returns them and the rows and cols that were there. Raises SceneError for another number of
    bands, or chips larger than that size.
    """
    if chips.ndim != 4 or chips.shape[1] != len(card.bands):
        raise SceneError(
            f"chips have shape {chips.shape}; the model '{card.name}' takes "
            f"(n, {len(card.bands)}, rows, cols): {', '.join(card.bands)}"
        )
    rows, cols = chips.shape[2:]
    if window is not None and max(rows, cols) > window:
        raise SceneError(
            f"the model '{card.name}' takes windows of {window} px a side, not {rows} x {cols}: "
            f"tile and twice the halo must be {window} together, like --tile "
            f"{window - 2 * card.halo} --halo {card.halo}"
        )
    down, right = (
        (window - rows, window - cols) if window is not None else (-rows % STRIDE, -cols % STRIDE)
    )
    if down or right:
        chips = np.pad(chips, [(0, 0), (0, 0), (0, down), (0, right)], mode="symmetric")
    return np.ascontiguousarray(chips), (rows, cols)

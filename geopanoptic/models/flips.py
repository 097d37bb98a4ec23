"""Test-time flips: a model that looks at every chip four times, mirrored, and averages."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import CheckpointError
from geopanoptic.models.card import ModelCard
from geopanoptic.models.segmenter import Fields, Segmented, Segmenter, TwoHalves

Tta = Literal["none", "flips"]

# Fields that are maps or vectors along (rows, cols), so that a mirror image can be turned back.
_MAPS = ("semantic", "strength", "center")
_VECTORS = ("offset",)


class FlippedSegmenter(TwoHalves):
    """A Segmenter that averages the fields of a chip and of its three mirror images.

    Works for any model whose fields are maps (dense networks on every engine), at four times the
    work. Law: the answer to a mirrored chip is the mirrored answer. Raises CheckpointError for a
    model whose fields cannot be averaged (sets of masks).
    """

    def __init__(self, inner: Segmenter) -> None:
        self.inner = inner

    @property
    def card(self) -> ModelCard:
        return self.inner.card

    def forward(self, chips: npt.NDArray[Any]) -> Fields:
        """Run the network on chips (n, band, h, w) and their mirror images."""
        total: Fields = {}
        for axes in ((), (-2,), (-1,), (-2, -1)):
            fields = self.inner.forward(np.ascontiguousarray(np.flip(chips, axes)))
            for name, field in fields.items():
                back = np.flip(field, axes) if axes else field
                if name in _VECTORS:
                    sign = [-1.0 if axis in axes else 1.0 for axis in (-2, -1)]
                    back = back * np.array(sign, np.float32)[:, None, None]
                elif name not in _MAPS:
                    raise CheckpointError(
                        f"the model '{self.card.name}' answers with '{name}', which flips cannot "
                        "average; leave out --tta"
                    )
                total[name] = back if name not in total else total[name] + back
        return {name: np.ascontiguousarray(field / np.float32(4)) for name, field in total.items()}

    def decode(self, fields: Fields, valid: npt.NDArray[np.bool_]) -> Segmented:
        """Decode the averaged fields as the model does its own."""
        return self.inner.decode(fields, valid)


def with_tta(model: Segmenter, tta: str) -> Segmenter:
    """Return the model, or one that averages its flips; CheckpointError for another word."""
    if tta not in ("none", "flips"):
        raise CheckpointError(f"there is no test-time augmentation '{tta}'; use none or flips")
    return FlippedSegmenter(model) if tta == "flips" else model

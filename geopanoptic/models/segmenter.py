"""The door of a model: chips in, panoptic tiles out, as one call or as its two halves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from geopanoptic.models.card import ModelCard

Fields = dict[str, npt.NDArray[Any]]


class Segmented(NamedTuple):
    """The decoded rasters of one tile, as `segments.PanopticTile` wants them after its tile.

    `stuff` uint8, `instance` int32, `score` uint8: (h, w); `class_of` uint8: (n + 1,).
    """

    stuff: npt.NDArray[np.uint8]
    instance: npt.NDArray[np.int32]
    class_of: npt.NDArray[np.uint8]
    score: npt.NDArray[np.uint8]


class Segmenter(Protocol):
    """A model ready to work.

    `forward` runs the network on chips (n, band, h, w) in the card's value range and returns
    named fields, each (n, ..., h, w); it is the half that wants the device. `decode` turns the
    fields of one tile, (..., h, w), and its valid pixels (h, w) into rasters; it is plain numpy
    and may run on another thread. `segment` is both.
    """

    @property
    def card(self) -> ModelCard: ...

    def forward(self, chips: npt.NDArray[Any]) -> Fields: ...

    def decode(self, fields: Fields, valid: npt.NDArray[np.bool_]) -> Segmented: ...

    def segment(self, chips: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> list[Segmented]: ...


class TwoHalves(ABC):
    """What makes a Segmenter of `forward` and `decode`: both, one after the other."""

    @abstractmethod
    def forward(self, chips: npt.NDArray[Any]) -> Fields:
        """Run the network; see `Segmenter`."""

    @abstractmethod
    def decode(self, fields: Fields, valid: npt.NDArray[np.bool_]) -> Segmented:
        """Decode the fields of one tile; see `Segmenter`."""

    def segment(self, chips: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> list[Segmented]:
        """Run and decode chips (n, band, h, w) with valid pixels (n, h, w)."""
        fields = self.forward(chips)
        return [
            self.decode({k: v[i] for k, v in fields.items()}, valid[i]) for i in range(len(chips))
        ]

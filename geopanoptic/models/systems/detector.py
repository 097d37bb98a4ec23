"""Torchvision's Mask R-CNN as a part of our networks: arguments, answers, and what teaches it.

Beside torchvision's own it knows ground of which nobody has said whether things are there: boxes
that lie in it are no counterexamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torchvision.models import ResNet, get_model
from torchvision.models.detection import MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads, paste_masks_in_image
from torchvision.models.detection.rpn import RegionProposalNetwork
from torchvision.ops import masks_to_boxes

from geopanoptic.errors import CheckpointError, nearest_name
from geopanoptic.models.card import ModelCard
from geopanoptic.models.fusion import MaskSet

Tensors = dict[str, torch.Tensor]

_MOST = 65_536  # of any number a card may ask for: a network of more would be a mistake or a trap


@dataclass(frozen=True, slots=True)
class DetectorArgs:
    """Arguments of `mask_rcnn` as a card holds them.

    `backbone`: a ResNet of torchvision. `anchors_px`: side of the anchors on each of the five
    levels. `pyramid_channels`: width of the feature pyramid; `box_channels`, `mask_channels`: of
    the layers that judge a box and of those that draw its mask. `detections`: at most so many
    things in a window; `proposals`: boxes that its second stage looks at (twice as many in
    training); `samples`: boxes of a chip that teach the second stage.
    """

    backbone: str = "resnet50"
    anchors_px: tuple[int, ...] = (16, 32, 64, 128, 256)
    pyramid_channels: int = 256
    box_channels: int = 1024
    mask_channels: int = 256
    detections: int = 300
    proposals: int = 1000
    samples: int = 512
    in_channels: int = 3

    @classmethod
    def from_card(cls, card: ModelCard) -> Self:
        """Check the arguments of a card; CheckpointError names an unknown or wrong one."""
        known, what = asdict(cls()), card.architecture
        for key in card.arguments:
            if key not in known:
                raise CheckpointError(
                    f"{what} knows no argument '{key}'{nearest_name(key, known)}; it has "
                    f"{', '.join(known)}"
                )
        merged = known | dict(card.arguments)
        for key, value in merged.items():
            numbers = value if key == "anchors_px" else [value]
            if key == "backbone":
                continue
            if not isinstance(numbers, (list, tuple)) or not all(map(_is_count, numbers)):
                raise CheckpointError(
                    f"the argument {key} of {what} is {value!r}; use whole numbers of 1 to {_MOST}"
                )
        merged["anchors_px"] = tuple(merged["anchors_px"])
        if len(merged["anchors_px"]) != 5:
            raise CheckpointError(
                f"anchors_px has {len(merged['anchors_px'])} numbers; there are 5 levels"
            )
        if merged["in_channels"] != len(card.bands):
            raise CheckpointError(
                f"the card names {len(card.bands)} bands, its network takes {merged['in_channels']}"
            )
        return cls(**merged)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MOST


class Detector(MaskRCNN):  # type: ignore[misc] # torchvision has no types
    """Mask R-CNN on scaled chips: no resizing, no scaling of its own, batch statistics.

    `things`: class ids of its labels 1..n (0 is "no thing").
    """

    def __init__(self, args: DetectorArgs, things: Sequence[int]) -> None:
        if not things:
            raise CheckpointError("a detector's card must name at least one class of things")
        super().__init__(
            _backbone(args),
            len(things) + 1,
            image_mean=[0.0] * args.in_channels,
            image_std=[1.0] * args.in_channels,
            rpn_anchor_generator=AnchorGenerator(
                tuple((a,) for a in args.anchors_px), ((0.5, 1.0, 2.0),) * 5
            ),
            rpn_pre_nms_top_n_test=args.proposals,
            rpn_post_nms_top_n_test=args.proposals,
            rpn_pre_nms_top_n_train=2 * args.proposals,
            rpn_post_nms_top_n_train=2 * args.proposals,
            box_batch_size_per_image=args.samples,
            box_detections_per_img=args.detections,
            box_score_thresh=0.05,
        )
        heads, (rows, cols) = self.roi_heads, self.roi_heads.box_roi_pool.output_size
        inputs = self.backbone.out_channels * rows * cols
        heads.box_head = TwoMLPHead(inputs, args.box_channels)
        heads.box_predictor = FastRCNNPredictor(args.box_channels, len(things) + 1)
        width = args.mask_channels
        heads.mask_head = MaskRCNNHeads(self.backbone.out_channels, [width] * 4, 1)
        heads.mask_predictor = MaskRCNNPredictor(width, width, len(things) + 1)
        # torchvision makes both parts itself and takes no class for them
        self.rpn.__class__ = _SparingProposals
        self.roi_heads.__class__ = _SparingHeads
        self.things = [int(t) for t in things]

    def detect(
        self, x: torch.Tensor, targets: list[Tensors] | None = None
    ) -> tuple[Tensors, list[Tensors], Tensors]:
        """Return the pyramid's features, what was found (without targets), and losses (with).

        `x` (n, band, h, w) scaled; `targets` as `targets_of` makes them.
        """
        features = self.backbone(x)
        sizes = [(int(x.shape[2]), int(x.shape[3]))] * len(x)
        proposals, first = self.rpn(ImageList(x, sizes), features, targets)
        found, second = self.roi_heads(features, proposals, sizes, targets)
        losses = {}
        for part, own in ((self.rpn, first), (self.roi_heads, second)):
            for name, loss in own.items():
                # a mean over no boxes is no number, and teaches nothing
                known = part.taught or not torch.isnan(loss)
                losses[name.removeprefix("loss_")] = loss if known else loss.nan_to_num(0.0)
        return features, found, losses

    def mask_set(self, found: Tensors, shape: tuple[int, int]) -> MaskSet:
        """Return what was found on one chip of `shape` as masks."""
        things = np.array(self.things, np.uint8)
        return MaskSet(
            class_id=things[found["labels"].cpu().numpy() - 1],
            score=found["scores"].float().cpu().numpy(),
            prob=partial(_pasted, found["masks"], found["boxes"], shape),
        )

    def class_rows(self, things: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the layers with a row per class of things, and what their rows mean."""
        rows = ("no thing", *things)
        heads = ("box_predictor.cls_score", "box_predictor.bbox_pred")
        return {f"roi_heads.{h}": rows for h in (*heads, "mask_predictor.mask_fcn_logits")}

    def targets_of(self, ok: torch.Tensor, ids: torch.Tensor, channels: list[int]) -> list[Tensors]:
        """Return boxes, labels, masks and unknown ground of chips as `detect` wants them.

        `ok` (n, class, h, w) bool: the classes that a pixel may be; `ids` (n, h, w), 0 where no
        thing; `channels`: of the things, in the order of the labels. A thing is taught when its
        pixels are surely of one class; ground that may be a thing, but of no known one, is
        unknown.
        """
        sure, void = ok.sum(1) == 1, ~ok.any(1)
        return [
            _target(ok[k, channels] & sure[k], ok[k, channels].any(0) | void[k], ids[k])
            for k in range(len(ok))
        ]


def _backbone(args: DetectorArgs) -> Any:
    """Return torchvision's `resnet_fpn_backbone`, with a pyramid of any width."""
    try:
        net = get_model(args.backbone, weights=None)
    except ValueError as why:
        raise CheckpointError(f"torchvision has no ResNet '{args.backbone}'") from why
    if not isinstance(net, ResNet):
        raise CheckpointError(f"'{args.backbone}' is no ResNet; use resnet18, resnet50, ...")
    if args.in_channels != 3:
        net.conv1 = nn.Conv2d(args.in_channels, 64, 7, stride=2, padding=3, bias=False)
    first = net.inplanes // 8
    return BackboneWithFPN(
        net,
        {f"layer{k + 1}": str(k) for k in range(4)},
        [first * 2**k for k in range(4)],
        args.pyramid_channels,
    )


def _target(surely: torch.Tensor, maybe: torch.Tensor, ids: torch.Tensor) -> Tensors:
    """Return the target of one chip: `surely` (thing, h, w), `maybe` (h, w), `ids` (h, w)."""
    known = torch.where(surely.any(0), ids, 0)
    names = torch.unique(known[known > 0])
    masks = known[None] == names[:, None, None]
    shape = (len(names), *ids.shape)
    boxes = masks_to_boxes(masks) if len(names) else torch.zeros((0, 4), device=ids.device)
    boxes[:, 2:] += 1  # to the far side of the last pixel
    count = (masks.flatten(1).float() @ surely.flatten(1).float().T).view(len(names), len(surely))
    return {
        "boxes": boxes.float(),
        "labels": count.argmax(1) + 1 if len(names) else torch.zeros(0, device=ids.device).long(),
        "masks": masks.view(shape).to(torch.uint8),
        "unknown": maybe & (known == 0),
    }


def _spared(
    labels: list[torch.Tensor], boxes: list[torch.Tensor], unknown: list[torch.Tensor]
) -> list[torch.Tensor]:
    """Return labels with -1, which torchvision passes over, for background in unknown ground.

    `labels` (k,) and `boxes` (k, 4) x0, y0, x1, y1 of each chip; `unknown` (h, w) bool. A box is
    in it when more than half of its pixels are.
    """
    out = []
    for label, box, where in zip(labels, boxes, unknown, strict=True):
        if not bool(where.any()):
            out.append(label)
            continue
        h, w = where.shape
        total = nn.functional.pad(where.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
        x0, x1 = (box[:, i].round().long().clamp(0, w) for i in (0, 2))
        y0, y1 = (box[:, i].round().long().clamp(0, h) for i in (1, 3))
        inside = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0]
        area = ((x1 - x0) * (y1 - y0)).clamp(min=1)
        out.append(torch.where((label == 0) & (inside > area / 2), -torch.ones_like(label), label))
    return out


class _SparingProposals(RegionProposalNetwork):  # type: ignore[misc]
    """The first stage; `taught`: whether any anchor was in the last training step."""

    taught = True

    def assign_targets_to_anchors(
        self, anchors: list[torch.Tensor], targets: list[Tensors]
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        labels = _spared(labels, anchors, [t["unknown"] for t in targets])
        self.taught = any(bool((own >= 0).any()) for own in labels)
        return labels, boxes


class _SparingHeads(RoIHeads):  # type: ignore[misc]
    """The second stage; `taught` as of the first."""

    taught = True
    unknown: list[torch.Tensor]

    def select_training_samples(self, proposals: Any, targets: Any) -> Any:
        self.unknown = [t["unknown"] for t in targets]
        return super().select_training_samples(proposals, targets)

    def assign_targets_to_proposals(
        self, proposals: Any, gt_boxes: Any, gt_labels: Any
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        matched, labels = super().assign_targets_to_proposals(proposals, gt_boxes, gt_labels)
        labels = _spared(labels, proposals, self.unknown)
        self.taught = any(bool((own >= 0).any()) for own in labels)
        return matched, labels


def _pasted(
    masks: torch.Tensor, boxes: torch.Tensor, shape: tuple[int, int], i: int
) -> npt.NDArray[np.float32]:
    """Return the i-th mask (h, w), pasted from its box's own 28 x 28 grid."""
    pasted: torch.Tensor = paste_masks_in_image(masks[i : i + 1], boxes[i : i + 1], shape)
    return pasted[0, 0].float().cpu().numpy()

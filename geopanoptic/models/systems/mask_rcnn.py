"""Mask R-CNN (He et al. 2017) alone, on torchvision: things, and one name at most for the rest.

With a model of stuff in front of it (`SEMANTIC + INSTANCE`) it makes a panoptic model.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from geopanoptic.errors import CheckpointError
from geopanoptic.models.card import ModelCard
from geopanoptic.models.fusion import MaskSet
from geopanoptic.models.losses import allowed
from geopanoptic.models.systems.detector import Detector, DetectorArgs
from geopanoptic.models.systems.segmenter import Answer, ClassNames, MaskNetwork
from geopanoptic.schema import LabelSchema


def build(card: ModelCard) -> MaskRcnn:
    """Build the network of a card with random weights; CheckpointError if it makes none."""
    if len(card.schema.stuff) > 1:
        raise CheckpointError(
            f"the card of '{card.name}' has {len(card.schema.stuff)} stuff classes, which "
            "mask_rcnn cannot tell apart: leave one for what is no thing, or none (void); "
            "panoptic_fpn takes more, and so does a pair 'SEMANTIC + INSTANCE'"
        )
    return MaskRcnn(DetectorArgs.from_card(card), card.schema)


class MaskRcnn(MaskNetwork):
    """A detector with masks; what is no thing is of the only stuff class, or void without one."""

    def __init__(self, args: DetectorArgs, schema: LabelSchema) -> None:
        super().__init__()
        self.channels = [schema.ids.index(c.id) for c in schema.things]
        self.n_classes = len(schema)
        self.stuff = [c.id for c in schema.stuff]
        self.detector = Detector(args, [c.id for c in schema.things])

    @property
    def encoder(self) -> nn.Module:
        body: nn.Module = self.detector.backbone.body
        return body

    def answer(self, chips: torch.Tensor) -> list[Answer]:
        """Detect things on scaled chips (n, band, h, w), multiples of 32."""
        shape = int(chips.shape[2]), int(chips.shape[3])
        _, found, _ = self.detector.detect(chips)
        sets = [self.detector.mask_set(one, shape) for one in found]
        return [Answer(s, {c: _unclaimed(s, shape) for c in self.stuff}) for s in sets]

    def losses(
        self, chips: torch.Tensor, sets: torch.Tensor, ids: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return torchvision's losses of boxes and masks; arguments as of `MaskNetwork`."""
        targets = self.detector.targets_of(allowed(sets, self.n_classes), ids, self.channels)
        return self.detector.detect(chips, targets)[2]

    def class_rows(self, classes: ClassNames) -> dict[str, tuple[str, ...]]:
        """Return the rows of the detector's last layers."""
        return {f"detector.{k}": v for k, v in self.detector.class_rows(classes.things).items()}


def _unclaimed(masks: MaskSet, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Return the probability (h, w) that no mask claims a pixel: 1 - the strongest claim."""
    strongest = np.zeros(shape, np.float32)
    for q in range(len(masks.score)):
        np.maximum(strongest, masks.score[q] * masks.prob(q), out=strongest)
    # never 0: a pixel that a mask claims in vain is the rest all the same
    return np.maximum(1 - strongest, np.float32(1e-3))

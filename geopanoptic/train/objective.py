"""What a training makes small: semantics by label sets, dice of things, the instance heads."""

from __future__ import annotations

import torch
from torch import nn

from geopanoptic.dataset.chips import Chip
from geopanoptic.models.losses import (
    InstanceReach,
    allowed,
    center_loss,
    instance_loss,
    superset_loss,
    thing_dice_loss,
)
from geopanoptic.models.systems.segmenter import MaskNetwork
from geopanoptic.schema import LabelSchema
from geopanoptic.train.settings import TrainConfig


def class_weights(config: TrainConfig, schema: LabelSchema) -> torch.Tensor:
    """Return the weights of the classes in the schema's order; SchemaError for a wrong name."""
    weight = torch.ones(len(schema))
    for name, value in config.class_weight.items():
        weight[schema.ids.index(schema.by_name(name).id)] = value
    return weight


class Objective:
    """The weighted sum of the losses of one batch, with its parts by name."""

    def __init__(self, config: TrainConfig, schema: LabelSchema, device: torch.device) -> None:
        self.config = config
        self.weight = class_weights(config, schema).to(device)
        self.things = [k for k, c in enumerate(schema.classes) if c.is_thing]

    def inputs(self, x: torch.Tensor, _chip: Chip) -> tuple[torch.Tensor, ...]:
        """Return what the network is called with, `x` being the scaled pixels."""
        return (x,)

    def __call__(
        self, fields: torch.Tensor, chip: Chip
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of `fields` (n, field, h, w) logits for a batch, and its parts."""
        n = len(self.weight)
        fields = fields.float()
        probability = fields[:, :n].softmax(1)
        parts = {"semantic": superset_loss(probability, chip.sets, self.weight)}
        dice = [thing_dice_loss(probability, chip.sets, k) for k in self.things]
        parts["dice"] = torch.stack(dice).sum() if dice else probability.sum() * 0.0
        parts["instance"] = self._instance(fields[:, n:], chip)
        config = self.config
        loss = (
            parts["semantic"]
            + config.dice_weight * parts["dice"]
            + config.instance_weight * parts["instance"]
        )
        return loss, parts

    def _instance(self, fields: torch.Tensor, chip: Chip) -> torch.Tensor:
        if self.config.instances == "seeded":
            return instance_loss(fields, chip.signed_px, chip.second_px, InstanceReach())
        if self.config.instances == "centers":
            ok = allowed(chip.sets, len(self.weight))
            nothing = ok.any(1) & ~ok[:, self.things].any(1)
            return center_loss(fields, chip.ids, chip.signed_px, nothing)
        return fields.sum() * 0.0


class MaskObjective:
    """The sum of the losses that a network of masks reckons itself."""

    def inputs(self, x: torch.Tensor, chip: Chip) -> tuple[torch.Tensor, ...]:
        """Return the scaled pixels `x` and the labels, which such a network wants beside them."""
        return x, chip.sets, chip.ids

    def __call__(
        self, parts: dict[str, torch.Tensor], _chip: Chip
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the loss of a batch, and its parts."""
        return torch.stack([part.float() for part in parts.values()]).sum(), parts


def objective_of(
    config: TrainConfig, schema: LabelSchema, net: nn.Module, device: torch.device
) -> Objective | MaskObjective:
    """Return what is made small in a training of this network."""
    return MaskObjective() if isinstance(net, MaskNetwork) else Objective(config, schema, device)

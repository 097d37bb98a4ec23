"""Query networks of Hugging Face's transformers: MaskFormer and its kin, DETR's panoptic head.

They enter as a model file whose card holds the network's configuration, or as a local directory
with `config.json`, `model.safetensors` and a card (`card.yaml`). Nothing is fetched, no code of a
directory is run, no pickle is read.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
import transformers
from torch import nn
from torch.nn import functional as F

from geopanoptic.errors import CheckpointError
from geopanoptic.models.card import ModelCard
from geopanoptic.models.fusion import MaskSet
from geopanoptic.models.losses import allowed
from geopanoptic.models.systems.segmenter import Answer, ClassNames, MaskNetwork

# architecture of a card -> (configuration, network) of transformers
_CLASSES = {
    "hf_maskformer": ("MaskFormerConfig", "MaskFormerForInstanceSegmentation"),
    "hf_mask2former": ("Mask2FormerConfig", "Mask2FormerForUniversalSegmentation"),
    "hf_oneformer": ("OneFormerConfig", "OneFormerForUniversalSegmentation"),
    "hf_eomt": ("EomtConfig", "EomtForUniversalSegmentation"),
    "hf_detr": ("DetrConfig", "DetrForSegmentation"),
}
_TRAINED = ("hf_maskformer", "hf_mask2former")  # their losses take masks as we have them


def build(card: ModelCard) -> QueryNetwork:
    """Build the network of a card's `config`, random weights; CheckpointError if it makes none."""
    try:
        config = _config(card.architecture, card.arguments.get("config"), card.name)
        net = getattr(transformers, _CLASSES[card.architecture][1])(config)
    except CheckpointError:
        raise
    except Exception as why:  # transformers raises anything at all for a wrong configuration
        raise CheckpointError(
            f"the configuration of the model '{card.name}' makes no {card.architecture}: {why}"
        ) from why
    return QueryNetwork(card, net)


def from_directory(folder: Path, card: ModelCard) -> QueryNetwork:
    """Build the network of a directory and fill it from its `model.safetensors`."""
    return QueryNetwork(card, _pretrained(folder, card.architecture, card.arguments.get("config")))


def directory_tensors(folder: Path, architecture: str, config: Any) -> dict[str, torch.Tensor]:
    """Return the weights of a directory with the names of `build`'s network.

    Raises CheckpointError when they are not those of its configuration.
    """
    state = _pretrained(folder, architecture, config).state_dict()
    return {f"net.{k}": v for k, v in state.items()}


def _pretrained(folder: Path, architecture: str, config: Any) -> nn.Module:
    network = getattr(transformers, _CLASSES[architecture][1])
    try:
        net, report = network.from_pretrained(
            folder,
            config=_config(architecture, config, str(folder)),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
            dtype=torch.float32,
        )
    except Exception as why:
        raise CheckpointError(f"{folder} holds no {architecture}: {why}") from why
    lacking = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if lacking:
        raise CheckpointError(
            f"the weights of {folder} do not fit its configuration: {len(lacking)} tensors, first "
            f"'{lacking[0]}'; get the model again"
        )
    filled: nn.Module = net
    return filled


def _config(architecture: str, config: Any, name: str) -> Any:
    if not isinstance(config, dict) or not config:
        raise CheckpointError(f"the card of '{name}' has no config of its network")
    given = dict(config)
    if "auto_map" in given:
        raise CheckpointError(
            f"the configuration of '{name}' asks for code of its own (auto_map), which is "
            "never run; use a model of transformers' own classes"
        )
    # weights of a backbone come with the model, they are never looked for elsewhere
    given.pop("use_pretrained_backbone", None)
    return getattr(transformers, _CLASSES[architecture][0]).from_dict(given)


class QueryNetwork(MaskNetwork):
    """A query network of transformers with the classes of a card, in the order of its labels."""

    def __init__(self, card: ModelCard, net: nn.Module) -> None:
        super().__init__()
        self.net: Any = net
        config = cast("Any", net.config)
        labels = int(config.num_labels)
        if labels != len(card.schema):
            raise CheckpointError(
                f"the card of '{card.name}' has {len(card.schema)} classes, its network {labels}"
            )
        self.architecture, self.schema = card.architecture, card.schema
        self.class_ids = np.array(card.schema.ids, np.uint8)
        fixed = card.architecture == "hf_eomt"  # its positions are for one size
        self.window = int(config.image_size) if fixed else None
        self.task = [int(t) for t in card.arguments.get("task_tokens", ())]
        if card.architecture == "hf_oneformer" and not self.task:
            raise CheckpointError(
                f"the card of '{card.name}' lacks task_tokens: the tokens of 'the task is panoptic'"
            )

    def answer(self, chips: torch.Tensor) -> list[Answer]:
        """Run the network on scaled chips (n, band, h, w)."""
        classes, masks = self._run(chips)
        size = int(chips.shape[2]), int(chips.shape[3])
        probability = classes.softmax(-1)[..., :-1]  # the last says "no object"
        score, label = (t.cpu().numpy() for t in probability.max(-1))
        return [
            Answer(MaskSet(self.class_ids[label[i]], score[i], partial(_enlarged, masks[i], size)))
            for i in range(len(chips))
        ]

    def _run(self, chips: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        inputs: dict[str, Any] = {"pixel_values": chips}
        if self.task:
            tokens = torch.tensor([self.task] * len(chips), device=chips.device)
            inputs["task_inputs"] = tokens
        out = self.net(**inputs)
        if "pred_masks" in out:
            return out.logits, out.pred_masks
        return out.class_queries_logits, out.masks_queries_logits

    @property
    def encoder(self) -> nn.Module:
        level = getattr(getattr(self.net, "model", None), "pixel_level_module", None)
        part: nn.Module = self.net if level is None else level.encoder
        return part

    def losses(
        self, chips: torch.Tensor, sets: torch.Tensor, ids: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return transformers' own loss; arguments as of `MaskNetwork`.

        Each thing is a mask, each stuff class of a chip one more; chips without any are passed
        over. That loss knows no unlabelled ground: where things may be that nobody has drawn, the
        network is shown nothing (the mean of the scaled values), so that its silence is right.
        """
        if self.architecture not in _TRAINED:
            raise CheckpointError(
                f"{self.architecture} cannot be trained here; {' and '.join(_TRAINED)} can"
            )
        ok = allowed(sets, len(self.schema))
        sure = torch.where(ok.sum(1) == 1, ok.int().argmax(1), -1)
        things = [k for k, c in enumerate(self.schema.classes) if c.is_thing]
        countable = torch.isin(sure, torch.tensor(things, device=sure.device))
        unknown = (ok[:, things].any(1) | ~ok.any(1)) & ~(countable & (ids > 0))
        shown = chips.masked_fill(unknown[:, None], 0.0)
        found = [
            _masks_of(torch.where(unknown[k], -1, sure[k]), torch.where(countable[k], ids[k], 0))
            for k in range(len(chips))
        ]
        taught = [k for k, (label, _) in enumerate(found) if len(label)]
        if not taught:
            return {"queries": self.net(pixel_values=shown).masks_queries_logits.sum() * 0.0}
        out = self.net(
            pixel_values=shown[taught],
            mask_labels=[found[k][1] for k in taught],
            class_labels=[found[k][0] for k in taught],
        )
        loss: torch.Tensor = out.loss
        return {"queries": loss.sum()}

    def class_rows(self, classes: ClassNames) -> dict[str, tuple[str, ...]]:
        """Return the rows of the class layer and of the weights of its loss."""
        rows = (*classes.names, "no object")
        return {"net.class_predictor": rows, "net.criterion.empty_weight": rows}


def _masks_of(sure: torch.Tensor, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return labels (m,) and masks (m, h, w) of a chip's channels (h, w), -1 unknown, and ids."""
    pairs = torch.unique(torch.stack([sure.ravel(), ids.ravel()], 1), dim=0)
    pairs = pairs[pairs[:, 0] >= 0]
    masks = (sure[None] == pairs[:, :1, None]) & (ids[None] == pairs[:, 1:, None])
    return pairs[:, 0], masks.float()


def _enlarged(masks: torch.Tensor, size: tuple[int, int], i: int) -> npt.NDArray[np.float32]:
    """Return the probability (h, w) of the i-th mask at the size of the chip."""
    logits = F.interpolate(masks[i][None, None], size, mode="bilinear", align_corners=False)
    return logits[0, 0].sigmoid().float().cpu().numpy()

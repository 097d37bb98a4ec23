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
from geopanoptic.models.systems.segmenter import Answer

# architecture of a card -> (configuration, network) of transformers
_CLASSES = {
    "hf_maskformer": ("MaskFormerConfig", "MaskFormerForInstanceSegmentation"),
    "hf_mask2former": ("Mask2FormerConfig", "Mask2FormerForUniversalSegmentation"),
    "hf_oneformer": ("OneFormerConfig", "OneFormerForUniversalSegmentation"),
    "hf_eomt": ("EomtConfig", "EomtForUniversalSegmentation"),
    "hf_detr": ("DetrConfig", "DetrForSegmentation"),
}


def build(card: ModelCard) -> QueryNetwork:
    """Build the network of a card's `config`, random weights; CheckpointError if it makes none."""
    try:
        config = _config(card)
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
    network = getattr(transformers, _CLASSES[card.architecture][1])
    try:
        net, report = network.from_pretrained(
            folder,
            config=_config(card),
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.float32,
        )
    except Exception as why:
        raise CheckpointError(f"{folder} holds no {card.architecture}: {why}") from why
    lacking = sorted(report["missing_keys"]) + sorted(map(str, report["mismatched_keys"]))
    if lacking:
        raise CheckpointError(
            f"the weights of {folder} do not fit its configuration: {len(lacking)} tensors, first "
            f"'{lacking[0]}'; get the model again"
        )
    return QueryNetwork(card, net)


def _config(card: ModelCard) -> Any:
    given = dict(card.arguments.get("config", {}))
    if not given:
        raise CheckpointError(f"the card of '{card.name}' has no config of its network")
    if "auto_map" in given:
        raise CheckpointError(
            f"the configuration of '{card.name}' asks for code of its own (auto_map), which is "
            "never run; use a model of transformers' own classes"
        )
    # weights of a backbone come with the model, they are never looked for elsewhere
    given.pop("use_pretrained_backbone", None)
    return getattr(transformers, _CLASSES[card.architecture][0]).from_dict(given)


class QueryNetwork(nn.Module):
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
        self.class_ids = np.array(card.schema.ids, np.uint8)
        fixed = card.architecture == "hf_eomt"  # its positions are for one size
        self.window: int | None = int(config.image_size) if fixed else None
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

    def training_loss(
        self, chips: torch.Tensor, semantic: npt.NDArray[Any], instance: npt.NDArray[Any]
    ) -> torch.Tensor:
        """Return transformers' own loss; arguments as of `PanopticFpn.training_loss`.

        Each thing is a mask, each stuff class of a chip one more.
        """
        masks, labels = [], []
        order = {int(c): k for k, c in enumerate(self.class_ids)}
        for classes, things in zip(semantic, instance, strict=True):
            met = np.unique(np.stack([classes.ravel(), things.ravel()]), axis=1).T
            pairs = [(int(c), int(i)) for c, i in met if int(c) in order]
            each = [(classes == c) & (things == i) for c, i in pairs]
            masks.append(torch.tensor(np.array(each, np.float32), device=chips.device))
            labels.append(torch.tensor([order[c] for c, _ in pairs], device=chips.device))
        out = self.net(pixel_values=chips, mask_labels=masks, class_labels=labels)
        loss: torch.Tensor = out.loss
        return loss.sum()


def _enlarged(masks: torch.Tensor, size: tuple[int, int], i: int) -> npt.NDArray[np.float32]:
    """Return the probability (h, w) of the i-th mask at the size of the chip."""
    logits = F.interpolate(masks[i][None, None], size, mode="bilinear", align_corners=False)
    return logits[0, 0].sigmoid().float().cpu().numpy()

"""Where a network's weights begin: noise, ImageNet, or another model with other classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from geopanoptic.errors import CheckpointError
from geopanoptic.models import ModelCard
from geopanoptic.models.checkpoint import model_path, read_header, read_tensors
from geopanoptic.models.dense import DenseArgs, build_dense, lukemelas_to_smp, output_weights
from geopanoptic.schema import LabelSchema
from geopanoptic.train.settings import TrainConfig, TrainPaths


def first_network(config: TrainConfig, schema: LabelSchema, paths: TrainPaths) -> nn.Module:
    """Build the network and give it its first weights.

    Raises CheckpointError when the weights of the other model or of ImageNet do not fit.
    """
    net = build_dense(DenseArgs.from_json(config.arguments()), len(schema))
    if config.start:
        transplant(net, config, schema)
    elif paths.encoder is not None:
        net.encoder.load_state_dict(_encoder_weights(paths.encoder, net.encoder))  # type: ignore[union-attr]
    elif config.encoder_weights == "imagenet":
        net.encoder.load_state_dict(_hub_weights(config))  # type: ignore[union-attr]
    return net


@dataclass(frozen=True, slots=True)
class _Rows:
    """The names of a network's output fields, in order: classes, then heads."""

    names: tuple[str, ...]

    @classmethod
    def of(cls, card: ModelCard) -> _Rows:
        heads = DenseArgs.from_json(dict(card.arguments)).heads
        return cls((*(f"class {n}" for n in card.schema.names), *heads))


def transplant(net: nn.Module, config: TrainConfig, schema: LabelSchema) -> list[str]:
    """Copy another model's weights into `net`; return the output fields that it had not.

    All but the last convolution must fit. Of that, the rows of classes and heads of the same name
    are copied; new ones keep the mean of the old rows of their kind, so that they start
    undecided. Raises CheckpointError when the networks differ.
    """
    path = model_path(config.start)
    header = read_header(path)
    theirs = read_tensors(path, header)
    mine, old = _Rows.of(config.card(schema)), _Rows.of(header.card)
    state = net.state_dict()
    last = set(output_weights(net, len(mine.names)))
    wrong = sorted(
        k
        for k in set(state) | set(theirs)
        if k not in state
        or k not in theirs
        or (k not in last and tuple(state[k].shape) != theirs[k].shape)
    )
    if wrong:
        raise CheckpointError(
            f"the weights of {config.start} do not fit the network of this configuration: "
            f"{len(wrong)} tensors differ, first '{wrong[0]}'; leave out encoder, decoder, "
            "decoder_channels and bands to take those of `start`"
        )
    for name, value in theirs.items():
        copied = _rows(value, old, mine) if name in last else value
        state[name] = torch.from_numpy(copied.astype(np.float32) if copied.dtype.kind == "f"
                                       else copied.copy()).to(state[name].dtype)  # fmt: skip
    net.load_state_dict(state)
    return [n for n in mine.names if n not in old.names]


def _rows(value: npt.NDArray[Any], old: _Rows, mine: _Rows) -> npt.NDArray[Any]:
    """Rearrange the rows of the last convolution by the names of the fields."""
    grouped = value.reshape(len(old.names), -1, *value.shape[1:]).astype(np.float32)
    is_class = np.array([n.startswith("class ") for n in old.names])
    out = []
    for name in mine.names:
        if name in old.names:
            out.append(grouped[old.names.index(name)])
            continue
        kind = is_class if name.startswith("class ") else ~is_class
        out.append(grouped[kind].mean(0) if kind.any() else np.zeros_like(grouped[0]))
    return np.stack(out).reshape(-1, *value.shape[1:])


def _encoder_weights(path: Path, encoder: Any) -> dict[str, torch.Tensor]:
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as why:  # torch raises many kinds for a file that is none of its own
        raise CheckpointError(f"cannot read the encoder weights {path}: {why}") from why
    return lukemelas_to_smp(raw, encoder)


def _hub_weights(config: TrainConfig) -> dict[str, torch.Tensor]:
    """Fetch ImageNet weights through smp; CheckpointError where the network is out of reach."""
    import segmentation_models_pytorch as smp

    name = str(config.arguments()["encoder"])
    try:
        encoder = smp.encoders.get_encoder(
            name, in_channels=len(config.bands), depth=5, weights="imagenet"
        )
    except Exception as why:  # hub, network and key errors alike
        raise CheckpointError(
            f"no ImageNet weights for the encoder '{name}': {str(why).splitlines()[0]}; give a "
            "file as encoder_weights, or leave it out to start from noise"
        ) from why
    state: dict[str, torch.Tensor] = encoder.state_dict()
    return state

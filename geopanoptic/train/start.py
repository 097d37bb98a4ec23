"""Where a network's weights begin: noise, ImageNet, or another model with other classes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from geopanoptic.errors import CheckpointError
from geopanoptic.models.dense import DenseArgs, lukemelas_to_smp, output_weights
from geopanoptic.models.networks import blank_network
from geopanoptic.models.systems.segmenter import ClassNames, MaskNetwork
from geopanoptic.schema import LabelSchema
from geopanoptic.train.origin import Origin
from geopanoptic.train.settings import TrainConfig, TrainPaths

_CLASS = "class "  # before the name of a row that is a class's


def first_network(config: TrainConfig, schema: LabelSchema, paths: TrainPaths) -> nn.Module:
    """Build the network and give it its first weights.

    Raises CheckpointError when the weights of the other model or of ImageNet do not fit.
    """
    net: Any = blank_network(config.card(schema))
    if config.start:
        transplant(net, config, schema)
    elif paths.encoder is not None:
        net.encoder.load_state_dict(_encoder_weights(paths.encoder, net.encoder))
    elif config.encoder_weights == "imagenet":
        net.encoder.load_state_dict(_hub_weights(config, schema))
    first: nn.Module = net
    return first


def transplant(net: nn.Module, config: TrainConfig, schema: LabelSchema) -> list[str]:
    """Copy another model's weights into `net`; return the output fields that it had not.

    All but the last layers must fit. Of those, the rows of classes and heads of the same name
    are copied; new ones keep the mean of the old rows of their kind, so that they start
    undecided. Raises CheckpointError when the networks differ.
    """
    origin = Origin.of(config.start)
    theirs = origin.tensors()
    mine = _rows_of(net, _classes(schema.names, schema), config.arguments(schema))
    old = _rows_of(net, _classes(origin.names, origin.schema), origin.arguments, like=mine)
    state = net.state_dict()
    wrong = sorted(
        k
        for k in set(state) | set(theirs)
        if k not in state
        or k not in theirs
        or (k not in mine and tuple(state[k].shape) != theirs[k].shape)
        or (k in mine and len(theirs[k]) % len(old[k]) != 0)
        or theirs[k].shape[1:] != tuple(state[k].shape[1:])
    )
    if wrong:
        raise CheckpointError(
            f"the weights of {config.start} do not fit the network of this configuration: "
            f"{len(wrong)} tensors differ, first '{wrong[0]}'; leave out encoder, decoder, "
            "decoder_channels, network and bands to take those of `start`"
        )
    for name, value in theirs.items():
        whole = value.astype(np.float32) if value.dtype.kind == "f" else value.copy()
        copied = _rows(whole, old[name], mine[name]) if name in mine else whole
        state[name] = torch.from_numpy(copied).to(state[name].dtype)
    net.load_state_dict(state)
    known = {n for rows in old.values() for n in rows}
    return list(dict.fromkeys(n for rows in mine.values() for n in rows if n not in known))


def _classes(names: tuple[str, ...], schema: LabelSchema | None) -> ClassNames:
    """Return classes as rows are called; without a schema all of them may be things."""
    things = names if schema is None else tuple(c.name for c in schema.things)
    return ClassNames(tuple(_CLASS + n for n in names), tuple(_CLASS + n for n in things))


def _rows_of(
    net: nn.Module,
    classes: ClassNames,
    arguments: Mapping[str, Any],
    like: Mapping[str, Any] | None = None,
) -> dict[str, tuple[str, ...]]:
    """Return the tensors of `net` with a row (or several) per output: what their rows mean.

    For these classes and arguments, which need not be those of `net`; `like`: the tensors of a
    dense network, found before.
    """
    if not isinstance(net, MaskNetwork):
        heads = DenseArgs.from_json(dict(arguments)).heads
        outputs = (*classes.names, *heads)
        tensors = output_weights(net, len(outputs)) if like is None else list(like)
        return dict.fromkeys(tensors, outputs)
    state = net.state_dict()
    found: dict[str, tuple[str, ...]] = {}
    for layer, rows in net.class_rows(classes).items():
        tensors = [layer, f"{layer}.weight", f"{layer}.bias"]
        found |= {name: rows for name in tensors if name in state}
    return found


def _rows(value: npt.NDArray[Any], old: tuple[str, ...], mine: tuple[str, ...]) -> npt.NDArray[Any]:
    """Rearrange the rows of a last layer by their names."""
    grouped = value.reshape(len(old), -1, *value.shape[1:])
    is_class = np.array([n.startswith(_CLASS) for n in old])
    out = []
    for name in mine:
        if name in old:
            out.append(grouped[old.index(name)])
            continue
        kind = is_class if name.startswith(_CLASS) else ~is_class
        out.append(grouped[kind].mean(0) if kind.any() else np.zeros_like(grouped[0]))
    return np.stack(out).reshape(-1, *value.shape[1:])


def _encoder_weights(path: Path, encoder: Any) -> dict[str, torch.Tensor]:
    try:
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as why:  # torch raises many kinds for a file that is none of its own
        raise CheckpointError(f"cannot read the encoder weights {path}: {why}") from why
    return lukemelas_to_smp(raw, encoder)


def _hub_weights(config: TrainConfig, schema: LabelSchema) -> dict[str, torch.Tensor]:
    """Fetch ImageNet weights through smp; CheckpointError where the network is out of reach.

    The ResNets of torchvision have the same names there.
    """
    import segmentation_models_pytorch as smp

    arguments = config.card(schema).arguments
    name = str(arguments.get("encoder", arguments.get("backbone")))
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

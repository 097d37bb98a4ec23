"""Make a model file of somebody else's weights and a card.

The one place where a pickle is opened: by torch with `weights_only`, which builds tensors and plain
containers and refuses everything else, so nothing of the file is run.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import CheckpointError, nearest_name
from geopanoptic.models.card import ModelCard
from geopanoptic.models.checkpoint import MAX_FILE_BYTES, save_model
from geopanoptic.models.onnx_file import yaml_card

Tensors = dict[str, npt.NDArray[Any]]

_MOST = float(np.finfo(np.float16).max)  # model files hold floats as fp16


def convert(weights: Path, card_file: Path, out: Path, *, key: str = "") -> ModelCard:
    """Write the tensors of `weights` with the card of `card_file` to `out`; return the card.

    `weights`: a state dict saved by `torch.save`, alone or under an entry of a larger checkpoint
    (`key` names it where there are several), or a safetensors file without a card. One prefix that
    all of the network's tensors have in common (``model.``) is taken off, and what does not begin
    with it (a loss's own tensors) left out. `card_file`: YAML as beside an ONNX model
    (docs/models.md); without an entry `architecture` it is dense. Floats become fp16.

    Law: the network that `load_model` makes of `out` has exactly these tensors, rounded.
    Raises CheckpointError: a pickle that holds more than tensors and plain values, no state dict
    or several, tensors that are not those of the card's network, values that fp16 cannot hold.
    """
    from geopanoptic.models.networks import blank_network

    if not weights.is_file():
        raise CheckpointError(f"there is no file {weights}; check the path")
    if not card_file.is_file():
        raise CheckpointError(
            f"there is no card {card_file}; docs/models.md shows how to write one"
        )
    size = weights.stat().st_size
    if size > MAX_FILE_BYTES:
        raise CheckpointError(f"{weights} has {size} bytes; more than {MAX_FILE_BYTES} are refused")
    card = yaml_card(card_file, {"architecture": "dense", "name": weights.stem}, weights)
    wanted = {name: tuple(t.shape) for name, t in blank_network(card).state_dict().items()}
    tensors = _fitting(_tensors(weights, key), wanted, weights)
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and (np.abs(tensor[np.isfinite(tensor)]) > _MOST).any():
            raise CheckpointError(
                f"the tensor '{name}' of {weights} has values above {_MOST:.0f}, the most that the "
                "fp16 of a model file can hold; scale the layer, or export the model to ONNX"
            )
    return save_model(out, tensors, card)


def _tensors(path: Path, key: str) -> Tensors:
    """Read the state dict of a file."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of a pickle's dialect
                found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as why:
        reason = str(why).splitlines()[0] if str(why) else type(why).__name__
        raise CheckpointError(
            f"{path} is no file of weights, or holds more than tensors and plain values, which is "
            f"never loaded ({reason}); save the state dict alone: "
            "torch.save(model.state_dict(), 'weights.pt')"
        ) from why
    dicts = _state_dicts(found, "")
    if key and key not in dicts:
        known = ", ".join(sorted(filter(None, dicts))) or "none by name"
        raise CheckpointError(
            f"{path} has no state dict '{key}'{nearest_name(key, dicts)}; it has: {known}"
        )
    if not key and len(dicts) != 1:
        cure = f"name one with --key: {', '.join(sorted(dicts))}" if dicts else "save one into it"
        raise CheckpointError(f"{path} holds {len(dicts)} state dicts; {cure}")
    chosen = dicts[key] if key else next(iter(dicts.values()))
    return {
        name: (t.float() if t.dtype in (torch.bfloat16, torch.float64) else t).numpy()
        for name, t in chosen.items()
    }


def _state_dicts(found: Any, name: str) -> dict[str, Mapping[str, Any]]:
    """Return all tables of nothing but named tensors in a checkpoint, by their dotted place."""
    import torch

    if not isinstance(found, Mapping):
        return {}
    if found and all(isinstance(v, torch.Tensor) for v in found.values()):
        named = all(isinstance(k, str) for k in found)
        return {name: found} if named else {}
    out: dict[str, Mapping[str, Any]] = {}
    for k, v in found.items():
        if isinstance(k, str):
            out |= _state_dicts(v, f"{name}.{k}" if name else k)
    return out


def _fitting(found: Tensors, wanted: Mapping[str, tuple[int, ...]], path: Path) -> Tensors:
    """Return the tensors that the network wants, under its names."""
    probe = max(wanted, key=len)
    ends = {name.removesuffix(probe) for name in found if name.endswith(probe)}
    prefixes = sorted((e for e in ends if not e or e.endswith(".")), key=len) or [""]
    misfits: list[str] = []
    for prefix in prefixes:
        tensors = {n.removeprefix(prefix): t for n, t in found.items() if n.startswith(prefix)}
        wrong = sorted(
            name
            for name in wanted.keys() | tensors.keys()
            if name not in wanted or name not in tensors or tensors[name].shape != wanted[name]
        )
        if not wrong:
            return tensors
        misfits = misfits or wrong
    first = misfits[0]
    there = found.get(first, found.get(prefixes[0] + first))
    has = f"has the shape {there.shape}" if there is not None else "is not in the file"
    wants = f"wants {wanted[first]}" if first in wanted else "does not know it"
    raise CheckpointError(
        f"the weights of {path} are not those of the network in its card: {len(misfits)} of "
        f"{len(wanted)} tensors differ; the first, '{first}', {has}, the network {wants}; "
        "change `arguments` or `classes` of the card"
    )

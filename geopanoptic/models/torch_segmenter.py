"""A dense network on torch behind the Segmenter door."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch
from torch import nn

from geopanoptic.errors import CheckpointError
from geopanoptic.models.card import ModelCard
from geopanoptic.models.checkpoint import read_header, read_tensors
from geopanoptic.models.chips import padded_chips
from geopanoptic.models.decode import DecodesFields, decoder_of
from geopanoptic.models.dense import DenseArgs, build_dense
from geopanoptic.models.engines import COMPILED, Engine
from geopanoptic.models.fields import FieldLayout
from geopanoptic.models.fold import fold_batch_norm
from geopanoptic.models.segmenter import Fields

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


def network_of(card: ModelCard) -> nn.Module:
    """Build the network a card names, with random weights; CheckpointError if there is none."""
    if card.architecture != "dense":
        raise CheckpointError(
            f"the model '{card.name}' has the architecture '{card.architecture}'; this program "
            "has 'dense': update geopanoptic"
        )
    args = DenseArgs.from_json(dict(card.arguments))
    if args.in_channels != len(card.bands):
        raise CheckpointError(
            f"the card of '{card.name}' names {len(card.bands)} bands, its network takes "
            f"{args.in_channels}"
        )
    return build_dense(args, len(card.schema))


def load_torch(
    path: Path, device: str = "cpu", threads: int | None = None, engine: Engine | None = None
) -> TorchSegmenter:
    """Load a model file: check its hash, build its network, fill it strictly.

    `threads`: torch's threads for this process, left alone when None. `engine`: whether torch
    compiles the network, and its precision; None leaves both as they are.
    """
    header = read_header(path)
    net = network_of(header.card)
    tensors = read_tensors(path, header)
    fill(net, tensors, str(path))
    net = fold_batch_norm(net, len(header.card.bands))
    precision = engine.precision if engine is not None else "fp32"
    segmenter = TorchSegmenter(header.card, net, on_device(device, threads), precision)
    if engine is not None and engine.name == COMPILED:
        segmenter.net.compile(dynamic=False, options={"freezing": True})
    return segmenter


def fill(net: nn.Module, tensors: Mapping[str, npt.NDArray[Any]], where: str) -> None:
    """Copy tensors into a network; CheckpointError names the first that does not fit."""
    wanted = net.state_dict()
    wrong = sorted(
        k
        for k in set(wanted) | set(tensors)
        if k not in wanted or k not in tensors or tuple(wanted[k].shape) != tensors[k].shape
    )
    if wrong:
        raise CheckpointError(
            f"the weights of {where} do not fit the architecture of its card: {len(wrong)} of "
            f"{len(wanted)} tensors differ, first '{wrong[0]}'; get the file again"
        )
    filled = {k: torch.from_numpy(v.copy()).to(wanted[k].dtype) for k, v in tensors.items()}
    net.load_state_dict(filled)


def on_device(device: str, threads: int | None) -> torch.device:
    """Return the torch device of a name, with so many threads of this process."""
    if threads is not None:
        torch.set_num_threads(threads)
    return _device(device)


def _device(name: str) -> torch.device:
    """Return the torch device of `auto`, `cpu`, `cuda` or `cuda:1`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as why:
        raise CheckpointError(f"'{name}' is no device; use auto, cpu, cuda or cuda:1") from why
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"the device '{name}' is not there; use --device cpu")
    return device


class TorchSegmenter(DecodesFields):
    """A Segmenter (see `segmenter.Segmenter`) on a torch network with the `dense` fields.

    Fields of `forward`: see `fields`. In bf16 and fp16 torch computes in half as many bits what
    bears it (autocast); fields are made in fp32.
    """

    def __init__(
        self, card: ModelCard, net: nn.Module, device: torch.device, precision: str = "fp32"
    ) -> None:
        self.card = card
        self.device = device
        self.decoder = decoder_of(card)
        self.dtype = _HALF.get(precision)
        self.layout = FieldLayout.of(card)
        self.net = net.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        shape = (1, len(card.bands), 1, 1)
        self._mean = torch.tensor(card.mean, dtype=torch.float32, device=device).view(shape)
        self._scale = 1 / torch.tensor(card.std, dtype=torch.float32, device=device).view(shape)

    def forward(self, chips: npt.NDArray[Any]) -> Fields:
        """Run the network on chips (n, band, h, w), uint8 or float32, in the card's value range."""
        chips, (rows, cols) = padded_chips(chips, self.card, None)
        with torch.inference_mode():
            x = torch.from_numpy(chips).to(self.device)
            x = x.to(dtype=torch.float32, memory_format=torch.channels_last)
            half = self.dtype is not None
            with torch.autocast(self.device.type, dtype=self.dtype, enabled=half):
                y = self.net((x - self._mean) * self._scale)
            y = y.float()[..., :rows, :cols]
            return {name: field.cpu().numpy() for name, field in self.layout(y).items()}

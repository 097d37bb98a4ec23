"""A dense network on torch behind the Segmenter door."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.nn import functional as F

from geopanoptic.errors import CheckpointError, SceneError
from geopanoptic.models.card import ModelCard
from geopanoptic.models.checkpoint import read_header, read_tensors
from geopanoptic.models.decode import SeededDecoder
from geopanoptic.models.dense import DenseArgs, build_dense
from geopanoptic.models.fold import fold_batch_norm
from geopanoptic.models.segmenter import Fields, Segmented

# Stuff is decided on probabilities averaged over this many pixels a side: single pixels of one
# class in another are noise, and a map of them has three times the polygons.
SMOOTH_PX = 5
STRIDE = 32  # of the encoder; chips are mirrored out to a multiple of it


def network_of(card: ModelCard) -> nn.Module:
    """Build the network a card names, with random weights; CheckpointError if there is none."""
    if card.architecture != "dense":
        raise CheckpointError(
            f"the model '{card.name}' has the architecture '{card.architecture}'; this program "
            "has 'dense': update geopanoptic"
        )
    return build_dense(DenseArgs.from_json(dict(card.arguments)), len(card.schema))


def load_torch(path: Path, device: str = "cpu", threads: int | None = None) -> TorchSegmenter:
    """Load a model file: check its hash, build its network, fill it strictly.

    `threads`: torch's threads for this process, left alone when None.
    """
    header = read_header(path)
    net = network_of(header.card)
    tensors = read_tensors(path, header)
    fill(net, tensors, str(path))
    if threads is not None:
        torch.set_num_threads(threads)
    net = fold_batch_norm(net, len(header.card.bands))
    return TorchSegmenter(header.card, net, _device(device))


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


def box_mean(x: torch.Tensor, size: int) -> torch.Tensor:
    """Average (n, c, h, w) over `size` x `size` pixels (odd), over those that exist at the rim.

    Down the columns, then along the rows: the same mean as in one go, for 2/5 of the work at 5.
    """
    for kernel in ((size, 1), (1, size)):
        pad = tuple(k // 2 for k in kernel)
        x = F.avg_pool2d(x, kernel, 1, pad, count_include_pad=False)
    return x


class TorchSegmenter:
    """A Segmenter (see `segmenter.Segmenter`) on a torch network with the `dense` fields.

    Fields of `forward`: `semantic` (n, class, h, w), probabilities (those of stuff averaged over
    SMOOTH_PX pixels a side), and `strength` (n, h, w), the decoder's field.
    """

    def __init__(self, card: ModelCard, net: nn.Module, device: torch.device) -> None:
        self.card = card
        self.device = device
        self.decoder = SeededDecoder.from_card(card)
        self.net = net.eval().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        heads = DenseArgs.from_json(dict(card.arguments)).heads
        self._contact = len(card.schema) + heads.index("contact")
        self._distance = len(card.schema) + heads.index("distance")
        self._stuff = [i for i, c in enumerate(card.schema.classes) if not c.is_thing]
        shape = (1, len(card.bands), 1, 1)
        self._mean = torch.tensor(card.mean, dtype=torch.float32, device=device).view(shape)
        self._scale = 1 / torch.tensor(card.std, dtype=torch.float32, device=device).view(shape)

    def forward(self, chips: npt.NDArray[Any]) -> Fields:
        """Run the network on chips (n, band, h, w), uint8 or float32, in the card's value range."""
        if chips.ndim != 4 or chips.shape[1] != len(self.card.bands):
            raise SceneError(
                f"chips have shape {chips.shape}; the model '{self.card.name}' takes "
                f"(n, {len(self.card.bands)}, rows, cols): {', '.join(self.card.bands)}"
            )
        rows, cols = chips.shape[2:]
        pads = [(0, 0), (0, 0), (0, -rows % STRIDE), (0, -cols % STRIDE)]
        if any(b for _, b in pads):
            chips = np.pad(chips, pads, mode="symmetric")
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(chips)).to(self.device)
            x = x.to(dtype=torch.float32, memory_format=torch.channels_last)
            y = self.net((x - self._mean) * self._scale)[..., :rows, :cols]
            strength = y[:, self._distance].sigmoid() * (-y[:, self._contact]).sigmoid()
            semantic = y[:, : len(self.card.schema)].softmax(1)
            semantic[:, self._stuff] = box_mean(semantic[:, self._stuff], SMOOTH_PX)
            return {
                "semantic": semantic.cpu().numpy(),
                "strength": strength.cpu().numpy(),
            }

    def decode(self, fields: Fields, valid: npt.NDArray[np.bool_]) -> Segmented:
        """Decode the fields of one tile (no leading axis); see `decode.SeededDecoder`."""
        return self.decoder(fields["semantic"], fields["strength"], valid)

    def segment(self, chips: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> list[Segmented]:
        """Run and decode chips (n, band, h, w) with valid pixels (n, h, w)."""
        fields = self.forward(chips)
        return [
            self.decode({k: v[i] for k, v in fields.items()}, valid[i]) for i in range(len(chips))
        ]

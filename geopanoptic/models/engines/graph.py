"""Write a dense model as one ONNX graph, from pixels to fields. Needs torch and onnx.

Run as a module (`python -m geopanoptic.models.engines.graph MODEL OUT`) it does so in a process of
its own, so that the one that predicts never holds torch.
"""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import cast

import torch
from torch import nn

from geopanoptic.errors import CheckpointError
from geopanoptic.models.card import ModelCard
from geopanoptic.models.fields import FieldLayout
from geopanoptic.models.torch_segmenter import load_torch

OPSET = 17
_TRACED_PX = 256


class FieldsGraph(nn.Module):
    """From chips (n, band, h, w) in the card's value range to the fields, stuff not yet averaged.

    Averaging is left out: engines are slow at it, numpy is not (`smoothing`).
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, card: ModelCard, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.layout = FieldLayout.of(card)
        shape = (1, len(card.bands), 1, 1)
        self.register_buffer("mean", torch.tensor(card.mean, dtype=torch.float32).view(shape))
        self.register_buffer("scale", 1 / torch.tensor(card.std, dtype=torch.float32).view(shape))

    def forward(self, chips: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = self.net((chips.to(torch.float32) - self.mean) * self.scale)
        return tuple(self.layout.unsmoothed(y).values())


class FixedPad(nn.Module):
    """A convolution of TensorFlow's 'same' padding, for sizes that its stride divides.

    timm works the padding out from the size of the input, which becomes a dozen operations of a
    graph; where the stride divides the size, it is a constant.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        rows, cols = (
            max((k - 1) * d + 1 - s, 0)
            for k, d, s in zip(conv.kernel_size, conv.dilation, conv.stride, strict=True)
        )
        self.pad = nn.ZeroPad2d((cols // 2, cols - cols // 2, rows // 2, rows - rows // 2))
        kernel, stride = (cast("tuple[int, int]", v) for v in (conv.kernel_size, conv.stride))
        self.conv = nn.Conv2d(
            conv.in_channels, conv.out_channels, kernel, stride,
            dilation=(conv.dilation[0], conv.dilation[1]), groups=conv.groups,
            bias=conv.bias is not None,
        )  # fmt: skip
        self.conv.load_state_dict(conv.state_dict())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(self.pad(x))
        return y


def onnx_graph(model: Path) -> bytes:
    """Export a model file to ONNX: input `chips`, float32; outputs named as the fields are.

    n, h and w are free, h and w multiples of 32. Raises CheckpointError when the network cannot
    be written as a graph, or answers otherwise as one.
    """
    loaded = load_torch(model)
    graph = FieldsGraph(loaded.card, loaded.net).eval()
    _fix_padding(graph)
    dice = torch.Generator().manual_seed(0)
    shape = (1, len(loaded.card.bands), _TRACED_PX, _TRACED_PX)
    low, high = loaded.card.value_range
    chips = torch.rand(shape, generator=dice) * (high - low) + low
    with torch.inference_mode():
        wanted = loaded.layout.unsmoothed(loaded.net((chips - graph.mean) * graph.scale))
        for name, field in zip(wanted, graph(chips), strict=True):
            if not torch.allclose(wanted[name], field, atol=1e-3, rtol=1e-3):
                raise CheckpointError(
                    f"the field '{name}' of the model '{loaded.card.name}' changes when it is "
                    "written as a graph; use --engine torch"
                )
    free = {0: "n", 2: "h", 3: "w"}
    out = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # The tracing exporter is the one that needs no other package than onnx; torch says that
        # another is newer, and that constants were traced as such, which is what we want.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            graph, (chips,), out,  # type: ignore[arg-type]  # takes a file, too
            input_names=["chips"], output_names=list(wanted),
            dynamic_axes={"chips": free} | dict.fromkeys(wanted, free),
            opset_version=OPSET, dynamo=False,
        )  # fmt: skip
    return out.getvalue()


def _fix_padding(module: nn.Module) -> None:
    from timm.layers.conv2d_same import Conv2dSame

    for name, child in module.named_children():
        if isinstance(child, Conv2dSame):
            setattr(module, name, FixedPad(child))
        else:
            _fix_padding(child)


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(onnx_graph(Path(sys.argv[1])))

"""Folding batch normalisations and averaging in two passes change the cost, not the answers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from geopanoptic.models import DEFAULT_MODEL
from geopanoptic.models.checkpoint import model_path, read_header, read_tensors
from geopanoptic.models.fields import box_mean
from geopanoptic.models.fold import fold_batch_norm
from geopanoptic.models.torch_segmenter import fill, network_of


def _norms(net: nn.Module) -> int:
    return sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())


def test_the_bundled_network_loses_all_its_normalisations_and_keeps_its_answers():
    path = model_path(DEFAULT_MODEL)
    header = read_header(path)
    net = network_of(header.card)
    fill(net, read_tensors(path, header), str(path))
    chips = torch.rand((2, 3, 96, 128), generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        wanted = net.eval()(chips)
        folded = fold_batch_norm(net, 3)
        got = folded(chips)
    assert (_norms(net) > 40, _norms(folded)) == (True, 0)
    assert torch.allclose(got, wanted, atol=1e-4)


class Crossed(nn.Module):
    """A network whose normalisation stands after a convolution but runs before it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.norm.running_mean.fill_(0.5)
        self.norm.running_var.fill_(9.0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(self.norm(x))


def test_a_network_that_would_answer_otherwise_comes_back_as_it_was():
    net = Crossed()
    assert fold_batch_norm(net, 3) is net


@pytest.mark.parametrize("shape", [(1, 2, 1, 1), (2, 3, 4, 9), (1, 1, 33, 20)])
def test_two_passes_of_averaging_are_the_one_pass(shape):
    x = torch.rand(shape, generator=torch.Generator().manual_seed(2))
    one = F.avg_pool2d(x, 5, 1, 2, count_include_pad=False)
    assert torch.allclose(box_mean(x, 5), one, atol=1e-6)

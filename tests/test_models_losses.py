"""The losses for partly labelled pixels keep their laws."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from geopanoptic.models.losses import (
    InstanceReach,
    allowed,
    instance_loss,
    instance_targets,
    superset_loss,
    thing_dice_loss,
)

N = 7
EVEN = torch.ones(N)


def logits_of(seed: int) -> torch.Tensor:
    made = torch.randn((2, N, 5, 6), generator=torch.Generator().manual_seed(seed)) * 3
    return made.requires_grad_()


@given(st.integers(0, 1000))
def test_a_set_of_one_class_gives_cross_entropy(seed: int) -> None:
    logits = logits_of(seed)
    target = torch.randint(N, (2, 5, 6), generator=torch.Generator().manual_seed(seed))
    got = superset_loss(logits.softmax(1), (1 << target).to(torch.uint8), EVEN)
    torch.testing.assert_close(got, F.cross_entropy(logits, target))
    weight = torch.arange(1.0, N + 1)
    got = superset_loss(logits.softmax(1), (1 << target).to(torch.uint8), weight)
    torch.testing.assert_close(got, F.cross_entropy(logits, target, weight=weight))


@pytest.mark.parametrize("void", [0, (1 << N) - 1])
def test_void_gives_no_loss_and_no_gradient(void: int) -> None:
    logits = logits_of(3)
    sets = torch.full((2, 5, 6), void, dtype=torch.uint8)
    loss = superset_loss(logits.softmax(1), sets, EVEN) + thing_dice_loss(
        logits.softmax(1), sets, 0
    )
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_void_pixels_do_not_change_the_loss_of_others() -> None:
    logits = logits_of(4)
    sets = torch.full((2, 5, 6), 1, dtype=torch.uint8)
    sets[1] = (1 << N) - 1
    alone = superset_loss(logits[:1].softmax(1), sets[:1], EVEN)
    torch.testing.assert_close(superset_loss(logits.softmax(1), sets, EVEN), alone)


@given(st.integers(0, 1000), st.integers(1, (1 << N) - 2))
def test_the_loss_is_minus_the_log_of_the_summed_probability(seed: int, mask: int) -> None:
    logits = logits_of(seed)
    sets = torch.full((2, 5, 6), mask, dtype=torch.uint8)
    inside = [k for k in range(N) if mask >> k & 1]
    expected = -logits.softmax(1)[:, inside].sum(1).log().mean()
    got = superset_loss(logits.softmax(1), sets, EVEN * (len(inside) > 1) + (len(inside) == 1))
    torch.testing.assert_close(got, expected)
    # a larger set never costs more
    wider = superset_loss(logits.softmax(1), sets | 1, EVEN)
    assert wider <= got + 1e-6 or mask | 1 == (1 << N) - 1


def test_a_hopeless_pixel_stays_finite() -> None:
    logits = torch.zeros((1, N, 1, 1))
    logits[0, 0] = 200.0
    logits.requires_grad_()
    loss = superset_loss(logits.softmax(1), torch.full((1, 1, 1), 2, dtype=torch.uint8), EVEN)
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_bits_unpack_to_classes() -> None:
    sets = torch.tensor([[[0b0000101]]], dtype=torch.uint8)
    assert allowed(sets, N).flatten().tolist() == [True, False, True, *[False] * 4]


def test_dice_is_zero_for_a_perfect_answer_and_one_for_a_wrong_one() -> None:
    sets = torch.full((1, 8, 8), 0b1111110, dtype=torch.uint8)
    sets[:, :4] = 1
    right = torch.zeros((1, N, 8, 8))
    right[:, 0, :4] = 1
    right[:, 1, 4:] = 1
    assert thing_dice_loss(right, sets, 0) < 1e-6
    assert thing_dice_loss(right.flip(2), sets, 0) > 0.95


def test_instance_targets_follow_the_distances() -> None:
    signed = torch.tensor([[[-9.0, -2.0, 1.0, 4.0, 20.0]]])
    second = torch.tensor([[[99.0, 1.0, 1.0, 9.0, 99.0]]])
    edge, contact, distance, known = instance_targets(signed, second, InstanceReach())
    assert edge.flatten().tolist() == [False, True, True, False, False]
    assert contact.flatten().tolist() == [False, True, True, False, False]
    assert distance.flatten().tolist() == [0, 0, 1 / 8, 0.5, 1]
    assert known.flatten().tolist() == [False, True, True, True, True]


def test_instance_heads_learn_nothing_far_from_instances() -> None:
    fields = torch.randn((1, 3, 4, 4), requires_grad=True)
    signed = torch.full((1, 4, 4), -50.0)
    instance_loss(fields, signed, signed.abs(), InstanceReach()).backward()
    assert fields.grad is not None
    assert (fields.grad == 0).all()

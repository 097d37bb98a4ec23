"""Losses for partly labelled pixels: every pixel knows the *set* of classes it may be.

A source that says only "not a building" is a set of all other classes; void is the set of all
classes; an ordinary label is a set of one. Sets travel as bit masks, bit k for the k-th class of
the schema, eight classes to a byte: uint8 (n, h, w), or (n, bytes, h, w).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

OFFSET_UNIT_PX = 8.0  # the offset heads answer in units of so many pixels


@dataclass(frozen=True, slots=True)
class InstanceReach:
    """Widths, in chip pixels, of the instance targets.

    `edge`: the band inside an outline. `contact`: how near a second instance must be. `clip`:
    where the distance field saturates. `ring`: how far outside an instance the heads are taught
    (further out the semantic field has already said that there is none).
    """

    edge: float = 2.0
    contact: float = 2.5
    clip: float = 8.0
    ring: float = 4.0


def allowed(sets: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Unpack bit masks (n, h, w) or (n, bytes, h, w) uint8 to booleans (n, class, h, w)."""
    if sets.ndim == 3:
        sets = sets.unsqueeze(1)
    bits = torch.arange(8, device=sets.device, dtype=torch.uint8).view(1, 1, -1, 1, 1)
    unpacked = (sets.unsqueeze(2) >> bits) & 1 > 0
    return unpacked.flatten(1, 2)[:, :n_classes]


def superset_loss(
    probability: torch.Tensor, sets: torch.Tensor, class_weight: torch.Tensor
) -> torch.Tensor:
    """Return -log of the summed probability of the allowed classes, as a mean over known pixels.

    `probability` (n, class, h, w), a softmax; `sets` uint8 bit masks; `class_weight`
    (class,): weight of a pixel whose set has that one class only (a set of several weighs 1).
    Laws: a set of one class gives weighted cross-entropy; the full set and the empty set (void)
    give zero loss and zero gradient. Source: Cour et al. 2011, "Learning from partial labels".
    """
    return set_loss(probability, allowed(sets, probability.shape[1]), class_weight)


def set_loss(
    probability: torch.Tensor, ok: torch.Tensor, class_weight: torch.Tensor
) -> torch.Tensor:
    """Return `superset_loss` of unpacked sets: `ok` (n, class, h, w) bool."""
    count = ok.sum(1)
    known = (count > 0) & (count < ok.shape[1])
    # the floor keeps the loss of a hopeless pixel (logits 60 apart) finite
    picked = (probability * ok).sum(1).clamp(min=1e-26)
    weight = torch.where(
        count == 1, (ok * class_weight.view(1, -1, 1, 1)).sum(1), torch.ones_like(picked)
    )
    weight = weight * known
    return -(picked.log() * weight).sum() / weight.sum().clamp(min=1.0)


def thing_dice_loss(probability: torch.Tensor, sets: torch.Tensor, channel: int) -> torch.Tensor:
    """Return 1 - soft dice of one class over the pixels that say whether they are of it.

    Pixels whose set is that class alone are positive, those whose set lacks it negative, all
    others void. Zero where the batch has no positive pixel.
    """
    p = probability[:, channel]
    ok = allowed(sets, probability.shape[1])
    mine, count = ok[:, channel], ok.sum(1)
    positive = mine & (count == 1)
    known = positive | ~mine & (count > 0)
    if not bool(positive.any()):
        return p.sum() * 0.0
    p, t = p * known, positive.to(p.dtype)
    return 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)


def instance_targets(
    signed_px: torch.Tensor, second_px: torch.Tensor, reach: InstanceReach
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the edge, contact and distance targets and where they hold, each (n, h, w).

    `signed_px`: distance to the outline of the nearest instance in chip pixels, positive inside;
    `second_px`: distance to the second nearest instance.
    """
    inside = signed_px > 0
    contact = second_px <= reach.contact
    edge = inside & (signed_px <= reach.edge) | (second_px <= reach.edge)
    distance = signed_px.clamp(0, reach.clip) / reach.clip
    return edge, contact, distance, signed_px > -reach.ring


def instance_loss(
    fields: torch.Tensor, signed_px: torch.Tensor, second_px: torch.Tensor, reach: InstanceReach
) -> torch.Tensor:
    """Return the summed losses of the heads edge, contact, distance: `fields` (n, 3, h, w)."""
    edge, contact, distance, known = instance_targets(signed_px, second_px, reach)
    total = known.sum().clamp(min=1)

    def binary(logit: torch.Tensor, target: torch.Tensor, positive: float) -> torch.Tensor:
        loss = F.binary_cross_entropy_with_logits(
            logit, target.to(logit.dtype), reduction="none", pos_weight=logit.new_tensor(positive)
        )
        return (loss * known).sum() / total

    far = F.smooth_l1_loss(fields[:, 2].sigmoid(), distance, reduction="none", beta=0.1)
    return (
        binary(fields[:, 0], edge, 1.5)
        + binary(fields[:, 1], contact, 2.5)
        + 4.0 * (far * known).sum() / total
    )


@dataclass(frozen=True, slots=True)
class CenterReach:
    """Widths, in chip pixels, of the centre targets; see `center_loss`.

    `sigma`: of the bump on a centre. `unit`: the offset heads answer in so many pixels. `ring`:
    as in `InstanceReach`.
    """

    sigma: float = 3.0
    unit: float = OFFSET_UNIT_PX
    ring: float = 4.0


def center_targets(
    ids: torch.Tensor, reach: CenterReach
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return heat (n, h, w), offset (n, 2, h, w) in units and where the offset holds (n, h, w).

    `ids` (n, h, w) int, 0 = no instance. Heat is a bump on every centroid of what a chip shows of
    an instance; the offset of a pixel points from it to its centroid (rows, then columns).
    """
    n, h, w = ids.shape
    heat = torch.zeros((n, h, w), device=ids.device)
    offset = torch.zeros((n, 2, h, w), device=ids.device)
    rows = torch.arange(h, device=ids.device, dtype=torch.float32)
    cols = torch.arange(w, device=ids.device, dtype=torch.float32)
    for k in range(n):
        names, which = torch.unique(ids[k], return_inverse=True)
        count = torch.bincount(which.ravel(), minlength=len(names)).float()
        row, col = (
            torch.bincount(which.ravel(), axis.ravel(), len(names)).float() / count
            for axis in torch.meshgrid(rows, cols, indexing="ij")
        )
        offset[k, 0] = (row[which] - rows[:, None]) / reach.unit
        offset[k, 1] = (col[which] - cols[None]) / reach.unit
        own = torch.nonzero(names > 0).ravel()
        for part in torch.split(own, 32) if len(own) else ():
            down = torch.exp(-((rows - row[part, None]) ** 2) / (2 * reach.sigma**2))
            along = torch.exp(-((cols - col[part, None]) ** 2) / (2 * reach.sigma**2))
            bumps = (down[:, :, None] * along[:, None]).amax(0)
            heat[k] = torch.maximum(heat[k], bumps)
    return heat, offset, ids > 0


def center_loss(
    fields: torch.Tensor, ids: torch.Tensor, signed_px: torch.Tensor, nothing: torch.Tensor
) -> torch.Tensor:
    """Return the summed losses of the heads center, offset_row, offset_col: `fields` (n, 3, h, w).

    `nothing` (n, h, w): pixels that are surely no thing, where the heat is 0. Elsewhere the heat
    is taught inside and near instances only: a thing without an instance id teaches none.
    Source: Cheng et al. 2020, "Panoptic-DeepLab" (squared error of the heat, L1 of the offset).
    """
    reach = CenterReach()
    heat, offset, inside = center_targets(ids, reach)
    known = (signed_px > -reach.ring) | nothing
    square = (fields[:, 0].sigmoid() - heat) ** 2
    # bumps are rare: without a weight for them the head would learn to say nothing
    weight = known * (1 + 20 * heat)
    bump = (square * weight).sum() / weight.sum().clamp(min=1)
    line = ((fields[:, 1:3] - offset).abs().sum(1) * inside).sum() / inside.sum().clamp(min=1)
    return 10 * bump + 0.2 * line

"""Chips for training: scenes and partial labels in, batches of images and label sets out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geopanoptic.dataset.planes import Planes
from geopanoptic.dataset.sources import Reading, Roots, SourceArray, prepare_source
from geopanoptic.dataset.specs import LayerSpec, SourceSpec, expand

if TYPE_CHECKING:
    from geopanoptic.dataset.chips import Chip as Chip
    from geopanoptic.dataset.chips import ChipSet as ChipSet
    from geopanoptic.dataset.chips import ChipSettings as ChipSettings

__all__ = [
    "Chip",
    "ChipSet",
    "ChipSettings",
    "LayerSpec",
    "Planes",
    "Reading",
    "Roots",
    "SourceArray",
    "SourceSpec",
    "expand",
    "pictures_of",
    "prepare_source",
]


def __getattr__(name: str) -> Any:
    # chips are torch tensors; reading the description of sources must not import torch
    if name in ("Chip", "ChipSet", "ChipSettings"):
        from geopanoptic.dataset import chips

        return getattr(chips, name)
    if name == "pictures_of":
        from geopanoptic.dataset.coco import pictures_of

        return pictures_of
    raise AttributeError(f"module 'geopanoptic.dataset' has no attribute '{name}'")

"""Chips for training: scenes and partial labels in, batches of images and label sets out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geopanoptic.dataset.sources import LayerSpec, SourceSpec, prepare_source

if TYPE_CHECKING:
    from geopanoptic.dataset.chips import ChipSet as ChipSet
    from geopanoptic.dataset.chips import ChipSettings as ChipSettings
    from geopanoptic.dataset.chips import SourceArray as SourceArray

__all__ = ["ChipSet", "ChipSettings", "LayerSpec", "SourceArray", "SourceSpec", "prepare_source"]


def __getattr__(name: str) -> Any:
    # chips are torch tensors; reading the description of sources must not import torch
    if name in ("ChipSet", "ChipSettings", "SourceArray"):
        from geopanoptic.dataset import chips

        return getattr(chips, name)
    raise AttributeError(f"module 'geopanoptic.dataset' has no attribute '{name}'")

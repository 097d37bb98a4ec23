"""Training: scenes and partial labels in, a model file with its card out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geopanoptic.train.settings import ClassEntry, TrainConfig, TrainPaths

if TYPE_CHECKING:
    from geopanoptic.train.loop import Execution as Execution
    from geopanoptic.train.loop import fit as fit

__all__ = ["ClassEntry", "Execution", "TrainConfig", "TrainPaths", "fit"]


def __getattr__(name: str) -> Any:
    # the loop imports torch; reading a configuration must not
    if name in ("Execution", "fit"):
        from geopanoptic.train import loop

        return getattr(loop, name)
    raise AttributeError(f"module 'geopanoptic.train' has no attribute '{name}'")

"""A model file with random weights and a true card: small enough to write in every test."""

from __future__ import annotations

from pathlib import Path

from geopanoptic.models import ModelCard, save_model
from geopanoptic.schema import LabelSchema

THRESHOLDS = {
    f"{name}_{key}": value
    for name in ("building", "vehicle")
    for key, value in {
        "region": 0.5,
        "ratio": 0.5,
        "peak": 0.15,
        "score": 0.5,
        "area_px": 4,
    }.items()
}


def random_card(name: str = "random", **changes: object) -> ModelCard:
    """Return the card of a small dense model; `changes` replace its entries."""
    entries: dict[str, object] = {
        "name": name,
        "version": "0",
        "architecture": "dense",
        "arguments": {"encoder": "tu-tf_efficientnet_lite0", "decoder_channels": [32, 16, 16, 8]},
        "schema": LabelSchema.default(),
        "bands": ("red", "green", "blue"),
        "mean": (127.5,) * 3,
        "std": (127.5,) * 3,
        "gsd_range_m": (0.15, 0.6),
        "preferred_gsd_m": 0.3,
        "core": 128,
        "halo": 32,
        "decoder": "seeded",
        "thresholds": THRESHOLDS,
        "licence": "none",
        "sha256": "0" * 64,
    }
    return ModelCard(**(entries | changes))  # type: ignore[arg-type]


def write_random_model(path: Path, card: ModelCard | None = None, seed: int = 0) -> ModelCard:
    """Write a model file with random weights (batch statistics as new) and return its card."""
    import torch

    from geopanoptic.models.torch_segmenter import network_of

    torch.manual_seed(seed)
    card = card or random_card()
    net = network_of(card)
    return save_model(path, {k: v.numpy() for k, v in net.state_dict().items()}, card)

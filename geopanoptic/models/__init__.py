"""Models: cards, checkpoints, networks and the decoding of their fields.

Reading cards needs no torch; it is imported when a model is loaded.
"""

from __future__ import annotations

from pathlib import Path

from geopanoptic.models.card import ModelCard
from geopanoptic.models.checkpoint import (
    bundled_names,
    model_path,
    read_header,
    read_tensors,
    save_model,
)
from geopanoptic.models.engines import Engine, choose_engine
from geopanoptic.models.flips import with_tta
from geopanoptic.models.segmenter import Fields, Segmented, Segmenter

DEFAULT_MODEL = "landcover-v0"

__all__ = [
    "DEFAULT_MODEL",
    "Engine",
    "Fields",
    "ModelCard",
    "Segmented",
    "Segmenter",
    "check_model",
    "choose_engine",
    "list_models",
    "load_model",
    "read_card",
    "save_model",
    "with_tta",
]


def list_models() -> list[ModelCard]:
    """Return the cards of the bundled models, by name."""
    return [read_card(name) for name in bundled_names()]


def read_card(name_or_path: str | Path) -> ModelCard:
    """Return the card of a bundled model or of a file, from its header alone.

    Raises CheckpointError when there is no such model or the file is no model file.
    """
    return read_header(model_path(name_or_path)).card


def check_model(name_or_path: str | Path) -> ModelCard:
    """Return the card of a model after reading the whole file and comparing its hash; no torch.

    Raises CheckpointError when the file is damaged or altered.
    """
    path = model_path(name_or_path)
    header = read_header(path)
    read_tensors(path, header)
    return header.card


def load_model(
    name_or_path: str | Path = DEFAULT_MODEL,
    device: str = "cpu",
    threads: int | None = None,
    tta: str = "none",
    engine: Engine | str = "torch",
) -> Segmenter:
    """Load a bundled model or a `.safetensors` file with a card, ready to segment.

    `device`: auto, cpu, cuda, cuda:N. `threads`: of the network in this process. `tta`: none, or
    flips: average over mirror images, at four times the work. `engine`: a name of `ENGINES`; the
    ones other than torch run dense networks on the CPU, from a graph that is exported once.
    Raises CheckpointError: no such model, damaged or altered file, no card, weights that do not
    fit; pickles are never loaded. ConfigError: an engine that is not here.
    """
    path = model_path(name_or_path)
    if isinstance(engine, str):
        engine = choose_engine(read_header(path).card, engine, gpu=device.startswith("cuda"))
    if engine.name != "torch":
        from geopanoptic.models.engines.segmenter import load_graph

        return with_tta(load_graph(path, engine, threads), tta)
    from geopanoptic.models.torch_segmenter import load_torch

    return with_tta(load_torch(path, device, threads), tta)

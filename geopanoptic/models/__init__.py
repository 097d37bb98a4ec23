"""Models: cards, checkpoints, networks and the decoding of their fields.

Reading cards needs no torch; it is imported when a model is loaded.
"""

from __future__ import annotations

from pathlib import Path

from geopanoptic.models.card import ModelCard
from geopanoptic.models.checkpoint import bundled_names, save_model
from geopanoptic.models.engines import Engine, choose_engine
from geopanoptic.models.flips import with_tta
from geopanoptic.models.segmenter import Fields, Segmented, Segmenter
from geopanoptic.models.sources import Place, source_of

DEFAULT_MODEL = "landcover-v3"

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
    """Return the card of a model; see `load_model` for what may be named.

    Raises CheckpointError when there is no such model or the file is no model file.
    """
    return source_of(name_or_path).card()


def check_model(name_or_path: str | Path) -> ModelCard:
    """Return the card of a model after reading the whole file and comparing its hash; no torch.

    Raises CheckpointError when the file is damaged or altered.
    """
    return source_of(name_or_path).check()


def load_model(
    name_or_path: str | Path = DEFAULT_MODEL,
    device: str = "cpu",
    threads: int | None = None,
    tta: str = "none",
    engine: Engine | str = "torch",
    precision: str = "auto",
) -> Segmenter:
    """Load a model, ready to segment.

    `name_or_path`: a bundled name; a `.safetensors` file with a card; an `.onnx` file with a card
    inside or beside; a directory of transformers with a `card.yaml`; the name of a plugin (entry
    point `geopanoptic.models`); two of these as `SEMANTIC + INSTANCE`.
    `device`: auto, cpu, cuda, cuda:N. `threads`: of the network in this process. `tta`: none, or
    flips: average over mirror images, at four times the work. `engine`: a name of `ENGINES`; the
    ones other than torch run dense networks on the CPU, from a graph that is exported once.
    `precision`: auto, fp32, bf16, fp16, int8; only read where `engine` is a name.
    Raises CheckpointError: no such model, damaged or altered file, no card, weights that do not
    fit; pickles are never loaded. ConfigError: an engine that is not here.
    """
    source = source_of(name_or_path)
    if isinstance(engine, str):
        on_gpu = device.startswith("cuda")
        engine = choose_engine(source.card(), engine, precision=precision, gpu=on_gpu)
    return with_tta(source.load(Place(engine, device, threads)), tta)

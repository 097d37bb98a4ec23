"""Where a model comes from: one door for files, directories, plugins and pairs. No torch here."""

from __future__ import annotations

import importlib.metadata
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from geopanoptic.errors import CheckpointError
from geopanoptic.models.card import ModelCard
from geopanoptic.models.checkpoint import (
    MAX_FILE_BYTES,
    bundled_names,
    model_path,
    read_header,
    read_tensors,
)
from geopanoptic.models.engines import Engine
from geopanoptic.models.pair import PLUS, PairSegmenter, pair_card
from geopanoptic.models.segmenter import Segmenter
from geopanoptic.models.systems import SYSTEMS

PLUGINS = "geopanoptic.models"  # the entry point group
MAX_CONFIG_BYTES = 2**20  # of a configuration of transformers
_PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is to run: its engine, device (auto, cpu, cuda:1) and threads (None: all)."""

    engine: Engine
    device: str = "cpu"
    threads: int | None = None

    @property
    def cores(self) -> int:
        return self.threads or os.cpu_count() or 1


class Source(Protocol):
    """A model that can be had. `card` reads as little as possible, `check` reads all of it."""

    def card(self) -> ModelCard: ...

    def check(self) -> ModelCard: ...

    def load(self, place: Place) -> Segmenter: ...


def source_of(name_or_path: str | Path) -> Source:
    """Find a model: `A + B`, a bundled name, a plugin's name, a directory, or a file.

    Raises CheckpointError when there is none.
    """
    text = str(name_or_path)
    if PLUS in text and not Path(text).exists():
        parts = text.split(PLUS)
        if len(parts) != 2:
            raise CheckpointError(f"'{text}': two models can be laid over each other, not more")
        return Pair(*(source_of(part.strip()) for part in parts))
    if text not in bundled_names() and not Path(text).exists():
        for entry in importlib.metadata.entry_points(group=PLUGINS, name=text):
            return Plugin(entry)
    if Path(text).is_dir():
        return HubDirectory(Path(text))
    path = model_path(text)
    return OnnxFile(path) if path.suffix.lower() == ".onnx" else WeightsFile(path)


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """A `.safetensors` file with a card."""

    path: Path

    def card(self) -> ModelCard:
        return read_header(self.path).card

    def check(self) -> ModelCard:
        header = read_header(self.path)
        read_tensors(self.path, header)
        return header.card

    def load(self, place: Place) -> Segmenter:
        if not place.engine.name.startswith("torch"):
            from geopanoptic.models.engines.segmenter import load_graph

            return load_graph(self.path, place.engine, place.threads)
        if self.card().architecture in SYSTEMS:
            from geopanoptic.models.systems.segmenter import load_masks

            return load_masks(self.path, place.device, place.threads)
        from geopanoptic.models.torch_segmenter import load_torch

        return load_torch(self.path, place.device, place.threads, place.engine)


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """An `.onnx` file with a card inside or beside."""

    path: Path

    def card(self) -> ModelCard:
        from geopanoptic.models.onnx_file import read_onnx

        return read_onnx(self.path)

    check = card

    def load(self, place: Place) -> Segmenter:
        from geopanoptic.models.onnx_file import load_onnx

        return load_onnx(self.path, place.engine, place.cores)


@dataclass(frozen=True, slots=True)
class HubDirectory:
    """A directory of Hugging Face's transformers with a `card.yaml`."""

    folder: Path

    def card(self) -> ModelCard:
        from geopanoptic.models.onnx_file import card_beside, yaml_card

        beside = card_beside(self.folder)
        if beside is None:
            raise CheckpointError(
                f"{self.folder} has no model card: write one to {self.folder / 'card.yaml'} "
                "(docs/models.md shows how)"
            )
        config = self.config()
        known = {
            "name": self.folder.resolve().name,
            "architecture": f"hf_{config.get('model_type')}",
            "arguments": {"config": config},
            "decoder": "queries",
        }
        card = yaml_card(beside, known, self.weights())
        if card.architecture not in SYSTEMS:
            raise CheckpointError(
                f"{self.folder} is a {config.get('model_type')!r}; there are "
                f"{', '.join(s.removeprefix('hf_') for s in SYSTEMS if s.startswith('hf_'))}"
            )
        arguments = {"config": config, **card.arguments}
        return ModelCard.from_json(card.to_json() | {"arguments": arguments})

    check = card

    def weights(self) -> Path:
        """Return the file of weights; CheckpointError when there is none, or none but pickles."""
        path = self.folder / "model.safetensors"
        if not path.is_file():
            pickles = sorted(p.name for p in self.folder.iterdir() if p.suffix in _PICKLES)
            raise CheckpointError(
                f"{self.folder} has no model.safetensors"
                + (f"; {', '.join(pickles)} are pickles, which are never loaded" * bool(pickles))
            )
        if path.stat().st_size > MAX_FILE_BYTES:
            raise CheckpointError(f"{path} is larger than {MAX_FILE_BYTES} bytes")
        return path

    def config(self) -> dict[str, Any]:
        """Return the network's configuration; CheckpointError when there is none to read."""
        return _table(self.folder / "config.json")

    def scaling(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and std of the bands in 0..255 as `preprocessor_config.json` has them.

        Both empty when it is not there or says none.
        """
        path = self.folder / "preprocessor_config.json"
        said = _table(path) if path.is_file() else {}
        found = []
        for key in ("image_mean", "image_std"):
            values = said.get(key)
            if not isinstance(values, list) or not all(isinstance(v, (int, float)) for v in values):
                return (), ()
            found.append(tuple(round(255.0 * v, 4) for v in values))
        return found[0], found[1]

    def load(self, place: Place) -> Segmenter:
        from geopanoptic.models.systems.hugging_face import from_directory
        from geopanoptic.models.systems.segmenter import MaskSegmenter
        from geopanoptic.models.torch_segmenter import on_device

        card = self.card()
        net = from_directory(self.folder, card)
        return MaskSegmenter(card, net, on_device(place.device, place.threads))


def _table(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{path} has more than {MAX_CONFIG_BYTES} bytes; it is refused")
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as why:
        raise CheckpointError(f"cannot read {path}: {why}") from why
    if not isinstance(found, dict):
        raise CheckpointError(f"{path} is no configuration: it must be a table of entries")
    return found


@dataclass(frozen=True, slots=True)
class Plugin:
    """A model of an installed package: an entry point, called with `device` and `threads`."""

    entry: importlib.metadata.EntryPoint

    def card(self) -> ModelCard:
        return self.load(Place(Engine("torch", ""))).card

    check = card

    def load(self, place: Place) -> Segmenter:
        try:
            model: Segmenter = self.entry.load()(device=place.device, threads=place.threads)
        except Exception as why:  # code of others may raise anything
            raise CheckpointError(
                f"the plugin '{self.entry.name}' ({self.entry.value}) fails: {why}"
            ) from why
        if not isinstance(getattr(model, "card", None), ModelCard):
            raise CheckpointError(f"the plugin '{self.entry.name}' gives no model with a card")
        return model


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models over each other; see `pair`."""

    stuff: Source
    things: Source

    def card(self) -> ModelCard:
        return pair_card(self.stuff.card(), self.things.card())

    def check(self) -> ModelCard:
        return pair_card(self.stuff.check(), self.things.check())

    def load(self, place: Place) -> Segmenter:
        one, other = place.engine.parts(2)
        return PairSegmenter(
            self.stuff.load(Place(one, place.device, place.threads)),
            self.things.load(Place(other, place.device, place.threads)),
        )

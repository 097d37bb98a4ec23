"""ONNX models of anybody's, with a card in their metadata or beside them (`NAME.card.yaml`).

A card of the architecture `onnx` says in its arguments what the `graph` gives: `fields` (what
`models export` writes: raw pixels in, named fields out), or, of one output (n, class, h, w),
`logits` or `probabilities` of classes that exclude each other, for normalised pixels. `window`: the
one size (a side) that the graph takes, or none. `smooth_px`: average stuff over so many pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.config import read_yaml
from geopanoptic.errors import CheckpointError, ConfigError, nearest_name
from geopanoptic.models.card import CARD_VERSION, ModelCard
from geopanoptic.models.checkpoint import KEY, weights_digest
from geopanoptic.models.chips import padded_chips
from geopanoptic.models.decode import DecodesFields, decoder_of
from geopanoptic.models.engines import ONNX, Engine
from geopanoptic.models.engines.runners import GraphSource, Runner, open_runner
from geopanoptic.models.segmenter import Fields
from geopanoptic.models.smoothing import smooth

MAX_BYTES = 2 * 2**30  # protobuf's own limit
MAX_CARD_BYTES = 2**20
_ARGUMENTS = ("graph", "window", "smooth_px")
_GRAPHS = ("fields", "logits", "probabilities")
_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")


def card_beside(path: Path) -> Path | None:
    """Return the card file of an ONNX model (`NAME.card.yaml`) or directory (`card.yaml`)."""
    names = [path / "card.yaml"] if path.is_dir() else [path.with_suffix(".card.yaml")]
    return next((p for p in names if p.is_file()), None)


def yaml_card(path: Path, known: Mapping[str, Any], file: Path) -> ModelCard:
    """Read a card file for the model `file`; `known` fills entries that it leaves out.

    Without a sha256 in it the file's own is taken; with one it must agree (CheckpointError).
    """
    if path.stat().st_size > MAX_CARD_BYTES:
        raise CheckpointError(f"{path} has more than {MAX_CARD_BYTES} bytes; that is no card")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    try:
        entries = read_yaml(path)
    except ConfigError as why:
        raise CheckpointError(f"the card {path} cannot be read: {why}") from why
    raw = {"card_version": CARD_VERSION, "sha256": digest, **known, **entries}
    card = ModelCard.from_json(json.loads(json.dumps(raw, default=str)))
    if card.sha256 != digest:
        raise CheckpointError(
            f"{file} is not the file of its card {path} (sha256 {digest[:12]}..., the card says "
            f"{card.sha256[:12]}...); it is damaged or another: get both again"
        )
    return card


def read_onnx(path: Path) -> ModelCard:
    """Read and check an ONNX model and its card.

    Raises CheckpointError: no ONNX, too large, weights in other files, operations that are not
    ONNX's, no card, another hash, bands or classes than the graph has.
    """
    model = _parsed(path)
    inside = {p.key: p.value for p in model.metadata_props}.get(KEY)
    beside = card_beside(path)
    if inside is not None:
        try:
            card = ModelCard.from_json(json.loads(inside))
        except (ValueError, RecursionError) as why:
            raise CheckpointError(f"the card of {path} is not JSON: {why}") from why
        if graph_digest(model) != card.sha256:
            raise CheckpointError(
                f"the weights of {path} are not those of its card; it is damaged or altered: get "
                "it again"
            )
    elif beside is not None:
        card = yaml_card(beside, {"architecture": ONNX, "name": path.stem}, path)
    else:
        raise CheckpointError(
            f"{path} has no model card: write one to {path.with_suffix('.card.yaml')} "
            "(docs/models.md shows how)"
        )
    _check_promise(path, model, card)
    return card


def graph_digest(model: Any) -> str:
    """Return `checkpoint.weights_digest` of a parsed model's constants."""
    from onnx import numpy_helper

    return weights_digest({t.name: numpy_helper.to_array(t) for t in model.graph.initializer})


def _parsed(path: Path) -> Any:
    try:
        import onnx
    except ImportError as why:
        raise CheckpointError(
            f"{path}: reading ONNX needs the package onnx: pip install 'geopanoptic[cpu]'"
        ) from why
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise CheckpointError(f"{path} has {size} bytes; ONNX models above {MAX_BYTES} are refused")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as why:  # protobuf's own errors have no common name
        raise CheckpointError(f"{path} is no ONNX model: {why}") from why
    outside = [t.name for t in model.graph.initializer if t.data_location == t.EXTERNAL]
    if outside:
        raise CheckpointError(
            f"{path} keeps {len(outside)} tensors in other files; save it as one file"
        )
    strange = sorted({n.domain for n in model.graph.node} - set(_DOMAINS))
    if strange or not model.graph.node:
        raise CheckpointError(f"{path} has operations that ONNX does not: {', '.join(strange)}")
    return model


def _check_promise(path: Path, model: Any, card: ModelCard) -> None:
    """Refuse a card whose bands or classes are not the graph's."""
    if card.architecture != ONNX:
        raise CheckpointError(f"the card of {path} says '{card.architecture}'; it must be {ONNX}")
    for key in card.arguments:
        if key not in _ARGUMENTS:
            raise CheckpointError(f"unknown argument '{key}'{nearest_name(key, _ARGUMENTS)}")
    kind = card.arguments.get("graph")
    if kind not in _GRAPHS:
        raise CheckpointError(f"graph is {kind!r} in the card of {path}; use {', '.join(_GRAPHS)}")
    constants = {t.name for t in model.graph.initializer}
    entry = [v for v in model.graph.input if v.name not in constants]
    if len(entry) != 1:
        raise CheckpointError(f"{path} takes {len(entry)} inputs; one picture is given")
    sizes = [d.dim_value for d in entry[0].type.tensor_type.shape.dim]
    if len(sizes) != 4 or sizes[1] not in (0, len(card.bands)):
        raise CheckpointError(
            f"{path} takes {sizes} (0: any), its card names {len(card.bands)} bands; the input "
            "must be (n, band, row, col)"
        )
    window = card.arguments.get("window")
    if sizes[2:] != [0, 0] and sizes[2:] != [window, window]:
        raise CheckpointError(f"{path} takes {sizes[2:]} px; the card's window says {window}")
    first = [d.dim_value for d in model.graph.output[0].type.tensor_type.shape.dim]
    if len(first) == 4 and first[1] not in (0, len(card.schema)):
        raise CheckpointError(
            f"{path} tells {first[1]} classes apart, its card names {len(card.schema)}"
        )


class OnnxSegmenter(DecodesFields):
    """A Segmenter (see `segmenter.Segmenter`) on an ONNX graph with a card."""

    def __init__(self, card: ModelCard, run: Runner) -> None:
        self.card = card
        self.decoder = decoder_of(card)
        self._run = run
        self._kind = str(card.arguments["graph"])
        self._window = card.arguments.get("window")
        own = self._kind == "fields"
        self._smooth_px = int(card.arguments.get("smooth_px", 5 if own else 1))
        stuff = [i for i, spec in enumerate(card.schema.classes) if not spec.is_thing]
        self._stuff = np.array(stuff, np.int64)
        self._mean, self._std = (
            np.array(v, np.float32)[:, None, None] for v in (card.mean, card.std)
        )

    def forward(self, chips: npt.NDArray[Any]) -> Fields:
        """Run the graph on chips (n, band, h, w), uint8 or float32, in the card's value range."""
        padded, (rows, cols) = padded_chips(chips, self.card, self._window)
        x = padded.astype(np.float32)
        answer = self._run(x if self._kind == "fields" else (x - self._mean) / self._std)
        if self._kind != "fields":
            first = next(iter(answer.values()))
            answer = {"semantic": _softmax(first) if self._kind == "logits" else first}
        fields = {k: np.ascontiguousarray(v[..., :rows, :cols]) for k, v in answer.items()}
        wanted = (len(chips), len(self.card.schema), rows, cols)
        got = fields["semantic"].shape if "semantic" in fields else ()
        if got != wanted:
            raise CheckpointError(
                f"the model '{self.card.name}' answers with shape {got}, its card promises "
                f"{wanted} (n, class, row, col)"
            )
        if self._smooth_px > 1:
            for semantic in fields["semantic"]:
                smooth(semantic, self._stuff, self._smooth_px)
        return fields


def load_onnx(path: Path, engine: Engine, threads: int) -> OnnxSegmenter:
    """Open an ONNX model on an engine, checked; errors as of `read_onnx`."""
    card = read_onnx(path)
    graph = GraphSource(f"onnx-{card.sha256[:32]}", path.read_bytes)
    return OnnxSegmenter(card, open_runner(graph, engine, threads))


def embed_card(graph: bytes, card: ModelCard) -> tuple[bytes, ModelCard]:
    """Return an exported graph with its card inside, and that card (`onnx`, with its own hash)."""
    import onnx

    model = onnx.load_from_string(graph)
    arguments = {"graph": "fields"}
    card = replace(card, architecture=ONNX, arguments=arguments, sha256=graph_digest(model))
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(card.to_json())
    return model.SerializeToString(), card


def _softmax(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    e = np.exp(x - x.max(1, keepdims=True))
    out: npt.NDArray[np.float32] = (e / e.sum(1, keepdims=True)).astype(np.float32)
    return out

"""A dense network on a graph engine behind the Segmenter door. No torch here."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.models.card import ModelCard
from geopanoptic.models.checkpoint import read_header, read_tensors
from geopanoptic.models.chips import padded_chips
from geopanoptic.models.decode import DecodesFields, decoder_of
from geopanoptic.models.engines import Engine
from geopanoptic.models.engines.runners import Runner, exported, open_runner
from geopanoptic.models.segmenter import Fields
from geopanoptic.models.smoothing import SMOOTH_PX, smooth


class GraphSegmenter(DecodesFields):
    """A Segmenter (see `segmenter.Segmenter`) on OpenVINO or ONNX Runtime.

    Law: the fields are those of `TorchSegmenter` up to the engine's rounding.
    """

    def __init__(self, card: ModelCard, run: Runner) -> None:
        self.card = card
        self.decoder = decoder_of(card)
        self._run = run
        stuff = [i for i, spec in enumerate(card.schema.classes) if not spec.is_thing]
        self._stuff = np.array(stuff, np.int64)

    def forward(self, chips: npt.NDArray[Any]) -> Fields:
        """Run the network on chips (n, band, h, w), uint8 or float32, in the card's value range."""
        padded, (rows, cols) = padded_chips(chips, self.card, None)
        fields = self._run(padded)
        if padded.shape != chips.shape:
            fields = {k: np.ascontiguousarray(v[..., :rows, :cols]) for k, v in fields.items()}
        for semantic in fields["semantic"]:
            smooth(semantic, self._stuff, SMOOTH_PX)
        return fields


def load_graph(path: Path, engine: Engine, threads: int | None) -> GraphSegmenter:
    """Load a model file on a graph engine, its hash checked; errors as of `models.load_model`.

    `threads`: of the network in this process; None takes all cores.
    """
    header = read_header(path)
    read_tensors(path, header)  # a graph in the cache is no excuse for a damaged file
    threads = threads or os.cpu_count() or 1
    graph = exported(path, header.card)
    if engine.precision == "int8":
        from geopanoptic.models.engines.int8 import open_eight_bit

        return GraphSegmenter(header.card, open_eight_bit(graph, header.card, engine, threads))
    return GraphSegmenter(header.card, open_runner(graph, engine, threads))

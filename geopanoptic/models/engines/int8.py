"""A network in 8 bits: its graph rounded by the ranges of its card, tried before it is trusted."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import CheckpointError
from geopanoptic.models.card import ModelCard
from geopanoptic.models.engines import Engine
from geopanoptic.models.engines.cache import cached
from geopanoptic.models.engines.precision import EightBit
from geopanoptic.models.engines.runners import GraphSource, Runner, machine_key, open_runner

# Mean difference of class probabilities between 8 and 32 bits, above which an engine is wrong: it
# was 0.004 where rounding alone makes it, and 0.26 where OpenVINO 2026.4 fused nodes wrongly.
_MOST_DIFFERENCE = 0.05
_PROBE_PX = 256


def eight_bit_source(graph: GraphSource, ranges: EightBit) -> GraphSource:
    """Return the 8-bit graph of a float one, made once and then cached."""
    told = hashlib.sha256(repr(sorted(ranges.ranges.items())).encode()).hexdigest()
    key = f"{graph.key}-int8-{told[:12]}"

    def make() -> bytes:
        from geopanoptic.models.engines.qdq import eight_bit_graph

        try:
            return eight_bit_graph(graph.make(), ranges.ranges)
        except (ImportError, ValueError) as why:
            raise CheckpointError(f"no 8-bit graph: {why}; use --precision fp32") from why

    return GraphSource(key, lambda: cached(f"{key}.onnx", make))


def open_eight_bit(graph: GraphSource, card: ModelCard, engine: Engine, threads: int) -> Runner:
    """Open a network in 8 bits, once per machine after comparing it with 32 bits on a test chip.

    Raises CheckpointError when it answers otherwise here: an engine's fault, not the model's.
    """
    ranges = EightBit.of(card)
    if ranges is None:
        raise CheckpointError(
            f"the card of '{card.name}' has no 8-bit ranges for these weights; use --precision fp32"
        )
    source = eight_bit_source(graph, ranges)
    run = open_runner(source, engine, threads)

    def tried() -> bytes:
        exact = open_runner(graph, Engine(engine.name, engine.version), threads)
        chip = probe(card)
        wanted, got = (r(chip)["semantic"] for r in (exact, run))
        difference = float(np.abs(wanted - got).mean())
        if not difference <= _MOST_DIFFERENCE:
            raise CheckpointError(
                f"{engine} answers otherwise than fp32 on this processor (class probabilities "
                f"differ by {difference:.3f} on average); use --precision fp32"
            )
        return f"{difference:.6f}".encode()

    cached(f"{source.key}-{machine_key(engine, threads)}.tried", tried)
    return run


def probe(card: ModelCard) -> npt.NDArray[np.float32]:
    """Return a chip (1, band, 256, 256) that looks like ground: noise of many scales."""
    dice = np.random.default_rng(0)
    shape = (len(card.bands), _PROBE_PX, _PROBE_PX)
    total = np.zeros(shape, np.float32)
    for cell in (64, 32, 16, 8, 4, 2):
        small = dice.standard_normal((shape[0], _PROBE_PX // cell, _PROBE_PX // cell))
        total += np.kron(small, np.ones((1, cell, cell))).astype(np.float32) * cell**0.5
    low, high = card.value_range
    middle, spread = (low + high) / 2, (high - low) / 5
    chip = np.clip(middle + spread * total / total.std(), low, high)[None]
    return np.asarray(chip, np.float32)

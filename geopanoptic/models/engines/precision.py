"""In how many bits a network is computed: what each engine can, and what `auto` takes.

A model computes in 8 bits where its card holds the ranges of what its convolutions read, measured
for these very weights (`geopanoptic models quantize`). Nothing here imports an engine at once.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from geopanoptic.errors import CheckpointError
from geopanoptic.models.card import ModelCard

AUTO = "auto"
PRECISIONS = (AUTO, "fp32", "bf16", "fp16", "int8")
# `auto` computes in 8 bits only where the card tells of at least so much agreement with 32 bits.
LEAST_CLASSES = 0.95
LEAST_THINGS_PQ = 0.9
_VNNI = ("avx512_vnni", "avx_vnni")  # integer products that are faster than those of floats


@dataclass(frozen=True, slots=True)
class EightBit:
    """What a card knows of its model in 8 bits.

    `weights`: their sha256 when the ranges were measured. `ranges`: by convolution the least and
    the greatest number that it read. `class_agreement`, `things_pq`: of the answers with those of
    32 bits, on `chips` other chips.
    """

    weights: str
    ranges: Mapping[str, tuple[float, float]]
    class_agreement: float
    things_pq: float
    chips: int

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"ranges": {k: list(v) for k, v in self.ranges.items()}}

    @property
    def agrees(self) -> bool:
        return self.class_agreement >= LEAST_CLASSES and self.things_pq >= LEAST_THINGS_PQ

    @classmethod
    def of(cls, card: ModelCard) -> EightBit | None:
        """Read a card's entry; None without one, or with one of other weights than its own.

        Raises CheckpointError when the entry makes no sense.
        """
        if not card.int8 or card.int8.get("weights") != card.sha256:
            return None
        try:
            entry = dict(card.int8)
            pairs = {str(k): (float(a), float(b)) for k, (a, b) in entry.pop("ranges").items()}
            found = cls(ranges=pairs, **entry)
            good = all(math.isfinite(a) and math.isfinite(b) and a <= b for a, b in pairs.values())
            good = good and 0 <= found.class_agreement <= 1 and 0 <= found.things_pq <= 1
        except (AttributeError, TypeError, ValueError) as why:
            raise CheckpointError(_senseless(card)) from why
        if not good or not pairs:
            raise CheckpointError(_senseless(card))
        return found


def _senseless(card: ModelCard) -> str:
    return (
        f"the entry int8 in the card of '{card.name}' makes no sense; make it again with "
        "`geopanoptic models quantize`"
    )


def no_precision(engine: str, precision: str, card: ModelCard, *, gpu: bool) -> str | None:
    """Tell why an engine cannot compute this model so; None when it can."""
    if precision in (AUTO, "fp32"):
        return None
    if engine.startswith("torch"):
        if precision == "int8":
            return "torch computes in floats; use --engine openvino"
        if card.architecture != "dense":
            return f"the architecture '{card.architecture}' is computed in fp32"
        if precision == "fp16" and not gpu:
            return "fp16 is for GPUs; on a CPU use bf16"
        return None
    if precision == "int8":
        if card.architecture == "dense" and EightBit.of(card) is not None:
            return None
        return (
            f"the card of '{card.name}' has no ranges for these weights; make them with "
            "`geopanoptic models quantize`"
        )
    if engine == "openvino" and precision == "bf16" and _openvino_precision() == "bf16":
        return None
    return f"{engine} does not compute in {precision} on this processor"


def precision_of(engine: str, wanted: str, card: ModelCard) -> str:
    """Return the precision that `wanted` means on an engine that is there and can."""
    if wanted != AUTO:
        return wanted
    if engine != "openvino":  # in 8 bits ONNX Runtime was not faster than in 32
        return "fp32"
    known = EightBit.of(card) if card.architecture == "dense" else None
    return "int8" if known is not None and known.agrees and has_vnni() else _openvino_precision()


def own_precision(engine: str) -> str:
    """Return the precision that an engine takes for models without 8-bit ranges."""
    there = engine == "openvino" and importlib.util.find_spec(engine) is not None
    return _openvino_precision() if there else "fp32"


def _openvino_precision() -> str:
    from geopanoptic.models.engines.runners import openvino_precision

    return openvino_precision()


@lru_cache(maxsize=1)
def has_vnni() -> bool:
    """Tell whether this processor multiplies 8-bit integers in vectors; False when unknown.

    OpenVINO itself names INT8 a capability of every processor, fast or not.
    """
    info = Path("/proc/cpuinfo")
    try:
        words = set(info.read_text("utf-8", "replace").split())
    except OSError:
        return False
    return any(name in words for name in _VNNI)

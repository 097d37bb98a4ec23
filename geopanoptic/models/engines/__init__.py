"""Engines: what carries out a network's arithmetic. No torch, OpenVINO or ONNX Runtime here.

Engines differ in the last bits of their answers, so the engine is part of what a run is.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

from geopanoptic.errors import ConfigError, nearest_name
from geopanoptic.models.card import ModelCard
from geopanoptic.models.engines.precision import (
    AUTO,
    PRECISIONS,
    no_precision,
    own_precision,
    precision_of,
)

# In the order of preference on a CPU (docs/models.md has the figures).
ON_CPU = ("openvino", "onnxruntime", "torch")
COMPILED = "torch_compile"  # torch that writes and compiles code for the network: when asked for
ENGINES = (AUTO, "torch", COMPILED, "openvino", "onnxruntime")
_TORCHES = ("torch", COMPILED)
_COMPILERS = ("g++", "clang++", "c++", "cl")
# Networks of ours whose answer can be written as one graph of fixed operations.
GRAPHS = ("dense",)
ONNX = "onnx"  # the architecture of a model that is such a graph and nothing else
PAIR = "pair"  # of two models whose maps are laid over each other


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine of a run: its name, version and precision (one of PRECISIONS, not `auto`).

    Of two models on different engines, both with a `+` between.
    """

    name: str
    version: str
    precision: str = "fp32"

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.name} {self.version}, {self.precision}" if self.version else self.name

    def parts(self, count: int) -> list[Engine]:
        """Return the engine of each of `count` models."""
        texts = [v.split("+") for v in (self.name, self.version, self.precision)]
        return [Engine(*(t[min(i, len(t) - 1)] for t in texts)) for i in range(count)]


def lacking(engine: str, architecture: str | None = None) -> str | None:
    """Tell why an engine cannot be used here (for an architecture); None when it can."""
    if engine == COMPILED:
        named = os.environ.get("CXX")
        if not any(map(shutil.which, (named,) if named else _COMPILERS)):
            return (
                f"it needs a C++ compiler, and {named or ', '.join(_COMPILERS)} is not on the PATH"
            )
    if importlib.util.find_spec(_package(engine)) is None:
        cure = "" if engine == "torch" else ": pip install 'geopanoptic[cpu]'"
        return f"{engine} is not installed{cure}"
    if architecture == ONNX:
        wrong = engine in _TORCHES
        return "it runs no ONNX models; use openvino or onnxruntime" if wrong else None
    if engine != "torch" and architecture is not None and architecture not in GRAPHS:
        return f"the architecture '{architecture}' runs on torch only"
    return None


def choose_engine(
    card: ModelCard, wanted: str = AUTO, *, precision: str = AUTO, gpu: bool = False
) -> Engine:
    """Return the engine for a model: the one that is `wanted`, or the best that is here.

    `precision`: one of PRECISIONS; `auto` is the fastest that the engine computes well in on this
    processor. `gpu`: the network shall run on a GPU, which is torch's. Raises ConfigError for a
    name that is none, an engine that is not installed, or one that cannot run this model so.
    """
    for option, value, known in (("engine", wanted, ENGINES), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise ConfigError(
                f"--{option} {value}{nearest_name(value, known)}: use {', '.join(known)}"
            )
    if card.architecture == PAIR:
        parts = [replace(card, architecture=str(a), int8={}) for a in card.arguments["parts"]]
        return _joined([_chosen(part, wanted, precision, gpu) for part in parts])
    return _chosen(card, wanted, precision, gpu)


def _chosen(card: ModelCard, wanted: str, precision: str, gpu: bool) -> Engine:
    def why_not(name: str) -> str | None:
        return lacking(name, card.architecture) or no_precision(name, precision, card, gpu=gpu)

    if wanted == AUTO:
        order = ("torch", *ON_CPU) if gpu else ON_CPU
        usable = (name for name in order if why_not(name) is None)
        last = "onnxruntime" if card.architecture == ONNX else "torch"
        # of none that can, name the reason of the one that would be taken without the precision
        able = (name for name in order if lacking(name, card.architecture) is None)
        wanted = next(usable, next(able, last))
    elif gpu and wanted not in _TORCHES and card.architecture != ONNX:
        raise ConfigError(
            f"--engine {wanted}: it runs on the CPU; use --device cpu, or --engine torch"
        )
    why = lacking(wanted, card.architecture)
    if why is not None:
        raise ConfigError(f"--engine {wanted}: {why}")
    why = no_precision(wanted, precision, card, gpu=gpu)
    if why is not None:
        raise ConfigError(f"--precision {precision}: {why}")
    return Engine(wanted, version_of(_package(wanted)), precision_of(wanted, precision, card))


def _package(engine: str) -> str:
    return "torch" if engine in _TORCHES else engine


def _joined(engines: Sequence[Engine]) -> Engine:
    if len(set(engines)) == 1:
        return engines[0]
    rows = [(e.name, e.version, e.precision) for e in engines]
    return Engine(*("+".join(column) for column in zip(*rows, strict=True)))


def usable_engine(name: str) -> Engine:
    """Describe an engine that is installed, with the precision that it has on this processor."""
    return Engine(name, version_of(name), own_precision(name))


@lru_cache(maxsize=8)
def version_of(package: str) -> str:
    """Return the version of an installed package, `none` if it is not there."""
    try:
        # `+cpu` and the like name a build, not another version
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "none"

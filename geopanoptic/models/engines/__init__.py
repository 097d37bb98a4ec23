"""Engines: what carries out a network's arithmetic. No torch, OpenVINO or ONNX Runtime here.

Engines differ in the last bits of their answers, so the engine is part of what a run is.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache

from geopanoptic.errors import ConfigError, nearest_name
from geopanoptic.models.card import ModelCard

AUTO = "auto"
# In the order of preference on a CPU (docs/models.md has the figures).
ON_CPU = ("openvino", "onnxruntime", "torch")
ENGINES = (AUTO, "torch", "openvino", "onnxruntime")
# Networks of ours whose answer can be written as one graph of fixed operations.
GRAPHS = ("dense",)
ONNX = "onnx"  # the architecture of a model that is such a graph and nothing else
PAIR = "pair"  # of two models whose maps are laid over each other


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine of a run: its name, version and precision (`fp32`, `bf16`).

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
    if importlib.util.find_spec(engine) is None:
        cure = "" if engine == "torch" else ": pip install 'geopanoptic[cpu]'"
        return f"{engine} is not installed{cure}"
    if architecture == ONNX:
        return "it runs no ONNX models; use openvino or onnxruntime" if engine == "torch" else None
    if engine != "torch" and architecture is not None and architecture not in GRAPHS:
        return f"the architecture '{architecture}' runs on torch only"
    return None


def choose_engine(card: ModelCard, wanted: str = AUTO, *, gpu: bool = False) -> Engine:
    """Return the engine for a model: the one that is `wanted`, or the best that is here.

    `gpu`: the network shall run on a GPU, which is torch's. Raises ConfigError for a name that
    is none, an engine that is not installed, or one that cannot run this model.
    """
    if wanted not in ENGINES:
        raise ConfigError(
            f"--engine {wanted}{nearest_name(wanted, ENGINES)}: use {', '.join(ENGINES)}"
        )
    if card.architecture == PAIR:
        return _joined([_chosen(str(a), wanted, gpu) for a in card.arguments["parts"]])
    return _chosen(card.architecture, wanted, gpu)


def _chosen(architecture: str, wanted: str, gpu: bool) -> Engine:
    if wanted == AUTO:
        order = ("torch", *ON_CPU) if gpu else ON_CPU
        usable = (name for name in order if lacking(name, architecture) is None)
        wanted = next(usable, "onnxruntime" if architecture == ONNX else "torch")
    elif gpu and wanted != "torch" and architecture != ONNX:
        raise ConfigError(
            f"--engine {wanted}: it runs on the CPU; use --device cpu, or --engine torch"
        )
    why = lacking(wanted, architecture)
    if why is not None:
        raise ConfigError(f"--engine {wanted}: {why}")
    return usable_engine(wanted)


def _joined(engines: Sequence[Engine]) -> Engine:
    if len(set(engines)) == 1:
        return engines[0]
    rows = [(e.name, e.version, e.precision) for e in engines]
    return Engine(*("+".join(column) for column in zip(*rows, strict=True)))


def usable_engine(name: str) -> Engine:
    """Describe an engine that is installed, with the precision that it has on this processor."""
    return Engine(name, version_of(name), _precision(name))


@lru_cache(maxsize=8)
def version_of(package: str) -> str:
    """Return the version of an installed package, `none` if it is not there."""
    try:
        # `+cpu` and the like name a build, not another version
        return importlib.metadata.version(package).partition("+")[0]
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _precision(engine: str) -> str:
    if engine != "openvino":
        return "fp32"
    from geopanoptic.models.engines.runners import openvino_precision

    return openvino_precision()

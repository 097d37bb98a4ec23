"""Engines: what carries out a network's arithmetic. No torch, OpenVINO or ONNX Runtime here.

Engines differ in the last bits of their answers, so the engine is part of what a run is.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache

from geopanoptic.errors import ConfigError, nearest_name
from geopanoptic.models.card import ModelCard

AUTO = "auto"
# In the order of preference on a CPU (docs/models.md has the figures).
ON_CPU = ("openvino", "onnxruntime", "torch")
ENGINES = (AUTO, "torch", "openvino", "onnxruntime")
# What must be importable to run a graph; to make one, torch is needed as well.
_PACKAGES: Mapping[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime",),
}
# Networks whose answer can be written as one graph of fixed operations.
GRAPHS = ("dense",)


@dataclass(frozen=True, slots=True)
class Engine:
    """The engine of a run: its name, version and precision (`fp32`, `bf16`)."""

    name: str
    version: str
    precision: str = "fp32"

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.name} {self.version}, {self.precision}" if self.version else self.name


def lacking(engine: str, card: ModelCard | None = None) -> str | None:
    """Tell why an engine cannot be used here (for the model of `card`); None when it can."""
    for package in _PACKAGES[engine]:
        if importlib.util.find_spec(package) is None:
            extra = "" if engine == "torch" else ": pip install 'geopanoptic[cpu]'"
            return f"{package} is not installed{extra}"
    if engine != "torch" and card is not None and card.architecture not in GRAPHS:
        return f"the architecture '{card.architecture}' runs on torch only"
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
    if wanted == AUTO:
        usable = (name for name in ON_CPU if lacking(name, card) is None)
        wanted = "torch" if gpu else next(usable, "torch")
    why = lacking(wanted, card)
    if why is None and gpu and wanted != "torch":
        why = "it runs on the CPU; use --device cpu, or --engine torch"
    if why is not None:
        raise ConfigError(f"--engine {wanted}: {why}")
    return usable_engine(wanted)


def usable_engine(name: str) -> Engine:
    """Describe an engine that is installed, with the precision that it has on this processor."""
    return Engine(name, version_of(name), _precision(name))


@lru_cache(maxsize=8)
def version_of(package: str) -> str:
    """Return the version of an installed package, `none` if it is not there."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _precision(engine: str) -> str:
    if engine != "openvino":
        return "fp32"
    from geopanoptic.models.engines.runners import openvino_precision

    return openvino_precision()

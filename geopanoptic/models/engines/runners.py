"""Sessions of OpenVINO and ONNX Runtime: a graph and a number of threads in, a function out."""

from __future__ import annotations

import hashlib
import importlib
import io
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic import __version__
from geopanoptic.errors import CheckpointError
from geopanoptic.models.card import ModelCard
from geopanoptic.models.engines import Engine, version_of
from geopanoptic.models.engines.cache import cached
from geopanoptic.models.segmenter import Fields

_FORMAT = 1  # of what `graph` makes
_EXPORT_S = 900

# Runs chips (n, band, h, w), h and w multiples of the stride, through the network.
Runner = Callable[[npt.NDArray[Any]], Fields]


@dataclass(frozen=True, slots=True)
class GraphSource:
    """Where an ONNX graph comes from: a key of all that it depends on, and how to get it."""

    key: str
    make: Callable[[], bytes]


def exported(path: Path, card: ModelCard) -> GraphSource:
    """Return the graph of a model file, cached or exported now (some seconds, with torch)."""
    key = _key(card)
    return GraphSource(key, lambda: cached(f"{key}.onnx", lambda: _export(path)))


def open_runner(graph: GraphSource, engine: Engine, threads: int) -> Runner:
    """Open a graph on an engine. Raises CheckpointError when the graph cannot be had or used."""
    try:
        if engine.name == "onnxruntime":
            return _onnxruntime(graph.make(), threads)
        return _openvino(graph, engine, threads)
    except RuntimeError as why:
        first = str(why).strip().splitlines()[-1][:300]
        raise CheckpointError(f"{engine} cannot use this network: {first}") from why


def _key(card: ModelCard) -> str:
    """Name what a graph depends on: the card with its sha256, and who exports it."""
    said = {k: v for k, v in card.to_json().items() if k not in ("int8", "metrics", "description")}
    made_of = [
        _FORMAT,
        __version__,
        *map(version_of, ("torch", "timm")),
        sorted(said.items()),
    ]
    digest = hashlib.sha256(repr(made_of).encode()).hexdigest()
    return f"{card.sha256[:12]}-{digest[:20]}"


def _export(path: Path) -> bytes:
    """Export in this process if torch is here already, else in one that goes away with it."""
    python = Path(sys.executable or "")
    if "torch" in sys.modules or not python.stem.lower().startswith("python"):
        from geopanoptic.models.engines.graph import onnx_graph

        return onnx_graph(path)
    with tempfile.TemporaryDirectory(prefix="geopanoptic-") as folder:
        out = Path(folder) / "graph.onnx"
        # -P: what lies in the current folder is data, never a module to import.
        module = "geopanoptic.models.engines.graph"
        done = subprocess.run(
            [str(python), "-P", "-m", module, str(path.absolute()), str(out)],
            check=False, capture_output=True, text=True, timeout=_EXPORT_S, env=_environment(),
        )  # fmt: skip
        if done.returncode or not out.exists():
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CheckpointError(
                f"the model {path} cannot be written as a graph ({last}); use --engine torch"
            )
        return out.read_bytes()


def _environment() -> dict[str, str]:
    """Return this process's environment, with the place where this very package lies."""
    home = str(Path(__file__).parents[3])
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


def silent_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would tell its makers of every import.

    It forks this process to do so, and that process waits for a network. OpenVINO does without
    the module where it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


@lru_cache(maxsize=1)
def _core() -> Any:
    return silent_openvino().Core()


def openvino_precision() -> str:
    """Return the fastest precision with which this processor computes well: bf16 or fp32."""
    return "bf16" if "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "fp32"


def _openvino(graph: GraphSource, engine: Engine, threads: int) -> Runner:
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        # Several processes would all be pinned to the same first cores.
        "ENABLE_CPU_PINNING": False,
        # of what an 8-bit graph leaves in floats: 32 bits
        "INFERENCE_PRECISION_HINT": {"bf16": "bf16"}.get(engine.precision, "f32"),
        "CACHE_DIR": "",
    }

    def compile_now() -> bytes:
        model = _core().read_model(graph.make(), b"")
        blob: bytes = _core().compile_model(model, "CPU", settings).export_model().getvalue()
        return blob

    blob = cached(f"{graph.key}-{machine_key(engine, threads)}.openvino", compile_now)
    try:
        compiled = _core().import_model(io.BytesIO(blob), "CPU", settings)
    except RuntimeError:  # made by another build of the same version
        model = _core().read_model(graph.make(), b"")
        compiled = _core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    names = [port.get_any_name() for port in compiled.outputs]

    def run(chips: npt.NDArray[Any]) -> Fields:
        answers = request.infer([chips.astype(np.float32, copy=False)], share_inputs=True)
        return {name: answers[i] for i, name in enumerate(names)}

    return run


def _onnxruntime(graph: bytes, threads: int) -> Runner:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]
    entry = session.get_inputs()[0].name

    def run(chips: npt.NDArray[Any]) -> Fields:
        answers = session.run(names, {entry: chips.astype(np.float32, copy=False)})
        return dict(zip(names, answers, strict=True))

    return run


def machine_key(engine: Engine, threads: int) -> str:
    """Name an engine on this processor with so many threads."""
    made_by = f"{engine.version}-{engine.precision}-{_processor()}-{threads}"
    return hashlib.sha256(made_by.encode()).hexdigest()[:12]


@lru_cache(maxsize=1)
def _processor() -> str:
    """Name the processor, for what was compiled for one is of no use on another."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = info.read_text("utf-8", "replace").splitlines()
        return "".join(sorted({n for n in lines if n.startswith(("model name", "flags"))}))
    return f"{platform.machine()} {platform.processor()}"

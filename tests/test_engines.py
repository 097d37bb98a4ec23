"""Engines: one model, one answer, whatever carries it out; no torch where none is needed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from random_model import random_card, write_random_model

from geopanoptic.errors import CheckpointError, ConfigError
from geopanoptic.models import DEFAULT_MODEL, Engine, choose_engine, load_model, read_card
from geopanoptic.models.engines import ENGINES, ON_CPU, lacking
from geopanoptic.models.engines.cache import cached
from geopanoptic.models.smoothing import SMOOTH_PX, smooth

GRAPH_ENGINES = [
    pytest.param(
        name, marks=pytest.mark.skipif(bool(lacking(name)), reason=f"{name}: {lacking(name)}")
    )
    for name in ("openvino", "onnxruntime")
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep graphs of one test session away from the user's; tests of this file share them."""
    folder = tmp_path_factory.getbasetemp() / "graphs"
    monkeypatch.setenv("GEOPANOPTIC_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    write_random_model(path)
    return path


def noise(shape: tuple[int, ...], dtype: type = np.uint8) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(dtype)


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
@pytest.mark.parametrize("shape", [(1, 3, 160, 192), (2, 3, 96, 64), (1, 3, 75, 133)])
def test_every_engine_gives_the_fields_of_torch(
    engine: str, shape: tuple[int, ...], model: Path
) -> None:
    chips = noise(shape)
    wanted = load_model(model, threads=1).forward(chips)
    got = load_model(model, threads=1, engine=engine).forward(chips)
    assert set(got) == set(wanted)
    for name, field in wanted.items():
        assert got[name].dtype == np.float32
        assert got[name].shape == field.shape
        assert np.abs(got[name] - field).max() < 1e-4
    assert (got["semantic"].argmax(1) == wanted["semantic"].argmax(1)).mean() >= 0.999


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
def test_a_chip_gets_the_same_bits_each_time_whatever_was_asked_before(
    engine: str, model: Path
) -> None:
    chips = noise((1, 3, 128, 160))
    one, other = (load_model(model, threads=1, engine=engine) for _ in range(2))
    first = one.forward(chips)
    other.forward(noise((1, 3, 64, 96)))
    for again in (one.forward(chips), other.forward(chips)):
        assert all(np.array_equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
def test_neither_threads_nor_batches_change_a_bit(engine: str, model: Path) -> None:
    chips = noise((2, 3, 128, 160))
    one, two = (load_model(model, threads=n, engine=engine) for n in (1, 2))
    wanted = one.forward(chips)
    alone = [one.forward(chip[None]) for chip in chips]
    for name, field in wanted.items():
        assert np.array_equal(two.forward(chips)[name], field)
        assert np.array_equal(np.concatenate([a[name] for a in alone]), field)


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
def test_fields_of_one_call_are_not_those_of_the_next(engine: str, model: Path) -> None:
    segmenter = load_model(model, threads=1, engine=engine)
    first = segmenter.forward(noise((1, 3, 64, 64)))
    kept = {name: field.copy() for name, field in first.items()}
    segmenter.forward(255 - noise((1, 3, 64, 64)))
    assert all(np.array_equal(first[name], kept[name]) for name in first)


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
def test_predicting_with_a_cached_graph_imports_no_torch(engine: str, model: Path) -> None:
    load_model(model, threads=1, engine=engine)  # now the graph is in the cache
    code = (
        "import sys, numpy as np\n"
        "from geopanoptic.models import load_model\n"
        f"m = load_model({str(model)!r}, threads=1, engine={engine!r})\n"
        "m.segment(np.zeros((1, 3, 64, 64), np.uint8), np.ones((1, 64, 64), bool))\n"
        "print(sorted({'torch', 'torchvision', 'segmentation_models_pytorch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"


def test_a_graph_is_exported_by_a_process_of_its_own(tmp_path: Path, model: Path) -> None:
    if why := lacking("openvino"):
        pytest.skip(why)
    code = (
        "import sys\n"
        "from geopanoptic.models import load_model\n"
        f"load_model({str(model)!r}, threads=1, engine='openvino')\n"
        "print('torch' in sys.modules)"
    )
    env = os.environ | {"GEOPANOPTIC_CACHE": str(tmp_path / "empty")}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env
    )
    assert done.stdout.strip() == "False"
    assert len(list((tmp_path / "empty").glob("*.onnx"))) == 1


@pytest.mark.skipif(bool(lacking("openvino")), reason="openvino is not installed")
def test_nobody_is_told_that_openvino_is_used() -> None:
    """Its own import sends an event over the network, from a fork of the process."""
    code = (
        "import sys\n"
        "from geopanoptic.models.engines.runners import silent_openvino\n"
        "silent_openvino().Core()\n"
        "assert not sys.modules.get('openvino_telemetry'), 'telemetry'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_auto_takes_the_best_that_is_here_and_torch_on_a_gpu() -> None:
    card = random_card()
    assert choose_engine(card).name == next(name for name in ON_CPU if lacking(name) is None)
    assert choose_engine(card, gpu=True).name == "torch"


def test_auto_takes_torch_for_networks_that_are_no_graph() -> None:
    card = random_card(architecture="something_else")
    assert choose_engine(card).name == "torch"
    with pytest.raises(ConfigError, match="something_else"):
        choose_engine(card, "openvino")


def test_an_engine_that_is_not_there_is_refused_with_the_cure(monkeypatch) -> None:
    with pytest.raises(ConfigError, match=r"opnvino.*did you mean 'openvino'"):
        choose_engine(random_card(), "opnvino")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"not installed: pip install 'geopanoptic\[cpu\]'"):
        choose_engine(random_card(), "openvino")


def test_a_graph_engine_on_a_gpu_is_refused() -> None:
    if why := lacking("openvino"):
        pytest.skip(why)
    with pytest.raises(ConfigError, match="--device cpu"):
        choose_engine(random_card(), "openvino", gpu=True)


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
def test_a_damaged_model_file_is_refused_although_its_graph_is_cached(
    engine: str, model: Path, tmp_path: Path
) -> None:
    load_model(model, threads=1, engine=engine)
    damaged = bytearray(model.read_bytes())
    damaged[-5] ^= 1
    path = tmp_path / "damaged.safetensors"
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="damaged or altered"):
        load_model(path, threads=1, engine=engine)


def test_smoothing_without_torch_equals_torch() -> None:
    import torch

    from geopanoptic.models import fields

    assert fields.SMOOTH_PX == SMOOTH_PX
    field = np.random.default_rng(1).random((4, 37, 23), np.float32)
    wanted = fields.box_mean(torch.from_numpy(field[None].copy()), SMOOTH_PX).numpy()[0]
    got = field.copy()
    smooth(got, np.array([0, 2]), SMOOTH_PX)
    assert np.allclose(got[[0, 2]], wanted[[0, 2]], atol=1e-6)
    assert np.array_equal(got[[1, 3]], field[[1, 3]])


@pytest.mark.parametrize("rows, cols", [(1, 1), (2, 9), (4, 3)])
def test_smoothing_fields_smaller_than_the_square_averages_what_is_there(rows, cols) -> None:
    field = np.random.default_rng(1).random((1, rows, cols), np.float32)
    wanted = [
        [field[0, max(0, r - 2) : r + 3, max(0, c - 2) : c + 3].mean() for c in range(cols)]
        for r in range(rows)
    ]
    smooth(field, np.array([0]), 5)
    assert np.allclose(field[0], wanted, atol=1e-6)


def test_the_cache_makes_things_once_and_mends_what_is_damaged(own_cache: Path) -> None:
    made = []

    def make() -> bytes:
        made.append(1)
        return b"graph"

    assert cached("a.onnx", make) == cached("a.onnx", make) == b"graph"
    assert len(made) == 1
    path = own_cache / "a.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    assert cached("a.onnx", make) == b"graph"
    assert len(made) == 2
    assert not list(own_cache.glob("*.tmp"))


def test_the_cache_lets_one_of_many_make_a_thing(own_cache: Path) -> None:
    made = []
    gate = threading.Barrier(4)

    def ask() -> None:
        gate.wait()
        assert cached("many.onnx", lambda: made.append(1) or b"x" * 1000) == b"x" * 1000

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_a_cache_that_cannot_be_written_costs_time_only(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("GEOPANOPTIC_CACHE", str(tmp_path / "file"))
    assert cached("a.onnx", lambda: b"graph") == b"graph"


def test_an_engine_says_what_it_is() -> None:
    assert str(Engine("openvino", "2026.4.1", "bf16")) == "openvino 2026.4.1, bf16"
    assert json.dumps(Engine("torch", "2.6").to_json())
    assert set(ON_CPU) == set(ENGINES) - {"auto", "torch_compile"}


def test_torch_computes_in_half_as_many_bits_when_asked(model: Path) -> None:
    chips = noise((1, 3, 96, 70))
    wanted = load_model(model, threads=1).forward(chips)
    got = load_model(model, threads=1, precision="bf16").forward(chips)
    for name, field in wanted.items():
        assert got[name].dtype == np.float32
        assert got[name].shape == field.shape
        assert 0 < np.abs(got[name] - field).max() < 0.05
    assert str(choose_engine(random_card(), "torch", precision="bf16")).endswith(", bf16")
    on_gpu = choose_engine(random_card(), precision="fp16", gpu=True)
    assert (on_gpu.name, on_gpu.precision) == ("torch", "fp16")
    with pytest.raises(ConfigError, match="fp16 is for GPUs"):
        choose_engine(random_card(), "torch", precision="fp16")
    with pytest.raises(ConfigError, match="computed in fp32"):
        choose_engine(random_card(architecture="panoptic_fpn"), "torch", precision="bf16")


def test_compiling_without_a_compiler_is_refused_with_the_reason(monkeypatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="needs a C\\+\\+ compiler, and no-such-compiler"):
        choose_engine(random_card(), "torch_compile")
    monkeypatch.delenv("CXX")
    if lacking("torch_compile") is None:
        engine = choose_engine(random_card(), "torch_compile")
        assert engine.version == choose_engine(random_card(), "torch").version


@pytest.mark.slow
def test_compiled_torch_gives_the_fields_of_torch(model: Path) -> None:
    if why := lacking("torch_compile"):
        pytest.skip(why)
    code = (
        "import numpy as np\n"
        "from geopanoptic.models import load_model\n"
        "chips = np.random.default_rng(0).integers(0, 256, (1, 3, 96, 70)).astype(np.uint8)\n"
        f"one = load_model({str(model)!r}, threads=1)\n"
        f"other = load_model({str(model)!r}, threads=1, engine='torch_compile')\n"
        "for chip in (chips, chips[..., :40]):\n"
        "    wanted, got = one.forward(chip), other.forward(chip)\n"
        "    assert all(np.abs(got[k] - wanted[k]).max() < 1e-4 for k in wanted)\n"
        "print('alike')"
    )  # of its own process: the compiler warns in many ways
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], check=False, capture_output=True, text=True
    )
    assert done.stdout.strip().endswith("alike"), done.stderr[-2000:]


@pytest.fixture(scope="module")
def ground() -> np.ndarray:
    """A chip of the example scene, as the default model sees it."""
    from geopanoptic.predict.sample_chips import sample_chips

    scene = Path(__file__).parents[1] / "examples" / "bremerton.tif"
    return sample_chips(str(scene), DEFAULT_MODEL, 2, 512)[0]


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
def test_the_default_model_finds_the_same_on_every_engine(engine: str, ground: np.ndarray) -> None:
    from geopanoptic.models.engines.quantize import agreement

    models = [
        load_model(DEFAULT_MODEL, threads=1, engine=e, precision="fp32") for e in ("torch", engine)
    ]
    found = agreement(*models, [ground])
    assert found.classes >= 0.999
    assert found.things_pq >= 0.99


@pytest.mark.parametrize("engine", GRAPH_ENGINES)
def test_the_default_model_finds_nearly_the_same_in_8_bits(engine: str, ground: np.ndarray) -> None:
    from geopanoptic.models.engines.precision import EightBit
    from geopanoptic.models.engines.quantize import agreement

    card = read_card(DEFAULT_MODEL)
    known = EightBit.of(card)
    assert known is not None, "its weights are new: run scripts/quantize_bundled"
    assert known.agrees
    models = [
        load_model(DEFAULT_MODEL, threads=1, engine=engine, precision=p) for p in ("fp32", "int8")
    ]
    found = agreement(*models, [ground])
    assert 0.95 < found.classes < 1
    assert found.things_pq >= 0.85


@pytest.mark.slow
def test_in_8_bits_the_default_model_loses_no_half_point_of_pq(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from geopanoptic.models import save_model
    from geopanoptic.models.checkpoint import model_path, read_header, read_tensors

    if choose_engine(read_card(DEFAULT_MODEL)).precision != "int8":
        pytest.skip("here the default is not 8 bits")
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import model_quality

    path = model_path(DEFAULT_MODEL)
    header = read_header(path)
    bare = tmp_path / "bare.safetensors"
    save_model(bare, read_tensors(path, header), replace(header.card, int8={}))
    pq = [
        model_quality.measure_buildings(shared / "data", m, tmp_path)["pooled"]["pq"]
        for m in (str(bare), DEFAULT_MODEL)
    ]
    assert pq[1] >= pq[0] - 0.005

"""Other forms of a model: a graph for others, and the same weights computed in 8 bits."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from random_model import random_card, write_random_model

from geopanoptic.cli.models import models
from geopanoptic.errors import CheckpointError, ConfigError, StoreError
from geopanoptic.models import Engine, choose_engine, load_model, read_card
from geopanoptic.models.engines import lacking, precision
from geopanoptic.models.engines.precision import EightBit
from geopanoptic.models.engines.runners import silent_openvino

HERE = [e for e in ("openvino", "onnxruntime") if lacking(e) is None]
pytestmark = pytest.mark.skipif(len(HERE) < 2, reason="needs the extra [cpu]")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOPANOPTIC_CACHE", str(tmp_path_factory.getbasetemp() / "graphs"))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import rasterio
    from affine import Affine

    path = tmp_path_factory.mktemp("scene") / "s.tif"
    pixels = np.random.default_rng(1).integers(0, 256, (3, 160, 420)).astype(np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", width=420, height=160, count=3, dtype="uint8",
        crs="EPSG:32631", transform=Affine(0.3, 0, 500000, 0, -0.3, 5000000),
    ) as file:  # fmt: skip
        file.write(pixels)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    write_random_model(path)
    return path


@pytest.fixture(scope="module")
def small(
    tmp_path_factory: pytest.TempPathFactory, model: Path, scene: Path
) -> tuple[Path, dict[str, object]]:
    """The model with its ranges, made from the command line, and what that told."""
    folder = tmp_path_factory.mktemp("small")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOPANOPTIC_CACHE", str(tmp_path_factory.getbasetemp() / "graphs"))
        out = folder / "small.safetensors"
        arguments = ["quantize", str(model), str(scene), "--out", str(out), "--chips=4", "--json"]
        done = CliRunner().invoke(models, arguments, catch_exceptions=False)
    return out, json.loads(done.stdout)


def noise(rows: int, cols: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (1, 3, rows, cols)).astype(np.uint8)


def test_a_model_is_exported_from_the_command_line_as_onnx(tmp_path: Path, model: Path) -> None:
    out = tmp_path / "m.onnx"
    runner = CliRunner()
    runner.invoke(models, ["export", str(model), "--out", str(out)], catch_exceptions=False)
    with pytest.raises(StoreError, match="--overwrite"):
        runner.invoke(models, ["export", str(model), "--out", str(out)], catch_exceptions=False)
    chips = noise(96, 70)
    wanted = load_model(model, threads=1).forward(chips)
    got = load_model(out, threads=1, engine="onnxruntime").forward(chips)
    assert all(np.abs(got[name] - wanted[name]).max() < 1e-4 for name in wanted)


def test_a_model_is_exported_for_openvino_with_its_card(tmp_path: Path, model: Path) -> None:
    openvino = silent_openvino()
    out = tmp_path / "m.xml"
    done = CliRunner().invoke(
        models, ["export", str(model), "--out", str(out)], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.bin", "m.xml"]
    read = openvino.Core().read_model(out)
    assert json.loads(read.get_rt_info(["geopanoptic"]).astype(str))["name"] == "random"
    request = openvino.compile_model(read, "CPU").create_infer_request()
    chips = noise(96, 64)
    got = request.infer([chips.astype(np.float32)])
    wanted = load_model(model, threads=1, engine="openvino").forward(chips)
    assert np.abs(got["strength"] - wanted["strength"]).max() < 1e-4
    with pytest.raises(StoreError, match="--overwrite"):
        CliRunner().invoke(
            models, ["export", str(model), "--out", str(out)], catch_exceptions=False
        )


def test_ranges_are_added_to_a_model_and_its_weights_stay(
    model: Path, small: tuple[Path, dict[str, object]]
) -> None:
    path, told = small
    card, before = read_card(path), read_card(model)
    assert card.sha256 == before.sha256
    assert replace(card, int8={}) == before
    assert card.fingerprint != before.fingerprint
    known = EightBit.of(card)
    assert known is not None
    assert told["chips"] == known.chips == 2
    assert told["class_agreement"] == known.class_agreement > 0.8
    assert all(low <= high for low, high in known.ranges.values())
    assert len(known.ranges) == 57  # every convolution of the network


@pytest.mark.parametrize("engine", HERE)
def test_in_8_bits_engines_answer_nearly_as_in_32(
    engine: str, model: Path, small: tuple[Path, dict[str, object]]
) -> None:
    chips = noise(160, 192)
    wanted = load_model(model, threads=1).forward(chips)
    segmenter = load_model(small[0], threads=1, engine=engine, precision="int8")
    got = segmenter.forward(chips)
    assert all(0 < np.abs(got[k] - wanted[k]).mean() < 0.02 for k in wanted)
    again = segmenter.forward(chips)
    assert all(np.array_equal(got[k], again[k]) for k in got)


def test_in_8_bits_neither_threads_nor_batches_change_a_bit(
    small: tuple[Path, dict[str, object]],
) -> None:
    chips = np.concatenate([noise(96, 128), 255 - noise(96, 128)])
    one, two = (
        load_model(small[0], threads=n, engine="openvino", precision="int8") for n in (1, 2)
    )
    wanted = one.forward(chips)
    alone = [one.forward(chip[None]) for chip in chips]
    for name, field in wanted.items():
        assert np.array_equal(two.forward(chips)[name], field)
        assert np.array_equal(np.concatenate([a[name] for a in alone]), field)


def test_openvino_computes_convolutions_in_integers(
    small: tuple[Path, dict[str, object]],
) -> None:
    if not precision.has_vnni():
        pytest.skip("this processor has no VNNI")
    from geopanoptic.models.engines.int8 import eight_bit_source
    from geopanoptic.models.engines.runners import exported

    openvino = silent_openvino()
    path, _ = small
    card = read_card(path)
    known = EightBit.of(card)
    assert known is not None
    graph = eight_bit_source(exported(path, card), known).make()
    compiled = openvino.Core().compile_model(
        openvino.Core().read_model(graph, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    kinds = [
        str(op.get_rt_info()["primitiveType"].astype(str))
        for op in compiled.get_runtime_model().get_ops()
        if "onvolution" in op.get_rt_info()["layerType"].astype(str)
    ]
    assert len(kinds) == 57
    assert sum(kind.endswith("I8") for kind in kinds) >= 50


def test_only_what_convolutions_read_is_rounded_and_zeros_are_padded_after() -> None:
    import onnx
    from onnx import helper, numpy_helper
    from onnxruntime import InferenceSession

    from geopanoptic.models.engines.qdq import eight_bit_graph

    dice = np.random.default_rng(2)
    weights = dice.standard_normal((5, 4, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Pad", ["x", "pads"], ["padded"]),
        helper.make_node("Conv", ["padded", "c.weight"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
    ]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", 1, [1, 4, 9, 9])],
        [helper.make_tensor_value_info("z", 1, [1, 5, 8, 8])],
        [numpy_helper.from_array(weights, "c.weight"),
         numpy_helper.from_array(np.array([0, 0, 0, 0, 0, 0, 1, 1], np.int64), "pads")],
    )  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    small = eight_bit_graph(made.SerializeToString(), {"c": (-1.0, 3.0)})
    parsed = onnx.load_from_string(small)
    assert [n.op_type for n in parsed.graph.node] == [
        "QuantizeLinear", "DequantizeLinear", "Pad", "DequantizeLinear", "Conv", "Relu",
    ]  # fmt: skip
    assert "c.weight" not in {t.name for t in parsed.graph.initializer}
    # the oracle: the rule of the docstring in numpy
    x = dice.uniform(-2, 4, (1, 4, 9, 9)).astype(np.float32)
    step, zero = 4 / 255, round(255 / 4)
    rounded = (np.clip(np.rint(x / np.float32(step)) + zero, 0, 255) - zero) * step
    steps = np.abs(weights).max((1, 2, 3), keepdims=True) / 127
    rounded_weights = np.rint(weights / steps) * steps
    padded = np.pad(rounded, [(0, 0), (0, 0), (0, 1), (0, 1)])
    views = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    wanted = np.maximum(np.einsum("nchwij,ocij->nohw", views, rounded_weights), 0)
    (got,) = InferenceSession(small, providers=["CPUExecutionProvider"]).run(None, {"x": x})
    np.testing.assert_allclose(got, wanted, atol=1e-3)
    with pytest.raises(ValueError, match="no convolution 'd'"):
        eight_bit_graph(made.SerializeToString(), {"d": (0.0, 1.0)})


def vouching(**changes: object) -> dict[str, object]:
    entry: dict[str, object] = {
        "weights": "0" * 64, "ranges": {"c": [0.0, 6.0]}, "class_agreement": 0.98,
        "things_pq": 0.95, "chips": 8,
    }  # fmt: skip
    return entry | changes


def test_auto_takes_8_bits_only_where_they_are_fast_and_agree(monkeypatch) -> None:
    monkeypatch.setattr(precision, "has_vnni", lambda: True)
    floats = choose_engine(random_card()).precision
    assert floats in ("fp32", "bf16")
    assert choose_engine(random_card(int8=vouching())).precision == "int8"
    assert choose_engine(random_card(int8=vouching(class_agreement=0.9))).precision == floats
    assert choose_engine(random_card(int8=vouching(things_pq=0.5))).precision == floats
    assert choose_engine(random_card(int8=vouching(weights="1" * 64))).precision == floats
    assert choose_engine(random_card(int8=vouching()), "onnxruntime").precision == "fp32"
    assert choose_engine(random_card(int8=vouching()), precision="fp32").precision == "fp32"
    assert choose_engine(random_card(int8=vouching()), gpu=True) == choose_engine(
        random_card(), "torch"
    )
    monkeypatch.setattr(precision, "has_vnni", lambda: False)
    assert choose_engine(random_card(int8=vouching())).precision == floats
    asked = choose_engine(random_card(int8=vouching(things_pq=0.5)), precision="int8")
    assert (asked.name, asked.precision) == ("openvino", "int8")


def test_8_bits_without_ranges_of_these_weights_are_refused_with_the_cure() -> None:
    for card in (random_card(), random_card(int8=vouching(weights="1" * 64))):
        with pytest.raises(ConfigError, match="geopanoptic models quantize"):
            choose_engine(card, precision="int8")
    with pytest.raises(ConfigError, match="--engine openvino"):
        choose_engine(random_card(int8=vouching()), "torch", precision="int8")
    with pytest.raises(ConfigError, match="did you mean 'int8'"):
        choose_engine(random_card(), precision="int9")


@pytest.mark.parametrize(
    "wrong",
    [{"ranges": {"c": [1.0, 0.0]}}, {"ranges": {"c": [0.0]}}, {"ranges": {}}, {"ranges": None},
     {"things_pq": 2.0}, {"class_agreement": "much"}, {"more": 1}],
)  # fmt: skip
def test_a_card_that_lies_about_8_bits_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="makes no sense"):
        choose_engine(random_card(int8=vouching(**wrong)), precision="int8")


def test_an_engine_that_is_wrong_in_8_bits_is_found_out(
    small: tuple[Path, dict[str, object]], tmp_path: Path, monkeypatch
) -> None:
    from geopanoptic.models.engines import int8

    monkeypatch.setenv("GEOPANOPTIC_CACHE", str(tmp_path))
    honest = int8.open_runner

    def wrong(graph, engine, threads):
        run = honest(graph, engine, threads)
        if engine.precision != "int8":
            return run
        return lambda chips: {k: 1 - v for k, v in run(chips).items()}

    monkeypatch.setattr(int8, "open_runner", wrong)
    for _ in range(2):  # and it is not forgotten
        with pytest.raises(CheckpointError, match="--precision fp32"):
            load_model(small[0], threads=1, engine="onnxruntime", precision="int8")


def test_work_in_8_bits_is_not_gone_on_with_in_32(
    small: tuple[Path, dict[str, object]], scene: Path
) -> None:
    from geopanoptic.predict import PredictSettings
    from geopanoptic.predict.plan import make_plan
    from geopanoptic.raster import Scene

    prints = [
        make_plan(
            Scene.open(str(scene)),
            str(small[0]),
            PredictSettings(engine="openvino", precision=p),  # type: ignore[arg-type]
        ).fingerprint()
        for p in ("fp32", "int8")
    ]
    assert prints[0] != prints[1]
    assert [p["engine"]["precision"] for p in prints] == ["fp32", "int8"]
    assert prints[0]["settings"] == prints[1]["settings"]


def test_predicting_in_8_bits_imports_neither_torch_nor_onnx(
    small: tuple[Path, dict[str, object]],
) -> None:
    import os
    import subprocess

    load_model(small[0], threads=1, engine="openvino", precision="int8")  # now it is cached
    code = (
        "import sys, numpy as np\n"
        "from geopanoptic.models import load_model\n"
        f"m = load_model({str(small[0])!r}, threads=1, engine='openvino', precision='int8')\n"
        "m.segment(np.zeros((1, 3, 64, 64), np.uint8), np.ones((1, 64, 64), bool))\n"
        "print(sorted({'torch', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"


def test_an_engine_tells_its_precision() -> None:
    assert str(Engine("openvino", "2026.4.1", "int8")) == "openvino 2026.4.1, int8"

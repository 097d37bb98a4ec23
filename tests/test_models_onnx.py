"""ONNX models with cards, pairs of models, plugins: through the door, and what is refused there."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from random_model import THRESHOLDS, random_card

from geopanoptic.errors import CheckpointError, ConfigError
from geopanoptic.models import check_model, choose_engine, load_model, read_card
from geopanoptic.models.engines import lacking
from geopanoptic.models.onnx_file import embed_card, yaml_card
from geopanoptic.models.pair import PairSegmenter, pair_card
from geopanoptic.predict import PredictSettings, predict
from geopanoptic.schema import ClassSpec, LabelSchema

onnx = pytest.importorskip("onnx")
ENGINES = [
    pytest.param(e, marks=pytest.mark.skipif(bool(lacking(e)), reason=str(lacking(e))))
    for e in ("openvino", "onnxruntime")
]
SCHEMA = LabelSchema(
    (
        ClassSpec(1, "clear", "stuff", "#55aa55"),
        ClassSpec(2, "cloud", "thing", "#ffffff"),
        ClassSpec(3, "shadow", "stuff", "#333333"),
    )
)
CLOUDY = {f"cloud_{k}": v for k, v in {"region": 0.5, "score": 0.5, "area_px": 4}.items()}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOPANOPTIC_CACHE", str(tmp_path_factory.getbasetemp() / "graphs"))


def threshold_net(bands: int = 1, classes: int = 3, window: int | None = None) -> Any:
    """Return a network that says cloud where the first band is bright, shadow where it is dark."""
    weight = np.zeros((classes, bands, 1, 1), np.float32)
    weight[1, 0], weight[2, 0] = 30, -30
    bias = np.array([0, -15, -15, 0][:classes], np.float32)
    size = [window or "h", window or "w"]
    helper, F32 = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight", "bias"], ["y"])],
        "thresholds",
        [helper.make_tensor_value_info("x", F32, ["n", bands, *size])],
        [helper.make_tensor_value_info("y", F32, ["n", classes, *size])],
        [
            onnx.numpy_helper.from_array(weight, "weight"),
            onnx.numpy_helper.from_array(bias, "bias"),
        ],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=9)


def card_entries(**changes: Any) -> dict[str, Any]:
    entries = random_card(
        "clouds", architecture="onnx", arguments={"graph": "logits"}, schema=SCHEMA,
        bands=("grey",), mean=(127.5,), std=(127.5,), decoder="components", thresholds=CLOUDY,
        core=64, halo=16, **changes,
    ).to_json()  # fmt: skip
    return {k: v for k, v in entries.items() if k not in ("sha256", "card_version")}


def written(folder: Path, model: Any = None, **entries: Any) -> Path:
    path = folder / "clouds.onnx"
    onnx.save(model or threshold_net(), path)
    (folder / "clouds.card.yaml").write_text(yaml.safe_dump(card_entries() | entries))
    return path


def picture(rows: int = 100, cols: int = 120) -> np.ndarray:
    out = np.full((1, rows, cols), 128, np.uint8)
    out[0, 10:40, 10:40] = 255
    out[0, 50:90, 60:110] = 250
    out[0, 5:20, 80:100] = 0
    return out


@pytest.mark.parametrize("engine", ENGINES)
def test_an_onnx_model_with_a_card_beside_predicts(engine: str, tmp_path: Path) -> None:
    path = written(tmp_path)
    (tile,) = load_model(path, engine=engine, threads=1).segment(
        picture()[None], np.ones((1, 100, 120), bool)
    )
    assert tile.instance.max() == 2
    assert (tile.class_of[1:] == 2).all()
    assert (tile.instance > 0).sum() == 30 * 30 + 40 * 50
    assert (tile.stuff == 3).sum() == 15 * 20


@pytest.mark.parametrize("engine", ENGINES)
def test_an_onnx_model_predicts_a_scene_end_to_end(engine: str, tmp_path: Path) -> None:
    import rasterio
    from affine import Affine

    path = written(tmp_path, threshold_net(window=96), arguments={"graph": "logits", "window": 96})
    scene = tmp_path / "scene.tif"
    with rasterio.open(
        scene, "w", driver="GTiff", width=120, height=100, count=1, dtype="uint8",
        crs="EPSG:32631", transform=Affine(0.3, 0, 500000, 0, -0.3, 5000000),
    ) as out:  # fmt: skip
        out.write(picture())
    panoptic = predict(
        scene, str(path), tmp_path / "m.panoptic",
        settings=PredictSettings(bands=(1,), engine=engine),
    )  # fmt: skip
    assert len(panoptic.things()) == 2
    made = json.loads((tmp_path / "m.panoptic" / "map.json").read_text())["run"]["engine"]
    assert made["name"] == engine


def test_torch_runs_no_onnx_models(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="openvino or onnxruntime"):
        choose_engine(read_card(written(tmp_path)), "torch")


def test_a_card_goes_inside_the_graph_and_comes_back(tmp_path: Path) -> None:
    (card_file := tmp_path / "c.yaml").write_text(yaml.safe_dump(card_entries()))
    model = threshold_net()
    onnx.save(model, tmp_path / "bare.onnx")
    card = yaml_card(card_file, {}, tmp_path / "bare.onnx")
    data, inside = embed_card(model.SerializeToString(), card)
    path = tmp_path / "own.onnx"
    path.write_bytes(data)
    assert read_card(path) == inside
    assert inside.arguments == {"graph": "fields"}


LIES = {
    "bands": ({"bands": ["a", "b"], "mean": [0, 0], "std": [1, 1]}, "names 2 bands"),
    "classes": (
        {"classes": SCHEMA.subset(["clear", "shadow"]).to_json()},
        "3 classes apart.*names 2",
    ),
    "hash": ({"sha256": "0" * 64}, "not the file of its card"),
    "window": ({"arguments": {"graph": "logits", "window": 64}}, "window says 64"),
    "graph": ({"arguments": {"graph": "magic"}}, "use fields, logits, probabilities"),
    "argument": ({"arguments": {"graph": "logits", "windoe": 1}}, "did you mean 'window'"),
    "architecture": ({"architecture": "dense"}, "must be onnx"),
    "entry": ({"haloo": 3}, "did you mean 'halo'"),
}


@pytest.mark.parametrize("what", LIES)
def test_a_card_that_lies_is_refused(what: str, tmp_path: Path) -> None:
    entries, message = LIES[what]
    model = threshold_net(window=96 if what == "window" else None)
    with pytest.raises(CheckpointError, match=message):
        check_model(written(tmp_path, model, **entries))


def test_weights_that_were_altered_under_their_card_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    card = read_card(path)
    data, _ = embed_card(path.read_bytes(), card)
    model = onnx.load_from_string(data)
    model.graph.initializer[0].raw_data = b"\1" + model.graph.initializer[0].raw_data[1:]
    onnx.save(model, path)
    with pytest.raises(CheckpointError, match="damaged or altered"):
        check_model(path)


def test_weights_in_other_files_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../etc/passwd"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CheckpointError, match="in other files"):
        check_model(path)


def test_operations_of_somebody_else_are_refused(tmp_path: Path) -> None:
    model = threshold_net()
    model.graph.node[0].domain = "evil.ops"
    with pytest.raises(CheckpointError, match=r"evil\.ops"):
        check_model(written(tmp_path, model))


def test_what_is_no_onnx_or_has_no_card_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.with_suffix(".card.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"no model card.*clouds\.card\.yaml"):
        check_model(path)
    path.write_bytes(b"\x80\x02 a pickle")
    with pytest.raises(CheckpointError, match="no ONNX model"):
        check_model(path)


def test_sizes_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path)
    monkeypatch.setattr("geopanoptic.models.onnx_file.MAX_CARD_BYTES", 10)
    with pytest.raises(CheckpointError, match="more than 10 bytes"):
        check_model(path)
    monkeypatch.setattr("geopanoptic.models.onnx_file.MAX_BYTES", 100)
    with pytest.raises(CheckpointError, match="above 100 are refused"):
        check_model(path)


def test_a_directory_of_pickles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mask2former"}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    (tmp_path / "card.yaml").write_text("name: x\n")
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin are pickles"):
        check_model(tmp_path)
    (tmp_path / "card.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"no model card.*card\.yaml"):
        check_model(tmp_path)


class Painted:
    """A model that says one class, or one thing in the middle."""

    def __init__(self, card: Any, thing: bool) -> None:
        self.card, self.thing = card, thing

    def forward(self, chips: np.ndarray) -> dict[str, np.ndarray]:
        return {"grey": chips[:, 0].astype(np.float32)}

    def decode(self, fields: dict[str, np.ndarray], valid: np.ndarray) -> Any:
        from geopanoptic.models import Segmented

        instance = np.zeros(valid.shape, np.int32)
        if self.thing:
            instance[4:8, 4:8] = 1
        stuff = np.where(valid, self.card.schema.stuff[0].id if self.card.schema.stuff else 255, 0)
        class_of = np.array([0, self.card.schema.things[0].id] if self.thing else [0], np.uint8)
        return Segmented(
            stuff.astype(np.uint8), instance, class_of, np.full(valid.shape, 100, np.uint8)
        )


def test_a_pair_lays_the_things_of_one_model_over_the_stuff_of_the_other() -> None:
    green = LabelSchema((ClassSpec(1, "grass", "stuff", "#00ff00"),))
    ships = LabelSchema((ClassSpec(1, "ship", "thing", "#0000ff"),))
    one = Painted(random_card("land", schema=green, thresholds={}, halo=48), thing=False)
    other = Painted(random_card("ships", schema=ships, gsd_range_m=(0.2, 2.0)), thing=True)
    pair = PairSegmenter(one, other)
    assert pair.card.name == "land + ships"
    assert pair.card.schema.names == ("grass", "ship")
    assert pair.card.gsd_range_m == (0.2, 0.6)
    assert pair.card.halo == 48
    chips = np.zeros((1, 3, 16, 16), np.uint8)
    (tile,) = pair.segment(chips, np.ones((1, 16, 16), bool))
    assert (tile.stuff == 1).all()
    assert tile.class_of.tolist() == [0, 2], "the id 1 is taken by grass"


def test_models_of_other_bands_or_scales_make_no_pair() -> None:
    card = random_card("a", schema=LabelSchema.default(), thresholds=THRESHOLDS)
    for change, message in (
        ({"bands": ("nir", "red", "green")}, "bands"),
        ({"gsd_range_m": (5.0, 20.0), "preferred_gsd_m": 10.0}, "no pixel size suits both"),
    ):
        with pytest.raises(CheckpointError, match=message):
            pair_card(card, replace(card, **change))


def test_two_onnx_models_make_a_pair_by_name(tmp_path: Path) -> None:
    path = written(tmp_path)
    text = f"{path} + {path}"
    card = check_model(text)
    assert card.schema.names == SCHEMA.names
    whole = hashlib.sha256((read_card(path).sha256 * 2).encode()).hexdigest()
    assert card.sha256 == whole
    with pytest.raises(CheckpointError, match="not more"):
        check_model(f"{text} + {path}")


def test_a_plugin_is_found_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    class Entry:
        name, value = "painter", "somewhere:make"

        def load(self) -> Any:
            return lambda device, threads: Painted(random_card("painter"), thing=False)

    monkeypatch.setattr(
        importlib.metadata, "entry_points", lambda group, name: [Entry()] * (name == "painter")
    )
    assert read_card("painter").name == "painter"
    assert isinstance(load_model("painter"), Painted)
    with pytest.raises(CheckpointError, match="no model 'paintr'"):
        read_card("paintr")


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bands", [4, 6])
def test_a_third_partys_cloud_network_sees_what_its_own_package_sees(
    engine: str, bands: int, tmp_path: Path
) -> None:
    """DLR's ukis-csmask (Apache-2.0), one window, against its network run by hand."""
    package = pytest.importorskip("ukis_csmask", reason="needs the package ukis-csmask")
    runtime = pytest.importorskip("onnxruntime")
    folder = Path(package.__file__).parent
    about = json.loads((folder / f"model_{bands}b_l1c.json").read_text())["data"]
    names = about["dataset_statistics"]["band_names"]
    mean, std = about["dataset_statistics"]["img"]
    path = tmp_path / "clouds.onnx"
    shutil.copyfile(folder / f"model_{bands}b_l1c.onnx", path)
    entries = card_entries() | {
        "bands": names,
        "mean": [255 * m for m in mean],  # of reflectances 0..1, kept as bytes here
        "std": [255 * s for s in std],
        "arguments": {"graph": "logits", "window": 256},
        "gsd_range_m": [8, 60],
        "preferred_gsd_m": 30,
        "core": 192,
        "halo": 32,
    }
    (tmp_path / "clouds.card.yaml").write_text(yaml.safe_dump(entries))
    dice = np.random.default_rng(0)
    chips = dice.normal(40, 4, (1, bands, 256, 256)).clip(0, 255).astype(np.uint8)
    rows, cols = np.ogrid[:256, :256]
    hill = np.exp(-((rows - 110) ** 2 + (cols - 140) ** 2) / 2500)  # bright, grey, soft-edged
    chips = np.maximum(chips, (230 * hill).astype(np.uint8))
    scaled = (chips / 255 - np.array(mean)[:, None, None]) / np.array(std)[:, None, None]
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": scaled.astype(np.float32)})
    model = load_model(path, engine=engine, threads=1)
    semantic = model.forward(chips)["semantic"]
    assert (semantic.argmax(1) == logits.argmax(1)).mean() >= 0.999
    (tile,) = model.segment(chips, np.ones((1, 256, 256), bool))
    probability = np.exp(logits[0] - logits[0].max(0))
    probability /= probability.sum(0)
    assert (probability[1][tile.instance > 0] > 0.49).all()
    assert ((tile.stuff == 3) == (probability[2] > probability[0])).mean() >= 0.999

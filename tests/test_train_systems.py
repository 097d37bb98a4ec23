"""Training of the systems that answer with masks: examples, resuming, other classes, refusals."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_models_systems import CONFIGS as HF_CONFIGS
from test_models_systems import SMALL_DETECTOR, masks_card, saved
from training_town import write_town

from geopanoptic.errors import CheckpointError, ConfigError, StoreError
from geopanoptic.models import load_model
from geopanoptic.models.networks import blank_network
from geopanoptic.models.systems.detector import Detector, DetectorArgs, _spared
from geopanoptic.models.systems.segmenter import MaskNetwork, build
from geopanoptic.train import TrainConfig, TrainPaths, fit
from geopanoptic.train.settings import ClassEntry
from geopanoptic.train.start import first_network, transplant

CONFIGS = Path(__file__).parents[1] / "configs"
NETWORK = {
    "panoptic_fpn": SMALL_DETECTOR | {"semantic_channels": 32},
    "mask_rcnn": SMALL_DETECTOR,
    "mask2former": {},
    "maskformer": {},
}
HUB = ("mask2former", "maskformer")
HOUSE = ClassEntry("building", "thing")
GRASS, ROAD = ClassEntry("grass", "stuff"), ClassEntry("road", "stuff")


def hub_folder(folder: Path, architecture: str = "hf_mask2former") -> Path:
    """Write a tiny network as transformers does, with a preprocessor's mean and std."""
    names = ("tree", "building", "sky")
    config = {k: v for k, v in HF_CONFIGS[architecture].items() if k != "num_labels"}
    labels = {str(k): n for k, n in enumerate(names)}
    card = masks_card(architecture)
    schema = card.schema.subset(card.schema.names[: len(names)])
    net: Any = build(
        replace(card, schema=schema, arguments={"config": config | {"id2label": labels}})
    )
    net.net.save_pretrained(folder)
    scaling = {"image_mean": [0.4, 0.4, 0.4], "image_std": [0.2, 0.2, 0.2]}
    (folder / "preprocessor_config.json").write_text(json.dumps(scaling))
    return folder


def tiny(**changes: Any) -> TrainConfig:
    entries = {"name": "tiny", "version": "0", "sources": (), "classes": (HOUSE, GRASS, ROAD)}
    return TrainConfig(**(entries | changes))


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towns")
    for seed, letter in ((1, "a"), (2, "b")):
        write_town(folder, seed, 96)
        for kind in (".tif", "_buildings.gpkg", "_classes.tif"):
            (folder / f"town{seed}{kind}").rename(folder / f"town_{letter}{kind}")
    return folder


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NETWORK)
def test_every_example_of_a_system_trains_goes_on_and_predicts(name: str, towns: Path) -> None:
    example = CONFIGS / f"{name if name != 'maskformer' else 'mask2former'}.yaml"
    text = example.read_text()
    if name in HUB:
        pytest.importorskip("transformers", reason="needs the extra hf")
        hub_folder(towns / name, f"hf_{name}")
        text = text.replace("start: mask2former", f"start: {name}")
    path = towns / f"{name}.yaml"
    assert TrainConfig.from_yaml(example).name.startswith("my-")
    path.write_text(text)
    config = TrainConfig.from_yaml(path)
    small = replace(
        config, steps=2, batch=2, chip_px=64, threads=1, log_every=1, save_every=2, core=64,
        validate_every=2, halo=16, network=NETWORK[name], encoder_weights="",
    )  # fmt: skip
    paths = TrainPaths.beside(config, path, towns / f"run_{name}")
    alone = tuple(s for s in small.sources if not s.validation)
    fit(replace(small, steps=1, save_every=1, sources=alone, validate_every=0), paths)
    card = fit(small, paths)
    with (paths.run / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["1", "2"], "it goes on from its checkpoint"
    assert all(np.isfinite(float(v)) for row in rows for v in row.values())
    assert (paths.run / "index.html").read_text().count("<svg") == 2
    assert any("pq" in row["what"] for row in card.metrics)
    assert card.architecture == (f"hf_{name}" if name in HUB else name)
    assert card.decoder == ("queries" if name in HUB else "paste")
    assert card.mean == ((102.0,) * 3 if name in HUB else (127.5,) * 3)
    model = load_model(paths.run / f"{config.name}.safetensors")
    assert model.card == card
    chips = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64)).astype(np.uint8)
    (tile,) = model.segment(chips, np.ones((1, 64, 64), bool))
    assert tile.stuff.shape == (64, 64)
    if name == "mask_rcnn":
        with pytest.raises(StoreError, match="other settings"):
            fit(replace(small, network=SMALL_DETECTOR | {"proposals": 30}), paths)


# --- from other weights


def test_a_detector_with_other_classes_keeps_the_rows_of_the_same_name(tmp_path: Path) -> None:
    start = saved(tmp_path / "m.safetensors", masks_card("panoptic_fpn"))
    config = tiny(start=str(start), classes=(ClassEntry("pool", "thing"), HOUSE, ROAD))
    schema = config.schema()
    net, theirs = (blank_network(c) for c in (config.card(schema), masks_card("panoptic_fpn")))
    theirs.load_state_dict(blank_from(start))
    assert transplant(net, config, schema) == ["class pool"]
    mine, old = net.state_dict(), theirs.state_dict()
    score = "detector.roi_heads.box_predictor.cls_score.weight"
    assert torch.equal(mine[score][[0, 2]], old[score][[0, 1]]), "no thing, building"
    assert torch.allclose(mine[score][1], old[score][1:].mean(0), atol=1e-6)
    box = "detector.roi_heads.box_predictor.bbox_pred.bias"
    assert torch.equal(mine[box].view(3, 4)[2], old[box].view(3, 4)[1])
    assert torch.equal(mine["semantic.bias"], old["semantic.bias"][[2, 5]]), "road, a thing"
    body = "detector.backbone.body.conv1.weight"
    assert torch.equal(mine[body], old[body])
    wrong = replace(config, network={"mask_channels": 16})
    with pytest.raises(CheckpointError, match="do not fit"):
        first_network(wrong, schema, TrainPaths(*[tmp_path] * 4))


def blank_from(path: Path) -> dict[str, torch.Tensor]:
    from geopanoptic.models.checkpoint import read_header, read_tensors

    tensors = read_tensors(path, read_header(path))
    return {
        k: torch.from_numpy(v.astype(np.float32) if v.dtype.kind == "f" else v.copy())
        for k, v in tensors.items()
    }


def test_a_directory_of_transformers_is_gone_on_from_by_the_names_of_its_labels(
    tmp_path: Path,
) -> None:
    pytest.importorskip("transformers", reason="needs the extra hf")
    from safetensors.torch import load_file

    folder = hub_folder(tmp_path / "hub")
    config = tiny(start=str(folder))
    schema = config.schema()
    card = config.card(schema)
    assert card.architecture == "hf_mask2former"
    assert (card.mean[0], card.std[0]) == (102.0, 51.0)
    net = first_network(config, schema, TrainPaths(*[tmp_path] * 4))
    old, mine = load_file(folder / "model.safetensors"), net.state_dict()
    rows = old["class_predictor.weight"]
    assert torch.equal(mine["net.class_predictor.weight"][[0, 3]], rows[[1, 3]]), "the house, none"
    assert torch.allclose(mine["net.class_predictor.weight"][1], rows[:3].mean(0), atol=1e-6)
    assert mine["net.criterion.empty_weight"].tolist() == pytest.approx([1, 1, 1, 0.1])
    with pytest.raises(ConfigError, match="name `classes`"):
        replace(config, classes=()).schema()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="pickles, which are never loaded"):
        config.card(schema)


def test_imagenet_weights_of_smp_fit_the_backbone_of_torchvision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import segmentation_models_pytorch as smp

    made, real = [], smp.encoders.get_encoder

    def offline(name: str, weights: str, **rest: Any) -> Any:
        assert weights == "imagenet"
        made.append(real(name, weights=None, **rest))
        return made[-1]

    monkeypatch.setattr(smp.encoders, "get_encoder", offline)
    config = tiny(
        architecture="panoptic_fpn", network=NETWORK["panoptic_fpn"], encoder_weights="imagenet"
    )
    net: Any = first_network(config, config.schema(), TrainPaths(*[tmp_path] * 4))
    wanted = made[0].state_dict()["layer4.1.conv2.weight"]
    assert torch.equal(net.encoder.state_dict()["layer4.1.conv2.weight"], wanted)


MISTAKES = {
    "setting": ({"architecture": "mask_rcnn", "encoder": "resnet18"}, "has no setting encoder"),
    "network": ({"network": {"backbone": "resnet18"}}, "dense has no setting network"),
    "argument": (
        {"architecture": "panoptic_fpn", "network": {"backbon": "resnet18"}},
        "did you mean 'backbone'",
    ),
    "stuff": ({"architecture": "mask_rcnn"}, "exactly one stuff class"),
    "things": ({"architecture": "panoptic_fpn", "classes": (GRASS, ROAD)}, "the classes have none"),
    "other": ({"architecture": "mask_rcnn", "start": "landcover-v3"}, "is dense: leave"),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_settings_that_a_system_does_not_have_are_named(what: str) -> None:
    changes, said = MISTAKES[what]
    config = tiny(**changes)
    with pytest.raises((ConfigError, CheckpointError), match=said):
        blank_network(config.card(config.schema()))


def test_systems_that_are_not_trained_here_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs the extra hf")
    card = masks_card("hf_eomt")
    start = saved(tmp_path / "m.safetensors", card)
    with pytest.raises(ConfigError, match="'hf_eomt' cannot be trained; dense, panoptic_fpn"):
        tiny(start=str(start)).arguments()
    nothing = torch.zeros((1, 1, 64, 64), dtype=torch.uint8)
    with pytest.raises(CheckpointError, match="cannot be trained here"):
        build(card).losses(torch.zeros(1, 3, 64, 64), nothing, nothing.int()[0])


def test_the_text_of_old_checkpoints_is_unchanged() -> None:
    config = tiny()
    assert "architecture" not in config.fixed_text()
    assert config.fixed_text() == repr(config.fixed())
    assert "panoptic_fpn" in tiny(architecture="panoptic_fpn").fixed_text()


# --- labels that say only a part


@pytest.mark.parametrize(
    "architecture", ["panoptic_fpn", "mask_rcnn", "hf_mask2former", "hf_maskformer"]
)
def test_what_no_label_speaks_of_teaches_nothing(architecture: str) -> None:
    if architecture.startswith("hf_"):
        pytest.importorskip("transformers", reason="needs the extra hf")
    net: MaskNetwork = build(masks_card(architecture))
    net.train()
    everything = 2 ** len(masks_card(architecture).schema) - 1
    x = torch.rand(2, 3, 64, 64)
    ids = torch.zeros((2, 64, 64), dtype=torch.int32)
    for sets in (everything, 0):
        filled = torch.full((2, 1, 64, 64), sets, dtype=torch.uint8)
        loss = torch.stack(list(net(x, filled, ids).values())).sum()
        loss.backward()
        assert float(loss.detach()) == 0
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        assert all(float(g.abs().max()) == 0 for g in grads)


def test_targets_are_things_of_one_class_and_the_rest_is_known_or_not() -> None:
    detector = Detector(DetectorArgs(**SMALL_DETECTOR), [5, 9])
    ids = torch.zeros((1, 32, 32), dtype=torch.int32)
    ids[0, 2:6, 3:10], ids[0, 10:14, 10:14], ids[0, 20:24, 20:24] = 7, 8, 9
    ok = torch.zeros((1, 3, 32, 32), dtype=torch.bool)  # house, car, ground
    ok[:, 2] = ids == 0
    ok[0, 1, 2:6, 3:10] = True  # a car
    ok[0, :2, 10:14, 10:14] = True  # a thing, but of which class?
    ok[0, 0, 20:24, 20:24] = True  # a house
    ok[0, :, 28:] = True  # nobody has looked
    ok[0, 0, 17:19, 2:4], ok[0, 2, 17:19, 2:4] = True, False  # a house that has no id
    (target,) = detector.targets_of(ok, ids, [0, 1])
    assert target["boxes"].tolist() == [[3, 2, 10, 6], [20, 20, 24, 24]]
    assert target["labels"].tolist() == [2, 1]
    assert target["masks"].sum((1, 2)).tolist() == [28, 16]
    unknown = torch.zeros((32, 32), dtype=torch.bool)
    unknown[28:], unknown[10:14, 10:14], unknown[17:19, 2:4] = True, True, True
    assert torch.equal(target["unknown"], unknown)


def test_background_boxes_in_unknown_ground_are_passed_over() -> None:
    unknown = torch.zeros((20, 20), dtype=torch.bool)
    unknown[:, 10:] = True
    boxes = torch.tensor([[0, 0, 8, 8], [4, 4, 18, 12], [12, 2, 40, 9], [12, 2, 40, 9.0]])
    labels = torch.tensor([0, 0, 0, 3])
    (found,) = _spared([labels], [boxes], [unknown])
    assert found.tolist() == [0, -1, -1, 3]
    (same,) = _spared([labels], [boxes], [torch.zeros_like(unknown)])
    assert same.tolist() == labels.tolist()

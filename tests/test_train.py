"""Training: settings are checked, a tiny scene is learnt, a cut run goes on as if uncut."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from safetensors import safe_open

from geopanoptic.dataset import LayerSpec, SourceSpec
from geopanoptic.errors import CheckpointError, ConfigError, StoreError
from geopanoptic.models import load_model, read_card
from geopanoptic.models.dense import DenseArgs, build_dense, lukemelas_to_smp
from geopanoptic.schema import LabelSchema
from geopanoptic.train import TrainConfig, TrainPaths, fit
from geopanoptic.train.loop import schedule

CONFIGS = Path(__file__).parents[1] / "configs"
THRESHOLDS = {
    f"{name}_{key}": value
    for name in ("building", "vehicle")
    for key, value in {
        "region": 0.5, "ratio": 0.6, "peak": 0.1, "score": 0.3, "area_px": 9,
    }.items()
}  # fmt: skip


@pytest.fixture
def town(tmp_path: Path) -> TrainPaths:
    """Write a scene of 160 x 160: red houses, some touching, on green."""
    rgb = np.full((3, 160, 160), 90, np.uint8)
    rgb[1] = 160
    ids = np.zeros((160, 160), np.int32)
    n = 0
    for row in range(10, 150, 35):
        for col in range(10, 150, 25):
            n += 1
            ids[row : row + 20, col : col + 16] = n
    rgb[:, ids > 0] = np.array([200, 60, 50], np.uint8)[:, None]
    profile = {"driver": "GTiff", "height": 160, "width": 160, "crs": "EPSG:32633"}
    profile["transform"] = rasterio.Affine(0.3, 0, 5e5, 0, -0.3, 5e6)
    for name, array in (("rgb", rgb), ("ids", ids[None])):
        with rasterio.open(
            tmp_path / f"{name}.tif", "w", count=len(array), dtype=array.dtype, **profile
        ) as file:
            file.write(array)
    return TrainPaths(tmp_path, tmp_path, tmp_path / "cache", tmp_path / "run")


def tiny(**changes: object) -> TrainConfig:
    layers = (
        LayerSpec("instances", "ids.tif", thing="building"),
        LayerSpec("everywhere", codes={"all": ["building", "grass"]}),
    )
    source = SourceSpec("town", "rgb.tif", layers, 0.3, gsd_range_m=(0.28, 0.32))
    entries = {
        "name": "tiny", "version": "0", "sources": (source,), "decoder_channels": (32, 24, 16, 16),
        "chip_px": 96, "batch": 2, "steps": 6, "warmup_steps": 2, "log_every": 2, "save_every": 2,
        "threads": 1, "thresholds": THRESHOLDS, "lr": 4e-3, "encoder_lr": 2e-3,
    }  # fmt: skip
    return TrainConfig(**(entries | changes))  # type: ignore[arg-type]


def weights(path: Path) -> dict[str, torch.Tensor]:
    with safe_open(path, "pt") as file:
        return {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 - not a dict


def test_the_bundled_configuration_is_read_and_names_mistakes(tmp_path: Path) -> None:
    path = CONFIGS / "landcover_v3.yaml"
    config = TrainConfig.from_yaml(path)
    assert config.name == "landcover-v3"
    assert len({s.name for s in config.source_specs()}) == len(config.source_specs())
    assert config.card(LabelSchema.default()).thresholds == config.thresholds
    trained_on = " ".join(s.image for s in config.source_specs())
    for held_out in ("kampala", "nairobi", "catanduanes", "tile2", "MOS75", "MOS93"):
        assert held_out not in trained_on
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(path.read_text().replace("chip_px:", "chip_pix:"))
    with pytest.raises(ConfigError, match="did you mean 'chip_px'"):
        TrainConfig.from_yaml(wrong)
    wrong.write_text(path.read_text().replace("void_green:", "void_greens:"))
    with pytest.raises(ConfigError, match="did you mean 'void_green'"):
        TrainConfig.from_yaml(wrong)


def test_the_rate_warms_up_and_falls() -> None:
    config = tiny(steps=100, warmup_steps=10)
    rates = [schedule(i, config) for i in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 0.03


def test_a_run_cut_short_ends_like_one_that_was_not(town: TrainPaths) -> None:
    whole = fit(tiny(), town)
    again = replace(town, run=town.run.with_name("again"))
    fit(tiny(steps=4), again)  # the horizon bends the schedule: compare the resumed chips only
    resumed = fit(tiny(steps=6), again)
    assert resumed.schema == whole.schema
    with (again.run / "log.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4", "6"]
    same = replace(town, run=town.run.with_name("same"))
    assert fit(tiny(), same).sha256 == whole.sha256, "the same settings give the same weights"


def test_a_checkpoint_of_other_settings_is_refused(town: TrainPaths) -> None:
    fit(tiny(steps=2), town)
    with pytest.raises(StoreError, match="other settings"):
        fit(tiny(steps=4, lr=1e-4), town)


def test_fine_tuning_starts_from_the_other_model(town: TrainPaths) -> None:
    fit(tiny(steps=2), town)
    start = town.run / "tiny.safetensors"
    tuned = replace(town, run=town.run.with_name("tuned"))
    still = {"steps": 1, "warmup_steps": 1, "lr": 0.0, "encoder_lr": 0.0, "frozen_stages": 2}
    fit(tiny(start=str(start), **still), tuned)
    a, b = weights(start), weights(tuned.run / "tiny.safetensors")
    assert torch.equal(a["head.weight"], b["head.weight"])
    frozen = "encoder.model.bn1.running_mean"
    assert torch.equal(a[frozen], b[frozen]), "frozen stages keep their statistics"
    with pytest.raises(CheckpointError, match="do not fit"):
        fit(
            tiny(steps=1, start=str(start), decoder_channels=(8, 8, 8, 8)),
            replace(tuned, run=town.run / "x"),
        )


def test_imagenet_weights_find_their_places() -> None:
    net = build_dense(DenseArgs(), 7)
    names = {"conv_stem": "_conv_stem", "bn1": "_bn0"}
    separable = {v: k for k, v in {"_depthwise_conv": "conv_dw", "_bn1": "bn1"}.items()}
    separable |= {"conv_pw": "_project_conv", "bn2": "_bn2"}
    inverted = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv"}
    inverted |= {"bn2": "_bn1", "conv_pwl": "_project_conv", "bn3": "_bn2"}
    reference = net.encoder.state_dict()
    blocks = sorted({tuple(map(int, k.split(".")[2:4])) for k in reference if ".blocks." in k})
    state = {}
    for key, value in reference.items():
        part = key.split(".")
        if part[1] == "blocks":
            table = separable if part[2] == "0" else inverted
            i = blocks.index((int(part[2]), int(part[3])))
            state[f"_blocks.{i}.{table[part[4]]}.{part[5]}"] = value
        else:
            state[f"{names[part[1]]}.{part[2]}"] = value
    state |= {"_fc.weight": torch.zeros(3), "_conv_head.weight": torch.zeros(3)}
    out = lukemelas_to_smp(state, net.encoder)
    assert all(torch.equal(out[k], reference[k]) for k in reference)
    del state["_conv_stem.weight"]
    with pytest.raises(CheckpointError, match=r"first 'model\.conv_stem\.weight'"):
        lukemelas_to_smp(state, net.encoder)


@pytest.mark.slow
def test_a_tiny_town_is_learnt(town: TrainPaths) -> None:
    fit(tiny(steps=120, ema=0.9, warmup_steps=10), town)
    model = town.run / "tiny.safetensors"
    assert read_card(model).name == "tiny"
    with rasterio.open(town.data / "rgb.tif") as file:
        rgb = file.read()
    with rasterio.open(town.data / "ids.tif") as file:
        truth = file.read(1)
    (tile,) = load_model(model).segment(rgb[None], np.ones((1, 160, 160), bool))
    found = 0
    for i in range(1, truth.max() + 1):
        mine = np.bincount(tile.instance[truth == i]).argmax()
        a, b = truth == i, tile.instance == mine
        found += mine > 0 and (a & b).sum() / (a | b).sum() > 0.5
    assert 2 * found / (truth.max() + len(tile.class_of) - 1) > 0.8

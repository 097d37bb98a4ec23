"""`geopanoptic train` as a user meets it: example configurations, labels of every kind, errors."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from click.testing import CliRunner
from random_model import random_card, write_random_model
from rasterio.warp import Resampling, calculate_default_transform, reproject
from training_town import (
    CLASSES,
    UTM,
    make_town,
    transform_of,
    write_coco,
    write_raster,
    write_town,
)

from geopanoptic import PredictSettings, predict_array
from geopanoptic.cli.train import train
from geopanoptic.dataset import Planes, SourceArray
from geopanoptic.errors import ConfigError, GeoPanopticError, SceneError, SchemaError, StoreError
from geopanoptic.metrics import ClassCode, PanopticCount, Sides, quality_of
from geopanoptic.models import load_model, read_card
from geopanoptic.models.checkpoint import model_path, read_header, read_tensors
from geopanoptic.models.dense import DenseArgs, build_dense
from geopanoptic.schema import LabelSchema
from geopanoptic.train import TrainConfig, TrainPaths, fit
from geopanoptic.train.loop import prepared
from geopanoptic.train.start import transplant
from geopanoptic.train.validate import Truth, score_all

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL: dict[str, Any] = {
    "name": "tiny", "version": "0", "classes": list(CLASSES), "decoder_channels": [32, 24, 16, 16],
    "chip_px": 64, "batch": 2, "steps": 2, "warmup_steps": 1, "threads": 1, "log_every": 1,
    "save_every": 1, "validate_every": 0, "lr": 0.004, "encoder_lr": 0.002, "core": 128, "halo": 32,
}  # fmt: skip
VECTOR = {"kind": "vector", "path": "town1_buildings.gpkg", "column": "type",
          "codes": {"house": "building"}}  # fmt: skip
COVER = {"kind": "classes", "path": "town1_classes.tif"}


def source(*layers: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"name": "town1", "image": "town1.tif", "layers": list(layers)} | changes


def write_config(folder: Path, *sources: dict[str, Any], **changes: Any) -> Path:
    path = folder / "config.yaml"
    path.write_text(json.dumps(SMALL | {"sources": list(sources)} | changes))  # JSON is YAML
    return path


def read(path: Path) -> tuple[TrainConfig, TrainPaths]:
    config = TrainConfig.from_yaml(path)
    return config, TrainPaths.beside(config, path, path.parent / "run")


def sources_of(path: Path) -> tuple[list[SourceArray], list[SourceArray]]:
    config, paths = read(path)
    return prepared(config, paths, config.schema())


def labels_of(made: SourceArray, n_classes: int = 3) -> Truth:
    return Truth.of(np.load(made.path), Planes(3, n_classes))


def classes_of(truth: Truth) -> np.ndarray:
    """Return the class (1..) of pixels that say one, else 0."""
    bits = truth.sets[..., 0]
    return np.select([bits == 1, bits == 2, bits == 4], [1, 2, 3], 0)


# --- the example configurations


def write_inputs(name: str, folder: Path) -> None:
    """Write small files of the names that an example configuration uses."""
    if name == "coco_panoptic":
        for part, seeds in (("train", (1, 2)), ("val", (3,))):
            write_coco(folder / part, seeds)
            where = "pictures" if part == "train" else "pictures_val"
            (folder / part / "pictures").rename(folder / where)
            (folder / part / "coco.json").rename(folder / f"{part}.json")
            for png in (folder / part / "coco").iterdir():
                png.rename(folder / part / png.name)
        return
    if name == "land_cover":
        for k, letter in enumerate("abc", 1):
            town = make_town(k, 128)
            nir = town.rgb[1:2]
            path = folder / f"region_{letter}.tif"
            write_raster(path, np.concatenate([town.rgb, nir]), k)
            codes = np.array([0, 21, 82, 11], np.uint8)[town.classes]
            write_raster(folder / f"region_{letter}_cover.tif", codes, k)
            for file in (path, folder / f"region_{letter}_cover.tif"):
                with rasterio.open(file, "r+") as raster:
                    raster.transform = rasterio.Affine(10, 0, 5e5 + 1e5 * k, 0, -10, 5e6)
        return
    write_town(folder, 1, 128)
    write_town(folder, 2, 128)
    for k, letter in ((1, "a"), (2, "b")):
        for kind in (".tif", "_buildings.gpkg"):
            (folder / f"town{k}{kind}").rename(folder / f"town_{letter}{kind}")
    (folder / "town1_right.gpkg").rename(folder / "town_a_labelled.gpkg")
    (folder / "town2_right.gpkg").rename(folder / "town_b_right.gpkg")
    t = transform_of(1)
    corner = geopandas.GeoDataFrame(
        geometry=[shapely.box(*(t @ (100, 20)), *(t @ (120, 0)))], crs=UTM
    )
    corner.to_file(folder / "town_a_unclear.gpkg")
    east = geopandas.GeoDataFrame(
        geometry=[shapely.box(*(t @ (80, 128)), *(t @ (128, 0)))], crs=UTM
    )
    east.to_file(folder / "town_a_east.gpkg")
    houses = geopandas.read_file(folder / "town_a_buildings.gpkg")
    kinds = ["house", "panel", "trees", "field", "unsure"]
    houses["what"] = [kinds[i % 5] for i in range(len(houses))]
    houses.to_file(folder / "town_a_objects.gpkg")


@pytest.mark.parametrize("name", ["buildings", "fine_tune", "land_cover", "coco_panoptic"])
def test_every_example_configuration_trains_two_steps(name: str, tmp_path: Path) -> None:
    write_inputs(name, tmp_path)
    path = tmp_path / f"{name}.yaml"
    path.write_text((CONFIGS / f"{name}.yaml").read_text())
    config, paths = read(path)
    small = replace(
        config, steps=2, batch=2, chip_px=64, threads=1, log_every=1, save_every=2,
        validate_every=2, core=128, halo=32,
    )  # fmt: skip
    card = fit(small, paths)
    assert card.schema.names == tuple(c.name for c in config.classes)
    assert any("pq" in row["what"] for row in card.metrics)
    assert load_model(paths.run / f"{config.name}.safetensors").card == card
    assert (paths.run / "index.html").read_text().count("<svg") == 2
    assert (paths.run / "samples/0000002.png").exists()


def test_the_bundled_configuration_still_reads() -> None:
    config = TrainConfig.from_yaml(CONFIGS / "landcover_v3.yaml")
    assert config.schema() == LabelSchema.default()
    assert all(s.gsd_range_m for s in config.source_specs())


# --- labels


def test_outlines_in_another_crs_land_on_the_scene(tmp_path: Path) -> None:
    town = write_town(tmp_path, 1, 128, crs="EPSG:4326")
    (made,), _ = sources_of(write_config(tmp_path, source(VECTOR)))
    truth = labels_of(made)
    assert ((truth.ids > 0) == (town.ids > 0)).mean() > 0.99
    assert len(np.unique(truth.ids)) == len(np.unique(town.ids))
    for i in range(1, int(town.ids.max()) + 1):
        mine = np.bincount(truth.ids[town.ids == i]).argmax()
        a, b = town.ids == i, truth.ids == mine
        assert (a & b).sum() / (a | b).sum() > 0.85
    assert (truth.sets[town.ids == 0, 0] == 0b110).mean() > 0.98, "elsewhere: no building"


@pytest.mark.filterwarnings("ignore:Use .@. matmul:PendingDeprecationWarning")  # rasterio's own
def test_a_class_raster_of_another_crs_is_warped(tmp_path: Path) -> None:
    town = write_town(tmp_path, 1, 128)
    with rasterio.open(tmp_path / "town1_classes.tif") as file:
        transform, width, height = calculate_default_transform(
            file.crs, "EPSG:3857", file.width, file.height, *file.bounds
        )
        out = np.zeros((height, width), np.uint8)
        reproject(file.read(1), out, src_crs=file.crs, src_transform=file.transform,
                  dst_crs="EPSG:3857", dst_transform=transform,
                  resampling=Resampling.nearest)  # fmt: skip
    with rasterio.open(
        tmp_path / "merc.tif", "w", driver="GTiff", count=1, height=height, width=width,
        dtype="uint8", crs="EPSG:3857", transform=transform,
    ) as file:  # fmt: skip
        file.write(out, 1)
    layer = {"kind": "classes", "path": "merc.tif"}
    (made,), _ = sources_of(write_config(tmp_path, source(layer)))
    assert (classes_of(labels_of(made)) == town.classes).mean() > 0.97


def test_coco_pictures_become_sources_with_all_labels(tmp_path: Path) -> None:
    write_coco(tmp_path, (1, 2))
    layer = {"kind": "coco", "path": "coco.json"}
    made, _ = sources_of(write_config(tmp_path, source(layer, name="c", image="pictures")))
    assert [m.spec.name for m in made] == ["c/1", "c/2"]
    for seed, one in zip((1, 2), made, strict=True):
        town, truth = make_town(seed, 96), labels_of(one)
        assert (classes_of(truth) == town.classes).all()
        assert ((truth.ids > 0) == (town.ids > 0)).all()
        assert len(np.unique(truth.ids)) == len(np.unique(town.ids))
        assert (np.load(one.path)[..., :3] == np.moveaxis(town.rgb, 0, -1)).all()


def test_a_source_is_split_by_place(tmp_path: Path) -> None:
    town = write_town(tmp_path, 1, 128)
    spec = source(VECTOR, COVER, validation_aoi="town1_right.gpkg")
    (taught,), (judge,) = sources_of(write_config(tmp_path, spec))
    right = np.arange(128) >= 77
    for made, side in ((taught, ~right), (judge, right)):
        labelled = classes_of(labels_of(made)) > 0
        assert labelled[:, side].mean() > 0.97
        assert not labelled[:, ~side][:, 2:-2].any()
    assert (town.classes > 0).all()


def test_areas_to_ignore_are_void_and_nothing_else_is(tmp_path: Path) -> None:
    town = write_town(tmp_path, 1, 128)
    ignored = {"kind": "ignore", "path": "town1_right.gpkg"}
    (made,), _ = sources_of(write_config(tmp_path, source(VECTOR, COVER, ignored)))
    truth, right = labels_of(made), np.arange(128) >= 77
    assert not classes_of(truth)[:, right][:, 2:].any()
    assert np.isin(truth.sets[:, right][:, 2:], (0, 0b111)).all(), "may be anything, or nothing"
    left = classes_of(truth)[:, ~right][:, :-2]
    assert (left == town.classes[:, ~right][:, :-2]).mean() > 0.97


def test_more_than_eight_classes_are_kept_apart(tmp_path: Path) -> None:
    town = write_town(tmp_path, 1, 128)
    classes = [{"name": f"c{k}", "kind": "stuff"} for k in range(19)]
    codes = {"1": "c0", "2": "c9", "3": "c18"}
    path = write_config(tmp_path, source(COVER | {"codes": codes}), classes=classes,
                        instances="components")  # fmt: skip
    (made,), _ = sources_of(path)
    truth = labels_of(made, 19)
    assert truth.sets.shape[-1] == 3
    for k, value in ((0, 1), (9, 2), (18, 3)):
        assert (truth.of_class(k)[0] == np.where(town.classes == value, 1, 2)).all()
    config, paths = read(path)
    fit(config, paths)


# --- mistakes


MISTAKES = [
    ({"chip_pix": 64}, {}, ConfigError, "did you mean 'chip_px'"),
    ({"chip_px": 100}, {}, ConfigError, "multiple of 32, like 96"),
    ({"instances": "magic"}, {}, ConfigError, "must be one of: seeded, centers, components"),
    ({"encoder": "resnet81"}, {}, GeoPanopticError, "did you mean 'resnet18'"),
    ({"start": "landcover-vII"}, {}, GeoPanopticError, "did you mean 'landcover-v3'"),
    ({"class_weight": {"bulding": 2.0}}, {}, SchemaError, "did you mean 'building'"),
    ({"amp": "fp16"}, {}, ConfigError, "needs a GPU"),
    ({}, {"image": "town9.tif"}, SceneError, r"town9\.tif"),
    ({}, {"validation": True}, ConfigError, "no sources to train on"),
    ({}, {"gsd_range_m": [0.01, 0.02]}, SceneError, "set gsd_range_m"),
    ({}, {"layers": []}, ConfigError, "no label layers"),
    ({}, {"layers": [VECTOR | {"kind": "vektor"}]}, ConfigError, "did you mean 'vector'"),
    ({}, {"layers": [VECTOR | {"path": "no.gpkg"}]}, SceneError, r"there is no file .*no\.gpkg"),
    ({}, {"layers": [VECTOR | {"column": "kind"}]}, SceneError, "has no attribute 'kind'"),
    ({}, {"layers": [VECTOR | {"codes": {"hous": "building"}}]}, SchemaError, "mean 'hous'"),
    ({}, {"layers": [VECTOR | {"codes": {}}]}, SchemaError, "no class is called that"),
    ({}, {"layers": [VECTOR | {"codes": {"house": "bulding"}}]}, SchemaError, "mean 'building'"),
    ({}, {"layers": [VECTOR | {"path": "town2_buildings.gpkg"}]}, SceneError, "lie off the scene"),
    ({}, {"layers": [COVER | {"path": "town2_classes.tif"}]}, SceneError, "lie off the scene"),
    ({}, {"layers": [{"kind": "vector", "path": "town1_buildings.gpkg"}]}, ConfigError, "neither"),
]  # fmt: skip


@pytest.fixture(scope="module")
def towns(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("towns")
    for seed in (1, 2):
        write_town(folder, seed, 128)
    return folder


@pytest.mark.parametrize(("config", "of_source", "kind", "said"), MISTAKES)
def test_mistakes_are_named_with_the_cure(
    config: dict[str, Any], of_source: dict[str, Any], kind: type[Exception], said: str,
    towns: Path,
) -> None:  # fmt: skip
    path = write_config(towns, source(VECTOR, COVER, **of_source) | of_source, **config)
    with pytest.raises(kind, match=said):
        run_it(path)


def run_it(path: Path) -> None:
    config, paths = read(path)
    fit(config, paths)


# --- judging


def test_judging_class_by_class_is_panoptic_quality_where_labels_are_complete() -> None:
    rng = np.random.default_rng(3)
    schema = TrainConfig("t", "0", ()).schema()
    town, other = make_town(1, 128), make_town(1, 128)
    ids = np.where(rng.random(town.ids.shape) < 0.1, 0, np.roll(other.ids, 3, 1)).astype(np.int32)
    classes = np.where(ids > 0, 1, np.where(town.classes == 1, 4, town.classes + 2))
    truth_classes = np.array([0, 1, 4, 5], np.uint8)[town.classes]
    pred = np.where(classes == 1, 1, np.where(classes == 5, 5, 4)).astype(np.uint8)
    sets = (1 << (truth_classes - 1)).astype(np.uint8)[..., None]
    found = score_all(schema, Truth(sets, town.ids), (pred, ids), np.full(ids.max() + 1, 0.5))
    code = ClassCode.plain(7, {1, 2})
    count = PanopticCount.of((truth_classes, town.ids), (pred, ids), Sides(code, code, 7))
    whole = quality_of(count, 7, {1, 2})
    for spec in schema.classes:
        assert found[spec.name].quality == whole.per_class[spec.id], spec.name
    building = found["building"]
    assert len(building.score) == building.quality.tp + building.quality.fp
    assert building.hit.sum() == building.quality.tp


def test_what_no_label_speaks_of_is_not_judged() -> None:
    schema = TrainConfig("t", "0", ()).schema()
    sets = np.full((20, 20, 1), 127, np.uint8)
    sets[:, :10] = 127 & ~1  # no building here; nothing known on the right
    ids = np.zeros((20, 20), np.int32)
    ids[2:6, 2:6], ids[2:6, 12:16] = 1, 2
    truth = Truth(sets, np.zeros((20, 20), np.int32))
    pred = np.where(ids > 0, 1, 4).astype(np.uint8)
    found = score_all(schema, truth, (pred, ids), np.array([np.nan, 0.9, 0.8]))
    assert found["building"].quality.fp == 1
    assert found["building"].score.tolist() == [0.9]
    assert found["tree"].quality.pq is None


# --- the course of a training


@pytest.mark.timeout(900)  # half a minute of work, but machines are shared
def test_a_town_is_learnt_from_scratch_and_told_by_its_card(tmp_path: Path) -> None:
    for seed in (1, 2, 3):
        write_town(tmp_path, seed)
    each = {"name": "t{each}", "each": ["1", "2"], "image": "town{each}.tif"}
    layers = [VECTOR | {"path": "town{each}_buildings.gpkg"},
              COVER | {"path": "town{each}_classes.tif"}]  # fmt: skip
    judge = [VECTOR | {"path": "town3_buildings.gpkg"}, COVER | {"path": "town3_classes.tif"}]
    path = write_config(
        tmp_path, source(*layers, **each),
        source(*judge, name="t3", image="town3.tif", validation=True),
        chip_px=96, batch=3, steps=75, warmup_steps=5, ema=0.9, validate_every=25, core=256,
        log_every=10, save_every=25,
    )  # fmt: skip
    config, paths = read(path)
    card = fit(config, paths)
    value = {row["what"]: row["value"] for row in card.metrics}
    assert value["building pq at IoU 0.5"] >= 0.6
    assert value["grass pq at IoU 0.5"] >= 0.6
    assert set(card.thresholds) == set(config.first_thresholds(config.schema()))
    with (paths.run / "validation.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["25", "50", "75"]


def test_training_stops_when_validation_gains_no_more(tmp_path: Path) -> None:
    write_town(tmp_path, 1, 128)
    path = write_config(
        tmp_path, source(VECTOR, COVER, validation_aoi="town1_right.gpkg"),
        steps=40, validate_every=1, patience=2, lr=0.0, encoder_lr=0.0, tune=False,
        ema=0.0, save_every=40,
    )  # fmt: skip
    config, paths = read(path)
    fit(config, paths)
    with (paths.run / "validation.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert len(steps) < 40
    assert paths.last.exists()


def test_classes_of_the_same_name_keep_their_rows(tmp_path: Path) -> None:
    config, _ = read(write_config(tmp_path, source(VECTOR), start="landcover-v3",
                                  decoder_channels=[], classes=[
        {"name": "pool", "kind": "thing"}, {"name": "vehicle", "kind": "thing"},
        {"name": "grass", "kind": "stuff"}]))  # fmt: skip
    schema = config.schema()
    net = build_dense(DenseArgs.from_json(config.arguments()), len(schema))
    assert transplant(net, config, schema) == ["class pool"]
    path = model_path("landcover-v3")
    theirs = read_tensors(path, read_header(path))["head.weight"].astype(np.float32)
    old = theirs.reshape(10, 4, *theirs.shape[1:])
    new = net.state_dict()["head.weight"].numpy().reshape(6, 4, *theirs.shape[1:])
    assert np.array_equal(new[1], old[1])
    assert np.array_equal(new[2], old[3])
    assert np.array_equal(new[3:], old[7:]), "edge, contact, distance"
    assert np.allclose(new[0], old[:7].mean(0), atol=1e-6)


@pytest.mark.parametrize("changes", [
    {"instances": "centers"}, {"encoder": "resnet18", "decoder": "fpn"}, {"amp": "bf16"},
    {"instances": "components", "augment": False},
])  # fmt: skip
def test_other_networks_and_number_formats_train(changes: dict[str, Any], towns: Path) -> None:
    config, paths = read(write_config(towns, source(VECTOR, COVER), **changes))
    run = towns / "-".join(map(str, changes.values()))
    card = fit(config, replace(paths, run=run))
    assert card.decoder == changes.get("instances", "seeded")
    with (run / "log.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2


# --- the command


def invoke(*args: object) -> Any:
    return CliRunner().invoke(train, [str(a) for a in args])


def test_the_command_writes_the_model_and_goes_on(towns: Path, tmp_path: Path) -> None:
    path = write_config(towns, source(VECTOR, COVER))
    out = tmp_path / "mine.safetensors"
    told = invoke(path, "--out", out, "--dry-run", "--json")
    assert told.exit_code == 0, told.output
    (row,) = json.loads(told.stdout)
    assert row["role"] == "training"
    assert row["instances"] == int(make_town(1, 128).ids.max())
    assert not out.exists()
    done = invoke(path, "--out", out)
    assert done.exit_code == 0, done.output
    assert read_card(out).name == "tiny"
    assert isinstance(invoke(path, "--out", out).exception, StoreError)
    again = invoke(path, "--out", out, "--overwrite", "--steps", 3)
    assert again.exit_code == 0, again.output
    assert "step 3:" in again.stderr
    assert "step 1:" not in again.stderr, "it goes on from the last step"
    wrong = invoke(path, "--out", tmp_path / "mine.pt")
    assert isinstance(wrong.exception, StoreError)


DETECTOR = {
    "architecture": "mask_rcnn", "decoder_channels": [], "lr": 0.0005, "encoder_lr": 0.0002,
    "network": {"backbone": "resnet18", "pyramid_channels": 64, "box_channels": 64,
                "mask_channels": 32, "proposals": 40, "samples": 32},
    "classes": [CLASSES[0], {"name": "other", "kind": "stuff"}],
}  # fmt: skip
REST = {"kind": "everywhere", "codes": {"all": ["building", "other"]}}


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    ("changes", "layer", "column"),
    [({}, COVER, "semantic"), (DETECTOR, REST, "objectness")],
    ids=["dense", "mask_rcnn"],
)
def test_two_processes_train_as_one(
    changes: dict[str, Any], layer: dict[str, Any], column: str, towns: Path, tmp_path: Path
) -> None:
    path = write_config(towns, source(VECTOR, layer), **({"batch": 4, "steps": 3} | changes))
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    rows = {}
    for size in (1, 2):
        out = tmp_path / f"m{size}.safetensors"
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone",
                   "--nproc-per-node", str(size), "-m", "geopanoptic.cli.main", "train",
                   str(path), "--out", str(out)]  # fmt: skip
        subprocess.run(command, check=True, env=env, timeout=700)
        assert read_card(out).name == "tiny"
        with (tmp_path / f"m{size}.train/log.csv").open() as file:
            rows[size] = [float(r[column]) for r in csv.DictReader(file)]
    # the same chips and first weights; only batch statistics are of half the batch
    assert len(rows[2]) == 3
    assert rows[2][0] == pytest.approx(rows[1][0], rel=0.1)
    assert rows[2][2] < rows[2][0]
    assert torch.isfinite(torch.tensor(rows[2])).all()


def test_four_bands_in_memory_are_four_bands(tmp_path: Path) -> None:
    card = random_card(
        bands=("red", "green", "blue", "nir"), mean=(127.5,) * 4, std=(127.5,) * 4,
        arguments=dict(random_card().arguments) | {"in_channels": 4},
    )  # fmt: skip
    write_random_model(tmp_path / "m.safetensors", card)
    pixels = np.random.default_rng(0).integers(0, 2, (4, 64, 64), np.uint8)  # "alpha" often 0
    found = predict_array(
        pixels, str(tmp_path / "m.safetensors"), PredictSettings(bands=(1, 2, 3, 4))
    )
    assert (found["semantic"].to_numpy() != 0).all()

"""Chips: sources become label sets and distances, and chips keep both in place."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from scipy import ndimage

from geopanoptic.dataset import (
    ChipSet,
    ChipSettings,
    LayerSpec,
    Planes,
    Reading,
    Roots,
    SourceSpec,
    expand,
)
from geopanoptic.dataset import prepare_source as prepare
from geopanoptic.dataset.augment import augment_objects
from geopanoptic.dataset.boxes import paint_boxes, read_yolo
from geopanoptic.dataset.chips import cut_chip
from geopanoptic.dataset.planes import set_of
from geopanoptic.dataset.sources import level_path
from geopanoptic.dataset.targets import STEP_M, ZERO, distance_bytes
from geopanoptic.errors import ConfigError, SceneError, SchemaError
from geopanoptic.schema import LabelSchema

SCHEMA = LabelSchema.default()
EVERYTHING = 127
PLANES = Planes(3, len(SCHEMA))


def prepare_source(
    spec: SourceSpec, schema: LabelSchema, data: Path, labels: Path, cache: Path
) -> Path:
    """Prepare a source and return the path of its array."""
    return prepare(spec, Reading(schema), Roots(data, labels, cache)).path


def write(path: Path, array: np.ndarray) -> None:
    array = array[None] if array.ndim == 2 else array
    profile = {
        "driver": "GTiff", "count": array.shape[0], "height": array.shape[1],
        "width": array.shape[2], "dtype": array.dtype, "crs": "EPSG:32633",
        "transform": rasterio.Affine(0.3, 0, 5e5, 0, -0.3, 5e6),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(array)


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    """Write a scene of 60 x 80: two houses, a wood, a meadow's polygon; return its folder."""
    rgb = np.full((3, 60, 80), 120, np.uint8)
    rgb[:, :, 50:] = np.array([30, 140, 30])[:, None, None]
    write(tmp_path / "image.tif", rgb)
    ids = np.zeros((60, 80), np.int32)
    ids[10:20, 10:20] = 4
    ids[10:20, 20:32] = 9
    ids[40:50, 55:65] = 11  # wholly beneath trees
    write(tmp_path / "ids.tif", ids)
    square = {"type": "Polygon", "coordinates": [[[5, 30], [25, 30], [25, 50], [5, 50], [5, 30]]]}
    void = {"type": "Polygon", "coordinates": [[[0, 0], [8, 0], [8, 8], [0, 8], [0, 0]]]}
    features = [
        {"type": "Feature", "properties": {"classes": ["road", "vehicle"]}, "geometry": square},
        {"type": "Feature", "properties": {"void": True}, "geometry": void},
    ]
    drawn = {"type": "FeatureCollection", "features": features}
    (tmp_path / "drawn.geojson").write_text(json.dumps(drawn))
    return tmp_path


def source(*layers: LayerSpec, **changes: object) -> SourceSpec:
    entries = {"name": "s", "image": "image.tif", "gsd_m": 0.3, "layers": layers,
               "gsd_range_m": (0.2, 0.45)}  # fmt: skip
    return SourceSpec(**(entries | changes))  # type: ignore[arg-type]


LAYERS = (
    LayerSpec("instances", "ids.tif", thing="building", void_green=0.5),
    LayerSpec("greenness", codes={"high": 0.1, "low": 0.02}),
    LayerSpec("polygons", "drawn.geojson"),
)


def test_layers_narrow_the_set_of_each_pixel(scene: Path) -> None:
    path = prepare_source(source(*LAYERS), SCHEMA, scene, scene, scene / "cache")
    sets = np.load(path)[..., 3]
    assert sets[15, 15] == set_of(["building"], SCHEMA)
    assert sets[30, 75] == set_of(["tree", "grass"], SCHEMA)
    assert sets[40, 15] == set_of(["road", "vehicle"], SCHEMA)
    assert sets[55, 40] == EVERYTHING & ~set_of(["building", "tree", "grass"], SCHEMA)
    assert sets[3, 3] == EVERYTHING
    assert sets[45, 60] == EVERYTHING, "a house beneath trees teaches nothing"


def test_a_source_is_prepared_once_and_again_when_it_changes(scene: Path) -> None:
    cache = scene / "cache"
    first = prepare_source(source(*LAYERS), SCHEMA, scene, scene, cache)
    stamp = first.stat().st_mtime_ns
    heavier = source(*LAYERS, weight=9.0)
    assert prepare_source(heavier, SCHEMA, scene, scene, cache) == first
    assert first.stat().st_mtime_ns == stamp
    assert prepare_source(source(*LAYERS[:1]), SCHEMA, scene, scene, cache) != first
    text = (scene / "drawn.geojson").read_text()
    (scene / "drawn.geojson").write_text(text.replace("vehicle", "bare"))
    assert prepare_source(source(*LAYERS), SCHEMA, scene, scene, cache) != first


def test_classes_layers_map_codes_to_sets(scene: Path) -> None:
    codes = np.zeros((60, 80), np.uint8)
    codes[:30], codes[30:] = 3, 7
    write(scene / "codes.tif", codes)
    layer = LayerSpec(
        "classes", "codes.tif", codes={"3": ["water"], "7": ["road", "bare"]}, shrink_px=2
    )
    path = prepare_source(source(layer), SCHEMA, scene, scene, scene / "cache")
    sets = np.load(path)[..., 3]
    assert (sets[:28] == set_of(["water"], SCHEMA)).all()
    assert (sets[28:32] == EVERYTHING).all()
    assert (sets[32:] == set_of(["road", "bare"], SCHEMA)).all()


def test_mistakes_in_sources_are_named(scene: Path) -> None:
    def attempt(layer: LayerSpec, **changes: object) -> None:
        prepare_source(source(layer, **changes), SCHEMA, scene, scene, scene / "cache")

    with pytest.raises(ConfigError, match="no label layer is of kind 'bokses'"):
        attempt(LayerSpec("bokses"))
    with pytest.raises(SceneError, match=r"missing\.tif"):
        attempt(LAYERS[0], image="missing.tif")
    with pytest.raises(SchemaError, match="did you mean 'building'"):
        attempt(LayerSpec("instances", "ids.tif", thing="bulding"))
    with pytest.raises(SceneError, match="has 1 band"):
        attempt(LAYERS[0], image="ids.tif")


def test_a_source_for_each_item_shares_its_weight() -> None:
    spec = source(LayerSpec("instances", "{each}_ids.tif"), name="a_{each}", weight=3.0)
    made = expand(
        SourceSpec(**{f: getattr(spec, f) for f in spec.__slots__} | {"each": ("x", "y")})
    )
    assert [s.name for s in made] == ["a_x", "a_y"]
    assert [s.layers[0].path for s in made] == ["x_ids.tif", "y_ids.tif"]
    assert [s.weight for s in made] == [1.5, 1.5]


def test_distances_are_those_of_brute_force() -> None:
    rng = np.random.default_rng(5)
    ids, _ = ndimage.label(rng.random((40, 50)) > 0.6)
    ids = ids.astype(np.int32)
    gsd_m = 0.25
    signed, second = distance_bytes(ids, gsd_m)
    assert ((signed > ZERO) == (ids > 0)).all()
    each = np.stack([ndimage.distance_transform_edt(ids != i) for i in range(1, ids.max() + 1)])
    each.sort(axis=0)
    expected = np.clip(np.round(each[1] * gsd_m / STEP_M), 0, 255)
    assert (second == expected).all()
    outside = ids == 0
    assert (signed[outside] == np.clip(ZERO - np.round(each[0] * 5), 0, 255)[outside]).all()
    touching = np.zeros(ids.shape, bool)
    for axis in (0, 1):
        a, b = np.moveaxis(ids, axis, 0)[:-1], np.moveaxis(ids, axis, 0)[1:]
        np.moveaxis(touching, axis, 0)[:-1] |= (a > 0) & (b > 0) & (a != b)
    assert (second[touching] <= gsd_m / STEP_M).all()


def test_a_chip_at_scale_one_is_the_source_itself() -> None:
    array = np.random.default_rng(0).integers(0, 256, (50, 60, 8), np.uint8)
    settings = ChipSettings(16, 0, PLANES, augment=False)
    chip = cut_chip([array], np.array([20.0, 30.0]), np.eye(2), settings).numpy()
    expected = array[12:28, 22:38].transpose(2, 0, 1)
    assert np.abs(chip[:3] - expected[:3]).max() < 0.05
    assert (chip[3:] == expected[3:]).all()
    turned = cut_chip([array], np.array([20.0, 30.0]), np.array([[0.0, 1], [1, 0]]), settings)
    assert (turned.numpy()[3:] == expected[3:].transpose(0, 2, 1)).all()


def test_beyond_the_source_labels_are_void() -> None:
    array = np.full((30, 30, 8), 7, np.uint8)
    settings = ChipSettings(64, 0, PLANES, augment=False)
    chip = cut_chip([array], np.array([15.0, 15.0]), np.eye(2), settings).numpy()
    inside = np.zeros((64, 64), bool)
    inside[17:47, 17:47] = True
    assert (chip[3][inside] == 7).all()
    assert (chip[3][~inside] == EVERYTHING).all()
    assert (chip[4][~inside] == 0).all()
    assert (chip[:3] == 7).all()


def test_instances_ground_and_patches_of_it_are_tinted_apart() -> None:
    ids = torch.zeros((80, 80), dtype=torch.int32)
    ids[10:30, 10:30], ids[50:70, 40:75] = 1, 2
    image = torch.full((3, 80, 80), 0.5)
    seen = {"the roof alone": 0, "all the ground": 0, "a patch": 0, "nothing": 0}
    for seed in range(100):
        made = augment_objects(image, ids, np.random.default_rng(seed))
        assert made.shape == image.shape
        assert 0 <= float(made.min()) <= float(made.max()) <= 1
        assert torch.equal(made, augment_objects(image, ids, np.random.default_rng(seed)))
        kept = (made == 0.5).all(dim=0)
        roof, ground = kept[11:29, 11:29], kept[ids == 0]
        seen["the roof alone"] += not roof.any() and bool(ground.float().mean() > 0.9)
        seen["all the ground"] += not ground.any() and bool(roof.all())
        seen["a patch"] += bool(0.5 < ground.float().mean() < 0.95) and bool(roof.all())
        seen["nothing"] += bool(kept.all())
    assert (image == 0.5).all(), "the image given is left as it was"
    assert all(n > 1 for n in seen.values()), seen


def test_chips_depend_on_seed_and_number_alone(scene: Path) -> None:
    spec = source(*LAYERS, gsd_range_m=(0.15, 0.6))
    made = prepare(spec, Reading(SCHEMA), Roots(scene, scene, scene / "cache"))
    assert level_path(made.path, 2).exists()
    sets = [ChipSet([made], ChipSettings(32, seed, PLANES), 10) for seed in (1, 1, 2)]
    for _ in range(3):
        _ = sets[0][_]
    a, b, c = (s[7] for s in sets)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(a[0], c[0])
    assert a[0].shape == (3, 32, 32)
    assert a[0].dtype == torch.uint8
    assert a.sets.shape == (1, 32, 32)
    assert a.signed_px.shape == a.second_px.shape == a.ids.shape == (32, 32)


def test_boxes_become_rounded_cars_at_the_right_angle(tmp_path: Path) -> None:
    image = np.full((80, 80), 100.0)
    y, x = np.mgrid[:80, :80] + 0.5
    along = ((x - 40) + (y - 40)) / np.sqrt(2)
    across = ((x - 40) - (y - 40)) / np.sqrt(2)
    car = (np.abs(along) < 15) & (np.abs(across) < 6)
    image[car] = 200  # runs down to the right
    rows, cols = np.nonzero(car)
    h, w = np.ptp(rows) + 1, np.ptp(cols) + 1
    (tmp_path / "b.txt").write_text(f"0 0.5 0.5 {w / 80} {h / 80}\n")
    boxes = read_yolo(tmp_path / "b.txt", (80, 80))
    for flipped in (False, True):
        picture, truth = (image[:, ::-1], car[:, ::-1]) if flipped else (image, car)
        mask = paint_boxes(boxes, picture) == 1
        assert (mask & truth).sum() / (mask | truth).sum() > 0.7
    (tmp_path / "b.txt").write_text("0 0.5 0.5 0.1\n")
    with pytest.raises(SceneError, match="line 1 has 4 numbers"):
        read_yolo(tmp_path / "b.txt", (80, 80))

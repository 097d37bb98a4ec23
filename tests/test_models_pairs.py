"""`predict --model "A + B"` and a detector alone: who owns a pixel, and pairs that do not fit."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from random_model import random_card, write_random_model
from test_models_systems import masks_card, saved, scene_of

from geopanoptic.cli.main import main
from geopanoptic.errors import CheckpointError
from geopanoptic.models import ModelCard, save_model
from geopanoptic.models.pair import pair_card
from geopanoptic.models.systems.segmenter import MaskSegmenter, build
from geopanoptic.panoptic_map import PanopticMap, check_map
from geopanoptic.schema import ClassSpec, LabelSchema

SCHEMA = LabelSchema.default()
GROUND = SCHEMA.subset([c.name for c in SCHEMA.stuff])
SMALL = {"core": 64, "halo": 8}


def land_card(**changes: object) -> ModelCard:
    entries = {"schema": GROUND, "decoder": "components", "thresholds": {}, **SMALL}
    arguments = {**random_card().arguments, "heads": []}
    return random_card("land", **(entries | {"arguments": arguments} | changes))


def house_card(**changes: object) -> ModelCard:
    return masks_card("mask_rcnn", **(SMALL | changes))


def called(monkeypatch: pytest.MonkeyPatch, *args: object) -> int:
    monkeypatch.setattr(sys, "argv", ["geopanoptic", *map(str, args)])
    with pytest.raises(SystemExit) as leave:
        main()
    return int(leave.value.code or 0)


def test_a_pair_on_the_command_line_is_the_stuff_of_one_and_the_things_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_random_model(tmp_path / "land.safetensors", land_card())
    saved(tmp_path / "houses.safetensors", house_card())
    land, houses = tmp_path / "land.safetensors", tmp_path / "houses.safetensors"
    scene = scene_of(tmp_path / "s.tif", (60, 60))
    maps = {}
    for name, model in (("a", land), ("b", houses), ("pair", f"{land} + {houses}")):
        out = tmp_path / f"{name}.panoptic"
        # torch for all of them: another engine may round a doubtful pixel the other way
        asked = ["--model", model, "--engine", "torch", "--grid", "scene", "--out", out]
        assert called(monkeypatch, "predict", scene, *asked) == 0
        assert check_map(out) == []
        maps[name] = PanopticMap.open(out)
    semantic = {n: m.semantic.to_numpy() for n, m in maps.items()}
    instances = {n: m.instances.to_numpy() for n, m in maps.items()}
    assert (semantic["b"][instances["b"] == 0] == 255).all(), "a detector alone: the rest is void"
    thing = instances["pair"] > 0
    assert thing.any(), "random, but fixed, weights find something"
    assert (thing == (instances["b"] > 0)).all()
    assert (semantic["pair"][thing] == semantic["b"][thing]).all()
    assert (semantic["pair"][~thing] == semantic["a"][~thing]).all()
    assert set(maps["pair"].schema.names) == set(SCHEMA.names)


MISFITS = {
    "name": (
        {"schema": LabelSchema((ClassSpec(1, "water", "thing", "#0000ff"),))},
        "'water' is stuff of 'land' and a thing of",
    ),
    "gsd": ({"gsd_range_m": (5.0, 20.0), "preferred_gsd_m": 10.0}, "no pixel size suits both"),
    "bands": ({"bands": ("nir", "red", "green")}, "cannot work on one scene together: bands"),
    "order": (None, "name the semantic model first"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_a_pair_that_does_not_fit_ends_with_the_reason(
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    changes, said = MISFITS[what]
    land, houses = tmp_path / "land.safetensors", tmp_path / "houses.safetensors"
    for path, card in ((land, land_card()), (houses, house_card(**(changes or {})))):
        save_bare(path, card)
    model = f"{land} + {houses}" if changes else f"{houses} + {land}"
    scene = scene_of(tmp_path / "s.tif", (60, 60))
    out = tmp_path / "m.panoptic"
    assert called(monkeypatch, "predict", scene, "--model", model, "--out", out) == 1
    assert said in capsys.readouterr().err.replace("\n", " ")
    assert not out.exists()


def save_bare(path: Path, card: ModelCard) -> None:
    """Write a model file with a card and no weights: enough for what only cards decide."""
    save_model(path, {"nothing": np.zeros(1, np.float32)}, card)


def test_two_models_have_no_more_classes_than_a_map() -> None:
    many = LabelSchema(tuple(ClassSpec(i, f"c{i}", "stuff", "#000000") for i in range(1, 255)))
    with pytest.raises(CheckpointError, match="at most 254 together"):
        pair_card(land_card(schema=many), house_card())
    few = replace(land_card(schema=LabelSchema(many.classes[:252])))
    assert len(pair_card(few, house_card()).schema) == 254


def test_a_detector_with_a_stuff_class_calls_the_rest_that() -> None:
    rest = LabelSchema((*SCHEMA.things, ClassSpec(9, "other", "stuff", "#888888")))
    torch.manual_seed(0)
    card = house_card(schema=rest)
    model = MaskSegmenter(card, build(card), torch.device("cpu"))
    chips = np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64)).astype(np.uint8)
    (tile,) = model.segment(chips, np.ones((1, 64, 64), bool))
    assert (tile.stuff == 9).all()
    assert tile.instance.max() == len(tile.class_of) - 1
    assert (tile.score[tile.instance == 0] > 0).all()
    with pytest.raises(CheckpointError, match="5 stuff classes, which mask_rcnn cannot tell apart"):
        build(house_card(schema=SCHEMA))
    with pytest.raises(CheckpointError, match="at least one class of things"):
        build(house_card(schema=LabelSchema(GROUND.classes[:1])))

"""Weights of somebody else: exactly these in the model file, and no code of a pickle run."""

from __future__ import annotations

import json
import pickle
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import segmentation_models_pytorch as smp
import torch
from affine import Affine
from click.testing import CliRunner
from safetensors.torch import save_file

from geopanoptic.cli.main import cli
from geopanoptic.errors import CheckpointError, StoreError
from geopanoptic.models import read_card
from geopanoptic.models.convert import convert
from geopanoptic.models.torch_segmenter import load_torch

CARD: dict[str, Any] = {
    "version": "1", "licence": "MIT", "decoder": "components", "thresholds": {},
    "arguments": {"encoder": "resnet18", "decoder": "unet", "decoder_channels": [], "heads": []},
    "classes": [
        {"id": 1, "name": "low", "kind": "stuff", "color": "#55aa55"},
        {"id": 2, "name": "high", "kind": "stuff", "color": "#ffffff"},
        {"id": 3, "name": "wet", "kind": "stuff", "color": "#0000ff"},
    ],
    "bands": ["red", "green", "blue"], "mean": [100.0, 90.0, 80.0], "std": [50.0, 60.0, 70.0],
    "gsd_range_m": [0.5, 2.0], "preferred_gsd_m": 1.0, "core": 128, "halo": 32,
}  # fmt: skip


@pytest.fixture(scope="module")
def unet() -> torch.nn.Module:
    torch.manual_seed(3)
    return smp.Unet("resnet18", encoder_weights=None, classes=3).eval()


def card_in(folder: Path, **changes: Any) -> Path:
    path = folder / "card.yaml"
    path.write_text(json.dumps(CARD | changes))  # JSON is YAML
    return path


def rounded(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """Return the network with its weights rounded to fp16."""
    twin = smp.Unet("resnet18", encoder_weights=None, classes=3).eval()
    half = {k: t.half().float() if t.is_floating_point() else t for k, t in state.items()}
    twin.load_state_dict(half)
    return twin


@pytest.mark.parametrize("form", ["alone", "lightning", "two", "safetensors", "bf16"])
def test_the_model_file_is_the_network_that_the_weights_were_of(
    form: str, unet: torch.nn.Module, tmp_path: Path
) -> None:
    state = unet.state_dict()
    lightning = {f"model.{k}": v for k, v in state.items()} | {"loss.weight": torch.ones(3)}
    weights = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "alone":
        torch.save(state, weights)
    elif form == "lightning":
        torch.save({"state_dict": lightning, "epoch": 7, "optimizer_states": []}, weights)
    elif form == "two":
        other = {k: torch.zeros_like(v) for k, v in state.items()}
        torch.save({"train": {"model": other, "ema": state}, "step": 3}, weights)
    elif form == "safetensors":
        save_file(state, weights)
    else:
        state = {k: v.bfloat16() if v.is_floating_point() else v for k, v in state.items()}
        torch.save(state, weights)
    key = "train.ema" if form == "two" else ""
    out = tmp_path / "unet.safetensors"
    card = convert(weights, card_in(tmp_path), out, key=key)
    assert read_card(str(out)) == card
    x = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        wanted = rounded(state)(x)
        found = load_torch(out).net(x)
    assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


class Trap:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("protocol", ["torch", "bare"])
def test_a_pickle_with_code_is_refused_and_not_run(protocol: str, tmp_path: Path) -> None:
    weights, mark = tmp_path / "w.pt", tmp_path / "ran"
    if protocol == "torch":
        torch.save({"a": torch.ones(2), "b": Trap(mark)}, weights)
    else:
        weights.write_bytes(pickle.dumps({"a": Trap(mark)}))
    with pytest.raises(CheckpointError, match=r"never loaded.*state_dict\(\)"):
        convert(weights, card_in(tmp_path), tmp_path / "out.safetensors")
    assert not mark.exists()
    assert not (tmp_path / "out.safetensors").exists()


def test_what_does_not_fit_is_refused_with_the_first_tensor_and_the_cure(
    unet: torch.nn.Module, tmp_path: Path
) -> None:
    state, weights, out = unet.state_dict(), tmp_path / "w.pt", tmp_path / "out.safetensors"
    torch.save(state, weights)
    two = card_in(tmp_path, classes=CARD["classes"][:2])
    with pytest.raises(CheckpointError, match=r"2 of \d+ tensors differ.*head.*\(3,.*wants \(2,"):
        convert(weights, two, out)
    other = card_in(tmp_path, arguments=CARD["arguments"] | {"decoder": "fpn"})
    with pytest.raises(CheckpointError, match=r"change `arguments`"):
        convert(weights, other, out)
    card = card_in(tmp_path)
    torch.save({"a": state, "b": state}, weights)
    with pytest.raises(CheckpointError, match=r"2 state dicts; name one with --key: a, b"):
        convert(weights, card, out)
    with pytest.raises(CheckpointError, match=r"no state dict 'c'.*it has: a, b"):
        convert(weights, card, out, key="c")
    torch.save({"epoch": 3}, weights)
    with pytest.raises(CheckpointError, match=r"0 state dicts; save one"):
        convert(weights, card, out)
    large = dict(state) | {"encoder.bn1.running_var": state["encoder.bn1.running_var"] + 1e6}
    torch.save(large, weights)
    with pytest.raises(CheckpointError, match=r"'encoder.bn1.running_var'.* above 65504"):
        convert(weights, card, out)
    weights.write_bytes(b"no weights at all")
    with pytest.raises(CheckpointError, match="no file of weights"):
        convert(weights, card, out)
    with pytest.raises(CheckpointError, match="there is no file"):
        convert(tmp_path / "none.pt", card, out)
    with pytest.raises(CheckpointError, match=r"no card .*docs/models\.md"):
        convert(weights, tmp_path / "none.yaml", out)
    assert not out.exists()


def test_converted_on_the_command_line_it_maps_a_scene(
    unet: torch.nn.Module, tmp_path: Path
) -> None:
    weights, out, scene = (tmp_path / n for n in ("w.pt", "unet.safetensors", "scene.tif"))
    torch.save(unet.state_dict(), weights)
    profile = {
        "driver": "GTiff", "count": 3, "height": 90, "width": 120, "dtype": "uint8",
        "crs": "EPSG:32632", "transform": Affine(1.0, 0, 5e5, 0, -1.0, 5e6),
    }  # fmt: skip
    with rasterio.open(scene, "w", **profile) as file:
        file.write(np.random.default_rng(2).integers(0, 255, (3, 90, 120)).astype(np.uint8))
    run = partial(CliRunner().invoke, cli)
    words = ["models", "convert", str(weights), "--card", str(card_in(tmp_path)), "--out", str(out)]
    done = run(words)
    assert done.exit_code == 0, done.output
    assert "w 1, 3 classes" in done.output
    made = tmp_path / "out.panoptic"
    done = run(["predict", str(scene), "--model", str(out), "--out", str(made)])
    assert done.exit_code == 0, done.output
    with rasterio.open(made / "semantic.tif") as file:
        assert set(np.unique(file.read(1)).tolist()) <= {1, 2, 3}
    assert isinstance(run(words).exception, StoreError)  # it exists
    assert run([*words, "--overwrite"]).exit_code == 0

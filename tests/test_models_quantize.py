"""Other forms of a model: one ONNX file with its card, and an 8-bit twin."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from random_model import random_card, write_random_model

from geopanoptic.cli.models import models
from geopanoptic.errors import StoreError
from geopanoptic.models import load_model, read_card
from geopanoptic.models.engines import lacking

pytestmark = pytest.mark.skipif(bool(lacking("onnxruntime")), reason=str(lacking("onnxruntime")))


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOPANOPTIC_CACHE", str(tmp_path_factory.getbasetemp() / "graphs"))


def test_a_model_is_exported_and_quantised_from_the_command_line(tmp_path: Path) -> None:
    import rasterio
    from affine import Affine

    model, out, twin = (tmp_path / n for n in ("m.safetensors", "m.onnx", "twin.onnx"))
    write_random_model(model)
    runner = CliRunner()
    done = runner.invoke(models, ["export", str(model), "--out", str(out)], catch_exceptions=False)
    assert done.exit_code == 0
    with pytest.raises(StoreError, match="--overwrite"):
        runner.invoke(models, ["export", str(model), "--out", str(out)], catch_exceptions=False)
    chips = np.random.default_rng(0).integers(0, 256, (1, 3, 96, 70)).astype(np.uint8)
    wanted = load_model(model, threads=1).forward(chips)
    got = load_model(out, threads=1, engine="onnxruntime").forward(chips)
    assert all(np.abs(got[name] - wanted[name]).max() < 1e-4 for name in wanted)

    pixels = np.random.default_rng(1).integers(0, 256, (3, 160, 420)).astype(np.uint8)
    with rasterio.open(
        tmp_path / "s.tif", "w", driver="GTiff", width=420, height=160, count=3, dtype="uint8",
        crs="EPSG:32631", transform=Affine(0.3, 0, 500000, 0, -0.3, 5000000),
    ) as scene:  # fmt: skip
        scene.write(pixels)
    done = runner.invoke(
        models,
        ["quantize", str(model), f"{tmp_path}/s.tif", "--out", str(twin), "--chips=4", "--json"],
        catch_exceptions=False,
    )  # fmt: skip
    told = json.loads(done.stdout)
    assert told["chips"] == 2
    assert told["class_agreement"] > 0.8
    card = read_card(twin)
    assert card.name == "random-int8"
    assert card.metrics[-1]["things_pq"] == round(told["things_pq"], 4)
    assert twin.stat().st_size < 0.4 * out.stat().st_size
    small = load_model(twin, threads=1, engine="onnxruntime").forward(chips)
    assert np.abs(small["semantic"] - wanted["semantic"]).mean() < 0.05
    assert random_card().schema == card.schema

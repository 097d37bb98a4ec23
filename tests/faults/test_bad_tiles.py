"""A network that answers NaN, a scene with a damaged block: those tiles fail, no other does.

The command ends with 5 and the list, their pixels are nodata, and all else is what an undisturbed
run says; when the cause is gone, the same command tries just these tiles again and makes the bytes
of an undisturbed run.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from random_model import random_card, write_random_model
from rasters import noise, write_raster

from geopanoptic.cli.main import main
from geopanoptic.grid import Tiling
from geopanoptic.panoptic_map import PanopticMap, check_map

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

CORE, HALO, SIDE = 64, 16, 192
POISON = (255, 0, 255)
Geopanoptic = Callable[..., tuple[int, str, str]]


@pytest.fixture
def geopanoptic(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Geopanoptic:
    """Run a command line in this process; return its status and what it says."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["geopanoptic", *map(str, words)])
        with pytest.raises(SystemExit) as leave:
            main()
        said = capsys.readouterr()
        return int(leave.value.code or 0), said.out, said.err

    return call


def bytes_of(folder: Path) -> list[bytes]:
    names = ("semantic.tif", "instances.tif", "segments.parquet")
    return [(folder / name).read_bytes() for name in names]


def classes_of(folder: Path) -> np.ndarray:
    with rasterio.open(folder / "semantic.tif") as raster:
        semantic: np.ndarray = raster.read(1)
    return semantic


def test_a_network_that_answers_nan_fails_those_tiles_alone_and_they_can_be_mended(
    geopanoptic: Geopanoptic, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from geopanoptic.models.torch_segmenter import TorchSegmenter

    pixels = noise(3, SIDE, SIDE)
    pixels[:, 100, 90] = POISON
    scene = write_raster(tmp_path / "scene.tif", pixels)
    model = tmp_path / "m.safetensors"
    write_random_model(model, random_card(core=CORE, halo=HALO))
    out, whole = tmp_path / "town.panoptic", tmp_path / "whole.panoptic"
    words = ["predict", scene, "--model", model, "--device", "cpu", "--engine", "torch", "--json"]
    status, _, said = geopanoptic(*words, "--out", whole)
    assert status == 0, said

    real = TorchSegmenter.forward

    def poisoned(self: TorchSegmenter, chips: np.ndarray) -> Any:
        fields = real(self, chips)
        hit = (chips == np.array(POISON)[None, :, None, None]).all(axis=1)
        for n, row, col in np.argwhere(hit).tolist():
            fields["semantic"][n, :, row, col] = np.nan
        return fields

    with monkeypatch.context() as patch:
        patch.setattr(TorchSegmenter, "forward", poisoned)
        status, answer, said = geopanoptic(*words, "--out", out, "--work-dir", tmp_path / "w")
    assert status == 5, said
    failed = {int(tile) for tile in json.loads(answer)["failed_tiles"]}
    origin = PanopticMap.open(out).info.run["grid"]["origin"]
    grid = Tiling(CORE, HALO, tuple(origin)).grid((SIDE, SIDE))
    held = [tile for tile in grid if tile.window.row <= 100 < tile.window.row_stop
            and tile.window.col <= 90 < tile.window.col_stop]  # fmt: skip
    assert failed == {tile.index for tile in held}
    assert len(failed) < len(grid)
    assert f"{len(failed)} tiles failed" in said
    assert "NaN or infinity on 1 of" in said
    assert check_map(out) == []
    assert PanopticMap.open(out).info.run["failed_tiles"].keys() == {str(tile) for tile in failed}
    classes, undisturbed = classes_of(out), classes_of(whole)
    for tile in grid:
        assert (classes[tile.core.slices] == 0).all() == (tile.index in failed)
    far = [tile.core.slices for tile in grid if not set(grid.neighbours(tile.index)) & failed
           and tile.index not in failed]  # fmt: skip
    assert all(np.array_equal(classes[core], undisturbed[core]) for core in far)
    # mended: only the regions of failed tiles are done again
    words += ["--out", out, "--work-dir", tmp_path / "w", "--overwrite"]
    status, answer, said = geopanoptic(*words)
    assert status == 0, said
    assert json.loads(answer)["failed_tiles"] == {}
    assert 0 < json.loads(answer)["counts"]["tiles_run"] < len(grid)
    assert bytes_of(out) == bytes_of(whole)


def test_a_damaged_block_gives_the_same_map_whoever_reads_it(
    geopanoptic: Geopanoptic, tmp_path: Path
) -> None:
    """Here and in worker processes: the same tiles fail, the same bytes are written."""
    scene, model = tmp_path / "scene.tif", tmp_path / "m.safetensors"
    profile = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    write_raster(scene, noise(3, 256, 256), **profile)
    with rasterio.open(scene) as raster:
        offset = int(raster.get_tag_item("BLOCK_OFFSET_1_2", "TIFF", bidx=1))
    data = bytearray(scene.read_bytes())
    data[offset : offset + 500] = bytes(500)
    scene.write_bytes(data)
    write_random_model(model, random_card(core=CORE, halo=HALO))
    made = {}
    for workers in (0, 2):
        out = tmp_path / f"{workers}.panoptic"
        words = ["predict", scene, "--model", model, "--device", "cpu", "--workers", workers]
        status, answer, said = geopanoptic(*words, "--out", out, "--json")
        assert status == 5, said
        made[workers] = json.loads(answer)["failed_tiles"], bytes_of(out)
        assert (classes_of(out)[128:192, 64:128] == 0).all()
        assert (classes_of(out)[:64, 128:] > 0).all()
    assert made[0] == made[2]
    assert 0 < len(made[0][0]) <= 9

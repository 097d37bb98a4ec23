"""The main job from file to file: what an exact model knows is what the map says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from geopanoptic.grid import Tiling
from geopanoptic.metrics import PanopticCount, quality_of
from geopanoptic.panoptic_map import PanopticMap, check_map
from geopanoptic.predict import Execution, PredictSettings, Products, predict, run
from pixel_oracle import PixelOracle, oracle_card, semantic_of, spell
from scenes import PAINTERS, make_truth
from stitching import same_partition

pytestmark = pytest.mark.filterwarnings("error")


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as raster:
        return raster.read(1)



KINDS = tuple(PAINTERS)


def mapped(tmp_path: Path, truth, model=None, **settings) -> PanopticMap:
    scene = spell(truth, tmp_path / "scene.tif")
    out = tmp_path / "scene.panoptic"
    return predict(scene, model or PixelOracle(), out, settings=PredictSettings(**settings))


@pytest.mark.parametrize("kind", KINDS)
def test_an_exact_model_gives_the_truth_whatever_the_tiles(kind: str, tmp_path: Path) -> None:
    truth = make_truth(kind, (150, 170), seed=3, nodata=True)
    panoptic = mapped(tmp_path, truth, core=40, halo=3)
    ids = read(panoptic.folder / "instances.tif")
    assert same_partition(ids, truth.instance)
    assert np.array_equal(read(panoptic.folder / "semantic.tif"), semantic_of(truth))
    assert sorted(np.unique(ids[ids > 0])) == list(range(1, truth.n + 1))
    assert check_map(panoptic.folder) == []

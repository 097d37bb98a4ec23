"""The main job from file to file: what an exact model knows is what the map says."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from pixel_oracle import GSD_M, SPELLED, PixelOracle, semantic_of, spell
from scenes import PAINTERS, TREE, Truth, make_truth
from stitching import same_partition

from geopanoptic.errors import SceneError, StoreError, TileError
from geopanoptic.grid import Tiling
from geopanoptic.panoptic_map import PanopticMap, check_map
from geopanoptic.predict import (
    Execution,
    PredictSettings,
    Products,
    predict,
    predict_array,
    run,
)
from geopanoptic.store import PartStore
from geopanoptic.workers import EngineSpec


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


def test_one_tile_and_many_give_the_same_bytes_of_polygons_and_ids_up_to_names(
    tmp_path: Path,
) -> None:
    truth = make_truth("halls", (200, 180), seed=1)
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    one = mapped(tmp_path / "one", truth, core=256, halo=8)
    many = mapped(tmp_path / "many", truth, core=32, halo=1)
    assert same_partition(read(one.folder / "instances.tif"), read(many.folder / "instances.tif"))
    assert np.array_equal(read(one.folder / "semantic.tif"), read(many.folder / "semantic.tif"))
    outlines = [sorted(m.things().geometry.to_wkb()) for m in (one, many)]
    assert outlines[0] == outlines[1]
    assert many.info.counts["joins"] > 0
    assert many.info.counts["agreement"] == 1.0


def hashes(folder: Path) -> dict[str, str]:
    names = ("semantic.tif", "instances.tif", "segments.parquet")
    return {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}


def test_worker_processes_make_the_same_bytes_as_this_process(tmp_path: Path) -> None:
    truth = make_truth("row houses", (150, 170), seed=5, nodata=True)
    scene = spell(truth, tmp_path / "scene.tif")
    settings = PredictSettings(core=40, halo=3)
    made = {}
    for workers in (0, 2):
        out = tmp_path / f"{workers}.panoptic"
        execution = Execution(engine=EngineSpec(workers=workers))
        run(str(scene), PixelOracle(), Products.to([out]), settings, execution)
        made[workers] = hashes(out)
    assert made[0] == made[2]


@dataclass(frozen=True)
class Counted(PixelOracle):
    """Marks every tile it decodes in a file."""

    counter: Path = Path()

    def decode(self, fields: Any, valid: Any) -> Any:
        with self.counter.open("a") as count:
            count.write(".")
        return super().decode(fields, valid)


def interrupt_after(reports: int) -> Any:
    """A progress callback that is the user's Ctrl-C."""
    left = [reports]

    def progress(stage: str, done: int, total: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("reports", [3, 20, 45, 70])
def test_an_interrupted_run_goes_on_and_makes_the_same_bytes(reports: int, tmp_path: Path) -> None:
    truth = make_truth("row houses", (150, 170), seed=6)
    scene = spell(truth, tmp_path / "scene.tif")
    settings = PredictSettings(core=40, halo=3)
    out, counter = tmp_path / "out.panoptic", tmp_path / "count"
    run(str(scene), PixelOracle(), Products.to([out]), settings, Execution())
    reference = hashes(out)
    shutil.rmtree(out)
    model = Counted(counter=counter)
    stopped = Execution(progress=interrupt_after(reports))
    with pytest.raises(KeyboardInterrupt):
        run(str(scene), model, Products.to([out]), settings, stopped)
    assert not out.exists()
    assert (tmp_path / "out.panoptic.gpjob").is_dir()
    before = counter.stat().st_size
    run(str(scene), model, Products.to([out]), settings, Execution())
    origin = PanopticMap.open(out).info.run["grid"]["origin"]
    total = len(Tiling(40, 3, tuple(origin)).grid(truth.shape))
    assert before > 0
    assert counter.stat().st_size == total, "a finished tile was done twice"
    assert hashes(out) == reference
    assert not (tmp_path / "out.panoptic.gpjob").exists()


@dataclass(frozen=True)
class Stubborn(PixelOracle):
    """Fails on every window that holds this id."""

    poison: int = 7

    def decode(self, fields: Any, valid: Any) -> Any:
        if (fields["pixels"][0] + 256 * fields["pixels"][1] == self.poison).any():
            raise TileError(0, "", "the network answered with NaN")
        return super().decode(fields, valid)


def test_a_failed_tile_is_reported_and_its_pixels_are_nodata(tmp_path: Path) -> None:
    truth = make_truth("blobs", (128, 128), seed=2)
    scene = spell(truth, tmp_path / "scene.tif")
    settings = PredictSettings(core=32, halo=2)
    out = tmp_path / "out.panoptic"
    products = Products.to([out])
    outcome = run(str(scene), Stubborn(), products, settings, Execution(work_dir=tmp_path / "w"))
    grid = PanopticMap.open(out).info.run["grid"]
    tiles = Tiling(32, 2, tuple(grid["origin"])).grid(truth.shape)
    failed = {t.index for t in tiles if (truth.instance[t.window.slices] == 7).any()}
    assert failed
    assert set(outcome.failed_tiles) == failed
    assert all("NaN" in why for why in outcome.failed_tiles.values())
    semantic = read(out / "semantic.tif")
    for tile in tiles:
        assert (semantic[tile.core.slices] == 0).all() == (tile.index in failed)
    assert check_map(out) == []
    # the next run tries exactly these again, and heals the map
    mended = Products.to([out], overwrite=True)
    outcome = run(str(scene), PixelOracle(), mended, settings, Execution(work_dir=tmp_path / "w"))
    assert not outcome.failed_tiles
    assert same_partition(read(out / "instances.tif"), truth.instance)


@pytest.mark.parametrize("calls", [0, 3, 40])
def test_forgetting_failed_tiles_may_be_cut_short(
    calls: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = make_truth("blobs", (128, 128), seed=2)
    scene = str(spell(truth, tmp_path / "scene.tif"))
    settings, out = PredictSettings(core=32, halo=2), tmp_path / "out.panoptic"
    products = Products.to([out], overwrite=True)
    execution = Execution(work_dir=tmp_path / "w")
    assert run(scene, Stubborn(), products, settings, execution).failed_tiles
    left, discard = [calls], PartStore.discard

    def cut_short(store: PartStore, key: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        discard(store, key)

    with monkeypatch.context() as patch:
        patch.setattr(PartStore, "discard", cut_short)
        with pytest.raises(KeyboardInterrupt):
            run(scene, PixelOracle(), products, settings, execution)
    assert not run(scene, PixelOracle(), products, settings, execution).failed_tiles
    assert same_partition(read(out / "instances.tif"), truth.instance)
    assert np.array_equal(read(out / "semantic.tif"), semantic_of(truth))


def test_a_scene_without_a_reference_system_is_mapped_in_pixels(tmp_path: Path) -> None:
    truth = make_truth("blobs", (90, 100), seed=2)
    scene = spell(truth, tmp_path / "scene.tif", crs=None)
    panoptic = predict(scene, PixelOracle(), tmp_path / "out.panoptic")
    assert same_partition(read(panoptic.folder / "instances.tif"), truth.instance)
    things = panoptic.things()
    assert things.crs is None
    assert things.area_m2.isna().all()
    assert things.geometry.area.sum() == (truth.instance > 0).sum()
    with pytest.raises(SceneError, match="--min-area"):
        predict(scene, PixelOracle(), settings=PredictSettings(min_area_m2=3.0))


def test_small_things_return_to_the_stuff_beneath(tmp_path: Path) -> None:
    truth = make_truth("specks", (90, 100), seed=2)
    least_px = 4
    panoptic = mapped(tmp_path, truth, core=40, halo=3, min_area_m2=least_px * GSD_M**2)
    area = np.bincount(truth.instance.ravel())
    keep = area >= least_px
    keep[0] = False
    ids = read(panoptic.folder / "instances.tif")
    assert same_partition(ids, np.where(keep[truth.instance], truth.instance, 0))
    dropped = (truth.instance > 0) & ~keep[truth.instance]
    assert dropped.any()
    assert (read(panoptic.folder / "semantic.tif")[dropped] == TREE).all()


def test_mask_and_area_of_interest_make_nodata(tmp_path: Path) -> None:
    truth = make_truth("blobs", (96, 96), seed=4)
    scene = spell(truth, tmp_path / "scene.tif")
    with rasterio.open(scene) as raster:
        profile = raster.profile | {"count": 1, "nodata": None}
    profile.pop("photometric", None)
    mask = np.ones(truth.shape, np.uint8)
    mask[:20] = 0
    with rasterio.open(tmp_path / "mask.tif", "w", **profile) as raster:
        raster.write(mask, 1)
    x, y = SPELLED @ (10.0, 0.0)
    area = shapely.box(x, y - 96 * GSD_M, x + 50 * GSD_M, y)
    frame = geopandas.GeoDataFrame(geometry=[area], crs=32633).to_crs(4326)
    frame.to_file(tmp_path / "aoi.geojson")
    settings = PredictSettings(mask=str(tmp_path / "mask.tif"), aoi=str(tmp_path / "aoi.geojson"))
    panoptic = predict(scene, PixelOracle(), tmp_path / "out.panoptic", settings=settings)
    inside = np.zeros(truth.shape, bool)
    inside[20:, 10:60] = True
    semantic = read(panoptic.folder / "semantic.tif")
    assert np.array_equal(semantic, np.where(inside, semantic_of(truth), 0))


def test_a_finer_scene_is_read_at_the_models_gsd_and_can_come_back_to_its_own_grid(
    tmp_path: Path,
) -> None:
    truth = make_truth("parcels", (60, 70), seed=4)
    fine = Truth(
        np.kron(truth.instance, np.ones((4, 4), np.int32)), truth.class_of,
        np.kron(truth.stuff, np.ones((4, 4), np.uint8)),
    )  # fmt: skip
    transform = Affine(GSD_M / 4, 0, 512_000, 0, -GSD_M / 4, 5_120_000)
    scene = spell(fine, tmp_path / "scene.tif", transform=transform)
    working = predict(scene, PixelOracle(), tmp_path / "working.panoptic")
    assert working.georef.shape == truth.shape
    assert same_partition(read(working.folder / "instances.tif"), truth.instance)
    settings = PredictSettings(grid="scene")
    own = predict(scene, PixelOracle(), tmp_path / "own.panoptic", settings=settings)
    with rasterio.open(scene) as raster, rasterio.open(own.folder / "semantic.tif") as semantic:
        assert semantic.transform == raster.transform
    assert same_partition(read(own.folder / "instances.tif"), fine.instance)
    assert check_map(own.folder) == []


def test_arrays_in_memory_are_mapped_too() -> None:
    truth = make_truth("blobs", (60, 70), seed=4)
    pixels = np.stack([truth.instance % 256, truth.instance // 256, semantic_of(truth)])
    dataset = predict_array(pixels.astype(np.uint8), PixelOracle())
    assert same_partition(dataset.instances.values, truth.instance)
    assert np.array_equal(dataset.semantic.values, semantic_of(truth))
    assert (dataset.attrs["segments"].kind == "thing").sum() == truth.n
    with pytest.raises(SceneError, match=r"\(band, row, col\)"):
        predict_array(pixels[0], PixelOracle())


def test_every_product_is_written_and_none_is_overwritten_unasked(tmp_path: Path) -> None:
    truth = make_truth("blobs", (60, 70), seed=4)
    scene = spell(truth, tmp_path / "scene.tif")
    names = ["a.gpkg", "a.parquet", "a.fgb", "a.geojson", "a.tif", "a.png", "a.panoptic"]
    products = Products.to([tmp_path / n for n in names], classes=("building",))
    outcome = run(str(scene), PixelOracle(), products, PredictSettings(), Execution())
    assert [p.name for p in outcome.paths] == names
    assert all(p.exists() for p in outcome.paths)
    assert (tmp_path / "a.instances.tif").exists()
    buildings = int((truth.class_of == 1).sum())
    for name in names[:1] + names[2:4]:
        frame = geopandas.read_file(tmp_path / name, layer="things" if "gpkg" in name else None)
        assert len(frame) == buildings, name
        assert set(frame.class_name) == {"building"}
    assert len(geopandas.read_parquet(tmp_path / "a.parquet")) == buildings
    assert not list(tmp_path.glob("*.gpjob"))
    assert not list(tmp_path.glob(".*"))
    everything = Products.to([tmp_path / "b.fgb", tmp_path / "b.panoptic"])
    run(str(scene), PixelOracle(), everything, PredictSettings(), Execution())
    assert len(geopandas.read_file(tmp_path / "b.fgb")) == truth.n
    assert set(geopandas.read_file(tmp_path / "b.stuff.fgb").class_name) == {"tree", "road"}
    assert (tmp_path / "b.panoptic" / "b.qgz").exists()
    before = (tmp_path / "a.gpkg").read_bytes()
    with pytest.raises(StoreError, match="--overwrite"):
        run(str(scene), PixelOracle(), products, PredictSettings(), Execution())
    assert (tmp_path / "a.gpkg").read_bytes() == before

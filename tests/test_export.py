"""A map in other formats is the same map."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from pixel_oracle import PixelOracle, semantic_of, spell
from scenes import Truth, make_truth
from stitching import same_partition

from geopanoptic.errors import ConfigError, SceneError, StoreError
from geopanoptic.export import ExportSettings, export
from geopanoptic.grid import Window
from geopanoptic.metrics import ClassCode, PanopticCount, Sides, quality_of
from geopanoptic.panoptic_map import PanopticMap, open_maps
from geopanoptic.predict import predict


@pytest.fixture(scope="module")
def mapped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Truth, PanopticMap]:
    folder = tmp_path_factory.mktemp("map")
    truth = make_truth("blobs", (90, 110), seed=2, nodata=True)
    scene = spell(truth, folder / "scene.tif")
    return truth, predict(scene, PixelOracle(), folder / "scene.panoptic")


def test_coco_holds_the_same_segments(mapped: tuple[Truth, PanopticMap], tmp_path: Path) -> None:
    truth, panoptic = mapped
    out = export(panoptic.folder, tmp_path / "coco.json")
    again = PanopticMap.open(out)
    whole = Window.whole(truth.shape)
    classes, ids = again.read(whole)
    semantic = semantic_of(truth)
    void = np.uint8(255)  # COCO knows no nodata
    assert np.array_equal(classes, np.where(semantic == 0, void, semantic))
    assert same_partition(np.where(truth.instance > 0, ids, 0), truth.instance)
    code = ClassCode.plain(7, [1, 2])
    count = PanopticCount.of(panoptic.read(whole), (classes, ids), Sides(code, code, 7))
    assert quality_of(count, 7, [1, 2]).all.pq == 1
    rows = json.loads(out.read_text())["annotations"][0]["segments_info"]
    assert sum(row["area"] for row in rows) == (semantic > 0).sum()
    for row in rows[:20]:
        x, y, width, height = row["bbox"]
        there = np.argwhere(ids == row["id"])
        assert [y, x] == there.min(axis=0).tolist()
        assert [y + height, x + width] == (there.max(axis=0) + 1).tolist()


def test_coco_images_of_one_size_cover_the_map(
    mapped: tuple[Truth, PanopticMap], tmp_path: Path
) -> None:
    truth, panoptic = mapped
    out = export(panoptic.folder, tmp_path / "coco.json", ExportSettings(tile=64))
    images = open_maps(out)
    assert len(images) == 4
    names = sorted(p.name for p in (tmp_path / "coco").iterdir())
    assert names == [f"coco_{r}_{c}.png" for r in (0, 64) for c in (0, 64)]
    corner = images[3].read(Window(0, 0, 26, 46))[0]
    assert np.array_equal(corner, semantic_of(truth)[64:, 64:])
    with pytest.raises(StoreError, match="exists"):
        export(panoptic.folder, tmp_path / "coco.json")


def test_packed_ids_give_class_and_instance_back(
    mapped: tuple[Truth, PanopticMap], tmp_path: Path
) -> None:
    truth, panoptic = mapped
    out = export(panoptic.folder, tmp_path / "ids.tif", ExportSettings(divisor=10_000))
    with rasterio.open(out) as raster:
        packed = raster.read(1)
    assert np.array_equal(np.where(packed >= 10_000, packed // 10_000, packed), semantic_of(truth))
    assert same_partition(np.where(packed >= 10_000, packed, 0), truth.instance)


def test_more_instances_than_the_divisor_tells_apart_are_refused(
    mapped: tuple[Truth, PanopticMap], tmp_path: Path
) -> None:
    _, panoptic = mapped
    with pytest.raises(SceneError, match=r"--divisor \d+"):
        export(panoptic.folder, tmp_path / "ids.tif", ExportSettings(divisor=3))
    assert not list(tmp_path.iterdir())


def test_polygons_of_some_classes(mapped: tuple[Truth, PanopticMap], tmp_path: Path) -> None:
    truth, panoptic = mapped
    settings = ExportSettings(classes=("vehicle",))
    out = export(panoptic.folder, tmp_path / "v.parquet", settings)
    frame = geopandas.read_parquet(out)
    assert len(frame) == (truth.class_of == 2).sum()
    assert frame.pixel_count.sum() == (semantic_of(truth) == 2).sum()
    with pytest.raises(ConfigError, match=r"\.gpkg"):
        export(panoptic.folder, tmp_path / "v.shp")


def test_the_command_says_what_it_wrote(
    mapped: tuple[Truth, PanopticMap],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from geopanoptic.cli.main import main

    out = tmp_path / "a.geojson"
    args = ["geopanoptic", "export", str(mapped[1].folder), "--out", str(out)]
    monkeypatch.setattr(sys, "argv", args)
    with pytest.raises(SystemExit) as leave:
        main()
    assert leave.value.code == 0
    assert f"Wrote {out}" in capsys.readouterr().out
    assert out.exists()

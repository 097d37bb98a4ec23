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
from geopanoptic.export import ExportSettings, MapOpening, export
from geopanoptic.grid import Window
from geopanoptic.metrics import ClassCode, PanopticCount, Sides, quality_of
from geopanoptic.panoptic_map import PanopticMap, check_map, open_maps
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


# --- the way in: any form of a map becomes a map directory ---------------------------------------


def same_map(a: PanopticMap, b: PanopticMap, nodata_is_void: bool = False) -> None:
    whole = Window.whole(a.georef.shape)
    (classes_a, ids_a), (classes_b, ids_b) = a.read(whole), b.read(whole)
    if nodata_is_void:
        classes_a = np.where(classes_a == 0, np.uint8(255), classes_a)
    np.testing.assert_array_equal(classes_a, classes_b)
    assert same_partition(ids_a, ids_b)


def test_coco_comes_back_as_the_same_map_on_the_ground(
    mapped: tuple[Truth, PanopticMap], tmp_path: Path
) -> None:
    _, panoptic = mapped
    coco = export(panoptic.folder, tmp_path / "coco.json")
    scene = panoptic.folder.parent / "scene.tif"
    settings = ExportSettings(opening=MapOpening(like=str(scene)))
    again = PanopticMap.open(export(coco, tmp_path / "again.panoptic", settings))
    assert check_map(again.folder) == []
    assert again.georef == panoptic.georef
    assert again.schema == panoptic.schema
    same_map(panoptic, again, nodata_is_void=True)
    names = {p.name for p in again.folder.iterdir()}
    assert {"item.json", "report.html", "again.qgz", "panoptic.gpkg"} <= names
    assert not [n for n in names if "tiled" in n]


def test_cityscapes_ids_come_back_as_the_same_map(
    mapped: tuple[Truth, PanopticMap], tmp_path: Path
) -> None:
    _, panoptic = mapped
    packed = export(panoptic.folder, tmp_path / "ids.tif")
    opening = MapOpening(ids=1000, schema_of=str(panoptic.folder))
    out = export(packed, tmp_path / "ids.panoptic", ExportSettings(opening=opening))
    again = PanopticMap.open(out)
    assert check_map(out) == []
    assert again.georef == panoptic.georef
    same_map(panoptic, again)
    # without names the classes are numbered, and those with instances are things
    bare = export(packed, tmp_path / "bare.panoptic", ExportSettings(opening=MapOpening(ids=1000)))
    assert {c.name for c in PanopticMap.open(bare).schema.things} <= {"class_1", "class_2"}
    with pytest.raises(SceneError, match="divisor"):
        export(packed, tmp_path / "w.panoptic", ExportSettings(opening=MapOpening(ids=3)))


def test_a_map_directory_copies_to_itself(
    mapped: tuple[Truth, PanopticMap], tmp_path: Path
) -> None:
    _, panoptic = mapped
    out = export(panoptic.folder, tmp_path / "copy.panoptic")
    again = PanopticMap.open(out)
    assert check_map(out) == []
    a, b = (m.segments.set_index("id").sort_index() for m in (panoptic, again))
    assert a["score"].equals(b["score"])
    assert a["seam_agreement"].equals(b["seam_agreement"])
    whole = Window.whole(panoptic.georef.shape)
    np.testing.assert_array_equal(panoptic.read(whole)[1], again.read(whole)[1])


def test_a_crowd_becomes_void_and_is_counted(tmp_path: Path) -> None:
    ids = np.zeros((20, 20), np.uint8)
    ids[:10], ids[10:15], ids[15:, :5] = 7, 9, 4
    (tmp_path / "c").mkdir()
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(
        tmp_path / "c" / "1.png", "w", driver="PNG", count=3, height=20, width=20, dtype="uint8"
    ) as png:  # fmt: skip
        png.write(np.stack([ids, ids * 0, ids * 0]))
    rows = [
        {"id": 7, "category_id": 5, "iscrowd": 0},
        {"id": 9, "category_id": 1, "iscrowd": 1},
        {"id": 4, "category_id": 1, "iscrowd": 0, "score": 0.75},
    ]
    data = {
        "images": [{"id": 1, "height": 20, "width": 20}],
        "annotations": [{"image_id": 1, "file_name": "1.png", "segments_info": rows}],
        "categories": [
            {"id": 1, "name": "car", "isthing": 1},
            {"id": 5, "name": "road", "isthing": 0},
        ],
    }
    (tmp_path / "c.json").write_text(json.dumps(data))
    out = export(tmp_path / "c.json", tmp_path / "c.panoptic")
    again = PanopticMap.open(out)
    assert check_map(out) == []
    classes, found = again.read(Window.whole((20, 20)))
    assert (classes[10:15] == 255).all()
    assert (found == (ids == 4)).all()
    assert again.info.counts["px_of_things_without_object"] == 100
    assert again.segments.query("class_name == 'car'")["score"].tolist() == [0.75]
    assert again.georef.crs is None


def test_one_image_of_several_is_chosen_by_name(
    mapped: tuple[Truth, PanopticMap], tmp_path: Path
) -> None:
    _, panoptic = mapped
    coco = export(panoptic.folder, tmp_path / "coco.json", ExportSettings(tile=64))
    with pytest.raises(SceneError, match="--image: 1, 2, 3, 4"):
        export(coco, tmp_path / "x.panoptic")
    with pytest.raises(ConfigError, match="has no image '9'"):
        export(coco, tmp_path / "x.panoptic", ExportSettings(opening=MapOpening(image="9")))
    out = export(coco, tmp_path / "x.panoptic", ExportSettings(opening=MapOpening(image="2")))
    whole = panoptic.read(Window(0, 64, 64, 46))[0]
    again = PanopticMap.open(out).read(Window(0, 0, 64, 46))[0]
    np.testing.assert_array_equal(np.where(whole == 0, 255, whole), again)
    scene = str(panoptic.folder.parent / "scene.tif")
    opening = MapOpening(image="2", like=scene)
    with pytest.raises(SceneError, match="pixels but"):
        export(coco, tmp_path / "y.panoptic", ExportSettings(opening=opening))


def test_polygons_become_a_map_on_the_grid_of_a_raster(
    mapped: tuple[Truth, PanopticMap], tmp_path: Path
) -> None:
    _, panoptic = mapped
    polygons = export(panoptic.folder, tmp_path / "p.gpkg")
    scene = str(panoptic.folder.parent / "scene.tif")
    with pytest.raises(SceneError, match="grid"):
        export(polygons, tmp_path / "p.panoptic")
    out = export(polygons, tmp_path / "p.panoptic", ExportSettings(opening=MapOpening(like=scene)))
    assert check_map(out) == []
    whole = Window.whole(panoptic.georef.shape)
    assert same_partition(panoptic.read(whole)[1], PanopticMap.open(out).read(whole)[1])

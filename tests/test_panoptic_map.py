"""PanopticMap: every kind of MAP opens, blocks agree with the whole, broken promises are named."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image

from geopanoptic.errors import SceneError, StoreError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.panoptic_map import (
    FieldChoice,
    MapInfo,
    PanopticMap,
    check_map,
    grid_difference,
    load_segments,
    open_maps,
    save_segments,
    write_map_json,
)
from geopanoptic.schema import LabelSchema

UTM = rasterio.crs.CRS.from_epsg(32645).to_wkt()
SHAPE = (90, 120)
GEOREF = GeoRef(UTM, Affine(0.5, 0, 400_000.0, 0, -0.5, 3_000_000.0), SHAPE)


def arrays() -> tuple[np.ndarray, np.ndarray]:
    """Grass with a nodata corner, a void stripe, two abutting buildings and a vehicle."""
    classes = np.full(SHAPE, 4, np.uint8)
    ids = np.zeros(SHAPE, np.int32)
    classes[:20, :30] = 0
    classes[80:82] = 255
    for k, (cls, rows, cols) in enumerate(
        [(1, (30, 50), (40, 60)), (1, (30, 50), (60, 75)), (2, (60, 64), (110, 120))], 1
    ):
        classes[slice(*rows), slice(*cols)] = cls
        ids[slice(*rows), slice(*cols)] = k
    return classes, ids


def write_raster(path: Path, data: np.ndarray, georef: GeoRef = GEOREF, **extra: object) -> None:
    with rasterio.open(
        path, "w", driver="GTiff", height=data.shape[0], width=data.shape[1], count=1,
        dtype=data.dtype, crs=georef.crs, transform=georef.transform, compress="deflate", **extra,
    ) as file:  # fmt: skip
        file.write(data, 1)


def write_map(
    folder: Path, classes: np.ndarray, ids: np.ndarray, *, polygons: bool = False
) -> PanopticMap:
    schema = LabelSchema.default()
    write_map_json(folder, MapInfo(schema, date="2024-05-01", counts={"things": 3}))
    write_raster(folder / "semantic.tif", classes, nodata=0)
    write_raster(folder / "instances.tif", ids, nodata=0)
    panoptic = PanopticMap.open(folder)
    save_segments(folder, panoptic.segment_table, schema, GEOREF)
    if polygons:
        things, stuff = panoptic.things(), panoptic.stuff()
        things.to_file(folder / "panoptic.gpkg", layer="things")
        stuff.to_file(folder / "panoptic.gpkg", layer="stuff", mode="a")
    return PanopticMap.open(folder)


def test_a_map_directory_gives_back_what_was_written(tmp_path: Path) -> None:
    classes, ids = arrays()
    panoptic = write_map(tmp_path / "a.panoptic", classes, ids)
    assert panoptic.date == "2024-05-01"
    assert panoptic.schema == LabelSchema.default()
    window = Window(25, 50, 40, 70)
    got_class, got_id = panoptic.read(window)
    assert np.array_equal(got_class, classes[window.slices])
    assert np.array_equal(got_id, ids[window.slices])
    assert (got_class.dtype, got_id.dtype) == (np.uint8, np.int32)


# rioxarray 0.19 multiplies transforms with *, of which affine 3 warns
@pytest.mark.filterwarnings("ignore:Use .@. matmul:PendingDeprecationWarning")
def test_rasters_are_lazy_xarrays_with_a_crs(tmp_path: Path) -> None:
    classes, ids = arrays()
    panoptic = write_map(tmp_path / "a.panoptic", classes, ids)
    semantic, instances = panoptic.semantic, panoptic.instances
    assert semantic.chunks is not None
    assert semantic.rio.crs.to_epsg() == 32645
    assert semantic.rio.transform() == GEOREF.transform
    assert np.array_equal(semantic.values, classes)
    assert np.array_equal(instances.sel(y=slice(2999999, 2999960)).values, ids[2:80])


def test_segments_are_a_frame_of_every_id_and_stuff_class(tmp_path: Path) -> None:
    classes, ids = arrays()
    frame = write_map(tmp_path / "a.panoptic", classes, ids).segments.set_index("id")
    assert set(frame.index) == {1, 2, 3, -4}
    assert frame.loc[1, "area_px"] == 400
    assert frame.loc[1, "area_m2"] == pytest.approx(400 * 0.25, rel=1e-2)
    assert list(frame.loc[3, ["min_row", "min_col", "max_row", "max_col"]]) == [60, 110, 64, 120]
    assert frame["touches_edge"].to_dict() == {1: False, 2: False, 3: True, -4: True}


def test_things_and_stuff_cover_the_valid_pixels(tmp_path: Path) -> None:
    classes, ids = arrays()
    panoptic = write_map(tmp_path / "a.panoptic", classes, ids)
    things, stuff = panoptic.things(), panoptic.stuff()
    assert sorted(things["instance_id"]) == [1, 2, 3]
    assert things.set_index("instance_id").loc[1, "class_name"] == "building"
    assert things.crs.to_epsg() == 32645
    valid = int(((classes != 0) & (classes != 255)).sum()) * 0.25
    assert things.area.sum() + stuff.area.sum() == pytest.approx(valid)


def test_a_good_map_has_no_broken_promise(tmp_path: Path) -> None:
    write_map(tmp_path / "a.panoptic", *arrays(), polygons=True)
    assert check_map(tmp_path / "a.panoptic") == []


def broken(tmp_path: Path, change: str) -> list[str]:
    folder = tmp_path / "a.panoptic"
    classes, ids = arrays()
    write_map(folder, classes, ids, polygons=True)
    if change == "id without thing":
        ids[0, 50] = 9
    elif change == "thing without id":
        classes[70, 70] = 1
    elif change == "unknown class":
        classes[70, 70] = 77
    elif change == "two classes":
        classes[35, 45] = 2
    elif change == "one pixel moved":
        ids[40, 60] = 1
    elif change == "new id":
        ids[30:50, 60:75] = 7
    write_raster(folder / "semantic.tif", classes, nodata=0)
    write_raster(folder / "instances.tif", ids, nodata=0)
    return check_map(folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("id without thing", "1 pixels have an instance id but no thing class"),
        ("thing without id", "1 pixels have a thing class but no instance id"),
        ("unknown class", "class 77"),
        ("two classes", "two classes"),
        ("one pixel moved", "area_px of 2 segments"),
        ("new id", "1 ids are in the rasters only: 7"),
        ("one pixel moved", "layer things, burnt again, differ from the raster in 1 pixels"),
    ],
)
def test_a_broken_promise_is_named(tmp_path: Path, change: str, words: str) -> None:
    assert any(words in sentence for sentence in broken(tmp_path, change))


def test_wrong_counts_and_missing_files_are_named(tmp_path: Path) -> None:
    folder = tmp_path / "a.panoptic"
    write_map(folder, *arrays())
    write_map_json(folder, MapInfo(LabelSchema.default(), counts={"things": 4}))
    assert check_map(folder) == ["map.json counts 4 things, the rasters hold 3"]
    (folder / "instances.tif").unlink()
    assert "no instances.tif" in check_map(folder)[0]
    with pytest.raises(StoreError, match=r"map\.json"):
        PanopticMap.open(tmp_path)


def test_the_table_survives_its_file(tmp_path: Path) -> None:
    panoptic = write_map(tmp_path / "a.panoptic", *arrays())
    table = panoptic.segment_table
    save_segments(tmp_path / "t.parquet", table, panoptic.schema, GEOREF)
    again = load_segments(tmp_path / "t.parquet")
    assert np.array_equal(again.id, np.sort(table.id))
    assert np.isnan(again.score).all()


def test_two_rasters_are_a_map_and_name_their_classes(tmp_path: Path) -> None:
    classes, ids = arrays()
    write_raster(tmp_path / "s.tif", classes, nodata=0)
    write_raster(tmp_path / "i.tif", ids)
    panoptic = PanopticMap.open(f"{tmp_path / 's.tif'},{tmp_path / 'i.tif'}")
    assert [(c.id, c.name, c.kind) for c in panoptic.schema.classes] == [
        (1, "class_1", "thing"),
        (2, "class_2", "thing"),
        (4, "class_4", "stuff"),
    ]
    write_raster(tmp_path / "j.tif", ids[:50])
    with pytest.raises(SceneError, match="90 x 120 against 50 x 120"):
        PanopticMap.open(f"{tmp_path / 's.tif'},{tmp_path / 'j.tif'}")


def test_a_coco_pair_is_a_map_and_unlisted_ids_are_an_error(tmp_path: Path) -> None:
    ids = np.zeros((20, 30), np.int64)
    ids[5:10, 5:20], ids[12:] = 70_000, 300
    rgb = np.stack([ids % 256, ids // 256 % 256, ids // 65536], -1).astype(np.uint8)
    (tmp_path / "x").mkdir()
    Image.fromarray(rgb).save(tmp_path / "x" / "1.png")
    data = {
        "images": [{"id": 1, "file_name": "1.jpg", "height": 20, "width": 30}],
        "categories": [
            {"id": 7, "name": "house", "isthing": 1},
            {"id": 900, "name": "field", "isthing": 0},
        ],
        "annotations": [
            {
                "image_id": 1,
                "file_name": "1.png",
                "segments_info": [
                    {"id": 70_000, "category_id": 7, "area": 75, "score": 0.5},
                    {"id": 300, "category_id": 900, "area": 240},
                ],
            }
        ],
    }
    path = tmp_path / "x.json"
    path.write_text(json.dumps(data))
    panoptic = PanopticMap.open(path)
    classes, segment = panoptic.read(Window(4, 0, 10, 30))
    assert np.array_equal(segment, ids[4:14])
    assert set(np.unique(classes)) == {1, 2, 255}
    assert panoptic.score == {70_000: 0.5}
    del data["annotations"][0]["segments_info"][1]
    path.write_text(json.dumps(data))
    with pytest.raises(SceneError, match=r"id 300 at row 12, col 0"):
        PanopticMap.open(path).read(Window.whole((20, 30)))


def test_polygons_burn_alike_in_any_window(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    x0, y0 = GEOREF.xy(rng.uniform(0, 90, 40), rng.uniform(0, 120, 40))
    radii = rng.uniform(1, 6, 40)
    circles = [shapely.Point(x, y).buffer(r) for x, y, r in zip(x0, y0, radii, strict=True)]
    frame = geopandas.GeoDataFrame(
        {"class_name": ["building", "vehicle"] * 20, "score": rng.uniform(0, 1, 40)},
        geometry=circles,
        crs=GEOREF.crs,
    )
    frame.to_file(tmp_path / "p.gpkg")
    panoptic = PanopticMap.open(tmp_path / "p.gpkg", like=GEOREF)
    whole = panoptic.read(Window.whole(SHAPE))
    for window in (Window(0, 0, 17, 33), Window(31, 13, 40, 107), Window(89, 119, 1, 1)):
        part = panoptic.read(window)
        assert np.array_equal(part[0], whole[0][window.slices])
        assert np.array_equal(part[1], whole[1][window.slices])
    assert panoptic.schema.names == ("building", "vehicle")
    moved = frame.to_crs(4326)
    moved.to_file(tmp_path / "q.geojson")
    again = PanopticMap.open(tmp_path / "q.geojson", like=GEOREF).read(Window.whole(SHAPE))
    assert (again[1] != whole[1]).mean() < 1e-3


def test_a_vector_file_needs_a_grid_and_a_wrong_field_is_named(tmp_path: Path) -> None:
    frame = geopandas.GeoDataFrame({"a": [1]}, geometry=[shapely.box(0, 0, 1, 1)], crs=32645)
    frame.to_file(tmp_path / "p.gpkg")
    with pytest.raises(SceneError, match="which grid"):
        open_maps(tmp_path / "p.gpkg")
    wrong = FieldChoice(class_field="b")
    with pytest.raises(SceneError, match="no attribute 'b'"):
        open_maps(tmp_path / "p.gpkg", like=GEOREF, fields=wrong)
    with pytest.raises(SceneError, match="no map"):
        open_maps(tmp_path / "nothing.gpkg")


def test_grids_are_compared_in_words() -> None:
    moved = GeoRef(UTM, GEOREF.transform @ Affine.translation(0.5, 0), SHAPE)
    other = GeoRef(rasterio.crs.CRS.from_epsg(32646).to_wkt(), GEOREF.transform, SHAPE)
    assert grid_difference(GEOREF, GEOREF) == ""
    assert "0.500 pixels" in grid_difference(GEOREF, moved)
    assert "zone 46N" in grid_difference(GEOREF, other)

"""`Scene`: what is read, what is valid, where it lies, and what is refused with a cure."""

from __future__ import annotations

import os
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasters import UTM, noise, write_raster

from geopanoptic.errors import SceneError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.raster import Scene


def test_a_scene_is_described_without_staying_open(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "m_20120731_x.tif", noise(3, 40, 50), photometric="rgb")
    scene = Scene.open(path)
    assert scene.georef.shape == (40, 50)
    assert scene.georef.transform == UTM
    assert scene.band_names == ("red", "green", "blue")
    assert (scene.dtype, scene.nodata, scene.date) == ("uint8", None, "2012-07-31")
    assert not scene.has_alpha
    assert not scene.has_mask
    assert len(pickle.dumps(scene)) < 2000
    assert pickle.loads(pickle.dumps(scene)) == scene


def test_a_window_of_the_scene_is_that_part_of_the_whole(tmp_path: Path) -> None:
    array = noise(3, 60, 70)
    scene = Scene.open(
        write_raster(tmp_path / "a.tif", array, tiled=True, blockxsize=16, blockysize=16)
    )
    window = Window(7, 11, 20, 30)
    pixels, valid = scene.read(window, (3, 1))
    assert np.array_equal(pixels, array[[2, 0]][:, *window.slices])
    assert valid.all()


@pytest.mark.parametrize("window", [Window(-1, 0, 5, 5), Window(0, 58, 5, 5), Window(3, 3, 0, 4)])
def test_a_window_outside_the_scene_is_refused_with_its_size(
    tmp_path: Path, window: Window
) -> None:
    scene = Scene.open(write_raster(tmp_path / "a.tif", noise(1, 60, 60)))
    with pytest.raises(SceneError, match="60 x 60"):
        scene.read(window)


def test_a_band_that_is_not_there_is_refused(tmp_path: Path) -> None:
    scene = Scene.open(write_raster(tmp_path / "a.tif", noise(3, 9, 9)))
    with pytest.raises(SceneError, match=r"1\.\.3.*--bands"):
        scene.read(Window(0, 0, 2, 2), (1, 4))


def test_only_pixels_that_are_nodata_in_every_read_band_are_invalid(tmp_path: Path) -> None:
    array = noise(3, 8, 8)
    array[:, 0, 0] = 0  # a hole
    array[0, 0, 1] = 0  # a blue roof has no red
    scene = Scene.open(write_raster(tmp_path / "a.tif", array, nodata=0))
    _, valid = scene.read(Window.whole((8, 8)))
    assert not valid[0, 0]
    assert valid.sum() == 63


def test_black_and_white_holes_without_a_flag_are_pixels_unless_nodata_is_given(
    tmp_path: Path,
) -> None:
    array = noise(3, 8, 8) // 2 + 1
    array[:, :2] = 255
    path = write_raster(tmp_path / "a.tif", array)
    assert Scene.open(path).read(Window.whole((8, 8)))[1].all()
    _, valid = Scene.open(path, nodata=255).read(Window.whole((8, 8)))
    assert np.array_equal(valid, np.arange(8)[:, None] * np.ones(8) >= 2)


def test_a_nodata_value_that_the_type_cannot_hold_hides_nothing(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(1, 5, 5))
    assert Scene.open(path, nodata=-9999).read(Window.whole((5, 5)))[1].all()


def test_not_a_number_is_invalid_in_any_band(tmp_path: Path) -> None:
    array = noise(2, 6, 6, dtype="float32")
    array[1, 2, 3] = np.nan
    array[0, 4, 4] = np.inf
    _, valid = Scene.open(write_raster(tmp_path / "a.tif", array)).read(Window.whole((6, 6)))
    assert list(zip(*np.nonzero(~valid), strict=True)) == [(2, 3), (4, 4)]


def test_a_float32_nodata_rounded_in_the_header_still_matches(tmp_path: Path) -> None:
    array = noise(1, 4, 4, dtype="float32")
    array[0, 1, 1] = np.float32(-3.4028226550889045e38)
    path = write_raster(tmp_path / "a.tif", array, nodata=-3.4028226550889045e38)
    assert not Scene.open(path).read(Window.whole((4, 4)))[1][1, 1]


def test_an_alpha_band_hides_pixels_and_is_no_data_band(tmp_path: Path) -> None:
    array = noise(4, 10, 10)
    array[3] = 255
    array[3, :, :4] = 3  # what JPEG makes of 0
    path = write_raster(tmp_path / "a.tif", array, photometric="rgb", alpha="yes")
    scene = Scene.open(path)
    assert scene.band_count == 3
    assert scene.has_alpha
    pixels, valid = scene.read(Window.whole((10, 10)))
    assert np.array_equal(pixels, array[:3])
    assert np.array_equal(valid, array[3] > 100)


@pytest.mark.parametrize("inside", [True, False], ids=["in the file", "in a .msk beside it"])
def test_a_mask_band_hides_pixels(tmp_path: Path, inside: bool) -> None:
    array, mask = noise(3, 32, 32), np.zeros((32, 32), bool)
    mask[5:20, 7:30] = True
    path = tmp_path / "a.tif"
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside),
        rasterio.open(
            path, "w", driver="GTiff", count=3, height=32, width=32, dtype="uint8",
            crs="EPSG:26910", transform=UTM,
        ) as dataset,
    ):  # fmt: skip
        dataset.write(array)
        dataset.write_mask(mask)
    assert (tmp_path / "a.tif.msk").exists() is not inside
    scene = Scene.open(path)
    assert scene.has_mask
    assert np.array_equal(scene.read(Window.whole((32, 32)))[1], mask)


@pytest.mark.parametrize("flip_rows", [True, False])
@pytest.mark.parametrize("flip_cols", [True, False])
def test_mirrored_scenes_are_read_north_up_exactly(
    tmp_path: Path, flip_rows: bool, flip_cols: bool
) -> None:
    north_up = noise(2, 30, 40)
    north_up[:, :3, :5] = 0
    stored = north_up[:, :: -1 if flip_rows else 1, :: -1 if flip_cols else 1]
    t = UTM @ Affine.translation(40 * flip_cols, 30 * flip_rows)
    t = t @ Affine.scale(-1 if flip_cols else 1, -1 if flip_rows else 1)
    path = write_raster(tmp_path / "a.tif", stored, transform=t, nodata=0)
    scene = Scene.open(path)
    assert scene.georef.transform.almost_equals(UTM)
    assert scene.georef.is_north_up
    window = Window(1, 2, 20, 17)
    pixels, valid = scene.read(window)
    assert np.array_equal(pixels, north_up[:, *window.slices])
    assert np.array_equal(valid, (north_up[0] > 0)[window.slices])


def rotated(path: Path, array: np.ndarray, **profile: object) -> Path:
    turned = UTM @ Affine.rotation(30, (20, 20))
    return write_raster(path, array, transform=turned, **profile)


def test_a_rotated_scene_is_turned_north_up_and_keeps_its_place(tmp_path: Path) -> None:
    array = np.zeros((1, 64, 64), np.uint8)
    array[:, 20:24, 40:44] = 200
    scene = Scene.open(rotated(tmp_path / "a.tif", array))
    assert scene.view == "warped"
    assert scene.georef.is_north_up
    pixels, valid = scene.read(Window.whole(scene.georef.shape))
    assert 0.3 < valid.mean() < 0.9, "the corners hold nothing"
    with rasterio.open(tmp_path / "a.tif") as dataset:
        truth = dataset.transform @ (42.0, 22.0)  # the middle of the bright square
    rows, cols = np.nonzero(pixels[0] > 100)
    x, y = scene.georef.xy(rows.mean() + 0.5, cols.mean() + 0.5)
    assert np.hypot(x - truth[0], y - truth[1]) < 0.15


@pytest.mark.parametrize("kind", ["nodata", "override", "alpha", "mask"])
def test_a_rotated_scene_keeps_its_holes(tmp_path: Path, kind: str) -> None:
    array = noise(4 if kind == "alpha" else 3, 64, 64) // 2 + 100
    array[:, 20:40, 20:40] = 0
    if kind == "alpha":
        array[3] = np.where(array[0] > 0, 255, 0)
    profile = {"nodata": 0} if kind == "nodata" else {}
    if kind == "alpha":
        profile = {"photometric": "rgb", "alpha": "yes"}
    path = rotated(tmp_path / "a.tif", array, **profile)
    if kind == "mask":
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as dataset:
            dataset.write_mask(array[0] > 0)
    scene = Scene.open(path, nodata=0 if kind == "override" else None)
    pixels, valid = scene.read(Window.whole(scene.georef.shape))
    with rasterio.open(path) as dataset:
        x, y = dataset.transform @ (30.0, 30.0)
    row, col = (int(v) for v in scene.georef.rowcol(x, y))
    assert not valid[row - 5 : row + 5, col - 5 : col + 5].any()
    assert 0.25 < valid.mean() < 0.65
    assert pixels[:, valid].min() > 50, "nothing of the hole bleeds into its neighbours"


def test_two_windows_of_a_rotated_scene_agree_to_the_last_bit(tmp_path: Path) -> None:
    scene = Scene.open(rotated(tmp_path / "a.tif", noise(2, 200, 200)))
    whole, seen = scene.read(Window.whole(scene.georef.shape))
    for window in (Window(33, 20, 91, 77), Window(1, 100, 50, 120), Window(120, 3, 17, 140)):
        pixels, valid = scene.read(window)
        assert np.array_equal(pixels, whole[:, *window.slices])
        assert np.array_equal(valid, seen[window.slices])


def test_a_rotated_scene_without_crs_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = rotated(tmp_path / "a.tif", noise(1, 9, 9), crs=None)
    with pytest.raises(SceneError, match=r"rotated.*-a_srs"):
        Scene.open(path)


def test_pixels_without_any_place_are_their_own_units(tmp_path: Path) -> None:
    Path(tmp_path / "a.tif").unlink(missing_ok=True)
    from PIL import Image

    Image.fromarray(noise(12, 20, 3)).save(tmp_path / "a.png")
    scene = Scene.open(tmp_path / "a.png")
    assert scene.georef == GeoRef.of_pixels((12, 20))
    assert scene.read(Window.whole((12, 20)))[0].shape == (3, 12, 20)


def test_the_date_comes_from_tags_then_the_name_then_the_tiff_stamp(tmp_path: Path) -> None:
    array = noise(1, 4, 4)
    path = write_raster(tmp_path / "x_2018-07-16.tif", array)
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(TIFFTAG_DATETIME="2021:01:02 03:04:05")
    assert Scene.open(path).date == "2018-07-16"
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(ACQUISITION_DATE="2017-03-04T10:00:00Z")
    assert Scene.open(path).date == "2017-03-04"
    assert Scene.open(path, date="2001-01-01").date == "2001-01-01"
    plain = write_raster(tmp_path / "m_4709963_se_14_1.tif", array)
    assert Scene.open(plain).date is None, "4709963 is no date"
    february = write_raster(tmp_path / "20190231_20190228T101500.tif", array)
    assert Scene.open(february).date == "2019-02-28", "there is no 31 February"
    with rasterio.open(plain, "r+") as dataset:
        dataset.update_tags(TIFFTAG_DATETIME="2021:01:02 03:04:05")
    assert Scene.open(plain).date == "2021-01-02"


def mosaic_of(tmp_path: Path) -> tuple[list[Path], np.ndarray]:
    whole = noise(2, 50, 80)
    corners = {"a": (0, 0), "b": (0, 40), "c": (25, 0), "d": (25, 40)}
    paths = []
    for name, (row, col) in corners.items():
        piece = whole[:, row : row + 25, col : col + 40]
        place = UTM @ Affine.translation(col, row)
        paths.append(write_raster(tmp_path / f"{name}.tif", piece, transform=place))
    return paths, whole


def test_a_mosaic_of_files_reads_as_one_scene(tmp_path: Path) -> None:
    paths, whole = mosaic_of(tmp_path)
    scene = Scene.open(paths[::-1])  # the first file is not the first corner
    assert scene.georef == GeoRef(scene.georef.crs, scene.georef.transform, (50, 80))
    assert scene.georef.transform.almost_equals(UTM)
    window = Window(10, 20, 30, 50)
    pixels, valid = scene.read(window)
    assert np.array_equal(pixels, whole[:, *window.slices])
    assert valid.all()
    assert pickle.loads(pickle.dumps(scene)) == scene


def test_a_gap_in_a_mosaic_is_invalid_and_later_files_lie_on_top(tmp_path: Path) -> None:
    paths, whole = mosaic_of(tmp_path)
    scene = Scene.open([paths[0], paths[3]])
    _, valid = scene.read(Window.whole((50, 80)))
    assert valid[:25, :40].all()
    assert not valid[:25, 40:].any()
    above = np.full((2, 10, 10), 7, np.uint8)
    above[:, :2] = 0
    top = write_raster(tmp_path / "top.tif", above, nodata=0)
    pixels, _ = Scene.open([paths[0], top]).read(Window(0, 0, 10, 10))
    assert (pixels[:, 2:] == 7).all()
    assert np.array_equal(pixels[:, :2], whole[:, :2, :10]), "nodata does not cover what is below"


@pytest.mark.parametrize(
    "change, message",
    [
        ({"transform": UTM @ Affine.translation(40.4, 0)}, "0.40 px.*-tap"),
        ({"transform": UTM @ Affine.scale(1.1)}, "pixel grid"),
        ({"crs": "EPSG:26911"}, "coordinate reference systems.*gdalwarp"),
        ({"dtype": "uint16"}, "dtype uint16"),
    ],
)
def test_files_that_do_not_fit_a_mosaic_are_named(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    first = write_raster(tmp_path / "a.tif", noise(2, 25, 40))
    other = write_raster(tmp_path / "b.tif", noise(2, 25, 40), **change)
    with pytest.raises(SceneError, match=f"b.tif.*{message}"):
        Scene.open([first, other])


def test_the_fingerprint_changes_with_the_file_and_only_then(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(1, 30, 30))
    before = Scene.open(path).fingerprint()
    assert before == Scene.open(path).fingerprint()
    assert before["members"][0]["size"] == path.stat().st_size
    os.utime(path, ns=(1, 2))
    assert Scene.open(path).fingerprint() != before


def test_a_file_replaced_under_the_same_name_is_read_anew(tmp_path: Path) -> None:
    first, second = noise(1, 30, 30), noise(1, 30, 30, seed=1)
    path = write_raster(tmp_path / "a.tif", first)
    whole = Window.whole((30, 30))
    assert np.array_equal(Scene.open(path).read(whole)[0], first)
    write_raster(tmp_path / "b.tif", second).replace(path)
    assert np.array_equal(Scene.open(path).read(whole)[0], second)


def test_threads_read_the_same_scene_at_once(tmp_path: Path) -> None:
    array = noise(3, 400, 400)
    scene = Scene.open(write_raster(tmp_path / "a.tif", array, tiled=True, compress="deflate"))
    wrong: list[Window] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for _ in range(30):
            row, col = (int(v) for v in rng.integers(0, 300, 2))
            window = Window(row, col, 100, 100)
            if not np.array_equal(scene.read(window)[0], array[:, *window.slices]):
                wrong.append(window)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_is_missing_empty_or_no_raster_is_told_apart(tmp_path: Path) -> None:
    with pytest.raises(SceneError, match=r"no file.*check the path"):
        Scene.open(tmp_path / "nowhere.tif")
    with pytest.raises(SceneError, match="folder"):
        Scene.open(tmp_path)
    (tmp_path / "empty.tif").write_bytes(b"")
    with pytest.raises(SceneError, match="0 bytes"):
        Scene.open(tmp_path / "empty.tif")
    (tmp_path / "text.tif").write_text("not a raster at all")
    with pytest.raises(SceneError, match="gdal_translate"):
        Scene.open(tmp_path / "text.tif")
    (tmp_path / "head.tif").write_bytes(b"II*\0\xff\xff\xff\x7f")
    with pytest.raises(SceneError, match=r"cannot be opened.*whole raster"):
        Scene.open(tmp_path / "head.tif")
    with pytest.raises(SceneError, match="no files"):
        Scene.open([])


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", np.ones((1, 5, 5), np.complex64))
    with pytest.raises(SceneError, match=r"complex64.*amplitude"):
        Scene.open(path)


def test_reading_never_writes_beside_the_source(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(3, 300, 300), tiled=True)
    before = path.read_bytes()
    path.chmod(0o444)
    scene = Scene.open(path)
    scene.read(Window.whole((300, 300)))
    assert [p.name for p in tmp_path.iterdir()] == ["a.tif"]
    assert path.read_bytes() == before


def test_nodata_kept_in_a_side_file_is_honoured(tmp_path: Path) -> None:
    array = noise(1, 8, 8)
    array[0, :3] = 9
    array[0, 3:] = 10
    path = write_raster(tmp_path / "a.tif", array)
    (tmp_path / "a.tif.aux.xml").write_text(
        '<PAMDataset><PAMRasterBand band="1"><NoDataValue>9</NoDataValue>'
        "</PAMRasterBand></PAMDataset>"
    )
    assert Scene.open(path).nodata == 9
    assert Scene.open(path).read(Window.whole((8, 8)))[1].sum() == 40

"""`WorkingScene`: resampling without seams, one scaling per scene, bands by name, refusals."""

from __future__ import annotations

import pickle
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasters import SHARED, UTM, needs_shared, noise, write_raster

from geopanoptic.errors import SceneError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.raster import ReadRequest, Scene, WorkingScene
from geopanoptic.raster.bands import select_bands
from geopanoptic.raster.resample import Zoom, resample

GRAY = ReadRequest(bands=(1,))


def whole(working: WorkingScene) -> Window:
    return Window.whole(working.georef.shape)


# --- the working grid -----------------------------------------------------------------------------


def test_a_gsd_within_the_card_is_used_as_it_is(tmp_path: Path) -> None:
    array = noise(3, 60, 70)
    scene = Scene.open(write_raster(tmp_path / "a.tif", array))
    working = WorkingScene.plan(scene, ReadRequest((1, 2, 3), gsd_range_m=(0.2, 0.4)))
    assert working.georef == scene.georef
    pixels, valid = working.read(Window(3, 4, 20, 30))
    assert np.array_equal(pixels, array[:, 3:23, 4:34])
    assert valid.all()
    assert working.describe()["working"]["resampling"] == "none"


def test_a_finer_scene_is_read_at_the_preferred_gsd_on_the_same_ground(tmp_path: Path) -> None:
    place = Affine(0.13, 0, 500_000, 0, -0.13, 5_200_000)
    scene = Scene.open(write_raster(tmp_path / "a.tif", noise(1, 230, 300), transform=place))
    request = ReadRequest((1,), gsd_range_m=(0.2, 0.4), preferred_gsd_m=0.3)
    working = WorkingScene.plan(scene, request)
    assert working.georef.gsd_m == pytest.approx(0.3, rel=0.01)
    covered, ground = working.georef.bounds, scene.georef.bounds
    assert (covered[0], covered[3]) == pytest.approx((ground[0], ground[3]), abs=1e-6)
    for over in (covered[2] - ground[2], ground[1] - covered[1]):
        assert -1e-6 <= over < 0.31, "the last pixel may reach over, by less than itself"
    assert working.describe()["working"]["resampling"] == "average"


def test_gsd_override_forces_the_working_gsd(tmp_path: Path) -> None:
    scene = Scene.open(write_raster(tmp_path / "a.tif", noise(1, 60, 60)))
    request = ReadRequest((1,), gsd_range_m=(0.2, 0.4), gsd_m=0.15)
    working = WorkingScene.plan(scene, request)
    assert working.georef.shape == (120, 120)
    assert working.describe()["working"]["resampling"] == "bilinear"


def test_true_metres_count_not_those_of_web_mercator(tmp_path: Path) -> None:
    place = Affine(0.5, 0, 1_000_000, 0, -0.5, 8_400_000)  # 60 degrees north: half as large
    path = write_raster(tmp_path / "a.tif", noise(1, 80, 80), crs="EPSG:3857", transform=place)
    scene = Scene.open(path)
    assert scene.georef.gsd_m == pytest.approx(0.25, rel=0.01)
    request = ReadRequest((1,), gsd_range_m=(0.2, 0.3))
    assert WorkingScene.plan(scene, request).georef == scene.georef


def test_pixels_far_from_square_on_the_ground_are_read_as_squares(tmp_path: Path) -> None:
    place = Affine(5e-6, 0, 24.9, 0, -5e-6, 60.2)  # degrees: 0.28 m east-west, 0.56 m north-south
    path = write_raster(tmp_path / "a.tif", noise(1, 100, 100), crs="EPSG:4326", transform=place)
    working = WorkingScene.plan(Scene.open(path), ReadRequest((1,), gsd_range_m=(0.1, 0.8)))
    height_m, width_m = working.georef.pixel_m
    assert height_m == pytest.approx(width_m, rel=0.03)
    assert "squares" in working.notes[0]


@pytest.mark.parametrize("epsg, x, y", [(4326, 24.9, 60.2), (4326, 179.99, -17), (3857, 3e6, 8e6)])
def test_height_times_width_of_a_pixel_is_its_area(epsg: int, x: float, y: float) -> None:
    step = 1e-5 if epsg == 4326 else 1.0
    crs = rasterio.CRS.from_epsg(epsg).to_wkt()
    georef = GeoRef(crs, Affine(step, 0, x, 0, -step, y), (500, 4000))
    height_m, width_m = georef.pixel_m
    assert height_m * width_m == pytest.approx(georef.gsd_m**2, rel=1e-4)
    assert (height_m > 1.3 * width_m) == (epsg == 4326 and abs(y) > 50)


def test_without_crs_the_pixels_are_the_models_and_this_is_said(tmp_path: Path) -> None:
    scene = Scene.open(write_raster(tmp_path / "a.tif", noise(1, 50, 50), crs=None))
    working = WorkingScene.plan(scene, ReadRequest((1,), gsd_range_m=(0.2, 0.4)))
    assert working.georef == scene.georef
    assert "no coordinate reference system" in working.notes[0]
    halved = WorkingScene.plan(scene, ReadRequest((1,), gsd_m=0.6, preferred_gsd_m=0.3))
    assert halved.georef.shape == (25, 25)


def test_a_scene_far_too_coarse_is_refused_with_both_numbers(tmp_path: Path) -> None:
    place = Affine(10, 0, 500_000, 0, -10, 5_200_000)
    scene = Scene.open(write_raster(tmp_path / "a.tif", noise(1, 50, 50), transform=place))
    with pytest.raises(SceneError, match=r"10 m, 33 times coarser than the 0.3 m.*--gsd 10"):
        WorkingScene.plan(scene, ReadRequest((1,), gsd_range_m=(0.2, 0.5)))
    forced = ReadRequest((1,), gsd_range_m=(0.2, 0.5), gsd_m=scene.georef.gsd_m)
    assert WorkingScene.plan(scene, forced).georef == scene.georef
    for nonsense in (0.0, -1.0, float("nan"), 1e-9):
        with pytest.raises(SceneError):
            WorkingScene.plan(scene, ReadRequest((1,), gsd_m=nonsense))


# --- resampling -----------------------------------------------------------------------------------


def exact_mean(values: np.ndarray, source: int, target: int) -> list[Fraction]:
    """The mean of a line over equal cuts, in exact fractions."""
    step = Fraction(source, target)
    means = []
    for j in range(target):
        low, high = j * step, (j + 1) * step
        total = Fraction(0)
        for s in range(source):
            cover = min(high, Fraction(s + 1)) - max(low, Fraction(s))
            if cover > 0:
                total += cover * int(values[s])
        means.append(total / step)
    return means


@given(source=st.integers(1, 60), target=st.integers(1, 60), seed=st.integers(0, 99))
def test_averaging_is_the_exact_area_mean(source: int, target: int, seed: int) -> None:
    if target > source:
        source, target = target, source
    line = noise(source, seed=seed)
    array = line[None, None, :]
    out, _ = resample(
        np.ascontiguousarray(array), np.ones((1, source), bool),
        Zoom(1, 1).taps(0, 1), Zoom(source, target).taps(0, target),
    )  # fmt: skip
    truth = np.array([float(v) for v in exact_mean(line, source, target)])
    assert np.abs(out[0, 0] - truth).max() <= 0.5 + 1e-3


@given(source=st.integers(1, 60), target=st.integers(1, 200))
def test_taps_are_weights_inside_the_axis(source: int, target: int) -> None:
    first, weights = Zoom(source, target).taps(0, target)
    assert (weights >= 0).all()
    assert np.allclose(weights.sum(axis=1), 1, atol=1e-5)
    used = (first[:, None] + np.arange(weights.shape[1]))[weights > 0]
    assert used.min() >= 0
    assert used.max() < source
    assert (np.diff(first) >= 0).all()


def test_interpolation_of_a_slope_is_a_slope(tmp_path: Path) -> None:
    ramp = np.tile(np.arange(0, 250, 10, dtype=np.uint8), (25, 1))[None]
    scene = Scene.open(write_raster(tmp_path / "a.tif", ramp))
    working = WorkingScene.plan(scene, ReadRequest((1,), gsd_m=0.1))
    pixels, _ = working.read(whole(working))
    inner = pixels[0, 40, 3:-3].astype(int)
    assert set(np.diff(inner)) <= {3, 4}


@pytest.fixture(scope="module")
def holed(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A 3-band scene with ragged holes and a nodata value."""
    rng = np.random.default_rng(4)
    array = noise(3, 211, 307)
    array[:, rng.random((211, 307)) < 0.2] = 0
    array[:, 50:90, 100:180] = 0
    path = tmp_path_factory.mktemp("holed") / "a.tif"
    profile = {"tiled": True, "blockxsize": 64, "blockysize": 64, "nodata": 0}
    return Scene.open(write_raster(path, array, **profile))


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_two_windows_agree_on_what_they_share(data: st.DataObject, holed: Scene) -> None:
    """read(w)[v.within(w)] == read(v), bit for bit, at any zoom, with holes."""
    gsd_m = data.draw(st.sampled_from([0.1, 0.17, 0.29, 0.31, 0.45, 0.6, 0.97, 3.3]))
    working = WorkingScene.plan(holed, ReadRequest((3, 1), gsd_m=gsd_m))
    height, width = working.georef.shape
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    outer = Window(
        row, col, data.draw(st.integers(1, height - row)), data.draw(st.integers(1, width - col))
    )
    top, left = (
        data.draw(st.integers(0, outer.height - 1)),
        data.draw(st.integers(0, outer.width - 1)),
    )
    inner = Window(row + top, col + left, outer.height - top, outer.width - left)
    pixels, valid = working.read(outer)
    part, seen = working.read(inner)
    where = inner.within(outer).slices
    assert np.array_equal(pixels[:, *where], part)
    assert np.array_equal(valid[where], seen)
    assert not pixels[:, ~valid].any(), "invalid pixels are 0"


def test_strips_read_one_after_the_other_change_nothing(
    holed: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = WorkingScene.plan(holed, ReadRequest((1, 2, 3), gsd_m=0.7))
    at_once, _ = working.read(whole(working))
    monkeypatch.setattr("geopanoptic.raster.working._STRIP_BYTES", 5000)
    assert np.array_equal(working.read(whole(working))[0], at_once)


def test_nodata_does_not_bleed_into_its_neighbours(tmp_path: Path) -> None:
    array = np.full((1, 90, 90), 200, np.uint8)
    array[:, :, 40:61] = 0
    scene = Scene.open(write_raster(tmp_path / "a.tif", array, nodata=0))
    for gsd_m in (0.11, 0.47, 0.9):
        working = WorkingScene.plan(scene, ReadRequest((1,), gsd_m=gsd_m))
        pixels, valid = working.read(whole(working))
        assert set(np.unique(pixels[0][valid])) == {200}
        assert valid.mean() == pytest.approx(69 / 90, abs=0.02)


def test_a_turned_scene_resampled_is_the_resampled_scene_turned(tmp_path: Path) -> None:
    array = noise(1, 256, 512)  # whole periods: the grid hangs on the upper left corner
    straight = Scene.open(write_raster(tmp_path / "a.tif", array))
    turned = Scene.open(write_raster(tmp_path / "b.tif", array[:, ::-1, ::-1].copy()))
    request = ReadRequest((1,), gsd_m=0.72)
    a, b = (WorkingScene.plan(s, request) for s in (straight, turned))
    difference = a.read(whole(a))[0].astype(int) - b.read(whole(b))[0][:, ::-1, ::-1]
    assert np.abs(difference).max() <= 1, "only the order of the sums differs"


def test_a_mosaic_is_resampled_across_its_files_as_one_scene(tmp_path: Path) -> None:
    array = noise(3, 150, 190)
    array[:, 60:70, 80:110] = 0
    one = Scene.open(write_raster(tmp_path / "one.tif", array, nodata=0))
    files = []
    for row, col in ((0, 0), (0, 101), (77, 0), (77, 101)):
        piece = array[:, row : row + 77 if row == 0 else 150, col : col + 101 if col == 0 else 190]
        place = UTM @ Affine.translation(col, row)
        name = tmp_path / f"{row}_{col}.tif"
        files.append(write_raster(name, piece, transform=place, nodata=0))
    for gsd_m in (0.2, 0.7):
        request = ReadRequest((1, 2, 3), gsd_m=gsd_m)
        a, b = WorkingScene.plan(one, request), WorkingScene.plan(Scene.open(files), request)
        for left, right in zip(a.read(whole(a)), b.read(whole(b)), strict=True):
            assert np.array_equal(left, right)


def test_a_working_scene_survives_pickling(holed: Scene) -> None:
    working = WorkingScene.plan(holed, ReadRequest((1, 2, 3), gsd_m=0.5))
    working.read(Window(0, 0, 9, 9))
    copy = pickle.loads(pickle.dumps(working))
    assert copy == working
    assert np.array_equal(copy.read(Window(5, 5, 9, 9))[0], working.read(Window(5, 5, 9, 9))[0])
    with pytest.raises(SceneError, match="working grid"):
        working.read(Window(0, 0, 9, 999))


# --- radiometry -----------------------------------------------------------------------------------


def test_other_types_are_scaled_by_percentiles_of_the_scene(tmp_path: Path) -> None:
    ramp = np.arange(10_000, dtype=np.uint16).reshape(1, 100, 100) + 1000
    scene = Scene.open(write_raster(tmp_path / "a.tif", ramp))
    working = WorkingScene.plan(scene, GRAY)
    scaling = working.describe()["scaling"]
    assert scaling["low"] == pytest.approx([1200], abs=1)
    assert scaling["high"] == pytest.approx([10_799], abs=1)
    assert "percentiles 2 and 98" in scaling["rule"]
    pixels, _ = working.read(whole(working))
    truth = np.clip((ramp - 1199.98) / (10799.02 - 1199.98) * 255, 0, 255)
    assert np.abs(pixels - truth).max() <= 0.51


@pytest.mark.parametrize(
    "dtype", ["int16", "uint16", "int32", "uint32", "float32", "float64", "int8"]
)
def test_every_real_type_ends_up_between_0_and_255(tmp_path: Path, dtype: str) -> None:
    values = (noise(2, 64, 64).astype(float) - 128).clip(0 if dtype[0] == "u" else -128, 127)
    scene = Scene.open(write_raster(tmp_path / "a.tif", values.astype(dtype)))
    for gsd_m in (None, 0.5):
        working = WorkingScene.plan(scene, ReadRequest((1, 2), gsd_m=gsd_m))
        pixels, _ = working.read(whole(working))
        assert pixels.dtype == np.uint8
        assert pixels.max() > 200
        assert pixels.min() < 50


def test_scaling_is_the_same_in_every_window(tmp_path: Path) -> None:
    array = noise(1, 300, 300, dtype="uint16") * np.linspace(1, 100, 300).astype("uint16")
    scene = Scene.open(write_raster(tmp_path / "a.tif", array))
    working = WorkingScene.plan(scene, GRAY)
    at_once, _ = working.read(whole(working))
    window = Window(200, 10, 40, 50)
    assert np.array_equal(working.read(window)[0], at_once[:, *window.slices])


def test_a_large_scene_is_sampled_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = (noise(1, 600, 600, dtype="uint16") << 4).astype("uint16")
    path = write_raster(tmp_path / "a.tif", array, tiled=True, blockxsize=64, blockysize=64)
    monkeypatch.setattr("geopanoptic.raster.radiometry._SAMPLE_PX", 50_000)
    monkeypatch.setattr("geopanoptic.raster.radiometry._WINDOW_PX", 16)
    sampled = WorkingScene.plan(Scene.open(path), GRAY).scaling
    assert sampled is not None
    assert sampled.sample_px == 8 * 8 * 16 * 16
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4], rasterio.enums.Resampling.nearest)
    from_overview = WorkingScene.plan(Scene.open(path), GRAY).scaling
    assert from_overview is not None
    assert from_overview.sample_px == 150 * 150
    truth = np.percentile(array, (2, 98))
    for scaling in (sampled, from_overview):
        assert (scaling.low[0], scaling.high[0]) == pytest.approx(truth, abs=100)


def test_a_large_offset_keeps_its_small_steps(tmp_path: Path) -> None:
    array = 5e6 + np.linspace(0, 1, 2500).reshape(1, 50, 50)
    working = WorkingScene.plan(Scene.open(write_raster(tmp_path / "a.tif", array)), GRAY)
    assert len(np.unique(working.read(whole(working))[0])) > 200


def test_a_constant_band_is_black_not_noise(tmp_path: Path) -> None:
    scene = Scene.open(write_raster(tmp_path / "a.tif", np.full((1, 20, 20), 7000, np.uint16)))
    working = WorkingScene.plan(scene, GRAY)
    assert not working.read(whole(working))[0].any()


def test_uint8_is_left_alone_unless_the_card_asks(tmp_path: Path) -> None:
    scene = Scene.open(write_raster(tmp_path / "a.tif", noise(1, 40, 40) // 4))
    assert WorkingScene.plan(scene, GRAY).scaling is None
    stretched = WorkingScene.plan(scene, ReadRequest((1,), stretch_uint8=True))
    assert stretched.read(whole(stretched))[0].max() == 255
    fixed = WorkingScene.plan(scene, ReadRequest((1,), value_range=(0, 63)))
    assert fixed.describe()["scaling"]["rule"] == "fixed value range"
    assert fixed.read(whole(fixed))[0].max() == 255


def test_a_scene_that_is_all_nodata_is_refused_with_its_size(tmp_path: Path) -> None:
    for dtype in ("uint8", "uint16", "float32"):
        path = write_raster(tmp_path / f"{dtype}.tif", np.zeros((3, 30, 40), dtype), nodata=0)
        with pytest.raises(SceneError, match=r"all 30 x 40 pixels.*nodata value 0.*--nodata"):
            WorkingScene.plan(Scene.open(path), ReadRequest((1, 2, 3)))


def test_a_few_valid_pixels_that_the_sample_misses_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.zeros((1, 400, 400), np.uint16)
    array[0, 201:204, 61:64] = np.arange(9).reshape(3, 3) + 500
    scene = Scene.open(write_raster(tmp_path / "a.tif", array, nodata=0))
    monkeypatch.setattr("geopanoptic.raster.radiometry._SAMPLE_PX", 1000)
    monkeypatch.setattr("geopanoptic.raster.radiometry._WINDOW_PX", 2)
    working = WorkingScene.plan(scene, GRAY)
    pixels, valid = working.read(whole(working))
    assert valid.sum() == 9
    assert pixels[0][valid].max() == 255


# --- bands ----------------------------------------------------------------------------------------


def test_names_find_their_bands_in_any_order() -> None:
    names = ("blue", "green", "red", "nir")
    assert select_bands(("red", "green", "blue"), names, "x") == ((3, 2, 1), None)
    assert select_bands(("Red", "NIR"), ("b02", "b03", "b04", "b08"), "x") == ((3, 4), None)
    assert select_bands((4, 4, 1), names, "x") == ((4, 4, 1), None)


def test_nameless_bands_are_taken_in_order_with_a_note() -> None:
    numbers, note = select_bands(("red", "green", "blue"), ("", "", "", ""), "x")
    assert numbers == (1, 2, 3)
    assert "--bands" in str(note)


@pytest.mark.parametrize(
    "wanted, names, message",
    [
        (("red", "green", "blue"), ("",), "has 1 band and the model looks at 3.*--bands 1,1,1"),
        (("red", "nir"), ("red", "green", "blue"), "no band called nir.*1 \\(red\\).*--bands"),
        (("red",), ("rde", "green"), "did you mean 'rde'"),
        ((1, 5), ("", "", ""), "3 bands.*no band 5"),
        ((0,), ("",), "no band 0"),
        ((), ("",), "--bands"),
    ],
)
def test_wrong_bands_are_refused_with_what_there_is(
    wanted: tuple[int | str, ...], names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SceneError, match=message):
        select_bands(wanted, names, "x")


def test_a_one_band_scene_for_a_three_band_model_is_refused_and_the_cure_works(
    tmp_path: Path,
) -> None:
    scene = Scene.open(write_raster(tmp_path / "a.tif", noise(1, 20, 20)))
    with pytest.raises(SceneError, match="--bands 1,1,1"):
        WorkingScene.plan(scene, ReadRequest())
    working = WorkingScene.plan(scene, ReadRequest((1, 1, 1)))
    assert working.read(whole(working))[0].shape == (3, 20, 20)


def test_a_palette_is_refused_with_the_cure(tmp_path: Path) -> None:
    path = write_raster(tmp_path / "a.tif", noise(1, 20, 20), photometric="palette")
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, {1: (255, 0, 0, 255)})
    with pytest.raises(SceneError, match="-expand rgb"):
        WorkingScene.plan(Scene.open(path), ReadRequest((1,)))


@needs_shared
@pytest.mark.bench
def test_the_whole_banepa_scene_is_read_at_30_cm_in_six_cpu_seconds() -> None:
    import time

    scene = Scene.open(SHARED / "buildings_oam/banepa_np/banepa_scene_11264x8704.tif")
    working = WorkingScene.plan(scene, ReadRequest(gsd_range_m=(0.2, 0.5)))
    working.read(Window(0, 0, 64, 64))
    start = time.process_time()
    for row in range(0, working.georef.shape[0], 2048):
        for col in range(0, working.georef.shape[1], 2048):
            working.read(Window(row, col, 2048, 2048).clipped(working.georef.shape))
    assert time.process_time() - start < 6


@pytest.mark.parametrize("pixel_m", [0.13, 0.45, 0.02])
def test_a_crop_from_a_multiple_of_256_pixels_is_read_as_the_scene_is(
    tmp_path: Path, pixel_m: float
) -> None:
    pixels = noise(3, 900, 1100)
    place = Affine(pixel_m, 0, 500_000, 0, -pixel_m, 5_200_000)
    request = ReadRequest((1, 2, 3), gsd_range_m=(0.28, 0.32), preferred_gsd_m=0.3)
    scene = Scene.open(write_raster(tmp_path / "a.tif", pixels, transform=place))
    whole = WorkingScene.plan(scene, request)
    moved = place @ Affine.translation(512, 256)
    crop = Scene.open(
        write_raster(tmp_path / "b.tif", pixels[:, 256:700, 512:1000], transform=moved)
    )
    part = WorkingScene.plan(crop, request)
    row, col = (round(float(v)) for v in whole.georef.rowcol(moved.c, moved.f))
    assert whole.georef.xy(row, col) == pytest.approx((moved.c, moved.f), abs=1e-6)
    # the crop's last row and column may be made of the part that it holds of them
    inner = Window(0, 0, part.georef.shape[0] - 1, part.georef.shape[1] - 1)
    mine, _ = part.read(inner)
    its, _ = whole.read(inner.shifted(row, col))
    if pixel_m < 0.3:
        assert np.array_equal(mine, its)
    else:  # interpolation at the crop's rim cannot know what lies beyond
        assert np.array_equal(mine[:, 2:-2, 2:-2], its[:, 2:-2, 2:-2])

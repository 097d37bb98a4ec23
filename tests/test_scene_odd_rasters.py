"""Fifty real rasters with one odd property each: read rightly, or refused with the cure."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasters import SHARED, needs_shared

from geopanoptic.errors import SceneError
from geopanoptic.grid import Window
from geopanoptic.raster import ReadRequest, Scene, WorkingScene

FOLDER = SHARED / "odd_rasters"
pytestmark = needs_shared


@dataclass(frozen=True)
class Odd:
    """What must become of a raster: how it is read, or a regular expression of its refusal."""

    bands: tuple[int | str, ...] = ("red", "green", "blue")
    valid: float = 1.0
    gsd_m: float | None = None
    view: str = "plain"
    count: int = 3
    refused: str = ""
    refused_at_open: str = ""


def gray(
    valid: float = 1.0, gsd_m: float | None = None, count: int = 1, view: str = "plain"
) -> Odd:
    return Odd((1, 1, 1), valid, gsd_m, view, count)


CASES = {
    "1091-322_00.tif": Odd(gsd_m=0.5),
    "BG35_1000_4829.tiff": Odd(gsd_m=10),
    "RGB.byte.tif": Odd(valid=0.675, gsd_m=300),
    "RGB2.byte.tif": Odd(valid=0.675, gsd_m=300),
    "RGBA.uint16.tif": Odd(valid=0.489, gsd_m=1.38),
    "TCI.tif": Odd(valid=0.74, gsd_m=100),
    "alpha.tif": Odd(valid=0.015, gsd_m=3.08),
    "clp.tif": gray(0.655, 66.95),
    "cog_dateline.tif": gray(gsd_m=100),
    "cog_gcps.tif": gray(0.705, 202, view="warped"),
    "cog_hirise_mars.tif": Odd(gsd_m=4.96),
    "cog_nonearth.tif": gray(0.0975, 274.6),
    "cog_rgb_mask.tif": Odd(valid=0.972, gsd_m=0.15),
    "cog_rgba.tif": Odd(valid=0.887, gsd_m=0.15),
    "cog_scale.tif": gray(gsd_m=429, count=2),
    "cog_world.tif": gray(0.234, 1109),
    "cogeo.tif": Odd(gsd_m=0.472),
    "float_nan.tif": gray(5 / 6, view="flipped"),
    "pix4d_alpha_nodata.tif": Odd(valid=0.8757, gsd_m=0.353),
    "rgb.jp2": Odd(gsd_m=63),
    "sample_geotiff.tif": gray(gsd_m=0.5),
    "segmentation_test_0_input.tif": Odd(gsd_m=30, count=10),
    "segmentation_test_0_label.tif": gray(),
    "small-uint16-tile.tif": Odd(gsd_m=0.0974),
    "vn_dem_epsg5899_float32.tif": gray(0.4056, 0.209),
    "all-nodata.tif": Odd(count=4, valid=0.0, refused=r"all 2475 x 71 pixels.*--nodata"),
    "inverted_lat.tif": Odd(
        (1, 1, 1), 0.0, view="flipped", count=1, refused=r"all 360 x 720 .*-9999"
    ),
    "cog_cmap.tif": Odd((1,), 0.0, count=1, refused=r"-expand rgb"),
    "utm.tif": Odd((1,), count=1, refused=r"-expand rgb"),
    "corrupt.tif": Odd(refused_at_open=r"truncated.*download"),
    "cint16.tif": Odd(refused_at_open=r"complex_int16.*amplitude"),
    "sar_hh.tif": Odd(refused_at_open=r"complex64.*amplitude"),
    "rotated.tif": Odd(refused_at_open=r"rotated.*-a_srs"),
    "RGB.byte.gcp.vrt": Odd(refused_at_open=r"4 ground control points.*gdalwarp -tps"),
    "RGB.byte.rpc.vrt": Odd(refused_at_open=r"RPCs.*RPC_DEM"),
    "test_rpcs.tif": Odd(refused_at_open=r"RPCs.*RPC_DEM"),
    "PROVENANCE.md": Odd(refused_at_open=r"not a raster.*gdal_translate"),
    "geotiff_labels.geojson": Odd(refused_at_open=r"not a raster.*gdal_translate"),
}


def valid_share(working: WorkingScene) -> float:
    """The share of valid pixels; of a raster of hundreds of Mpx only 256 rows in the middle."""
    height, width = working.georef.shape
    large = height * width > 10**7
    window = Window(height // 2, 0, 256, width) if large else Window.whole((height, width))
    pixels, valid = working.read(window)
    assert pixels.dtype == np.uint8
    assert not pixels[:, ~valid].any()
    return float(valid.mean())


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.refused_at_open])
def test_what_cannot_be_read_is_refused_with_the_cure(name: str) -> None:
    with pytest.raises(SceneError, match=CASES[name].refused_at_open):
        Scene.open(FOLDER / name)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if c.refused])
def test_what_a_model_cannot_use_is_refused_with_the_cure(name: str) -> None:
    case = CASES[name]
    scene = Scene.open(FOLDER / name)
    assert (scene.band_count, scene.view) == (case.count, case.view)
    with pytest.raises(SceneError, match=case.refused):
        WorkingScene.plan(scene, ReadRequest(case.bands))


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if not c.refused + c.refused_at_open])
def test_what_can_be_read_is_read(name: str) -> None:
    case = CASES[name]
    scene = Scene.open(FOLDER / name)
    assert (scene.band_count, scene.view) == (case.count, case.view)
    gsd_m = scene.georef.gsd_m
    assert gsd_m == (None if case.gsd_m is None else pytest.approx(case.gsd_m, rel=0.01))
    working = WorkingScene.plan(scene, ReadRequest(case.bands))
    assert valid_share(working) == pytest.approx(case.valid, abs=0.01)
    if scene.georef.crs is not None:
        assert scene.georef.is_north_up
        middle = scene.georef.shape[0] // 2
        assert scene.georef.row_area_m2(middle, 1)[0] == pytest.approx(gsd_m**2, rel=0.05)


@pytest.mark.parametrize(
    "name", [n for n, c in CASES.items() if c.view == "plain" and not c.refused_at_open]
)
def test_pixels_and_masks_are_those_that_gdal_reads(name: str) -> None:
    """An oracle for every raster that needs no turning: rasterio with its defaults."""
    scene = Scene.open(FOLDER / name)
    rows, cols = scene.georef.shape
    window = Window(rows // 3, cols // 3, min(rows // 2, 400) or 1, min(cols // 2, 400) or 1)
    pixels, valid = scene.read(window)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(FOLDER / name) as dataset:
            box = rasterio.windows.Window(window.col, window.row, window.width, window.height)
            truth = dataset.read(window=box)[: scene.band_count]
            seen = dataset.dataset_mask(window=box)
    assert np.array_equal(pixels, truth, equal_nan=pixels.dtype.kind == "f")
    if name == "alpha.tif":  # lossy alpha: GDAL takes 1..33 of 255 for valid, we do not
        seen = np.where(seen >= 128, 255, 0)
    assert np.array_equal(valid, seen > 0)


def test_every_raster_of_the_folder_has_a_verdict() -> None:
    there = {p.name for p in FOLDER.iterdir() if p.suffix != ".msk"}
    assert there <= set(CASES), f"no verdict for {sorted(there - set(CASES))}"


def test_bands_in_the_order_blue_green_red_are_put_right() -> None:
    working = WorkingScene.plan(Scene.open(FOLDER / "RGBA.uint16.tif"), ReadRequest())
    assert working.bands == (3, 2, 1)


def test_no_odd_raster_gets_a_file_beside_it() -> None:
    before = {p.name for p in FOLDER.iterdir()}
    for name, case in CASES.items():
        if case.refused_at_open:
            continue
        scene = Scene.open(FOLDER / name)
        scene.read(Window(0, 0, 1, 1))
    assert {p.name for p in FOLDER.iterdir()} == before


def test_demo_scenes_and_dates_of_the_naip_series() -> None:
    dates = [Scene.open(p).date for p in sorted((SHARED / "naip_series").glob("*.tif"))]
    assert dates[0] == "2009-08-18"
    assert dates == sorted(dates)
    scene = Scene.open(SHARED / "demo_nl" / "test_image_1210x718.tif")
    assert (scene.band_count, scene.has_alpha) == (3, True)
    working = WorkingScene.plan(scene, ReadRequest(gsd_range_m=(0.25, 0.35)))
    assert working.georef.gsd_m == pytest.approx(0.3, rel=0.01)

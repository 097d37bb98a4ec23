"""Where pixels lie, and how much ground they cover, in any coordinate reference system."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geopanoptic.errors import SceneError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window


def georef(epsg: int, transform: Affine, shape: tuple[int, int] = (200, 300)) -> GeoRef:
    return GeoRef(pyproj.CRS.from_epsg(epsg).to_wkt(), transform, shape)


def geodesic_area_m2(g: GeoRef) -> float:
    """The area inside the outline, densified so that geodesics follow the projected edges."""
    h, w = g.shape
    t = np.linspace(0, 1, 65)[:-1]
    rows = np.concatenate([0 * t, t * h, 0 * t + h, h - t * h])
    cols = np.concatenate([t * w, 0 * t + w, w - t * w, 0 * t])
    x, y = g.xy(rows, cols)
    crs = pyproj.CRS.from_wkt(g.crs)
    lon, lat = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True).transform(x, y)
    return abs(crs.get_geod().polygon_area_perimeter(lon, lat)[0])


@pytest.mark.parametrize(
    "g",
    [
        georef(32633, Affine(10, 0, 400000, 0, -10, 5000000), (2000, 3000)),
        georef(3857, Affine(10, 0, 1113194, 0, -10, 8399737), (2000, 3000)),
        georef(4326, Affine(1e-4, 0, 179.9, 0, -1e-4, -33), (2000, 3000)),
        georef(2056, Affine(0.5, 0, 2600000, 0, -0.5, 1200000)),
        georef(2263, Affine(1, 0, 980000, 0, -1, 200000), (5000, 5000)),  # US survey feet
        georef(4326, Affine(1e-4, 2e-5, 10, 1e-5, -1e-4, 60), (1000, 1000)),  # rotated
    ],
    ids=[
        "utm",
        "web mercator at 60 N",
        "degrees over the antimeridian",
        "swiss",
        "feet",
        "rotated",
    ],
)
def test_row_areas_add_up_to_the_geodesic_area_of_the_outline(g: GeoRef) -> None:
    truth = geodesic_area_m2(g)
    assert g.row_area_m2().sum() * g.shape[1] == pytest.approx(truth, rel=1e-6)


def test_a_web_mercator_pixel_is_a_quarter_at_sixty_degrees() -> None:
    x, y = pyproj.Transformer.from_crs(4326, 3857, always_xy=True).transform(10, 60)
    g = georef(3857, Affine(1, 0, x, 0, -1, y), (1, 1))
    assert g.row_area_m2()[0] == pytest.approx(0.2509, abs=1e-4)
    assert g.gsd_m == pytest.approx(0.5009, abs=1e-4)


@given(st.integers(0, 150), st.integers(0, 250), st.integers(1, 50), st.integers(1, 50))
def test_a_crop_begins_where_its_window_began(row: int, col: int, height: int, width: int) -> None:
    g = georef(32633, Affine(0.3, 0.1, 4e5, 0.05, -0.3, 5e6))
    crop = g.crop(Window(row, col, height, width))
    assert crop.shape == (height, width)
    assert np.allclose(crop.xy(0, 0), g.xy(row, col), rtol=0, atol=1e-6)
    assert np.allclose(g.rowcol(*g.xy(row, col)), (row, col), atol=1e-6)


def test_scenes_on_one_pixel_grid_agree_on_its_multiples() -> None:
    g = georef(32633, Affine(0.3, 0, 400000.0, 0, -0.3, 5000000.1))
    for row, col in ((0, 0), (7, 31), (100, 64)):
        crop = g.crop(Window(row, col, 50, 50))
        whole, part = g.phase(32), crop.phase(32)
        assert ((row + whole[0]) % 32, (col + whole[1]) % 32) == part


def test_without_a_reference_system_metres_are_refused_with_the_cure() -> None:
    g = GeoRef.of_pixels((10, 10))
    assert g.gsd_m is None
    assert g.phase(32) == (0, 0)
    with pytest.raises(SceneError, match=r"--simplify.*a_srs"):
        g.need_metres("--simplify")


def test_a_local_engineering_system_has_no_metres_on_the_ground() -> None:
    wkt = 'LOCAL_CS["plant",UNIT["metre",1],AXIS["E",EAST],AXIS["N",NORTH]]'
    assert not GeoRef(wkt, Affine(1, 0, 0, 0, -1, 0), (5, 5)).has_metres

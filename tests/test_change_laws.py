"""Laws of the parts that a comparison of maps is made of, and odd maps that must not break it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from change_maps import AT, SCHEMA, Dated, rebuilt, town
from hypothesis import given, settings
from hypothesis import strategies as st

from geopanoptic.change import ChangeSettings, change
from geopanoptic.change.aligned import Aligned
from geopanoptic.change.counting import Pair, count_pair
from geopanoptic.change.grid import GridChoice, common_grid
from geopanoptic.change.lattice import Lattice
from geopanoptic.change.patches import Patches, PatchRules
from geopanoptic.change.registration import (
    Estimate,
    RegisterChoice,
    Scale,
    decide,
    estimate_shift,
)
from geopanoptic.change.sides import common_classes, date_of, open_side, years_between
from geopanoptic.change.windows import Shifts, correlate, place_windows
from geopanoptic.errors import SceneError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.panoptic_map import MapInfo, PanopticMap, write_map_json
from geopanoptic.raster import LabelReader, LabelWriter
from geopanoptic.schema import ClassSpec, LabelSchema

UTM31, UTM32, WEB = (pyproj.CRS.from_epsg(k).to_wkt() for k in (32631, 32632, 3857))
GRID = GeoRef(UTM31, AT, (300, 340))


def nothing(done: int, total: int) -> None:
    assert done <= total


# --- where pixels lie


@given(st.integers(0, 250), st.integers(0, 300), st.integers(1, 90), st.integers(1, 90))
@settings(max_examples=20)
def test_looking_up_by_knots_equals_asking_proj_for_every_pixel(
    row: int, col: int, height: int, width: int
) -> None:
    window = Window(row, col, height, width).clipped(GRID.shape)
    own = GeoRef(UTM32, Affine(0.45, 0, 7_940, 0, -0.45, 5_432_500), (700, 700))
    values = np.arange(700 * 700, dtype=np.int32).reshape(700, 700)
    lattice = Lattice(own, GRID)
    seen = lattice.seen(window)
    out, inside = np.full(window.shape, -1, np.int32), np.zeros(window.shape, bool)
    lattice.nearest(window, seen, values[seen.slices], out, inside)
    r, c = np.indices(window.shape)
    x, y = GRID.xy(r + window.row + 0.5, c + window.col + 0.5)
    to_own = pyproj.Transformer.from_crs(UTM31, UTM32, always_xy=True)
    own_row, own_col = own.rowcol(*to_own.transform(x, y))
    # knots are right to a tenth of a millimetre: leave out centres that close to an edge
    sure = (np.abs(own_row - np.rint(own_row)) > 1e-3) & (np.abs(own_col - np.rint(own_col)) > 1e-3)
    p, q = np.floor(own_row).astype(int), np.floor(own_col).astype(int)
    there = (p >= 0) & (p < 700) & (q >= 0) & (q < 700)
    assert (inside == there)[sure].all()
    assert (out[there & sure] == values[p[there & sure], q[there & sure]]).all()


def test_grids_that_are_whole_pixels_apart_are_read_without_looking_up() -> None:
    moved = GeoRef(UTM31, AT @ Affine.translation(3, -7), (300, 340))
    assert Lattice(GRID, moved).shift == (-7, 3)
    assert Lattice(GRID, GeoRef(UTM31, AT @ Affine.translation(0.5, 0), (9, 9))).shift is None
    assert Lattice(GRID, GeoRef(UTM32, AT, (9, 9))).shift is None


def test_the_common_grid_is_a_cut_of_the_chosen_pixels() -> None:
    other = GeoRef(UTM31, AT @ Affine.translation(40.5, -20.25), (300, 340))
    before, after = (
        common_grid(GRID, other, GridChoice.read(name)) for name in ("before", "after")
    )
    assert before.grid.shape == (280, 300)
    assert Lattice(GRID, before.grid).shift == (0, 40)
    assert after.grid.shape == (280, 300)
    assert Lattice(other, after.grid).shift == (20, 0)
    assert before.footprint.area == pytest.approx(after.footprint.area)
    assert before.beyond_before == pytest.approx(1 - 279.75 * 299.5 / (300 * 340))
    back = common_grid(GRID, other, GridChoice.read("before"), (40.5 * 0.5, 20.25 * 0.5))
    assert back.grid == GRID
    explicit = common_grid(GRID, other, GridChoice.read("EPSG:3857+1")).grid
    assert explicit.transform.c % 1 == explicit.transform.f % 1 == 0


def test_a_rotated_grid_is_refused_and_a_south_up_one_turned() -> None:
    rotated = GeoRef(UTM31, AT @ Affine.rotation(10), (300, 340))
    with pytest.raises(SceneError, match=r"rotated.*--grid"):
        common_grid(rotated, GRID, GridChoice())
    assert common_grid(rotated, GRID, GridChoice("after")).grid.is_north_up
    flipped = GeoRef(UTM31, AT @ Affine.translation(0, 300) @ Affine.scale(1, -1), (300, 340))
    assert common_grid(flipped, GRID, GridChoice()).grid == GRID


# --- registration


@given(st.floats(-9, 9), st.floats(-9, 9), st.integers(0, 1000))
@settings(max_examples=25)
def test_correlation_finds_a_known_shift(d_row: float, d_col: float, seed: int) -> None:
    from scipy.ndimage import fourier_shift, gaussian_filter

    rng = np.random.default_rng(seed)
    edges = gaussian_filter((rng.random((128, 128)) > 0.97).astype(float), 1.5, mode="wrap")
    edges -= edges.mean()
    moved = np.fft.ifft2(fourier_shift(np.fft.fft2(edges), (d_row, d_col))).real
    found = correlate(edges, moved)
    assert found[:2] == pytest.approx((d_row, d_col), abs=0.051)
    assert found[2] > 0.99
    assert correlate(moved, edges)[:2] == pytest.approx((-d_row, -d_col), abs=0.051)


@given(st.integers(1, 3000), st.integers(1, 3000), st.floats(0, 500))
def test_windows_lie_in_the_scene_and_are_few(height: int, width: int, reach: float) -> None:
    windows = place_windows((height, width), reach)
    whole = Window.whole((height, width))
    assert all(whole.contains(w) for w in windows)
    assert len(windows) <= 400
    assert bool(windows) == (min(height, width) >= 32)


def shifts(rows: np.ndarray, n: int = 0) -> Shifts:
    row, col, d_row, d_col = rows.T
    return Shifts(row, col, d_row, d_col, np.ones(len(rows)), n or len(rows), 192)


def test_outliers_and_windows_beyond_the_limit_do_not_count() -> None:
    rng = np.random.default_rng(3)
    place = rng.uniform(0, 300, (40, 2))
    d = np.array([2.0, -3.0]) + rng.normal(0, 0.05, (40, 2))
    d[:10] = rng.uniform(5, 18, (10, 2))
    d[10:15] = 60.0
    found = estimate_shift(shifts(np.hstack([place, d])), GRID, 20.0)
    assert found is not None
    assert found.offset == pytest.approx((-1.5, -1.0), abs=0.02)  # col -3 px, row +2 px of 0.5 m
    assert found.n == 40
    assert found.inliers == 25
    assert found.agrees


def test_a_trend_of_the_shifts_is_seen_and_told() -> None:
    row, col = (v.ravel().astype(float) for v in np.mgrid[20:300:40, 20:340:40])
    turned = np.stack([row, col, 0.008 * (col - 170), -0.008 * (row - 150)], axis=1)
    found = estimate_shift(shifts(turned), GRID, 20.0)
    assert found is not None
    assert found.trend_px == pytest.approx(0.008 * 340, rel=0.05)
    made = decide(RegisterChoice(), found, None, (len(turned), 0), GRID)
    assert any("changes by 2.7 px across the scene" in note for note in made.notes)
    still = np.stack([row, col, 0 * row + 0.05, 0 * col], axis=1)
    quiet = estimate_shift(shifts(still), GRID, 20.0)
    assert quiet is not None
    assert quiet.trend_px is None


def test_only_what_agrees_is_applied() -> None:
    good = Estimate((1.5, 1.0), 16, 14, 0.1)
    doubtful = Estimate((1.5, 1.0), 16, 4, 0.1)
    spread = Estimate((1.5, 1.0), 16, 14, 1.4)
    small = Estimate((0.1, 0.05), 16, 16, 0.1)
    objects = Estimate((1.42, 1.03), 20, 18, 0.2)
    auto, none = RegisterChoice(), RegisterChoice("none")
    assert decide(auto, good, None, (16, 0), GRID).applied == (1.5, 1.0)
    assert decide(auto, good, objects, (16, 0), GRID).applied == (1.42, 1.03)
    unlike = decide(auto, good, objects, (16, 0), GRID, like_pixels=False)
    assert unlike.applied == (1.5, 1.0)
    assert decide(auto, spread, objects, (16, 0), GRID).applied == (1.42, 1.03)
    for doubted in (doubtful, spread):
        made = decide(auto, doubted, None, (16, 0), GRID)
        assert made.applied == (0.0, 0.0)
        assert made.found == (1.5, 1.0)
        assert "too few windows or objects agree" in made.notes[0]
    assert decide(auto, small, None, (16, 0), GRID).applied == (0.0, 0.0)
    assert decide(none, good, None, (16, 0), GRID).applied == (0.0, 0.0)
    assert "--register none" in decide(none, good, None, (16, 0), GRID).notes[0]
    given_m = RegisterChoice.read("2,-1")
    assert decide(given_m, good, None, (16, 0), GRID).applied == pytest.approx((2, -1), rel=1e-3)
    assert decide(auto, None, None, (0, 0), GRID).notes


def test_metres_and_map_units_are_told_apart() -> None:
    at_60n = GeoRef(WEB, Affine(1, 0, 250_000, 0, -1, 8_399_738), (100, 100))
    scale = Scale.of(at_60n)
    assert scale.metres == pytest.approx((0.5, 0.5), rel=5e-3)
    assert scale.from_m(scale.to_m((3.0, -2.0))) == pytest.approx((3.0, -2.0))
    assert scale.length_px((3.0, 4.0)) == pytest.approx(5.0, rel=5e-3)


# --- counting and patches


def aligned(dated: Dated, folder: Path) -> Aligned:
    opened = open_side(dated.write(folder))
    assert isinstance(opened, PanopticMap)
    same = np.arange(256, dtype=np.uint8)
    return Aligned(opened.source, opened.georef, opened.georef, same, np.zeros(256, bool))


def test_counts_are_those_of_a_plain_histogram_and_transpose(tmp_path: Path) -> None:
    before = town().hidden(slice(0, 40), slice(0, 90))
    after = rebuilt(town()).hidden(slice(250, 300), slice(0, 340))
    sides = aligned(before, tmp_path / "b"), aligned(after, tmp_path / "a")
    grid = sides[0].own
    (tmp_path / "1").mkdir()
    (tmp_path / "2").mkdir()
    there = count_pair(Pair(*sides, grid, 100), tmp_path / "1", 128, 2, nothing)
    back = count_pair(Pair(sides[1], sides[0], grid, 100), tmp_path / "2", 77, 1, nothing)
    for a in range(256):
        for b in (1, 2, 3, 11, 12):
            n = ((before.classes == a) & (after.classes == b)).sum()
            assert there.pixels[a, b] == n
    assert (there.pixels == back.pixels.T).all()
    assert (there.area_m2 == back.area_m2.T).all()
    known = (before.classes > 0) & (after.classes > 0)
    assert there.common_px == known.sum()
    by_row = (known.sum(axis=1) * grid.row_area_m2()).sum()
    assert there.common_m2 == pytest.approx(by_row, rel=1e-11)
    assert there.why.sum() == 300 * 340


def sliver_flags(
    codes: np.ndarray, tolerance_m: float, folder: Path, block: int
) -> dict[int, bool]:
    """Return patch area in px -> whether it is a sliver."""
    grid = GeoRef(UTM31, AT, codes.shape)
    with LabelWriter(folder / "codes.tif", grid, "uint16") as out:
        out.write(Window.whole(codes.shape), codes.astype(np.uint16))
    with LabelReader(folder / "codes.tif") as reader:
        rules = PatchRules(10.0, tolerance_m)
        patches = Patches(reader, grid, SCHEMA, 100, rules, (None, None), block)
        rows = [r for batch in patches.batches() for r in batch.to_pylist()]
    assert all(r["below_mmu"] == (r["area_m2"] < 10.0) for r in rows)
    return {r["pixel_count"]: r["sliver"] for r in rows}


@pytest.mark.parametrize("block", [64, 200])
def test_what_no_disc_of_the_tolerance_fits_into_is_a_sliver(tmp_path: Path, block: int) -> None:
    codes = np.full((200, 200), 101)
    codes[10:14, 10:60] = 102  # 4 px = 2 m wide: a disc of 1 m radius just fits
    codes[20:23, 10:61] = 102  # 3 px wide
    codes[30:80, 30:80] = 103
    codes[32:78, 32:78] = 101  # a ring 2 px wide
    codes[100:102, 10:190] = 103
    codes[100:110, 100:110] = 103  # the same line, with a knot
    codes[130:190, 90:130] = 102  # large
    found = sliver_flags(codes, 1.0, tmp_path, block)
    ring = 50 * 50 - 46 * 46
    line = 2 * 180 + 8 * 10
    assert found == {200: False, 153: True, ring: True, line: False, 2400: False}


def test_a_code_of_large_class_ids_has_more_room(tmp_path: Path) -> None:
    schema = LabelSchema((ClassSpec(7, "low", "stuff", "#1b7837"),
                          ClassSpec(154, "high", "stuff", "#edae49")))  # fmt: skip
    classes = np.full((80, 90), 7, np.uint8)
    grown = classes.copy()
    grown[20:60, 20:60] = 154
    sides = []
    for name, array in (("b", classes), ("a", grown)):
        folder = Dated(array, np.zeros(array.shape, np.int32)).write(tmp_path / name)
        write_map_json(folder, MapInfo(schema))
        sides.append(folder)
    found = change(*sides, tmp_path / "changes.gpkg")
    with rasterio.open(tmp_path / "changes.tif") as dataset:
        assert dataset.dtypes == ("uint32",)
        assert set(np.unique(dataset.read(1)).tolist()) == {7007, 7154}
    assert found["matrix_px"] == {"7": {"7": 80 * 90 - 1600, "154": 1600}}
    assert found["objects"]["n_events"] == 0


# --- what maps say about themselves


def test_classes_meet_by_name_whatever_their_ids() -> None:
    other = LabelSchema((ClassSpec(1, "water", "stuff", "#2b83ba"),
                         ClassSpec(2, "building", "thing", "#d1495b"),
                         ClassSpec(3, "snow", "stuff", "#ffffff")))  # fmt: skip
    found = common_classes(SCHEMA, other)
    assert found.schema.by_name("snow").id == 4  # 3 is taken by water
    assert found.of_after[[1, 2, 3, 0, 255]].tolist() == [3, 11, 4, 0, 255]
    assert found.of_before[[1, 2, 3, 11, 12]].tolist() == [1, 2, 3, 11, 12]
    assert found.factor == 100


def test_ids_that_repeat_the_class_are_stuff(tmp_path: Path) -> None:
    from change_maps import write_labels

    scene = town((120, 120))
    every = np.where(scene.ids > 0, scene.ids + 300, scene.classes).astype(np.uint32)
    semantic = write_labels(tmp_path / "t1_class.tif", scene.classes, "EPSG:32631", AT)
    ids = write_labels(tmp_path / "t1_id.tif", every, "EPSG:32631", AT)
    kinds = {c.id: c.kind for c in open_side(f"{semantic},{ids}").schema.classes}
    assert {k for k, kind in kinds.items() if kind == "thing"} == {11, 12}
    table = "id,class_id,class_name,isthing\n" + "".join(
        f"{k},{k},name{k},{int(k > 3)}\n" for k in (1, 2, 3, 11, 12)
    )
    (tmp_path / "t1_segments.csv").write_text(table)
    named = open_side(f"{semantic},{ids}").schema
    assert named.by_id(11).name == "name11"
    assert not named.by_id(3).is_thing


def test_dates_are_taken_from_the_option_the_map_or_the_name() -> None:
    assert date_of("town_2014-05-01.gpkg", None, "--date-before") == "2014-05-01"
    assert date_of("town_20140501_v2.gpkg", None, "--date-before") == "2014-05-01"
    assert date_of("town_2014.gpkg", None, "--date-before") is None
    assert date_of("town_20140231.gpkg", None, "--date-before") is None
    assert date_of("town_2014-05-01.gpkg", "2015-01-01", "--date-before") == "2015-01-01"
    assert years_between("2014-05-01", "2024-05-01") == pytest.approx(10, abs=0.01)
    assert years_between("2024-05-01", "2014-05-01") is None
    assert years_between(None, "2014-05-01") is None


# --- odd maps


@pytest.mark.parametrize("shape", [(1, 1), (7, 400), (40, 33)])
def test_small_maps_are_compared_without_an_offset(shape: tuple[int, int], tmp_path: Path) -> None:
    classes = np.ones(shape, np.uint8)
    one = Dated(classes, np.zeros(shape, np.int32)).write(tmp_path / "b")
    classes[-1, -1] = 3
    two = Dated(classes, np.zeros(shape, np.int32)).write(tmp_path / "a")
    found = change(one, two, tmp_path / "changes.gpkg")
    assert found["common"]["px"] == shape[0] * shape[1]
    assert found["matrix_px"]["1"]["3"] == 1
    assert not found["registration"]["is_applied"]


def test_maps_that_lie_nowhere_are_compared_in_pixels(tmp_path: Path) -> None:
    sides = []
    for name, dated in (("b", town()), ("a", rebuilt(town()))):
        folder = replace(dated, crs=None, transform=Affine.identity()).write(tmp_path / name)
        sides.append(folder)
    found = change(*sides, tmp_path / "changes.gpkg", ChangeSettings(tolerance_m=2))
    assert found["common"]["px"] == found["common"]["m2"] == 300 * 340
    assert found["objects"]["counts"]["removed"] > 0
    nowhere, placed = sides[0], town().write(tmp_path / "c")
    with pytest.raises(SceneError, match="coordinate reference system"):
        change(nowhere, placed, tmp_path / "d.gpkg")


def test_a_south_up_map_equals_the_same_north_up(tmp_path: Path) -> None:
    after = rebuilt(town()).write(tmp_path / "a")
    plain = change(town().write(tmp_path / "b"), after, tmp_path / "changes.gpkg")
    upside = Affine.translation(0, -150.0) @ AT @ Affine.scale(1, -1)
    turned = Dated(town().classes[::-1].copy(), town().ids[::-1].copy(), transform=upside)
    found = change(turned.write(tmp_path / "s"), after, tmp_path / "s.gpkg")
    assert found["matrix_px"] == plain["matrix_px"]
    assert found["objects"]["counts"] == plain["objects"]["counts"]


def test_stuff_alone_is_registered_by_its_edges(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(rng.normal(size=(420, 420)), 6)
    classes = (1 + (field > -0.02).astype(np.uint8) + (field > 0.03)).astype(np.uint8)
    one = Dated(classes, np.zeros(classes.shape, np.int32))
    found = change(
        one.write(tmp_path / "b"), one.moved(-0.85, 0.6).write(tmp_path / "a"),
        tmp_path / "changes.gpkg",
    )  # fmt: skip
    assert found["registration"]["offset_m"] == pytest.approx([-0.85, 0.6], abs=0.1)
    assert found["registration"]["is_applied"]

"""`sample` and `area` end to end: what is drawn, what is hidden, what comes out."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st

from geopanoptic.area import EstimateSettings, SampleSettings, draw_sample, estimate_areas
from geopanoptic.area.census import draw_pixels, take_census
from geopanoptic.area.planes import Plane, open_plane, raster_names
from geopanoptic.area.report import area_table
from geopanoptic.errors import ConfigError, SceneError, StoreError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.panoptic_map import MapInfo, PanopticMap, write_map_json
from geopanoptic.raster import LabelWriter, publish_cog
from geopanoptic.schema import LabelSchema

UTM = GeoRef(rasterio.crs.CRS.from_epsg(32610).to_wkt(), Affine(2, 0, 5e5, 0, -2, 5e6), (240, 300))
NAMES = {101: "grass", 104: "grass to road", 404: "road"}


def write_labels(path: Path, values: np.ndarray, georef: GeoRef) -> Path:
    tiled = path.with_suffix(".tiled.tif")
    with LabelWriter(tiled, georef, str(values.dtype)) as writer:
        writer.write(Window.whole(values.shape), values)
    publish_cog(tiled, path, overviews="nearest")
    tiled.unlink()
    return path


def write_table(path: Path, names: dict[int, str]) -> None:
    """Write the attribute table that a change's rasters have beside them."""
    fields = "".join(
        f'<FieldDefn index="{k}"><Name>{n}</Name><Type>{t}</Type><Usage>{u}</Usage></FieldDefn>'
        for k, (n, t, u) in enumerate((("Value", 0, 5), ("Class", 2, 2)))
    )
    rows = "".join(
        f'<Row index="{k}"><F>{v}</F><F>{n}</F></Row>' for k, (v, n) in enumerate(names.items())
    )
    Path(f"{path}.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><GDALRasterAttributeTable tableType='thematic'>"
        f"{fields}{rows}</GDALRasterAttributeTable></PAMRasterBand></PAMDataset>"
    )


@pytest.fixture(scope="module")
def change(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The rasters of a change: 1 % grass became road; a rim of nodata."""
    folder = tmp_path_factory.mktemp("change")
    codes = np.full((240, 300), 101, np.uint16)
    codes[150:] = 404
    codes[40:60, 40:80] = 104
    codes[:5] = 0
    status = np.select([codes == 0, codes == 104], [0, 2], 1).astype(np.uint8)
    write_labels(folder / "changes.tif", codes, UTM)
    write_labels(folder / "changes_status.tif", status, UTM)
    write_table(folder / "changes.tif", NAMES)
    (folder / "changes.gpkg").touch()
    return folder / "changes.gpkg"


def label(path: Path, answer, blind: bool = True) -> Path:
    """Interpret every unit: `answer(row, col)` -> class; saved as the interpreter would."""
    frame = geopandas.read_file(path, layer="sample")
    frame["reference"] = [answer(r, c) for r, c in zip(frame["row"], frame["col"], strict=True)]
    done = path.with_name(path.stem + "_labelled.gpkg")
    frame.to_file(done, layer="sample", driver="GPKG")
    return done


def truth_of(change: Path):
    with rasterio.open(change.with_suffix(".tif")) as raster:
        codes = raster.read(1)
    return lambda r, c: NAMES[int(codes[r, c])]


def test_a_perfect_map_gets_its_own_areas_back(change: Path, tmp_path: Path) -> None:
    report = draw_sample(change, tmp_path / "s.gpkg", SampleSettings(se=0.02))
    assert {s["stratum"] for s in report.strata} == set(NAMES.values())
    done = label(tmp_path / "s_blind.gpkg", truth_of(change))
    found = estimate_areas(done, EstimateSettings(strata_from=change.with_suffix(".tif")))
    facts = found.to_json()
    assert facts["estimator"] == "olofsson2014"
    for row in facts["per_class"].values():
        assert row["area"]["value"] == pytest.approx(row["mapped_area"])
        assert row["area"]["se"] == 0
        # UTM away from its meridian: true hectares are not the nominal ones
        assert row["mapped_area"] == pytest.approx(row["mapped_pixels"] * 4 / 1e4, rel=1e-3)
    total = sum(r["area"]["value"] for r in facts["per_class"].values())
    assert total == pytest.approx(facts["total_area"])


def test_the_blind_copy_tells_neither_stratum_nor_class(change: Path, tmp_path: Path) -> None:
    draw_sample(change, tmp_path / "s.gpkg", SampleSettings(se=0.05))
    with closing(sqlite3.connect(tmp_path / "s_blind.gpkg")) as db:
        tables = {n for (n,) in db.execute("SELECT table_name FROM gpkg_contents")}
        assert tables == {"sample", "pixels", "layer_styles"}
        for name in ("sample", "pixels"):
            columns = {row[1] for row in db.execute(f"PRAGMA table_info({name})")}
            assert not columns & {"stratum", "map_class", "units", "pixels"}
        (qml,) = db.execute("SELECT styleQML FROM layer_styles WHERE f_table_name='sample'")
    assert set(re.findall(r'name="(grass[^"]*|road)"', qml[0])) == set(NAMES.values())
    full = geopandas.read_file(tmp_path / "s.gpkg", layer="sample")
    # numbers say nothing of the stratum: each has low and high ones
    for _, group in full.groupby("stratum"):
        assert group["sample_id"].min() < 0.25 * len(full)
        assert group["sample_id"].max() > 0.75 * len(full)


def test_units_lie_on_their_pixels_and_are_all_different(change: Path, tmp_path: Path) -> None:
    draw_sample(change, tmp_path / "s.gpkg", SampleSettings(se=0.02, seed=5))
    full = geopandas.read_file(tmp_path / "s.gpkg", layer="sample")
    squares = geopandas.read_file(tmp_path / "s.gpkg", layer="pixels")
    assert not full.duplicated(["row", "col"]).any()
    truth = truth_of(change)
    for row in full.itertuples():
        assert row.stratum == row.map_class == truth(row.row, row.col)
    assert squares.geometry.contains(full.geometry).all()
    assert squares.area.round(6).unique().tolist() == [4.0]
    with rasterio.open(change.with_suffix(".tif")) as raster:
        values = [v[0] for v in raster.sample(zip(full.geometry.x, full.geometry.y, strict=True))]
    assert [NAMES[int(v)] for v in values] == full["map_class"].tolist()


def test_a_seed_gives_the_same_sample_again(change: Path, tmp_path: Path) -> None:
    places = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        draw_sample(change, tmp_path / f"{name}.gpkg", SampleSettings(se=0.05, seed=seed))
        frame = geopandas.read_file(tmp_path / f"{name}.gpkg", layer="sample")
        places.append(frame[["row", "col"]].to_numpy().tolist())
    assert places[0] == places[1] != places[2]


def test_strata_that_are_no_classes_give_stehman(change: Path, tmp_path: Path) -> None:
    settings = SampleSettings(strata="status", label="transitions", units=400)
    draw_sample(change, tmp_path / "s.gpkg", settings)
    done = label(tmp_path / "s_blind.gpkg", truth_of(change))
    with pytest.raises(SceneError, match="not in"):
        estimate_areas(
            done, EstimateSettings(change.with_suffix(".tif"), None, tmp_path / "s.gpkg")
        )
    facts = estimate_areas(done, EstimateSettings(change, "status", tmp_path / "s.gpkg")).to_json()
    assert facts["estimator"] == "stehman2014"
    assert facts["overall_accuracy"]["value"] == 1
    assert facts["per_class"]["grass to road"]["area"]["se"] == 0  # all of it is one stratum
    grass = facts["per_class"]["grass"]
    assert abs(grass["area"]["value"] - grass["mapped_area"]) < 3 * grass["area"]["se"]
    assert grass["mapped_pixels"] == 145 * 300 - 20 * 40


def test_rare_strata_are_put_together(change: Path, tmp_path: Path) -> None:
    codes = np.full((100, 100), 101, np.uint16)
    codes[0, :10], codes[1, :10] = 104, 404
    raster = write_labels(tmp_path / "c.tif", codes, UTM.crop(Window(0, 0, 100, 100)))
    settings = SampleSettings(units=200, rare=0.01)
    report = draw_sample(raster, tmp_path / "s.gpkg", settings)
    assert [(s["stratum"], s["units"]) for s in report.strata] == [("value 101", 180), ("rare", 20)]
    assert "fewer than 50 pixels" in report.warnings[0]
    done = label(tmp_path / "s.gpkg", lambda r, c: f"value {codes[r, c]}")
    found = estimate_areas(done, EstimateSettings(strata_from=raster)).to_json()
    assert found["estimator"] == "stehman2014"
    assert found["per_class"]["value 104"]["area"]["value"] == pytest.approx(10 * 4e-4, rel=1e-3)


def test_a_map_is_sampled_by_its_classes(tmp_path: Path) -> None:
    folder = tmp_path / "town.panoptic"
    folder.mkdir()
    classes = np.where(np.arange(300) < 200, 3, 5) * np.ones((240, 1), int)
    classes[100:120, 100:150], classes[200:, :50] = 1, 255
    write_labels(folder / "semantic.tif", classes.astype(np.uint8), UTM)
    write_labels(folder / "instances.tif", (classes == 1).astype(np.int32), UTM)
    write_map_json(folder, MapInfo(LabelSchema.default()))
    report = draw_sample(
        folder, tmp_path / "s.gpkg", SampleSettings(accuracy={"": 0.9, "building": 0.5})
    )
    assert [s["stratum"] for s in report.strata] == ["building", "tree", "road"]
    assert sum(s["pixels"] for s in report.strata) == (classes != 255).sum()
    done = label(tmp_path / "s_blind.gpkg", lambda r, c: "water" if r < 60 else "tree")
    found = estimate_areas(done, EstimateSettings(strata_from=folder, sample=tmp_path / "s.gpkg"))
    water = found.to_json()["per_class"]["water"]
    assert water["mapped_area"] is None
    assert abs(water["area"]["value"] - 60 * 300 * 4e-4) < 3 * water["area"]["se"]
    assert "no class of the map" in " ".join(found.warnings)
    assert PanopticMap.open(folder).georef == UTM


def test_the_report_shows_both_areas_and_warns(change: Path, tmp_path: Path) -> None:
    draw_sample(change, tmp_path / "s.gpkg", SampleSettings(units=150))
    truth, seen = truth_of(change), []

    def answer(r: int, c: int) -> str:
        if truth(r, c) == "grass to road":  # one unit only has an answer
            seen.append(r)
            return "grass to road" if len(seen) == 1 else ""
        return "road" if (r + c) % 7 == 0 else truth(r, c)

    done = label(tmp_path / "s.gpkg", answer)
    outs = (tmp_path / "a.json", tmp_path / "a.html")
    report = estimate_areas(done, EstimateSettings(sample=tmp_path / "s.gpkg"), outs)
    text = area_table(report)
    assert "mapped ha" in text
    assert "adjusted ha" in text
    assert "not an estimate of area" in text
    assert "'grass to road' has one unit only" in text
    assert "49 units have no answer" in text
    facts = json.loads(outs[0].read_text())
    assert facts["per_class"]["grass"]["area"]["se"] is None
    assert facts["per_class"]["grass"]["users_accuracy"]["se"] > 0
    page = outs[1].read_text()
    assert "<script" not in page
    assert "http" not in page
    with pytest.raises(StoreError, match="exists"):
        estimate_areas(done, EstimateSettings(sample=tmp_path / "s.gpkg"), outs)


def test_a_table_of_anybody_is_enough(tmp_path: Path) -> None:
    # stratum sizes from a raster, units from a CSV; numbers as class names
    codes = np.where(np.arange(100) < 25, 1, 2) * np.ones((40, 1), int)
    raster = write_labels(tmp_path / "m.tif", codes.astype(np.uint8), GeoRef.of_pixels((40, 100)))
    table = tmp_path / "u.csv"
    table.write_text("map,ref\n" + "1,1\n" * 8 + "1,2\n" * 2 + "2,2\n" * 10)
    facts = estimate_areas(table, EstimateSettings(strata_from=raster)).to_json()
    assert facts["unit"] == "px"
    assert facts["per_class"]["1"]["area"]["value"] == pytest.approx(0.25 * 0.8 * 4000)
    assert facts["per_class"]["1"]["mapped_area"] == 1000


@given(st.integers(0, 2**32), st.sampled_from([4326, 32610]))
def test_every_square_metre_is_as_likely_as_any_other(seed: int, epsg: int) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 3, (12, 9)).astype(np.uint8)
    values[0, :2] = 1, 2
    step, corner = (4.0, (0.0, 64.0)) if epsg == 4326 else (10.0, (5e5, 5e6))
    transform = Affine(step, 0, corner[0], 0, -step, corner[1])
    georef = GeoRef(rasterio.crs.CRS.from_epsg(epsg).to_wkt(), transform, values.shape)
    plane = Plane("x", georef, lambda w: values[w.slices], {}, frozenset({0}))
    census = take_census(plane, plane)
    assert census.pixels.tolist() == [(values == 1).sum(), (values == 2).sum()]
    units = np.minimum(census.pixels, [2, 30])
    drawn = draw_pixels(census, np.arange(2), units, (plane, plane), rng)
    assert (values[drawn.row, drawn.col] == drawn.pair + 1).all()
    assert len({*zip(drawn.row.tolist(), drawn.col.tolist(), strict=True)}) == units.sum()


def test_pixels_of_degrees_are_drawn_by_their_true_area() -> None:
    # From the equator to 80 degrees: pixels of the last rows are a fifth of the first ones.
    values = np.ones((40, 500), np.uint8)
    georef = GeoRef("EPSG:4326", Affine(0.01, 0, 0, 0, -2, 80), values.shape)
    georef = GeoRef(rasterio.crs.CRS.from_epsg(4326).to_wkt(), georef.transform, values.shape)
    plane = Plane("x", georef, lambda w: values[w.slices], {}, frozenset({0}))
    census = take_census(plane, plane)
    rng = np.random.default_rng(3)
    drawn = draw_pixels(census, np.zeros(1, int), np.array([3000]), (plane, plane), rng)
    share = np.bincount(drawn.row // 10, minlength=4) / 3000
    expected = census.row_area.reshape(4, 10).sum(axis=1) / census.row_area.sum()
    assert abs(share - expected).max() < 0.03
    assert expected[0] < 0.5 * expected[3]


def test_refusals_name_the_cure(change: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.gpkg"
    with pytest.raises(ConfigError, match="give a map"):
        draw_sample(change, out, SampleSettings(strata="classes"))
    with pytest.raises(SceneError, match="geopanoptic change"):
        draw_sample(tmp_path / "none.gpkg", out)
    with pytest.raises(ConfigError, match="did you mean 'road'"):
        draw_sample(change, out, SampleSettings(accuracy={"raod": 0.9}))
    with pytest.raises(ConfigError, match="two units at least"):
        SampleSettings(least=1)
    with pytest.raises(StoreError, match=r"\.gpkg"):
        draw_sample(change, tmp_path / "s.geojson")
    draw_sample(change, out, SampleSettings(units=100))
    with pytest.raises(SceneError, match="none of 150 units has an answer"):
        estimate_areas(out)
    (tmp_path / "other").mkdir()
    lonely = label(tmp_path / "s_blind.gpkg", lambda r, c: "road").rename(
        tmp_path / "other" / "x.gpkg"
    )
    with pytest.raises(SceneError, match="--sample"):
        estimate_areas(lonely)
    with pytest.raises(SceneError, match="did you mean 'reference'"):
        estimate_areas(out, EstimateSettings(reference_field="referenz"))


def test_names_come_from_the_attribute_table_or_the_categories(change: Path) -> None:
    assert raster_names(change.with_suffix(".tif")) == NAMES
    assert open_plane(change, "status").names == {1: "unchanged", 2: "changed", 3: "below_mmu"}

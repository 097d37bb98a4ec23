"""Change between two maps: the raster half, end to end. Invariants 6 to 13 of the design."""

from __future__ import annotations

import csv
import json
import sqlite3
import warnings
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from change_maps import AT, Dated, rebuilt, town, write_labels

from geopanoptic.change import ChangeSettings, Comparison, Running, change
from geopanoptic.errors import ConfigError, SceneError, StoreError

CASES = (
    "base", "cloud", "geographic_45n", "identity", "mirrored", "misregistered", "other_crs",
)  # fmt: skip
MIRROR = {"added": "removed", "grown": "shrunk", "split": "merged"}
MIRROR |= {b: a for a, b in MIRROR.items()}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    before = town()
    return (
        before.change(date="2014-05-01").write(folder / "before.panoptic"),
        rebuilt(before).change(date="2024-05-01").write(folder / "after.panoptic"),
    )


@pytest.fixture(scope="module")
def compared(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    out = tmp_path_factory.mktemp("out") / "changes.gpkg"
    return change(*pair, out, ChangeSettings(mmu_m2=12.0))


def events_of(found: Comparison) -> dict[tuple[str, str], str]:
    columns = found.events.columns
    keys = zip(columns["before_ids"], columns["after_ids"], strict=True)
    return {
        (b or "", a or ""): s for (b, a), s in zip(keys, columns["status"], strict=True)
    }  # fmt: skip


def counted(found: Comparison) -> dict[str, int]:
    return {k: n for k, n in found["objects"]["counts"].items() if n}


def write_pair(folder: Path, before: Dated, after: Dated) -> tuple[Path, Path]:
    return before.write(folder / "b.panoptic"), after.write(folder / "a.panoptic")


# --- cases with answers known by construction


@pytest.mark.parametrize("case", CASES)
def test_the_cases_give_the_statuses_matrices_and_offsets_they_were_made_with(
    case: str, shared: Path, tmp_path: Path
) -> None:
    folder = shared / "reference" / "change_cases" / case
    if not folder.is_dir():
        pytest.skip(f"no case {folder}")
    expected = json.loads((folder / "expected.json").read_text())
    sides = [f"{folder}/{s}_class.tif,{folder}/{s}_id.tif" for s in ("before", "after")]
    found = change(*sides, tmp_path / "changes.gpkg")
    got = events_of(found)
    for event in expected["events"]:
        if event.get("judge", True):
            key = tuple(";".join(map(str, event[k])) for k in ("before_ids", "after_ids"))
            assert got[key] == event["status"], event
    if "from_to_px" in expected:
        assert found["matrix_px"] == expected["from_to_px"]
        assert found["common"]["px"] == expected["common_valid_px"]
        for a, row in expected["from_to_m2_true"].items():
            for b, m2 in row.items():
                assert found["matrix_m2"][a][b] == pytest.approx(m2, rel=2e-5)
    offset = expected.get("offset_m_after_minus_before", [0.0, 0.0])
    assert found["registration"]["offset_m"] == pytest.approx(offset, abs=0.1)


def test_a_misregistered_map_that_must_not_be_moved_is_warned_about(
    shared: Path, tmp_path: Path
) -> None:
    folder = shared / "reference" / "change_cases" / "misregistered"
    if not folder.is_dir():
        pytest.skip(f"no case {folder}")
    sides = [f"{folder}/{s}_class.tif,{folder}/{s}_id.tif" for s in ("before", "after")]
    found = change(*sides, tmp_path / "changes.gpkg", ChangeSettings(register="none"))
    assert not found["registration"]["is_applied"]
    assert found["registration"]["offset_m"] == pytest.approx([1.5, 1.0], abs=0.1)
    assert any("(+1.50, +1.00) m" in w and "--register none" in w for w in found["warnings"])
    assert "(+1.50, +1.00) m" in (tmp_path / "report.html").read_text()


# --- invariants


def test_a_map_against_itself_is_all_unchanged(pair: tuple[Path, Path], tmp_path: Path) -> None:
    found = change(pair[0], pair[0], tmp_path / "changes.gpkg")
    assert set(counted(found)) == {"unchanged"}
    assert all(set(row) == {k} for k, row in found["matrix_px"].items())
    assert not found.has_changed


def test_other_ids_change_nothing_but_ids(
    pair: tuple[Path, Path], compared: Comparison, tmp_path: Path
) -> None:
    other = rebuilt(town()).renumbered(77).write(tmp_path / "a.panoptic")
    found = change(pair[0], other, tmp_path / "changes.gpkg", ChangeSettings(mmu_m2=12.0))
    assert counted(found) == counted(compared)
    assert found["matrix_px"] == compared["matrix_px"]
    assert found["registration"]["offset_m"] == compared["registration"]["offset_m"]


def test_swapped_dates_give_the_mirror_image(
    pair: tuple[Path, Path], compared: Comparison, tmp_path: Path
) -> None:
    found = change(pair[1], pair[0], tmp_path / "changes.gpkg", ChangeSettings(mmu_m2=12.0))
    assert events_of(found) == {
        (a, b): MIRROR.get(s, s) for (b, a), s in events_of(compared).items()
    }
    transposed: dict[str, dict[str, int]] = {}
    for a, row in compared["matrix_px"].items():
        for b, n in row.items():
            transposed.setdefault(b, {})[a] = n
    assert found["matrix_px"] == transposed
    there, back = (c["registration"]["found"]["m"] for c in (compared, found))
    assert back == pytest.approx([-v for v in there], abs=1e-3)


def test_every_object_is_in_exactly_one_event(compared: Comparison) -> None:
    columns = compared.events.columns
    assert columns["n_before"].sum() == compared["objects"]["n_before"] == len(compared.before)
    assert columns["n_after"].sum() == compared["objects"]["n_after"] == len(compared.after)


def test_matrix_patches_and_class_areas_add_up(compared: Comparison) -> None:
    rows, summary = compared["transitions"], compared["class_summary"]
    assert sum(r["pixels"] for r in rows) == compared["common"]["px"]
    assert sum(r["area_m2"] for r in rows) == pytest.approx(compared["common"]["m2"], rel=1e-12)
    for row in summary:
        before = sum(r["area_m2"] for r in rows if r["from_id"] == row["class_id"])
        after = sum(r["area_m2"] for r in rows if r["to_id"] == row["class_id"])
        assert row["before_m2"] == pytest.approx(before, rel=1e-12)
        assert row["after_m2"] == pytest.approx(after, rel=1e-12)
        assert row["persistence_m2"] + row["loss_m2"] == pytest.approx(before, rel=1e-9)
        if before and after:
            assert row["annual_rate"] == pytest.approx(np.log(after / before) / 10, rel=1e-3)
    same = sum(r["pixels"] for r in rows if not r["changed"])
    patches = compared["patches"]
    assert same + sum(patches["pixels"].values()) == compared["common"]["px"]
    same_m2 = sum(r["area_m2"] for r in rows if not r["changed"])
    total = same_m2 + sum(patches["area_m2"].values())
    assert total == pytest.approx(compared["common"]["m2"], rel=1e-6)
    assert patches["count"]["below_mmu"] > 0
    assert patches["count"]["changed"] > 0


def test_more_nodata_never_adds_or_removes_an_object(
    pair: tuple[Path, Path], compared: Comparison, tmp_path: Path
) -> None:
    cloud = slice(90, 210), slice(60, 260)
    before, after = town(), rebuilt(town())
    was = events_of(change(*pair, tmp_path / "changes.gpkg"))
    alone = {k: s for k, s in was.items() if s in ("added", "removed")}
    for name, sides in (
        ("before", (before.hidden(*cloud), after)), ("after", (before, after.hidden(*cloud))),
    ):  # fmt: skip
        folder = tmp_path / name
        found = change(*write_pair(folder, *sides), folder / "changes.gpkg")
        now = events_of(found)
        assert "unobserved" in now.values()
        for key, status in now.items():
            if status in ("added", "removed"):
                assert alone.get(key) == status, f"{key} became {status} under a cloud"


def test_a_mask_hides_like_nodata(pair: tuple[Path, Path], tmp_path: Path) -> None:
    import geopandas

    rows, cols = slice(90, 210), slice(60, 260)
    clear = np.ones((300, 340), np.uint8)
    clear[rows, cols] = 0
    raster = write_labels(tmp_path / "clear.tif", clear, "EPSG:32631", AT)
    x0, y0 = AT @ (cols.start, rows.start)
    x1, y1 = AT @ (cols.stop, rows.stop)
    box = geopandas.GeoSeries([shapely.box(x0, y1, x1, y0)], crs="EPSG:32631")
    vector = tmp_path / "cloud.gpkg"
    box.to_crs(4326).to_frame("geometry").to_file(vector)
    results = []
    for k, mask in enumerate((raster, vector)):
        out = tmp_path / f"m{k}.gpkg"
        found = change(*pair, out, ChangeSettings(mask_after=str(mask)))
        assert found["not_comparable"]["after"]["mask"] == 120 * 200
        assert found["common"]["px"] == 300 * 340 - 120 * 200
        assert counted(found)["unobserved"] > 3
        results.append(counted(found))
    assert results[0] == results[1]


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:4326"])
def test_both_maps_on_another_projection_say_the_same(
    crs: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    plain = change(*pair, tmp_path / "changes.gpkg", ChangeSettings(tolerance_m=1.5))
    sides = [_warped(side, tmp_path / f"{k}.panoptic", crs) for k, side in enumerate(pair)]
    found = change(*sides, tmp_path / "c.gpkg", ChangeSettings(tolerance_m=1.5))
    assert counted(found) == counted(plain)
    assert found["common"]["m2"] == pytest.approx(plain["common"]["m2"], rel=2e-3)


def _warped(folder: Path, target: Path, crs: str) -> Path:
    """Reproject both rasters of a map by nearest neighbour, at a finer pixel."""
    from rasterio.warp import Resampling, calculate_default_transform, reproject

    target.mkdir()
    for name in ("semantic", "instances"):
        with rasterio.open(folder / f"{name}.tif") as src, warnings.catch_warnings():
            # rasterio still multiplies its transforms the old way
            warnings.simplefilter("ignore", PendingDeprecationWarning)
            t, w, h = calculate_default_transform(
                src.crs, crs, src.width, src.height, *src.bounds,
                dst_width=2 * src.width, dst_height=2 * src.height,
            )  # fmt: skip
            out = np.zeros((h, w), src.dtypes[0])
            reproject(
                rasterio.band(src, 1), out, dst_transform=t, dst_crs=crs,
                resampling=Resampling.nearest,
            )  # fmt: skip
        write_labels(target / f"{name}.tif", out, crs, t)
    (target / "map.json").write_bytes((folder / "map.json").read_bytes())
    return target


def test_one_map_on_another_projection_pixel_and_extent_just_works(
    pair: tuple[Path, Path], compared: Comparison, tmp_path: Path
) -> None:
    other = _warped(pair[1], tmp_path / "a.panoptic", "EPSG:3857")
    for k, grid in enumerate(("before", "after", "finest", "EPSG:32631+0.6")):
        found = change(
            pair[0], other, tmp_path / f"c{k}.gpkg", ChangeSettings(grid=grid, mmu_m2=12.0)
        )
        assert counted(found) == counted(compared), grid
        assert found["common"]["m2"] == pytest.approx(compared["common"]["m2"], rel=0.01)
        assert not found["registration"]["is_applied"]


@pytest.mark.parametrize("shift", [(1.5, 1.0), (-0.85, 0.6), (4.25, -3.1)])
def test_a_displaced_map_is_moved_back_to_a_tenth_of_a_metre(
    shift: tuple[float, float], pair: tuple[Path, Path], compared: Comparison, tmp_path: Path
) -> None:
    other = rebuilt(town()).moved(*shift).write(tmp_path / "a.panoptic")
    found = change(pair[0], other, tmp_path / "changes.gpkg", ChangeSettings(mmu_m2=12.0))
    assert found["registration"]["is_applied"]
    assert found["registration"]["offset_m"] == pytest.approx(shift, abs=0.1)
    assert counted(found) == counted(compared)
    given = change(
        pair[0], other, tmp_path / "g.gpkg",
        ChangeSettings(register=f"{shift[0]},{shift[1]}", mmu_m2=12.0),
    )  # fmt: skip
    assert counted(given) == counted(compared)
    # half a pixel of nearest neighbour is all that may remain
    assert given["common"]["px"] == pytest.approx(compared["common"]["px"], rel=0.01)


def test_blocks_and_threads_change_no_figure(
    pair: tuple[Path, Path], compared: Comparison, tmp_path: Path
) -> None:
    def figures(found: Comparison) -> dict[str, Any]:
        left_out = ("seconds", "parameters")
        return {k: v for k, v in found.report.items() if k not in left_out}

    first = compared.files["changes.tif"].parent
    for block, threads in ((64, 1), (100, 3), (4096, 2)):
        out = tmp_path / f"{block}" / "changes.gpkg"
        out.parent.mkdir()
        settings = ChangeSettings(mmu_m2=12.0, block=block)
        found = change(*pair, out, settings, running=Running(threads=threads))
        want, got = figures(compared), figures(found)
        for report in (want, got):
            report["patches"]["area_m2"] = {
                k: round(v, 6) for k, v in report["patches"]["area_m2"].items()
            }
        assert got == want
        for name in ("changes.tif", "changes_status.tif", "transitions.csv"):
            assert (out.parent / name).read_bytes() == (first / name).read_bytes(), name


# --- the files


def test_rasters_hold_from_to_codes_and_their_status(
    pair: tuple[Path, Path], compared: Comparison
) -> None:
    codes, status = (
        rasterio.open(compared.files[n]).read(1) for n in ("changes.tif", "changes_status.tif")
    )
    before, after = (rasterio.open(p / "semantic.tif").read(1).astype(int) for p in pair)
    assert codes.dtype == np.uint16
    assert (codes == before * 100 + after).all()
    assert ((status == 1) == (before == after)).all()
    patches = pyogrio.read_dataframe(compared.files["changes.gpkg"], layer="landcover_change")
    small = patches[patches.below_mmu | patches.sliver]
    assert (status == 3).sum() == small.pixel_count.sum() > 0
    assert (status == 2).sum() == patches.pixel_count.sum() - small.pixel_count.sum() > 0
    with rasterio.open(compared.files["changes.tif"]) as dataset:
        assert dataset.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert dataset.nodata == 0
    with compared.files["changes.csv"].open() as file:
        legend = list(csv.DictReader(file))
    assert {int(r["value"]) for r in legend} == set(np.unique(codes).tolist())
    assert "field → water" in {r["label"] for r in legend}


def test_the_geopackage_is_complete_and_styled(compared: Comparison) -> None:
    with closing(sqlite3.connect(compared.files["changes.gpkg"])) as db:
        tables = {r[0] for r in db.execute("SELECT table_name FROM gpkg_contents")}
        styled = {r[0] for r in db.execute("SELECT f_table_name FROM layer_styles")}
        parameters = dict(db.execute("SELECT name, value FROM parameters"))
        rows = db.execute("SELECT sum(pixels) FROM transitions").fetchone()[0]
        classes = db.execute("SELECT count(*) FROM class_summary").fetchone()[0]
    layers = {"events", "objects_before", "objects_after", "links", "landcover_change"}
    assert tables >= layers | {"transitions", "class_summary", "parameters", "layer_styles"}
    assert styled == layers
    assert parameters["mmu_m2"] == "12.0"
    assert rows == compared["common"]["px"]
    assert classes == len(compared["class_summary"])


def test_the_page_stands_alone(compared: Comparison) -> None:
    page = compared.files["report.html"].read_text()
    assert "http://" not in page
    assert "https://" not in page
    assert page.count("data:image/png;base64,") == 4  # both maps, objects, land cover
    assert "2014-05-01" in page
    assert "no estimate of how much really changed" in page


def test_names_from_a_map_are_escaped(tmp_path: Path) -> None:
    before = town((120, 120))
    sides = write_pair(tmp_path, before, before)
    info = json.loads((sides[0] / "map.json").read_text())
    info["classes"][0]["name"] = "<script>alert(1)</script>"
    for side in sides:
        (side / "map.json").write_text(json.dumps(info))
    found = change(*sides, tmp_path / "changes.gpkg")
    assert "<script" not in found.files["report.html"].read_text()


# --- refusals


def test_maps_that_do_not_overlap_are_refused_with_both_extents(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    far = town().moved(5000, 0).write(tmp_path / "far.panoptic")
    with pytest.raises(SceneError, match=r"longitude 2\.29.*after covers longitude 2\.35"):
        change(pair[0], far, tmp_path / "changes.gpkg")
    assert list(tmp_path.iterdir()) == [far]


def test_masks_that_hide_everything_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    none = write_labels(tmp_path / "m.tif", np.zeros((300, 340), np.uint8), "EPSG:32631", AT)
    with pytest.raises(SceneError, match="no pixel is observed at both dates"):
        change(*pair, tmp_path / "changes.gpkg", ChangeSettings(mask_before=str(none)))
    assert list(tmp_path.iterdir()) == [none]


def test_outputs_that_exist_are_kept(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("mine")
    with pytest.raises(StoreError, match=r"report\.html exists; use --overwrite"):
        change(*pair, tmp_path / "changes.gpkg")
    change(*pair, tmp_path / "changes.gpkg", overwrite=True)
    assert (tmp_path / "report.html").read_text() != "mine"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"grid": "EPSG:32631"}, "a CRS and a pixel size"),
        ({"register": "1.5"}, "too far east and north"),
        ({"tolerance_m": -1.0}, "--tolerance -1.0"),
        ({"block": 10}, "--block 10"),
        ({"grid": "EPSG:999999+1"}, "no coordinate reference system EPSG:999999"),
        ({"date_before": "last spring"}, "not ISO 8601"),
    ],
)  # fmt: skip
def test_settings_that_make_no_sense_are_refused(
    settings: dict[str, Any], message: str, pair: tuple[Path, Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=message):
        change(*pair, tmp_path / "changes.gpkg", ChangeSettings(**settings))


def test_another_suffix_than_gpkg_is_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"changes\.gpkg"):
        change(*pair, tmp_path / "changes.tif")


@pytest.mark.parametrize("factor", [1.5, 2.4])
def test_a_coarser_map_says_the_same_of_objects_that_are_large_enough(
    factor: float, tmp_path: Path
) -> None:
    before, after = town(), rebuilt(town())
    rows, cols = (
        np.minimum(((np.arange(int(n / factor)) + 0.5) * factor).astype(int), n - 1)
        for n in after.classes.shape
    )
    coarse = after.change(
        classes=np.ascontiguousarray(after.classes[rows[:, None], cols]),
        ids=np.ascontiguousarray(after.ids[rows[:, None], cols]),
        transform=AT @ Affine.scale(factor),
    )
    fine = change(*write_pair(tmp_path / "f", before, after), tmp_path / "f.gpkg")
    found = change(*write_pair(tmp_path / "c", before, coarse), tmp_path / "c.gpkg")
    for status in ("added", "removed"):
        assert counted(found)[status] == counted(fine)[status]
    assert found["registration"]["offset_m"] == pytest.approx([0, 0], abs=0.15 * factor)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_scene(tmp_path: Path) -> None:
    """Peak resident size of fresh processes; the larger maps are 335 MB of pixels each."""
    import sys

    sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "change"))
    from bench_maps import measure

    small, large = (measure(size, tmp_path) for size in (4096, 8192))
    assert small["counts"] == large["counts"]
    assert large["peak_mb"] < small["peak_mb"] + 150

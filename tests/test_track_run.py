"""`geopanoptic track` from files to files: maps, vectors, STAC, appending, rasters, QGIS."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
from affine import Affine
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from geopanoptic.change import ChangeSettings, change
from geopanoptic.cli.evaluate import evaluate as evaluate_command
from geopanoptic.cli.track import track as command
from geopanoptic.errors import ConfigError, SceneError, SchemaError, StoreError
from geopanoptic.evaluate import EvaluateSettings, evaluate
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.panoptic_map import MapInfo, PanopticMap, segment_areas_m2, write_map_json
from geopanoptic.raster import LabelReader, LabelWriter
from geopanoptic.schema import ClassSpec, LabelSchema
from geopanoptic.track import (
    TrackOutputs,
    TrackSettings,
    from_glob,
    from_stac,
    read_pair,
    track,
)
from geopanoptic.track.pixels import Trajectories, summarised

ROOT = Path(__file__).parents[1]
SCHEMA = LabelSchema(
    (
        ClassSpec(1, "building", "thing", "#d1495b"),
        ClassSpec(2, "grass", "stuff", "#a6d96a"),
        ClassSpec(3, "water", "stuff", "#2b83ba"),
    )
)
UTM = "EPSG:32631"
Box = tuple[int, int, int, int]

# row, col, stop row, stop col of a settlement
TOWN: list[Box] = [(10 + 40 * r, 10 + 40 * c, 28 + 40 * r, 34 + 40 * c)
                   for r in range(4) for c in range(4)]  # fmt: skip


def write_map(
    folder: Path,
    boxes: list[Box],
    date: str | None = None,
    water: Any = None,
    nodata: Any = None,
    corner: tuple[float, float] = (500000.0, 5400000.0),
) -> str:
    """Write a map directory of buildings on grass, 0.5 m pixels; ids in reverse order."""
    shape = (170, 180)
    classes, ids = np.full(shape, 2, np.uint8), np.zeros(shape, np.int32)
    if water is not None:
        classes[water] = 3
    for k, (r0, c0, r1, c1) in enumerate(boxes):
        classes[r0:r1, c0:c1], ids[r0:r1, c0:c1] = 1, len(boxes) - k
    if nodata is not None:
        classes[nodata], ids[nodata] = 0, 0
    georef = GeoRef(_wkt(UTM), Affine(0.5, 0, corner[0], 0, -0.5, corner[1]), shape)
    write_map_json(folder, MapInfo(SCHEMA, date))
    for name, labels in (("semantic", classes), ("instances", ids)):
        with LabelWriter(folder / f"{name}.tif", georef, str(labels.dtype)) as writer:
            writer.write(Window.whole(shape), labels)
    return str(folder)


def _wkt(code: str) -> str:
    import pyproj

    return str(pyproj.CRS.from_user_input(code).to_wkt())


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Five dates: a building goes, one comes, one splits and heals, one date is under nodata."""
    folder = tmp_path_factory.mktemp("maps")
    west, east = (10, 10, 28, 20), (10, 22, 28, 34)
    lake = np.s_[130:, 130:]
    few = TOWN[:15]
    return [
        ("2018-05-01", write_map(folder / "town-2018-05-01.panoptic", few, "2018-05-01")),
        ("2019-05-01", write_map(folder / "town-2019-05-01.panoptic", [*few[:3], *few[4:]],
                                 "2019-05-01", lake)),
        ("2020-05-01", write_map(folder / "town-2020-05-01.panoptic", [], "2020-05-01",
                                 nodata=np.s_[:])),
        ("2021-05-01", write_map(folder / "town-2021-05-01.panoptic",
                                 [west, east, *few[1:3], *few[4:]], "2021-05-01", lake)),
        ("2022-05-01", write_map(folder / "town-2022-05-01.panoptic",
                                 [*few[:3], *few[4:], (130, 132, 140, 142)], "2022-05-01")),
    ]  # fmt: skip


@pytest.fixture(scope="module")
def found(
    maps: list[tuple[str, str]], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Any, Path]:
    out = tmp_path_factory.mktemp("tracks")
    return track(maps, TrackOutputs(out / "tracks.gpkg", rasters=out / "rasters")), out


def table(path: Path, layer: str) -> Any:
    return geopandas.read_file(path, layer=layer)


# --- the file ------------------------------------------------------------------------------------


def test_the_story_of_the_town_is_in_the_tables(found: tuple[Any, Path]) -> None:
    result, out = found
    assert (result["tracks"], result["added"], result["removed"]) == (17, 1, 1)
    assert (result["split"], result["merged"]) == (1, 1)
    tracks = table(out / "tracks.gpkg", "tracks").set_index("track_id")
    assert dict(tracks["state"].value_counts()) == {"present": 15, "gone": 1, "continued": 1}
    gone = tracks[tracks["state"] == "gone"].iloc[0]
    assert (gone["gone_after"].year, gone["gone_before"].year) == (2018, 2019)
    new = tracks[tracks["built_after"].notna()].iloc[0]
    assert (new["built_after"].year, new["built_before"].year) == (2021, 2022)
    lineage = table(out / "tracks.gpkg", "lineage")
    assert lineage["kind"].tolist() == ["split", "merged"]
    assert lineage["date_before"].tolist() == ["2019-05-01", "2021-05-01"]
    assert (tracks.loc[lineage["child_track"][0], "parents"]) == str(lineage["parent_track"][0])


def test_areas_per_date_are_those_of_the_maps(
    maps: list[tuple[str, str]], found: tuple[Any, Path]
) -> None:
    _, out = found
    seen = table(out / "tracks.gpkg", "observations")
    line = table(out / "tracks.gpkg", "timeline")
    for date, path in maps:
        panoptic = PanopticMap.open(path)
        things = panoptic.segment_table.things
        area = float(segment_areas_m2(things, panoptic.georef).sum())
        assert seen["area_m2"][seen["date"] == date].sum() == pytest.approx(area, rel=1e-12)
        assert line["area_m2"][line["date"] == date].sum() == pytest.approx(area, rel=1e-12)
        assert line["count"][line["date"] == date].sum() == len(things)
        ids = seen["object_id"][seen["date"] == date]
        assert sorted(ids) == sorted(things.id.tolist())


def test_times_are_real_datetimes_and_the_styles_know_them(found: tuple[Any, Path]) -> None:
    _, out = found
    seen = table(out / "tracks.gpkg", "observations")
    assert str(seen["date_from"].dtype).startswith("datetime64")
    assert (seen["date_from"] < seen["date_to"]).all()
    with closing(sqlite3.connect(out / "tracks.gpkg")) as db:
        kinds = {row[1]: row[2] for row in db.execute("PRAGMA table_info(observations)")}
        styles = dict(db.execute("SELECT f_table_name, styleQML FROM layer_styles"))
    assert (kinds["date_from"], kinds["date_to"]) == ("DATETIME", "DATETIME")
    assert 'startField="date_from" endField="date_to"' in styles["observations"]
    assert 'enabled="1" mode="2"' in styles["tracks"]
    statuses = set(seen["status"])
    assert all(f'value="{word}"' in styles["observations"] for word in statuses)


def test_appending_gives_the_same_as_tracking_anew(
    maps: list[tuple[str, str]], found: tuple[Any, Path], tmp_path: Path
) -> None:
    _, out = found
    path = tmp_path / "grown.gpkg"
    track(maps[:3], path)
    before = table(path, "observations")
    for k in (3, 4):
        track(maps[k : k + 1], TrackOutputs(path, append=path))
    grown, whole = table(path, "observations"), table(out / "tracks.gpkg", "observations")
    for column in ("track_id", "date", "object_id", "status", "area_m2"):
        assert grown[column].tolist() == whole[column].tolist(), column
    assert (
        table(path, "tracks")
        .drop(columns="geometry")
        .equals(table(out / "tracks.gpkg", "tracks").drop(columns="geometry"))
    )
    known = grown.merge(before, on=["date", "object_id"], suffixes=("", "_old"))
    assert len(known) == len(before)
    assert (known["track_id"] == known["track_id_old"]).all()


def test_appending_refuses_what_would_change_ids(
    maps: list[tuple[str, str]], tmp_path: Path
) -> None:
    path = tmp_path / "t.gpkg"
    track(maps[1:3], path)
    with pytest.raises(ConfigError, match="2018-05-01 lies before 2020-05-01"):
        track(maps[:1], TrackOutputs(path, append=path))
    with pytest.raises(ConfigError, match="2020-05-01 is in the file already"):
        track(maps[2:3], TrackOutputs(path, append=path))
    with pytest.raises(StoreError, match="no such file"):
        track(maps[3:], TrackOutputs(tmp_path / "x.gpkg", append=tmp_path / "none.gpkg"))
    with closing(sqlite3.connect(path)) as db, db:
        names = db.execute(
            "SELECT name FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'observations'"
        ).fetchall()
        for (name,) in names:
            db.execute(f'DROP TRIGGER "{name}"')
        db.execute("UPDATE observations SET track_id = track_id + 100 WHERE track_id = 1")
    with pytest.raises(StoreError, match="would change"):
        track(maps[3:4], TrackOutputs(path, append=path))


# --- pixels --------------------------------------------------------------------------------------


def test_rasters_of_track_ids_are_the_maps_with_other_numbers(
    maps: list[tuple[str, str]], found: tuple[Any, Path]
) -> None:
    _, out = found
    seen = table(out / "tracks.gpkg", "observations")
    for date, path in maps:
        ids = PanopticMap.open(path).read(Window(0, 0, 170, 180))[1]
        tracks = LabelReader(out / "rasters" / f"track_ids_{date}.tif").read()
        rows = seen[seen["date"] == date]
        lookup = dict(zip(rows["object_id"], rows["track_id"], strict=True)) | {0: 0}
        assert np.array_equal(np.vectorize(lookup.get)(ids), tracks), date


def test_class_rasters_tell_when_and_how_often_a_pixel_changed(found: tuple[Any, Path]) -> None:
    result, out = found
    first, changes, last = (
        LabelReader(out / "rasters" / f"{n}.tif").read()
        for n in ("first_change_date", "n_changes", "last_class")
    )
    lake, house = (150, 150), (130, 134)
    assert (first[lake], changes[lake], last[lake]) == (20190501, 2, 2)  # grass, water, grass
    assert (first[house], changes[house], last[house]) == (20190501, 2, 1)
    assert (first[5, 5], changes[5, 5], last[5, 5]) == (0, 0, 2)
    rows = result.trajectories
    assert sum(rows["pixels"]) == 170 * 180
    assert "grass > water > grass" in rows["trajectory"]
    stored = table(out / "tracks.gpkg", "trajectories")
    assert stored["pixels"].tolist() == rows["pixels"]
    assert stored["share"].sum() == pytest.approx(1.0)


@given(st.integers(0, 2**16), st.integers(1, 6))
def test_trajectories_are_those_of_every_pixel_by_itself(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.choice([0, 0, 1, 2, 3], (n, 5, 6)).astype(np.uint8)
    row_m2 = rng.uniform(1, 2, 5)
    counted = Trajectories(SCHEMA)
    counted.add(classes, row_m2)
    dates = np.array([20000101 + 10000 * k for k in range(n)])
    first, changes, last = summarised(classes, dates)
    wanted: dict[tuple[int, ...], float] = {}
    for r in range(5):
        for c in range(6):
            seen = [(int(dates[k]), int(classes[k, r, c])) for k in range(n) if classes[k, r, c]]
            path = tuple(v for k, (_, v) in enumerate(seen) if k == 0 or seen[k - 1][1] != v)
            turns = [d for k, (d, v) in enumerate(seen) if k and seen[k - 1][1] != v]
            assert first[r, c] == (turns[0] if turns else 0)
            assert changes[r, c] == (len(turns) if seen else 255)
            assert last[r, c] == (seen[-1][1] if seen else 0)
            if path:
                wanted[path] = wanted.get(path, 0.0) + row_m2[r]
    assert counted.area_m2 == pytest.approx(wanted)


def test_rasters_are_replaced_only_when_asked_for_and_unknown_classes_are_named(
    maps: list[tuple[str, str]], tmp_path: Path
) -> None:
    (tmp_path / "n_changes.tif").touch()
    with pytest.raises(StoreError, match=r"n_changes.*exists"):
        track(maps[:2], TrackOutputs(tmp_path / "t.gpkg", rasters=tmp_path))
    with pytest.raises(SchemaError, match="did you mean 'building'"):
        track(maps[:2], settings=TrackSettings(classes=("buildings",)))
    assert track(maps[:2], settings=TrackSettings(classes=("building",)))["tracks"] == 15


# --- frames --------------------------------------------------------------------------------------


def test_two_maps_are_tracked_as_change_compares_them(shared: Path) -> None:
    folder = shared / "reference" / "change_cases"
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    for case in ("base", "cloud", "misregistered"):
        sides = [
            f"{folder / case / f'{side}_class.tif'},{folder / case / f'{side}_id.tif'}"
            for side in ("before", "after")
        ]
        compared = change(sides[0], sides[1], settings=ChangeSettings())
        result = track([("2018", sides[0]), ("2020", sides[1])])
        counts = compared.events.counts(below_mmu=True)
        got = {k: result[k] for k in ("added", "removed", "split", "merged", "complex")}
        assert got == {k: counts[k] for k in got}, case
        applied = result["registration"]["2020-01-01"]["applied"]["m"]
        assert applied == pytest.approx(compared.report["registration"]["applied"]["m"])


def test_a_map_that_lies_off_is_moved_and_tracked(tmp_path: Path) -> None:
    one = write_map(tmp_path / "a.panoptic", TOWN)
    two = write_map(tmp_path / "b.panoptic", TOWN, corner=(500002.0, 5400001.5))
    result = track([("2018", one), ("2020", two)], tmp_path / "t.gpkg")
    assert result["registration"]["2020-01-01"]["applied"]["m"] == pytest.approx([2, 1.5], abs=0.1)
    seen = table(tmp_path / "t.gpkg", "observations")
    assert seen.groupby("track_id").size().tolist() == [2] * 16
    later = seen[seen["date"] == "2020-01-01"]
    assert (later["status"] == "unchanged").all()
    assert later["iou_prev"].min() > 0.98
    # outlines are stored in the frame of the reference
    assert later.total_bounds == pytest.approx(
        seen[seen["date"] == "2018-01-01"].total_bounds, abs=0.1
    )
    apart = track([("2018", one), ("2020", two)], settings=TrackSettings(register="none"))
    assert apart["registration"]["2020-01-01"]["applied"]["m"] == [0.0, 0.0]


def test_a_mask_hides_a_date_and_what_lies_under_it(tmp_path: Path) -> None:
    a, b, c = (write_map(tmp_path / f"{k}.panoptic", boxes)
               for k, boxes in enumerate((TOWN, TOWN[:12], TOWN)))  # fmt: skip
    cloud = tmp_path / "cloud.gpkg"
    row = geopandas.GeoDataFrame(
        geometry=geopandas.GeoSeries.from_wkt(
            ["POLYGON((499990 5399900, 500200 5399900, 500200 5399936, 499990 5399936, "
             "499990 5399900))"]
        ), crs=UTM,
    )  # fmt: skip
    row.to_file(cloud)
    dated = [("2018", a), ("2019", b), ("2020", c)]
    open_sky = track(dated)
    masked = track(dated, settings=TrackSettings(masks=(("2019", str(cloud)),)))
    assert (int(open_sky.tracked.lives.n_gap.sum()), int(masked.tracked.lives.n_gap.sum())) == (
        4,
        0,
    )
    assert masked["tracks"] == open_sky["tracks"] == 16


def test_vector_files_are_tracked_by_their_own_ids(tmp_path: Path) -> None:
    import shapely

    dated = []
    for k in range(3):
        boxes = [shapely.box(30 * n, 0, 30 * n + 20, 12) for n in range(4) if (n, k) != (2, 1)]
        frame = geopandas.GeoDataFrame(
            {"id": [f"house {k}{n}" for n in range(len(boxes))], "class": "building"},
            geometry=boxes,
            crs=UTM,
        )
        frame.to_file(tmp_path / f"{k}.geojson")
        dated.append((f"{2018 + k}", tmp_path / f"{k}.geojson"))
    result = track(dated, tmp_path / "t.gpkg")
    assert (result["tracks"], result["removed"], result["added"]) == (4, 0, 0)
    assert result.trajectories is None
    seen = table(tmp_path / "t.gpkg", "observations")
    assert sorted(seen["gap"]) == [0] * 10 + [1]
    assert seen["object_id"][0] == "house 00"
    short = tmp_path / "short.gpkg"
    track(dated[:2], short)
    track(dated[2:], TrackOutputs(short, append=short))
    assert table(short, "observations")["track_id"].tolist() == seen["track_id"].tolist()


# --- naming the maps -----------------------------------------------------------------------------


def test_dates_come_from_pairs_names_map_json_and_stac(
    maps: list[tuple[str, str]], tmp_path: Path
) -> None:
    assert read_pair("2020=x.panoptic").date == "2020-01-01"
    assert read_pair("2020-07=a.tif,b.tif").map == "a.tif,b.tif"
    assert read_pair("2020-07-01T10:30:00+02:00=x").date == "2020-07-01T08:30:00"
    folder = Path(maps[0][1]).parent
    globbed = from_glob(str(folder / "town-*.panoptic"))
    assert [(m.date, m.map) for m in globbed] == maps
    items = [
        {
            "type": "Feature",
            "id": date,
            "properties": {"datetime": f"{date}T00:00:00Z"},
            "assets": {"semantic": {"href": f"./{Path(path).name}/semantic.tif"}},
        }
        for date, path in maps
    ]
    file = folder / "items.json"
    file.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    assert [(m.date, str(m.map)) for m in from_stac(file)] == maps
    with pytest.raises(ConfigError, match="'May' is not ISO 8601"):
        read_pair("May=x.panoptic")
    with pytest.raises(ConfigError, match="write DATE=MAP"):
        read_pair("x.panoptic")
    with pytest.raises(SceneError, match="no file has such a name"):
        from_glob(str(tmp_path / "*.panoptic"))
    (tmp_path / "map.gpkg").touch()
    with pytest.raises(SceneError, match="has no date"):
        from_glob(str(tmp_path / "*.gpkg"))
    with pytest.raises(ConfigError, match="two maps have the date 2018"):
        track([maps[0], maps[0]])
    with pytest.raises(ConfigError, match="nothing to track"):
        track([])


def test_the_command_prints_a_timeline_and_json(
    maps: list[tuple[str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "t.gpkg"
    pairs = [f"{d}={p}" for d, p in maps[:2]]
    shown = CliRunner().invoke(command, [*pairs, "--out", str(out)], catch_exceptions=False)
    assert "15 tracks of 29 objects at 2 dates" in shown.output
    assert out.with_suffix(".qgz").exists()
    with pytest.raises(StoreError, match="exists"):
        CliRunner().invoke(command, [*pairs, "--out", str(out)], catch_exceptions=False)
    more = [f"{maps[3][0]}={maps[3][1]}", "--append", str(out), "--json"]
    shown = CliRunner().invoke(command, more, catch_exceptions=False)
    assert json.loads(shown.stdout)["dates"] == ["2018-05-01", "2019-05-01", "2021-05-01"]
    with pytest.raises(ConfigError, match="leave out --max-gap"):
        CliRunner().invoke(command, [*more, "--max-gap", "3"], catch_exceptions=False)
    assert CliRunner().invoke(command, pairs).exit_code == 2


# --- scored --------------------------------------------------------------------------------------


def test_tracks_scored_against_themselves_are_perfect(
    maps: list[tuple[str, str]], found: tuple[Any, Path], tmp_path: Path
) -> None:
    _, out = found
    path = str(out / "tracks.gpkg")
    own = evaluate(path, path, EvaluateSettings(series=True, metrics=("f1",)))["series"]
    assert (own["scot"], own["removed_f1"]) == (1.0, 1.0)
    sides = [
        f"{folder}/semantic.tif,{out}/rasters/track_ids_{date}.tif"
        for date, folder in maps
        if date != "2020-05-01"
    ]
    pairs = [a for s in sides[1:] for a in ("--pair", s, s)]
    arguments = [sides[0], sides[0], *pairs, "--series", "--json", "--bootstrap", "0"]
    shown = CliRunner().invoke(evaluate_command, arguments, catch_exceptions=False)
    series = json.loads(shown.stdout)["series"]
    assert (series["dates"], series["scot"], series["vpq"], series["stq"]) == (4, 1, 1, 1)
    single = [f"{folder}/semantic.tif,{folder}/instances.tif" for date, folder in maps
              if date != "2020-05-01"]  # fmt: skip
    raw = evaluate(single, sides, EvaluateSettings(series=True, bootstrap=0))["series"]
    assert raw["vpq_windows"]["1"]["all"]["pq"] == 1.0
    assert raw["scot"] < 1
    assert raw["vpq"] < 1


# --- QGIS and examples ---------------------------------------------------------------------------


@pytest.mark.qgis
def test_qgis_opens_and_plays_the_tracks(found: tuple[Any, Path], tmp_path: Path) -> None:
    python = "/usr/bin/python3"
    there = subprocess.run([python, "-c", "import qgis.core"], capture_output=True, check=False)
    if there.returncode:
        pytest.skip(f"no QGIS for {python}; apt install qgis python3-qgis qgis-providers")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "GDAL", "PROJ"))}
    made = subprocess.run(
        [python, str(ROOT / "scripts" / "check_qgis"), str(found[1] / "tracks.gpkg"),
         "--out", str(tmp_path)],
        capture_output=True, text=True, check=False, env=clean,
    )  # fmt: skip
    records = json.loads(made.stdout)["layers"]
    assert [r for r in records if r["failures"]] == []
    project = records.pop()
    assert project["observations: moments_drawn"] == 10
    assert project["tracks: plays"][0] == "2018-05-01"
    drawn = {r["layer"]: r.get("renderer") for r in records}
    assert (drawn["observations"], drawn["tracks"]) == ("categorizedSymbol",) * 2


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("script", "data"),
    [("track_naip_water.py", "naip_series"), ("track_landsat_river.py", "landsat_series")],
)
def test_the_examples_run(shared: Path, tmp_path: Path, script: str, data: str) -> None:
    folder = shared / "data" / data
    if not folder.is_dir():
        pytest.skip(f"no {folder}")
    run = subprocess.run(
        [sys.executable, str(ROOT / "examples" / script), str(folder), str(tmp_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    line = table(tmp_path / "tracks.gpkg", "timeline")
    assert line["split"].sum() > 0
    assert line["merged"].sum() > 0
    for path in sorted(tmp_path.glob("*.panoptic")):
        panoptic = PanopticMap.open(path)
        area = float(segment_areas_m2(panoptic.segment_table.things, panoptic.georef).sum())
        assert line["area_m2"][line["date"] == panoptic.date].sum() == pytest.approx(area)

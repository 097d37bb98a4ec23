"""`geopanoptic change` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from change_maps import rebuilt, town
from click.testing import CliRunner, Result

from geopanoptic.cli.main import cli
from geopanoptic.errors import GeoPanopticError


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("pair")
    before = town((200, 220))
    return (
        str(before.write(folder / "town_2014-05-01.panoptic")),
        str(rebuilt(before).write(folder / "town_20240501.panoptic")),
    )


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["change", *map(str, arguments)], standalone_mode=False)


def test_the_command_says_what_changed_and_writes_it(pair: tuple[str, str], tmp_path: Path) -> None:
    out = tmp_path / "changes.gpkg"
    done = run(*pair, "--out", out, "--mmu", 12)
    assert done.exception is None
    assert "removed" in done.stdout
    assert "below the minimum mapping unit of 12 m2" in done.stdout
    assert f"Wrote {out}" in done.stdout
    names = {p.name for p in tmp_path.iterdir()}
    assert names == {
        "changes.gpkg", "changes.tif", "changes.tif.aux.xml", "changes.qml", "changes.csv",
        "changes_status.tif", "changes_status.tif.aux.xml", "changes_status.qml",
        "changes_status.csv", "transitions.csv", "report.json", "report.html",
    }  # fmt: skip
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["before"]["date"] == "2014-05-01"
    assert report["after"]["date"] == "2024-05-01"
    assert report["years"] == pytest.approx(10, abs=0.01)
    assert set(report["outputs"]) == names


def test_json_is_the_report_and_a_pipeline_learns_by_the_exit_code(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    done = run(*pair, "--out", tmp_path / "a.gpkg", "--json", "--fail-on-change")
    report = json.loads(done.stdout)
    assert report == json.loads((tmp_path / "a_report.json").read_text())
    assert done.return_value == 3
    same = run(pair[0], pair[0], "--out", tmp_path / "b.gpkg", "--fail-on-change")
    assert same.return_value == 0


def test_vector_files_are_compared_by_their_objects(tmp_path: Path) -> None:
    boxes = [shapely.box(k * 30, 0, k * 30 + 10, 12) for k in range(12)]
    before = geopandas.GeoDataFrame({"id": np.arange(12)}, geometry=boxes, crs="EPSG:2193")
    before.geometry = before.translate(1_570_000, 5_180_000)
    after = before.iloc[:-2].assign(geometry=before.geometry.iloc[:-2].translate(0.8, -0.6))
    before.to_file(tmp_path / "b.gpkg")
    after.to_crs(4326).to_file(tmp_path / "a.geojson")
    out = tmp_path / "out" / "changes.gpkg"
    out.parent.mkdir()
    done = run(tmp_path / "b.gpkg", tmp_path / "a.geojson", "--out", out, "--json")
    assert done.exception is None
    report = json.loads(done.stdout)
    counts = {k: n for k, n in report["objects"]["counts"].items() if n}
    assert counts == {"unchanged": 10, "removed": 2}
    assert report["registration"]["offset_m"] == pytest.approx([0.8, -0.6], abs=0.01)
    assert report["registration"]["is_applied"]
    assert report["transitions"] is None
    events = geopandas.read_file(out, layer="events")
    assert set(events[events.status == "removed"].before_ids) == {"10", "11"}
    assert {p.name for p in out.parent.iterdir()} == {
        "changes.gpkg", "report.json", "report.html"
    }  # fmt: skip


def test_vector_files_far_apart_are_refused_with_both_extents(tmp_path: Path) -> None:
    for name, x in (("b", 0), ("a", 90_000)):
        box = shapely.box(1_570_000 + x, 5_180_000, 1_570_020 + x, 5_180_020)
        geopandas.GeoDataFrame({"id": [1]}, geometry=[box], crs=2193).to_file(
            tmp_path / f"{name}.gpkg"
        )
    done = run(tmp_path / "b.gpkg", tmp_path / "a.gpkg", "--out", tmp_path / "c.gpkg")
    assert isinstance(done.exception, GeoPanopticError)
    assert "do not overlap: before covers longitude 172.6" in str(done.exception)
    assert "after covers longitude 173.7" in str(done.exception)


def test_a_map_and_a_vector_file_know_what_the_map_did_not_see(
    pair: tuple[str, str], tmp_path: Path
) -> None:
    town((200, 220)).hidden(slice(0, 100), slice(0, 220)).write(tmp_path / "half.panoptic")
    from geopanoptic.panoptic_map import PanopticMap

    things = PanopticMap.open(pair[0]).things()
    things.to_file(tmp_path / "roofs.gpkg", layer="things")
    done = run(tmp_path / "half.panoptic", tmp_path / "roofs.gpkg", "--out", tmp_path / "c.gpkg",
               "--json")  # fmt: skip
    assert done.exception is None
    counts = json.loads(done.stdout)["objects"]["counts"]
    assert counts["unobserved"] > 5
    assert counts["added"] == counts["removed"] == 0


def test_scenes_are_mapped_once_and_compared(tmp_path: Path) -> None:
    import rasterio

    from geopanoptic.raster import Scene

    scene = Path(__file__).parents[2] / "examples" / "bremerton.tif"
    with rasterio.open(scene) as dataset:
        window = rasterio.windows.Window(800, 800, 300, 280)
        pixels = dataset.read(window=window)
        profile = {
            "driver": "GTiff", "count": dataset.count, "width": 300, "height": 280,
            "dtype": "uint8", "crs": dataset.crs,
            "transform": dataset.transform @ Affine.translation(800, 800),
        }  # fmt: skip
    for name in ("b", "a"):
        with rasterio.open(tmp_path / f"{name}.tif", "w", **profile) as dataset:
            dataset.write(pixels)
    assert Scene.open(tmp_path / "a.tif").georef.shape == (280, 300)
    out = tmp_path / "changes.gpkg"
    arguments = (tmp_path / "b.tif", tmp_path / "a.tif", "--predict", "--out", out)
    done = run(*arguments)
    assert done.exception is None
    assert done.stderr.count("Mapping") == 2
    maps = sorted(p.name for p in tmp_path.glob("*.panoptic"))
    assert maps == ["changes_after.panoptic", "changes_before.panoptic"]
    report = json.loads((tmp_path / "report.json").read_text())
    assert {s for s, n in report["objects"]["counts"].items() if n} <= {"unchanged"}
    page = (tmp_path / "report.html").read_text()
    assert "Images" in page
    again = run(*arguments, "--overwrite")
    assert again.exception is None
    assert "Mapping" not in again.stderr

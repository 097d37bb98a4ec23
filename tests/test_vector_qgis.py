"""Products opened in a real QGIS: drawn by class, in the schema's names and colours."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from pixel_oracle import PixelOracle, spell
from scenes import make_truth

from geopanoptic.area import SampleSettings, draw_sample
from geopanoptic.export import export
from geopanoptic.predict import Execution, PredictSettings, Products, run
from geopanoptic.raster import LabelReader
from geopanoptic.vector import write_project

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_qgis"
PYTHON = "/usr/bin/python3"  # QGIS's bindings work only with the system's Python

pytestmark = pytest.mark.qgis


@pytest.fixture(scope="module")
def panoptic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = subprocess.run([PYTHON, "-c", "import qgis.core"], capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"no QGIS for {PYTHON}; apt install qgis python3-qgis qgis-providers")
    folder = tmp_path_factory.mktemp("qgis")
    scene = spell(make_truth("blobs", (200, 230), seed=4), folder / "scene.tif")
    products = Products.to([folder / "town.panoptic"])
    run(str(scene), PixelOracle(), products, PredictSettings(), Execution())
    made = folder / "town.panoptic"
    crs = LabelReader(made / "semantic.tif").georef.crs
    write_project(made / "town.qgz", made, crs, scene)
    return made


def check(given: Path | list[Path], out: Path) -> tuple[int, list[dict[str, object]]]:
    files = given if isinstance(given, list) else [given]
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "GDAL", "PROJ"))}
    made = subprocess.run(
        [PYTHON, str(SCRIPT), *map(str, files), "--out", str(out)],
        capture_output=True,
        text=True,
        check=False,
        env=clean,
    )
    assert made.stdout, made.stderr
    return made.returncode, json.loads(made.stdout)["layers"]


def test_every_layer_opens_styled_in_qgis(panoptic: Path, tmp_path: Path) -> None:
    code, layers = check(panoptic, tmp_path)
    assert [r for r in layers if r["failures"]] == []
    assert code == 0
    project = layers.pop()
    assert project["layers"] == [
        "seams_qa",
        "things",
        "things by score",
        "stuff",
        "instances",
        "semantic",
        "scene",
    ]
    assert {"things", "stuff", "run", "semantic", "instances"} <= {str(r["layer"]) for r in layers}
    for record in layers:
        assert record.get("png") is None or Path(str(record["png"])).stat().st_size > 500


def test_scores_can_be_chosen_as_another_style(panoptic: Path, tmp_path: Path) -> None:
    _, layers = check(panoptic, tmp_path)
    (things,) = (r for r in layers if r.get("layer") == "things")
    (other,) = things["other_styles"]  # type: ignore[misc]
    assert (other["style"], other["renderer"], other["by"]) == ("score", "graduatedSymbol", "score")
    assert other["ranges"][0][0] == 0
    assert other["ranges"][-1][1] == 1
    assert things["renderer"] == "categorizedSymbol"  # classes stay the default
    (seams,) = (r for r in layers if r.get("layer") == "seams_qa")
    assert list(seams["categories"]) == ["good", "fair", "poor"]  # type: ignore[call-overload]


def test_every_export_opens_in_qgis(panoptic: Path, tmp_path: Path) -> None:
    made = [
        export(panoptic, tmp_path / f"e{k}{suffix}")
        for k, suffix in enumerate((".fgb", ".geojson", ".gpkg", ".panoptic", ".parquet"))
    ]
    code, layers = check(made, tmp_path)
    assert [r for r in layers if r["failures"]] == []
    assert code == 0
    counts = {str(r["layer"]): r.get("features") for r in layers if "layer" in r}
    assert counts["e0"] == counts["e1"] == counts["things"]


def test_the_interpreter_gets_a_list_to_choose_from(panoptic: Path, tmp_path: Path) -> None:
    draw_sample(panoptic, tmp_path / "s.gpkg", SampleSettings(units=60, least=10))
    code, layers = check(tmp_path / "s_blind.gpkg", tmp_path)
    assert code == 0, layers
    (points,) = (r for r in layers if r["layer"] == "sample")
    assert points["form"] == {"reference": "ValueMap", "sure": "ValueMap"}
    assert points["drawn"] > 0  # type: ignore[operator]


def test_the_check_finds_a_map_that_is_not_styled(panoptic: Path, tmp_path: Path) -> None:
    import shutil
    import sqlite3
    from contextlib import closing

    broken = tmp_path / "broken.panoptic"
    shutil.copytree(panoptic, broken)
    with closing(sqlite3.connect(broken / "panoptic.gpkg")) as db, db:
        db.execute("UPDATE layer_styles SET f_geometry_column = 'geometry'")
    code, layers = check(broken, tmp_path)
    failures = {str(r.get("layer")): str(r["failures"]) for r in layers}
    assert code == 1
    assert "not by class" in failures["things"]

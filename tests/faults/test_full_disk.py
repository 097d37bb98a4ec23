"""A full disk at any moment, for every format that a command writes.

The disk (a real file system) grows step by step until the output fits. Until then each try must
leave status 1, say how much is free, leave nothing half-made, and the same command must do next
time; what fits in the end is what a large disk holds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from pixel_oracle import PixelOracle, spell
from scenes import make_truth

from geopanoptic.cli.main import main
from geopanoptic.errors import StoreError
from geopanoptic.panoptic_map import check_map
from geopanoptic.predict import Execution, PredictSettings, Products, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

TRIES = 12
PAGE = 4096
CURES = ("free", "make room")

# What is written, by which command; {out} is the folder on the small disk.
FORMATS = ("m.panoptic", "m.gpkg", "m.parquet", "m.fgb", "m.geojson", "m.tif")
COMMANDS = {
    **{f"predict {name}": f"predict {{out}}/{name}" for name in (*FORMATS, "m.png")},
    "predict all": " ".join(["predict", *(f"{{out}}/{name}" for name in (*FORMATS, "m.png"))]),
    **{f"export {name}": f"export {{map}} --out {{out}}/{name}"
       for name in (*FORMATS, "m.pmtiles", "m.json", "m.html")},
    "evaluate": "evaluate {map} {other} --bootstrap 0 --out {out}/m.json --html {out}/m.html "
                "--errors {out}/m.gpkg",
    "change": "change {map} {other} --date-before 2020-01-01 --date-after 2021-01-01 "
              "--out {out}/m.gpkg",
    "track": "track 2020-01-01={map} 2021-01-01={other} --out {out}/m.gpkg",
    "sample": "sample {map} --n 40 --out {out}/m.gpkg",
}  # fmt: skip
STAMPED = (".gpkg", ".html", ".qgz")  # hold a time, so that no two are equal


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("inputs")
    for name, seed in (("map", 2), ("other", 3)):
        scene = spell(make_truth("blobs", (90, 100), seed=seed), folder / f"{name}.tif")
        predict(str(scene), folder / name, [folder / f"{name}.panoptic"])
    names = {name: f"{folder}/{name}.panoptic" for name in ("map", "other")}
    return names | {"scene": f"{folder}/map.tif", "work": f"{folder}/work"}


def predict(scene: str, work: Path, outs: list[Path]) -> None:
    """Predict with a model that no file holds, and which therefore no command line takes."""
    execution = Execution(work_dir=work)
    run(scene, PixelOracle(), Products.to(outs), PredictSettings(core=40, halo=3), execution)


Geopanoptic = Callable[[str], tuple[int, str]]


@pytest.fixture
def geopanoptic(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], inputs: dict[str, str]
) -> Geopanoptic:
    """Run a command line in this process; return its status and what it says to the user."""

    def call(line: str) -> tuple[int, str]:
        words = line.split()
        if words[0] == "predict":
            try:
                predict(inputs["scene"], Path(inputs["work"]), [Path(word) for word in words[1:]])
            except StoreError as error:
                return error.exit_code, str(error)
            return 0, ""
        monkeypatch.setattr(sys, "argv", ["geopanoptic", *words])
        with pytest.raises(SystemExit) as leave:
            main()
        return int(leave.value.code or 0), capsys.readouterr().err

    return call


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def same(made: bytes, wanted: bytes, name: str) -> bool:
    if name.endswith("_report.json"):  # says how many seconds it took
        return list(json.loads(made)) == list(json.loads(wanted))
    return made == wanted or (name.endswith(STAMPED) and len(made) == len(wanted))


def resized(place: Path, size: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(place)], check=True)


@pytest.mark.parametrize("what", COMMANDS)
def test_whatever_the_disk_has_room_for_an_output_is_whole_or_not_there(
    what: str, geopanoptic: Geopanoptic, inputs: dict[str, str], small_disk: Path, tmp_path: Path
) -> None:
    large = tmp_path / "large"
    large.mkdir()
    status, said = geopanoptic(COMMANDS[what].format(out=large, **inputs))
    assert status == 0, said
    wanted = files_in(large)
    step = max(PAGE, sum(map(len, wanted.values())) // TRIES // PAGE * PAGE)
    line = COMMANDS[what].format(out=small_disk, **inputs)
    failures = 0
    for size in range(PAGE, 100 * TRIES * step, step):
        resized(small_disk, size)
        status, said = geopanoptic(line)
        if status == 0:
            break
        failures += 1
        about = f"with {size} bytes: {said}"
        assert status == 1, about
        assert any(cure in said for cure in CURES), about
        assert "Traceback" not in said, about
        left = files_in(small_disk)
        assert all(name in wanted and same(left[name], wanted[name], name) for name in left), (
            f"{sorted(left)} {about}"
        )
    else:
        pytest.fail("it never fitted")
    assert failures > 0
    made = files_in(small_disk)
    assert set(made) == set(wanted)
    if (small_disk / "m.panoptic").is_dir():
        assert check_map(small_disk / "m.panoptic") == []
        made = {name: data for name, data in made.items() if name.endswith(".tif")}
    assert [name for name in made if not same(made[name], wanted[name], name)] == []

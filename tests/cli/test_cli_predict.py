"""`geopanoptic predict` as a user meets it: results, refusals with the cure, exit codes."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio
from pixel_oracle import spell
from random_model import random_card, write_random_model
from rasters import noise, write_raster
from scenes import make_truth

from geopanoptic.cli.main import COMMANDS, main


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str


@pytest.fixture
def geopanoptic(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Answer]:
    """Run the command line in this process."""

    def call(*args: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["geopanoptic", *map(str, args)])
        with pytest.raises(SystemExit) as leave:
            main()
        said = capsys.readouterr()
        return Answer(int(leave.value.code or 0), said.out, said.err)

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    write_random_model(path)
    return path


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_raster(tmp_path / "scene.tif", noise(3, 180, 200))


Geopanoptic = Callable[..., Answer]


def nothing_left(folder: Path, *but: str) -> bool:
    return {p.name for p in folder.iterdir()} == set(but)


def test_a_scene_becomes_a_map(
    geopanoptic: Geopanoptic, scene: Path, model: Path, tmp_path: Path
) -> None:
    before = scene.read_bytes()
    gpkg, folder = tmp_path / "a.gpkg", tmp_path / "a.panoptic"
    answer = geopanoptic("predict", scene, "--model", model, "--out", gpkg, "--out", folder)
    assert answer.status == 0, answer.err
    assert f"Wrote {gpkg}" in answer.out
    with sqlite3.connect(gpkg) as db:
        layers = {name for (name,) in db.execute("SELECT table_name FROM gpkg_contents")}
    assert {"things", "stuff", "run", "layer_styles"} <= layers
    assert {p.name for p in folder.iterdir()} >= {
        "map.json", "semantic.tif", "instances.tif", "segments.parquet", "panoptic.gpkg",
        "item.json",
    }  # fmt: skip
    assert scene.read_bytes() == before
    assert nothing_left(tmp_path, "scene.tif", "a.gpkg", "a.panoptic")
    assert geopanoptic("check", folder).status == 0
    assert "panoptic map" in geopanoptic("info", folder).out


def test_json_is_one_object_on_stdout(
    geopanoptic: Geopanoptic, scene: Path, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "a.gpkg"
    answer = geopanoptic("predict", scene, "--model", model, "--out", out, "--json")
    found = json.loads(answer.out)
    assert found["outputs"] == [str(out)]
    assert found["failed_tiles"] == {}
    assert found["counts"]["things"] == sum(found["counts"]["things_by_class"].values())
    assert "Wrote" not in answer.out


def test_a_dry_run_tells_what_it_would_take_and_writes_nothing(
    geopanoptic: Geopanoptic, scene: Path, model: Path, tmp_path: Path
) -> None:
    args = ("predict", scene, "--model", model, "--out", tmp_path / "a.gpkg", "--dry-run")
    found = json.loads(geopanoptic(*args, "--json").out)
    assert found["shape"] == [180, 200]
    assert found["tiles"] >= 4
    assert min(found[k] for k in ("seconds", "ram_mb", "work_mb")) > 0
    assert "tiles in" in geopanoptic(*args).out
    assert nothing_left(tmp_path, "scene.tif")


def test_a_config_file_gives_options_and_the_command_line_wins(
    geopanoptic: Geopanoptic, scene: Path, model: Path, tmp_path: Path
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"model: {model}\ntile: 64\nout: {tmp_path / 'a.gpkg'}\n")
    args = ("predict", scene, "--config", config, "--dry-run", "--json")
    small, large = (json.loads(geopanoptic(*args, *more).out) for more in ((), ("--tile", "128")))
    assert small["tiles"] > large["tiles"]
    config.write_text("tlie: 64\n")
    answer = geopanoptic(*args)
    assert answer.status == 1
    assert "did you mean 'tile'" in answer.err


# --- refusals: (name of the case, arguments after `predict`, words the message must hold) --------

ONE_BAND = noise(1, 64, 64)


def damaged_model(path: Path, model: Path) -> Path:
    data = bytearray(model.read_bytes())
    data[-100] ^= 0xFF
    path.write_bytes(data)
    return path


def truncated(path: Path) -> Path:
    write_raster(path, noise(3, 300, 300))
    path.write_bytes(path.read_bytes()[:4000])
    return path


CASES: dict[str, tuple[Callable[[Path, Path], list[object]], tuple[str, ...]]] = {
    "missing file": (lambda t, m: [t / "none.tif"], ("none.tif",)),
    "not a raster": (lambda t, m: [t / "text.tif"], ("text.tif",)),
    "empty file": (lambda t, m: [t / "empty.tif"], ("empty.tif",)),
    "truncated raster": (lambda t, m: [t / "cut.tif"], ("cut.tif",)),
    "one band for three": (lambda t, m: [t / "one.tif"], ("one.tif", "band")),
    "all nodata": (lambda t, m: [t / "none_valid.tif"], ("nodata", "--nodata")),
    "bands that are not there": (lambda t, m: [t / "ok.tif", "--bands", "1,2,9"], ("9",)),
    "too few bands": (lambda t, m: [t / "ok.tif", "--bands", "1,2"], ("3 bands", "--bands")),
    "metres without a CRS": (
        lambda t, m: [t / "no_crs.tif", "--min-area", "5"], ("--min-area", "a_srs"),
    ),
    "simplify without a CRS": (
        lambda t, m: [t / "no_crs.tif", "--simplify", "1"], ("--simplify", "a_srs"),
    ),
    "GeoJSON without a CRS": (
        lambda t, m: [t / "no_crs.tif", "--out", t / "a.geojson"], ("GeoJSON", "a_srs"),
    ),
    "unknown class": (
        lambda t, m: [t / "ok.tif", "--classes", "bilding"], ("did you mean 'building'",),
    ),
    "halo too wide": (
        lambda t, m: [t / "ok.tif", "--tile", "64", "--halo", "40"], ("40", "--halo"),
    ),
    "shapefile": (lambda t, m: [t / "ok.tif", "--out", t / "a.shp"], (".gpkg",)),
    "unknown suffix": (lambda t, m: [t / "ok.tif", "--out", t / "a.xyz"], (".xyz", ".gpkg")),
    "no folder": (lambda t, m: [t / "ok.tif", "--out", t / "no" / "a.gpkg"], ("no folder",)),
    "existing output": (lambda t, m: [t / "ok.tif", "--out", t / "old.gpkg"], ("--overwrite",)),
    "damaged model": (
        lambda t, m: [t / "ok.tif", "--model", damaged_model(t / "bad.safetensors", m)],
        ("bad.safetensors",),
    ),
    "pickled model": (lambda t, m: [t / "ok.tif", "--model", t / "model.pt"], ("model.pt",)),
    "unknown model": (lambda t, m: [t / "ok.tif", "--model", "landcover-v9"], ("landcover-v9",)),
    "aoi that is not there": (lambda t, m: [t / "ok.tif", "--aoi", t / "x.gpkg"], ("--aoi",)),
    "wrong number": (lambda t, m: [t / "ok.tif", "--max-ram", "lots"], ("--max-ram", "4GB")),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_refused_before_the_work_with_the_cure(
    case: str, geopanoptic: Geopanoptic, model: Path, tmp_path: Path
) -> None:
    write_raster(tmp_path / "ok.tif", noise(3, 64, 64))
    write_raster(tmp_path / "one.tif", ONE_BAND)
    write_raster(tmp_path / "none_valid.tif", np.zeros((3, 64, 64), np.uint8), nodata=0)
    spell(make_truth("blobs", (40, 40), 1), tmp_path / "no_crs.tif", crs=None)
    (tmp_path / "text.tif").write_text("this is no raster")
    (tmp_path / "empty.tif").touch()
    (tmp_path / "old.gpkg").write_text("precious")
    (tmp_path / "model.pt").write_bytes(b"\x80\x04\x95pickle")
    truncated(tmp_path / "cut.tif")
    make, words = CASES[case]
    args = make(tmp_path, model)
    if "--model" not in args:
        args += ["--model", model]
    if "--out" not in args:
        args += ["--out", tmp_path / "a.gpkg"]
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    answer = geopanoptic("predict", *args)
    assert answer.status == 1, (answer.out, answer.err)
    for word in words:
        assert word in answer.err, answer.err
    assert "Traceback" not in answer.err
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_nothing_to_write_and_unknown_options_are_usage_errors(
    geopanoptic: Geopanoptic, scene: Path, model: Path
) -> None:
    answer = geopanoptic("predict", scene, "--model", model)
    assert answer.status == 1
    assert "--out" in answer.err
    assert geopanoptic("predict", scene, "--no-such-option").status == 2
    assert geopanoptic("predict").status == 2
    answer = geopanoptic("predikt")
    assert answer.status == 2
    assert "did you mean 'predict'" in answer.err


def test_a_traceback_is_only_shown_when_asked_for(geopanoptic: Geopanoptic, tmp_path: Path) -> None:
    args = ("predict", tmp_path / "none.tif", "--out", tmp_path / "a.gpkg")
    assert "Traceback" not in geopanoptic(*args).err
    assert "Traceback" in geopanoptic("-v", *args).err


def test_a_damaged_block_fails_its_tiles_alone_and_the_status_says_so(
    geopanoptic: Geopanoptic, model: Path, tmp_path: Path
) -> None:
    scene = tmp_path / "scene.tif"
    profile = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    write_raster(scene, noise(3, 512, 512), **profile)
    with rasterio.open(scene) as raster:
        offset = int(raster.tags(ns="TIFF", bidx=1).get("BLOCK_OFFSET_0_0", 0))
    data = bytearray(scene.read_bytes())
    middle = offset or len(data) // 2
    data[middle : middle + 2000] = bytes(2000)
    scene.write_bytes(data)
    out = tmp_path / "a.panoptic"
    answer = geopanoptic("predict", scene, "--model", model, "--out", out, "--json")
    assert answer.status == 5, answer.err
    failed = json.loads(answer.out)["failed_tiles"]
    assert failed
    assert "cannot be read" in answer.err
    with rasterio.open(out / "semantic.tif") as raster:
        semantic = raster.read(1)
    assert (semantic == 0).any()
    assert (semantic > 0).any()
    assert geopanoptic("check", out).status == 0


def hear_ctrl_c() -> None:
    """A suite that runs in the background of a script inherits a deaf ear for Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run_in_shell(args: list[object], cwd: Path, **more: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "geopanoptic.cli.main", *map(str, args)]
    return subprocess.Popen(
        command,
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=hear_ctrl_c,
        **more,
    )  # type: ignore[call-overload]


def test_ctrl_c_leaves_130_and_the_same_command_goes_on(
    geopanoptic: Geopanoptic, tmp_path: Path
) -> None:
    scene = write_raster(tmp_path / "scene.tif", noise(3, 500, 500))
    model = tmp_path / "m.safetensors"
    write_random_model(model, random_card(core=64, halo=16))
    out, job = tmp_path / "a.panoptic", tmp_path / "a.panoptic.gpjob"
    args = ["predict", scene, "--model", model, "--out", out]
    running = run_in_shell(args, tmp_path, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list(job.glob("parts/infer/*/*.part")) and time.monotonic() < deadline:
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "Run the same command again" in err
    assert not out.exists()
    finished = len(list(job.glob("parts/infer/*/*.part")))
    assert finished > 0
    answer = geopanoptic(*args, "--json")
    assert answer.status == 0
    counts = json.loads(answer.out)["counts"]
    assert counts["tiles_run"] + finished <= 9 * 9
    assert not job.exists()


def test_a_full_disk_ends_the_run_with_the_numbers_and_leaves_no_output(
    model: Path, scene: Path, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)]
    made = subprocess.run(mount, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {made.stderr.strip()}")
    try:
        args: list[object] = ["predict", scene, "--model", model, "--out", small / "a.panoptic"]
        running = run_in_shell(args, tmp_path)
        _, err = running.communicate(timeout=120)
        assert running.returncode == 1, err
        assert "free" in err
        assert "Traceback" not in err
        assert not (small / "a.panoptic").exists()
    finally:
        subprocess.run(["umount", str(small)], check=True)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=lambda c: c and c[0])
def test_help_is_laid_out_as_it_was_written(command: list[str], geopanoptic: Geopanoptic) -> None:
    answer = geopanoptic(*command, "--help")
    assert answer.status == 0
    assert "\\" not in answer.out
    assert "\b" not in answer.out
    for line in answer.out.splitlines():
        if "geopanoptic " in line.strip() and line.strip().startswith("geopanoptic"):
            assert line.strip().split()[1] in COMMANDS, "an example was run into other text"

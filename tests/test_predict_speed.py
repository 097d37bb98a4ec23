"""The speed bench: its figures are those of a run, and agree with each other."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from pixel_oracle import PixelOracle, spell
from scenes import make_truth

from geopanoptic.cli.bench import bench
from geopanoptic.errors import ConfigError
from geopanoptic.predict import PredictSettings, speed_report
from geopanoptic.predict.speed import watched

CORE = PredictSettings(core=40, halo=3)


@pytest.fixture
def scene(tmp_path: Path) -> str:
    return str(spell(make_truth("row houses", (90, 110), seed=1), tmp_path / "scene.tif"))


def test_the_figures_agree_with_each_other(scene: str) -> None:
    began = time.perf_counter()
    report = speed_report(scene, PixelOracle(), CORE, price_per_hour=3.0)
    assert 0 < report["wall_s"] < time.perf_counter() - began
    assert report["tiles"] >= report["bare"]["tiles"] > 0
    assert report["mpx_per_s"] == pytest.approx(90 * 110 / 1e6 / report["wall_s"])
    km2 = 90 * 110 * 0.3**2 / 1e6
    assert report["km2_per_hour"] == pytest.approx(km2 / report["wall_s"] * 3600, rel=0.01)
    assert report["cost_per_1000_km2"] == pytest.approx(
        3.0 * 1000 / report["km2_per_hour"], rel=1e-6
    )
    assert report["overhead"]["wall"] == pytest.approx(
        report["wall_s"] / (report["tiles"] * report["bare"]["wall_s_per_tile"])
    )
    assert 50 < report["peak_ram_mb"] < 20_000
    assert {"plan", "infer", "seam", "assemble", "write"} <= set(report["stages"])
    assert sum(report["stages"][s] for s in ("infer", "seam", "assemble", "write")) <= (
        report["wall_s"] * 1.01 + 0.01
    )
    assert report["peak_vram_mb"] is None or report["peak_vram_mb"] >= 0
    json.dumps(report)


def test_without_metres_there_is_no_area_and_no_cost(tmp_path: Path) -> None:
    truth = make_truth("row houses", (60, 60), seed=1)
    scene = spell(truth, tmp_path / "scene.tif", crs=None)
    report = speed_report(str(scene), PixelOracle(), CORE, price_per_hour=3.0)
    assert report["km2_per_hour"] is None
    assert report["cost_per_1000_km2"] is None
    with pytest.raises(ConfigError, match="--price-per-hour -1"):
        speed_report(str(scene), PixelOracle(), CORE, price_per_hour=-1)


def test_memory_and_time_of_children_are_counted() -> None:
    work = "import time; x = bytearray(200_000_000); t = time.process_time()\n"
    work += "while time.process_time() - t < 0.5: pass\ntime.sleep(0.5)"
    with watched() as family:
        held = np.ones(10_000_000)
        subprocess.run([sys.executable, "-c", work], check=True)
    assert held.sum() > 0
    assert family.peak_bytes > 250e6
    assert 0.4 < family.cpu_s < 5


def test_bench_of_a_scene_is_bench_speed() -> None:
    names = CliRunner().invoke(bench, ["--help"]).output
    assert "speed" in names
    assert "seams" in names
    plain = CliRunner().invoke(bench, ["nowhere.tif", "--price-per-hour", "x"])
    assert plain.exit_code == 2
    assert "bench speed" in plain.output

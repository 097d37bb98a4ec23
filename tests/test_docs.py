"""What the documents promise is there."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
from pathlib import Path

import pytest

import geopanoptic
from geopanoptic.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*.md")])
SCRIPTS = sorted(p for p in (ROOT / "scripts").iterdir() if p.is_file())


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_to_files_that_are_there(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda p: p.name)
def test_scripts_and_commands_that_are_named_are_there(document: Path) -> None:
    text = document.read_text()
    for name in re.findall(r"(?:^|[\s`(])scripts/([a-z][a-z0-9_]*)", text):
        assert (ROOT / "scripts" / name).exists(), f"{document.name} names scripts/{name}"
    for name in re.findall(r"^\s*(?:\.venv/bin/)?geopanoptic ([a-z]+)", text, re.MULTILINE):
        assert name in COMMANDS, f"{document.name} names the command {name}"


def test_tests_that_are_named_are_there() -> None:
    text = (ROOT / "docs" / "faults.md").read_text()
    named = re.findall(r"`([a-z_/]+\.py)::(test_\w+)", text)
    assert len(named) > 10
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file} has no {name}"


@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci/run"], ids=lambda p: p.name)
def test_scripts_can_be_run(script: Path) -> None:
    assert os.access(script, os.X_OK), f"{script} is not executable"
    first = script.read_text().splitlines()[0]
    if first == "#!/bin/sh":
        subprocess.run(["sh", "-n", str(script)], check=True)
    else:
        compile(script.read_text(), str(script), "exec")


def test_the_python_lines_of_the_readme_name_what_is_public() -> None:
    code = "\n".join(
        re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    )
    compile(code, "README.md", "exec")
    names = set(re.findall(r"\bgp\.([a-z_]+)", code))
    assert names
    assert names <= set(geopanoptic.__all__)


def test_nothing_names_a_registry_or_a_path_of_one_machine() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if tracked.returncode:
        pytest.skip("no git checkout here")
    for name in tracked.stdout.splitlines():
        path = ROOT / name
        if path.suffix in {".tif", ".safetensors", ".jpg", ".png", ".npz"} or not path.is_file():
            continue
        text = path.read_text(errors="replace")
        for wrong in ("file:/" + "//", "--index-" + "url", "/o" + "pt/", "/wo" + "rk/"):
            assert wrong not in text, f"{name} holds {wrong}"


def test_the_readme_shows_the_recorded_figures() -> None:
    path = ROOT / "benchmarks/readme_figures.py"
    spec = importlib.util.spec_from_file_location("readme_figures", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    readme = (ROOT / "README.md").read_text()
    assert "| figure |" in readme
    assert module.filled(readme) == readme, "run benchmarks/readme_figures.py"


def test_the_page_on_evaluation_shows_the_recorded_figures() -> None:
    folder = ROOT / "benchmarks/evaluation"
    found, page = (
        json.loads((folder / "results.json").read_text()),
        (folder / "README.md").read_text(),
    )
    scene, rival = found["scene"], found["rival"]
    row = f"| {scene['wall_s']:.1f} s | {scene['cpu_s']:.1f} s | {scene['memory_mb']} MB |"
    assert row in page
    for name in ("panopticapi", "geopanoptic, same PNG", "geopanoptic, GeoTIFF"):
        cpu_s = rival[name]["evaluate_cpu_s"]
        ns_per_px = 1e9 * cpu_s / rival["size"] ** 2
        assert f"| {cpu_s:.1f} s | {ns_per_px:.0f} | {rival[name]['memory_mb']} MB |" in page
    for name in ("geopanoptic, same PNG", "geopanoptic, GeoTIFF"):
        assert f"{rival[name]['times_as_fast']} times" in page


def test_the_page_on_polygons_shows_the_recorded_figures() -> None:
    page = (ROOT / "docs/polygons.md").read_text()
    found = json.loads((ROOT / "benchmarks/results/polygons.json").read_text())
    scene, rival, million = found["scene"], found["rival"], found["million"]["million"]
    size = f"{scene['size_px']:,}"
    for layer in ("things", "stuff"):
        row = scene[layer]
        said = f"{row['features']:,} | {row['cpu_s']:.0f} | {row['peak_mb']} MB |"
        assert f"| {layer} of {size} x {size} px to GeoPackage | {said}" in page
    assert f"{million['features']:,} | {million['cpu_s']:.0f} | {million['peak_mb']} MB" in page
    assert f"({million['extra_mb']} of it" in page
    assert f"{million['file_mb']:.0f} MB of file" in page
    for step in ("trace", "rival"):
        row = rival[step]
        assert f"| {row['features']:,} | {row['cpu_s']:.1f} | {row['peak_mb']} MB |" in page
    assert rival["rival"]["cpu_s"] > 3 * rival["trace"]["cpu_s"]


def test_the_page_on_polygons_shows_what_right_angles_cost_and_gain() -> None:
    page = (ROOT / "docs/polygons.md").read_text()
    found = json.loads((ROOT / "benchmarks/results/regularize.json").read_text())
    measured = {name: r for name, r in found.items() if isinstance(r, dict) and "plain" in r}
    assert len(measured) >= 6
    for name, r in measured.items():
        before, after = r["plain"], r["regularized"]
        row = f"| {name} | {r.get('matched', r['buildings'])} | {before['iou']:.3f} | "
        row += f"{after['iou']:.3f} | {before['vertices']:.1f} | {after['vertices']:.1f} | "
        assert row + f"{r['reference_vertices']:.1f} |" in page
    assert found["machine"] in page
    town = measured["town, 0.7 px"]
    assert town["regularized"]["iou"] > 0.9
    for setting in ("default", "simplify 0.6 m"):
        assert f"{town['buildingregulariser'][setting]['iou']:.3f} (" in page

"""Mutation sanity: a stitcher broken on purpose is caught by the tests."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "mutate_stitcher"


def load_script() -> ModuleType:
    loader = SourceFileLoader("mutate_stitcher", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module
    loader.exec_module(module)
    return module


def test_every_mutant_still_fits_the_code() -> None:
    script = load_script()
    names = [m.name for m in script.MUTANTS]
    assert len(set(names)) == len(names) >= 10
    for mutant in script.MUTANTS:
        source = (SCRIPT.parents[1] / "geopanoptic/stitch" / f"{mutant.module}.py").read_text()
        assert source.count(mutant.old) == 1, mutant.name
        assert mutant.new != mutant.old


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_tests_catch_every_mutant() -> None:
    run = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-2000:]

"""Whatever disk operation fails, or is the last before the process dies: nothing is lost.

SQLite's way: fail the n-th operation, for every n; what stands under a final name is whole or not
there; the resumed run keeps the finished parts and makes the same bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

SWEEP = Path(__file__).with_name("sweep.py")
MEMORY = Path("/dev/shm")  # thousands of fsyncs; what they flush to is not the point


def sweep(what: str, steps: str, *faults: str) -> dict[str, int]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as folder:
        command = [sys.executable, str(SWEEP), folder, what, steps, *faults]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["wrong"] == {}, done.stderr[-3000:]
    made: dict[str, int] = report["made"]
    return made


def test_killed_at_any_operation_a_job_goes_on() -> None:
    made = sweep("parts2", "1", "any:KILL", "write:TORN")
    assert made["any:KILL"] > 30
    assert made["write:TORN"] > 10


def test_with_the_disk_full_at_any_operation_a_job_goes_on() -> None:
    assert sweep("parts2", "1", "any:ENOSPC")["any:ENOSPC"] > 30


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("fault", ["any:KILL", "write:TORN", "any:ENOSPC", "any:EIO", "any:EROFS"])
def test_a_job_of_sixteen_regions_survives_each_fault_at_each_operation(fault: str) -> None:
    assert sweep("parts16", "1", fault)[fault] > 80


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("products", ["map", "pair", "polygons"])
def test_the_main_job_killed_before_any_of_its_operations_goes_on(products: str) -> None:
    """All of some 1,270 operations on 16 regions, outputs included."""
    assert sweep(products, "1", "each:KILL")["each:KILL"] > 1000


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("fault", ["any:ENOSPC", "any:EIO"])
def test_the_main_job_survives_errors_of_the_disk(fault: str) -> None:
    """Every eleventh operation, and each of the last 40, which make the outputs.

    A part is written by some 20 operations, most of them equal writes, so that 11, prime to that,
    meets all kinds of them. With `sweep.py ... 1`, by hand, all (half an hour per fault).
    """
    assert sweep("map", "11+40", fault)[fault] > 140


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("products", ["pair", "polygons"])
def test_outputs_survive_a_full_disk_at_each_of_their_operations(products: str) -> None:
    assert sweep(products, "200+30", "any:ENOSPC")["any:ENOSPC"] > 30


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_main_job_killed_at_any_moment_goes_on_to_the_same_bytes() -> None:
    assert sweep("map", "1", "moment:40")["moment:40"] == 40

"""Hypothesis profiles and the few fixtures that every room shares."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

# `fast` is the default; HYPOTHESIS_PROFILE=full runs every law on 1000 examples.
_QUIET = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fast", max_examples=60, derandomize=True, **_QUIET)
settings.register_profile("full", max_examples=1000, **_QUIET)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


def pytest_configure(config: pytest.Config) -> None:
    """Run the laws on 1000 examples where they are asked for by name: ``scripts/test -m law``."""
    asked = config.getoption("markexpr", "")
    if "law" in asked.split() and "HYPOTHESIS_PROFILE" not in os.environ:
        settings.load_profile("full")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every hypothesis test as a law."""
    for item in items:
        if is_hypothesis_test(getattr(item, "obj", None)):
            item.add_marker(pytest.mark.law)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder `shared` beside the repository (or $GEOPANOPTIC_SHARED); skip without."""
    beside = Path(__file__).parents[2] / "shared"
    folder = Path(os.environ.get("GEOPANOPTIC_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"no shared data at {folder}; set GEOPANOPTIC_SHARED to its folder")
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 64 kB, which a test may remount in another size."""
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        made = subprocess.run(mount, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command here")
    if made.returncode:
        pytest.skip(f"cannot mount a tmpfs here: {made.stderr.strip()}")
    yield place
    # lazily: a reader of this process may still hold a file that lay there
    subprocess.run(["umount", "-l", str(place)], check=True)

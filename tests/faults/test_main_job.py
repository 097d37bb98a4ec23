"""Whatever befalls a run of `geopanoptic predict`: nothing is lost, and the map is the same bytes.

Each test disturbs the command as a user meets it, gives the same command again, and compares with
a run that nobody disturbed. docs/faults.md lists which test stands for which fault.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from pixel_oracle import PixelOracle, spell
from scenes import make_truth

from geopanoptic.predict import Execution, PredictSettings, Products, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TESTS = Path(__file__).parent.parent
COMMAND = Path(__file__).with_name("command.py")
CORE, HALO = 32, 3
SLOW_S = 0.4


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    return spell(make_truth("row houses", (150, 170), seed=5, nodata=True), folder / "scene.tif")


def bytes_of(folder: Path) -> dict[str, bytes]:
    names = ("semantic.tif", "instances.tif", "segments.parquet")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def undisturbed(scene: Path) -> tuple[dict[str, bytes], int]:
    """The map of a run in this process, and the tiles it took."""
    out = scene.with_name("undisturbed.panoptic")
    settings = PredictSettings(core=CORE, halo=HALO)
    done = run(str(scene), PixelOracle(), Products.to([out]), settings, Execution())
    return bytes_of(out), done.record.counts["tiles_run"]


@dataclass
class Shell:
    """A place where the command is given; `out` and its work directory lie in `folder`."""

    scene: Path
    folder: Path
    started: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def out(self) -> Path:
        return self.folder / "town.panoptic"

    @property
    def job(self) -> Path:
        return self.folder / "town.panoptic.gpjob"

    def parts(self) -> dict[str, tuple[int, int]]:
        found = self.job.glob("parts/*/*/*.part")
        return {str(p): (p.stat().st_ino, p.stat().st_mtime_ns) for p in found}

    def start(self, *more: object, seconds: float = 0) -> subprocess.Popen[str]:
        words = [sys.executable, COMMAND, seconds, "predict", self.scene, "--out", self.out]
        words += ["--tile", CORE, "--halo", HALO, "--device", "cpu", "--json", *more]
        running = subprocess.Popen(
            list(map(str, words)), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,  # a process group of its own, as a terminal gives
            env=os.environ | {"PYTHONPATH": str(TESTS), "OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler) and None,
        )  # fmt: skip
        self.started.append(running)
        return running

    def under_way(self, running: subprocess.Popen[str], parts: int = 3) -> None:
        """Wait until so many regions are finished, and the run is not."""
        deadline = time.monotonic() + 300
        while len(self.parts()) < parts:
            assert running.poll() is None, running.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def goes_on(self, undisturbed: tuple[dict[str, bytes], int], *more: object) -> int:
        """Give the same command again; check all that must hold; return the tiles it took."""
        kept = self.parts()
        running = self.start(*more)
        out, err = running.communicate(timeout=600)
        assert running.returncode == 0, err
        assert bytes_of(self.out) == undisturbed[0]
        tiles = int(json.loads(out)["counts"].get("tiles_run", 0))
        assert not kept or tiles < undisturbed[1], "all was done anew"
        return tiles

    def is_tidy(self) -> bool:
        return [p.name for p in self.folder.iterdir()] == [self.out.name]


@pytest.fixture
def shell(scene: Path, tmp_path: Path) -> Iterator[Shell]:
    folder = tmp_path / "here"
    folder.mkdir()
    shell = Shell(scene, folder)
    yield shell
    for running in shell.started:
        for process in [*descendants(running), running]:
            process.kill()
        running.wait()
        for pipe in (running.stdout, running.stderr):
            if pipe is not None:
                pipe.close()


def descendants(running: subprocess.Popen[str]) -> list[psutil.Process]:
    if running.poll() is not None:
        return []
    return psutil.Process(running.pid).children(recursive=True)


def workers_of(running: subprocess.Popen[str]) -> list[psutil.Process]:
    return [p for p in descendants(running) if "spawn_main" in " ".join(p.cmdline())]


def kill_coordinator(running: subprocess.Popen[str]) -> int:
    left = descendants(running)
    running.kill()
    _, alive = psutil.wait_procs(left, timeout=60)
    assert not alive, "workers without a master"
    return -signal.SIGKILL


def kill_everything(running: subprocess.Popen[str]) -> int:
    os.killpg(running.pid, signal.SIGKILL)
    return -signal.SIGKILL


def ctrl_c(running: subprocess.Popen[str]) -> int:
    """A terminal sends it to all processes of the group."""
    os.killpg(running.pid, signal.SIGINT)
    return 130


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("blow", [kill_coordinator, kill_everything, ctrl_c])
def test_a_run_that_is_ended_goes_on_to_the_same_bytes(
    blow: Callable[[subprocess.Popen[str]], int],
    workers: int,
    shell: Shell,
    undisturbed: tuple[dict[str, bytes], int],
) -> None:
    running = shell.start("--workers", workers, seconds=SLOW_S)
    shell.under_way(running)
    status = blow(running)
    _, said = running.communicate(timeout=120)
    assert running.returncode == status, said
    assert status != 130 or "Run the same command again" in said
    assert "Traceback" not in said
    assert not shell.out.exists()
    kept = shell.parts()
    assert kept
    again = shell.goes_on(undisturbed, "--work-dir", shell.job)
    assert 0 < again < undisturbed[1]
    now = shell.parts()
    assert kept.items() <= now.items(), "a finished part was made anew"
    assert not [p for p in shell.folder.rglob("*") if ".tmp" in p.name]


def test_a_worker_that_is_killed_costs_nothing(
    shell: Shell, undisturbed: tuple[dict[str, bytes], int]
) -> None:
    running = shell.start("--workers", 2, seconds=SLOW_S)
    shell.under_way(running)
    victim = workers_of(running)[0]
    victim.kill()
    _, said = running.communicate(timeout=600)
    assert running.returncode == 0, said
    assert bytes_of(shell.out) == undisturbed[0]
    assert shell.is_tidy()


def test_a_second_run_in_one_work_directory_is_refused_and_the_first_does_not_mind(
    shell: Shell, undisturbed: tuple[dict[str, bytes], int]
) -> None:
    first = shell.start(seconds=SLOW_S)
    shell.under_way(first, 1)
    second = shell.start()
    _, said = second.communicate(timeout=120)
    assert second.returncode == 1
    assert f"in use by another run (process {first.pid} on" in said
    assert "--work-dir" in said
    _, said = first.communicate(timeout=600)
    assert first.returncode == 0, said
    assert bytes_of(shell.out) == undisturbed[0]
    assert shell.is_tidy()


@pytest.mark.parametrize(
    ("change", "named"),
    [(("--tile", 40), "core"), (("--min-area", 3), "min_area"), (("--bands", "2,1,3"), "bands")],
)
def test_other_settings_in_one_work_directory_are_refused_by_name_and_the_first_go_on(
    change: tuple[str, object],
    named: str,
    shell: Shell,
    undisturbed: tuple[dict[str, bytes], int],
) -> None:
    running = shell.start(seconds=SLOW_S)
    shell.under_way(running)
    kill_everything(running)
    running.communicate(timeout=60)
    other = shell.start(*change)
    _, said = other.communicate(timeout=120)
    assert other.returncode == 1
    assert named in said
    assert "--fresh" in said or "--work-dir" in said
    assert shell.goes_on(undisturbed) < undisturbed[1]
    assert shell.is_tidy()


def test_another_scene_in_one_work_directory_is_refused(shell: Shell, tmp_path: Path) -> None:
    running = shell.start(seconds=SLOW_S)
    shell.under_way(running)
    kill_everything(running)
    running.communicate(timeout=60)
    shell.scene = spell(make_truth("row houses", (150, 170), seed=6), tmp_path / "other.tif")
    other = shell.start()
    _, said = other.communicate(timeout=120)
    assert other.returncode == 1
    assert "scene" in said


def test_a_work_directory_on_a_disk_that_fills_up_keeps_what_is_finished(
    scene: Path, small_disk: Path, undisturbed: tuple[dict[str, bytes], int]
) -> None:
    shell = Shell(scene, small_disk)
    running = shell.start()
    _, said = running.communicate(timeout=300)
    assert running.returncode == 1
    assert "free some space and run the same command again" in said
    assert "Traceback" not in said
    assert not shell.out.exists()
    assert not [p for p in small_disk.rglob("*") if ".tmp" in p.name]
    kept = shell.parts()
    assert kept
    subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
    shell.goes_on(undisturbed, "--work-dir", shell.job)
    assert kept.items() <= shell.parts().items(), "a finished part was made anew"

"""Memory: what fits is chosen, what cannot fit is refused, and running out halves the batch."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pixel_oracle import PixelOracle, spell
from scenes import make_truth

from geopanoptic.errors import ConfigError, SceneError
from geopanoptic.grid import TileGrid
from geopanoptic.models import Engine
from geopanoptic.predict import Execution, PredictSettings, Products, run
from geopanoptic.predict.backoff import DEVICE, Device, is_out_of_memory
from geopanoptic.predict.memory import COORDINATOR_BYTES, GPU_BATCH, Need, within_memory
from geopanoptic.workers import EngineSpec

TORCH = Engine("torch", "2", "fp32")
NEED = Need.of(TileGrid((20_000, 30_000), 1024, 64), 4, TORCH, gpu=False)


def test_the_sizes_come_from_the_grid() -> None:
    assert Need(1152**2, 1152 * (4 * 1024 + 128), 4, TORCH) == NEED
    small = Need.of(TileGrid((5000, 900), 1024, 64), 4, TORCH, gpu=False)
    assert small.band_px == 1152**2


def test_an_engine_with_fewer_bits_is_known_to_take_less() -> None:
    engines = [Engine("openvino", "2026", p) for p in ("int8", "fp32")] + [TORCH]
    need = [replace(NEED, engine=engine).process_bytes(1, 1) for engine in engines]
    assert need == sorted(need)
    pair = replace(NEED, engine=Engine("openvino+torch", "1+2", "int8+fp32"))
    assert pair.process_bytes(1, 1) == need[-1]
    assert replace(NEED, engine=Engine("given", "")).process_bytes(1, 1) == need[-1]


@given(
    ram=st.integers(10**9, 10**11),
    batch=st.integers(1, 33),
    processes=st.integers(1, 8),
    gpu=st.booleans(),
)
def test_what_is_chosen_fits_and_nothing_larger_does(
    ram: int, batch: int, processes: int, gpu: bool
) -> None:
    need = replace(NEED, gpu=gpu)
    workers = processes if processes > 1 else 0
    spec = EngineSpec(workers=workers, max_ram=ram, cores=8)
    asked = spec.threads_per_process(gpu=gpu)
    beside = COORDINATOR_BYTES if workers else 0

    def total(tiles: int, threads: int) -> float:
        return processes * need.process_bytes(tiles, threads) + beside

    try:
        chosen, tiles = within_memory(need, spec, batch, processes)
    except ConfigError:
        assert total(1, 1) > ram
        return
    threads = chosen.threads
    assert threads is not None
    assert 1 <= threads <= asked
    assert 1 <= tiles <= batch
    assert total(tiles, threads) <= ram * (1 + 1e-9)
    assert threads == asked or total(1, threads + 1) > ram
    assert tiles == batch or total(2 * tiles + 1, threads) > ram


def test_too_little_is_refused_with_the_numbers_and_the_cure() -> None:
    with pytest.raises(ConfigError, match=r"--max-ram 1\.00GB is less than the 2\.40 GB.*--tile"):
        within_memory(NEED, EngineSpec(max_ram=10**9), 1, 1)
    with pytest.raises(ConfigError, match=r"fewer --workers than 3, or a smaller --tile"):
        within_memory(NEED, EngineSpec(workers=3, max_ram=4 * 10**9), 1, 3)


def test_without_a_limit_nothing_is_changed() -> None:
    for spec in (EngineSpec(), EngineSpec(workers=3), EngineSpec(scheduler="tcp://h:1", max_ram=1)):
        assert within_memory(NEED, spec, 7, 3) == (spec, 7)
    assert within_memory(NEED, EngineSpec(), None, 1)[1] == 1
    assert within_memory(replace(NEED, gpu=True), EngineSpec(), None, 1)[1] == GPU_BATCH


@dataclass(frozen=True)
class Cramped(PixelOracle):
    """Its device holds so many chips at once, and no more; notes what was asked of it."""

    most: int = 2
    calls: tuple[Path, ...] = ()

    def forward(self, chips: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.float32]]:
        import torch

        for path in self.calls:
            with path.open("a") as file:
                file.write(f"{len(chips)} ")
        if len(chips) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return super().forward(chips)


@pytest.fixture
def fresh_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DEVICE, "most", None)


def chips(count: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(count).integers(0, 255, (count, 3, 8, 8)).astype(np.uint8)


def test_the_batch_is_halved_until_it_fits_and_stays_so(tmp_path: Path) -> None:
    device, log = Device(), tmp_path / "calls"
    model = Cramped(most=3, calls=(log,))
    for count in (8, 5):
        found = device.forward(model, chips(count))
        assert np.array_equal(found["pixels"], PixelOracle().forward(chips(count))["pixels"])
    assert log.read_text().split() == ["8", "4", "2", "2", "2", "2", "2", "2", "1"]
    assert device.most == 2


def test_one_tile_too_many_is_said_with_the_cure() -> None:
    with pytest.raises(SceneError, match=r"one window of 8 x 8 px; use a smaller --tile"):
        Device().forward(Cramped(most=0), chips(4))


def test_other_errors_pass_and_all_sorts_of_out_of_memory_are_known() -> None:
    @dataclass(frozen=True)
    class Broken(PixelOracle):
        def forward(self, chips: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.float32]]:
            raise RuntimeError("expected 3 channels")

    with pytest.raises(RuntimeError, match="3 channels"):
        Device().forward(Broken(), chips(4))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("[enforce fail at alloc_cpu.cpp] not enough memory"))
    assert is_out_of_memory(RuntimeError("Failed to allocate memory for requested buffer"))
    assert not is_out_of_memory(ValueError("out of memory"))


@pytest.mark.usefixtures("fresh_device")
def test_a_run_that_runs_out_of_memory_goes_on_to_the_same_bytes(tmp_path: Path) -> None:
    scene = str(spell(make_truth("row houses", (120, 130), seed=5), tmp_path / "scene.tif"))
    made = []
    for name, model in (("roomy", PixelOracle()), ("cramped", Cramped(most=2))):
        out = tmp_path / f"{name}.panoptic"
        outcome = run(
            scene, model, Products.to([out]), PredictSettings(core=12, halo=3), Execution(batch=4)
        )
        assert outcome.failed_tiles == {}
        rasters = (out / f"{kind}.tif" for kind in ("semantic", "instances"))
        made.append([hashlib.sha256(path.read_bytes()).hexdigest() for path in rasters])
    assert made[0] == made[1]
    assert DEVICE.most == 2


def test_a_limit_that_cannot_be_kept_is_refused_before_the_work(tmp_path: Path) -> None:
    scene = str(spell(make_truth("row houses", (60, 60), seed=5), tmp_path / "scene.tif"))
    execution = Execution(engine=EngineSpec(max_ram=10**8))
    with pytest.raises(ConfigError, match=r"--max-ram 0\.10GB"):
        run(
            scene, PixelOracle(), Products.to([tmp_path / "a.panoptic"]),
            PredictSettings(core=40, halo=3), execution,
        )  # fmt: skip
    assert not list(tmp_path.glob("*.gpjob"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "openvino", "onnxruntime"])
def test_the_least_that_a_run_is_said_to_need_is_enough(engine: str, tmp_path: Path) -> None:
    if engine != "torch":
        pytest.importorskip(engine)
    scene = Path(__file__).parents[1] / "examples" / "bremerton.tif"
    words = [sys.executable, "-m", "geopanoptic.cli.main", "predict", str(scene)]
    words += ["--engine", engine, "--out", str(tmp_path / "out.gpkg"), "--max-ram"]
    subprocess.run([*words, "9GB"], check=True, capture_output=True)  # its graph is exported once
    refused = subprocess.run([*words, "0.1GB", "--overwrite"], capture_output=True, text=True)
    assert refused.returncode == 1, refused.stderr
    (least,) = re.findall(r"less than the (\d\.\d\d) GB", refused.stderr)
    ram = float(least) + 0.01
    process = psutil.Popen([*words, f"{ram}GB", "--overwrite"], stderr=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        try:
            peak = max(peak, process.memory_info().rss)
        except psutil.Error:
            break
        time.sleep(0.02)
    assert process.wait() == 0
    assert 0.5 * ram < peak / 1e9 < ram

"""How fast is the main job on this machine, how much memory does it take, what does it cost?"""

from __future__ import annotations

import os
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from geopanoptic.errors import ConfigError
from geopanoptic.grid import Tile
from geopanoptic.predict.infer import _device, mirrored, segmenter_of
from geopanoptic.predict.plan import Plan, make_plan
from geopanoptic.predict.run import Execution, Outcome, run
from geopanoptic.predict.settings import PredictSettings, Products
from geopanoptic.raster import Scene
from geopanoptic.workers import EngineSpec
from geopanoptic.workers.spec import available_cores

BARE_TILES = 8  # forward passes that are timed alone; of real pixels, spread over the scene
SAMPLE_S = 0.1


@dataclass(slots=True)
class Family:
    """What this process and its children used: the peak of all their memory together, and CPU."""

    peak_bytes: int = 0
    _cpu: dict[int, float] = field(default_factory=dict)

    @property
    def cpu_s(self) -> float:
        return sum(self._cpu.values())

    def look(self) -> None:
        """Add up the memory of all processes now; note the CPU time of each so far."""
        import psutil

        total, me = 0, psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                total += process.memory_info().rss
                times = process.cpu_times()
            except psutil.Error:
                continue
            self._cpu[process.pid] = times.user + times.system
        self.peak_bytes = max(self.peak_bytes, total)


@contextmanager
def watched() -> Iterator[Family]:
    """Watch this process and its children for the time of the block."""
    family, begun, done = Family(), Family(), threading.Event()
    begun.look()
    family.look()

    def watch() -> None:
        while not done.wait(SAMPLE_S):
            family.look()

    thread = threading.Thread(target=watch, name="geopanoptic-watch", daemon=True)
    thread.start()
    try:
        yield family
    finally:
        done.set()
        thread.join()
        family.look()
        for pid, before in begun._cpu.items():
            family._cpu[pid] = family._cpu.get(pid, before) - before


def speed_report(
    scene: str,
    model: Any,
    settings: PredictSettings | None = None,
    execution: Execution | None = None,
    price_per_hour: float | None = None,
) -> dict[str, Any]:
    """Run the main job on a scene, from file to map, and the bare network beside it.

    Returns plain values: `seconds` of wall and CPU time of all processes (loading the model
    included, starting Python not), seconds per stage, `mpx_per_s` and `km2_per_hour` of the working
    grid (None without metres), `peak_ram_mb` of all processes together, `peak_vram_mb`, the bare
    network's seconds per tile, and `overhead`: how many times the bare forward passes of all tiles
    the whole run took, by the clock and in CPU time (the latter also means something on a busy
    machine). `cost_per_1000_km2` is in the currency of `price_per_hour`.

    Raises ConfigError for a price that is no positive number.
    """
    if price_per_hour is not None and not 0 < price_per_hour < 1e9:
        raise ConfigError(f"--price-per-hour {price_per_hour} must be more than 0")
    settings, execution = settings or PredictSettings(), execution or Execution()
    plan = make_plan(Scene.open(scene), model, settings)
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="geopanoptic-") as folder, watched() as family:
        start = time.perf_counter()
        products = Products.to([Path(folder) / "bench.panoptic"])
        outcome = run(scene, model, products, settings, replace(execution, work_dir=None))
        wall_s = time.perf_counter() - start
    bare = bare_seconds(plan, execution.engine, execution.batch or 1)
    tiles = int(outcome.record.counts.get("tiles_run", 0))
    mpx, km2 = _size(plan)
    price = None
    if km2 is not None and price_per_hour is not None:
        price = price_per_hour * wall_s / 3600 * 1000 / km2
    return {
        "scene": Path(scene).name,
        "shape": list(plan.grid.shape),
        "model": plan.card.name,
        "engine": outcome.record.engine,
        "workers": execution.engine.workers,
        "tiles": tiles,
        "wall_s": wall_s,
        "cpu_s": family.cpu_s,
        "mpx_per_s": mpx / wall_s,
        "km2_per_hour": None if km2 is None else km2 / wall_s * 3600,
        "peak_ram_mb": family.peak_bytes / 1e6,
        "peak_vram_mb": _peak_vram_mb(),
        "stages": _stages(outcome),
        "bare": bare,
        "overhead": {
            "wall": wall_s / (bare["wall_s_per_tile"] * tiles) if tiles else None,
            "cpu": family.cpu_s / (bare["cpu_s_per_tile"] * tiles) if tiles else None,
        },
        "price_per_hour": price_per_hour,
        "cost_per_1000_km2": price,
        "machine": machine() | {"load_before": load},
    }


def bare_seconds(plan: Plan, spec: EngineSpec, batch: int = 1) -> dict[str, Any]:
    """Time the network's own forward passes over some windows of the scene, nothing else."""
    threads = spec.cores_per_process(1)
    plan = replace(plan, device=spec.device, threads=threads, batch=batch)
    chosen = np.unique(np.linspace(0, len(plan.grid) - 1, BARE_TILES).astype(int)).tolist()
    chips = [chip for tile in map(plan.grid.tile, chosen) for chip in _chip(plan, tile)]

    def timed() -> tuple[float, float]:
        model = segmenter_of(plan)
        for chip in chips[:1]:
            model.forward(np.stack([chip]))  # the first call also pays for set-up
        wall, cpu = time.perf_counter(), time.process_time()
        for chip in chips:
            model.forward(np.stack([chip]))
        return time.perf_counter() - wall, time.process_time() - cpu

    wall_s, cpu_s = _device().submit(timed).result()
    count = max(1, len(chips))
    return {
        "tiles": len(chips),
        "threads": threads,
        "wall_s_per_tile": wall_s / count,
        "cpu_s_per_tile": cpu_s / count,
    }


def _chip(plan: Plan, tile: Tile) -> list[Any]:
    pixels, valid = plan.read(tile.window)
    return [mirrored(pixels, tile.window, plan.seen_window(tile.index))] if valid.any() else []


def _size(plan: Plan) -> tuple[float, float | None]:
    """Return million pixels, and square kilometres where the scene has metres."""
    rows, cols = plan.grid.shape
    georef = plan.scene.georef
    km2 = float(georef.row_area_m2(0, rows).sum()) * cols / 1e6 if georef.has_metres else None
    return rows * cols / 1e6, km2


def _stages(outcome: Outcome) -> dict[str, float]:
    return {name: round(value, 3) for name, value in outcome.record.seconds.items()}


def _peak_vram_mb() -> float | None:
    """Return the most memory that torch held on this process's GPUs; None without."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    devices = range(torch.cuda.device_count())
    return float(sum(torch.cuda.max_memory_allocated(i) for i in devices) / 1e6)


def machine() -> dict[str, Any]:
    """Describe this machine as far as speed goes."""
    import psutil

    torch: Any = sys.modules.get("torch")
    gpu = torch is not None and torch.cuda.is_available()
    return {
        "cores": available_cores(),
        "cpu": platform.processor() or platform.machine(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "gpu": torch.cuda.get_device_name(0) if gpu else None,
        "system": platform.system(),
        "python": platform.python_version(),
    }

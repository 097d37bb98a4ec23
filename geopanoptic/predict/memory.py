"""How much memory a run takes, and how to stay within --max-ram."""

from __future__ import annotations

from dataclasses import dataclass, replace

from geopanoptic.errors import ConfigError
from geopanoptic.grid import TileGrid
from geopanoptic.models import Engine
from geopanoptic.workers import EngineSpec

# Peaks of landcover-v2 on the whole Banepa scene (2 cores, 2026-11-26), windows of 768 and 1280 px,
# one thread: 0.85 and 1.20 GB in OpenVINO with 8 bits, 1.59 (1280) in fp32; 0.91 and 1.20 in
# ONNX Runtime; 1.49 and 2.52 in torch. Three threads took up to 0.2 GB more.
COORDINATOR_BYTES = 0.5e9  # the process that hands out the work, beside worker processes
FIELD_BYTES_PER_PX = 40.0  # the fields alone, where the activations are in the GPU's own memory
BAND_BYTES_PER_PX = 25.0  # what is read ahead, decoded and packed, per pixel of a band and thread

GPU_BATCH = 4  # tiles per network call that keep a large GPU busy; too many are halved (backoff)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What an engine takes: its libraries and tables, and activations and fields per pixel."""

    base_bytes: float
    bytes_per_px: float


_TORCH = Footprint(0.95e9, 1000.0)  # also for what is not known
_FOOTPRINTS = {
    ("openvino", "int8"): Footprint(0.7e9, 350.0),
    ("openvino", "fp32"): Footprint(0.7e9, 600.0),
    ("openvino", "bf16"): Footprint(0.7e9, 600.0),
    ("onnxruntime", "fp32"): Footprint(0.75e9, 350.0),
    ("onnxruntime", "int8"): Footprint(0.75e9, 350.0),
}


@dataclass(frozen=True, slots=True)
class Need:
    """What decides a process's memory.

    `window_px`: pixels of a tile's window. `band_px`: pixels of a row of a region's tiles, which
    are `across`. `engine` and `gpu`: what runs the network, and where.
    """

    window_px: int
    band_px: int
    across: int
    engine: Engine
    gpu: bool = False

    @classmethod
    def of(cls, grid: TileGrid, k: int, engine: Engine, *, gpu: bool) -> Need:
        """Take the sizes from a tile grid with regions of k x k tiles."""
        rows, cols = grid.window_shape
        width = min(k * grid.core + 2 * grid.halo, max(grid.shape[1], cols))
        return cls(rows * cols, rows * width, k, engine, gpu)

    def process_bytes(self, batch: int, threads: int) -> float:
        """Return the bytes of one process with so many tiles per call and regions in flight."""
        parts = [_FOOTPRINTS.get((e.name, e.precision), _TORCH) for e in self.engine.parts(2)]
        footprint = max(parts, key=lambda part: part.bytes_per_px)
        per_px = FIELD_BYTES_PER_PX if self.gpu else footprint.bytes_per_px
        band_px = self.band_px * -(-batch // self.across)
        return (
            footprint.base_bytes
            + per_px * self.window_px * batch
            + BAND_BYTES_PER_PX * band_px * threads
        )


def within_memory(
    need: Need, spec: EngineSpec, batch: int | None, processes: int
) -> tuple[EngineSpec, int]:
    """Choose regions in flight (`threads` of the returned spec) and tiles per network call.

    Without `spec.max_ram` what was asked for stays (batch None: 1 on a CPU, GPU_BATCH on a GPU).
    With it the batch is halved first, down to 1, for on a CPU it gains nothing; then threads are
    taken away, which lets the device wait for the disk. Law: what is returned needs at most
    `max_ram`, and one thread more, or twice the batch and one, would need more or was not asked.

    Raises ConfigError, with the numbers and the cure, when one tile and one thread are too much.
    """
    asked = batch or (GPU_BATCH if need.gpu else 1)
    threads = spec.threads_per_process(gpu=need.gpu)
    if spec.max_ram is None or spec.scheduler is not None:
        return spec, asked
    beside = COORDINATOR_BYTES if spec.workers or processes > 1 else 0.0
    budget = (spec.max_ram - beside) / processes
    for fewer in range(threads, 0, -1):
        tiles = asked
        while True:
            if need.process_bytes(tiles, fewer) <= budget:
                return replace(spec, threads=fewer), tiles
            if tiles == 1:
                break
            tiles //= 2
    least = need.process_bytes(1, 1)
    cure = "a smaller --tile"
    if processes > 1:
        cure = f"fewer --workers than {processes}, or {cure}"
    raise ConfigError(
        f"--max-ram {spec.max_ram / 1e9:.2f}GB is less than the "
        f"{(least * processes + beside) / 1e9:.2f} GB that {_processes(processes)} with one tile "
        f"at a time need; allow that much, or use {cure}"
    )


def _processes(n: int) -> str:
    return "one process" if n == 1 else f"{n} processes"

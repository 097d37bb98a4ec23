"""How much memory a run takes, and how to stay within --max-ram."""

from __future__ import annotations

from dataclasses import dataclass, replace

from geopanoptic.errors import ConfigError
from geopanoptic.grid import TileGrid
from geopanoptic.workers import EngineSpec

# Measured with landcover-v0 on the Banepa scene and its labelled window (2 cores, 2026-11-25):
# peaks of 1.6 GB with windows of 768 px, and of 2.7 GB with windows of 1280 px, two threads.
BASE_BYTES = 1.1e9  # libraries and tables of one process
NETWORK_BYTES_PER_PX = 1000.0  # activations and fields, per pixel of the windows in one call
FIELD_BYTES_PER_PX = 40.0  # the fields alone, where the activations are in the GPU's own memory
REGION_BYTES_PER_PX = 6.0  # pixels, labels and products of a region at work, per thread
COORDINATOR_BYTES = 0.5e9  # the process that hands out the work, beside worker processes

GPU_BATCH = 4  # tiles per network call that keep a large GPU busy; too many are halved (backoff)


@dataclass(frozen=True, slots=True)
class Need:
    """What decides a process's memory: pixels of a window and of a region, and where it runs."""

    window_px: int
    region_px: int
    gpu: bool = False

    @classmethod
    def of(cls, grid: TileGrid, k: int, *, gpu: bool) -> Need:
        """Take the sizes from a tile grid with regions of k x k tiles."""
        rows, cols = grid.window_shape
        side = k * grid.core + 2 * grid.halo
        height, width = (
            min(side, max(n, m)) for n, m in zip(grid.shape, (rows, cols), strict=True)
        )
        return cls(rows * cols, height * width, gpu)

    def process_bytes(self, batch: int, threads: int) -> float:
        """Return the bytes of one process with so many tiles per call and regions in flight."""
        per_px = FIELD_BYTES_PER_PX if self.gpu else NETWORK_BYTES_PER_PX
        return (
            BASE_BYTES
            + per_px * self.window_px * batch
            + REGION_BYTES_PER_PX * self.region_px * threads
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

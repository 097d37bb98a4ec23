"""What an engine is asked for, and the arithmetic of cores, memory and devices behind it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from geopanoptic.errors import ConfigError

# NVIDIA's driver on Linux, and under Windows' Linux subsystem.
_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg")
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Tls:
    """Files for an encrypted cluster: certificate authority, own certificate, own key."""

    ca_file: Path
    cert: Path
    key: Path


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """How work is spread.

    `workers`: processes on this machine; 0 = this process alone, without Dask.
    `scheduler`: address of a Dask cluster that somebody else runs; `workers` is then ignored.
    `threads` per process, so that reading, computing and writing overlap; None = 3, with a GPU 6.
    `cores`: how many of this machine's cores to use; None = all that this process may use.
    `device`: ``cpu``, ``cuda`` (one process per GPU), ``cuda:1``, or ``auto``.
    `max_ram`: bytes for all workers together; None = what the machine has.
    `insecure`: allow an unencrypted scheduler on another host.
    `dashboard`: serve Dask's dashboard, on the loopback interface only.
    `stall_s`: give up when nothing finishes for so many seconds; None = 10 times the median task,
    at least 5 minutes. `task_s`: end a task after so many seconds and try it once more, alone;
    None = likewise.
    """

    workers: int = 0
    scheduler: str | None = None
    threads: int | None = None
    cores: int | None = None
    device: str = "cpu"
    max_ram: int | None = None
    tls: Tls | None = None
    insecure: bool = False
    dashboard: bool = False
    stall_s: float | None = None
    task_s: float | None = None

    def __post_init__(self) -> None:
        counts = [n for n in (self.threads, self.cores) if n is not None]
        if self.workers < 0 or any(n < 1 for n in counts):
            raise ConfigError(
                f"--workers {self.workers} must be >= 0, threads {self.threads} and cores "
                f"{self.cores} >= 1"
            )

    @property
    def usable_cores(self) -> int:
        """Cores to share among the worker processes."""
        return self.cores or available_cores()

    def threads_per_process(self, *, gpu: bool) -> int:
        """Return how many tasks each process works on at once.

        A device never waits when others read and decode meanwhile: that takes
        (read + forward + decode) / forward threads and one to spare. On a CPU the forward pass
        is most of it (3, or 2 where there are only two cores to share); on a GPU of 50 tiles/s,
        (33 + 20 + 111) / 20 ms gives 9 (docs/scaling.md).
        """
        return self.threads or (9 if gpu else min(3, max(2, self.usable_cores)))

    def cores_per_process(self, processes: int) -> int:
        """Return the compute threads of each process: processes x threads never exceeds cores."""
        return max(1, self.usable_cores // max(1, processes))

    def ram_per_process(self, processes: int) -> int:
        """Return the bytes one of so many worker processes may use before it is restarted."""
        return (self.max_ram or available_ram()) // max(1, processes)


@dataclass(frozen=True, slots=True)
class Failure:
    """Work that was given up: its key, the one-line cause, the attempts made, the error's class."""

    key: int
    cause: str
    attempts: int
    error: str


def available_cores() -> int:
    """Return the cores this process may use: its affinity, or less where a container limits it."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit, _, period = _cgroup("cpu.max").partition(" ")
    if limit.isdigit() and period.isdigit():
        return max(1, min(cores or 1, -(-int(limit) // int(period))))
    return cores or 1


def available_ram() -> int:
    """Return the bytes of memory of this machine, or of the container when that is less."""
    import psutil

    total = int(psutil.virtual_memory().total)
    limit = _cgroup("memory.max")
    return min(total, int(limit)) if limit.isdigit() else total


def _cgroup(name: str) -> str:
    try:
        return (CGROUP / name).read_text("ascii").strip()
    except OSError:
        return ""


def visible_gpus() -> list[str]:
    """Return what to put in CUDA_VISIBLE_DEVICES for each GPU this process may use."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name.strip() for name in given.split(",") if name.strip() not in ("", "-1")]
    if not any(Path(driver).exists() for driver in _GPU_DRIVERS):
        return []  # spares machines without a GPU two seconds of importing torch
    import torch  # counting devices makes no context

    return [str(i) for i in range(torch.cuda.device_count())]


def chosen_gpus(device: str) -> list[str]:
    """Return the GPUs that `device` means: none for ``cpu``, one for ``cuda:1``, all for ``cuda``.

    Raises ConfigError when a GPU is asked for that is not there.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (
        number and not (kind == "cuda" and number.isdigit())
    ):
        raise ConfigError(f"--device {device!r} is none of: auto, cpu, cuda, cuda:0, cuda:1, ...")
    if kind == "cpu":
        return []
    gpus = visible_gpus()
    if kind == "cuda" and not gpus:
        raise ConfigError(f"--device {device}: no CUDA device is visible; use --device cpu")
    if number and int(number) >= len(gpus):
        raise ConfigError(f"--device {device}: only {len(gpus)} CUDA devices are visible (from 0)")
    return [gpus[int(number)]] if number else gpus

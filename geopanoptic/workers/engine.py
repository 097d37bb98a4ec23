"""The engine: one way to run a task over many keys, wherever the work is done."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from geopanoptic.workers.local import LocalBackend
from geopanoptic.workers.loop import Found, Loop, OnDone
from geopanoptic.workers.malloc import HEAP_VARIABLE, heap_environment, tune_malloc
from geopanoptic.workers.outcome import Task
from geopanoptic.workers.spec import EngineSpec, Failure, chosen_gpus


@dataclass(frozen=True)
class Engine:
    """Made by `open_engine`. `device` is what a task uses: with one GPU per process, ``cuda``.

    `processes` is 0 for a cluster whose size may change, 1 in-process.
    """

    spec: EngineSpec
    device: str
    processes: int
    _backend: Callable[[str], Any]

    @property
    def threads_for_compute(self) -> int:
        """Threads that torch or OpenVINO may use in each process: processes x threads = cores."""
        return self.spec.cores_per_process(self.processes or self.spec.workers or 1)

    def run(
        self, task: Task, keys: Iterable[int], on_done: OnDone, found: Found | None = None
    ) -> list[Failure]:
        """Do ``task(key)`` for all keys; return those given up, sorted by key.

        `task` must pickle (a partial of a module's function) and return a small dict of JSON
        values; it is idempotent, for it may run twice. `on_done(key, result)` is called in this
        thread, once per key that succeeded, in order of completion. `keys` may be a lazy
        iterator of millions: only a few tasks per thread are in flight. ``found(key)`` looks
        whether the result exists although its answer was lost (None: it does not).

        TileError and SceneError of a task make a `Failure` at once. Anything unexpected, also
        the death of the worker or taking far longer than others, is tried once more, after all
        others and alone. Other errors of geopanoptic (StoreError: the disk is full) end the run
        and are raised.

        Raises EngineError when the cluster is lost, nothing finishes for long, or everything
        fails; KeyboardInterrupt after Ctrl-C, when running tasks have finished (up to 30 s) or
        Ctrl-C came again.
        """
        backend = self._backend(uuid.uuid4().hex[:12])
        loop = Loop(backend, task, self.spec.stall_s, self.spec.task_s)
        try:
            return loop.run(keys, on_done, found)
        finally:
            backend.close(wait=loop.interrupts < 1)


@contextmanager
def open_engine(spec: EngineSpec) -> Iterator[Engine]:
    """Start what `spec` asks for, and end it with the block.

    Raises ConfigError for devices or addresses that cannot be used, EngineError when the
    workers do not start.
    """
    if spec.scheduler is None and spec.workers == 0:
        gpus = chosen_gpus(spec.device)
        if len(gpus) <= 1 or spec.device.startswith("cuda:"):
            if not gpus:
                tune_malloc()
            os.environ.update(heap_environment(spec.max_ram))
            threads = spec.threads_per_process(gpu=bool(gpus))
            try:
                yield Engine(spec, spec.device, 1, lambda run: LocalBackend(threads, run))
            finally:
                os.environ.pop(HEAP_VARIABLE, None)
            return
    from geopanoptic.raster import gdal_environment
    from geopanoptic.workers.cluster import local_client, remote_client
    from geopanoptic.workers.remote import DaskBackend

    connect = remote_client if spec.scheduler is not None else local_client
    device = "cuda" if spec.scheduler is None and spec.device.startswith("cuda") else spec.device
    with connect(spec, gdal_environment()) as (client, processes):
        yield Engine(spec, device, processes, lambda run: DaskBackend(client, run, processes))

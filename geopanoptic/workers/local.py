"""The engine without Dask: a few threads of this process."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Sequence

from geopanoptic.workers.outcome import Outcome, Task, guarded, stop_run

CLOSE_S = 30.0


class LocalBackend:
    """Run tasks in daemon threads, so that a second Ctrl-C need not wait for them."""

    def __init__(self, threads: int, run: str) -> None:
        self.answers: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self._run = run
        self._work: queue.SimpleQueue[tuple[Task, int] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._serve, name=f"geopanoptic-{i}", daemon=True)
            for i in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _serve(self) -> None:
        while (item := self._work.get()) is not None:
            self.answers.put(guarded(*item, self._run))

    def submit(self, task: Task, keys: Sequence[int], attempt: int) -> None:  # noqa: ARG002
        for key in keys:
            self._work.put((task, key))

    def capacity(self) -> int:
        return len(self._threads) + 1

    def stop_waiting(self) -> None:
        stop_run(self._run)

    def check(self) -> None:
        """Nothing can be lost here: the engine is this process."""

    def abandon(self) -> None:
        stop_run(self._run)

    def close(self, wait: bool) -> None:
        """End the threads; those at work end with their task, for which we may wait a while."""
        for _ in self._threads:
            self._work.put(None)
        deadline = time.monotonic() + (CLOSE_S if wait else 0)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))

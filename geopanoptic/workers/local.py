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
        self._count = threads
        self._at_work: dict[int, threading.Thread] = {}
        self._given_up: set[threading.Thread] = set()
        self._threads: list[threading.Thread] = []
        for _ in range(threads):
            self._start()

    def _start(self) -> None:
        name = f"geopanoptic-{len(self._threads)}"
        self._threads.append(threading.Thread(target=self._serve, name=name, daemon=True))
        self._threads[-1].start()

    def _serve(self) -> None:
        me = threading.current_thread()
        while (item := self._work.get()) is not None:
            self._at_work[item[1]] = me
            outcome = guarded(*item, self._run)
            if me in self._given_up:
                return  # another thread has taken its place; the late answer is not wanted
            self._at_work.pop(item[1], None)
            self.answers.put(outcome)

    def submit(self, task: Task, keys: Sequence[int], attempt: int) -> None:  # noqa: ARG002
        for key in keys:
            self._work.put((task, key))

    def capacity(self) -> int:
        return self._count + 1

    def stop_waiting(self) -> None:
        stop_run(self._run)

    def check(self) -> None:
        """Nothing can be lost here: the engine is this process."""

    def reclaim(self, key: int) -> bool:
        """Leave the thread to its task, for threads cannot be ended, and put another in its place.

        A task that hangs on the device holds the device: then nothing finishes, and the run ends.
        """
        thread = self._at_work.pop(key, None)
        if thread is None:
            return False  # it has not begun, or has just ended
        self._given_up.add(thread)
        self._start()
        return True

    def abandon(self) -> None:
        stop_run(self._run)

    def close(self, wait: bool) -> None:
        """End the threads; those at work end with their task, for which we may wait a while."""
        wanted = [thread for thread in self._threads if thread not in self._given_up]
        for _ in wanted:
            self._work.put(None)
        deadline = time.monotonic() + (CLOSE_S if wait else 0)
        for thread in wanted:
            thread.join(max(0.0, deadline - time.monotonic()))

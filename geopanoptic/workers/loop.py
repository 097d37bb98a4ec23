"""The coordinator: keeps a bounded number of tasks in flight, retries, watches, and stops well."""

from __future__ import annotations

import itertools
import logging
import queue
import signal
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from geopanoptic.errors import EngineError
from geopanoptic.workers.outcome import LOST, STOPPED, Outcome, Task
from geopanoptic.workers.spec import Failure

log = logging.getLogger("geopanoptic.workers")

ATTEMPTS = 2
POLL_S = 0.5
OVERDUE_POLL_S = 5.0
GRACE_S = 30.0  # after Ctrl-C, for tasks that already run
STALL_MIN_S = 300.0
STALL_FIRST_S = 1800.0  # before anything has finished: models are loaded, caches are cold
REFILL = 16
HOPELESS = 8  # so many unexpected failures and no success at all: a fault of the program

OnDone = Callable[[int, dict[str, Any]], None]
Found = Callable[[int], dict[str, Any] | None]


class Backend(Protocol):
    """Where tasks run. `submit` never blocks; each submission answers once in `answers`."""

    answers: queue.SimpleQueue[Outcome | None]

    def submit(self, task: Task, keys: Sequence[int], attempt: int) -> None:
        """Start `task(key)` somewhere for each of these keys."""

    def capacity(self) -> int:
        """Return how many tasks to keep in flight now."""

    def stop_waiting(self) -> None:
        """Make tasks that have not begun answer STOPPED instead of beginning."""

    def check(self) -> None:
        """Raise EngineError when the engine is lost."""

    def reclaim(self, key: int) -> bool:
        """End a task that does not end by itself; tell whether that was possible."""

    def abandon(self) -> None:
        """Forget all tasks in flight."""


class Loop:
    """One `Engine.run`: see there for what it promises."""

    def __init__(
        self, backend: Backend, task: Task, stall_s: float | None, task_s: float | None = None
    ) -> None:
        self.backend = backend
        self.task = task
        self.stall_s = stall_s
        self.task_s = task_s
        self.looked = time.monotonic()
        self.started: dict[int, float] = {}
        self.durations: deque[float] = deque(maxlen=256)
        self.again: list[int] = []
        self.failures: list[Failure] = []
        self.done = 0
        self.attempt = 1
        self.last_progress = time.monotonic()
        self.interrupts = 0

    def run(self, keys: Iterable[int], on_done: OnDone, found: Found | None) -> list[Failure]:
        """Do all keys, then those to be tried again, one at a time with nothing beside them."""
        with self._interruptible():
            try:
                self._drive(iter(keys), on_done, found, self.backend.capacity)
                self.attempt = 2
                self._drive(iter(sorted(self.again)), on_done, found, lambda: 1)
            except BaseException:
                self.backend.abandon()
                raise
        return sorted(self.failures, key=lambda failure: failure.key)

    def _drive(
        self,
        keys: Iterator[int],
        on_done: OnDone,
        found: Found | None,
        capacity: Callable[[], int],
    ) -> None:
        exhausted = False
        while True:
            wanted = capacity()
            room = 0 if exhausted or self.interrupts else wanted - len(self.started)
            # On large clusters in small batches, which cost a third per task; each process has
            # a task in reserve meanwhile.
            if room > wanted // REFILL:
                batch = list(itertools.islice(keys, room))
                exhausted = len(batch) < room
                self.started.update(dict.fromkeys(batch, time.monotonic()))
                self.backend.submit(self.task, batch, self.attempt)
            if self.interrupts:
                self._finish_running(on_done, found)
            if exhausted and not self.started:
                return
            self._take_answers(on_done, found)

    def _take_answers(self, on_done: OnDone, found: Found | None) -> None:
        """Wait for an answer, then take all that are there: many workers are refilled at once."""
        try:
            outcome = self.backend.answers.get(timeout=POLL_S)
            while True:
                self._take(outcome, on_done, found)
                outcome = self.backend.answers.get_nowait()
        except queue.Empty:
            pass
        now = time.monotonic()
        if now - self.looked > min(OVERDUE_POLL_S, self.task_s or OVERDUE_POLL_S):
            self.looked = now
            self._check_overdue(on_done, found)
        if now - self.last_progress > POLL_S:
            self.backend.check()
            self._check_stall()

    def _take(self, outcome: Outcome | None, on_done: OnDone, found: Found | None) -> None:
        if outcome is None or outcome.key not in self.started:
            return  # a wake-up call, or the late answer to an abandoned submission
        self.durations.append(time.monotonic() - self.started.pop(outcome.key))
        self.last_progress = time.monotonic()
        self._settle(outcome, on_done, found)

    def _settle(self, outcome: Outcome, on_done: OnDone, found: Found | None) -> None:
        """The part on disk is the truth, the answer is a hint: look before trying again."""
        if outcome.is_ok:
            self.done += 1
            on_done(outcome.key, outcome.value)
            return
        if outcome.error == STOPPED:
            return
        if outcome.is_of_run:
            raise outcome.exception()
        value = found(outcome.key) if found else None
        if value is not None:
            self.done += 1
            on_done(outcome.key, value)
            return
        if outcome.error == LOST:
            self.backend.check()
        if outcome.trace:
            log.info("task %d, attempt %d\n%s", outcome.key, self.attempt, outcome.trace)
        if self.attempt < ATTEMPTS and not outcome.is_of_key:
            log.warning("task %d: %s; it is tried again, alone", outcome.key, outcome.cause)
            self.again.append(outcome.key)
        else:
            log.warning("task %d given up: %s", outcome.key, outcome.cause)
            self.failures.append(Failure(outcome.key, outcome.cause, self.attempt, outcome.error))
        self._check_hope(outcome)

    def _check_hope(self, outcome: Outcome) -> None:
        unexpected = len(self.again) + sum(
            failure.error not in ("TileError", "SceneError") for failure in self.failures
        )
        if self.done == 0 and unexpected >= HOPELESS and not outcome.is_of_key:
            raise EngineError(
                f"the first {unexpected} tasks all failed and none succeeded, so the rest is not "
                f"tried; the last one said: {outcome.cause}"
            )

    def _usual_limit(self) -> float:
        if self.durations:
            return max(STALL_MIN_S, 10 * statistics.median(self.durations))
        return STALL_FIRST_S

    def _check_overdue(self, on_done: OnDone, found: Found | None) -> None:
        """End tasks that take far longer than others: a file server that hangs, a bomb of a file.

        Ended, such a task counts as lost: it is tried once more, alone, then given up.
        """
        limit = self._usual_limit() if self.task_s is None else self.task_s
        now = time.monotonic()
        for key in [k for k, began in self.started.items() if now - began > limit]:
            if not self.backend.reclaim(key):
                continue
            del self.started[key]
            self.last_progress = time.monotonic()
            cause = f"it was not done after {limit:.0f} s and has been ended"
            self._settle(Outcome(key, error=LOST, cause=cause), on_done, found)

    def _check_stall(self) -> None:
        limit = self._usual_limit() if self.stall_s is None else self.stall_s
        idle = time.monotonic() - self.last_progress
        if self.started and idle > limit:
            raise EngineError(
                f"nothing has finished for {idle:.0f} s (limit {limit:.0f} s) with "
                f"{len(self.started)} tasks in flight, the first of them "
                f"{min(self.started)}; run the same command again to go on from what is finished"
            )

    def _finish_running(self, on_done: OnDone, found: Found | None) -> None:
        """After Ctrl-C: let what runs finish, for a while, then say that we were interrupted."""
        log.warning("stopping: running tasks finish (up to %.0f s); Ctrl-C again: at once", GRACE_S)
        self.backend.stop_waiting()
        deadline = time.monotonic() + GRACE_S
        while self.started and time.monotonic() < deadline:
            self._take_answers(on_done, found)
        raise KeyboardInterrupt

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Count Ctrl-C instead of raising it amid a submission; the second one raises at once."""

        def count(_signum: int, _frame: object) -> None:
            self.interrupts += 1
            self.backend.answers.put(None)  # SimpleQueue.put is safe within a signal handler
            if self.interrupts > 1:
                raise KeyboardInterrupt

        before = signal.getsignal(signal.SIGINT)
        if threading.current_thread() is not threading.main_thread() or not callable(before):
            yield  # Ctrl-C is not ours here, or is ignored (nohup) and shall stay so
            return
        signal.signal(signal.SIGINT, count)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)

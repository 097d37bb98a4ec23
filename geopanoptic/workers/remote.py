"""Tasks on a Dask cluster: submission, answers, and knowing when the cluster is lost."""

from __future__ import annotations

import functools
import logging
import queue
import threading
import time
from collections.abc import Sequence
from typing import Any

from geopanoptic.errors import EngineError
from geopanoptic.workers.outcome import LOST, Outcome, Task, guarded, stop_run

log = logging.getLogger("geopanoptic.workers")

RECONNECT_S = 60.0
NO_WORKERS_S = 300.0
COUNT_EVERY_S = 2.0
COUNT_PATIENCE_S = 5.0
RESULT_S = 60.0
RESTART_S = 60.0
REVIVE_S = 60.0
BATCH = 4  # from so many tasks on, `map` is cheaper than as many times `submit`
# What Dask raises when the work was lost, as opposed to gone wrong.
_LOST_ERRORS = ("KilledWorker", "CancelledError", "FutureCancelledError", "NoValidWorkerError")


class DaskBackend:
    """One run's tasks on a cluster; the client is shared with other runs of the same engine."""

    def __init__(self, client: Any, run: str, processes: int) -> None:
        self.answers: queue.SimpleQueue[Outcome | None] = queue.SimpleQueue()
        self._client = client
        self._run = run
        self._futures: dict[int, Any] = {}
        self._threads: dict[str, int] = {}
        self._processes = processes
        self._counted = 0.0
        self._revived = False
        self._seen_workers = self._seen_scheduler = time.monotonic()

    def submit(self, task: Task, keys: Sequence[int], attempt: int) -> None:
        # Tuple keys put all tasks of a run into one task group, which Dask then queues at the
        # scheduler; names with a prefix of their own each would all be pushed to the workers.
        names = [(f"geopanoptic-{self._run}-{attempt}", key) for key in keys]
        call = functools.partial(guarded, task, run=self._run)
        try:
            if len(keys) < BATCH:
                submit = self._client.submit
                futures = [
                    submit(call, key, key=name, pure=False)
                    for key, name in zip(keys, names, strict=True)
                ]
            else:
                futures = self._client.map(call, list(keys), key=names, pure=False)
        except Exception as error:
            if self._client.status == "running":
                raise  # a task that does not pickle is the caller's mistake, not the cluster's
            raise EngineError(f"the Dask cluster does not take work any more: {error}") from error
        for key, future in zip(keys, futures, strict=True):
            self._futures[key] = future
            future.add_done_callback(functools.partial(self._answered, key))

    def _answered(self, key: int, future: Any) -> None:
        """Take the answer (in Dask's callback thread, so that the coordinator never blocks)."""
        if self._futures.get(key) is not future:
            return
        self.answers.put(self._outcome(key, future))
        self._futures.pop(key, None)

    def _outcome(self, key: int, future: Any) -> Outcome:
        try:
            outcome = future.result(timeout=RESULT_S)
        except Exception as error:
            name = type(error).__name__
            if name in _LOST_ERRORS or isinstance(error, (OSError, TimeoutError)):
                return Outcome(key, error=LOST, cause=_lost_cause(name))
            said = str(error).strip().splitlines()
            return Outcome(key, error=name, cause=f"{name}: {said[0] if said else 'no message'}")
        if isinstance(outcome, Outcome):
            return outcome
        return Outcome(key, error=LOST, cause=f"the cluster answered {type(outcome).__name__}")

    def capacity(self) -> int:
        """Keep each thread busy and one task ready per process: memory does not grow with N."""
        if self._client.status != "running":
            return 0  # `check` says when it has been away for too long
        self._count_workers()
        return max(sum(self._threads.values()) + len(self._threads), self._processes, 1)

    def _count_workers(self) -> None:
        now = time.monotonic()
        if now - self._counted < COUNT_EVERY_S:
            return
        self._counted = now
        try:
            # Client.nthreads without a limit waits for half a minute when the scheduler is gone.
            ask = self._client.scheduler.ncores
            answer = self._client.sync(ask, workers=None, callback_timeout=COUNT_PATIENCE_S)
            self._threads = dict(answer)
        except Exception as error:
            log.debug("counting workers: %s", error)
            return
        if self._threads:
            self._seen_workers = now

    def check(self) -> None:
        now = time.monotonic()
        status = self._client.status
        if status == "running":
            self._seen_scheduler = now
            self._count_workers()
        away = now - self._seen_scheduler
        if status == "closed" or away > RECONNECT_S:
            raise EngineError(
                f"the Dask scheduler has been lost ({status}, for {away:.0f} s); finished work is "
                "kept: run the same command again to go on"
            )
        if now - self._seen_workers > REVIVE_S and not self._revived:
            self._revived = True
            self._revive()
        if now - self._seen_workers > NO_WORKERS_S:
            raise EngineError(
                f"no worker has been there for {now - self._seen_workers:.0f} s; finished work is "
                "kept: look at the workers' logs and run the same command again to go on"
            )

    def _revive(self) -> None:
        """Start the workers of our own cluster anew, once, when none has been there for long.

        A worker that dies is restarted by its Nanny; when that fails too (no memory for a new
        process, say) the slot stays empty.
        """
        cluster = self._client.cluster
        if not self._processes or cluster is None:
            return
        log.warning("no worker has been there for %.0f s; starting them anew", REVIVE_S)
        try:
            self._client.sync(_start_missing, cluster, callback_timeout=NO_WORKERS_S)
        except Exception as error:
            log.warning("starting workers anew: %s", error)

    def reclaim(self, key: int) -> bool:
        """End a task by restarting the worker process that it keeps busy."""
        future = self._futures.get(key)
        if future is None:
            return False
        try:
            ask = self._client.scheduler.processing
            busy = self._client.sync(ask, workers=None, callback_timeout=COUNT_PATIENCE_S)
            workers = [address for address, tasks in busy.items() if future.key in tasks]
            if not workers:
                return False
            del self._futures[key]
            self._client.cancel([future], asynchronous=False, force=True)
            self._client.restart_workers(workers, timeout=RESTART_S, raise_for_error=False)
        except Exception as error:
            log.debug("ending task %d: %s", key, error)
            return key not in self._futures
        return True

    def stop_waiting(self) -> None:
        def tell() -> None:
            try:
                self._client.run(stop_run, self._run, on_error="ignore")
            except Exception as error:
                log.debug("telling workers to stop: %s", error)

        # In a thread of its own: a cluster in trouble must not keep Ctrl-C waiting.
        threading.Thread(target=tell, name="geopanoptic-stop", daemon=True).start()

    def abandon(self) -> None:
        futures, self._futures = list(self._futures.values()), {}
        self.stop_waiting()
        if futures and self._client.status == "running":
            try:
                self._client.cancel(futures, asynchronous=False)
            except Exception as error:
                log.debug("cancelling: %s", error)

    def close(self, wait: bool) -> None:
        """Nothing to close: the client and the cluster are the engine's."""


async def _start_missing(cluster: Any) -> None:
    """Forget Nannies that have closed; the cluster then starts one for each free slot."""
    from distributed.core import Status

    ended = (Status.closed, Status.closing, Status.failed)
    for name, nanny in list(cluster.workers.items()):
        if nanny.status in ended:
            del cluster.workers[name]
    await cluster._correct_state()


def _lost_cause(name: str) -> str:
    if name == "KilledWorker":
        return "the worker process died on it (out of memory, or a crash in native code)"
    return f"the worker or its answer was lost ({name})"

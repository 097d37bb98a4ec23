"""What runs once in each worker process of a cluster that somebody else started."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from typing import Any

from distributed import WorkerPlugin


class WorkerSettings(WorkerPlugin):
    """Set GDAL's environment before its first use, and leave Ctrl-C to the coordinator."""

    name = "geopanoptic"
    idempotent = True

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment

    def setup(self, worker: Any) -> None:  # noqa: ARG002 - Dask's interface
        """Run once per worker, in its main thread (else signals are not ours to set)."""
        os.environ.update(self.environment)
        with suppress(ValueError):
            signal.signal(signal.SIGINT, signal.SIG_IGN)

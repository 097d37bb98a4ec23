"""Progress on stderr: a bar with rate and time left on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

_NAMES = {
    "infer": "Segmenting",
    "seam": "Comparing tiles",
    "assemble": "Assembling",
    "write": "Writing",
    "count": "Counting",
    "register": "Registering",
    "dates": "Opening dates",
    "classes": "Following classes",
}
_PLAIN_EVERY_S = 30.0


def show_progress() -> Callable[[str, int, int], None]:
    """Return a callback (stage, done, total) that draws; pixels for infer and count, steps else."""
    return _Bar() if sys.stderr.isatty() else _Lines()


class _Bar:
    """One rich line for the stage at work."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description:<16}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._stage = ""
        self._start = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage != self._stage:
            self._finish()
            self._stage, self._start = stage, time.monotonic()
            self._task = self._progress.add_task(_NAMES.get(stage, stage), total=total, rate="")
            self._progress.start()
        rate = _rate(stage, done, time.monotonic() - self._start)
        self._progress.update(self._task, completed=done, rate=rate)
        if done >= total:
            self._finish()

    def _finish(self) -> None:
        if self._stage:
            self._progress.stop()
            self._progress.remove_task(self._task)
            self._stage = ""


class _Lines:
    """A plain line every half minute, for logs."""

    def __init__(self) -> None:
        self._stage = ""
        self._start = self._told = 0.0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._start, self._told = stage, now, now
        if now - self._told >= _PLAIN_EVERY_S and 0 < done < total:
            self._told = now
            left = (now - self._start) * (total - done) / done
            rate = _rate(stage, done, now - self._start)
            share = f"{100 * done / total:.0f} %"
            print(  # noqa: T201
                f"{_NAMES.get(stage, stage)}: {share} {rate} {left:.0f} s left", file=sys.stderr
            )


def _rate(stage: str, done: int, seconds: float) -> str:
    return (
        f"{done / 1e6 / seconds:.2f} Mpx/s" if stage in ("infer", "count") and seconds > 0 else ""
    )

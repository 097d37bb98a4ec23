"""How a task ends, as a small record that crosses any process border (also when it failed).

Tasks run inside `guarded`, so that an exception becomes data: exceptions that cannot be pickled,
or not imported at the other side, never hide what happened.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from geopanoptic import errors

Task = Callable[[int], dict[str, Any]]
STOPPED = "stopped"
LOST = "lost"

# In each process, the runs that are being interrupted: their tasks that have not begun, do not.
stopped_runs: set[str] = set()


@dataclass(frozen=True, slots=True)
class Outcome:
    """`value` of a task that went well; else `error` (a class name), `cause` and `trace`."""

    key: int
    value: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    cause: str = ""
    trace: str = ""

    @property
    def is_ok(self) -> bool:
        return not self.error

    @property
    def is_of_key(self) -> bool:
        """Whether the error is about this piece of work alone and would come again."""
        return self.error in ("TileError", "SceneError")

    @property
    def is_of_run(self) -> bool:
        """Whether the error concerns all work: a full disk, a bad model file."""
        kind = getattr(errors, self.error, None)
        is_ours = isinstance(kind, type) and issubclass(kind, errors.GeoPanopticError)
        return is_ours and not self.is_of_key

    def exception(self) -> errors.GeoPanopticError:
        """Make the error of an outcome with `is_of_run` again, in this process."""
        kind: type[errors.GeoPanopticError] = getattr(errors, self.error)
        return kind(self.cause)


def stop_run(run: str) -> None:
    """Keep tasks of this run from beginning in this process."""
    stopped_runs.add(run)


def guarded(task: Task, key: int, run: str) -> Outcome:
    """Do the task on this key for this run; its exceptions become an `Outcome`."""
    if run in stopped_runs:
        return Outcome(key, error=STOPPED, cause="the run was interrupted before this began")
    try:
        return Outcome(key, value=task(key))
    except errors.TileError as error:
        return Outcome(key, error="TileError", cause=error.cause)
    except errors.GeoPanopticError as error:
        return Outcome(key, error=_public_name(error), cause=str(error))
    except (Exception, SystemExit) as error:
        said = str(error).strip().splitlines()
        cause = f"{type(error).__name__}: {said[0] if said else 'no message'}"
        trace = traceback.format_exc(limit=-8)
        return Outcome(key, error=type(error).__name__, cause=cause[:500], trace=trace[:4000])


def _public_name(error: errors.GeoPanopticError) -> str:
    names = [kind.__name__ for kind in type(error).__mro__]
    return next(name for name in names if hasattr(errors, name))

"""The errors a user can meet: one tree, each with the numbers and the cure in its message.

    GeoPanopticError
    ├── SceneError        unreadable, no CRS where one is needed, wrong bands for the model
    ├── GridError         halo wider than half a core; a core that is no positive number
    ├── SchemaError       unknown or duplicate class; model and labels disagree
    ├── CheckpointError   no card, wrong version, weights do not fit, unsafe file
    ├── ConfigError       unknown key (names the nearest known one), wrong type
    ├── StoreError        a job of other inputs, locked, damaged, disk full, existing output
    ├── TileError         work on tile (i) failed; keeps index, window and cause
    └── EngineError       the Dask engine was lost; the run can be resumed

`assert` is for our own mistakes, these are for the user's. The command line catches
`GeoPanopticError` once, prints the message and leaves with `exit_code`; a traceback needs `-v`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GeoPanopticError(Exception):
    """Base of all errors that are the user's to mend; `exit_code` is what the command returns."""

    exit_code = 1


class SceneError(GeoPanopticError):
    """The scene cannot be read, or breaks the promise of the model's card."""


class GridError(GeoPanopticError):
    """Core, halo or origin do not make a tile grid."""


class SchemaError(GeoPanopticError):
    """A class is unknown, twice there, or two schemas disagree."""


class CheckpointError(GeoPanopticError):
    """A model file has no card, is damaged, unsafe, or does not fit its architecture."""


class ConfigError(GeoPanopticError):
    """A setting is unknown or has the wrong type or value."""


class StoreError(GeoPanopticError):
    """A work directory or output cannot be used: other inputs, locked, damaged, full."""


class TileError(GeoPanopticError):
    """Work on one tile failed; the run goes on and ends with exit code 5.

    `index` is the tile's number in its grid, `window` its `grid.Window`, `cause` a one-line reason.
    """

    exit_code = 5

    def __init__(self, index: int, window: object, cause: str) -> None:
        super().__init__(f"tile {index} ({window}): {cause}")
        self.index = index
        self.window = window
        self.cause = cause

    def __reduce__(self) -> tuple[type[TileError], tuple[int, object, str]]:
        # Exceptions with their own __init__ do not survive pickling (Dask) without this.
        return TileError, (self.index, self.window, self.cause)


class EngineError(GeoPanopticError):
    """The Dask scheduler or all workers were lost; finished tiles are kept, the run can go on."""

    exit_code = 6


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Return a hint ` (did you mean 'x'?)` naming the known name closest to `name`, or ``''``."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{close[0]}'?)" if close else ""

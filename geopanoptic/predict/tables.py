"""Frozen dataclasses of equal-length columns, to and from the arrays of a part file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Table = TypeVar("Table")


def pack(table: Any, prefix: str) -> dict[str, npt.NDArray[Any]]:
    """Name a table's columns `prefix.column`."""
    return {f"{prefix}.{f.name}": np.asarray(getattr(table, f.name)) for f in fields(table)}


def unpack(kind: type[Table], arrays: Mapping[str, npt.NDArray[Any]], prefix: str) -> Table:
    """Make the table again from columns named by `pack`."""
    return kind(**{f.name: arrays[f"{prefix}.{f.name}"] for f in fields(kind)})  # type: ignore[arg-type]

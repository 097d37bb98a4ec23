"""Add up many tables without adding the large one again for each small one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

Table = TypeVar("Table")

_LEAST = 100_000  # rows that may wait: adding is a sort, and many small sorts cost more than one


class Tally(Generic[Table]):
    """A running sum of tables: parts wait until together they are as long as the sum so far.

    `add_up` sums a sequence of tables, `size` says how long one is. Each row is then sorted a few
    times only, however many parts come (amortised as in a growing list). Law: `total()` is
    ``add_up(all parts)``.
    """

    def __init__(
        self, add_up: Callable[[Sequence[Table]], Table], size: Callable[[Table], int]
    ) -> None:
        self._add_up, self._size = add_up, size
        self._parts: list[Table] = []
        self._waiting = 0

    def add(self, part: Table) -> None:
        """Take one more part."""
        self._parts.append(part)
        self._waiting += self._size(part)
        if self._waiting > max(_LEAST, self._size(self._parts[0])):
            self._parts = [self._add_up(self._parts)]
            self._waiting = 0

    def total(self) -> Table:
        """Return the sum of all parts so far."""
        self._parts = [self._add_up(self._parts)]
        self._waiting = 0
        return self._parts[0]

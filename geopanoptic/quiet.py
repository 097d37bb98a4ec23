"""Silence a warning that is no news, in one thread while others do the same.

`warnings.catch_warnings` keeps a copy of the process's filters and puts it back: of two threads
that overlap, one takes away the filter of the other. Here everybody removes only what is theirs.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_lock = threading.Lock()
_active: dict[tuple[str, type[Warning]], int] = {}


@contextmanager
def ignored(category: type[Warning], message: str = "") -> Iterator[None]:
    """Ignore warnings of a category whose text begins with the pattern `message`, in this block.

    All threads ignore them meanwhile. Law: whatever blocks overlap in whatever threads, inside
    each its warnings are ignored, and after the last of a kind the filters are as before.
    """
    key = (message, category)
    with _lock:
        _active[key] = _active.get(key, 0) + 1
        if _active[key] == 1:
            warnings.filterwarnings("ignore", message, category)
    try:
        yield
    finally:
        with _lock:
            _active[key] -= 1
            if not _active[key]:
                del _active[key]
                _remove(key)


def _remove(key: tuple[str, type[Warning]]) -> None:
    """Take one filter out again; it is gone already where somebody restored older ones."""
    message, category = key
    for entry in warnings.filters:
        action, pattern, kind, *_ = entry
        text = getattr(pattern, "pattern", pattern) or ""
        if action == "ignore" and kind is category and text == message:
            with suppress(ValueError):
                warnings.filters.remove(entry)  # type: ignore[attr-defined]
            return

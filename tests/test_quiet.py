"""Silencing a warning: overlapping threads do not take away each other's filters."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from geopanoptic.quiet import ignored


class Fuss(UserWarning):
    pass


class Bother(UserWarning):
    pass


def turns(count: int) -> Callable[[], object]:
    return threading.Barrier(count, timeout=20).wait


def test_blocks_that_overlap_in_threads_keep_their_filters() -> None:
    # The first leaves while the second is inside: where each restored a copy of the filters that
    # it found, the second's would be gone from then on, or the first's stay for ever.
    before = list(warnings.filters)
    meet = turns(2)

    def first() -> None:
        with ignored(Fuss):
            meet()
            meet()
        meet()

    def second() -> None:
        meet()
        with ignored(Bother, "of no"):
            meet()
            meet()
            warnings.warn("of no account", Bother, stacklevel=1)
            with pytest.raises(Bother, match="grave"):
                warnings.warn("grave", Bother, stacklevel=1)

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result()
    assert list(warnings.filters) == before


def test_the_same_kind_many_times_at_once_is_taken_out_with_the_last() -> None:
    before = list(warnings.filters)

    def often(_: int) -> None:
        for _ in range(200):
            with ignored(Fuss):
                warnings.warn("again", Fuss, stacklevel=1)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(often, range(8)))
    assert list(warnings.filters) == before
    with pytest.raises(Fuss):
        warnings.warn("now it is news", Fuss, stacklevel=1)


def test_filters_that_somebody_restored_meanwhile_are_no_error() -> None:
    before = list(warnings.filters)
    with warnings.catch_warnings():
        block = ignored(Fuss)
        block.__enter__()
    block.__exit__(None, None, None)
    assert list(warnings.filters) == before

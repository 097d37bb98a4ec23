"""Hypothesis strategies: scenes, tilings and orders of completion."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st
from scenes import PAINTERS, Truth, make_truth

Tiling = tuple[int, int, tuple[int, int]]


@st.composite
def truths(draw: st.DrawFn, least: int = 1, most: int = 48) -> Truth:
    """Scenes of every kind, from one pixel to `most` a side, with and without nodata."""
    kind = draw(st.sampled_from(sorted(PAINTERS)))
    shape = draw(st.tuples(st.integers(least, most), st.integers(least, most)))
    return make_truth(kind, shape, draw(st.integers(0, 2**16)), draw(st.booleans()))


@st.composite
def tilings(draw: st.DrawFn, least_halo: int = 1, most_core: int = 40) -> Tiling:
    """(core, halo, origin) with halo >= 1 and 2 x halo <= core, small tiles preferred."""
    halo = draw(st.integers(least_halo, most_core // 2))
    core = draw(st.integers(max(1, 2 * halo), most_core))
    return core, halo, draw(st.tuples(st.integers(0, core), st.integers(0, core)))


@st.composite
def orders(draw: st.DrawFn) -> Callable[[int], list[int]]:
    """An order of completion: called with the number of tiles, gives their permutation."""
    seed = draw(st.integers(0, 2**16))
    return lambda n: np.random.default_rng(seed).permutation(n).tolist()

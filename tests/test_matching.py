"""One-to-one assignment per component equals the dense optimum of the whole."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from geopanoptic import matching
from geopanoptic.matching import COUNT_FIRST, assign


@st.composite
def graphs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    n, m = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    cells = np.flatnonzero(rng.random(n * m) < draw(st.floats(0.05, 0.9)))
    return cells // m * 7, cells % m + 3, rng.random(len(cells)) + 0.01


def dense_sum(left: np.ndarray, right: np.ndarray, weight: np.ndarray) -> float:
    value = np.zeros((left.max(initial=0) + 1, right.max(initial=0) + 1))
    value[left, right] = weight
    rows, cols = linear_sum_assignment(value, maximize=True)
    return value[rows, cols].sum()


@given(graphs(), st.booleans())
def test_the_sum_is_that_of_the_dense_optimum(graph, sparse_solver) -> None:
    left, right, weight = graph
    before = matching.DENSE_CELLS
    matching.DENSE_CELLS = 0 if sparse_solver else before
    try:
        chosen = assign(left, right, weight)
    finally:
        matching.DENSE_CELLS = before
    for ends in (left[chosen], right[chosen]):
        assert len(np.unique(ends)) == len(ends)
    assert weight[chosen].sum() == pytest.approx(dense_sum(left, right, weight))


@given(graphs(), st.randoms(use_true_random=False))
def test_the_order_of_candidates_does_not_matter(graph, order) -> None:
    left, right, weight = graph
    rows = list(range(len(left)))
    order.shuffle(rows)
    a = assign(left, right, weight)
    b = np.asarray(rows, int)[assign(left[rows], right[rows], weight[rows])]
    assert set(a.tolist()) == set(b.tolist())


def test_number_goes_before_overlap_where_greedy_would_stop() -> None:
    # greedy takes (0, 0) with 0.9 and leaves 1 alone; two matches are better
    left, right = np.array([0, 0, 1]), np.array([0, 1, 0])
    chosen = assign(left, right, COUNT_FIRST + np.array([0.9, 0.3, 0.4]))
    assert chosen.tolist() == [1, 2]


def test_weights_must_be_positive_and_nothing_gives_nothing() -> None:
    none = np.zeros(0, int)
    assert len(assign(none, none, np.zeros(0))) == 0
    with pytest.raises(ValueError, match="> 0"):
        assign(np.array([0]), np.array([0]), np.array([0.0]))

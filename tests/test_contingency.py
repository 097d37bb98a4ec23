"""Laws of the keel: the sparse joint histogram of two label rasters."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geopanoptic.contingency import Contingency

DTYPES = ("uint8", "int32", "uint32", "int64")


@st.composite
def rasters(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    shape = draw(st.tuples(st.integers(0, 12), st.integers(0, 12)))
    values = draw(st.sampled_from([2, 5, 200]))
    a, b = (rng.integers(0, values, shape).astype(draw(st.sampled_from(DTYPES))) for _ in range(2))
    if draw(st.booleans()) and a.size and a.dtype in (np.uint32, np.int64):
        a[0, 0] = 2**32 - 1
    return a, b


def rows(table: Contingency) -> list[tuple[int, int, int]]:
    return list(zip(table.a.tolist(), table.b.tolist(), table.pixels.tolist(), strict=True))


@given(rasters())
def test_the_table_counts_what_a_dictionary_counts(ab) -> None:
    a, b = ab
    want = Counter(zip(a.ravel().tolist(), b.ravel().tolist(), strict=True))
    assert rows(Contingency.of(a, b)) == [(*pair, n) for pair, n in sorted(want.items())]


@given(rasters(), st.integers(0, 12), st.randoms(use_true_random=False))
def test_tables_of_disjoint_pixels_add_up_in_any_order(ab, cut, order) -> None:
    a, b = ab
    parts = [
        Contingency.of(a[:cut, :cut], b[:cut, :cut]),
        Contingency.of(a[:cut, cut:], b[:cut, cut:]),
        Contingency.of(a[cut:], b[cut:]),
    ]
    order.shuffle(parts)
    whole = rows(Contingency.of(a, b))
    assert rows(Contingency.sum(parts)) == whole
    assert rows(parts[0] + (parts[1] + parts[2])) == whole


@given(rasters())
def test_margins_are_areas_and_iou_is_that_of_masks(ab) -> None:
    a, b = ab
    table = Contingency.of(a, b)
    assert table.total_px == a.size
    labels, pixels = table.areas_a()
    assert dict(zip(labels.tolist(), pixels.tolist(), strict=True)) == Counter(a.ravel().tolist())
    for (x, y, n), iou in zip(rows(table), table.iou(), strict=True):
        assert iou == n / ((a == x) | (b == y)).sum()
    assert rows(table.transposed) == rows(Contingency.of(b, a))
    assert rows(table.transposed.transposed) == rows(table)


def test_views_and_strides_do_not_matter() -> None:
    a = np.arange(48, dtype=np.int32).reshape(6, 8) // 5
    assert rows(Contingency.of(a[::2, ::-1], a.T[:8, :6].T[::2, ::-1])) == rows(
        Contingency.of(np.ascontiguousarray(a[::2, ::-1]), np.ascontiguousarray(a[::2, ::-1]))
    )


@pytest.mark.parametrize("bad", [-1, 2**32])
def test_labels_outside_32_bits_are_refused(bad: int) -> None:
    good = np.zeros((2, 2), np.int64)
    wrong = good.copy()
    wrong[1, 1] = bad
    with pytest.raises(ValueError, match=str(bad)):
        Contingency.of(good, wrong)
    with pytest.raises(ValueError, match="differ in shape"):
        Contingency.of(good, good[:1])

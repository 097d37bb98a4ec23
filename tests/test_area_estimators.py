"""Areas with uncertainty: published figures, other people's results, laws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from geopanoptic.errors import ConfigError
from geopanoptic.metrics.area import (
    Z95,
    AreaEstimate,
    SampleCounts,
    allocate,
    estimate_area,
    sample_size,
)

CASES = ("olofsson2014_table8", "random_0", "random_1", "stehman_random")


def by_class(counts: np.ndarray, pixels: np.ndarray) -> SampleCounts:
    """Strata are the map's classes; `counts` [map, reference]."""
    k = len(counts)
    cube = np.zeros((k, *counts.shape), np.int64)
    cube[np.arange(k), np.arange(k)] = counts
    return SampleCounts(cube, np.asarray(pixels), np.asarray(pixels, float), np.arange(k))


def of_case(case: dict[str, Any]) -> tuple[SampleCounts, list[str]]:
    if "counts_rows_map_cols_reference" in case:
        counts = np.array(case["counts_rows_map_cols_reference"])
        return by_class(counts, np.array(case["stratum_size"])), case["classes"]
    strata = list(case["stratum_size"])
    classes = sorted({*case["map"], *case["reference"]})
    cube = np.zeros((len(strata), len(classes), len(classes)), np.int64)
    for h, i, j in zip(case["strata"], case["map"], case["reference"], strict=True):
        cube[strata.index(h), classes.index(i), classes.index(j)] += 1
    pixels = np.array([case["stratum_size"][h] for h in strata])
    return SampleCounts(cube, pixels, pixels.astype(float)), classes


@pytest.mark.parametrize("name", CASES)
def test_the_figures_are_those_of_mapaccuracy(shared: Path, name: str) -> None:
    case = json.loads((shared / "reference" / "area_cases" / f"{name}.json").read_text())
    sample, classes = of_case(case)
    found, want = estimate_area(sample), case["expected"]
    close = {"rtol": 0, "atol": 1e-9}
    np.testing.assert_allclose(found.overall.value, want["OA"], **close)
    np.testing.assert_allclose(found.overall.se, want["SEoa"], **close)
    for got, value, se in (
        (found.users, "UA", "SEua"),
        (found.producers, "PA", "SEpa"),
        (found.area, "area", "SEa"),
    ):
        np.testing.assert_allclose(got.value, [want[value][c] for c in classes], **close)
        np.testing.assert_allclose(got.se, [want[se][c] for c in classes], **close)
    if "CI_halfwidth_a" in want:
        half = [want["CI_halfwidth_a"][c] for c in classes]
        np.testing.assert_allclose(found.area.half_width, half, **close)


def test_the_good_practice_example_has_the_published_hectares() -> None:
    # Olofsson et al. 2014, table 8 and page 54: deforestation 21158 +- 6158 ha
    counts = [[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]]
    pixels = np.array([200_000, 150_000, 3_200_000, 6_450_000])
    found = estimate_area(by_class(np.array(counts), pixels))
    hectares = pixels.sum() * 900 / 1e4
    shown = np.round(found.area.value * hectares), np.round(found.area.half_width * hectares)
    assert shown[0].tolist() == [21158, 11686, 285770, 581386]
    assert abs(shown[1] - [6158, 3756, 15510, 16282]).max() <= 2  # printed with 1.96 and rounding


def test_the_published_sample_size_is_641() -> None:
    assert sample_size([0.02, 0.015, 0.32, 0.645], [0.7, 0.6, 0.9, 0.95], 0.01) == 641


def test_the_published_allocation_is_met() -> None:
    found = allocate(641, [0.02, 0.015, 0.32, 0.645], 75, [10**6] * 4)
    assert found.tolist() == [75, 75, 163, 328]  # the paper rounds the last two to 165 and 325


strata = st.integers(1, 6)


@st.composite
def samples(draw: st.DrawFn, own: bool) -> SampleCounts:
    k = draw(st.integers(1, 4))
    h = k if own else draw(strata)
    cube = draw(arrays(np.int64, (h, k, k), elements=st.integers(0, 9)))
    if own:
        cube *= np.eye(k, dtype=np.int64)[:, :, None]
    for s in range(h):
        i = s if own else 0
        cube[s, i, i] += 2  # at least two units in every stratum
    units = cube.sum(axis=(1, 2))
    pixels = units + draw(arrays(np.int64, h, elements=st.integers(0, 10**6)))
    return SampleCounts(cube, pixels, pixels * 0.25, np.arange(k) if own else None)


def everything(found: AreaEstimate) -> list[np.ndarray]:
    pairs = (found.overall, found.users, found.producers, found.area)
    return [found.matrix, *(v for pair in pairs for v in (pair.value, pair.se))]


@given(samples(own=False) | samples(own=True))
def test_adjusted_areas_add_up_to_the_total(sample: SampleCounts) -> None:
    found = estimate_area(sample)
    assert found.area.value.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.matrix.sum(axis=0), found.area.value)
    np.testing.assert_allclose(np.trace(found.matrix), found.overall.value[0])


@given(samples(own=True))
def test_a_perfect_map_has_its_own_areas_and_no_error(sample: SampleCounts) -> None:
    k = len(sample.pixels)
    units = sample.counts.sum(axis=(1, 2))
    perfect = by_class(np.diag(units), sample.pixels)
    found = estimate_area(perfect)
    np.testing.assert_allclose(found.area.value, sample.pixels / sample.pixels.sum())
    for pair in (found.overall, found.users, found.producers, found.area):
        assert (pair.se == 0).all()
    assert found.users.value.tolist() == [1.0] * k


@given(samples(own=True))
def test_strata_of_classes_are_stehmans_strata_without_the_finite_correction(
    sample: SampleCounts,
) -> None:
    # With so many pixels that 1 - n/N is 1, both estimators are the same.
    huge = SampleCounts(sample.counts, sample.pixels * 10**12, sample.area, sample.own_class)
    other = SampleCounts(sample.counts, sample.pixels * 10**12, sample.area, None)
    for a, b in zip(everything(estimate_area(huge)), everything(estimate_area(other)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-9)


@given(samples(own=False), st.randoms())
def test_the_order_of_strata_and_classes_changes_nothing(sample: SampleCounts, rnd: Any) -> None:
    h, k, _ = sample.counts.shape
    p, q = rnd.sample(range(h), h), rnd.sample(range(k), k)
    moved = SampleCounts(
        sample.counts[p][:, q][:, :, q], sample.pixels[p], sample.area[p], sample.own_class
    )
    a, b = estimate_area(sample), estimate_area(moved)
    np.testing.assert_allclose(a.area.value[q], b.area.value, atol=1e-12)
    np.testing.assert_allclose(a.users.se[q], b.users.se, atol=1e-9)
    np.testing.assert_allclose(a.producers.se[q], b.producers.se, atol=1e-9)


@given(samples(own=False))
def test_a_census_leaves_no_error(sample: SampleCounts) -> None:
    units = sample.counts.sum(axis=(1, 2))
    found = estimate_area(SampleCounts(sample.counts, units, units.astype(float)))
    for pair in (found.overall, found.users, found.producers, found.area):
        assert np.nan_to_num(pair.se).max() < 1e-12


def test_one_unit_in_a_stratum_gives_no_standard_error() -> None:
    counts = np.array([[1, 0], [1, 9]])
    found = estimate_area(by_class(counts, np.array([100, 900])))
    assert np.isnan(found.overall.se).all()
    assert np.isnan(found.area.se).all()
    # of the second class's user's accuracy the first stratum says nothing
    assert np.isnan(found.users.se[0])
    assert found.users.se[1] == pytest.approx(np.sqrt(0.9 * 0.1 / 9))


def test_a_stratum_without_units_is_left_out() -> None:
    counts = np.array([[5, 5, 0], [0, 10, 0], [0, 0, 0]])
    found = estimate_area(by_class(counts, np.array([100, 100, 800])))
    assert found.area.value.tolist() == pytest.approx([0.25, 0.75, 0])
    assert np.isnan(found.users.value[2])
    with pytest.raises(ConfigError, match="no stratum"):
        estimate_area(by_class(np.zeros((2, 2), int), np.array([1, 1])))


@given(
    st.integers(0, 5000),
    st.lists(st.integers(1, 10**7), min_size=1, max_size=12),
    st.integers(0, 200),
)
def test_allocation_keeps_its_promises(total: int, sizes: list[int], least: int) -> None:
    pixels = np.array(sizes)
    found = allocate(total, pixels / pixels.sum(), least, pixels)
    low = np.minimum(least, pixels)
    assert (found >= low).all()
    assert (found <= pixels).all()
    assert found.sum() == min(max(total, low.sum()), pixels.sum())
    order = np.argsort(pixels, kind="stable")
    assert (np.diff(found[order][np.diff(pixels[order], prepend=-1) > 0]) >= 0).all()


@pytest.mark.parametrize("bad", [(-0.1, 0.01), (1.2, 0.01), (0.9, 0.0), (0.9, float("nan"))])
def test_impossible_targets_are_refused(bad: tuple[float, float]) -> None:
    with pytest.raises(ConfigError):
        sample_size([1.0], [bad[0]], bad[1])


def test_intervals_cover_the_truth_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(7)
    # A map of three classes with errors: confusion shares of the true population
    truth = np.array([[0.08, 0.02, 0.0], [0.01, 0.25, 0.04], [0.02, 0.03, 0.55]])
    pixels = (truth.sum(axis=1) * 1e6).astype(int)
    inside = np.zeros(3)
    rounds = 800
    for _ in range(rounds):
        counts = np.array([rng.multinomial(300, row / row.sum()) for row in truth])
        area = estimate_area(by_class(counts, pixels)).area
        inside += abs(area.value - truth.sum(axis=0)) <= Z95 * area.se
    assert (inside / rounds > 0.92).all()
    assert (inside / rounds < 0.98).all()

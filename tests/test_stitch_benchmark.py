"""The stitching benchmark measures what it says, and rule G wins it, in small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks" / "stitching"))

from compare_rules import OURS, compare, exact_case, noisy_case, our_rule
from fates import crossing, fates, panoptic_quality
from figures import BEGIN, END, PAGE, RESULTS, figures
from peers import PEERS
from stitch_support import Noise
from town import CAR, HALL, KINDS, ROW, make_town

from geopanoptic.contingency import Contingency
from geopanoptic.grid import TileGrid


def fate_of(ideal: list[int], found: list[int], ref: int = 1) -> str:
    table = Contingency.of(np.array(ideal), np.array(found))
    fate = fates(table, max(ideal))
    names = ("lost", "merged", "split", "duplicated")
    return " ".join(n for n in names if getattr(fate, n)[ref])


def test_each_fate_is_what_its_definition_says() -> None:
    one, two = [1] * 20, [2] * 20
    assert fate_of(one, [7] * 20) == ""
    assert fate_of(one, [0] * 16 + [7] * 4) == "lost"
    assert fate_of(one, [0] * 15 + [7] * 5) == "", "a quarter is not lost"
    assert fate_of(one + two, [7] * 40) == fate_of(one + two, [7] * 40, 2) == "merged"
    assert fate_of(one, [7] * 12 + [8] * 8) == "split duplicated"
    assert fate_of(one + two, [7] * 15 + [8] * 5 + [8] * 20) == "", "a neighbour's edge moved"
    assert fate_of(one + two, [7] * 11 + [8] * 9 + [8] * 20) == "split"
    assert fate_of([1] * 100, [7] * 95 + [8] * 5) == "duplicated", "below a tenth: no split"


def test_panoptic_quality_is_that_of_its_formula() -> None:
    ideal = np.array([1, 1, 1, 1, 2, 2, 0, 0])
    found = np.array([5, 5, 5, 0, 6, 9, 9, 9])
    table = Contingency.of(ideal, found)
    assert panoptic_quality(table) == pytest.approx(0.75 / (1 + 2 / 2 + 1 / 2))
    only = np.array([False, True, False])
    assert panoptic_quality(table, only, np.zeros(10, bool)) == pytest.approx(0.75)


def test_objects_on_seams_are_those_in_more_than_one_core() -> None:
    labels = np.zeros((20, 20), np.int32)
    labels[2:5, 2:12], labels[12:14, 12:14], labels[9:11, 15] = 1, 2, 3
    assert crossing(labels, TileGrid((20, 20), 10, 2)).tolist() == [False, True, False, True]


def test_a_town_has_every_kind_of_object() -> None:
    town = make_town(1024, 3)
    count = np.bincount(town.kind, minlength=len(KINDS))
    assert count[ROW] > 50
    assert count[CAR] > 50
    assert 0 < count[HALL] <= 3
    assert count.sum() - count[0] == town.truth.n


def test_the_exact_oracle_is_stitched_without_an_error_and_peers_are_not() -> None:
    case = exact_case(make_town(1024, 3))
    results = compare(case, 32, {OURS: our_rule} | PEERS)
    ours = results.pop(OURS)
    assert ours["pq_truth"] == ours["pq_seam"] == ours["pq_phase"] == 1.0
    assert ours["seam"]["error"] == ours["interior"]["error"] == ours["seam"]["duplicated"] == 0
    for name in ("none (core crop)", "centre crop + connected components", "centroid ownership"):
        assert results[name]["seam"]["error"] > 0, name


def test_the_page_has_the_figures_that_were_measured() -> None:
    page = PAGE.read_text()
    for mark, text in figures().items():
        assert BEGIN.format(mark) + text + END in page, f"figures.py --write renews '{mark}'"


def test_recorded_results_reach_the_targets() -> None:
    results = json.loads((RESULTS / "stitching.json").read_text())["results"]
    cost = json.loads((RESULTS / "stitching_cost.json").read_text())
    for overlap, rules in results["exact"].items():
        if overlap != "0":
            assert rules[OURS]["pq_truth"] == 1.0
            assert rules[OURS]["seam"]["error"] == 0
    for overlap, rules in results["noisy"].items():
        if int(overlap) >= 32:
            ours = rules[OURS]["seam"]["error_rate"]
            assert all(ours < r["seam"]["error_rate"] for k, r in rules.items() if k != OURS)
    at_20k = next(r for r in cost["results"] if r["edge_px"] == 20_000)
    assert at_20k["objects"] >= 100_000
    assert at_20k["total_s"] <= 60
    assert at_20k["all_peak_mb"] <= 1500
    at_64 = results["noisy"]["64"][OURS]
    assert at_64["seam"]["error_rate"] <= 0.015
    assert at_64["seam"]["error_rate"] <= at_64["interior"]["error_rate"]


@pytest.mark.slow
def test_with_a_noisy_oracle_rule_g_makes_the_fewest_errors_on_seams() -> None:
    case = noisy_case(make_town(2048, 0), Noise(), 0)
    for overlap in (32, 64):
        results = compare(case, overlap, {OURS: our_rule} | PEERS)
        ours = results.pop(OURS)["seam"]["error_rate"]
        assert all(ours < r["seam"]["error_rate"] for r in results.values()), overlap

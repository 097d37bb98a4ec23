"""Kinds of failures of buildings, each by a scene that has just that."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

BENCHMARKS = str(Path(__file__).parents[1] / "benchmarks")


@pytest.fixture(scope="module")
def kinds() -> ModuleType:
    sys.path.insert(0, BENCHMARKS)
    try:
        return importlib.import_module("model_failures")
    finally:
        sys.path.remove(BENCHMARKS)


Boxes = list[tuple[int, int, int, int]]


def painted(boxes: Boxes) -> np.ndarray:
    out = np.zeros((60, 60), np.int32)
    for k, (r0, c0, r1, c1) in enumerate(boxes):
        out[r0:r1, c0:c1] = 3 * k + 2  # ids with gaps
    return out


@pytest.mark.parametrize(
    ("truth", "pred", "true", "predicted"),
    [
        ([(5, 5, 15, 15)], [(5, 5, 15, 14)], ["found"], ["right"]),
        ([(5, 5, 15, 15)], [], ["missed"], []),
        ([], [(5, 5, 15, 15)], [], ["nothing"]),
        ([(5, 5, 15, 15), (5, 15, 15, 25)], [(5, 5, 15, 25)], ["merged"] * 2, ["merged"]),
        ([(5, 5, 15, 25)], [(5, 5, 15, 15), (5, 16, 15, 25)], ["split"], ["a part"] * 2),
        ([(5, 5, 25, 25)], [(5, 5, 25, 22), (5, 22, 25, 25)], ["found"], ["right", "a part"]),
        ([(5, 5, 15, 15)], [(5, 9, 15, 19)], ["outlined badly"], ["outlined badly"]),
        ([(5, 5, 25, 25)], [(5, 5, 15, 15)], ["partly found"], ["partly right"]),
    ],
)
def test_each_failure_has_its_kind(
    kinds: ModuleType, truth: Boxes, pred: Boxes, true: list[str], predicted: list[str]
) -> None:
    found = kinds.failures(painted(truth), painted(pred))
    for side, expected in (("true", true), ("predicted", predicted)):
        assert {k: v for k, v in found[side].items() if v} == {
            k: expected.count(k) for k in set(expected)
        }


def test_every_building_is_counted_once_and_shown(kinds: ModuleType) -> None:
    rng = np.random.default_rng(0)
    truth, pred = (
        np.kron(rng.integers(0, 40, (12, 12)), np.ones((5, 5), np.int32)).astype(np.int32)
        for _ in range(2)
    )
    found = kinds.failures(truth, pred)
    for side, ids in (("true", truth), ("predicted", pred)):
        assert sum(found[side].values()) == len(np.unique(ids[ids > 0]))
    page = "\n".join(kinds.failures_page({"here": found}))
    assert page.count("| here |") == 2
    assert "outlined badly" in page

"""Random pairs of small panoptic maps: classes 1, 2 things, 3, 4 stuff, 0 void."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from geopanoptic.metrics import ClassCode, PanopticCount, Rules, Sides

N_CLASSES = 4
THINGS = frozenset({1, 2})
CODE = ClassCode.plain(N_CLASSES, THINGS)
SIDES = Sides(CODE, CODE, N_CLASSES)
RULES = Rules(things=THINGS)
Side = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Pair:
    """A truth and a prediction, each (class uint8, instance int32)."""

    truth: Side
    pred: Side

    @property
    def shape(self) -> tuple[int, int]:
        return self.truth[0].shape

    @property
    def count(self) -> PanopticCount:
        return PanopticCount.of(self.truth, self.pred, SIDES)

    def map(self, change) -> Pair:
        return Pair(
            tuple(np.ascontiguousarray(change(x)) for x in self.truth),
            tuple(np.ascontiguousarray(change(x)) for x in self.pred),
        )


def random_side(rng: np.random.Generator, shape: tuple[int, int], void: bool) -> Side:
    """Stuff in bands, things as rectangles over them, some of one id in two parts."""
    rows, cols = shape
    classes = np.where(np.arange(cols) < rng.integers(0, cols + 1), 3, 4)
    classes = np.broadcast_to(classes, shape).astype(np.uint8).copy()
    ids = np.zeros(shape, np.int32)
    number = rng.permutation(1000)[:12] + 1
    kind = rng.integers(1, 3, 12)
    for k in range(rng.integers(0, 12)):
        r, c = rng.integers(0, rows), rng.integers(0, cols)
        h, w = rng.integers(1, 8, 2)
        ids[r : r + h, c : c + w] = number[k]
        classes[r : r + h, c : c + w] = kind[k]
    if void:
        r, c = rng.integers(0, rows), rng.integers(0, cols)
        classes[r : r + 6, c : c + 9] = 0
        ids[r : r + 6, c : c + 9] = 0
    return classes, ids


def moved(rng: np.random.Generator, side: Side) -> Side:
    """The same map shifted by a pixel or two, with other ids: most objects match."""
    shift = tuple(int(s) for s in rng.integers(-1, 2, 2))
    classes, ids = (np.roll(x, shift, (0, 1)) for x in side)
    return classes, np.where(ids > 0, 5000 - ids, 0).astype(np.int32)


@st.composite
def pairs(draw: st.DrawFn, void: bool | None = None) -> Pair:
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    shape = draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
    with_void = draw(st.booleans()) if void is None else void
    truth = random_side(rng, shape, with_void)
    alike = draw(st.booleans())
    pred = moved(rng, truth) if alike else random_side(rng, shape, with_void)
    return Pair(truth, pred)

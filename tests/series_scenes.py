"""Random series of objects for the laws of tracking: things that come, go, split, merge, hide."""

from __future__ import annotations

import numpy as np
import shapely
from hypothesis import strategies as st

from geopanoptic.change.objects import ObjectSet
from geopanoptic.track import DateView

CELL, SIDE = 30.0, 3
EVERYWHERE = shapely.box(-50, -50, CELL * SIDE + 50, CELL * SIDE + 50)

Box = tuple[float, float, float, float]


def object_set(boxes: list[Box], ids: list[int] | None = None) -> ObjectSet:
    """Make buildings of boxes (x0, y0, x1, y1), without a CRS."""
    geometry = np.full(len(boxes), None, object)
    geometry[:] = [shapely.multipolygons([shapely.box(*b)]) for b in boxes]
    n = len(boxes)
    return ObjectSet(
        np.arange(1, n + 1) if ids is None else np.array(ids, np.int64),
        np.full(n, "building", object),
        geometry,
        np.full(n, np.nan),
        np.ones(n),
        np.asarray(shapely.area(geometry), float) if n else np.zeros(0),
        np.zeros(n, bool),
        None,
    )


def view(year: int, boxes: list[Box], hidden: list[Box] | None = None) -> DateView:
    """Make a date of boxes; objects mostly under `hidden` are not seen."""
    cover = np.array([shapely.box(*b) for b in hidden or []], object)
    seen = [b for b in boxes if not _mostly(shapely.box(*b), cover)]
    return DateView(f"{year}-01-01", object_set(seen), None, cover)


def blind(year: int) -> DateView:
    """Make a date that saw nothing."""
    return DateView(f"{year}-01-01", object_set([]), None, np.array([EVERYWHERE], object))


def _mostly(box: shapely.Polygon, cover: np.ndarray) -> bool:
    hidden = shapely.union_all(cover) if len(cover) else shapely.Polygon()
    return bool(shapely.intersection(box, hidden).area > 0.01 * box.area)


@st.composite
def series(draw: st.DrawFn, most_dates: int = 4, clouds: bool = True) -> list[DateView]:
    """A grid of cells, each with a building that lives its own life; ids are new at every date."""
    n = draw(st.integers(2, most_dates))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    state = rng.choice(["none", "one", "two"], (SIDE, SIDE), p=[0.3, 0.5, 0.2])
    views = []
    for k in range(n):
        change = rng.random((SIDE, SIDE)) < 0.3
        state = np.where(change, rng.choice(["none", "one", "two"], (SIDE, SIDE)), state)
        boxes: list[Box] = []
        for (r, c), what in np.ndenumerate(state):
            x, y = c * CELL + 5 + rng.uniform(-0.3, 0.3), r * CELL + 5 + rng.uniform(-0.3, 0.3)
            if what == "one":
                boxes.append((x, y, x + 20, y + 12))
            elif what == "two":
                boxes += [(x, y, x + 11, y + 12), (x + 12, y, x + 20, y + 12)]
        order = rng.permutation(len(boxes))
        hidden: list[Box] = []
        if clouds and rng.random() < 0.4:
            x, y = rng.uniform(0, CELL * SIDE, 2)
            hidden.append((x - 25, y - 25, x + 25, y + 25))
        views.append(view(2000 + k, [boxes[i] for i in order], hidden))
    return views

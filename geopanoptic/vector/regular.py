"""Outlines of things for a vector layer: as traced, or with right angles where a class wants it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import shapely

from geopanoptic.errors import ConfigError
from geopanoptic.polygons import PolygonBatch, RegularizeRules, regularize
from geopanoptic.schema import LabelSchema
from geopanoptic.segments import SegmentTable

if TYPE_CHECKING:
    from geopanoptic.vector.tables import TableContext

OUTLINES = ("pixels", "simplified", "regular")  # by level of `polygons.regularize`
_REGULAR = ("building",)
_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class Drawn:
    """Some things: their pixels, what `outline` each has (index of OUTLINES), and the geometry in
    map coordinates where it is not that of `batch`.
    """

    batch: PolygonBatch
    level: npt.NDArray[np.int64]
    geometry: npt.NDArray[np.object_] | None = None


def regular_classes(schema: LabelSchema, wanted: bool | None) -> tuple[str, ...]:
    """Return the classes whose outlines are to have right angles: 'building', where it is a thing.

    `wanted` None leaves it to us: no. True needs such a class, else ConfigError.
    """
    found = tuple(c.name for c in schema.things if c.name in _REGULAR)
    if wanted and not found:
        names = ", ".join(c.name for c in schema.things) or "none"
        raise ConfigError(
            f"--regularize needs a class of things called {' or '.join(_REGULAR)}; there are: "
            f"{names}"
        )
    return found if wanted else ()


def drawn_things(
    batches: Iterable[PolygonBatch], things: SegmentTable, context: TableContext
) -> Iterator[Drawn]:
    """Yield things with their outlines; `things` sorted by id.

    Where a class is to be regular, all batches are gathered first: a building must know its
    neighbours. Memory then holds the outlines of all things.
    """
    if not context.regularize:
        for batch in batches:
            yield Drawn(batch, np.full(len(batch), int(context.simplify_m > 0)))
        return
    batch = PolygonBatch.concatenate(batches)
    if not len(batch):
        return
    rows = np.searchsorted(things.id, batch.labels)
    regular = [context.schema.by_name(name).id for name in context.regularize]
    chosen = np.isin(things.class_id[rows], regular)
    geometry, level = regularize(batch, chosen, _frames(batch, context), _rules(batch, context))
    t = context.georef.transform
    for start in range(0, len(batch), _ROWS):
        here = np.arange(start, min(start + _ROWS, len(batch)))
        yield Drawn(batch.take(here), level[here], shapely.transform(
            geometry[here],
            # the formula of PolygonBatch.to_xy, so that plain outlines meet the other layers
            lambda xy: np.stack(
                [t.a * xy[:, 0] + t.b * xy[:, 1] + t.c, t.d * xy[:, 0] + t.e * xy[:, 1] + t.f], 1
            ),
        ))  # fmt: skip


def _frames(batch: PolygonBatch, context: TableContext) -> npt.NDArray[np.float64]:
    """Return what a row and a column measure at every thing, as in `MetreMap`."""
    if context.metres is None:
        return np.tile(np.array([[0.0, 1.0], [-1.0, 0.0]]), (len(batch), 1, 1))
    first = batch.coord_offsets[:-1]
    middle = (
        np.add.reduceat(batch.coords.astype(float), first) / np.diff(batch.coord_offsets)[:, None]
    )
    return context.metres.at(middle[:, 0], middle[:, 1])


def _rules(batch: PolygonBatch, context: TableContext) -> RegularizeRules:
    if context.simplify_m == 0:
        return RegularizeRules()
    (pixel_m2,) = context.georef.row_area_m2(int(np.median(batch.coords[:, 0])), 1)
    return RegularizeRules(
        simple_px=float(context.simplify_m / np.sqrt(pixel_m2)), simplify_all=True
    )

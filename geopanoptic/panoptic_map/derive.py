"""Tables of a map read from its pixels, block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from geopanoptic.grid import Shape, TileGrid, Window
from geopanoptic.schema import NODATA, VOID, LabelSchema
from geopanoptic.segments import SegmentTable

if TYPE_CHECKING:
    from geopanoptic.metrics.count import ClassCode

Read = Callable[[Window], tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]]
BLOCK = 2048


def blocks(shape: Shape, size: int = BLOCK) -> Iterator[Window]:
    """Cut an array of `shape` into blocks of `size` x `size` pixels, row by row."""
    return (tile.core for tile in TileGrid(shape, size, 0))


def own_code(schema: LabelSchema, stuff_ids: bool = False) -> ClassCode:
    """Return the code of a map's own class values; `stuff_ids`: stuff has segments of its own."""
    from geopanoptic.metrics.count import ClassCode

    with_id = [c.id for c in schema.classes if c.is_thing or stuff_ids]
    return ClassCode.of({c.id: c.id for c in schema.classes}, with_id, (NODATA, VOID))


def derive_segments(shape: Shape, read: Read, schema: LabelSchema) -> SegmentTable:
    """Return the table of a map's segments from its rasters alone; scores are NaN.

    `touches_edge`: the segment meets the raster's rim or a nodata pixel.
    """
    # maps are opened far more often than their tables are counted anew
    from geopanoptic.metrics.count import CLASS_LABEL, PanopticCount, Sides
    from geopanoptic.metrics.overlap import Overlap, Rules

    code = own_code(schema)
    sides = Sides(code, code, max(schema.ids, default=1))
    counts, at_edge = PanopticCount.tally(), set[int]()
    for window in blocks(shape):
        seen = window.grown(1).clipped(shape)
        classes, ids = read(seen)
        inner = window.within(seen).slices
        block = classes[inner], ids[inner]
        counts.add(PanopticCount.of(block, block, sides, (window.row, window.col)))
        at_edge |= _edge_labels(classes, ids, seen, shape)
    side = Overlap.of(counts.total(), Rules(things=frozenset(c.id for c in schema.things))).truth
    real = ~side.crowd  # thing pixels without an id are no segment
    identity = np.where(side.label < CLASS_LABEL, side.label, -side.class_id)[real]
    n = len(identity)
    return SegmentTable(
        identity,
        side.class_id[real].astype(np.uint8),
        side.area_px[real],
        np.full(n, np.nan, np.float32),
        side.bbox[real].astype(np.int32),
        np.isin(identity, list(at_edge)),
        np.zeros(n, bool),
        np.ones(n, np.uint16),
        np.full(n, np.nan, np.float32),
    )


def _edge_labels(
    classes: npt.NDArray[np.uint8], ids: npt.NDArray[np.int32], seen: Window, shape: Shape
) -> set[int]:
    """Return the segment ids that meet the rim of the raster or a nodata pixel (8 neighbours)."""
    empty = np.pad(classes == NODATA, 1, constant_values=False)
    empty[0] |= seen.row == 0
    empty[-1] |= seen.row_stop == shape[0]
    empty[:, 0] |= seen.col == 0
    empty[:, -1] |= seen.col_stop == shape[1]
    if not empty.any():
        return set()
    rows = empty[:-2] | empty[1:-1] | empty[2:]
    near = (rows[:, :-2] | rows[:, 1:-1] | rows[:, 2:]) & (classes != NODATA) & (classes != VOID)
    segment = np.where(ids[near] > 0, ids[near].astype(np.int64), -classes[near].astype(np.int64))
    return set(np.unique(segment).tolist())

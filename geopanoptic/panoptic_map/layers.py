"""The polygons of a map as the layers `things` and `stuff`, traced from its pixels."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geopanoptic.grid import Window
from geopanoptic.segments import SegmentTable

if TYPE_CHECKING:
    from geopanoptic.vector import LayerSpec, TableContext

BLOCK = 1024  # pixels; polygons are traced block by block, which decides their stage's memory

# Returns (class uint8, instance id int32) of a window; None: nothing but nodata, surely.
Labels = tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]
Read = Callable[[Window], Labels | None]


def polygon_layers(
    read: Read, table: SegmentTable, context: TableContext
) -> dict[str | LayerSpec, Any]:
    """Return layer name -> Arrow batches of polygons with their attributes.

    Only layers with a wanted class are there (`context.classes`). The batches are made while they
    are consumed; memory holds a block. Laws: unless simplified, polygons burnt again equal the
    pixels; neighbours share their edges, also things and stuff.
    """
    from geopanoptic.polygons import stuff_labels, thing_labels, trace
    from geopanoptic.vector import stuff_table, things_table

    schema, shape, simplify_px = context.schema, context.georef.shape, context.simplify_px

    def labels(window: Window, kind: Callable[..., Any]) -> npt.NDArray[np.int32] | None:
        found = read(window)
        if found is None:
            return None
        traced: npt.NDArray[np.int32] = kind(*found, schema)
        return traced

    wanted = schema if context.classes is None else schema.subset(context.classes)
    layers: dict[str | LayerSpec, Any] = {}
    if wanted.things:
        traced = trace(
            lambda w: labels(w, thing_labels), shape, BLOCK, group="id",
            simplify_px=None if context.regularize else simplify_px,
        )  # fmt: skip
        layers["things"] = things_table(traced, table, context)
    if wanted.stuff:
        traced = trace(
            lambda w: labels(w, stuff_labels), shape, BLOCK, group="part", simplify_px=simplify_px,
        )  # fmt: skip
        layers["stuff"] = stuff_table(traced, context)
    return layers

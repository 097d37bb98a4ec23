"""Packed ids: class x divisor + instance in one raster (Cityscapes: divisor 1000)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from geopanoptic.errors import SceneError
from geopanoptic.grid import TileGrid
from geopanoptic.panoptic_map import PanopticMap
from geopanoptic.raster import LabelWriter, publish_cog

_BLOCK = 2048


def write_packed(panoptic: PanopticMap, path: Path, divisor: int) -> None:
    """Write class x divisor + instance as an int32 COG; stuff, void and nodata are their class.

    Instances are numbered anew within each class, 1.. in id order. Law: // and % by the divisor
    give class and instance back. Raises SceneError when a class has more instances than the
    divisor can tell apart (999 for Cityscapes' 1000), with the divisor that would do.
    """
    table = panoptic.segment_table.things
    table = table.take(np.argsort(table.id))
    packed = np.zeros(int(table.id.max(initial=0)) + 1, np.int64)
    for spec in panoptic.schema.things:
        ids = table.id[table.class_id == spec.id]
        if len(ids) >= divisor:
            raise SceneError(
                f"the map has {len(ids)} of class '{spec.name}', but a divisor of {divisor} tells "
                f"only {divisor - 1} apart; use --divisor {10 ** len(str(len(ids)))}"
            )
        packed[ids] = spec.id * divisor + 1 + np.arange(len(ids))
    if packed.max(initial=0) > 2**31 - 1:
        raise SceneError(f"ids up to {packed.max()} do not fit into 32 bits; use a lower --divisor")
    tiled = path.with_name(path.name + ".tiled.tif")
    try:
        with LabelWriter(tiled, panoptic.georef, "int32") as writer:
            for tile in TileGrid(panoptic.georef.shape, _BLOCK, 0):
                classes, instances = panoptic.read(tile.core)
                values = np.where(instances > 0, packed[instances], classes)
                writer.write(tile.core, values.astype(np.int32))
        publish_cog(tiled, path, overviews="nearest")
    finally:
        tiled.unlink(missing_ok=True)

"""Paint one core with scene-wide ids, and give the ids that remain their final numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from geopanoptic.grid import Tile, Window
from geopanoptic.stitch.kernels import paint, runs
from geopanoptic.stitch.ownership import joint_boxes
from geopanoptic.stitch.tables import CORE, PAINT

MAX_ID = 2**31 - 1  # instance rasters are int32


class Luts(Protocol):
    """Whoever knows what became of a tile's labels: a `Resolution`, or parts of one on disk."""

    def lut(self, tile: int) -> tuple[npt.NDArray[Any], npt.NDArray[np.uint8]]:
        """Return (gid, mode) of a tile's labels 0..n."""
        ...


def assemble_core(
    tile: Tile, views: Mapping[int, tuple[Window, npt.NDArray[Any]]], resolution: Luts
) -> npt.NDArray[np.int64]:
    """Paint the core of `tile` with gids; int64, core shape, 0 = none.

    `views`: tile number -> (window, labels) of the tile itself and its neighbours, as far as they
    exist; windows may be cropped to what overlaps the core. The tile's own segments come first;
    then, in the order of their numbers, the neighbours paint what they saw whole where nothing
    is yet. An object seen whole is thus painted from one view and shows no step at the seam.

    Law: a pixel gets a segment only where some tile predicted that segment at that pixel.
    """
    core = tile.core
    out = np.zeros(core.shape, np.int64)
    others = sorted(k for k in views if k != tile.index)
    for k in ([tile.index] if tile.index in views else []) + others:
        window, labels = views[k]
        shared = core & window
        if shared.is_empty:
            continue
        gid, mode = resolution.lut(k)
        least = CORE if k == tile.index else PAINT
        paint(
            out[shared.within(core).slices], labels[shared.within(window).slices], gid, mode, least
        )
    return out


def measure_core(
    gids: npt.NDArray[np.integer[Any]], core: Window
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Return what is painted in one core: gids (n,) sorted, pixels (n,), boxes int32 (n, 4).

    Boxes are in the scene frame. Works on runs, of which there are far fewer than pixels.
    """
    found = runs(gids)
    unique, group = np.unique(found[:, 0], return_inverse=True)
    group = group.ravel()
    boxes = np.empty((len(found), 4), np.int32)
    boxes[:, 0], boxes[:, 1] = found[:, 1] + core.row, found[:, 2] + core.col
    boxes[:, 2], boxes[:, 3] = found[:, 1] + core.row + 1, found[:, 3] + core.col
    area = np.bincount(group, found[:, 3] - found[:, 2], minlength=len(unique)).astype(np.int64)
    return unique, area, joint_boxes(group, boxes, len(unique))


def number(
    gids: npt.ArrayLike, area_px: npt.ArrayLike, min_area_px: npt.ArrayLike = 1
) -> npt.NDArray[np.int32]:
    """Give the final ids 1..N in gid order, leaving out segments below their least area.

    `gids` int64 and `area_px` int64, shape (n,): painted pixels; a gid may occur more than once
    (once per core), its areas are added. `min_area_px`: one number, or one per row (by class).
    Returns the ids of the rows, int32, shape (n,); 0 = left out.

    Law: ids are 1..N without a gap; a lower gid has a lower id; no id has no pixels.

    Raises OverflowError when there are more than 2^31 - 1 segments.
    """
    gid = np.asarray(gids, np.int64)
    unique, where = np.unique(gid, return_inverse=True)
    area = np.zeros(len(unique), np.int64)
    np.add.at(area, where, np.asarray(area_px, np.int64))
    least = np.ones(len(unique), np.int64)
    np.maximum.at(least, where, np.broadcast_to(np.asarray(min_area_px, np.int64), gid.shape))
    keep = (area >= least) & (unique > 0)
    if keep.sum() > MAX_ID:
        raise OverflowError(
            f"{keep.sum()} segments do not fit into the ids of an int32 raster; map the scene in "
            "parts or raise the least area"
        )
    return np.where(keep, np.cumsum(keep), 0).astype(np.int32)[where]

"""Label one tile: canonical 4-connected pieces of its instances, and their table."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.grid import Shape, Window
from geopanoptic.segments import SCORE_ONE, PanopticTile
from geopanoptic.stitch.kernels import cc4, node_sums
from geopanoptic.stitch.tables import NodeTable, TileLabels

# A mask that ends this close to an artificial window edge may be cut: networks are least sure
# of the outermost pixels, and often leave them empty.
TRUNCATED_PX = 2


def label_tile(panoptic: PanopticTile, scene_shape: Shape) -> TileLabels:
    """Give a tile's instances canonical local ids and measure them.

    Every 4-connected component of an instance becomes a label of its own, 1..n in raster order of
    the first pixel: no model can know that two pieces in its window hang together outside it, and
    so nothing depends on how the model numbered them. Pixels of nodata (stuff 0) are no instance.

    Law: permuting the model's instance ids (and `class_of` with them) changes nothing.
    """
    instance = panoptic.instance
    if not panoptic.stuff.all():
        instance = np.where(panoptic.stuff == 0, 0, instance)
    labels, n = cc4(np.ascontiguousarray(instance))
    first, sums, bbox = node_sums(labels, n, panoptic.score)
    window = panoptic.tile.window
    bbox += np.array([window.row, window.col, window.row, window.col], np.int32)
    nodes = NodeTable(
        tile=np.full(n, panoptic.tile.index, np.int64),
        label=np.arange(1, n + 1, dtype=np.int32),
        class_id=panoptic.class_of[instance.ravel()[first]],
        area_px=sums[:, 0].copy(),
        score_sum=sums[:, 1] / SCORE_ONE,
        scored_px=sums[:, 2].copy(),
        bbox=bbox,
        truncated=is_truncated(bbox, window, scene_shape),
    )
    return TileLabels(panoptic.tile, labels, nodes)


def is_truncated(
    bbox: npt.NDArray[np.int32], window: Window, scene_shape: Shape
) -> npt.NDArray[np.bool_]:
    """Tell which boxes (n, 4; scene frame) end within 2 px of an artificial edge of `window`.

    An edge of the window is artificial when the scene goes on beyond it.
    """
    cut: npt.NDArray[Any] = np.zeros(len(bbox), bool)
    if window.row > 0:
        cut |= bbox[:, 0] < window.row + TRUNCATED_PX
    if window.col > 0:
        cut |= bbox[:, 1] < window.col + TRUNCATED_PX
    if window.row_stop < scene_shape[0]:
        cut |= bbox[:, 2] > window.row_stop - TRUNCATED_PX
    if window.col_stop < scene_shape[1]:
        cut |= bbox[:, 3] > window.col_stop - TRUNCATED_PX
    return cut

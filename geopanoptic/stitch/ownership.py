"""Who owns an object that several tiles see whole: vectorised geometry of the tile grid."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from geopanoptic.grid import TileGrid

Ints = npt.NDArray[np.int64]


def centre_tile(bbox: npt.NDArray[np.int32], grid: TileGrid) -> Ints:
    """Return the number of the tile whose core holds the centre of each box (n, 4); shape (n,).

    A centre on a line between two cores belongs to the core below or to the right of it.
    """
    place = [
        ((bbox[:, axis].astype(np.int64) + bbox[:, axis + 2]) // 2 - grid.starts[axis]) // grid.core
        for axis in (0, 1)
    ]
    return place[0] * grid.n_cols + place[1]


def crosses_seam(bbox: npt.NDArray[np.int32], grid: TileGrid) -> npt.NDArray[np.bool_]:
    """Tell which boxes (n, 4) reach over a line between two cores."""
    crosses = np.zeros(len(bbox), bool)
    for axis in (0, 1):
        first = (bbox[:, axis].astype(np.int64) - grid.starts[axis]) // grid.core
        last = (bbox[:, axis + 2].astype(np.int64) - 1 - grid.starts[axis]) // grid.core
        crosses |= first != last
    return crosses


def owners(
    group: npt.NDArray[np.integer], tile: Ints, bbox: npt.NDArray[np.int32], grid: TileGrid
) -> Ints:
    """Return for each group 0..k-1 of views the tile that owns the object; shape (k,).

    `group`, `tile` and `bbox` (n, 4) describe the views. The owner is the tile whose core holds
    the centre of the group's joint box, if a view is that tile's; else the tile with the nearest
    window centre, ties to the lowest number. Doubled integers, no floats: no rounding decides.
    """
    n = int(group.max(initial=-1)) + 1
    joint = joint_boxes(group, bbox, n)
    at_home = tile == centre_tile(joint, grid)[group]
    distance = np.zeros(len(tile), np.int64)
    for axis, place in enumerate(np.divmod(tile, grid.n_cols)):
        start = grid.starts[axis] + place * grid.core
        low = np.maximum(start - grid.halo, 0)
        high = np.minimum(start + grid.core + grid.halo, grid.shape[axis])
        middle = joint[:, axis].astype(np.int64) + joint[:, axis + 2]
        distance += (middle[group] - low - high) ** 2
    order = np.lexsort((tile, distance, ~at_home, group))
    first = np.searchsorted(group[order], np.arange(n))
    return tile[order][first]


def joint_boxes(
    group: npt.NDArray[np.integer], bbox: npt.NDArray[np.int32], n: int
) -> npt.NDArray[np.int32]:
    """Return the box around all boxes of each group 0..n-1; int32 (n, 4)."""
    joint = np.empty((n, 4), np.int32)
    joint[:, :2], joint[:, 2:] = np.iinfo(np.int32).max, np.iinfo(np.int32).min
    for k in (0, 1):
        np.minimum.at(joint[:, k], group, bbox[:, k])
        np.maximum.at(joint[:, k + 2], group, bbox[:, k + 2])
    return joint

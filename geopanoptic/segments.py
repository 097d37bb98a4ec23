"""Segments: the panoptic tile a model answers with, and the table of a map's segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from geopanoptic.grid import Tile

SCORE_ONE = 200  # a score raster holds 0..200 for 0..1 ...
SCORE_NONE = 255  # ... and 255 where there is none (contracts.md section 1)


@dataclass(frozen=True, slots=True)
class PanopticTile:
    """What a model says about one tile's window; all rasters have the window's shape.

    `stuff` uint8: the best stuff class everywhere, also beneath instances (0 nodata, 255 void).
    `instance` int32: 0 = no thing, 1..n = the tile's own instance ids.
    `class_of` uint8, shape (n+1,): the thing class of each instance id; class_of[0] = 0.
    `score` uint8: confidence 0..200 for 0..1, 255 = none.

    Law: instance > 0 ⇒ a thing class; no instance ⇒ stuff, void or nodata. It holds by
    construction, because `semantic` is derived.
    """

    tile: Tile
    stuff: npt.NDArray[np.uint8]
    instance: npt.NDArray[np.int32]
    class_of: npt.NDArray[np.uint8]
    score: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        shape = self.tile.window.shape
        for name in ("stuff", "instance", "score"):
            got = getattr(self, name).shape
            assert got == shape, f"{name} of tile {self.tile.index} is {got}, not {shape}"

    @property
    def semantic(self) -> npt.NDArray[np.uint8]:
        """The class of every pixel: the instance's, else the stuff class."""
        return np.where(self.instance > 0, self.class_of[self.instance], self.stuff)


@dataclass(frozen=True, slots=True)
class SegmentTable:
    """One row per segment, as equal-length columns.

    `id` int64: the instance id of a thing (> 0); minus the class id for a stuff class.
    `class_id` uint8. `area_px` int64. `score` float32 in 0..1, NaN where unknown.
    `bbox` int32, shape (n, 4): first row, first col, stop row, stop col in the map's frame.
    `touches_edge` bool: meets the scene's rim or nodata, so it may be cut.
    `on_seam` bool, `n_tiles` uint16 (how many tiles' views it is made of), `seam_agreement`
    float32: IoU of the views where they overlap, NaN where one tile alone saw it.

    Law: ids are unique.
    """

    id: npt.NDArray[np.int64]
    class_id: npt.NDArray[np.uint8]
    area_px: npt.NDArray[np.int64]
    score: npt.NDArray[np.float32]
    bbox: npt.NDArray[np.int32]
    touches_edge: npt.NDArray[np.bool_]
    on_seam: npt.NDArray[np.bool_]
    n_tiles: npt.NDArray[np.uint16]
    seam_agreement: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        n = len(self.id)
        for f in fields(self):
            assert len(getattr(self, f.name)) == n, f"column {f.name} is not {n} rows long"
        assert len(np.unique(self.id)) == n, "segment ids are not unique"

    def __len__(self) -> int:
        return len(self.id)

    @classmethod
    def empty(cls) -> SegmentTable:
        """Make a table without rows."""
        none = np.zeros(0)
        return cls(
            none.astype(np.int64),
            none.astype(np.uint8),
            none.astype(np.int64),
            none.astype(np.float32),
            np.zeros((0, 4), np.int32),
            none.astype(bool),
            none.astype(bool),
            none.astype(np.uint16),
            none.astype(np.float32),
        )

    @classmethod
    def concatenate(cls, tables: Sequence[SegmentTable]) -> SegmentTable:
        """Stack tables; their ids must not meet."""
        if not tables:
            return cls.empty()
        return cls(*(np.concatenate([getattr(t, f.name) for t in tables]) for f in fields(cls)))

    def take(self, rows: npt.ArrayLike) -> SegmentTable:
        """Return the rows picked by an index or boolean array."""
        keep = np.asarray(rows)
        return replace(self, **{f.name: getattr(self, f.name)[keep] for f in fields(self)})

    @property
    def things(self) -> SegmentTable:
        return self.take(self.id > 0)

    @property
    def stuff(self) -> SegmentTable:
        return self.take(self.id < 0)

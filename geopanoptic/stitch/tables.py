"""The tables of stitching: nodes of a tile, meetings at a seam; columns only, never pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.grid import Tile

Ints = npt.NDArray[np.int64]

# What becomes of a node (a local segment) when cores are assembled:
DROP = 0  # nothing: another view of the same object won
CORE = 1  # painted in its own tile's core only: one piece of a union
PAINT = 2  # seen whole: painted in full, also into the neighbours' cores

# What a strip says about two labels that meet in it:
OVERLAP = 0  # they share pixels
SAME = 1  # a connected piece of each is the other's best match: they are one
REFUSED = 2  # they would be one, but their classes differ and the pieces do not fit well


@dataclass(frozen=True, slots=True)
class NodeTable:
    """One row per local segment of a tile, as equal-length columns.

    `tile` int64; `label` int32, the local id 1..n; `class_id` uint8; `area_px` int64 in the tile's
    window; `score_sum` float64, the sum over pixels of the confidence 0..1, and `scored_px` int64,
    how many pixels have one; `bbox` int32 (n, 4): first row, first col, stop row, stop col in the
    scene frame; `truncated` bool: it may go on beyond the window.

    Law: the rows of a tile are its labels 1..n, each once.
    """

    tile: Ints
    label: npt.NDArray[np.int32]
    class_id: npt.NDArray[np.uint8]
    area_px: Ints
    score_sum: npt.NDArray[np.float64]
    scored_px: Ints
    bbox: npt.NDArray[np.int32]
    truncated: npt.NDArray[np.bool_]

    def __post_init__(self) -> None:
        _assert_equal_length(self)

    def __len__(self) -> int:
        return len(self.tile)

    @classmethod
    def empty(cls) -> NodeTable:
        """Make a table without rows."""
        return cls(
            np.zeros(0, np.int64),
            np.zeros(0, np.int32),
            np.zeros(0, np.uint8),
            np.zeros(0, np.int64),
            np.zeros(0, np.float64),
            np.zeros(0, np.int64),
            np.zeros((0, 4), np.int32),
            np.zeros(0, bool),
        )

    @classmethod
    def concatenate(cls, tables: Sequence[NodeTable]) -> NodeTable:
        """Stack the tables of different tiles."""
        if not tables:
            return cls.empty()
        return cls(*(np.concatenate([getattr(t, f.name) for t in tables]) for f in fields(cls)))

    def take(self, rows: npt.ArrayLike) -> NodeTable:
        """Return the rows picked by an index or boolean array."""
        keep = np.asarray(rows)
        return replace(self, **{f.name: getattr(self, f.name)[keep] for f in fields(self)})


@dataclass(frozen=True, slots=True)
class TileLabels:
    """The product of one tile: `labels` (window shape; 0 = none) and the `nodes` of its labels.

    Laws: labels are 1..n in raster order of their first pixel; each is one 4-connected component;
    row k-1 of `nodes` is label k.
    """

    tile: Tile
    labels: npt.NDArray[Any]
    nodes: NodeTable

    def __post_init__(self) -> None:
        got, wanted = self.labels.shape, self.tile.window.shape
        assert got == wanted, f"labels of tile {self.tile.index} are {got}, not {wanted}"


@dataclass(frozen=True, slots=True)
class SeamTable:
    """Which labels of neighbouring tiles meet in their strips, as equal-length columns.

    `tile_a`, `tile_b` int64 with tile_a < tile_b; `label_a`, `label_b` int32, where 0 means that
    the other label lies on nothing there; `pixels` int64 shared; `iou` float32, the best IoU of
    two connected pieces of theirs, 0 where no pieces are each other's best; `verdict` uint8:
    OVERLAP, SAME or REFUSED.

    Laws: a pair occurs once; the pixels of a label in a strip are the sum over its rows; the
    table does not depend on which of the two tiles is named first.
    """

    tile_a: Ints
    label_a: npt.NDArray[np.int32]
    tile_b: Ints
    label_b: npt.NDArray[np.int32]
    pixels: Ints
    iou: npt.NDArray[np.float32]
    verdict: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        _assert_equal_length(self)

    def __len__(self) -> int:
        return len(self.pixels)

    @classmethod
    def empty(cls) -> SeamTable:
        """Make a table without rows."""
        return cls(
            np.zeros(0, np.int64),
            np.zeros(0, np.int32),
            np.zeros(0, np.int64),
            np.zeros(0, np.int32),
            np.zeros(0, np.int64),
            np.zeros(0, np.float32),
            np.zeros(0, np.uint8),
        )

    @classmethod
    def concatenate(cls, tables: Sequence[SeamTable]) -> SeamTable:
        """Stack the tables of different seams, in any order."""
        if not tables:
            return cls.empty()
        return cls(*(np.concatenate([getattr(t, f.name) for t in tables]) for f in fields(cls)))

    def take(self, rows: npt.ArrayLike) -> SeamTable:
        """Return the rows picked by an index or boolean array."""
        keep = np.asarray(rows)
        return replace(self, **{f.name: getattr(self, f.name)[keep] for f in fields(self)})

    def per_seam(self) -> SeamCounts:
        """Count what happened at each seam, sorted by (tile_a, tile_b)."""
        key = (self.tile_a << np.int64(32)) | self.tile_b
        seam, where = np.unique(key, return_inverse=True)
        both = (self.label_a > 0) & (self.label_b > 0)

        def count(rows: npt.NDArray[np.bool_], weights: Ints | None = None) -> Ints:
            picked = where[rows]
            amount = None if weights is None else weights[rows]
            return np.bincount(picked, weights=amount, minlength=len(seam)).astype(np.int64)

        same = self.verdict == SAME
        return SeamCounts(
            tile_a=seam >> np.int64(32),
            tile_b=seam & np.int64(2**32 - 1),
            candidates=count(both),
            joins=count(same),
            refused=count(self.verdict == REFUSED),
            agree_px=count(same, self.pixels),
            any_px=count(np.ones(len(self), bool), self.pixels),
        )


@dataclass(frozen=True, slots=True)
class SeamCounts:
    """What happened at each seam, as int64 columns, one row per pair of tiles with any segment.

    `candidates`: pairs of labels that share pixels; `joins`: those found to be one; `refused`:
    those kept apart by their classes; `agree_px` of `any_px`: strip pixels on which both tiles
    have the same segment, of those on which either has any.
    """

    tile_a: Ints
    tile_b: Ints
    candidates: Ints
    joins: Ints
    refused: Ints
    agree_px: Ints
    any_px: Ints

    def __len__(self) -> int:
        return len(self.tile_a)


@dataclass(frozen=True, slots=True)
class Meetings:
    """A scene's seams in terms of node rows: `i` < `j` int64, sorted by (i, j).

    Row -1 in place of `i` or `j` is a label on nothing (label 0). `pixels` and `verdict` as in
    SeamTable.
    """

    i: Ints
    j: Ints
    pixels: Ints
    verdict: npt.NDArray[np.uint8]

    @classmethod
    def of(cls, seams: SeamTable, first_row: Ints) -> Meetings:
        """Look up the rows of a seam table's labels; `first_row` int64 (tiles + 1,)."""
        i = np.where(seams.label_a > 0, first_row[seams.tile_a] + seams.label_a - 1, -1)
        j = np.where(seams.label_b > 0, first_row[seams.tile_b] + seams.label_b - 1, -1)
        # a label may lie on nothing in several strips, so pixels are needed to fix the order
        order = np.lexsort((seams.pixels, j, i))
        return cls(i[order], j[order], seams.pixels[order], seams.verdict[order])

    def __len__(self) -> int:
        return len(self.i)

    def take(self, rows: npt.ArrayLike) -> Meetings:
        """Return the rows picked by an index or boolean array."""
        keep = np.asarray(rows)
        return Meetings(self.i[keep], self.j[keep], self.pixels[keep], self.verdict[keep])

    @property
    def both(self) -> npt.NDArray[np.bool_]:
        """Tell which rows are of two labels."""
        return (self.i >= 0) & (self.j >= 0)

    def mirrored(self) -> Meetings:
        """Return every row twice, once from each side."""
        return Meetings(
            np.concatenate([self.i, self.j]),
            np.concatenate([self.j, self.i]),
            np.concatenate([self.pixels, self.pixels]),
            np.concatenate([self.verdict, self.verdict]),
        )


def _assert_equal_length(table: NodeTable | SeamTable) -> None:
    lengths = {f.name: len(getattr(table, f.name)) for f in fields(table)}
    assert len(set(lengths.values())) <= 1, f"columns differ in length: {lengths}"

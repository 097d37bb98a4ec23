"""What blocks must know of each other before they are traced: which parts meet across seams.

The first pass labels every block on its own and keeps only its four border lines. The second
joins parts that meet across a seam. What is kept is at most 16 bytes per seam pixel, and 32 per
run of pixels of one part along a seam, whatever the scene.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

from geopanoptic.grid import TileGrid, Window
from geopanoptic.polygons import kernels

# None: nothing there at all, which costs nothing.
BlockReader = Callable[[Window], npt.NDArray[np.int32] | None]
Group = Literal["id", "part"]
Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Block:
    """One labelled block: `padded` (h+2, w+2) of part numbers with a rim of zeros; the label and
    pixel count of each part (row 0 unused).
    """

    window: Window
    padded: Ints
    label: Ints
    area: Longs

    @classmethod
    def read(cls, blocks: BlockReader, window: Window) -> Block:
        """Read a window of the label raster and number its 4-connected parts."""
        found = blocks(window)
        return cls.of(np.zeros(window.shape, np.int32) if found is None else found, window)

    @classmethod
    def of(cls, found: npt.NDArray[np.int32], window: Window) -> Block:
        """Number the 4-connected parts of the labels found in a window."""
        labels = np.ascontiguousarray(found, np.int32)
        assert labels.shape == window.shape, f"block of {window} is {labels.shape}"
        padded = np.zeros((window.height + 2, window.width + 2), np.int32)
        label, area = kernels.label_components(labels, padded)
        return cls(window, padded, label, area)

    def border(self) -> tuple[Ints, Ints, Ints, Ints]:
        """Return the top row, bottom row, left column and right column of the inside."""
        inside = self.padded[1:-1, 1:-1]
        return inside[0], inside[-1], inside[:, 0], inside[:, -1]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of pixels as its runs of one value, or as it is where runs would take more."""

    values: Ints
    counts: Ints | None

    @classmethod
    def of(cls, pixels: Ints) -> Line:
        """Keep a line of pixels."""
        starts = np.flatnonzero(np.diff(pixels, prepend=pixels[0] - 1))
        if 2 * len(starts) >= len(pixels):
            return cls(pixels, None)
        counts = np.diff(starts, append=len(pixels)).astype(np.int32)
        return cls(pixels[starts], counts)

    def pixels(self) -> Ints:
        """Return the line, pixel by pixel."""
        return self.values if self.counts is None else np.repeat(self.values, self.counts)


@dataclass(frozen=True, slots=True)
class Border:
    """The border of one block as kept between the passes: `parts` are the sorted numbers of the
    parts that touch it, `lines` its four lines where a positive value is 1 + the scene-wide
    number of a part (before joining). `is_empty`: the whole block is zero.
    """

    first: int
    parts: Ints
    lines: tuple[Line, Line, Line, Line]
    is_empty: bool = False

    @classmethod
    def of_nothing(cls, first: int, window: Window) -> Border:
        """Make the border of a block without labels; all of one size share their lines."""
        wide, high = _nothing(window.width), _nothing(window.height)
        return cls(first, _zeros(0), (wide, wide, high, high), is_empty=True)


@dataclass(frozen=True, slots=True)
class Seams:
    """The joined seams of a scene.

    `root`, one per part that touches a border, names the joined part it belongs to. `open_groups`
    (sorted) are the groups that live in more than one block and `open_blocks` in how many; a
    group is a label, or a root.
    """

    grid: TileGrid
    group: Group
    borders: tuple[Border, ...]
    root: Longs
    open_groups: Longs
    open_blocks: Longs

    @classmethod
    def survey(cls, blocks: BlockReader, grid: TileGrid, group: Group) -> Seams:
        """Read every block once (pass 1) and join what meets across seams (pass 2)."""
        if len(grid) == 1:
            none = np.zeros(0, np.int64)
            return cls(grid, group, (), none, none, none)
        borders: list[Border] = []
        border_labels: list[Ints] = []
        labels_of_blocks: list[Longs] = []
        first = 0
        for tile in grid:
            found = blocks(tile.core)
            if found is None or not found.any():
                borders.append(Border.of_nothing(first, tile.core))
                continue
            block = Block.of(found, tile.core)
            lines = block.border()
            parts = np.unique(np.concatenate(lines))
            parts = parts[parts > 0]
            borders.append(Border(first, parts, _scene_wide(lines, parts, first)))
            border_labels.append(block.label[parts])
            first += len(parts)
            if group == "id":
                labels_of_blocks.append(np.unique(block.label[1:]).astype(np.int64))
        labels = np.concatenate([_zeros(0), *border_labels])
        root = _join(grid, borders, labels)
        if group == "part":
            labels_of_blocks = [np.unique(root[b.first : b.first + len(b.parts)]) for b in borders]
        named = np.concatenate([np.zeros(0, np.int64), *labels_of_blocks])
        groups, count = np.unique(named, return_counts=True)
        more = count > 1
        return cls(grid, group, tuple(borders), root, groups[more], count[more])

    def is_empty(self, index: int) -> bool:
        """Tell whether a block is known to be without labels."""
        return bool(self.borders) and self.borders[index].is_empty

    def put_rim(self, index: int, block: Block) -> Longs:
        """Give a block its rim and join parts of it that meet elsewhere, in place.

        Afterwards two pixels of the padded block have the same positive value exactly if they
        belong to the same part of the scene. Returns the root of each part, -1 where it touches
        no border.
        """
        roots = np.full(len(block.label), -1, np.int64)
        if not self.borders:
            return roots
        here = self.borders[index]
        roots[here.parts] = self.root[here.first : here.first + len(here.parts)]
        rim, put = self._rim(index, block)
        outside = self.root[rim[rim > 0] - 1]
        known, where = np.unique(np.concatenate([roots[here.parts], outside]), return_index=True)
        fresh = len(block.label) + np.arange(len(known), dtype=np.int32)
        is_here = where < len(here.parts)
        if len(here.parts):
            name = np.where(is_here, here.parts[np.where(is_here, where, 0)], fresh)
            lut = np.arange(len(block.label), dtype=np.int32)
            lut[here.parts] = name[np.searchsorted(known, roots[here.parts])]
            if (lut[here.parts] != here.parts).any():
                kernels.renumber(block.padded.reshape(-1), lut)
        else:
            name = fresh
        rim[rim > 0] = name[np.searchsorted(known, outside)]
        put(rim)
        return roots

    def _rim(self, index: int, block: Block) -> tuple[Ints, Callable[[Ints], None]]:
        """Return the rim of a block as one vector, and the function that puts one in its place."""
        i, j = divmod(index, self.grid.n_cols)
        p, h, w = block.padded, block.window.height, block.window.width

        def line(di: int, dj: int, which: int, n: int) -> Ints:
            a, b = i + di, j + dj
            if not (0 <= a < self.grid.n_rows and 0 <= b < self.grid.n_cols):
                return np.zeros(n, np.int32)
            return self.borders[a * self.grid.n_cols + b].lines[which].pixels()

        pieces = [
            line(-1, -1, 1, 1)[-1:], line(-1, 0, 1, w), line(-1, 1, 1, 1)[:1],
            line(1, -1, 0, 1)[-1:], line(1, 0, 0, w), line(1, 1, 0, 1)[:1],
            line(0, -1, 3, h), line(0, 1, 2, h),
        ]  # fmt: skip

        def put(rim: Ints) -> None:
            p[0], p[-1] = rim[: w + 2], rim[w + 2 : 2 * w + 4]
            p[1:-1, 0], p[1:-1, -1] = rim[2 * w + 4 : 2 * w + 4 + h], rim[2 * w + 4 + h :]

        return np.concatenate(pieces), put


@lru_cache(maxsize=16)
def _zeros(n: int) -> Ints:
    zeros = np.zeros(n, np.int32)
    zeros.flags.writeable = False
    return zeros


@lru_cache(maxsize=16)
def _nothing(n: int) -> Line:
    return Line.of(_zeros(n))


def _meet(a: Border, b: Border) -> bool:
    return len(a.parts) > 0 and len(b.parts) > 0


def _scene_wide(
    lines: tuple[Ints, Ints, Ints, Ints], parts: Ints, first: int
) -> tuple[Line, Line, Line, Line]:
    top, bottom, left, right = (
        Line.of(np.where(v > 0, np.searchsorted(parts, v) + first + 1, v).astype(np.int32))
        for v in lines
    )
    return top, bottom, left, right


def _join(grid: TileGrid, borders: list[Border], labels: Ints) -> Longs:
    """Return the joined part of each border part: parts are one that meet with equal labels."""
    pairs = [np.zeros((2, 0), np.int64)]

    def meet(one: Line, other: Line) -> None:
        a, b = one.pixels(), other.pixels()
        at = np.flatnonzero((a > 0) & (b > 0))
        a, b = a[at] - 1, b[at] - 1
        at = np.flatnonzero(labels[a] == labels[b])
        if len(at):  # each pair of parts once in a row, so that little waits for the end
            both = np.stack([a[at], b[at]]).astype(np.int64)
            pairs.append(both[:, np.r_[True, (np.diff(both) != 0).any(axis=0)]])

    for i in range(grid.n_rows):
        row = borders[i * grid.n_cols : (i + 1) * grid.n_cols]
        for a, b in pairwise(row):
            if _meet(a, b):
                meet(a.lines[3], b.lines[2])
    for j in range(grid.n_cols):
        for a, b in pairwise(borders[j :: grid.n_cols]):
            if _meet(a, b):
                meet(a.lines[1], b.lines[0])
    a_parts, b_parts = np.concatenate(pairs, axis=1)
    return kernels.joined(len(labels), a_parts, b_parts)

"""Windows, tiles and the tile grid: whole-pixel arithmetic, and nothing else.

All coordinates are pixels `row, col` in the scene frame; windows are stop-exclusive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from geopanoptic.errors import GridError

Shape = tuple[int, int]


@dataclass(frozen=True, order=True, slots=True)
class Window:
    """A rectangle of whole pixels in the scene frame.

    Law: ``X[w.slices][v.within(w).slices] == X[v.slices]`` for every window `v` inside `w`.
    """

    row: int
    col: int
    height: int
    width: int

    @classmethod
    def from_bounds(cls, row: int, col: int, row_stop: int, col_stop: int) -> Window:
        """Make a window from its first and (exclusive) last row and column; never negative."""
        return cls(row, col, max(0, row_stop - row), max(0, col_stop - col))

    @classmethod
    def whole(cls, shape: Shape) -> Window:
        """Make the window of a whole array of `shape` = (rows, cols)."""
        return cls(0, 0, shape[0], shape[1])

    @property
    def row_stop(self) -> int:
        return self.row + self.height

    @property
    def col_stop(self) -> int:
        return self.col + self.width

    @property
    def shape(self) -> Shape:
        return self.height, self.width

    @property
    def area_px(self) -> int:
        return self.height * self.width

    @property
    def is_empty(self) -> bool:
        return self.height <= 0 or self.width <= 0

    @property
    def slices(self) -> tuple[slice, slice]:
        return slice(self.row, self.row_stop), slice(self.col, self.col_stop)

    def within(self, outer: Window) -> Window:
        """Return this window in the frame of `outer` (its pixel (0, 0) is outer's first pixel)."""
        return Window(self.row - outer.row, self.col - outer.col, self.height, self.width)

    def shifted(self, rows: int, cols: int) -> Window:
        """Return this window moved by whole rows and columns."""
        return Window(self.row + rows, self.col + cols, self.height, self.width)

    def grown(self, pixels: int) -> Window:
        """Return this window grown by `pixels` on all four sides (not clipped)."""
        return Window(
            self.row - pixels, self.col - pixels, self.height + 2 * pixels, self.width + 2 * pixels
        )

    def clipped(self, shape: Shape) -> Window:
        """Return the part of this window inside an array of `shape`."""
        return self & Window.whole(shape)

    def __and__(self, other: Window) -> Window:
        """Return the intersection; an empty one has height or width 0."""
        return Window.from_bounds(
            max(self.row, other.row),
            max(self.col, other.col),
            min(self.row_stop, other.row_stop),
            min(self.col_stop, other.col_stop),
        )

    def contains(self, other: Window) -> bool:
        """Tell whether `other` lies wholly inside this window."""
        return (self & other) == other

    def __str__(self) -> str:
        return f"rows {self.row}:{self.row_stop}, cols {self.col}:{self.col_stop}"


@dataclass(frozen=True, slots=True)
class Tile:
    """The unit of work: the core it answers for and the window it sees.

    Law: core ⊆ window, and window = core grown by the halo, clipped to the scene.
    """

    index: int
    core: Window
    window: Window


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a scene is cut and how tiles are joined; defaults come from the model's card.

    `core` and `halo` in pixels; `origin` = (row, col) where one corner of the core grid lies;
    `join_threshold` is the least IoU of two pieces in a strip that makes them one (stitching
    rule G, tau).
    """

    core: int = 1024
    halo: int = 64
    origin: tuple[int, int] = (0, 0)
    join_threshold: float = 0.25

    def grid(self, shape: Shape) -> TileGrid:
        """Cut an array of `shape` = (rows, cols)."""
        return TileGrid(shape, self.core, self.halo, self.origin)


@dataclass(frozen=True, slots=True)
class TileGrid:
    """Cut a scene of `shape` = (rows, cols) into cores of `core` px seen with a halo of `halo` px.

    Tiles are numbered row by row. With an `origin` the first row and column of cores are smaller.
    Laws: the cores partition the scene; windows of tiles that are not neighbours (8 directions)
    do not overlap.

    Raises GridError when the shape is empty, a size is not positive, or 2 x halo > core.
    """

    shape: Shape
    core: int
    halo: int
    origin: tuple[int, int] = (0, 0)

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise GridError(f"a scene of {self.shape[0]} x {self.shape[1]} pixels has no tiles")
        if self.core < 1 or self.halo < 0:
            raise GridError(f"core {self.core} must be >= 1 and halo {self.halo} must be >= 0 px")
        if 2 * self.halo > self.core:
            raise GridError(
                f"halo {self.halo} px is wider than half a core of {self.core} px, so tiles that "
                f"are no neighbours would overlap; use --halo {self.core // 2} or less, "
                f"or --tile {2 * self.halo} or more"
            )

    @property
    def starts(self) -> Shape:
        """First row and column of the core grid: in (-core, 0]."""
        return tuple(o % self.core - self.core if o % self.core else 0 for o in self.origin)  # type: ignore[return-value]

    @property
    def n_rows(self) -> int:
        return -(-(self.shape[0] - self.starts[0]) // self.core)

    @property
    def n_cols(self) -> int:
        return -(-(self.shape[1] - self.starts[1]) // self.core)

    def __len__(self) -> int:
        return self.n_rows * self.n_cols

    def __iter__(self) -> Iterator[Tile]:
        return (self.tile(i) for i in range(len(self)))

    @property
    def window_shape(self) -> Shape:
        """The shape of a window away from the scene's rim."""
        return self.core + 2 * self.halo, self.core + 2 * self.halo

    def tile(self, index: int) -> Tile:
        """Return the tile with this number; IndexError outside the grid."""
        if not 0 <= index < len(self):
            raise IndexError(f"tile {index} of a grid of {len(self)}")
        i, j = divmod(index, self.n_cols)
        row, col = self.starts[0] + i * self.core, self.starts[1] + j * self.core
        core = Window(row, col, self.core, self.core).clipped(self.shape)
        return Tile(index, core, core.grown(self.halo).clipped(self.shape))

    def nominal_window(self, index: int) -> Window:
        """Return the tile's window as if the scene had no rim: always of `window_shape`.

        It may reach beyond the scene on any side.
        """
        i, j = divmod(index, self.n_cols)
        row, col = self.starts[0] + i * self.core, self.starts[1] + j * self.core
        return Window(row, col, self.core, self.core).grown(self.halo)

    def index_at(self, row: int, col: int) -> int:
        """Return the number of the tile whose core holds this pixel."""
        i = (row - self.starts[0]) // self.core
        j = (col - self.starts[1]) // self.core
        return i * self.n_cols + j

    def neighbours(self, index: int) -> tuple[int, ...]:
        """Return the up to 8 neighbouring tiles, in the order (-1,-1), (-1,0), ..., (1,1)."""
        i, j = divmod(index, self.n_cols)
        return tuple(
            (i + di) * self.n_cols + j + dj
            for di in (-1, 0, 1)
            for dj in (-1, 0, 1)
            if (di, dj) != (0, 0) and 0 <= i + di < self.n_rows and 0 <= j + dj < self.n_cols
        )

    def forward_neighbours(self, index: int) -> tuple[int, ...]:
        """Return the up to 4 neighbours with a higher number: right, down-left, down, down-right.

        Every pair of neighbours is met exactly once when each tile meets its forward neighbours.
        """
        return tuple(k for k in self.neighbours(index) if k > index)


@dataclass(frozen=True, slots=True)
class Region:
    """A block of `k` x `k` tiles (fewer at the rim): the unit of reading, writing and retrying."""

    index: int
    tiles: tuple[int, ...]
    core: Window
    window: Window


@dataclass(frozen=True, slots=True)
class RegionGrid:
    """Group the tiles of a grid into regions of `k` x `k` tiles, numbered row by row.

    Law: every tile is in exactly one region; a region's core is the union of its tiles' cores,
    its window the bounding window of its tiles' windows.
    """

    grid: TileGrid
    k: int

    @property
    def n_rows(self) -> int:
        return -(-self.grid.n_rows // self.k)

    @property
    def n_cols(self) -> int:
        return -(-self.grid.n_cols // self.k)

    def __len__(self) -> int:
        return self.n_rows * self.n_cols

    def __iter__(self) -> Iterator[Region]:
        return (self.region(i) for i in range(len(self)))

    def region_of(self, tile: int) -> int:
        """Return the number of the region that holds this tile."""
        i, j = divmod(tile, self.grid.n_cols)
        return (i // self.k) * self.n_cols + j // self.k

    def region(self, index: int) -> Region:
        """Return the region with this number; IndexError outside."""
        if not 0 <= index < len(self):
            raise IndexError(f"region {index} of {len(self)}")
        i, j = divmod(index, self.n_cols)
        rows = range(i * self.k, min((i + 1) * self.k, self.grid.n_rows))
        cols = range(j * self.k, min((j + 1) * self.k, self.grid.n_cols))
        tiles = tuple(r * self.grid.n_cols + c for r in rows for c in cols)
        first, last = self.grid.tile(tiles[0]), self.grid.tile(tiles[-1])
        return Region(index, tiles, _span(first.core, last.core), _span(first.window, last.window))


def _span(first: Window, last: Window) -> Window:
    return Window.from_bounds(first.row, first.col, last.row_stop, last.col_stop)

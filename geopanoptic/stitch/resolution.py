"""Decide over the whole scene which local segments are one, and which view of each wins.

Tables of segments go in, tables come out; every step is vectorised and looks at sorted rows, so
the result is a pure function of the set of rows.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.grid import TileGrid
from geopanoptic.stitch.facts import SegmentFacts, Views, count
from geopanoptic.stitch.kernels import components
from geopanoptic.stitch.ownership import centre_tile, owners
from geopanoptic.stitch.tables import CORE, DROP, PAINT, SAME, Meetings, NodeTable, SeamTable

DUPLICATE_SHARE = 0.5  # two whole views are one object if they share this much of the smaller
RESCUE_SHARE = 0.2  # a whole view is rescued if less than this of it is under what stays
COVERED_SHARE = 0.5  # a cut view goes if kept whole views of other tiles cover more than this

Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Resolution:
    """What becomes of every local segment of a scene.

    `first_row` int64 (tiles + 1,): where each tile's rows begin. `gid` int64 and `mode` uint8, one
    per node in (tile, label) order: the segment it belongs to (0 when dropped) and DROP, CORE or
    PAINT. `segments`: facts of gid 1..M, row g-1 of gid g. `counts`: what happened at the seams.

    Law: gids are 1..M in the order of their first node's (tile, label).
    """

    first_row: Ints
    gid: Ints
    mode: npt.NDArray[np.uint8]
    segments: SegmentFacts
    counts: dict[str, Any]

    def lut(self, tile: int) -> tuple[Ints, npt.NDArray[np.uint8]]:
        """Return (gid, mode) of a tile's labels 0..n, shape (n+1,); label 0 is (0, DROP)."""
        rows = slice(int(self.first_row[tile]), int(self.first_row[tile + 1]))
        gid = np.concatenate([np.zeros(1, np.int64), self.gid[rows]])
        mode = np.concatenate([np.zeros(1, np.uint8), self.mode[rows]])
        return gid, mode


def resolve(nodes: NodeTable, seams: SeamTable, grid: TileGrid) -> Resolution:
    """Give every segment of the scene its id; see Resolution.

    1. Whole views of different tiles that share half of the smaller one are one object. The tile
       whose core holds the centre of their joint box owns it, if it has a view, else the tile
       with the nearest centre. All views of the owner stay, all others go: where one tile sees
       one object and the other two, one tile's opinion wins entirely.
    2. A whole view that no other tile has whole stays if its centre is in its own core. Of the
       others, those of which less than 20 % is under views that stay are rescued (the owner
       missed them), again one view for each object.
    3. A cut view goes if more than half of it lies under whole views that stay.
    4. The cut views that remain are united along the pairs their strips found to be the SAME:
       with each other, and with whole views that stay (which then were only a piece of it).

    Rows may come in any order. Warns when the grid has no halo: then nothing is exact.

    Law: the result depends on the set of rows only, not on their order.
    """
    if grid.halo == 0 and len(grid) > 1:
        warnings.warn(
            "tiles without a halo share no pixels, so segments are joined by their contact along "
            "the seams and touching objects may fuse; use a halo of 1 px or more",
            UserWarning,
            stacklevel=2,
        )
    nodes = _in_order(nodes)
    first_row = np.searchsorted(nodes.tile, np.arange(len(grid) + 1)).astype(np.int64)
    meetings = Meetings.of(seams, first_row)
    pairs = meetings.take(meetings.both)
    whole = _whole_views(nodes, pairs, grid)
    cut = _cut_views(nodes, pairs, whole)
    stays = whole | cut
    joins = (pairs.verdict == SAME) & stays[pairs.i] & stays[pairs.j]
    united = pairs.take(joins & (cut[pairs.i] | cut[pairs.j]))
    leader = _least_of_component(len(nodes), united.i, united.j)
    mode = np.where(whole, PAINT, np.where(cut, CORE, DROP)).astype(np.uint8)
    gid = np.zeros(len(nodes), np.int64)
    leaders, compact = np.unique(leader[stays], return_inverse=True)
    gid[stays] = compact.ravel() + 1
    seen_as = _seen_as(nodes, pairs, whole, gid)
    views = Views(nodes, mode, gid, seen_as, meetings)
    return Resolution(
        first_row, gid, mode, SegmentFacts.of(views, grid, len(leaders)), count(views)
    )


def _in_order(nodes: NodeTable) -> NodeTable:
    """Return the rows sorted by (tile, label)."""
    key = (nodes.tile << np.int64(32)) | nodes.label
    if len(key) > 1 and not (key[1:] > key[:-1]).all():
        nodes = nodes.take(np.argsort(key, kind="stable"))
        key = np.sort(key)
    assert (key[1:] > key[:-1]).all(), "a label of a tile has two rows"
    return nodes


def _whole_views(nodes: NodeTable, pairs: Meetings, grid: TileGrid) -> Mask:
    """Tell which whole views stay (steps 1 and 2); shape (nodes,)."""
    whole = ~nodes.truncated
    stays = whole & (centre_tile(nodes.bbox, grid) == nodes.tile)
    members, wins = _one_view_each(nodes, pairs, whole, grid)
    stays[members] = wins
    # what would be lost although nothing that stays is in its place
    painted = stays | _cut_views(nodes, pairs, stays)
    lost = whole & ~stays & (_rival_px(nodes, pairs, painted) < RESCUE_SHARE * nodes.area_px)
    stays |= lost
    members, wins = _one_view_each(nodes, pairs, lost, grid)
    stays[members] = wins
    return stays


def _one_view_each(
    nodes: NodeTable, pairs: Meetings, among: Mask, grid: TileGrid
) -> tuple[Ints, Mask]:
    """Return the views that have a duplicate in another tile, and which of them win."""
    smaller = np.minimum(nodes.area_px[pairs.i], nodes.area_px[pairs.j])
    twice = among[pairs.i] & among[pairs.j] & (pairs.pixels >= DUPLICATE_SHARE * smaller)
    i, j = pairs.i[twice], pairs.j[twice]
    members = np.unique(np.concatenate([i, j]))
    group = components(len(members), np.searchsorted(members, i), np.searchsorted(members, j))
    owner = owners(group, nodes.tile[members], nodes.bbox[members], grid)
    return members, nodes.tile[members] == owner[group]


def _cut_views(nodes: NodeTable, pairs: Meetings, whole: Mask) -> Mask:
    """Tell which truncated views stay (step 3); shape (nodes,)."""
    covered = np.zeros(len(nodes))
    for mine, other in ((pairs.i, pairs.j), (pairs.j, pairs.i)):
        under = whole[other]
        covered += np.bincount(mine[under], pairs.pixels[under], minlength=len(nodes))
    return nodes.truncated & (covered <= COVERED_SHARE * nodes.area_px)


def _rival_px(nodes: NodeTable, pairs: Meetings, painted: Mask) -> npt.NDArray[np.float64]:
    """Return how many pixels of each node lie under painted views (corners count twice).

    Cut views that would go if the node stays are no rivals.
    """
    rivals = np.zeros(len(nodes))
    for mine, other in ((pairs.i, pairs.j), (pairs.j, pairs.i)):
        goes = nodes.truncated[other] & (pairs.pixels > COVERED_SHARE * nodes.area_px[other])
        counts = painted[other] & ~goes
        rivals += np.bincount(mine[counts], pairs.pixels[counts], minlength=len(nodes))
    return rivals


def _seen_as(nodes: NodeTable, pairs: Meetings, whole: Mask, gid: Ints) -> Ints:
    """Return the gid each node shows: its own, or of the whole view that won over it; else 0.

    A dropped view shows the kept one it shares most pixels with, if that is half of the smaller.
    """
    rows = pairs.mirrored()
    smaller = np.minimum(nodes.area_px[rows.i], nodes.area_px[rows.j])
    rows = rows.take(
        (gid[rows.i] == 0) & whole[rows.j] & (rows.pixels >= DUPLICATE_SHARE * smaller)
    )
    order = np.lexsort((rows.j, -rows.pixels, rows.i))
    loser, at = np.unique(rows.i[order], return_index=True)
    seen_as = gid.copy()
    seen_as[loser] = gid[rows.j[order][at]]
    return seen_as


def _least_of_component(n: int, i: Ints, j: Ints) -> Ints:
    """Return for each of `n` nodes the lowest node of its component under edges (i, j)."""
    least = np.arange(n, dtype=np.int64)
    members = np.unique(np.concatenate([i, j]))
    group = components(len(members), np.searchsorted(members, i), np.searchsorted(members, j))
    lowest = np.full(int(group.max(initial=-1)) + 1, n, np.int64)
    np.minimum.at(lowest, group, members)
    least[members] = lowest[group]
    return least

"""What is known of every segment of the scene, and what happened at its seams."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.grid import TileGrid
from geopanoptic.stitch.ownership import crosses_seam, joint_boxes
from geopanoptic.stitch.tables import (
    CORE,
    DROP,
    PAINT,
    REFUSED,
    SAME,
    Meetings,
    NodeTable,
)

Ints = npt.NDArray[np.int64]
CONFLICT_SHARE = 0.5  # segments that share this much of the smaller one's part of a strip


@dataclass(frozen=True, slots=True)
class Views:
    """Which segment every node shows: `gid` as painted, `seen_as` also for views that lost."""

    nodes: NodeTable
    mode: npt.NDArray[np.uint8]
    gid: Ints
    seen_as: Ints
    meetings: Meetings


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """One row per gid 1..M (row g-1), as equal-length columns.

    `class_id` uint8 by votes of area over the views that are painted, ties to the lower id;
    `score` float32, mean confidence 0..1 of their pixels, NaN where none has one; `n_tiles`
    uint16, how many tiles have a view of it, painted or not; `seam_agreement` float32, the IoU of
    the tiles' views where their windows overlap, NaN where one tile alone looked; `on_seam` bool,
    its box reaches over a line between two cores.
    """

    class_id: npt.NDArray[np.uint8]
    score: npt.NDArray[np.float32]
    n_tiles: npt.NDArray[np.uint16]
    seam_agreement: npt.NDArray[np.float32]
    on_seam: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.class_id)

    @classmethod
    def of(cls, views: Views, grid: TileGrid, n: int) -> SegmentFacts:
        """Gather the facts of gids 1..n."""
        nodes, rows = views.nodes, np.flatnonzero(views.mode > DROP)
        group = views.gid[rows] - 1
        scored = np.bincount(group, nodes.scored_px[rows], minlength=n)
        total = np.bincount(group, nodes.score_sum[rows], minlength=n)
        score = np.divide(total, scored, out=np.full(n, np.nan), where=scored > 0)
        boxes = joint_boxes(group, nodes.bbox[rows], n)
        return cls(
            class_id=_votes(group, nodes.class_id[rows], nodes.area_px[rows], n),
            score=score.astype(np.float32),
            n_tiles=_tiles(views, n),
            seam_agreement=_agreement(views, n),
            on_seam=crosses_seam(boxes, grid),
        )


def _votes(
    group: Ints, class_id: npt.NDArray[np.uint8], area_px: Ints, n: int
) -> npt.NDArray[np.uint8]:
    """Return the class with the most area of each group 0..n-1; ties to the lower class."""
    ballot, where = np.unique((group << 8) | class_id, return_inverse=True)
    votes = np.bincount(where.ravel(), area_px, minlength=len(ballot))
    order = np.lexsort((ballot, -votes, ballot >> 8))
    first = np.searchsorted((ballot >> 8)[order], np.arange(n))
    return (ballot[order][first] & 255).astype(np.uint8)


def _tiles(views: Views, n: int) -> npt.NDArray[np.uint16]:
    seen = views.seen_as > 0
    gid, tile = views.seen_as[seen], views.nodes.tile[seen]
    order = np.lexsort((tile, gid))
    gid, tile = gid[order], tile[order]
    new = np.ones(len(gid), bool)
    new[1:] = (gid[1:] != gid[:-1]) | (tile[1:] != tile[:-1])
    return np.bincount(gid[new] - 1, minlength=n).astype(np.uint16)


def _agreement(views: Views, n: int) -> npt.NDArray[np.float32]:
    """Return per gid: strip pixels on which both tiles see it / on which either does."""
    seen_i, seen_j = _seen(views)
    pixels = views.meetings.pixels
    together = (seen_i == seen_j) & (seen_i > 0)
    shared = np.bincount(seen_i[together], pixels[together], minlength=n + 1)
    alone_i = np.bincount(seen_i[~together], pixels[~together], minlength=n + 1)
    alone_j = np.bincount(seen_j[~together], pixels[~together], minlength=n + 1)
    either = shared + alone_i + alone_j
    iou = np.divide(shared, either, out=np.full(n + 1, np.nan), where=either > 0)
    return iou[1:].astype(np.float32)


def _seen(views: Views) -> tuple[Ints, Ints]:
    m = views.meetings
    seen_i = np.where(m.i >= 0, views.seen_as[m.i], 0)
    seen_j = np.where(m.j >= 0, views.seen_as[m.j], 0)
    return seen_i, seen_j


def count(views: Views) -> dict[str, Any]:
    """Count what happened at the seams: the record for `map.json` and `run.json`.

    `seams` with any segment; `candidate_pairs` of labels that share pixels; `joins` the strips
    found, `many_to_one` of them beyond a label's first with the same neighbour, `refused` by
    class; `conflicts`: pairs that stayed two segments although they share half of the smaller
    one's part of the strip; `agreement`: strip pixels on which two tiles see the same segment, of
    those on which either sees any (None without any).
    """
    m, nodes = views.meetings, views.nodes
    both = m.take(m.both)
    tile_i, tile_j = nodes.tile[both.i], nodes.tile[both.j]
    same = both.verdict == SAME
    joins = int(same.sum())
    distinct = [
        len(np.unique((row[same] << np.int64(32)) | tile[same]))
        for row, tile in ((both.i, tile_j), (both.j, tile_i))
    ]
    seen_i, seen_j = _seen(views)
    together = (seen_i == seen_j) & (seen_i > 0)
    any_px, agree_px = int(m.pixels.sum()), int(m.pixels[together].sum())
    return {
        "segments": int(views.gid.max(initial=0)),
        "views": len(nodes),
        "painted_whole": int((views.mode == PAINT).sum()),
        "painted_in_core": int((views.mode == CORE).sum()),
        "dropped": int((views.mode == DROP).sum()),
        "candidate_pairs": len(both),
        "joins": joins,
        "many_to_one": 2 * joins - sum(distinct),
        "refused": int((both.verdict == REFUSED).sum()),
        "conflicts": _conflicts(views),
        "agreement_px": agree_px,
        "strip_px": any_px,
        "agreement": round(agree_px / any_px, 6) if any_px else None,
    }


def _conflicts(views: Views) -> int:
    """Count pairs of surviving segments that share half of the smaller one's strip pixels."""
    m = views.meetings
    seen_i, seen_j = _seen(views)
    rivals = np.flatnonzero((seen_i > 0) & (seen_j > 0) & (seen_i != seen_j))
    if len(rivals) == 0:
        return 0
    least = np.full(len(rivals), np.iinfo(np.int64).max)
    for mine in (m.i, m.j):
        least = np.minimum(least, _strip_px(mine, m.pixels, rivals))
    return int((m.pixels[rivals] >= CONFLICT_SHARE * least).sum())


def _strip_px(mine: Ints, pixels: Ints, rivals: Ints) -> Ints:
    """Return the pixels that node `mine` of each rival row has in all of its strips on that side.

    Rows of label 0 do not tell their strip, so all strips of the node in the same role are added;
    that can only hide a conflict of a segment in a corner, never invent one.
    """
    involved, where = np.unique(mine[rivals], return_inverse=True)
    at = np.searchsorted(involved, mine)
    at[at == len(involved)] = 0
    hit = involved[at] == mine
    return np.bincount(at[hit], pixels[hit], minlength=len(involved)).astype(np.int64)[
        where.ravel()
    ]

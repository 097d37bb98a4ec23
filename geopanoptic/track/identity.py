"""From links to tracks: who keeps the id when things split and merge, who descends from whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import shapely

from geopanoptic.change.frame import MetricFrame
from geopanoptic.change.geometry import moved_by, shared_area
from geopanoptic.change.objects import Floats, ObjectRules
from geopanoptic.matching import COUNT_FIRST, assign
from geopanoptic.track.links import Links
from geopanoptic.track.views import Bools, DateView, Ints

SplitPolicy = Literal["largest", "new"]
KINDS = ("continued", "split", "merged", "complex")


@dataclass(frozen=True)
class Identity:
    """The track of every object: `track[d]` int64 by row of date d; ids 1..n in order of date.

    `links`: all links; `kept` bool: the later object carries on the track of the earlier one;
    `kind`: one of KINDS, by how many objects belong together; `component`: a number of each such
    group.
    """

    track: tuple[Ints, ...]
    links: Links
    kept: Bools
    kind: npt.NDArray[np.object_]
    component: Ints

    @property
    def count(self) -> int:
        return max((int(t.max(initial=0)) for t in self.track), default=0)

    def ends(self) -> tuple[Ints, Ints]:
        """Return the tracks at the earlier and the later end of each link."""
        return tuple(  # type: ignore[return-value]
            np.array(
                [self.track[d][r] for d, r in zip(dates.tolist(), rows.tolist(), strict=True)],
                np.int64,
            )
            for dates, rows in ((self.links.e, self.links.i), (self.links.d, self.links.j))
        )


def name_tracks(
    views: Sequence[DateView], links: Links, rules: ObjectRules, policy: SplitPolicy
) -> Identity:
    """Give every object a track id.

    One that became one carries on. Of a split or merger the part that shares most ground keeps the
    id ('largest') or nobody does ('new'); where several became several, as many as possible are
    paired, by the greatest sum of 100 + IoU with the centroids put on each other.

    Laws: no two objects of a date share a track. Ids of earlier dates do not depend on later ones.
    """
    nodes_of = np.concatenate(([0], np.cumsum([len(v) for v in views]))).astype(np.int64)
    component, nb, na = _components(links, nodes_of)
    kind = np.full(len(links), "complex", object)
    kind[(nb == 1) & (na > 1)] = "split"
    kind[(nb > 1) & (na == 1)] = "merged"
    kind[(nb == 1) & (na == 1)] = "continued"
    kept = kind == "continued"
    if policy == "largest":
        kept |= _largest(links, component, (kind == "split") | (kind == "merged"), views)
        kept |= _paired(links, component, kind == "complex", (views, rules))
    tracks: list[Ints] = []
    last = 0
    for d, view in enumerate(views):
        track = np.zeros(len(view), np.int64)
        mine = np.flatnonzero(kept & (links.d == d))
        for e in np.unique(links.e[mine]).tolist():
            from_e = mine[links.e[mine] == e]
            track[links.j[from_e]] = tracks[e][links.i[from_e]]
        fresh = np.flatnonzero(track == 0)
        fresh = fresh[np.argsort(view.objects.ids[fresh], kind="stable")]
        track[fresh] = last + 1 + np.arange(len(fresh))
        last += len(fresh)
        tracks.append(track)
    return Identity(tuple(tracks), links, kept, kind, component)


def _components(links: Links, nodes_of: Ints) -> tuple[Ints, Ints, Ints]:
    """Return of each link its connected component, and that one's objects on either side."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = int(nodes_of[-1])
    if len(links) == 0 or n == 0:
        none = np.zeros(len(links), np.int64)
        return none, none, none
    # An object may be a later end of some links and an earlier end of others, so it is two nodes.
    b, a = nodes_of[links.e] + links.i, n + nodes_of[links.d] + links.j
    graph = coo_matrix((np.ones(len(b), np.int8), (b, a)), shape=(2 * n, 2 * n))
    label = connected_components(graph, directed=False)[1]
    component = label[b].astype(np.int64)
    counts = []
    for ends in (b, a):
        per = np.bincount(label[np.unique(ends)], minlength=int(label.max()) + 1)
        counts.append(per[component].astype(np.int64))
    return component, counts[0], counts[1]


def _largest(links: Links, component: Ints, rows: Bools, views: Sequence[DateView]) -> Bools:
    """Choose the link of each component that shares most ground; by IoU, then id, in a tie."""
    kept = np.zeros(len(links), bool)
    k = np.flatnonzero(rows)
    if not len(k):
        return kept
    first_id = _ranks(links, k, views)
    order = np.lexsort((first_id, -links.iou[k], -links.overlap_m2[k], component[k]))
    k = k[order]
    kept[k[np.flatnonzero(np.diff(component[k], prepend=-1))]] = True
    return kept


def _ranks(links: Links, k: Ints, views: Sequence[DateView]) -> Ints:
    """Return the place of each link in the order of the ids of its ends."""
    names = [
        (
            str(views[links.e[r]].objects.ids[links.i[r]]),
            str(views[links.d[r]].objects.ids[links.j[r]]),
        )
        for r in k.tolist()
    ]
    rank = {name: n for n, name in enumerate(sorted(set(names)))}
    return np.array([rank[n] for n in names], np.int64)


def _paired(
    links: Links,
    component: Ints,
    rows: Bools,
    given: tuple[Sequence[DateView], ObjectRules],
) -> Bools:
    """Pair the objects of each component one to one."""
    kept = np.zeros(len(links), bool)
    k = np.flatnonzero(rows)
    if not len(k):
        return kept
    views, rules = given
    # a component lies between two dates, so the dates tell its rows from those of others
    width = 1 + int(max(links.i[k].max(), links.j[k].max()))
    left, right = component[k] * width + links.i[k], component[k] * width + links.j[k]
    weight = COUNT_FIRST + aligned_iou(links.take(k), views, rules)
    kept[k[assign(left, right, weight)]] = True
    return kept


def aligned_iou(links: Links, views: Sequence[DateView], rules: ObjectRules) -> Floats:
    """Return the IoU of each link's outlines with the centroids put on each other.

    Centroids further apart than `rules.max_object_shift_m` stay where they are: then it is the
    IoU of the link.
    """
    made = links.iou.copy()
    left = np.array([views[e].objects.geometry[i] for e, i in zip(links.e, links.i, strict=True)])
    right = np.array([views[d].objects.geometry[j] for d, j in zip(links.d, links.j, strict=True)])
    if not len(left):
        return made
    frame = MetricFrame.of(views[0].objects.crs, left, right)
    left, right = frame.to_metres(left), frame.to_metres(right)
    step = shapely.get_coordinates(shapely.centroid(right))
    step = step - shapely.get_coordinates(shapely.centroid(left))
    near = np.flatnonzero(np.hypot(*step.T) <= rules.max_object_shift_m)
    shared = shared_area(left[near], moved_by(right[near], -step[near]))
    union = shapely.area(left[near]) + shapely.area(right[near]) - shared
    made[near] = np.fmax(made[near], shared / np.maximum(union, 1e-300))
    return made

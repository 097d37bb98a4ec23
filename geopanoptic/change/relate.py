"""Say what became of every object between two dates."""

from __future__ import annotations

import numpy as np

from geopanoptic.change.columns import event_columns, link_columns
from geopanoptic.change.linking import link
from geopanoptic.change.objects import Common, Events, ObjectRules, ObjectSet
from geopanoptic.change.pairs import find_pairs, make_sides
from geopanoptic.change.statuses import group, judge
from geopanoptic.errors import SceneError


def relate(
    before: ObjectSet, after: ObjectSet, rules: ObjectRules, common: Common | None = None
) -> Events:
    """Link the objects of two dates and judge the groups that are connected by links.

    Both sets must have coordinates in one CRS (`object_files.in_crs_of` brings them there); areas,
    lengths and directions come out true in any CRS. Candidates come from a tree and the groups
    from a sparse graph, so time and memory grow with the number of objects, not with its square.

    Laws: every object is in exactly one event. The result depends on ids, not on the order of
    rows. relate(A, A) holds unchanged events only (unobserved ones where A was not observed).
    relate(after, before) is the mirror image: added and removed, grown and shrunk, split and
    merged, gained and lost change places.
    Raises SceneError when the sets have different CRSs or an id occurs twice.
    """
    _check(before, "before")
    _check(after, "after")
    if before.crs != after.crs:
        raise SceneError("the two sets of objects have different CRSs; bring one to the other's")
    common = Common() if common is None else common
    one, two, frame = make_sides(before, after, common, rules.compatible)
    pairs = find_pairs(one, two)
    links = link(one, two, pairs, rules)
    groups = group(links, len(one), len(two))
    judged = judge((one, two), pairs, links, groups, rules)
    found = pairs, links, groups, judged
    columns = event_columns((before, after), (one, two), found, frame, rules)
    event_of_before, event_of_after = np.empty_like(one.rows), np.empty_like(two.rows)
    event_of_before[one.rows] = groups.of_before + 1
    event_of_after[two.rows] = groups.of_after + 1
    table = link_columns((one, two), (links, groups), event_of_before)
    return Events(columns, event_of_before, event_of_after, table)


def _check(objects: ObjectSet, name: str) -> None:
    ids, count = np.unique(objects.ids, return_counts=True)
    if len(ids) and count.max() > 1:
        raise SceneError(
            f"id {ids[count.argmax()]} occurs {count.max()} times in the {name} objects; an id "
            f"must name one object (choose another attribute with --id-field)"
        )

"""The columns of `events` and `links`: what was judged, in words and true square metres."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import shapely

from geopanoptic.change.confidence import confidence_columns
from geopanoptic.change.frame import MetricFrame
from geopanoptic.change.linking import LinkTable
from geopanoptic.change.objects import Floats, Ints, Links, ObjectRules, ObjectSet
from geopanoptic.change.pairs import Pairs, Side
from geopanoptic.change.statuses import Groups, Judged

# name -> kind: 'int', 'float' (NaN: none), 'text' (None: none), 'flag'
EVENT_COLUMNS = {
    "event_id": "int",
    "status": "text",
    "class_before": "text",
    "class_after": "text",
    "before_ids": "text",
    "after_ids": "text",
    "n_before": "int",
    "n_after": "int",
    "area_before_m2": "float",
    "area_after_m2": "float",
    "delta_m2": "float",
    "area_ratio": "float",
    "iou": "float",
    "iou_aligned": "float",
    "shift_m": "float",
    "shift_dir_deg": "float",
    "overlap_m2": "float",
    "gained_m2": "float",
    "lost_m2": "float",
    "observed_before": "float",
    "observed_after": "float",
    "partly_observed": "flag",
    "touches_edge": "flag",
    "below_mmu": "flag",
    "score_before": "float",
    "score_after": "float",
    "confidence": "float",
    "existence": "float",
    "absence": "float",
    "margin": "float",
}
_NO_DIRECTION_M = 1e-3


def event_columns(
    sets: tuple[ObjectSet, ObjectSet],
    sides: tuple[Side, Side],
    found: tuple[Pairs, LinkTable, Groups, Judged],
    frame: MetricFrame,
    rules: ObjectRules,
) -> dict[str, npt.NDArray[Any]]:
    """Return the columns named in `EVENT_COLUMNS`, one value per event."""
    pairs, links, groups, judged = found
    (before, after), (one, two) = sets, sides
    n = len(groups)
    m2_b, m2_a = before.area_m2[one.rows], after.area_m2[two.rows]
    area_b, area_a = groups.sum_before(m2_b), groups.sum_after(m2_a)
    seen_b, seen_a = groups.sum_before(one.visible * one.m2), groups.sum_after(two.visible * two.m2)
    plane = groups.sum_before(one.area) + groups.sum_after(two.area)
    density = np.divide(area_b + area_a, plane, out=np.ones(n), where=plane > 0)
    hidden = judged.status == "unobserved"
    overlap = np.minimum(judged.overlap * density, np.minimum(seen_b, seen_a))
    touches = groups.sum_before(one.touches_edge) + groups.sum_after(two.touches_edge) > 0
    columns: dict[str, npt.NDArray[Any]] = {
        "event_id": np.arange(1, n + 1),
        "status": judged.status,
        "class_before": _joined(groups.of_before, before.class_names[one.rows], n, unique=True),
        "class_after": _joined(groups.of_after, after.class_names[two.rows], n, unique=True),
        "before_ids": _joined(groups.of_before, before.ids[one.rows], n),
        "after_ids": _joined(groups.of_after, after.ids[two.rows], n),
        "n_before": groups.n_before,
        "n_after": groups.n_after,
        "area_before_m2": area_b,
        "area_after_m2": area_a,
        "delta_m2": np.where(hidden, np.nan, area_a - area_b),
        "area_ratio": judged.ratio,
        "iou": judged.iou,
        "iou_aligned": judged.iou_aligned,
        **_shifts(sets, sides, groups, judged, frame),
        "overlap_m2": overlap,
        "gained_m2": np.where(hidden, np.nan, np.maximum(seen_a - overlap, 0.0)),
        "lost_m2": np.where(hidden, np.nan, np.maximum(seen_b - overlap, 0.0)),
        "observed_before": judged.observed_before,
        "observed_after": judged.observed_after,
        "partly_observed": judged.partly,
        "touches_edge": touches,
        "below_mmu": np.maximum(area_b, area_a) < rules.mmu_m2,
    }
    columns |= confidence_columns(sides, (pairs, links, groups, judged), rules)
    assert list(columns) == list(EVENT_COLUMNS)
    return columns


def link_columns(
    sides: tuple[Side, Side], found: tuple[LinkTable, Groups], event_of_before: Ints
) -> Links:
    """Return the sure links with rows of the sets instead of positions in the sides."""
    (one, two), (table, _) = sides, found
    b, a, shared = (x[table.sure] for x in (table.before, table.after, table.shared))
    m2: Floats = np.sqrt(one.m2[b] * two.m2[a])
    vb, va = one.visible[b], two.visible[a]
    before, after = one.rows[b], two.rows[a]
    order = np.lexsort((after, before))
    iou = shared / (vb + va - shared)
    return Links(
        before[order],
        after[order],
        np.asarray((shared * m2)[order], np.float64),
        (shared / vb)[order],
        (shared / va)[order],
        iou[order],
        event_of_before[before[order]],
    )


def _joined(
    event: Ints, values: npt.NDArray[Any], n: int, *, unique: bool = False
) -> npt.NDArray[np.object_]:
    """Return for every event its values as text joined by ';', None where it has none."""
    made = np.full(n, None, object)
    order = np.argsort(event, kind="stable")
    text = values[order].astype(str).astype(object)
    event = event[order]
    first = np.flatnonzero(np.diff(event, prepend=-1))
    made[event[first]] = text[first]
    for start, stop in _runs(first, len(event)):
        parts = text[start:stop].tolist()
        made[event[start]] = ";".join(sorted(set(parts)) if unique else parts)
    return made


def _runs(first: Ints, n: int) -> list[tuple[int, int]]:
    """Return where runs of two and more begin and end."""
    stop = np.append(first[1:], n)
    long = stop - first > 1
    return list(zip(first[long].tolist(), stop[long].tolist(), strict=True))


def _shifts(
    sets: tuple[ObjectSet, ObjectSet],
    sides: tuple[Side, Side],
    groups: Groups,
    judged: Judged,
    frame: MetricFrame,
) -> dict[str, Floats]:
    """Return how far and where to (degrees from true north, clockwise) one-to-one events moved."""
    n = len(groups)
    shift, direction = np.full(n, np.nan), np.full(n, np.nan)
    rows = np.flatnonzero(np.isfinite(judged.step[:, 0]))
    step = judged.step[rows]
    shift[rows] = np.hypot(*step.T)
    far = shift[rows] > _NO_DIRECTION_M
    rows, step = rows[far], step[far]
    if len(rows):
        if frame.move is None:
            b = sides[0].rows[groups.first_before[rows]]
            centre = shapely.get_coordinates(shapely.centroid(sets[0].geometry[b]))
            step = frame.true_shift(centre, step)
            shift[rows] = np.hypot(*step.T)
        direction[rows] = np.degrees(np.arctan2(step[:, 0], step[:, 1])) % 360.0
    return {"shift_m": shift, "shift_dir_deg": direction}

"""From tracks to the rows of tracks.gpkg."""

from __future__ import annotations

import datetime as dt
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.track.identity import Identity
from geopanoptic.track.life import Lives, Sightings
from geopanoptic.track.links import NEVER, SeriesLinks
from geopanoptic.track.specs import COUNTS
from geopanoptic.track.views import DateView, Ints

Rows = dict[str, Any]


@dataclass(frozen=True)
class Tracked:
    """Everything that is known of a series once it is tracked."""

    views: tuple[DateView, ...]
    found: SeriesLinks
    identity: Identity
    lives: Lives
    sightings: Sightings

    @property
    def dates(self) -> list[str]:
        return [v.date for v in self.views]

    def of_sightings(self, name: str) -> npt.NDArray[Any]:
        """Return an attribute of `ObjectSet` for every sighting."""
        s = self.sightings
        start = np.concatenate(([0], np.cumsum([len(v) for v in self.views]))).astype(np.int64)
        parts = [getattr(v.objects, name) for v in self.views if len(v)]
        if not parts:
            return np.zeros(0, object)
        if name == "ids" and len({p.dtype.kind for p in parts}) > 1:
            parts = [p.astype(str).astype(object) for p in parts]
        made: npt.NDArray[Any] = np.concatenate(parts)[start[s.date] + s.row]
        return made


def moment(date: str | None) -> dt.datetime | None:
    """Return an ISO date as a time in UTC."""
    return None if date is None else dt.datetime.fromisoformat(date).replace(tzinfo=dt.UTC)


def observation_rows(t: Tracked) -> Rows:
    """Return one row per object and date, sorted by track and date."""
    s, dates = t.sightings, t.dates
    status, iou = _status(t)
    ends = _ends(t)
    return {
        "track_id": s.track,
        "date": [dates[d] for d in s.date],
        "date_from": [moment(dates[d]) for d in s.date],
        "date_to": ends,
        "object_id": t.of_sightings("ids").tolist(),
        "class": t.of_sightings("class_names").tolist(),
        "area_m2": s.area_m2,
        "score": _or_null(t.of_sightings("scores")),
        "status": status,
        "iou_prev": _or_null(iou),
        "gap": s.gap,
        "touches_edge": t.of_sightings("touches_edge").tolist(),
    }


def _status(t: Tracked) -> tuple[list[str], npt.NDArray[np.float64]]:
    """Return what became of each object since it was seen last, and the IoU with that."""
    s, links, kind = t.sightings, t.identity.links, t.identity.kind
    by_object: list[list[str | None]] = [[None] * len(v) for v in t.views]
    iou = [np.full(len(v), np.nan) for v in t.views]
    best = np.lexsort((t.identity.kept, links.d))  # the one that is carried on comes last
    for k in best.tolist():
        d, j = int(links.d[k]), int(links.j[k])
        by_object[d][j] = str(links.status[k]) if kind[k] == "continued" else str(kind[k])
        iou[d][j] = links.iou[k]
    words = []
    for d, j in zip(s.date.tolist(), s.row.tolist(), strict=True):
        word = by_object[d][j]
        if word is None:
            word = "first" if t.found.backward[d].absent[j] == NEVER else "added"
        words.append(word)
    value = np.array([iou[d][j] for d, j in zip(s.date, s.row, strict=True)], np.float64)
    return words, value


def _ends(t: Tracked) -> list[dt.datetime | None]:
    """Return until when each sighting stands: the next one, or the date that saw it gone."""
    s, dates, links = t.sightings, t.dates, t.identity.links
    after = np.full(len(s), NEVER, np.int64)
    after[:-1][~s.last[:-1]] = s.date[1:][~s.last[:-1]]
    last = np.flatnonzero(s.last)
    after[last] = t.lives.gone_before
    heir = {
        (e, i): d
        for e, i, d in zip(links.e.tolist(), links.i.tolist(), links.d.tolist(), strict=True)
    }
    for r in last[t.lives.has_heirs].tolist():
        after[r] = heir[int(s.date[r]), int(s.row[r])]
    close = _close(dates)
    return [close if d == NEVER else moment(dates[d]) for d in after.tolist()]


def _close(dates: Sequence[str]) -> dt.datetime | None:
    """Return when the last date of the series ends: it lasts as long as the one before it."""
    times = [dt.datetime.fromisoformat(d).replace(tzinfo=dt.UTC) for d in dates]
    if not times:
        return None
    step = times[-1] - times[-2] if len(times) > 1 else dt.timedelta(days=1)
    return times[-1] + step


def _or_null(values: npt.NDArray[Any]) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values.astype(np.float64)]


def track_rows(t: Tracked) -> Rows:
    """Return one row per track."""
    lives, dates, s = t.lives, t.dates, t.sightings

    def when(number: Ints) -> list[dt.datetime | None]:
        return [None if d == NEVER else moment(dates[d]) for d in number.tolist()]

    parents, children = _kin(t.identity, len(lives))
    return {
        "track_id": np.arange(1, len(lives) + 1),
        "class": track_classes(t),
        "state": _states(t),
        "first_seen": when(lives.first),
        "last_seen": when(lives.last),
        **{k: when(getattr(lives, k)) for k in
           ("built_after", "built_before", "gone_after", "gone_before")},
        "n_observed": lives.n_observed,
        "n_seen": lives.n_seen,
        "n_gap": lives.n_gap,
        **{k: getattr(lives, k) for k in ("area_first", "area_last", "area_min", "area_max")},
        "growth_m2_per_year": _or_null(lives.growth_m2_per_year),
        "confirmed": lives.confirmed.tolist(),
        "provisional": lives.provisional.tolist(),
        "parents": parents,
        "children": children,
        "_row": np.flatnonzero(s.last),
    }  # fmt: skip


def track_classes(t: Tracked) -> list[str]:
    """Return the class a track has most often; the latest of them in a tie."""
    names = t.of_sightings("class_names")
    starts = np.flatnonzero(t.sightings.first)
    return [
        max(Counter(part).items(), key=lambda c: (c[1], _last_place(part, c[0])))[0]
        for part in (p.tolist() for p in np.split(names, starts[1:]))
        if part
    ]


def _last_place(part: list[str], name: str) -> int:
    return len(part) - 1 - part[::-1].index(name)


def _states(t: Tracked) -> list[str]:
    lives = t.lives
    state = np.full(len(lives), "unknown", object)
    state[lives.last == len(t.views) - 1] = "present"
    state[lives.gone_before != NEVER] = "gone"
    state[lives.has_heirs] = "continued"
    return [str(v) for v in state]


def _kin(identity: Identity, n: int) -> tuple[list[str | None], list[str | None]]:
    """Return the parents and the children of every track as text, None where it has none."""
    up: dict[int, set[int]] = defaultdict(set)
    down: dict[int, set[int]] = defaultdict(set)
    old, new = identity.ends()
    for a, b in zip(old[~identity.kept].tolist(), new[~identity.kept].tolist(), strict=True):
        up[b].add(a)
        down[a].add(b)

    def text(kin: dict[int, set[int]]) -> list[str | None]:
        return [";".join(map(str, sorted(kin[k]))) if k in kin else None for k in range(1, n + 1)]

    return text(up), text(down)


def lineage_rows(t: Tracked) -> Rows:
    """Return one row per track that came from another, in time order."""
    links, identity = t.identity.links, t.identity
    old, new = identity.ends()
    k = np.flatnonzero(~identity.kept)
    k = k[np.lexsort((new[k], old[k], links.d[k]))]
    return {
        "parent_track": old[k],
        "child_track": new[k],
        "date": [t.dates[d] for d in links.d[k]],
        "date_before": [t.dates[e] for e in links.e[k]],
        "kind": [str(w) for w in identity.kind[k]],
        "overlap_m2": _or_null(links.overlap_m2[k]),
        "iou": _or_null(links.iou[k]),
    }


def timeline_rows(t: Tracked) -> Rows:
    """Return one row per date and class: how many there are, how large, what came and went."""
    lives, s, n_dates = t.lives, t.sightings, len(t.views)
    names = t.of_sightings("class_names").astype(str)
    classes = sorted(set(names.tolist()))
    code = np.searchsorted(np.array(classes), names) if classes else np.zeros(0, np.int64)
    shape = (n_dates, len(classes))
    count = {name: np.zeros(shape, np.int64) for name in COUNTS}
    area = np.zeros(shape)
    np.add.at(count["count"], (s.date, code), 1)
    np.add.at(area, (s.date, code), s.area_m2)
    first, last = code[s.first], code[s.last]
    came = lives.built_after != NEVER
    went = lives.gone_before != NEVER
    for suffix, sure in (("", np.ones(len(lives), bool)), ("_confirmed", lives.confirmed)):
        a, r = came & sure, went & sure
        np.add.at(count[f"added{suffix}"], (lives.first[a], first[a]), 1)
        np.add.at(count[f"removed{suffix}"], (lives.gone_before[r], last[r]), 1)
    for kind in ("split", "merged", "complex"):
        for when, name in _groups(t, kind):
            count[kind][when, classes.index(name)] += 1
    d, c = (k.ravel().tolist() for k in np.indices(shape))
    return {
        "date": [t.dates[k] for k in d],
        "class": [classes[k] for k in c],
        "area_m2": area[d, c],
        **{name: count[name][d, c] for name in COUNTS},
    }


def _groups(t: Tracked, kind: str) -> list[tuple[int, str]]:
    """Return (date, class) of each group of objects that split, merged or both."""
    links, k = t.identity.links, np.flatnonzero(t.identity.kind == kind)
    group = t.identity.component[k]
    first = k[np.unique(group, return_index=True)[1]]
    if kind == "split":
        return [
            (int(links.d[r]), str(t.views[links.e[r]].objects.class_names[links.i[r]]))
            for r in first.tolist()
        ]
    return [
        (int(links.d[r]), str(t.views[links.d[r]].objects.class_names[links.j[r]]))
        for r in first.tolist()
    ]

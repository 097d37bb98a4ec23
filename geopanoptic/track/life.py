"""The life of every track: when it was seen, between which dates it came and went, how it grew."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geopanoptic.track.identity import Identity
from geopanoptic.track.links import NEVER, Chances
from geopanoptic.track.views import Bools, DateView, Ints

Floats = npt.NDArray[np.float64]

_YEAR_DAYS = 365.2425


@dataclass(frozen=True, slots=True)
class ConfirmRule:
    """A track is confirmed when it is seen at `seen` of the first `of` dates that see its place."""

    seen: int = 2
    of: int = 3


@dataclass(frozen=True)
class Sightings:
    """All objects of all dates, sorted by (track, date): parallel arrays.

    `date`, `row`: where the object is; `first`, `last` bool: of its track. `gap`: dates between the
    track's last sighting and this one that saw the place and not the object.
    """

    track: Ints
    date: Ints
    row: Ints
    area_m2: Floats
    gap: Ints
    first: Bools
    last: Bools

    @classmethod
    def of(cls, views: Sequence[DateView], identity: Identity) -> Sightings:
        """Collect the objects of all tracks."""
        none = [np.zeros(0, np.int64)]
        gaps = [np.zeros(len(v), np.int64) for v in views]
        links = identity.links
        for k in np.flatnonzero(identity.kept).tolist():
            gaps[links.d[k]][links.j[k]] = links.gap[k]
        track = np.concatenate([*none, *identity.track])
        date = np.repeat(np.arange(len(views)), [len(v) for v in views]).astype(np.int64)
        row = np.concatenate(none + [np.arange(len(v)) for v in views]).astype(np.int64)
        area = np.concatenate([np.zeros(0), *(v.objects.area_m2 for v in views)])
        order = np.lexsort((date, track))
        track = track[order]
        turn = np.diff(track, prepend=0) != 0
        return cls(
            track, date[order], row[order], area[order], np.concatenate([*none, *gaps])[order],
            turn, np.append(turn[1:], True)[: len(turn)],
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.track)


@dataclass(frozen=True)
class Lives:
    """One row per track, ids 1..n in order; dates are numbers of the series, NEVER = none.

    A track came between `built_after` and `built_before`, and went between `gone_after` and
    `gone_before`: the dates next to each other that saw its place without and with it. `n_seen`
    sightings and `n_gap` misses between the first and the last; `n_observed` both together.
    `has_parents`: it began as a part of others, so nothing was built; `has_heirs`: it went on in
    others, so nothing is gone. `open`: a later date may still carry it on.
    """

    first: Ints
    last: Ints
    built_after: Ints
    built_before: Ints
    gone_after: Ints
    gone_before: Ints
    n_seen: Ints
    n_gap: Ints
    confirmed: Bools
    provisional: Bools
    open: Bools
    has_parents: Bools
    has_heirs: Bools
    area_first: Floats
    area_last: Floats
    area_min: Floats
    area_max: Floats
    growth_m2_per_year: Floats

    @property
    def n_observed(self) -> Ints:
        return self.n_seen + self.n_gap

    def __len__(self) -> int:
        return len(self.first)


@dataclass(frozen=True)
class Outlook:
    """What the links know of all objects, looking forward and back, by date."""

    forward: tuple[Chances, ...]
    backward: tuple[Chances, ...]
    max_gap: int

    def ahead(self, s: Sightings, name: str) -> npt.NDArray[np.generic]:
        """Return an attribute of `Chances` looking forward, for every sighting."""
        return _gathered(self.forward, s, name)

    def back(self, s: Sightings, name: str) -> npt.NDArray[np.generic]:
        """Return an attribute of `Chances` looking back, for every sighting."""
        return _gathered(self.backward, s, name)


def _gathered(chances: Sequence[Chances], s: Sightings, name: str) -> npt.NDArray[np.generic]:
    empty = getattr(Chances.of(0), name)
    every = np.concatenate([empty, *(getattr(c, name) for c in chances)])
    start = np.concatenate(([0], np.cumsum([len(c.linked) for c in chances]))).astype(np.int64)
    made: npt.NDArray[np.generic] = every[start[s.date] + s.row]
    return made


def lives_of(
    views: Sequence[DateView], identity: Identity, outlook: Outlook, rule: ConfirmRule
) -> tuple[Lives, Sightings]:
    """Return the life of every track, and all sightings.

    Confirmed: seen at `rule.seen` of the first `rule.of` dates that saw the place. Before so many
    dates are known, a track never missed since it appeared counts as confirmed, and `provisional`
    says that later dates may change the verdict.
    """
    s = Sightings.of(views, identity)
    first, last = np.flatnonzero(s.first), np.flatnonzero(s.last)
    n = len(first)
    # A last sighting with a partner went on in others, a first one with a partner came from others.
    heirs = np.asarray(outlook.ahead(s, "linked"), bool)[last]
    parents = np.asarray(outlook.back(s, "linked"), bool)[first]
    absent_ahead = np.asarray(outlook.ahead(s, "absent"), np.int64)[last]
    absent_back = np.asarray(outlook.back(s, "absent"), np.int64)[first]
    trailing = np.asarray(outlook.ahead(s, "missed"), np.int64)[last]
    gone_before = np.where(heirs, NEVER, absent_ahead)
    can_go_on = ~heirs & (trailing < outlook.max_gap)
    seen, gap = np.bincount(s.track - 1, minlength=n), _sums(s.track - 1, s.gap, n)
    known = seen + gap + np.where(heirs, 1, trailing)
    early = _early(s, n, rule.of) + (heirs & (seen + gap < rule.of))
    confirmed = early >= rule.seen
    provisional = ~confirmed & can_go_on & (known < rule.of)
    confirmed |= provisional & (gap == 0) & (trailing == 0)
    by_track = np.split(s.area_m2, first[1:]) if n else []
    return (
        Lives(
            s.date[first], s.date[last],
            np.where(parents, NEVER, absent_back),
            np.where(parents, NEVER, s.date[first]),
            np.where(gone_before == NEVER, NEVER, s.date[last]), gone_before,
            seen.astype(np.int64), gap, confirmed, provisional, can_go_on, parents, heirs,
            s.area_m2[first], s.area_m2[last],
            np.array([a.min() for a in by_track]), np.array([a.max() for a in by_track]),
            _growth(views, s, n),
        ),
        s,
    )  # fmt: skip


def _sums(where: Ints, values: Ints, n: int) -> Ints:
    return np.bincount(where, values, minlength=n).astype(np.int64)


def _early(s: Sightings, n: int, window: int) -> Ints:
    """Count each track's sightings among the first `window` dates that saw its place."""
    turn = np.cumsum(1 + s.gap)
    start = np.flatnonzero(s.first)
    place = turn - np.repeat(turn[start], np.diff(np.append(start, len(s))))
    early = (place < window).astype(np.int64)
    return _sums(s.track - 1, early, n)


def _growth(views: Sequence[DateView], s: Sightings, n: int) -> Floats:
    """Return the slope of area over time by least squares, m2 per year; NaN of one sighting."""
    years = np.array([year_of(v.date) for v in views])
    if n == 0:
        return np.zeros(0)
    t, k = years[s.date], s.track - 1
    count = np.bincount(k, minlength=n)
    t = t - (np.bincount(k, t, minlength=n) / count)[k]
    a = s.area_m2 - (np.bincount(k, s.area_m2, minlength=n) / count)[k]
    spread = np.bincount(k, t * t, minlength=n)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.bincount(k, t * a, minlength=n) / spread
    return np.where(spread > 0, slope, np.nan)


def year_of(date: str) -> float:
    """Return an ISO date as years since year 0 of 365.2425 days."""
    when = dt.datetime.fromisoformat(date).replace(tzinfo=None)
    return (when - dt.datetime(1, 1, 1)).total_seconds() / 86400 / _YEAR_DAYS

"""Which object of a date is which of a later one: the change rule between all dates that need it.

Consecutive dates are compared as a whole. What found no partner (missed by the model, under a
cloud) stays open and is compared with what stayed open at later dates, until it has been missed at
`max_gap` dates that saw its place. A date that did not see a place is no miss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geopanoptic.change.objects import Events, ObjectRules
from geopanoptic.track.views import Bools, DateView, Ints, relate_rows

Floats = npt.NDArray[np.float64]

NEVER = -1


@dataclass(frozen=True)
class Links:
    """Pairs of objects that belong together, as parallel arrays; no two of an object and a date.

    `e`, `i`: number of the earlier date and row of its object; `d`, `j`: of the later one.
    `overlap_m2`, `iou`, `status`: what `change.relate` says of the pair and its event. `gap`: dates
    between the two that saw the place and not the object.
    """

    e: Ints
    i: Ints
    d: Ints
    j: Ints
    overlap_m2: Floats
    iou: Floats
    status: npt.NDArray[np.object_]
    gap: Ints

    def __len__(self) -> int:
        return len(self.e)

    def take(self, rows: npt.ArrayLike) -> Links:
        """Return the links picked by an index or boolean array."""
        k = np.asarray(rows)
        return Links(*(getattr(self, name)[k] for name in _COLUMNS))

    @classmethod
    def joined(cls, parts: Sequence[Links]) -> Links:
        """Return the links of several pairs of dates, in order of (d, j, e, i)."""
        ints, floats = np.zeros(0, np.int64), np.zeros(0)
        empty = cls(ints, ints, ints, ints, floats, floats, np.zeros(0, object), ints)
        every = [empty, *parts]
        made = cls(*(np.concatenate([getattr(p, name) for p in every]) for name in _COLUMNS))
        return made.take(np.lexsort((made.i, made.e, made.j, made.d)))


_COLUMNS = ("e", "i", "d", "j", "overlap_m2", "iou", "status", "gap")


@dataclass(frozen=True)
class Chances:
    """What is known of the objects of one date when looking one way (to later or earlier dates).

    `linked`: has a partner. `missed`: dates, up to the partner or the gap allowed, that saw its
    place but not the object; `absent`: the nearest of these (NEVER: none). `doubtful`: may be some
    object of a neighbouring date, but too much of it was hidden to tell.
    """

    linked: Bools
    missed: Ints
    absent: Ints
    doubtful: Bools

    @classmethod
    def of(cls, n: int) -> Chances:
        """Start with nothing known of n objects."""
        zero = np.zeros(n, np.int64)
        return cls(np.zeros(n, bool), zero, np.full(n, NEVER), np.zeros(n, bool))

    def open(self, max_gap: int) -> Ints:
        """Return the rows that may still find a partner."""
        return np.flatnonzero(~self.linked & (self.missed < max_gap))

    def judge(self, rows: Ints, verdict: npt.NDArray[np.object_], date: int, word: str) -> None:
        """Take down what a comparison with another date says of unlinked rows."""
        gone = rows[verdict == word]
        self.missed[gone] += 1
        near = gone[(self.absent[gone] == NEVER) & ~self.doubtful[gone]]
        self.absent[near] = date


@dataclass(frozen=True)
class SeriesLinks:
    """All links of a series, and what is known of every object looking forward and back."""

    links: Links
    forward: tuple[Chances, ...]
    backward: tuple[Chances, ...]


def link_series(views: Sequence[DateView], rules: ObjectRules, max_gap: int) -> SeriesLinks:
    """Link the objects of all dates (in time order).

    Laws: of two dates it is `change.relate`. Reversing time gives the same links. A later date
    changes no link among earlier ones. A date that saw nothing changes none at all.
    """
    forward = tuple(Chances.of(len(v)) for v in views)
    backward = tuple(Chances.of(len(v)) for v in views)
    parts: list[Links] = []
    for d in range(1, len(views)):
        for e in range(d - 1, -1, -1):
            rows = forward[e].open(max_gap), backward[d].open(max_gap)
            if not len(rows[0]) and not len(rows[1]):
                continue
            events = relate_rows((views[e], views[d]), rows, rules)
            parts.append(_settle(events, (e, d), rows, (forward[e], backward[d])))
    return SeriesLinks(Links.joined(parts), forward, backward)


def _settle(
    events: Events, dates: tuple[int, int], rows: tuple[Ints, Ints], sides: tuple[Chances, Chances]
) -> Links:
    """Take the links of one comparison, and note for the others whether they were absent."""
    (e, d), (ahead, back) = dates, sides
    found = events.links
    i, j = rows[0][found.before], rows[1][found.after]
    links = Links(
        np.full(len(i), e, np.int64), i, np.full(len(j), d, np.int64), j,
        found.overlap_m2, found.iou, events.status_of(found.event_id),
        np.maximum(ahead.missed[i], back.missed[j]),
    )  # fmt: skip
    ahead.linked[i] = True
    back.linked[j] = True
    both = (events.columns["n_before"] > 0) & (events.columns["n_after"] > 0)
    for chances, k, event, other, word in (
        (ahead, rows[0], events.event_of_before, d, "removed"),
        (back, rows[1], events.event_of_after, e, "added"),
    ):
        alone = ~chances.linked[k]
        chances.doubtful[k[alone & both[event - 1]]] = True
        chances.judge(k[alone], events.status_of(event[alone]), other, word)
    return links

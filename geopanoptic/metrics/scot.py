"""SCOT: does every object keep one id over the dates, and are new objects found (SpaceNet 7).

The same figures as solaris `eval/scot.py`, from sparse candidates: an assignment per component
of the candidate graph, where solaris fills a matrix of all truth x all proposals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geopanoptic.matching import COUNT_FIRST, assign

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

SCOT_IOU = 0.25
SCOT_BETA = 2.0  # SpaceNet 7: the change score weighs beta^2 = 4 times less in the harmonic mean


@dataclass(frozen=True, slots=True)
class DateObjects:
    """The objects of one date and which of them overlap.

    `truth`, `pred` int64: the ids present, each once. `t`, `p` int64, `iou` float64 (n,): the
    pairs (truth id, prediction id) that share ground, each once.
    """

    truth: Ints
    pred: Ints
    t: Ints
    p: Ints
    iou: Floats

    def matches(self, threshold: float = SCOT_IOU) -> tuple[Ints, Ints]:
        """Return (truth ids, prediction ids) matched one to one, sorted by truth id.

        Over pairs with IoU > `threshold`, strictly: as many as possible, and among those the ones
        of highest IoU (solaris: the greatest sum of 100 + IoU).
        """
        near = np.flatnonzero(self.iou > threshold)
        near = near[np.lexsort((self.p[near], self.t[near]))]
        rows = near[assign(self.t[near], self.p[near], COUNT_FIRST + self.iou[near])]
        return self.t[rows], self.p[rows]


@dataclass(frozen=True, slots=True)
class Hits:
    """True positives, false positives and false negatives of some event; `f1` None without any."""

    tp: int
    fp: int
    fn: int

    @property
    def seen(self) -> bool:
        return self.tp + self.fp + self.fn > 0

    @property
    def f1(self) -> float | None:
        return self.tp / (self.tp + (self.fp + self.fn) / 2.0) if self.seen else None


@dataclass(frozen=True, slots=True)
class Scot:
    """The SCOT of one series (one area of interest).

    `dates`: hits of each date's matching. `mismatches`: matches of which one side was last matched
    to somebody else. `change`: hits of first appearances from the second date on. `removed`: the
    same of last appearances up to the last date but one, which SCOT does not score.
    """

    dates: tuple[Hits, ...]
    matched: tuple[tuple[Ints, Ints], ...]
    mismatches: int
    change: Hits
    removed: Hits

    @property
    def track(self) -> Hits:
        """Hits of tracking: a mismatch is a false positive and a false negative."""
        tp, fp, fn = (sum(getattr(d, k) for d in self.dates) for k in ("tp", "fp", "fn"))
        return Hits(tp - self.mismatches, fp + self.mismatches, fn + self.mismatches)

    @property
    def scot(self) -> float:
        """SCOT = (1 + beta^2) C T / (beta^2 C + T), beta 2.

        0 where no side has a new object (solaris), even when all else is perfect: see `undefined`.
        """
        change, track, b2 = self.change.f1 or 0.0, self.track.f1 or 0.0, SCOT_BETA**2
        below = b2 * change + track
        return (1 + b2) * (change * track) / below if below > 0 else 0.0

    @property
    def undefined(self) -> str | None:
        """Say why `scot` means nothing here, or None when it does."""
        return None if self.change.seen else "no new object"


def scot(dates: Sequence[DateObjects], threshold: float = SCOT_IOU) -> Scot:
    """Score one series of dates, in time order.

    Laws: renaming the ids of a side changes nothing; `removed` is the `change` of the series read
    backwards. The dates are the truth's: leave out those that only the prediction has.
    """
    matched = tuple(d.matches(threshold) for d in dates)
    hits = tuple(
        Hits(len(t), len(d.pred) - len(t), len(d.truth) - len(t))
        for d, (t, _) in zip(dates, matched, strict=True)
    )
    when = [np.full(len(t), k, np.int64) for k, (t, _) in enumerate(matched)]
    date, t, p = _joined(when), _joined([m[0] for m in matched]), _joined([m[1] for m in matched])
    return Scot(
        hits,
        matched,
        int((_other_partner(date, t, p) | _other_partner(date, p, t)).sum()),
        _appearances(dates, (date, t, p), backwards=False),
        _appearances(dates, (date, t, p), backwards=True),
    )


def _joined(parts: Sequence[Ints]) -> Ints:
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _other_partner(date: Ints, mine: Ints, other: Ints) -> Bools:
    """Tell of each match whether `mine` was matched to somebody else the last time."""
    order = np.lexsort((date, mine))
    m, o = mine[order], other[order]
    changed = np.zeros(len(mine), bool)
    changed[order[1:]] = (m[1:] == m[:-1]) & (o[1:] != o[:-1])
    return changed


def _appearances(
    dates: Sequence[DateObjects], matches: tuple[Ints, Ints, Ints], *, backwards: bool
) -> Hits:
    """Count the hits of first appearances after the first date (backwards: last ones before)."""
    skipped = len(dates) - 1 if backwards else 0
    truth = _turning_points([d.truth for d in dates], backwards)
    pred = _turning_points([d.pred for d in dates], backwards)
    date, t, p = matches
    later = date != skipped
    new_t = _looked_up(truth, t) == date
    new_p = _looked_up(pred, p) == date
    tp = int((later & new_t & new_p).sum())
    n_truth = int((truth[1] != skipped).sum())
    n_pred = int((pred[1] != skipped).sum())
    # Whatever is new and not matched to something new is wrong, matched or not.
    return Hits(tp, n_pred - tp, n_truth - tp)


def _turning_points(ids: Sequence[Ints], backwards: bool) -> tuple[Ints, Ints]:
    """Return (ids sorted, the number of the first date of each; backwards: the last)."""
    every = _joined(ids)
    when = np.repeat(np.arange(len(ids)), [len(i) for i in ids])
    if backwards:
        every, when = every[::-1], when[::-1]
    unique, at = np.unique(every, return_index=True)
    return unique, when[at]


def _looked_up(table: tuple[Ints, Ints], ids: Ints) -> Ints:
    return table[1][np.searchsorted(table[0], ids)]

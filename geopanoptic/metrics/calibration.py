"""Are scores probabilities? Reliability, expected calibration error, and a map that mends them.

The score of a segment is calibrated when, of the segments that score s, a share of s is right.
Right means: there is a truth segment of the class at IoU > 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geopanoptic.contingency import Contingency

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# (score of the model, calibrated score), both in 0..1: rising scores, calibrated not falling.
Knots = tuple[tuple[float, float], ...]

GUO_BINS = 15  # of the published figure


@dataclass(frozen=True, slots=True)
class Reliability:
    """Scores against what came true, bin by bin; empty bins are left out.

    `n` int64, segments in the bin; `score` float64, their mean score; `hit_rate` float64, the
    share of them that is right.
    """

    n: Ints
    score: Floats
    hit_rate: Floats

    @classmethod
    def of(cls, score: npt.ArrayLike, hit: npt.ArrayLike, bins: int = GUO_BINS) -> Reliability:
        """Sort segments with `score` (n,) in 0..1 and `hit` (n,) bool into bins of equal width.

        Raises ValueError when a score is outside 0..1 (NaN too) or the lengths differ.
        """
        scores, hits = _checked(score, hit)
        which = np.minimum((scores * bins).astype(np.int64), bins - 1)
        n = np.bincount(which, minlength=bins)
        there = n > 0
        total, right = (np.bincount(which, w, bins)[there] for w in (scores, hits))
        return cls(n[there], total / n[there], right / n[there])

    @classmethod
    def of_equal_counts(
        cls, score: npt.ArrayLike, hit: npt.ArrayLike, bins: int = GUO_BINS
    ) -> Reliability:
        """Sort the same into bins of equal count, by rising score; equal scores keep their order.

        Where most scores are alike, bins of equal width are some full and some nearly empty.
        Source: Nguyen & O'Connor 2015, "Posterior calibration and exploratory analysis for natural
        language processing models", section 3 (adaptive binning).
        """
        scores, hits = _checked(score, hit)
        order = np.argsort(scores, kind="stable")
        parts = [p for p in np.array_split(order, bins) if len(p)]
        return cls(
            np.array([len(p) for p in parts], np.int64),
            np.array([scores[p].mean() for p in parts]),
            np.array([hits[p].mean() for p in parts]),
        )

    @property
    def ece(self) -> float | None:
        """Expected calibration error: mean distance of score and hit rate; None without segments.

        Source: Guo et al. 2017, "On calibration of modern neural networks", equation 3.
        """
        if not len(self.n):
            return None
        return float(np.average(np.abs(self.score - self.hit_rate), weights=self.n))

    def to_json(self) -> dict[str, object]:
        """Return the bins and the error as plain values."""
        return {
            "ece": self.ece,
            "n": self.n.tolist(),
            "score": [round(v, 4) for v in self.score.tolist()],
            "hit_rate": [round(v, 4) for v in self.hit_rate.tolist()],
        }

    def svg(self, title: str, side_px: int = 320) -> str:
        """Draw the reliability diagram: hit rate over score, area of a dot = segments."""
        from html import escape

        edge = 44
        span = side_px - 2 * edge
        most = max(self.n.tolist(), default=1)

        def at(x: float, y: float) -> str:
            return f"{edge + x * span:.1f},{side_px - edge - y * span:.1f}"

        dots = []
        points = list(zip(self.score.tolist(), self.hit_rate.tolist(), strict=True))
        for (x, y), n in zip(points, self.n.tolist(), strict=True):
            cx, cy = at(x, y).split(",")
            radius = 2 + 9 * (n / most) ** 0.5
            dots.append(
                f'<circle cx="{cx}" cy="{cy}" r="{radius:.1f}" fill="#2b83ba" fill-opacity="0.6">'
                f"<title>{n} segments, score {x:.2f}, right {y:.2f}</title></circle>"
            )
        error = "no segments" if self.ece is None else f"error {self.ece:.3f}"
        middle, low = side_px / 2, side_px - 8
        return "\n".join([
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side_px} {side_px}" '
            f'width="{side_px}" height="{side_px}" font-family="sans-serif" font-size="12">',
            f'<rect x="{edge}" y="{edge}" width="{span}" height="{span}" fill="none" '
            'stroke="#888"/>',
            f'<polyline points="{at(0, 0)} {at(1, 1)}" stroke="#888" stroke-dasharray="4"/>',
            f'<polyline points="{" ".join(at(x, y) for x, y in points)}" fill="none" '
            'stroke="#2b83ba" stroke-width="2"/>',
            *dots,
            f'<text x="{middle}" y="24" text-anchor="middle">{escape(title)}: {error}, '
            f"{int(self.n.sum())} segments</text>",
            f'<text x="{middle}" y="{low}" text-anchor="middle">score</text>',
            f'<text x="14" y="{middle}" text-anchor="middle" '
            f'transform="rotate(-90 14 {middle})">share that is right</text>',
            f'<text x="{edge}" y="{side_px - 28}" text-anchor="middle">0</text>',
            f'<text x="{edge + span}" y="{side_px - 28}" text-anchor="middle">1</text>',
            "</svg>",
        ])  # fmt: skip


def expected_calibration_error(
    score: npt.ArrayLike, hit: npt.ArrayLike, bins: int = GUO_BINS
) -> float | None:
    """Return the mean distance between scores and hit rates over bins of equal width (Guo 2017)."""
    return Reliability.of(score, hit, bins).ece


def ece_of_truth(
    score: npt.ArrayLike, bins: int = GUO_BINS, draws: int = 200, seed: int = 0
) -> float | None:
    """Return the error that these scores would have on average if they were true probabilities.

    Of few segments a bin's hit rate strays from any score, so the measured error never reaches 0:
    hits are drawn `draws` times with the probabilities `score` (n,). An error near this one tells
    nothing against the scores. None without segments.
    """
    scores, _ = _checked(score, np.zeros(np.shape(score)))
    if not len(scores):
        return None
    rng = np.random.default_rng(seed)
    found = (Reliability.of(scores, rng.random(len(scores)) < scores, bins) for _ in range(draws))
    return float(np.mean([r.ece for r in found]))


def segment_hits(
    truth: npt.NDArray[np.integer], pred: npt.NDArray[np.integer], threshold: float = 0.5
) -> tuple[Ints, Bools]:
    """Tell which predicted segments are right: a truth segment lies there at IoU > `threshold`.

    `truth`, `pred`: id rasters (rows, cols) of one class, 0 = none. Returns the ids of `pred`,
    rising, int64 (n,), and bool (n,). The threshold is at least 0.5, where pairs are unique.
    """
    assert threshold >= 0.5, "below 0.5 several segments may claim the same truth"
    ids, area = np.unique(pred[pred > 0], return_counts=True)
    truth_ids, truth_area = np.unique(truth[truth > 0], return_counts=True)
    table = Contingency.of(truth, pred)
    both = (table.a > 0) & (table.b > 0)
    at = np.searchsorted(ids, table.b[both])
    inter = table.pixels[both]
    union = area[at] + truth_area[np.searchsorted(truth_ids, table.a[both])] - inter
    hit = np.zeros(len(ids), bool)
    hit[at[inter > threshold * union]] = True
    return ids.astype(np.int64), hit


def fit_calibration(score: npt.ArrayLike, hit: npt.ArrayLike, least: int = 25) -> Knots:
    """Find the rising map from scores to hit rates: isotonic regression on bins of equal count.

    `score` (n,) in 0..1 and `hit` (n,) bool of the segments of one class on a validation part;
    `least` segments make a bin, so that no knot rests on a handful. Bins that fall are pooled
    (pool adjacent violators, Ayer et al. 1955), each pool is one knot at its mean score, and the
    ends go on along the last line, clipped to 0..1: so segments keep their order.

    Returns no knots (scores stay as they are) for fewer than 2 x `least` segments.
    Law: of two segments the one with the higher score never gets the lower calibrated one.
    """
    scores, hits = _checked(score, hit)
    if len(scores) < 2 * least:
        return ()
    order = np.argsort(scores, kind="stable")
    pools: list[list[float]] = []  # sum of scores, sum of hits, n
    for part in np.array_split(order, min(len(scores) // least, 20)):
        pools.append([float(scores[part].sum()), float(hits[part].sum()), float(len(part))])
        while len(pools) > 1 and _rate(pools[-1]) <= _rate(pools[-2]):
            last = pools.pop()
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
        while len(pools) > 1 and pools[-1][0] / pools[-1][2] <= pools[-2][0] / pools[-2][2]:
            last = pools.pop()  # bins of one and the same score
            pools[-1] = [a + b for a, b in zip(pools[-1], last, strict=True)]
    inner = [(s / n, h / n) for s, h, n in pools]
    first, last_knot = _ends(inner)
    knots = [first, *(k for k in inner if 0 < k[0] < 1), last_knot]
    return tuple((round(x, 9), round(y, 9)) for x, y in knots)


def apply_calibration(knots: Sequence[tuple[float, float]], score: npt.ArrayLike) -> Floats:
    """Return calibrated scores, piecewise linear between the knots; NaN stays, no knots: as is."""
    scores = np.asarray(score, np.float64)
    if not knots:
        return scores
    x, y = np.array(knots, np.float64).T
    return np.asarray(np.where(np.isnan(scores), np.nan, np.interp(scores, x, y)), np.float64)


def _rate(pool: list[float]) -> float:
    return pool[1] / pool[2]


def _ends(inner: list[tuple[float, float]]) -> tuple[tuple[float, float], tuple[float, float]]:
    """Return the knots at score 0 and 1 that go on along the first and the last line."""
    if len(inner) == 1:
        x, y = inner[0]
        return (0.0, 0.0 if x > 0 else y), (1.0, 1.0 if x < 1 else y)
    (x0, y0), (x1, y1) = inner[:2]
    low = y0 - x0 * (y1 - y0) / (x1 - x0)
    (x0, y0), (x1, y1) = inner[-2:]
    high = y1 + (1 - x1) * (y1 - y0) / (x1 - x0)
    return (0.0, min(max(low, 0.0), inner[0][1])), (1.0, max(min(high, 1.0), inner[-1][1]))


def _checked(score: npt.ArrayLike, hit: npt.ArrayLike) -> tuple[Floats, Floats]:
    scores, hits = np.asarray(score, np.float64), np.asarray(hit, np.float64)
    if scores.shape != hits.shape or scores.ndim != 1:
        raise ValueError(f"scores and hits have shapes {scores.shape} and {hits.shape}")
    if not ((scores >= 0) & (scores <= 1)).all():
        raise ValueError("a score is outside 0..1 or NaN; leave out segments without a score")
    return scores, hits

"""How sure a decoded thing is: a logistic model on what its pixels and its outline say.

The mean probability of a segment says whether there is a building; it says little about whether
that one segment is that one building. A segment that stops in the middle of pixels which are
surely building is more often a part of a roof, or a roof and a half, than one that ends where the
probability falls. So the mean over the outline's pixels is read beside the mean over all:

    score = 1 / (1 + exp(-(bias + mean * logit(m) + outline * logit(o))))

with the coefficients of the card (`ModelCard.score_model`), fitted to segments whose truth is
known (`fit_score_model`). Both means are taken within one view of the segment; a segment that is
joined from the views of several tiles gets the mean of their scores, weighted by area.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
ScoreModel = Mapping[str, float]

SCORE_KEYS = ("bias", "mean", "outline")
CLIP = 0.01  # probabilities are read as CLIP to 1 - CLIP: one pixel of 1.0 proves nothing


def plausible(model: ScoreModel) -> bool:
    """Tell whether a card's score model has the three coefficients, and rises with the mean."""
    return set(model) == set(SCORE_KEYS) and model["mean"] >= 0


def logit(probability: npt.ArrayLike) -> Floats:
    """Return log-odds of probabilities, which are first brought to CLIP..1 - CLIP."""
    p = np.clip(np.asarray(probability, np.float64), CLIP, 1 - CLIP)
    return np.asarray(np.log(p / (1 - p)), np.float64)


def modelled(coefficients: npt.ArrayLike, mean: npt.ArrayLike, outline: npt.ArrayLike) -> Floats:
    """Return the scores of segments from their means over all pixels and over the outline's.

    `coefficients` (..., 3) in the order of SCORE_KEYS, beside `mean` and `outline` (...,) in 0..1.
    Laws: between 0 and 1; not falling in `mean`; monotone in `outline`.
    """
    bias, of_mean, of_outline = np.moveaxis(np.asarray(coefficients, np.float64), -1, 0)
    odds = bias + of_mean * logit(mean) + of_outline * logit(outline)
    return np.asarray(0.5 * (1 + np.tanh(odds / 2)), np.float64)  # the logistic, without overflow


def fit_score_model(
    mean: npt.ArrayLike, outline: npt.ArrayLike, hit: npt.ArrayLike, ridge: float = 1.0
) -> dict[str, float]:
    """Fit the coefficients to segments: `mean`, `outline` (n,) in 0..1, `hit` (n,) bool.

    Logistic regression by Newton's steps; `ridge` holds the two slopes (of standardised log-odds)
    down, by as much as `ridge` doubtful segments would. A slope of the mean that comes out
    negative is set to 0 and the rest fitted again. Raises ValueError without hits or misses.
    """
    right = np.asarray(hit, bool).astype(np.float64)
    if right.min(initial=1) == right.max(initial=0):
        raise ValueError(f"of {len(right)} segments all or none are right: nothing to fit")
    x = np.stack([logit(mean), logit(outline)], axis=1)
    centre, spread = x.mean(0), x.std(0)
    used = spread > 1e-9
    for _ in range(2):
        slope = np.zeros(2)
        scaled = (x[:, used] - centre[used]) / spread[used]
        found = _newton(np.column_stack([np.ones(len(x)), scaled]), right, ridge)
        slope[used] = found[1:] / spread[used]
        if slope[0] >= 0:
            break
        used[0] = False
    values = (float(found[0] - slope @ centre), float(slope[0]), float(slope[1]))
    return {k: round(v, 6) for k, v in zip(SCORE_KEYS, values, strict=True)}


def _newton(x: Floats, y: Floats, ridge: float) -> Floats:
    """Return the coefficients that make y (0 or 1) likeliest; the first column is not held down."""
    held = np.full(x.shape[1], ridge)
    held[0] = 0
    w = np.zeros(x.shape[1])
    w[0] = np.log(y.mean() / (1 - y.mean()))
    for _ in range(50):
        p = 0.5 * (1 + np.tanh(x @ w / 2))
        slope = x.T @ (p - y) + held * w
        bend = (x * (p * (1 - p))[:, None]).T @ x + np.diag(held)
        step = np.linalg.solve(bend + 1e-9 * np.eye(len(w)), slope)
        w = w - step * min(1.0, 2.0 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return w

"""Area and accuracy from a stratified sample of interpreted pixels, with standard errors.

Olofsson et al. 2014 (Remote Sensing of Environment 148, 42-57) when the strata are the map's
classes, Stehman 2014 (International Journal of Remote Sensing 35, 4923-4939) when they are
something else. Both are one stratified estimator: with strata = classes Stehman's ratios become
Olofsson's equations 5-11 but for the finite population correction, which Olofsson leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import ConfigError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

Z95 = 1.959963984540054  # 97.5 percentile of the standard normal distribution


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """Interpreted units, counted by stratum, map class and reference class.

    `counts` int64 (strata, classes, classes) as [stratum, map, reference]; `pixels` (strata,) is
    how many units each stratum has, `area` (strata,) its size in any unit of area. `own_class`
    (strata,): the map class that a stratum consists of, when strata are classes; else None.
    """

    counts: Ints
    pixels: Ints
    area: Floats
    own_class: Ints | None = None

    @property
    def sampled(self) -> npt.NDArray[np.bool_]:
        """Tell which strata have at least one unit."""
        return self.counts.sum(axis=(1, 2)) > 0

    @property
    def alone(self) -> npt.NDArray[np.bool_]:
        """Tell which strata have one unit only, and more pixels than that: no variance there."""
        return (self.counts.sum(axis=(1, 2)) == 1) & (self.pixels > 1)


@dataclass(frozen=True, slots=True)
class Estimates:
    """Estimated values and their standard errors, NaN where undefined."""

    value: Floats
    se: Floats

    @property
    def half_width(self) -> Floats:
        """Half of the 95 % confidence interval."""
        return Z95 * self.se


@dataclass(frozen=True, slots=True)
class AreaEstimate:
    """What a sample says of a map.

    `overall` (1,) accuracy; `users`, `producers` (classes,) accuracies; `area` (classes,) the share
    of each reference class in the sampled strata; `matrix` (classes, classes) the error matrix as
    shares of the area, rows map, columns reference.
    """

    overall: Estimates
    users: Estimates
    producers: Estimates
    area: Estimates
    matrix: Floats


def estimate_area(sample: SampleCounts) -> AreaEstimate:
    """Estimate accuracies and area shares from a stratified random sample.

    Strata without a unit are left out of the total. A stratum with one unit has no variance, so
    every standard error it takes part in is NaN. Laws: `matrix` sums to 1, its columns to `area`;
    a map without errors has `area` = the strata's shares and standard errors of 0.
    Source: Stehman 2014 equations 2, 12-16, 23-28; Olofsson 2014 equations 5-11.
    """
    kept = sample.sampled
    n = sample.counts.sum(axis=(1, 2))[kept]
    if not kept.any():
        raise ConfigError("no stratum has an interpreted unit: label some, then estimate")
    share = sample.counts[kept] / n[:, None, None]  # of the units of the stratum
    weight = sample.area[kept] / sample.area[kept].sum()
    own = None if sample.own_class is None else sample.own_class[kept]
    free = 1.0 - n / sample.pixels[kept] if own is None else np.ones(len(n))
    with np.errstate(divide="ignore"):
        scale = weight**2 * free / (n - 1.0)
    scale = np.where(sample.alone[kept], np.nan, np.where(n == 1, 0.0, scale))

    right = np.diagonal(share, axis1=1, axis2=2)  # (strata, classes): map = reference = k
    by_map, by_reference = share.sum(axis=2), share.sum(axis=1)
    overall = right.sum(axis=1)
    users_scale = scale[:, None] * np.ones(share.shape[1])
    if own is not None:  # a stratum of another class holds nothing of this one, however few units
        users_scale = np.where(own[:, None] == np.arange(share.shape[1]), users_scale, 0.0)
    return AreaEstimate(
        overall=Estimates(
            np.atleast_1d(weight @ overall),
            np.atleast_1d(_root(_weighted(scale, overall * (1 - overall)))),
        ),
        users=_ratio(right, by_map, weight, users_scale),
        producers=_ratio(right, by_reference, weight, scale[:, None]),
        area=Estimates(
            weight @ by_reference,
            _root(_weighted(scale[:, None], by_reference * (1 - by_reference))),
        ),
        matrix=np.tensordot(weight, share, axes=1),
    )


def _ratio(y: Floats, x: Floats, weight: Floats, scale: Floats) -> Estimates:
    """Estimate sum y / sum x of indicators with y = 1 only where x = 1 (Stehman eq. 27, 28)."""
    total = weight @ x
    value = np.divide(weight @ y, total, out=np.full(len(total), np.nan), where=total > 0)
    r = np.nan_to_num(value)
    spread = y * (1 - y) + r**2 * x * (1 - x) - 2 * r * y * (1 - x)
    variance = _weighted(scale, spread)
    se = np.divide(_root(variance), total, out=np.full(len(total), np.nan), where=total > 0)
    return Estimates(value, se)


def _weighted(scale: Floats, spread: Floats) -> Floats:
    return np.asarray((scale * spread).sum(axis=0))


def _root(variance: Floats) -> Floats:
    # differences of equal numbers may come out as -1e-20
    return np.sqrt(np.where(variance < 0, 0.0, variance))


def sample_size(share: npt.ArrayLike, accuracy: npt.ArrayLike, target_se: float) -> int:
    """Return the units needed for a standard error of overall accuracy of `target_se`.

    `share` (strata,) sums to 1, `accuracy` (strata,) is the expected user's accuracy.
    n = (sum W sqrt(U (1 - U)) / SE)^2, rounded up: Olofsson 2014 equation 13 (Cochran 1977,
    eq. 5.25). Raises ConfigError for an accuracy outside 0..1 or a target that is not positive.
    """
    w, u = np.asarray(share, float), np.asarray(accuracy, float)
    if not target_se > 0:
        raise ConfigError(f"--se {target_se} must be more than 0, like 0.01")
    if ((u < 0) | (u > 1)).any():
        wrong = u[(u < 0) | (u > 1)][0]
        raise ConfigError(f"an expected accuracy of {wrong:g} is not between 0 and 1")
    needed = float(w @ np.sqrt(u * (1 - u))) / target_se
    return int(np.ceil(round(needed**2, 9)))


def allocate(total: int, share: npt.ArrayLike, least: int, pixels: npt.ArrayLike) -> Ints:
    """Divide `total` units: every stratum at least `least`, the rest in proportion to `share`.

    Olofsson 2014 section 5.1.3: rare strata get a fixed number, the others share what is left by
    size. No stratum gets more than its `pixels`. Laws: the sum is max(total, what the minima need),
    as far as there are pixels; a larger stratum never gets fewer units than a smaller one with as
    many pixels to give.
    """
    w, room = np.asarray(share, float), np.asarray(pixels, np.int64)
    low = np.minimum(least, room)
    total = min(max(total, int(low.sum())), int(room.sum()))
    # The level t with sum clip(t w, low, room) = total, by bisection: the sum grows with t.
    below, above = 0.0, 1.0
    while np.clip(above * w, low, room).sum() < total and above < 1e18:
        above *= 2
    for _ in range(200):
        middle = (below + above) / 2
        enough = np.clip(middle * w, low, room).sum() >= total
        below, above = (below, middle) if enough else (middle, above)
    wanted = np.clip(above * w, low, room)
    units = np.floor(wanted + 1e-9).astype(np.int64)
    order = np.lexsort((-w, -(wanted - units)))  # largest remainder first, then the larger stratum
    for stratum in order[units[order] < room[order]][: max(total - int(units.sum()), 0)]:
        units[stratum] += 1
    return units

"""Does the after map lie where the before map lies? The offset, and whether to trust it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.change.windows import Shifts
from geopanoptic.errors import ConfigError
from geopanoptic.georef import GeoRef, metre_frame

Floats = npt.NDArray[np.float64]
Offset = tuple[float, float]

LEAST_OFFSET_PX = 0.25
LEAST_INLIERS = 0.3
MOST_MAD_PX = 1.0
LEAST_WINDOWS = 3
LEAST_OBJECTS = 8  # matched pairs that may overrule windows
_MAD_FLOOR_PX = 0.1  # windows that agree to the step of the measurement must not reject each other


@dataclass(frozen=True, slots=True)
class RegisterChoice:
    """`--register`: 'auto', 'none', or metres (after minus before; east, north)."""

    mode: str = "auto"
    given_m: Offset = (0.0, 0.0)

    @classmethod
    def read(cls, text: str) -> RegisterChoice:
        """Read 'auto', 'none' or 'DX,DY'; ConfigError otherwise."""
        if text in ("auto", "none"):
            return cls(text)
        try:
            dx, dy = (float(part) for part in text.split(","))
        except ValueError as why:
            raise ConfigError(
                f"--register {text}: use auto, none, or the metres that the after map lies too far "
                f"east and north, like 1.5,-0.8"
            ) from why
        if not (np.isfinite(dx) and np.isfinite(dy)):
            raise ConfigError(f"--register {text}: the metres must be finite")
        return cls("given", (dx, dy))


@dataclass(frozen=True, slots=True)
class Estimate:
    """What the windows or the objects say: after minus before, in map units of the grid.

    `n` measurements, of which `inliers` agree; `mad_px`: their spread; `trend_px`: how much the
    shift changes across the scene along a fitted plane, None with too few windows. `error_px`:
    the standard error of the offset.
    """

    offset: Offset
    n: int
    inliers: int
    mad_px: float
    trend_px: float | None = None
    error_px: float = 0.0

    @property
    def inlier_share(self) -> float:
        return self.inliers / self.n if self.n else 0.0

    @property
    def agrees(self) -> bool:
        """Tell whether the measurements agree well enough to be believed."""
        return self.inlier_share >= LEAST_INLIERS and self.mad_px <= MOST_MAD_PX


@dataclass(frozen=True, slots=True)
class Registration:
    """The offset of the after map, how it was found and what was done about it.

    `applied`: what the after map is moved back by, map units of the grid; (0, 0) when nothing is.
    `found`: the best estimate, None when there is none. `coarse` by windows, `fine` by objects.
    """

    mode: str
    applied: Offset = (0.0, 0.0)
    found: Offset | None = None
    trusted: bool = False
    coarse: Estimate | None = None
    fine: Estimate | None = None
    tried: int = 0
    beyond: int = 0
    notes: tuple[str, ...] = ()

    def noted(self, *more: str) -> Registration:
        return replace(self, notes=(*self.notes, *more))


@dataclass(frozen=True, slots=True)
class Scale:
    """How map units, pixels and metres of a grid relate at its centre."""

    pixel_units: float
    metres: tuple[float, float]

    @classmethod
    def of(cls, grid: GeoRef) -> Scale:
        """Measure a grid; without a CRS a map unit counts as a metre."""
        units = float(np.sqrt(abs(grid.transform.determinant)))
        if not grid.has_metres:
            return cls(units, (1.0, 1.0))
        x, y = grid.xy(grid.shape[0] / 2, grid.shape[1] / 2)
        along = np.linalg.norm(metre_frame(grid.crs or "", x, y), axis=0)
        return cls(units, (float(along[0]), float(along[1])))

    @property
    def pixel_m(self) -> float:
        return self.pixel_units * float(np.sqrt(self.metres[0] * self.metres[1]))

    def to_m(self, offset: Offset) -> Offset:
        """Return an offset along the map's axes in true metres."""
        return offset[0] * self.metres[0], offset[1] * self.metres[1]

    def from_m(self, offset_m: Offset) -> Offset:
        """Return metres along the map's axes as map units."""
        return offset_m[0] / self.metres[0], offset_m[1] / self.metres[1]

    def length_px(self, offset: Offset) -> float:
        """Return the length of an offset in pixels."""
        return float(np.hypot(*self.to_m(offset))) / self.pixel_m


def default_max_shift_m(scale: Scale) -> float:
    """10 m, or two pixels where they are larger than 5 m."""
    return max(10.0, 2 * scale.pixel_m)


def estimate_shift(shifts: Shifts, grid: GeoRef, max_shift_px: float) -> Estimate | None:
    """Return the windows' common shift: median, reject beyond 3 MAD, mean of the inliers.

    Windows beyond `max_shift_px` count as outliers. None when none is within.
    """
    near = shifts.take(shifts.length <= max_shift_px)
    if not len(near):
        return None
    inlier = np.ones(len(near), bool)
    spread = []
    for d in (near.d_row, near.d_col):
        off = np.abs(d - np.median(d))
        mad = float(np.median(off))
        spread.append(mad)
        inlier &= off <= 3 * max(mad, _MAD_FLOOR_PX)
    d_row, d_col = float(near.d_row[inlier].mean()), float(near.d_col[inlier].mean())
    return Estimate(
        _to_map(d_row, d_col, grid),
        len(shifts),
        int(inlier.sum()),
        max(spread),
        _trend_px(near, grid),
    )


def _to_map(d_row: float, d_col: float, grid: GeoRef) -> Offset:
    t = grid.transform
    return t.a * d_col + t.b * d_row, t.d * d_col + t.e * d_row


def _trend_px(shifts: Shifts, grid: GeoRef) -> float | None:
    """Return by how much a plane fitted through the shifts changes across the scene, in pixels.

    None unless there are 9 windows and the plane halves the spread: then it is no noise.
    """
    if len(shifts) < 9:
        return None
    height, width = grid.shape
    basis = np.stack([np.ones(len(shifts)), shifts.row / height, shifts.col / width], axis=1)
    across = 0.0
    corners = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 1, 1]], float)
    for d in (shifts.d_row, shifts.d_col):
        keep = np.abs(d - np.median(d)) <= 6 * max(float(np.median(np.abs(d - np.median(d)))), 0.5)
        if keep.sum() < 9:
            return None
        plane, *_ = np.linalg.lstsq(basis[keep], d[keep], rcond=None)
        left = d[keep] - basis[keep] @ plane
        flat = d[keep] - np.median(d[keep])
        if np.median(np.abs(left)) <= 0.5 * np.median(np.abs(flat)):
            across = max(across, float(np.ptp(corners @ plane)))
    return across or None


def decide(
    choice: RegisterChoice,
    coarse: Estimate | None,
    fine: Estimate | None,
    counts: tuple[int, int],
    grid: GeoRef,
    *,
    like_pixels: bool = True,
) -> Registration:
    """Put the two steps together and say whether the offset is applied.

    `fine`: the whole offset by objects, looked for around the coarse one where that agreed;
    `counts` = (windows measured, windows beyond the largest shift allowed). With `like_pixels`
    objects that agree decide; between maps of other pixel sizes, whose outlines are rounded in
    different ways, the windows do, because they see the edges of land cover too.
    """
    scale = Scale.of(grid)
    coarse_good = coarse is not None and coarse.agrees and coarse.inliers >= LEAST_WINDOWS
    fine_good = fine is not None and fine.agrees and fine.inliers >= LEAST_OBJECTS
    found = coarse.offset if coarse is not None else None
    if fine is not None and fine_good and (like_pixels or not coarse_good):
        found = fine.offset
    elif (
        fine is not None and coarse is not None and coarse_good and like_pixels
        and fine.agrees and fine.n >= 3
    ):  # fmt: skip
        # a few pairs refine what the windows have found, if they say nearly the same
        apart = fine.offset[0] - coarse.offset[0], fine.offset[1] - coarse.offset[1]
        found = fine.offset if scale.length_px(apart) <= 1.0 else found
    elif fine is not None and coarse is None:
        found = fine.offset  # reported, not trusted
    trusted = found is not None and (coarse_good or fine_good)
    made = Registration(choice.mode, (0.0, 0.0), found, trusted, coarse, fine, *counts)
    return _applied(made, choice, scale)


def _applied(made: Registration, choice: RegisterChoice, scale: Scale) -> Registration:
    found, notes = made.found, []
    if choice.mode == "given":
        made = replace(made, applied=scale.from_m(choice.given_m))
    elif found is None:
        windows = (
            f"{made.beyond} of {made.tried} windows point beyond the largest shift allowed"
            if made.tried
            else "no window has enough edges at both dates"
        )
        notes.append(
            f"the offset between the maps could not be measured ({windows}, and no object is there "
            f"at both); compare them by eye, or give it with --register DX,DY"
        )
    else:
        error_px = made.fine.error_px if made.fine and found == made.fine.offset else 0.0
        large = scale.length_px(found) > max(LEAST_OFFSET_PX, 2 * error_px)
        x, y = scale.to_m(found)
        what = f"({x:+.2f}, {y:+.2f}) m east and north"
        if made.trusted and large and choice.mode == "auto":
            made = replace(made, applied=found)
        elif made.trusted and large:
            notes.append(
                f"the after map lies {what} of the before map and was not moved (--register none): "
                f"outlines that seem to have moved or changed may be that offset"
            )
        elif large:
            notes.append(
                f"the maps may lie {what} apart, but too few windows or objects agree to trust it "
                f"({_doubt(made)}); nothing was moved"
            )
    if made.beyond > max(LEAST_WINDOWS, made.tried // 2):
        notes.append(
            f"{made.beyond} of {made.tried} windows point to a shift beyond --max-shift; if the "
            f"maps lie that far apart, raise it"
        )
    if made.coarse is not None and (made.coarse.trend_px or 0.0) > 1.0:
        notes.append(
            f"the shift changes by {made.coarse.trend_px:.1f} px across the scene (rotation, scale "
            f"or relief), but only one translation is corrected; orthorectify or warp one map first"
        )
    return made.noted(*notes)


def _doubt(made: Registration) -> str:
    e = made.coarse or made.fine
    assert e is not None
    return f"{e.inliers} of {e.n} agree, spread {e.mad_px:.2f} px"


def registration_json(made: Registration, grid: GeoRef, max_shift_m: float) -> dict[str, Any]:
    """Return what the report says about the registration; offsets are after minus before."""
    scale = Scale.of(grid)

    def both(offset: Offset | None) -> dict[str, Any]:
        if offset is None:
            return {"m": None, "map_units": None, "px": None}
        m = scale.to_m(offset)
        return {
            "m": [round(v, 4) for v in m],
            "map_units": list(offset),
            "px": round(scale.length_px(offset), 4),
        }

    def step(e: Estimate | None) -> dict[str, Any] | None:
        if e is None:
            return None
        return {
            "offset_m": [round(v, 4) for v in scale.to_m(e.offset)],
            "n": e.n,
            "inliers": e.inliers,
            "inlier_share": round(e.inlier_share, 4),
            "mad_px": round(e.mad_px, 4),
            "trend_px": None if e.trend_px is None else round(e.trend_px, 3),
        }

    return {
        "mode": made.mode,
        "offset_m": both(made.found)["m"],
        "found": both(made.found),
        "applied": both(made.applied),
        "is_applied": made.applied != (0.0, 0.0),
        "trusted": made.trusted,
        "windows": made.tried,
        "windows_beyond_max_shift": made.beyond,
        "max_shift_m": max_shift_m,
        "coarse": step(made.coarse),
        "fine": step(made.fine),
    }

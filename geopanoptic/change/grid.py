"""The grid on which two maps are compared: one map's pixels, cut to what both cover."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine

from geopanoptic.change.lattice import same_crs, transformed
from geopanoptic.errors import ConfigError, SceneError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window

_PER_SIDE = 33  # points along each side of a footprint: sides are curved in another CRS
_ROUNDING_PX = 1e-6
_EXPLICIT = re.compile(r"(?P<crs>EPSG:\d+)\+(?P<size>[0-9.eE+-]+)", re.IGNORECASE)
_MOST_PIXELS = 10**12


@dataclass(frozen=True, slots=True)
class GridChoice:
    """`--grid`: 'before', 'after', 'finest', or a CRS and a pixel size in its units."""

    name: str = "before"
    crs: str | None = None
    size: float = 0.0

    @classmethod
    def read(cls, text: str) -> GridChoice:
        """Read 'before', 'after', 'finest' or 'EPSG:32631+0.5'; ConfigError otherwise."""
        if text in ("before", "after", "finest"):
            return cls(text)
        found = _EXPLICIT.fullmatch(text.strip())
        try:
            size = float(found["size"]) if found else 0.0
        except ValueError:
            size = 0.0
        if found is None or not size > 0 or not np.isfinite(size):
            raise ConfigError(
                f"--grid {text}: use before, after, finest, or a CRS and a pixel size in its units "
                f"like EPSG:32631+0.5"
            )
        return cls("explicit", found["crs"].upper(), size)


@dataclass(frozen=True)
class CommonGrid:
    """The pixels on which two maps are compared, and the exact outline of the ground they share.

    `beyond_before`, `beyond_after`: the share of either map's ground that lies outside of it.
    """

    grid: GeoRef
    footprint: Any
    beyond_before: float = 0.0
    beyond_after: float = 0.0


def common_grid(
    before: GeoRef,
    after: GeoRef,
    choice: GridChoice,
    offset: tuple[float, float] = (0.0, 0.0),
) -> CommonGrid:
    """Return the grid of the comparison: the chosen pixels, cut to the ground both maps cover.

    `offset`: where the after map lies too far, in map units of the chosen grid; it is moved back.
    Raises SceneError, with both extents in longitude and latitude, when they do not overlap.
    """
    base = _north_up(_base(before, after, choice))
    a, b = _footprint(before, base), _footprint(after, base) - np.asarray(offset)
    import shapely

    # a footprint bent at the pole or antimeridian is still a set of points with bounds
    polygons = [shapely.make_valid(shapely.Polygon(side)) for side in (a, b)]
    common = shapely.intersection(*polygons)
    if common.is_empty or common.area == 0:
        raise no_overlap(before, after)
    x0, y0, x1, y1 = common.bounds
    row, col = base.rowcol(np.array([x0, x0, x1, x1]), np.array([y0, y1, y0, y1]))
    window = Window.from_bounds(
        int(np.floor(row.min() + _ROUNDING_PX)),
        int(np.floor(col.min() + _ROUNDING_PX)),
        int(np.ceil(row.max() - _ROUNDING_PX)),
        int(np.ceil(col.max() - _ROUNDING_PX)),
    )
    if choice.name != "explicit":
        window = window.clipped(base.shape)
    if window.is_empty:
        raise no_overlap(before, after)
    if window.area_px > _MOST_PIXELS:
        raise ConfigError(
            f"--grid: {window.height} x {window.width} pixels are too many; use larger ones"
        )
    beyond = [max(0.0, 1 - common.area / p.area) if p.area > 0 else 0.0 for p in polygons]
    beyond = [b if b > 1e-9 else 0.0 for b in beyond]
    return CommonGrid(base.crop(window), common, beyond[0], beyond[1])


def _base(before: GeoRef, after: GeoRef, choice: GridChoice) -> GeoRef:
    if choice.name == "after":
        return after
    if choice.name == "finest":
        sizes = before.gsd_m or _plain_size(before), after.gsd_m or _plain_size(after)
        return after if sizes[1] < sizes[0] * (1 - 1e-9) else before
    if choice.crs is None:
        return before
    import pyproj

    try:
        crs = pyproj.CRS.from_user_input(choice.crs)
    except pyproj.exceptions.CRSError as why:
        raise ConfigError(f"--grid: there is no coordinate reference system {choice.crs}") from why
    if before.crs is None:
        raise SceneError(
            f"--grid {choice.crs} needs maps with a coordinate reference system; assign theirs "
            f"(gdal_edit.py -a_srs EPSG:XXXX FILE)"
        )
    size = choice.size
    return GeoRef(crs.to_wkt(), Affine(size, 0.0, 0.0, 0.0, -size, 0.0), (1, 1))


def _north_up(base: GeoRef) -> GeoRef:
    """Return the same pixels numbered from the north-west; SceneError for a rotated grid."""
    if base.is_rotated:
        raise SceneError(
            "the grid of the comparison would be rotated, which few programs read; choose a "
            "north-up one with --grid EPSG:XXXX+SIZE, or of the other map"
        )
    t, (h, w) = base.transform, base.shape
    back = Affine.translation(w if t.a < 0 else 0, h if t.e > 0 else 0)
    mirror = Affine.scale(-1 if t.a < 0 else 1, -1 if t.e > 0 else 1)
    return GeoRef(base.crs, t @ back @ mirror, base.shape)


def _plain_size(georef: GeoRef) -> float:
    return float(np.sqrt(abs(georef.transform.determinant)))


def _footprint(georef: GeoRef, base: GeoRef) -> npt.NDArray[np.float64]:
    """Return the outline of a grid in the CRS of another, shape (points, 2)."""
    h, w = georef.shape
    along = np.linspace(0.0, 1.0, _PER_SIDE)[:-1]
    ends = [(0, 0), (0, w), (h, w), (h, 0), (0, 0)]
    row = np.concatenate([a[0] + (b[0] - a[0]) * along for a, b in pairwise(ends)])
    col = np.concatenate([a[1] + (b[1] - a[1]) * along for a, b in pairwise(ends)])
    x, y = georef.xy(row, col)
    if not same_crs(georef, base):
        if (georef.crs is None) != (base.crs is None):
            raise SceneError(
                "one map has a coordinate reference system and the other has none, so nobody can "
                "say where they overlap; assign it (gdal_edit.py -a_srs EPSG:XXXX FILE)"
            )
        x, y = transformed(georef, base, x, y)
    points = np.stack([x, y], axis=1)
    good = points[np.isfinite(points).all(axis=1)]
    if len(good) < 3:
        raise SceneError(
            "a map cannot be brought to the other's coordinate reference system: it lies where "
            "that is not defined; choose another with --grid EPSG:XXXX+SIZE"
        )
    return good


def extent_text(georef: GeoRef) -> str:
    """Say in words what ground a grid covers: longitude and latitude, map units without a CRS."""
    if not georef.has_metres:
        x0, y0, x1, y1 = georef.bounds
        return f"x {x0:.6g} .. {x1:.6g}, y {y0:.6g} .. {y1:.6g} (no coordinate reference system)"
    h, w = georef.shape
    lon, lat = georef.lonlat(*georef.xy([0, 0, h, h], [0, w, 0, w]))
    return (
        f"longitude {lon.min():.5f} .. {lon.max():.5f}, latitude {lat.min():.5f} .. {lat.max():.5f}"
    )


def no_overlap(before: GeoRef, after: GeoRef) -> SceneError:
    """Return the error that names both extents."""
    return SceneError(
        f"the maps do not overlap: before covers {extent_text(before)}; after covers "
        f"{extent_text(after)}; check the files and their coordinate reference systems"
    )

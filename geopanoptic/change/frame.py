"""A plane in which distances are true metres, for objects in any CRS."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from geopanoptic.change.objects import Floats, Geometries
from geopanoptic.georef import metre_frame

_TRUE_ENOUGH = 0.01  # national grids and UTM stay within; web mercator and degrees do not


@dataclass(frozen=True)
class MetricFrame:
    """Brings geometries of one CRS to a plane of metres; `move` is None where that is the CRS.

    The plane is the CRS itself when a map unit is within 1 % of a true metre where the objects
    lie, else Lambert's azimuthal equal-area projection about their middle (Snyder 1987, 24): areas
    exact, distances true to (distance from the middle / earth radius)^2 / 8.
    """

    crs: str | None
    move: Callable[[npt.NDArray[Any]], npt.NDArray[Any]] | None = None

    @classmethod
    def of(cls, crs: str | None, *parts: Geometries) -> MetricFrame:
        """Choose the plane for objects with coordinates in `crs`."""
        boxes = [shapely.total_bounds(p) for p in parts if len(p)]
        boxes = [b for b in boxes if np.isfinite(b).all()]
        if crs is None or not boxes:
            return cls(crs)
        x0, y0 = np.min(boxes, axis=0)[:2]
        x1, y1 = np.max(boxes, axis=0)[2:]
        xs, ys = (
            np.array([x0, x1, x0, x1, (x0 + x1) / 2]),
            np.array([y0, y0, y1, y1, (y0 + y1) / 2]),
        )
        scale = np.linalg.norm(metre_frame(crs, xs, ys), axis=-2)
        if np.isfinite(scale).all() and np.abs(scale - 1).max() <= _TRUE_ENOUGH:
            return cls(crs)
        return cls(crs, _equal_area(crs, float(xs[4]), float(ys[4])))

    def to_metres(self, geometry: Geometries) -> Geometries:
        """Return geometries in the plane; the same array when the CRS is one."""
        if self.move is None:
            return geometry
        moved: Geometries = shapely.transform(geometry, self.move)
        return moved

    def true_shift(self, at: Floats, step: Floats) -> Floats:
        """Return (east, north) in true metres of steps (n, 2) in map units at points (n, 2)."""
        if self.crs is None or not len(at):
            return step
        frames = metre_frame(self.crs, at[:, 0], at[:, 1])
        made: Floats = np.einsum("nij,nj->ni", frames, step)
        return made


def _equal_area(crs_wkt: str, x: float, y: float) -> Callable[[npt.NDArray[Any]], Any]:
    crs = pyproj.CRS.from_wkt(crs_wkt)
    to_lonlat = pyproj.Transformer.from_crs(crs, crs.geodetic_crs, always_xy=True)
    geod = crs.get_geod()
    assert geod is not None
    lon, lat = to_lonlat.transform(x, y)
    plane = pyproj.Proj(proj="laea", lon_0=lon, lat_0=lat, a=geod.a, b=geod.b, units="m")

    def move(xy: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return np.stack(plane(*to_lonlat.transform(xy[:, 0], xy[:, 1])), axis=1)

    return move

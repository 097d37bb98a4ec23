"""Where the pixels of an array lie on the ground: CRS, transform, shape, and true areas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyproj
from affine import Affine

from geopanoptic.errors import SceneError
from geopanoptic.grid import Shape, Window

Floats = npt.NDArray[np.float64]

# Step of the numerical derivatives, metres: truncation error ~ (step/earth radius)^2 ~ 1e-10 and
# rounding error ~ 1e-9 m / step ~ 1e-11, both far below what any imagery is georeferenced to.
_STEP_M = 100.0


@dataclass(frozen=True, slots=True)
class GeoRef:
    """The georeference of an array of `shape` = (rows, cols).

    `crs` is WKT (or None: pixels are the units), `transform` maps (col, row) of a pixel's
    upper-left corner to map (x, y). Frozen, small and picklable.

    Law: ``georef.crop(w)`` puts pixel (0, 0) where window `w` began.
    """

    crs: str | None
    transform: Affine
    shape: Shape

    @classmethod
    def of_pixels(cls, shape: Shape) -> GeoRef:
        """Make the georeference of an array that has none: x = col, y = -row, no CRS."""
        return cls(None, Affine(1.0, 0.0, 0.0, 0.0, -1.0, 0.0), shape)

    def crop(self, window: Window) -> GeoRef:
        """Return the georeference of a window of this array."""
        move = Affine.translation(window.col, window.row)
        return GeoRef(self.crs, self.transform @ move, window.shape)

    def zoomed(self, shape: Shape) -> GeoRef:
        """Return the georeference of the same ground cut into `shape` = (rows, cols) pixels."""
        scale = Affine.scale(self.shape[1] / shape[1], self.shape[0] / shape[0])
        return GeoRef(self.crs, self.transform @ scale, shape)

    @property
    def is_north_up(self) -> bool:
        """Tell whether rows run south and columns east, without rotation or shear."""
        t = self.transform
        return t.b == 0 and t.d == 0 and t.a > 0 and t.e < 0

    @property
    def is_rotated(self) -> bool:
        return self.transform.b != 0 or self.transform.d != 0

    def xy(self, row: npt.ArrayLike, col: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Return the map coordinates of the upper-left corner of pixels (arrays are fine)."""
        t, r, c = self.transform, np.asarray(row, float), np.asarray(col, float)
        return t.a * c + t.b * r + t.c, t.d * c + t.e * r + t.f

    def rowcol(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Return fractional (row, col) of map coordinates; the inverse of `xy`."""
        t, xs, ys = ~self.transform, np.asarray(x, float), np.asarray(y, float)
        return t.d * xs + t.e * ys + t.f, t.a * xs + t.b * ys + t.c

    def phase(self, stride: int) -> tuple[int, int]:
        """Return (row, col) modulo `stride` of pixel (0, 0) counted from the CRS's origin.

        Law: scenes whose pixel grids coincide agree on which of their shared pixels are multiples
        of `stride`, so a tile grid anchored here cuts both alike. (0, 0) unless north-up.
        """
        if self.crs is None or not self.is_north_up:
            return 0, 0
        t = self.transform
        return round(t.f / t.e) % stride, round(t.c / t.a) % stride

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Return (min x, min y, max x, max y) of the four corners, in map units."""
        h, w = self.shape
        x, y = self.xy([0, 0, h, h], [0, w, 0, w])
        return float(x.min()), float(y.min()), float(x.max()), float(y.max())

    @property
    def has_metres(self) -> bool:
        """Tell whether true distances are known: there is a CRS tied to a body's surface."""
        if self.crs is None:
            return False
        crs = pyproj.CRS.from_wkt(self.crs)
        return (crs.is_geographic or crs.is_projected) and crs.geodetic_crs is not None

    def need_metres(self, why: str) -> None:
        """Raise SceneError unless true distances are known; `why` names the option."""
        if not self.has_metres:
            raise SceneError(
                f"{why} needs metres, but the scene has no usable coordinate reference system; "
                f"assign one (gdal_edit.py -a_srs EPSG:XXXX SCENE) or leave that option out"
            )

    @property
    def gsd_m(self) -> float | None:
        """The true ground sample distance at the centre: sqrt of the pixel's area, in metres.

        None without a CRS. EPSG:3857 and degrees are measured on the ellipsoid, so a "0.149 m"
        web-mercator pixel at 28 degrees north has a GSD of 0.132 m.
        """
        if not self.has_metres:
            return None
        x, y = self.xy(self.shape[0] / 2, self.shape[1] / 2)
        return float(np.sqrt(self._pixel_area_m2(x, y)))

    @property
    def pixel_m(self) -> tuple[float, float]:
        """The true (height, width) of the centre pixel in metres, along rows and columns.

        Raises SceneError without a CRS.
        """
        self.need_metres("a pixel size on the ground")
        _, geod, step = _geodesy(self.crs or "")
        row, col = self.shape[0] / 2, self.shape[1] / 2
        t = self.transform
        sizes = []
        for dx, dy in ((t.b, t.e), (t.a, t.d)):
            n = step / float(np.hypot(dx, dy))  # pixels in the step of the derivative
            x, y = self.xy(row, col)
            ends = np.array([-n / 2, n / 2])
            lon, lat = self.lonlat(x + ends * dx, y + ends * dy)
            sizes.append(float(geod.inv(lon[0], lat[0], lon[1], lat[1])[2]) / n)
        return sizes[0], sizes[1]

    def row_area_m2(self, row: int = 0, rows: int | None = None) -> Floats:
        """Return the mean true (ellipsoidal) area of a pixel for each row of a band of rows, m2.

        Shape (rows,), float64; the mean over the row's columns by Simpson's rule. Without a CRS
        every pixel has area |det(transform)| in map units (1 for pixel units).
        """
        n = self.shape[0] - row if rows is None else rows
        if not self.has_metres:
            return np.full(n, abs(self.transform.determinant))
        knots = np.unique(np.linspace(row, row + max(n - 1, 0), min(n, 65)))
        columns = np.array([0.0, 0.5, 1.0]) * self.shape[1]
        x, y = self.xy(knots[:, None] + 0.5, columns[None, :])
        mean = self._pixel_area_m2(x, y) @ np.array([1.0, 4.0, 1.0]) / 6.0
        return np.interp(np.arange(row, row + n), knots, mean)

    def _pixel_area_m2(self, x: Floats, y: Floats) -> Floats:
        return abs(self.transform.determinant) * _area_density(self.crs or "", x, y)

    def lonlat(self, x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[Floats, Floats]:
        """Return longitude and latitude in degrees of map coordinates, on the CRS's own body."""
        self.need_metres("a position in longitude and latitude")
        to_lonlat, _, _ = _geodesy(self.crs or "")
        lon, lat = to_lonlat.transform(np.asarray(x, float), np.asarray(y, float))
        return lon, lat


@lru_cache(maxsize=32)
def _geodesy(crs_wkt: str) -> tuple[pyproj.Transformer, pyproj.Geod, float]:
    """Return (transformer to lon/lat degrees, geodesic, map units of about _STEP_M metres)."""
    crs = pyproj.CRS.from_wkt(crs_wkt)
    geodetic = crs.geodetic_crs
    geod = crs.get_geod()
    assert geodetic is not None
    assert geod is not None
    to_lonlat = pyproj.Transformer.from_crs(crs, geodetic, always_xy=True)
    unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
    # unit_conversion_factor is radians per unit for angles and metres per unit for lengths
    step = _STEP_M / (unit * geod.a) if crs.is_geographic else _STEP_M / unit
    return to_lonlat, geod, step


def metre_frame(crs_wkt: str, x: npt.ArrayLike, y: npt.ArrayLike) -> Floats:
    """Return the true metres east and north of one map unit along x and along y, at (x, y).

    Shape (..., 2, 2): ``metre_frame @ (dx, dy) = (east, north)``. Central differences of
    (x, y) -> (lon, lat), times the radii of the meridian and of the parallel (Snyder 1987, Map
    Projections, eq. 4-18, 4-20). Its determinant is the true area per square map unit.
    """
    to_lonlat, geod, d = _geodesy(crs_wkt)
    x, y = np.asarray(x, float), np.asarray(y, float)
    xs = np.stack([x - d, x + d, x, x])
    ys = np.stack([y, y, y - d, y + d])
    lon, lat = (np.radians(a) for a in to_lonlat.transform(xs, ys))
    dlon = np.remainder(np.stack([lon[1] - lon[0], lon[3] - lon[2]]) + np.pi, 2 * np.pi) - np.pi
    dlat = np.stack([lat[1] - lat[0], lat[3] - lat[2]])
    phi = lat.mean(axis=0)
    w = 1.0 - geod.es * np.sin(phi) ** 2
    meridional = geod.a * (1 - geod.es) / w**1.5
    parallel = geod.a / np.sqrt(w) * np.cos(phi)
    frame: Floats = np.stack([dlon * parallel, dlat * meridional]) / (2 * d)
    return np.moveaxis(frame, (0, 1), (-2, -1))


def _area_density(crs_wkt: str, x: Floats, y: Floats) -> Floats:
    """Return true m2 on the ellipsoid per square map unit at (x, y)."""
    return np.abs(np.linalg.det(metre_frame(crs_wkt, x, y)))

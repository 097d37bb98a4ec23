"""`WorkingScene`: the scene as the model wants to see it: its bands, its GSD, 0..255."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine

from geopanoptic.errors import SceneError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.raster.bands import select_bands
from geopanoptic.raster.coverage import Boxes, coverage
from geopanoptic.raster.header import MAX_PIXELS
from geopanoptic.raster.radiometry import (
    Scaling,
    need_valid,
    percentile_scaling,
    sample,
    to_bytes,
)
from geopanoptic.raster.scene import Scene
from geopanoptic.raster.source import Array, Bools

_STRIP_BYTES = 16 * 2**20  # of source pixels held at a time while resampling
_LEAST_TO = 64  # working pixels per period, so that the GSD is at most 0.8 % off
_COARSEST = 4.0  # a scene this many times coarser than the model's GSD shows none of its objects
_RESAMPLED_PX = 2  # a resampled pixel takes from a little beyond its own ground
_SQUARE = 1.25  # pixels longer than this many widths are made square (degrees far from the equator)


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """What a model's card and the user ask of a scene.

    `bands`: numbers from 1 or names. `gsd_range_m`: own GSDs within it are used as they are (None:
    all are). `preferred_gsd_m`: the GSD to read at otherwise. `gsd_m`: --gsd, forces the working
    GSD. `value_range`: fixed (low, high) that become 0 and 255. `percentiles`: what to do for other
    types than uint8 when there is no value range, and for uint8 too with `stretch_uint8`.
    """

    bands: tuple[int | str, ...] = ("red", "green", "blue")
    gsd_range_m: tuple[float, float] | None = None
    preferred_gsd_m: float = 0.3
    gsd_m: float | None = None
    value_range: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (2.0, 98.0)
    stretch_uint8: bool = False


@dataclass(frozen=True)
class WorkingScene:
    """A scene on the working grid: picklable, read window by window as uint8.

    `georef` has its corner on the scene's corner and covers its ground; where pixels are resampled
    the last row and column may reach over it by a part of a pixel. `notes` are
    sentences the user should read once.
    """

    scene: Scene
    bands: tuple[int, ...]
    georef: GeoRef
    scaling: Scaling | None
    notes: tuple[str, ...]

    @classmethod
    def plan(cls, scene: Scene, request: ReadRequest) -> WorkingScene:
        """Choose bands, working grid and scaling for a scene.

        Raises SceneError: a palette, bands that are not there, a GSD far too coarse for the model,
        a scene without a valid pixel, each with the numbers and the cure.
        """
        if scene.has_palette:
            raise SceneError(
                f"the pixels of '{scene.uri}' are numbers of a colour table, not colours; expand "
                f"it first: gdal_translate -expand rgb '{scene.members[0]}' rgb.tif"
            )
        bands, note = select_bands(request.bands, scene.band_names, scene.uri)
        georef, grid_notes = _working_grid(scene, request)
        scaling = _scaling(scene, bands, request)
        notes = ((note,) if note else ()) + grid_notes
        return cls(scene, bands, georef, scaling, notes)

    @property
    def is_resampled(self) -> bool:
        return self.georef != self.scene.georef

    def read(self, window: Window) -> tuple[npt.NDArray[np.uint8], Bools]:
        """Read a window of the working grid: (uint8 (band, row, col), valid (row, col)).

        Invalid pixels are 0. Law: ``read(w)[..., v.within(w)] == read(v)``, bit for bit.
        Raises SceneError for a window outside the grid or a file that cannot be read there.
        """
        if window.is_empty or not Window.whole(self.georef.shape).contains(window):
            rows, cols = self.georef.shape
            raise SceneError(f"window ({window}) is not in the working grid of {rows} x {cols}")
        if self.is_resampled:
            return self._read_resampled(window)
        array, valid = self._read_scaled(window)
        pixels = array if array.dtype == np.uint8 else to_bytes(array)
        return pixels, valid

    def coverage(self) -> Boxes | None:
        """Return rectangles of the working grid outside of which no pixel is valid, int64 (n, 4).

        Rows of (row, col, row_stop, col_stop); None when headers do not tell. See `coverage`.
        """
        found = coverage(self.scene)
        if found is None or not self.is_resampled:
            return found
        own, working = self.scene.georef.transform, self.georef.transform
        zoom = np.array([own.e / working.e, own.a / working.a])
        low = np.floor(found[:, :2] * zoom).astype(np.int64) - _RESAMPLED_PX
        high = np.ceil(found[:, 2:] * zoom).astype(np.int64) + _RESAMPLED_PX
        limits = np.array(self.georef.shape * 2)
        clipped: Boxes = np.clip(np.concatenate([low, high], axis=1), 0, limits)
        return clipped

    def describe(self) -> dict[str, Any]:
        """Return how the scene was read, as plain values for map.json."""
        scene, (rows, cols) = self.scene, self._zooms
        down = rows.factor >= 1 and cols.factor >= 1
        return {
            "uri": list(scene.uri) if isinstance(scene.uri, tuple) else scene.uri,
            "shape": list(scene.georef.shape),
            "dtype": scene.dtype,
            "gsd_m": scene.georef.gsd_m,
            "date": scene.date,
            "nodata": None if scene.nodata is None else str(scene.nodata),
            "alpha": scene.has_alpha,
            "mask": scene.has_mask,
            "view": scene.view,
            "bands": list(self.bands),
            "band_names": [scene.band_names[b - 1] for b in self.bands],
            "working": {
                "shape": list(self.georef.shape),
                "gsd_m": self.georef.gsd_m,
                "source_pixels_per_pixel": [rows.factor, cols.factor],
                "resampling": ("average" if down else "bilinear") if self.is_resampled else "none",
            },
            "scaling": self.scaling.to_json() if self.scaling else None,
            "notes": list(self.notes),
        }

    @cached_property
    def _zooms(self) -> Any:
        from geopanoptic.raster.resample import Zoom  # loads numba, which most scenes do not need

        own, working = self.scene.georef, self.georef
        if not self.is_resampled:
            return Zoom(own.shape[0], own.shape[0]), Zoom(own.shape[1], own.shape[1])
        (row_from, row_to), (col_from, col_to) = (
            _ratio(mine / its)
            for mine, its in (
                (working.transform.e, own.transform.e),
                (working.transform.a, own.transform.a),
            )
        )
        return Zoom(row_from, row_to, own.shape[0]), Zoom(col_from, col_to, own.shape[1])

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k != "_zooms"}

    def _read_scaled(self, window: Window) -> tuple[Array, Bools]:
        """Read a window of the scene's own grid: uint8, or float32 on the scale 0..255."""
        array, valid = self.scene.read(window, self.bands)
        if self.scaling is not None:
            return self.scaling.apply(array, valid), valid
        if not valid.all():
            array[:, ~valid] = 0
        return array, valid

    def _read_resampled(self, window: Window) -> tuple[npt.NDArray[np.uint8], Bools]:
        from geopanoptic.raster.resample import resample

        row_zoom, col_zoom = self._zooms
        left, right = col_zoom.span(window.col, window.col_stop)
        col_first, col_weights = col_zoom.taps(window.col, window.col_stop)
        itemsize = 1 if self.scaling is None else 4 + np.dtype(self.scene.dtype).itemsize
        line_bytes = (right - left) * len(self.bands) * itemsize * max(row_zoom.factor, 1.0)
        step = max(1, int(_STRIP_BYTES / line_bytes))
        pixels = np.empty((len(self.bands), *window.shape), np.uint8)
        valid = np.empty(window.shape, bool)
        for row in range(window.row, window.row_stop, step):
            stop = min(row + step, window.row_stop)
            top, bottom = row_zoom.span(row, stop)
            row_first, row_weights = row_zoom.taps(row, stop)
            source, seen = self._read_scaled(Window.from_bounds(top, left, bottom, right))
            rows, cols = (row_first - top, row_weights), (col_first - left, col_weights)
            out = slice(row - window.row, stop - window.row)
            pixels[:, out], valid[out] = resample(source, seen, rows, cols)
        return pixels, valid


def _working_grid(scene: Scene, request: ReadRequest) -> tuple[GeoRef, tuple[str, ...]]:
    """Choose the working grid: the scene's own where its GSD will do, else a whole cut of it."""
    own, notes = scene.georef, []
    for name, value in (("--gsd", request.gsd_m), ("the preferred GSD", request.preferred_gsd_m)):
        if value is not None and not (math.isfinite(value) and value > 0):
            raise SceneError(f"{name} is {value}; it must be a positive number of metres")
    if own.has_metres:
        pixel_m = own.pixel_m
    else:
        pixel_m = (request.preferred_gsd_m, request.preferred_gsd_m)
        notes.append(
            f"the scene has no coordinate reference system: its pixels are taken to be "
            f"{request.preferred_gsd_m:g} m, the model's preferred GSD"
        )
    gsd_m = math.sqrt(pixel_m[0] * pixel_m[1])
    working_m = request.gsd_m or _preferred(gsd_m, request)
    if working_m is None and max(pixel_m) <= _SQUARE * min(pixel_m):
        return own, tuple(notes)
    if working_m is None:
        working_m = gsd_m
        notes.append(
            f"the scene's pixels are {pixel_m[1]:.3g} x {pixel_m[0]:.3g} m on the ground and are "
            f"read as squares"
        )
    if gsd_m > _COARSEST * working_m:
        raise SceneError(
            f"'{scene.uri}' has a GSD of {gsd_m:.3g} m, {gsd_m / working_m:.0f} times coarser than "
            f"the {working_m:.3g} m it would be read at, so the model's objects cannot be seen in "
            f"it; use a finer scene, or force its own GSD with --gsd {gsd_m:.3g}"
        )
    ratios = [_ratio(working_m / m) for m in pixel_m]
    shape = tuple(-(-n * to // of) for n, (of, to) in zip(own.shape, ratios, strict=True))
    if shape[0] * shape[1] > MAX_PIXELS:
        raise SceneError(
            f"at {working_m:g} m the scene has {shape[0]} x {shape[1]} pixels (at most "
            f"{MAX_PIXELS:.0e}); choose a larger --gsd"
        )
    (row_of, row_to), (col_of, col_to) = ratios
    if row_of == row_to and col_of == col_to:
        return own, tuple(notes)
    grown = own.transform @ Affine.scale(col_of / col_to, row_of / row_to)
    return GeoRef(own.crs, grown, (shape[0], shape[1])), tuple(notes)


def _ratio(source_pixels_per_pixel: float) -> tuple[int, int]:
    """Return (of, to): `of` source pixels become `to` working pixels, close to what is asked.

    `of` is 256, or a power of two times that where pixels get much larger, and `to` whole: so the
    working grids of a scene and of a crop that begins on a multiple of 256 pixels coincide.
    """
    of = 256
    while of / source_pixels_per_pixel < _LEAST_TO:
        of *= 2
    return of, max(1, round(of / source_pixels_per_pixel))


def _preferred(gsd_m: float, request: ReadRequest) -> float | None:
    """Return the GSD to read at, or None when the scene's own is good."""
    if request.gsd_range_m is None:
        return None
    low, high = request.gsd_range_m
    # a pixel size of 0.3 in the file is 0.29999 m on the ground: do not resample for that
    return None if low * 0.999 <= gsd_m <= high * 1.001 else request.preferred_gsd_m


def _scaling(scene: Scene, bands: tuple[int, ...], request: ReadRequest) -> Scaling | None:
    stretch = scene.dtype != "uint8" or request.stretch_uint8
    if request.value_range is not None and (stretch or request.value_range != (0, 255)):
        low, high = request.value_range
        if not high > low:
            raise SceneError(f"the value range {low:g} to {high:g} is empty")
        if scene.may_have_invalid:
            need_valid(scene, bands, sample(scene, bands))
        n = len(bands)
        return Scaling((float(low),) * n, (float(high),) * n, "fixed value range", 0)
    if not stretch and not scene.may_have_invalid:
        return None
    found = sample(scene, bands)
    need_valid(scene, bands, found)
    if not stretch:
        return None
    if not found[1].any():  # the sample met only nodata: take the scene's rare valid pixels instead
        found = _sparse_sample(scene, bands)
    return percentile_scaling(found, request.percentiles, "a sample of the whole scene")


def _sparse_sample(scene: Scene, bands: tuple[int, ...]) -> tuple[Array, Bools]:
    """Return the valid pixels of the first strips that have any, up to a million."""
    height, width = scene.georef.shape
    rows = max(1, min(height, 2**20 // width))
    pieces: list[Array] = []
    for row in range(0, height, rows):
        array, valid = scene.read(Window(row, 0, min(rows, height - row), width), bands)
        pieces.append(array[:, valid])
        if sum(p.shape[1] for p in pieces) > 2**20:
            break
    array = np.concatenate(pieces, axis=1)[:, None]
    return array, np.ones(array.shape[1:], bool)

"""One raster file as the scene sees it: north-up, with a valid mask, read window by window."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from affine import Affine
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window as RasterWindow

from geopanoptic.errors import SceneError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.raster.gdal import gdal_env, handle, is_remote, open_raster, scene_errors

Array = npt.NDArray[Any]
Bools = npt.NDArray[np.bool_]

View = Literal["plain", "flipped", "warped"]

# A lossy alpha band (JPEG) has 1..33 where nothing was seen; half-transparent is the fair limit.
_OPAQUE = 128


@dataclass(frozen=True, slots=True)
class Source:
    """A description of one raster file: no open handle, picklable.

    `georef` is that of the pixels as `read` returns them: always north-up when there is a CRS.
    `view` says how: the file's own rows and columns, mirrored ones, or GDAL's warped view.
    `alpha_band` and `bands` are band numbers of the file, from 1; alpha is never one of `bands`.
    `stamp` is the file's (size, time of change in ns): a file replaced since is opened anew.
    """

    uri: str
    driver: str | None
    georef: GeoRef
    dtype: str
    bands: tuple[int, ...]
    band_nodata: tuple[float | None, ...]
    alpha_band: int
    has_mask: bool
    view: View
    flips: tuple[bool, bool]
    block_shape: tuple[int, int]
    stamp: tuple[int, int] | None
    pam: bool

    def read(self, window: Window, bands: tuple[int, ...]) -> tuple[Array, Bools]:
        """Read a window inside the file: (array (band, row, col), valid (row, col)).

        `bands` are numbers from 1 among the data bands. A pixel is valid unless alpha or mask hides
        it, any band is not a number, or all the read bands equal their nodata value.
        Raises SceneError naming the window when the file cannot be read there.
        """
        indexes = [self.bands[b - 1] for b in bands]
        inside = self._stored(window)
        box = RasterWindow(inside.col, inside.row, inside.width, inside.height)
        what = f"'{self.uri}' cannot be read at {window}"
        cure = "the file is damaged, truncated or unreachable: copy or download it again"
        with scene_errors(what, cure), self._env(), handle(self, self._open) as dataset:
            array = dataset.read(indexes, window=box)
            valid = self._valid(dataset, array, bands, box)
        if self.flips[0]:
            array, valid = array[:, ::-1], valid[::-1]
        if self.flips[1]:
            array, valid = array[:, :, ::-1], valid[:, ::-1]
        return np.ascontiguousarray(array), np.ascontiguousarray(valid)

    def overview(self, max_px: int, bands: tuple[int, ...]) -> tuple[Array, Bools] | None:
        """Read the finest overview of at most `max_px` pixels as `read` does, whole.

        None when there is none: then only windows of the full grid can be read.
        """
        if self.view == "warped":
            return None
        with scene_errors(f"the overviews of '{self.uri}' cannot be read", _REBUILD), self._env():
            with handle(self, self._open) as dataset:
                factors = dataset.overviews(self.bands[0])
                fits = [dataset.height * dataset.width <= max_px * f * f for f in factors]
            if not any(fits):
                return None
            # Asking the full grid for a decimated read is up to 100 times slower than this.
            level = {"overview_level": fits.index(True)}
            with open_raster(self.uri, self.driver, **level) as dataset:
                array = dataset.read([self.bands[b - 1] for b in bands])
                box = RasterWindow(0, 0, dataset.width, dataset.height)
                return array, self._valid(dataset, array, bands, box)

    @contextmanager
    def _env(self) -> Iterator[None]:
        with gdal_env(remote=is_remote(self.uri), pam=self.pam):
            yield

    def _open(self) -> Any:
        dataset = open_raster(self.uri, self.driver)
        return dataset if self.view != "warped" else warped(dataset, self.band_nodata[0])

    def _stored(self, window: Window) -> Window:
        """Return where a window of the north-up view lies in the file's own rows and columns."""
        height, width = self.georef.shape
        row = height - window.row_stop if self.flips[0] else window.row
        col = width - window.col_stop if self.flips[1] else window.col
        return Window(row, col, window.height, window.width)

    def _valid(
        self, dataset: Any, array: Array, bands: tuple[int, ...], box: RasterWindow
    ) -> Bools:
        shape = array.shape[1:]
        valid = np.ones(shape, bool)
        if self.alpha_band:
            opaque = dataset.read(self.alpha_band, window=box, out_shape=shape)
            valid &= opaque >= (_OPAQUE if opaque.dtype.kind in "iu" else 0.5)
        elif self.view == "warped":
            valid &= dataset.read(dataset.count, window=box, out_shape=shape) >= _OPAQUE
        elif self.has_mask:
            valid &= dataset.read_masks(self.bands[0], window=box, out_shape=shape) >= _OPAQUE
        if array.dtype.kind == "f":
            valid &= np.isfinite(array).all(axis=0)
        values = [self.band_nodata[b - 1] for b in bands]
        if self.view != "warped" and all(v is not None and not np.isnan(v) for v in values):
            valid &= ~_all_equal(array, [v for v in values if v is not None])
        return valid


_REBUILD = "rebuild them (gdaladdo -clean, then gdaladdo -r average)"


def _all_equal(array: Array, values: list[float]) -> Bools:
    """Tell where every band equals its nodata value, compared in the band's own type."""
    hidden = np.ones(array.shape[1:], bool)
    for band, value in zip(array, values, strict=True):
        if band.dtype.kind in "iu":
            limits = np.iinfo(band.dtype)
            if value != int(value) or not limits.min <= value <= limits.max:
                return np.zeros(array.shape[1:], bool)  # -9999 in a uint8 file never occurs
        with np.errstate(over="ignore"):
            hidden &= band == np.asarray(value).astype(band.dtype)
    return hidden


def warped(dataset: Any, nodata: float | None) -> WarpedVRT:
    """Return GDAL's warped view of a dataset on a north-up grid in its own CRS.

    tolerance=0 computes every pixel's place exactly; the default interpolates along each window's
    own rows, so that two windows would not agree on their overlap. The grid is GDAL's own choice:
    rasterio drops the ground control points when it is told one.
    """
    alpha_band, _ = mask_of(dataset)
    crs = dataset.crs or dataset.gcps[1]
    options: dict[str, Any] = {"src_nodata": nodata} if nodata is not None else {}
    options |= {"src_alpha": alpha_band} if alpha_band else {"add_alpha": True}
    return WarpedVRT(
        dataset,
        src_crs=crs,
        crs=crs,
        resampling=Resampling.bilinear,
        tolerance=0,
        warp_mem_limit=64,
        **options,
    )


def mask_of(dataset: Any) -> tuple[int, bool]:
    """Return (number of the alpha band or 0, whether a mask band stands beside the data)."""
    alphas = [b for b, c in enumerate(dataset.colorinterp, 1) if c == ColorInterp.alpha]
    flags = dataset.mask_flag_enums[0]
    has_mask = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
    return (alphas[0] if alphas else 0), has_mask


def north_up(dataset: Any) -> tuple[GeoRef, View, tuple[bool, bool]]:
    """Return the georeference, view and flips that bring a dataset to north-up.

    Mirrored files (south-up, west-up) are read mirrored back, exactly; rotated and GCP files
    through a warped view in their own CRS. Raises SceneError with the cure for the rest.
    """
    t, shape, name = dataset.transform, dataset.shape, dataset.name
    gcps, gcp_crs = dataset.gcps
    if t == Affine.identity():
        if dataset.rpcs is not None:
            raise SceneError(
                f"'{name}' has only RPCs, and without a terrain model they may be tens of metres "
                f"off; orthorectify it: gdalwarp -rpc -to RPC_DEM=dem.tif '{name}' ortho.tif"
            )
        if gcps and (dataset.crs is not None or gcp_crs is None or len(gcps) < 3):
            raise SceneError(
                f"'{name}' has {len(gcps)} ground control points that do not fix its place (no CRS "
                f"of their own, or two of them); rectify it: gdalwarp -tps '{name}' rectified.tif"
            )
        if gcps:
            return _warped_grid(dataset, gcp_crs), "warped", (False, False)
        crs = dataset.crs.to_wkt() if dataset.crs else None
        if crs is None:
            return GeoRef.of_pixels(shape), "plain", (False, False)
    crs = dataset.crs.to_wkt() if dataset.crs else None
    if t.a == 0 and t.e == 0 and t.b == 0 and t.d == 0:
        raise SceneError(f"'{name}' has a transform of zeros; assign one: gdal_edit.py -a_ullr")
    if t.b == 0 and t.d == 0:
        flips = (t.e > 0, t.a < 0)
        back = Affine.translation(flips[1] * shape[1], flips[0] * shape[0])
        mirror = Affine.scale(-1 if flips[1] else 1, -1 if flips[0] else 1)
        view: View = "flipped" if any(flips) else "plain"
        return GeoRef(crs, t @ back @ mirror, shape), view, flips
    if crs is None:
        raise SceneError(
            f"'{name}' is rotated and has no coordinate reference system to turn it north-up in; "
            f"assign one (gdal_edit.py -a_srs EPSG:XXXX) or drop the rotation "
            f"(gdal_translate -a_ullr 0 {shape[0]} {shape[1]} 0)"
        )
    return _warped_grid(dataset, dataset.crs), "warped", (False, False)


def _warped_grid(dataset: Any, crs: Any) -> GeoRef:
    with warped(dataset, None) as view:
        shape, transform = view.shape, view.transform
    if shape[0] * shape[1] > 10 * dataset.height * dataset.width + 10**6:
        raise SceneError(
            f"'{dataset.name}' turned north-up would grow from {dataset.height} x {dataset.width} "
            f"to {shape[0]} x {shape[1]} pixels (its points cross the antimeridian?); warp it to a "
            f"local grid: gdalwarp -t_srs EPSG:XXXX '{dataset.name}' warped.tif"
        )
    return GeoRef(crs.to_wkt(), transform, shape)

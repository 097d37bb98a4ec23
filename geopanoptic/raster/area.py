"""The part of a scene that is asked for: polygons of interest, and rasters that mask pixels out."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import rasterio.errors
import rasterio.features
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT

from geopanoptic.errors import SceneError
from geopanoptic.georef import GeoRef

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Area:
    """What counts as observed besides the scene's own nodata.

    `mask`: a raster on any grid; pixels that are 0 or nodata there are left out (nearest pixel).
    `aoi`: a vector file; pixels whose centre lies outside its polygons are left out.
    """

    mask: str | None
    aoi: str | None

    @classmethod
    def open(cls, *, mask: str | None, aoi: str | None, georef: GeoRef) -> Area:
        """Check both files against the scene's grid; SceneError with the cure."""
        for what, path in (("--mask", mask), ("--aoi", aoi)):
            if path is None:
                continue
            if "://" not in path and not Path(path).exists():
                raise SceneError(f"{what} {path}: no such file; check the path")
            if georef.crs is None:
                raise SceneError(
                    f"{what} {path}: the scene has no coordinate reference system to lay it on; "
                    f"assign one (gdal_edit.py -a_srs EPSG:XXXX SCENE)"
                )
        area = cls(mask, aoi)
        if mask is not None:
            with _open_mask(mask):
                pass
        if aoi is not None:
            _polygons(aoi, georef.crs or "")
        return area

    def inside(self, georef: GeoRef) -> Mask:
        """Return True for each pixel of this grid that is asked for; shape georef.shape."""
        keep = np.ones(georef.shape, bool)
        if self.mask is not None:
            with (
                _open_mask(self.mask) as raster,
                WarpedVRT(
                    raster,
                    crs=georef.crs,
                    transform=georef.transform,
                    height=georef.shape[0],
                    width=georef.shape[1],
                    resampling=Resampling.nearest,
                    add_alpha=True,
                ) as view,
            ):
                # The alpha band is 0 where the mask raster has nodata or ends.
                keep &= (view.read(1) != 0) & (view.read(view.count) != 0)
        if self.aoi is not None:
            keep &= rasterio.features.geometry_mask(
                _polygons(self.aoi, georef.crs or ""),
                out_shape=georef.shape,
                transform=georef.transform,
                invert=True,
            )
        return keep

    def fingerprint(self) -> dict[str, Any]:
        """Return name and content hash of both files (they are small beside a scene)."""
        return {
            name: None if path is None else {"path": path, "sha256": _sha256(path)}
            for name, path in (("mask", self.mask), ("aoi", self.aoi))
        }


def _open_mask(path: str) -> Any:
    try:
        return rasterio.open(path, sharing=False)
    except rasterio.errors.RasterioIOError as why:
        raise SceneError(f"--mask {path}: not a raster that can be read ({why})") from why


@lru_cache(maxsize=4)
def _polygons(path: str, crs_wkt: str) -> list[Any]:
    import pyogrio

    try:
        frame = pyogrio.read_dataframe(path, columns=[])
    except Exception as why:  # pyogrio raises its own errors and plain ValueErrors alike
        raise SceneError(f"--aoi {path}: not a vector file that can be read ({why})") from why
    shapes = frame.geometry.dropna()
    shapes = shapes[shapes.geom_type.isin(["Polygon", "MultiPolygon"])]
    if shapes.empty:
        raise SceneError(f"--aoi {path}: holds no polygon")
    if shapes.crs is None:
        raise SceneError(f"--aoi {path}: has no coordinate reference system; assign one")
    return list(shapes.to_crs(crs_wkt))


def _sha256(path: str) -> str | None:
    if not Path(path).is_file():
        return None
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()

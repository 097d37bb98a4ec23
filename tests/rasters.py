"""Small rasters written for a test, and the folder of real ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"the shared imagery is not here ({SHARED})"
)
UTM = Affine(0.3, 0, 500_000, 0, -0.3, 5_200_000)


def write_raster(path: Path, array: np.ndarray, **profile: Any) -> Path:
    """Write (band, row, col) as a GeoTIFF of 0.3 m pixels in EPSG:26910, unless said otherwise."""
    options = {
        "driver": "GTiff",
        "count": array.shape[0],
        "height": array.shape[1],
        "width": array.shape[2],
        "dtype": array.dtype.name,
        "crs": "EPSG:26910",
        "transform": UTM,
    } | profile
    with rasterio.Env(GDAL_PAM_ENABLED="NO"), rasterio.open(path, "w", **options) as dataset:
        dataset.write(array)
    return path


def noise(*shape: int, dtype: str = "uint8", seed: int = 0) -> np.ndarray:
    """Return random numbers 1..255 of a shape: no zeros, so that 0 can stand for nodata."""
    return np.random.default_rng(seed).integers(1, 256, shape).astype(dtype)

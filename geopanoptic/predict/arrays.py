"""Prediction of an array in memory, for notebooks."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from geopanoptic.errors import SceneError
from geopanoptic.predict.door import predict
from geopanoptic.predict.settings import PredictSettings
from geopanoptic.quiet import ignored


def predict_array(array: Any, model: Any = None, settings: PredictSettings | None = None) -> Any:
    """Predict a panoptic map of pixels in memory.

    `array`: numpy (band, row, col), or an xarray.DataArray with dims (band, y, x) whose CRS and
    transform (`.rio`) are used; NaN, and the DataArray's nodata, are nodata. It goes through a
    temporary file, so that it is treated exactly as a scene is.

    Returns an xarray.Dataset in memory with `semantic` uint8 and `instances` int32 (y, x), and
    the segment table as `attrs["segments"]` (a DataFrame). Raises SceneError for another shape.
    """
    with tempfile.TemporaryDirectory(prefix="geopanoptic-") as folder:
        path = Path(folder) / "array.tif"
        _write_scene(array, path)
        panoptic = predict(path, model, Path(folder) / "array.panoptic", settings=settings)
        dataset = panoptic.semantic.to_dataset(name="semantic")
        dataset["instances"] = panoptic.instances
        dataset.attrs["segments"] = panoptic.segments
        return dataset.load()


def _write_scene(array: Any, path: Path) -> None:
    values = np.asarray(array)
    if values.ndim != 3:
        raise SceneError(
            f"the array has shape {values.shape}; give (band, row, col), "
            f"like numpy.moveaxis(image, -1, 0) of a (row, col, band) image"
        )
    if values.dtype == np.float64 or values.dtype.kind == "b":
        values = values.astype(np.float32)
    elif values.dtype in (np.dtype(np.int64), np.dtype(np.uint64)):
        values = values.astype(np.int32)
    profile: dict[str, Any] = {
        "driver": "GTiff",
        "count": values.shape[0],
        "height": values.shape[1],
        "width": values.shape[2],
        "dtype": values.dtype,
        "tiled": True,
        "bigtiff": "if_safer",
        "alpha": "no",  # four bands of bytes would be taken for colours and their transparency
    }
    if hasattr(array, "rio"):
        profile |= {"crs": array.rio.crs, "nodata": array.rio.nodata}
        if array.rio.crs is not None:
            # rioxarray multiplies transforms in a way that affine will drop one day
            with ignored(PendingDeprecationWarning):
                profile["transform"] = array.rio.transform()
    profile = {name: value for name, value in profile.items() if value is not None}
    # an array without a place on the ground is what the caller gave
    with (
        rasterio.Env(GDAL_PAM_ENABLED=False),
        ignored(NotGeoreferencedWarning),
        rasterio.open(path, "w", **profile) as scene,
    ):
        scene.write(values)

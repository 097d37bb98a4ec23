"""Label rasters on disk: written window by window, published as verified COGs, read back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import rasterio
import rasterio.shutil
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from geopanoptic.errors import SceneError, StoreError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.raster.gdal import explain, gdal_env, no_place_is_fine, open_raster
from geopanoptic.raster.scene import Scene
from geopanoptic.raster.source import Array
from geopanoptic.raster.style import write_pam, write_semantic_qml
from geopanoptic.schema import LabelSchema

BLOCK_PX = 512
_STRIP_PX = 2**22  # pixels compared at a time

Overviews = Literal["mode", "nearest"]


class LabelWriter:
    """Write a label raster window by window into a tiled GeoTIFF, with bounded memory.

    A context manager. `path` is a working file, not the product: `publish_cog` makes that. Windows
    on multiples of 512 are fastest. Pixels never written are nodata.

    Raises StoreError when the disk is full or the file cannot be written; leaving the block on an
    error removes the file.
    """

    def __init__(
        self, path: str | Path, georef: GeoRef, dtype: str, nodata: float | None = 0
    ) -> None:
        self.path = Path(path)
        self.georef = georef
        self._profile: dict[str, Any] = {
            "driver": "GTiff",
            "height": georef.shape[0],
            "width": georef.shape[1],
            "count": 1,
            "dtype": dtype,
            "nodata": nodata,
            "crs": georef.crs,
            "transform": georef.transform,
            "tiled": True,
            "blockxsize": BLOCK_PX,
            "blockysize": BLOCK_PX,
            # a working file: written once, read twice, compressed well only in the published copy
            **_quick_compression(),
            "bigtiff": "if_safer",
            "sparse_ok": True,  # blocks without labels take no place and no time
        }
        self._dataset: Any = None

    def __enter__(self) -> Self:
        with gdal_env(), store_errors(self.path):
            profile = {k: v for k, v in self._profile.items() if v is not None}
            with no_place_is_fine():
                self._dataset = rasterio.open(self.path, "w", **profile)
        return self

    def write(self, window: Window, array: Array) -> None:
        """Write (row, col) labels at a window of the raster; their shapes must be equal."""
        assert array.shape == window.shape, (array.shape, window)
        box = RasterWindow(window.col, window.row, window.width, window.height)
        with gdal_env(), store_errors(self.path):
            self._dataset.write(array, 1, window=box)

    def close(self) -> None:
        """Flush and close; StoreError when the last blocks did not fit on the disk."""
        dataset, self._dataset = self._dataset, None
        if dataset is not None:
            with gdal_env(), store_errors(self.path):
                dataset.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
            return
        with suppress(StoreError):  # the first error is the one to tell
            self.close()
        self.path.unlink(missing_ok=True)


def publish_cog(
    tiled_path: str | Path,
    final_path: str | Path,
    *,
    overviews: Overviews,
    palette: LabelSchema | None = None,
) -> None:
    """Copy a tiled label raster to a cloud-optimised GeoTIFF, verify it, then give it its name.

    `overviews`: 'mode' for classes, 'nearest' for ids (GDAL's own default, cubic, invents labels).
    With a `palette` the COG carries a colour table, the attribute table and category names in
    `.aux.xml`, and a `.qml` style lies beside it. Every pixel is read back and compared, since
    GDAL does not report every failed write on a full disk.

    Raises StoreError; then nothing stands under the final names.
    """
    source, final = Path(tiled_path), Path(final_path)
    temporary = final.with_name(final.name + ".tmp.tif")
    sides = [(Path(f"{temporary}.aux.xml"), Path(f"{final}.aux.xml"))] if palette else []
    source_side = Path(f"{source}.aux.xml")
    try:
        if palette:
            write_pam(source_side, palette)
        with gdal_env(pam=True), store_errors(final):
            rasterio.shutil.copy(
                source,
                temporary,
                driver="COG",
                compress="DEFLATE",
                level=6,
                predictor="NO",
                blocksize=BLOCK_PX,
                overview_resampling=overviews.upper(),
                bigtiff="IF_SAFER",
                num_threads=1,
            )
        _verify(source, temporary, final)
        for made, name in sides:
            if not made.exists():
                raise _not_stored(final, "its attribute table was not written")
            made.replace(name)
        if palette:
            write_semantic_qml(final.with_suffix(".qml"), palette)
        temporary.replace(final)
    except OSError as why:
        raise _not_stored(final, explain(why)) from why
    finally:
        for path in (temporary, Path(f"{temporary}.aux.xml"), source_side):
            path.unlink(missing_ok=True)


class LabelReader:
    """Read a one-band label raster window by window; picklable, one file handle per thread.

    As a context manager it closes this thread's handle when it is left.

    Raises SceneError when the file is missing, damaged, rotated, or no one-band raster of whole
    numbers.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._scene = Scene.open(path)
        scene = self._scene
        if scene.band_count != 1 or np.dtype(scene.dtype).kind not in "iu":
            raise SceneError(
                f"'{path}' has {scene.band_count} band(s) of {scene.dtype}; a label raster has one "
                f"band of whole numbers (semantic: uint8, instances: int32)"
            )
        if scene.view == "warped":
            raise SceneError(
                f"'{path}' is rotated, and turning it would mix labels; warp it by nearest "
                f"neighbour first: gdalwarp -r near '{path}' northup.tif"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._scene.close()

    @property
    def georef(self) -> GeoRef:
        return self._scene.georef

    @property
    def dtype(self) -> str:
        return self._scene.dtype

    @property
    def nodata(self) -> float | None:
        return self._scene.nodata

    @property
    def shape(self) -> tuple[int, int]:
        return self.georef.shape

    def read(self, window: Window | None = None) -> Array:
        """Return the labels of a window (all when None): (row, col) in the file's dtype."""
        array, _ = self._scene.read(window or Window.whole(self.shape), (1,))
        labels: Array = array[0]
        return labels


def read_labels(path: str | Path, window: Window | None = None) -> Array:
    """Return the labels of a window of a raster (all when None): (row, col)."""
    return LabelReader(path).read(window)


@lru_cache(maxsize=1)
def _quick_compression() -> dict[str, Any]:
    """Return the fastest compression this GDAL can write: ZSTD, or DEFLATE in builds without it."""
    options = {"compress": "zstd", "zstd_level": 1}
    probe = {"driver": "GTiff", "height": 1, "width": 1, "count": 1, "dtype": "uint8"}
    try:
        with gdal_env(), no_place_is_fine(), rasterio.MemoryFile() as memory:
            memory.open(**probe, **options).close()
    except (RasterioError, CPLE_BaseError):
        return {"compress": "deflate", "zlevel": 1}
    return options


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn every error of writing a raster into a StoreError with its cure."""
    try:
        yield
    except (RasterioError, CPLE_BaseError, OSError) as why:
        raise _not_stored(path, explain(why)) from why


def _not_stored(path: Path, why: str) -> StoreError:
    folder = path.parent if path.parent.is_dir() else Path()
    free = shutil.disk_usage(folder).free / 2**20
    return StoreError(
        f"'{path}' could not be written: {why}; there are {free:.0f} MiB free in '{folder}': make "
        f"room or check the rights, and run again"
    )


def _verify(source: Path, copy: Path, final: Path) -> None:
    """Compare the copy with its source pixel by pixel, and read all its overviews."""
    try:
        with (
            gdal_env(),
            open_raster(str(source), "GTiff") as a,
            open_raster(str(copy), "GTiff") as b,
        ):
            if b.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") != "COG":
                raise _not_stored(final, "GDAL did not lay it out as a COG")
            facts = [(d.shape, d.dtypes, d.nodata, d.crs, d.transform) for d in (a, b)]
            if facts[0] != facts[1]:
                raise _not_stored(final, f"its header says {facts[1]} instead of {facts[0]}")
            for box in _strips(a.shape):
                if not np.array_equal(a.read(1, window=box), b.read(1, window=box)):
                    raise _not_stored(final, f"its pixels differ at {box}")
            levels = len(b.overviews(1))
        for level in range(levels):
            with gdal_env(), open_raster(str(copy), "GTiff", overview_level=level) as overview:
                for box in _strips(overview.shape):
                    overview.read(1, window=box)
    except RasterioError as why:
        raise _not_stored(final, explain(why)) from why


def _strips(shape: tuple[int, int]) -> Iterator[RasterWindow]:
    height, width = shape
    rows = max(BLOCK_PX, _STRIP_PX // width // BLOCK_PX * BLOCK_PX)
    for row in range(0, height, rows):
        yield RasterWindow(0, row, width, min(rows, height - row))

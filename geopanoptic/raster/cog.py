"""Label rasters on disk: written window by window, published as verified COGs, read back."""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from geopanoptic.errors import SceneError, StoreError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.raster.gdal import explain, gdal_env, no_place_is_fine, open_raster
from geopanoptic.raster.scene import Scene
from geopanoptic.raster.source import Array
from geopanoptic.raster.style import legend, write_pam, write_semantic_qml
from geopanoptic.schema import LabelSchema

if TYPE_CHECKING:
    from geopanoptic.raster.pyramid import Pyramid

BLOCK_PX = 512

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
        if dataset is None:
            return
        with gdal_env(), store_errors(self.path):
            dataset.close()
        try:
            Scene.open(self.path).close()
        except SceneError as why:
            why_not = "its last blocks were lost, of which GDAL said nothing"
            raise _not_stored(self.path, why_not) from why

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
    temporary, spool = (final.with_name(f"{final.name}.tmp.{k}") for k in ("tif", "blocks"))
    side, temporary_side = Path(f"{final}.aux.xml"), Path(f"{temporary}.aux.xml")
    try:
        with store_errors(final):
            _make(source, (temporary, spool), overviews, palette)
        spool.unlink()
        if palette:
            write_pam(temporary_side, palette)
            temporary_side.replace(side)
            write_semantic_qml(final.with_suffix(".qml"), palette)
        temporary.replace(final)
    except OSError as why:
        raise _not_stored(final, explain(why)) from why
    finally:
        for path in (temporary, temporary_side, spool):
            path.unlink(missing_ok=True)


def _make(
    source: Path, made: tuple[Path, Path], overviews: Overviews, palette: LabelSchema | None
) -> None:
    """Write the COG to the first path of `made` and read it back; the second one is for blocks."""
    # compiled code; whoever only reads labels does without
    from geopanoptic.raster.cog_layout import Header, kept_tags, write_layout
    from geopanoptic.raster.pyramid import Blocks, Pyramid, mode_of_four, nearest_of_four

    target, spool = made
    with gdal_env(), open_raster(str(source), "GTiff") as tiled:
        nodata = -1 if tiled.nodata is None else int(tiled.nodata)
        halve = partial(mode_of_four, nodata=nodata) if overviews == "mode" else nearest_of_four
        blocks = Blocks(
            tiled.shape, tiled.dtypes[0], max(nodata, 0), _written(tiled), partial(_block, tiled)
        )
        with spool.open("w+b") as file:
            pyramid = Pyramid.build(blocks, halve, file, _threads())
            header = Header(tiled.dtypes[0], _colours(palette), kept_tags(source))
            crc = write_layout(target, pyramid, header)
        _verify(tiled, target, pyramid, crc)


def _written(tiled: Any) -> npt.NDArray[np.bool_]:
    """Tell which blocks of a sparse TIFF were ever written; shape (block rows, block columns)."""
    rows, cols = (-(-n // BLOCK_PX) for n in tiled.shape)
    if tiled.block_shapes != [(BLOCK_PX, BLOCK_PX)]:
        return np.ones((rows, cols), bool)
    found = np.empty((rows, cols), bool)
    for row in range(rows):
        for col in range(cols):
            place = tiled.get_tag_item(f"BLOCK_OFFSET_{col}_{row}", "TIFF", bidx=1)
            found[row, col] = place is not None
    return found


def _block(raster: Any, row: int, col: int) -> Array:
    height, width = raster.shape
    top, left = row * BLOCK_PX, col * BLOCK_PX
    size = min(BLOCK_PX, width - left), min(BLOCK_PX, height - top)
    values: Array = raster.read(1, window=RasterWindow(left, top, *size))
    return values


def _colours(palette: LabelSchema | None) -> npt.NDArray[np.uint16] | None:
    """Return a TIFF colour map: red of 256 values, then green, then blue, 16 bits each."""
    if palette is None:
        return None
    table = np.zeros((256, 3), np.uint16)
    for value, _, rgb, _ in legend(palette):
        table[value] = rgb
    return np.ascontiguousarray(table.T) * np.uint16(257)


def _threads() -> int:
    return max(1, min(4, os.cpu_count() or 1))


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


def _verify(tiled: Any, copy: Path, pyramid: Pyramid, crc: int) -> None:
    """Read the file back: all bytes are those that were written, all blocks are those wanted.

    A block of one value occurs many times and is decoded once: its bytes are compared anyway.
    """
    from geopanoptic.raster.cog_layout import checksum

    if checksum(copy) != crc:
        raise OSError("it does not read back as it was written")
    decoded: set[int] = set()
    for number, level in enumerate(pyramid.levels):
        options = {"overview_level": number - 1} if number else {}
        with open_raster(str(copy), "GTiff", **options) as made:
            if number == 0 and made.tags(ns="IMAGE_STRUCTURE").get("LAYOUT") != "COG":
                raise OSError("GDAL does not take it for a COG")
            place = tiled.transform if number else made.transform
            wanted = (level.shape, tiled.dtypes, tiled.nodata, tiled.crs, tiled.transform)
            found = (made.shape, made.dtypes, made.nodata, made.crs, place)
            if found != wanted:
                raise OSError(f"its header says {found} instead of {wanted}")
            for row, col in np.argwhere(level.constant < 0).tolist():
                if zlib.crc32(_block(made, row, col).data) != level.checksum[row, col]:
                    raise OSError(f"its pixels differ in block {row}, {col} of level {number}")
            for constant in set(np.unique(level.constant).tolist()) - {-1} - decoded:
                row, col = np.argwhere(level.constant == constant)[0].tolist()
                value = pyramid.value_of(constant)
                if not (_block(made, row, col) == value).all():
                    raise OSError(f"its pixels differ in block {row}, {col} of level {number}")
                decoded.add(constant)

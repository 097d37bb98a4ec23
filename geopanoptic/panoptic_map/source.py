"""Where the pixels of a map come from: two rasters, a COCO panoptic PNG, or polygons.

Sources are small, frozen and picklable; files are opened inside `read`, one handle per thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window as RasterWindow

from geopanoptic.errors import SceneError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.panoptic_map.kernel import decode_coco
from geopanoptic.quiet import ignored
from geopanoptic.raster.gdal import gdal_env, handle, scene_errors
from geopanoptic.schema import NODATA, VOID

Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int32]


def open_labels(path: str) -> Any:
    """Open a label raster; one without a georeference is fine here and no reason to warn."""
    with ignored(NotGeoreferencedWarning):
        return rasterio.open(path)


def _key(path: str) -> object:
    """Name a handle by path, time and size: a file written anew is opened anew."""
    try:
        found = Path(path).stat()
    except OSError:
        return "label", path  # not a local file: GDAL will say what is wrong
    return "label", path, found.st_mtime_ns, found.st_size


class LabelSource(Protocol):
    """Read a window as (class_id uint8, instance_id int32); it must lie inside the map."""

    def read(self, window: Window) -> tuple[Bytes, Ids]: ...


@dataclass(frozen=True, slots=True)
class RasterSource:
    """A class raster and (optionally) an instance raster on the same grid.

    `nodata`: the class raster's own nodata value, read as 0 (None: it has none).
    """

    semantic: str
    instances: str | None = None
    nodata: int | None = None

    def read(self, window: Window) -> tuple[Bytes, Ids]:
        """Return the window's classes and ids; SceneError when a file cannot be read."""
        classes = self._band(self.semantic, window)
        low, high = int(classes.min(initial=0)), int(classes.max(initial=0))
        if low < 0 or high > 255:
            raise SceneError(
                f"{self.semantic} holds class values {low}..{high} in {window}; a class raster "
                f"holds 0..255 (0 nodata, 255 void)"
            )
        classes = np.ascontiguousarray(classes, np.uint8)
        if self.nodata not in (None, 0):
            classes = np.where(classes == self.nodata, np.uint8(NODATA), classes)
        if self.instances is None:
            return classes, np.zeros(window.shape, np.int32)
        ids = self._band(self.instances, window)
        if ids.dtype != np.int32:
            low, high = int(ids.min(initial=0)), int(ids.max(initial=0))
            if low < 0 or high >= 2**31:
                raise SceneError(
                    f"{self.instances} holds ids {low}..{high} in {window}; instance ids are "
                    f"0..{2**31 - 1} (0 = not a thing)"
                )
        return classes, np.ascontiguousarray(ids, np.int32)

    @staticmethod
    def _band(path: str, window: Window) -> npt.NDArray[Any]:
        part = RasterWindow(window.col, window.row, window.width, window.height)
        cure = "the file may be truncated or damaged; copy or make it again"
        with (
            gdal_env(),
            scene_errors(f"cannot read {window} of {path}", cure),
            handle(_key(path), lambda: open_labels(path)) as dataset,
        ):
            values: npt.NDArray[Any] = dataset.read(1, window=part)
            return values


@dataclass(frozen=True, slots=True)
class RasterFacts:
    """What opening a label raster tells; `by_rows`: its blocks span the whole width."""

    georef: GeoRef
    dtype: str
    nodata: float | None
    bands: int
    by_rows: bool


def raster_facts(path: str | Path) -> RasterFacts:
    """Open a label raster and describe it; SceneError when it is not one."""
    if not Path(path).exists():
        raise SceneError(f"there is no file {path}")
    with (
        gdal_env(pam=True),
        scene_errors(f"cannot open {path}", "it must be a raster GDAL reads"),
        open_labels(str(path)) as dataset,
    ):
        crs = dataset.crs.to_wkt() if dataset.crs else None
        shape = (dataset.height, dataset.width)
        bare = crs is None and dataset.transform.is_identity
        georef = GeoRef.of_pixels(shape) if bare else GeoRef(crs, dataset.transform, shape)
        by_rows = dataset.block_shapes[0][1] >= dataset.width
        facts = RasterFacts(georef, dataset.dtypes[0], dataset.nodata, dataset.count, by_rows)
    if not np.issubdtype(np.dtype(facts.dtype), np.integer):
        raise SceneError(
            f"{path} has {facts.dtype} pixels; labels are whole numbers (uint8, int32)"
        )
    return facts


@dataclass(frozen=True, slots=True)
class PackedSource:
    """One raster of class x divisor + instance (Cityscapes' instanceIds: divisor 1000).

    Values below the divisor are classes without an instance: stuff, or a group of things. The
    instance ids read are the packed values, which are unique over the classes.
    """

    packed: str
    divisor: int

    def read(self, window: Window) -> tuple[Bytes, Ids]:
        """Return the window's classes and ids; SceneError for values that are no packed ids."""
        values = RasterSource._band(self.packed, window).astype(np.int64)
        classes = np.where(values >= self.divisor, values // self.divisor, values)
        low, high = int(values.min(initial=0)), int(classes.max(initial=0))
        if low < 0 or high > 255 or int(values.max(initial=0)) >= 2**31:
            raise SceneError(
                f"{self.packed} holds values {low}..{int(values.max(initial=0))}, classes up to "
                f"{high}, in {window}; packed ids are class x {self.divisor} + instance, with "
                f"classes 0..255; is the divisor another one?"
            )
        ids = np.where(values >= self.divisor, values, 0)
        return classes.astype(np.uint8), ids.astype(np.int32)


@dataclass(frozen=True, slots=True)
class CocoSource:
    """One image of a COCO panoptic data set: a PNG with id = R + 256 G + 65536 B, 0 = void.

    `class_of`: segment id -> class id. An id in the PNG that is not listed is a SceneError.
    The instance raster holds the id of every segment, stuff included.
    """

    png: str
    class_of: Mapping[int, int]
    listed: npt.NDArray[np.int64] = field(repr=False)
    listed_class: Bytes = field(repr=False)

    @classmethod
    def of(cls, png: str, class_of: Mapping[int, int]) -> CocoSource:
        """Make the source with its look-up tables sorted by id."""
        ids = np.array(sorted(class_of), np.int64)
        return cls(png, class_of, ids, np.array([class_of[i] for i in ids.tolist()], np.uint8))

    def read(self, window: Window) -> tuple[Bytes, Ids]:
        """Return the window's classes (void 255) and segment ids."""
        part = RasterWindow(window.col, window.row, window.width, window.height)
        cure = "the PNG may be damaged; make it again"
        with (
            gdal_env(),
            scene_errors(f"cannot read {self.png}", cure),
            handle(_key(self.png), lambda: open_labels(self.png)) as dataset,
        ):
            if dataset.count < 3:
                raise SceneError(
                    f"{self.png} has {dataset.count} band(s); a COCO panoptic PNG has R, G, B"
                )
            rgb = dataset.read((1, 2, 3), window=part)
        classes, ids, row, col = decode_coco(rgb, self.listed, self.listed_class, VOID)
        if row >= 0:
            raise SceneError(
                f"{self.png} has id {int(ids[row, col])} at row {row + window.row}, col "
                f"{col + window.col} (map x {col + window.col}, y {-(row + window.row)}), which "
                f"segments_info does not list; list it there, or paint it 0 (void)"
            )
        return classes, ids

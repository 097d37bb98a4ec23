"""Small pairs of dated maps for the tests of change: written as map directories."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

from geopanoptic.panoptic_map import MapInfo, write_map_json
from geopanoptic.raster.gdal import no_place_is_fine
from geopanoptic.schema import ClassSpec, LabelSchema

SCHEMA = LabelSchema(
    (
        ClassSpec(1, "forest", "stuff", "#1b7837"),
        ClassSpec(2, "field", "stuff", "#edae49"),
        ClassSpec(3, "water", "stuff", "#2b83ba"),
        ClassSpec(11, "building", "thing", "#d1495b"),
        ClassSpec(12, "vehicle", "thing", "#9b5de5"),
    )
)
UTM31 = "EPSG:32631"
AT = Affine(0.5, 0, 448_000, 0, -0.5, 5_411_000)


@dataclass(frozen=True)
class Dated:
    """One date's pixels: class uint8 (0 nodata), id int32, and where they lie."""

    classes: np.ndarray
    ids: np.ndarray
    crs: str | None = UTM31
    transform: Affine = AT
    date: str | None = None

    def write(self, folder: Path) -> Path:
        """Write a map directory."""
        folder.mkdir(parents=True)
        for name, array in (("semantic", self.classes), ("instances", self.ids)):
            write_labels(folder / f"{name}.tif", array, self.crs, self.transform)
        write_map_json(folder, MapInfo(SCHEMA, self.date))
        return folder

    def change(self, **parts: Any) -> Dated:
        return replace(self, **parts)

    def hidden(self, rows: slice, cols: slice) -> Dated:
        """The same map with nodata in a rectangle."""
        classes, ids = self.classes.copy(), self.ids.copy()
        classes[rows, cols], ids[rows, cols] = 0, 0
        return replace(self, classes=classes, ids=ids)

    def moved(self, x: float, y: float) -> Dated:
        """The same pixels, displaced on the ground by map units."""
        return replace(self, transform=Affine.translation(x, y) @ self.transform)

    def renumbered(self, seed: int) -> Dated:
        """The same objects under other ids."""
        known = np.unique(self.ids[self.ids > 0])
        table = np.zeros(int(self.ids.max()) + 1, np.int32)
        table[known] = np.random.default_rng(seed).permutation(len(known)) + 5000
        return replace(self, ids=table[self.ids])


def write_labels(path: Path, array: np.ndarray, crs: str | None, transform: Affine) -> Path:
    place = {} if crs is None else {"crs": crs, "transform": transform}
    with no_place_is_fine(), rasterio.open(
        path, "w", **place, driver="GTiff", count=1, height=array.shape[0], width=array.shape[1],
        dtype=array.dtype.name, nodata=0, tiled=True,
        blockxsize=128, blockysize=128, compress="deflate",
    ) as dataset:  # fmt: skip
        dataset.write(array, 1)
    return path


def town(shape: tuple[int, int] = (300, 340), seed: int = 0) -> Dated:
    """Stuff in winding bands, a building or car in the middle of most 30-px cells."""
    rng = np.random.default_rng(seed)
    rows, cols = np.indices(shape)
    band = np.sin(rows / 37.0) * 25 + cols
    classes = np.where(band < 0.4 * shape[1], 1, np.where(band < 0.7 * shape[1], 2, 3))
    classes = classes.astype(np.uint8)
    ids = np.zeros(shape, np.int32)
    number = 0
    for r in range(8, shape[0] - 22, 30):
        for c in range(8, shape[1] - 22, 30):
            if rng.random() < 0.25:
                continue
            number += 1
            h, w = (int(v) for v in rng.integers(8, 15, 2))
            classes[r : r + h, c : c + w] = 11 if number % 5 else 12
            ids[r : r + h, c : c + w] = number
    return Dated(classes, ids)


def rebuilt(before: Dated, seed: int = 1) -> Dated:
    """The town some years later: some objects gone, some new, some larger, a lake in the field."""
    rng = np.random.default_rng(seed)
    classes, ids = before.classes.copy(), before.ids.copy()
    objects = np.unique(ids[ids > 0])
    fate = rng.permutation(len(objects))
    for k, number in zip(fate, objects, strict=True):
        place = ids == number
        rows, cols = np.nonzero(place)
        r0, r1, c0, c1 = rows.min(), rows.max() + 1, cols.min(), cols.max() + 1
        under = classes[max(r0 - 1, 0), c0]
        if k % 7 == 0:  # gone
            classes[place], ids[place] = under, 0
        elif k % 7 == 1:  # grown
            kind = classes[r0, c0]
            classes[r0 : r1 + 5, c0 : c1 + 4], ids[r0 : r1 + 5, c0 : c1 + 4] = kind, number
        elif k % 7 == 2:  # split in two
            middle = (c0 + c1) // 2
            classes[r0:r1, middle : middle + 2], ids[r0:r1, middle : middle + 2] = under, 0
            ids[r0:r1, middle + 2 : c1] = number + 1000
    last = int(objects.max())
    for k in range(4):  # new ones between the cells
        r, c = 24 + 60 * k, 26
        if (ids[r - 1 : r + 6, c - 1 : c + 6] == 0).all():
            classes[r : r + 5, c : c + 5], ids[r : r + 5, c : c + 5] = 11, last + 1 + k
    lake = (slice(30, 90), slice(int(0.55 * ids.shape[1]), int(0.55 * ids.shape[1]) + 30))
    wet = ids[lake] == 0
    classes[lake] = np.where(wet, 3, classes[lake])
    return replace(before, classes=classes, ids=ids).renumbered(seed)

"""A picture for the eye: the scene and its map side by side."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import NotGeoreferencedWarning

from geopanoptic.grid import Window
from geopanoptic.quiet import ignored
from geopanoptic.raster.cog import LabelReader, store_errors
from geopanoptic.raster.gdal import gdal_env
from geopanoptic.raster.radiometry import to_bytes
from geopanoptic.raster.scene import Scene
from geopanoptic.raster.working import WorkingScene
from geopanoptic.schema import LabelSchema

PANEL_PX = 1024  # longer side of each of the two panels
MOST_PX = 2**29  # pixels of a scene without overviews that are read for a picture
_GAP_PX = 8
_STRIP_PX = 2**24  # pixels of the working grid held at a time

Picture = npt.NDArray[np.uint8]
Places = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


def write_preview(
    path: Path, scene: WorkingScene, labels: tuple[Path, Path], schema: LabelSchema
) -> None:
    """Write a PNG of the scene (left) and its map in the schema's colours (right).

    `labels`: the semantic and the instance raster. Things have a dark outline; nodata is white.
    Raises SceneError when a raster cannot be read, StoreError when the PNG cannot be written.
    """
    semantic, instances = (LabelReader(p) for p in labels)
    places = _sampled(semantic.shape)
    rows, cols = (
        p * n // m for p, n, m in zip(places, scene.georef.shape, semantic.shape, strict=True)
    )
    left = _scene_picture(scene, (rows, cols))
    classes = _at(semantic.read, semantic.shape, places).astype(np.uint8)
    ids = _at(instances.read, semantic.shape, places)
    right = _map_picture(classes, ids, schema)
    gap = np.full((3, len(rows), _GAP_PX), 255, np.uint8)
    write_png(path, np.concatenate([left, gap, right], axis=2))


@dataclass(frozen=True, slots=True)
class Panels:
    """Small pictures of one ground, equally large: `classes` and `ids` (row, col) as in the map,
    `scene` (row, col, 3) uint8 or None. `factor`: map pixels that one of theirs stands for.
    """

    classes: Picture
    ids: npt.NDArray[np.int32]
    scene: Picture | None
    factor: float


def read_panels(
    read: Callable[[Window], tuple[Picture, npt.NDArray[np.int32]]],
    shape: tuple[int, int],
    files: tuple[Path, Path] | None = None,
    scene: WorkingScene | None = None,
) -> Panels:
    """Return pictures of a map of `shape`, at most 1024 pixels a side.

    `files`: its semantic and instance rasters, whose overviews save reading all of it. A `scene`
    without overviews and of more than 2^29 pixels is left out: reading it would take minutes.
    Raises SceneError when a file cannot be read.
    """
    places = _sampled(shape)
    labels = []
    for k in (0, 1):
        found = None if files is None else _overview_at(files[k], places)
        if found is None:
            found = _at(lambda w, k=k: read(w)[k], shape, places)  # type: ignore[misc]
        labels.append(found)
    classes, ids = labels
    picture = None
    if scene is not None and _is_quick(scene):
        rows, cols = (p * n // m for p, n, m in zip(places, scene.georef.shape, shape, strict=True))
        picture = np.ascontiguousarray(np.moveaxis(_scene_picture(scene, (rows, cols)), 0, -1))
    factor = max(shape) / max(len(places[0]), len(places[1]))
    return Panels(classes.astype(np.uint8), ids.astype(np.int32), picture, factor)


def _is_quick(scene: WorkingScene) -> bool:
    if scene.georef.shape[0] * scene.georef.shape[1] <= MOST_PX:
        return True
    parts = scene.scene.parts
    return len(parts) == 1 and parts[0].source.overview(4 * PANEL_PX**2, scene.bands) is not None


def _overview_at(file: Path, places: Places) -> npt.NDArray[Any] | None:
    """Return the pixels at `places` of a label raster from its overviews, None without any."""
    scene = Scene.open(file)
    found = scene.parts[0].source.overview(4 * PANEL_PX**2, (1,))
    if found is None:
        return None
    rows, cols = _scaled(places, scene.georef.shape, found[1].shape)
    labels: npt.NDArray[Any] = found[0][0][rows[:, None], cols]
    return labels


def _scaled(places: Places, of: tuple[int, int], to: tuple[int, int]) -> Places:
    """Return where pixels of a raster of shape `of` lie in its overview of shape `to`."""
    rows, cols = (
        np.minimum((p + 0.5) * m / n, m - 1).astype(np.int64)
        for p, n, m in zip(places, of, to, strict=True)
    )
    return rows, cols


def jpeg_uri(picture: Picture) -> str:
    """Return a (row, col, 3) uint8 picture as a JPEG data URI."""
    with gdal_env(), ignored(NotGeoreferencedWarning), rasterio.MemoryFile() as memory:
        height, width, _ = picture.shape
        with memory.open(
            driver="JPEG", count=3, height=height, width=width, dtype="uint8", quality=85
        ) as jpeg:
            jpeg.write(np.moveaxis(picture, -1, 0))
        return "data:image/jpeg;base64," + base64.b64encode(memory.read()).decode()


def _sampled(shape: tuple[int, int]) -> Places:
    """Return the rows and columns of the pixels that stand for the picture's."""
    factor = max(1.0, max(shape) / PANEL_PX)
    rows, cols = (
        np.minimum(((np.arange(max(1, round(n / factor))) + 0.5) * factor).astype(np.int64), n - 1)
        for n in shape
    )
    return rows, cols


def _at(
    read: Callable[[Window], npt.NDArray[Any]], shape: tuple[int, int], places: Places
) -> npt.NDArray[Any]:
    """Read the pixels at places = (rows, cols) of a raster of `shape`, a strip at a time."""
    rows, cols = places
    step = max(1, _STRIP_PX // shape[1])
    parts = []
    for start in range(int(rows[0]), int(rows[-1]) + 1, step):
        wanted = rows[(rows >= start) & (rows < start + step)]
        if len(wanted):
            strip = Window.from_bounds(int(wanted[0]), 0, int(wanted[-1]) + 1, shape[1])
            parts.append(read(strip)[..., wanted[:, None] - strip.row, cols])
    return np.concatenate(parts, axis=-2)


def _scene_picture(scene: WorkingScene, places: Places) -> Picture:
    """Return the scene's first three bands at `places` of the working grid; nodata is white."""
    bands = [min(b, len(scene.bands) - 1) for b in range(3)]
    found = None
    if len(scene.scene.parts) == 1:
        found = scene.scene.parts[0].source.overview(4 * PANEL_PX**2, scene.bands)
    if found is None:

        def read(window: Window) -> Picture:
            pixels, valid = scene.read(window)
            return np.concatenate([pixels[bands], valid[None].astype(np.uint8)])

        stacked = _at(read, scene.georef.shape, places)
    else:
        array, valid = found
        scaled = array if scene.scaling is None else scene.scaling.apply(array, valid)
        pixels = scaled if scaled.dtype == np.uint8 else to_bytes(scaled)
        rows, cols = _scaled(places, scene.georef.shape, valid.shape)
        both = np.concatenate([pixels[bands], valid[None].astype(np.uint8)])
        stacked = both[:, rows[:, None], cols]
    picture, seen = stacked[:3], stacked[3] > 0
    return np.where(seen, picture, np.uint8(255))


def _map_picture(classes: Picture, ids: npt.NDArray[Any], schema: LabelSchema) -> Picture:
    colours = np.full((256, 3), 255, np.uint8)
    for spec in schema.classes:
        colours[spec.id] = spec.rgb
    picture = colours[classes]
    border = np.zeros(ids.shape, bool)
    border[1:] |= ids[1:] != ids[:-1]
    border[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    picture[border] = picture[border] // 3
    return np.ascontiguousarray(np.moveaxis(picture, -1, 0))


def write_png(path: Path, picture: Picture) -> None:
    """Write (band, row, col) uint8 as a PNG and read it back; StoreError when it did not fit."""
    # a picture has no place on the ground, and that is no news here
    with gdal_env(), ignored(NotGeoreferencedWarning), store_errors(path):
        bands, height, width = picture.shape
        with rasterio.open(
            path, "w", driver="PNG", count=bands, height=height, width=width, dtype="uint8"
        ) as png:
            png.write(picture)
        with rasterio.open(path, driver="PNG") as png:
            if not np.array_equal(png.read(), picture):
                raise OSError("it does not read back as it was written")

"""Small synthetic towns as a user would have them: scenes, GeoPackages, rasters, COCO panoptic."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import geopandas
import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from affine import Affine
from PIL import Image

GSD_M = 0.3
UTM = "EPSG:32633"
CLASSES = (
    {"name": "building", "kind": "thing"},
    {"name": "grass", "kind": "stuff"},
    {"name": "road", "kind": "stuff"},
)


@dataclass(frozen=True)
class Town:
    """A town's pixels (3, n, n), classes (1 building, 2 grass, 3 road), ids and outlines (px)."""

    rgb: npt.NDArray[np.uint8]
    classes: npt.NDArray[np.uint8]
    ids: npt.NDArray[np.int32]
    boxes: list[tuple[int, int, int, int]]  # col, row, col stop, row stop


def make_town(seed: int, size: int = 192) -> Town:
    """Build houses of 14 to 24 px, every third pair abutting, on grass with a road."""
    rng = np.random.default_rng(seed)
    rgb = np.full((3, size, size), 90.0)
    rgb[1] += 60
    classes = np.full((size, size), 2, np.uint8)
    ids = np.zeros((size, size), np.int32)
    road = size // 2 + int(rng.integers(-8, 8))
    rgb[:, :, road : road + 14], classes[:, road : road + 14] = 125.0, 3
    boxes = []
    row = 6
    while row < size - 30:
        col = 5
        while col < size - 30:
            h, w = (int(v) for v in rng.integers(14, 25, 2))
            if col + w + 2 > road and col < road + 16:
                col = road + 18
                continue
            if col + w > size - 4:
                break
            boxes.append((col, row, col + w, row + h))
            shade = rng.uniform(0.8, 1.15)
            part = (slice(row, row + h), slice(col, col + w))
            rgb[(slice(None), *part)] = (np.array([185.0, 70, 55]) * shade)[:, None, None]
            rgb[:, row + h // 2, col : col + w] *= 1.2  # the ridge
            classes[part], ids[part] = 1, len(boxes)
            col += w + (0 if rng.random() < 0.3 else int(rng.integers(5, 12)))
        row += 34
    rgb += rng.normal(0, 6, rgb.shape)
    return Town(rgb.clip(0, 255).astype(np.uint8), classes, ids, boxes)


def transform_of(seed: int) -> Affine:
    return Affine(GSD_M, 0, 500_000 + 1000 * seed, 0, -GSD_M, 5_000_000)


def write_raster(path: Path, array: npt.NDArray[np.generic], seed: int) -> None:
    bands = array if array.ndim == 3 else array[None]
    with rasterio.open(
        path, "w", driver="GTiff", count=len(bands), height=bands.shape[1], width=bands.shape[2],
        dtype=bands.dtype, crs=UTM, transform=transform_of(seed), photometric="minisblack",
    ) as file:  # fmt: skip
        file.write(bands)


def write_town(folder: Path, seed: int, size: int = 192, crs: str = "EPSG:4326") -> Town:
    """Write town<seed>: .tif, _classes.tif, _ids.tif, _buildings.gpkg, _aoi.gpkg; return it."""
    town = make_town(seed, size)
    folder.mkdir(parents=True, exist_ok=True)
    write_raster(folder / f"town{seed}.tif", town.rgb, seed)
    write_raster(folder / f"town{seed}_classes.tif", town.classes, seed)
    write_raster(folder / f"town{seed}_ids.tif", town.ids, seed)
    t = transform_of(seed)
    houses = [shapely.box(*(t @ (c0, r1)), *(t @ (c1, r0))) for c0, r0, c1, r1 in town.boxes]
    frame = geopandas.GeoDataFrame({"type": ["house"] * len(houses)}, geometry=houses, crs=UTM)
    frame.to_crs(crs).to_file(folder / f"town{seed}_buildings.gpkg")
    right = shapely.box(*(t @ (size * 0.6, size)), *(t @ (size, 0)))
    area = geopandas.GeoDataFrame(geometry=[right], crs=UTM)
    area.to_crs(crs).to_file(folder / f"town{seed}_right.gpkg")
    return town


def write_coco(folder: Path, seeds: tuple[int, ...], size: int = 96) -> None:
    """Write pictures/*.png and coco.json with coco/*.png: things building, stuff grass, road."""
    (folder / "pictures").mkdir(parents=True)
    (folder / "coco").mkdir()
    images, notes = [], []
    for seed in seeds:
        town = make_town(seed, size)
        Image.fromarray(np.moveaxis(town.rgb, 0, -1)).save(folder / f"pictures/{seed}.png")
        segment = np.where(town.ids > 0, town.ids + 10, town.classes).astype(np.int64)
        png = np.stack([segment % 256, segment // 256, segment * 0], -1).astype(np.uint8)
        Image.fromarray(png).save(folder / f"coco/{seed}.png")
        rows = [
            {"id": int(i), "category_id": 1 if i > 10 else int(i), "area": int(n), "iscrowd": 0}
            for i, n in zip(*np.unique(segment, return_counts=True), strict=True)
        ]
        images.append({"id": seed, "file_name": f"{seed}.png", "height": size, "width": size})
        notes.append({"image_id": seed, "file_name": f"{seed}.png", "segments_info": rows})
    categories = [
        {"id": 1, "name": "building", "isthing": 1},
        {"id": 2, "name": "grass", "isthing": 0},
        {"id": 3, "name": "road", "isthing": 0},
    ]
    data = {"images": images, "annotations": notes, "categories": categories}
    (folder / "coco.json").write_text(json.dumps(data))

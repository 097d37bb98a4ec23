"""Scenes that are nearly all nodata: a few small files in a large frame, as a VRT."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import numpy.typing as npt
import rasterio
from pixel_oracle import GSD_M, SPELLED, oracle_card
from scipy import ndimage

from geopanoptic.models import ModelCard
from geopanoptic.models.segmenter import Segmented

BUILDING, GRASS = 1, 4
SQUARES_PX, SQUARE_PX = 256, 40  # one square thing every so many pixels


@dataclass(frozen=True)
class Trivial:
    """Bright is a building, the rest grass: a model that costs next to nothing."""

    card: ModelCard = field(default_factory=lambda: oracle_card(core=1024, halo=64))

    def forward(self, chips: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        return {"bright": chips[:, 0] > 128}

    def decode(
        self, fields: dict[str, npt.NDArray[Any]], valid: npt.NDArray[np.bool_]
    ) -> Segmented:
        pieces, n = ndimage.label(fields["bright"] & valid)
        class_of = np.full(n + 1, BUILDING, np.uint8)
        class_of[0] = 0
        stuff = np.where(valid, GRASS, 0).astype(np.uint8)
        score = np.where(valid, 180, 255).astype(np.uint8)
        return Segmented(stuff, pieces.astype(np.int32), class_of, score)

    def segment(self, chips: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> list[Segmented]:
        bright = self.forward(chips)["bright"]
        return [self.decode({"bright": b}, v) for b, v in zip(bright, valid, strict=True)]


def pattern(row: int, col: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Return (height, width) of a scene of squares, from this pixel on; never 0."""
    rows = (np.arange(row, row + height) % SQUARES_PX) < SQUARE_PX
    cols = (np.arange(col, col + width) % SQUARES_PX) < SQUARE_PX
    return np.where(rows[:, None] & cols[None], np.uint8(255), np.uint8(90))


def dense_scene(path: Path, side: int) -> Path:
    """Write a scene of side x side pixels of `pattern`, strip by strip."""
    profile = {
        "driver": "GTiff", "count": 3, "dtype": "uint8", "height": side, "width": side,
        "crs": "EPSG:32633", "transform": SPELLED, "photometric": "RGB", "tiled": True,
        "blockxsize": 512, "blockysize": 512, "compress": "zstd", "zstd_level": 1,
        "nodata": 0, "bigtiff": "if_safer",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as scene:
        for row in range(0, side, 512):
            strip = pattern(row, 0, min(512, side - row), side)
            window = rasterio.windows.Window(0, row, side, strip.shape[0])
            scene.write(np.stack([strip] * 3), window=window)
    return path


def sparse_vrt(
    path: Path, shape: tuple[int, int], places: list[tuple[int, int]], side: int
) -> Path:
    """Write a VRT of `shape` with a member of side x side pixels at each (row, col) of `places`."""
    root = ET.Element("VRTDataset", rasterXSize=str(shape[1]), rasterYSize=str(shape[0]))
    ET.SubElement(root, "SRS").text = "EPSG:32633"
    t = SPELLED
    ET.SubElement(root, "GeoTransform").text = f"{t.c}, {GSD_M}, 0, {t.f}, 0, {-GSD_M}"
    names = []
    for n, (row, col) in enumerate(places):
        name = f"member{n}.tif"
        pixels = np.stack([pattern(row, col, side, side)] * 3)
        profile = {
            "driver": "GTiff", "count": 3, "dtype": "uint8", "height": side, "width": side,
            "crs": "EPSG:32633", "tiled": True, "nodata": 0, "photometric": "RGB",
            "transform": SPELLED @ rasterio.Affine.translation(col, row), "compress": "zstd",
        }  # fmt: skip
        with rasterio.open(path.with_name(name), "w", **profile) as member:
            member.write(pixels)
        names.append(name)
    for band, colour in enumerate(("Red", "Green", "Blue"), 1):
        element = ET.SubElement(root, "VRTRasterBand", dataType="Byte", band=str(band))
        ET.SubElement(element, "NoDataValue").text = "0"
        ET.SubElement(element, "ColorInterp").text = colour
        for name, (row, col) in zip(names, places, strict=True):
            source = ET.SubElement(element, "ComplexSource")
            ET.SubElement(source, "SourceFilename", relativeToVRT="1").text = name
            ET.SubElement(source, "SourceBand").text = str(band)
            size = {"xSize": str(side), "ySize": str(side)}
            ET.SubElement(source, "SrcRect", xOff="0", yOff="0", **size)
            ET.SubElement(source, "DstRect", xOff=str(col), yOff=str(row), **size)
            ET.SubElement(source, "NODATA").text = "0"
    path.write_bytes(ET.tostring(root))
    return path

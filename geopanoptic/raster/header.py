"""What a raster's header says, judged before any pixel is read."""

from __future__ import annotations

import datetime
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from rasterio.enums import Interleaving

from geopanoptic.errors import SceneError
from geopanoptic.raster.gdal import is_remote

MAX_BLOCK_BYTES = 256 * 2**20
MAX_PIXELS = 10**12
MAX_BANDS = 512


def check_header(dataset: Any) -> None:
    """Refuse what would cost gigabytes to look at, and files that end before their pixels do."""
    name = dataset.name
    if min(dataset.shape) < 1 or dataset.count < 1:
        raise SceneError(f"'{name}' has {dataset.shape} pixels and {dataset.count} bands: nothing")
    if dataset.width * dataset.height > MAX_PIXELS or dataset.count > MAX_BANDS:
        raise SceneError(
            f"'{name}' claims {dataset.height} x {dataset.width} pixels in {dataset.count} bands "
            f"(at most {MAX_PIXELS:.0e} pixels, {MAX_BANDS} bands); cut it into smaller files"
        )
    # bands interleaved by pixel are decoded together
    together = dataset.count if dataset.interleaving == Interleaving.pixel else 1
    for (rows, cols), dtype in zip(dataset.block_shapes, dataset.dtypes, strict=True):
        itemsize = np.dtype(dtype if dtype != "complex_int16" else "complex64").itemsize
        size = rows * cols * itemsize * together
        if size > MAX_BLOCK_BYTES:
            raise SceneError(
                f"'{name}' is stored in blocks of {rows} x {cols} pixels, {size / 2**20:.0f} MiB "
                f"each (at most {MAX_BLOCK_BYTES // 2**20}); store it in tiles: "
                f"gdal_translate -co TILED=YES '{name}' tiled.tif"
            )
    if dataset.driver == "GTiff" and Path(name).is_file():
        _check_whole(dataset, Path(name).stat().st_size)


def _check_whole(dataset: Any, size: int) -> None:
    """Refuse a TIFF whose block table points behind the end of the file (a download cut short)."""
    for band in (1, dataset.count):
        rows, cols = dataset.block_shapes[band - 1]
        last_row, last_col = (dataset.height - 1) // rows, (dataset.width - 1) // cols
        for i, j in {
            (0, 0),
            (0, last_col),
            (last_row // 2, 0),
            (last_row, 0),
            (last_row, last_col),
        }:
            place = dataset.get_tag_item(f"BLOCK_OFFSET_{j}_{i}", "TIFF", bidx=band)
            length = dataset.get_tag_item(f"BLOCK_SIZE_{j}_{i}", "TIFF", bidx=band)
            if place and length and int(place) + int(length) > size:
                raise SceneError(
                    f"'{dataset.name}' is truncated: its block ({i}, {j}) ends at byte "
                    f"{int(place) + int(length)} of a file of {size} bytes; "
                    f"copy or download it again"
                )


def stamp(uri: str) -> tuple[int, int] | None:
    """Return (size in bytes, time of the last change in ns) of a local file, None for others."""
    if is_remote(uri) or not Path(uri).is_file():
        return None
    status = Path(uri).stat()
    return status.st_size, status.st_mtime_ns


def keeps_facts_in_pam(path: Path) -> bool:
    """Tell whether an .aux.xml beside the file says where it lies or what is nodata."""
    beside = path.with_name(path.name + ".aux.xml")
    if not beside.is_file() or beside.stat().st_size > 2**20:
        return False
    text = beside.read_bytes()
    return any(tag in text for tag in (b"<SRS", b"<GeoTransform", b"<NoDataValue", b"<GCPList"))


def band_name(dataset: Any, band: int) -> str:
    described = (dataset.descriptions[band - 1] or "").strip().lower()
    colour = dataset.colorinterp[band - 1].name
    return described or (colour if colour not in ("undefined", "gray", "palette") else "")


_DATE_TAGS = (
    "ACQUISITIONDATETIME", "ACQUISITION_DATE", "ACQUISITION_DATETIME", "DATE_ACQUIRED", "DATETIME",
    "SENSING_TIME", "DATE", "TIFFTAG_DATETIME",
)  # fmt: skip
_DATE = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_:]?(0[1-9]|1[0-2])[-_:]?(0[1-9]|[12]\d|3[01])(?!\d(?!\d{5}(?!\d)))"
)


def date_of(dataset: Any, uri: str) -> str | None:
    """Return the ISO date from acquisition tags, else the file name, else the TIFF's own stamp.

    The TIFF stamp comes last because image editors overwrite it with the day of the edit.
    """
    tags: dict[str, str] = {}
    for domain in ("", "IMAGERY"):
        tags |= {k.upper(): v for k, v in dataset.tags(ns=domain or None).items()}
    texts = [tags.get(t, "") for t in _DATE_TAGS]
    for text in (*texts[:-1], Path(uri.split("?")[0]).name, texts[-1]):
        for found in _DATE.finditer(text):
            with suppress(ValueError):  # 31 February
                return datetime.date(*map(int, found.groups())).isoformat()
    return None

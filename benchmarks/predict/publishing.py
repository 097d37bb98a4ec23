"""What does it cost to publish label rasters as COGs? Ours against GDAL's own driver.

    python benchmarks/predict/publishing.py FOLDER [--side 4096] [--sparse 300000] [--out FILE.json]

A dense pair of rasters (`--side` px: parcels of classes with a thing in each, as in a town) is
published by `publish_cog`, which verifies what it wrote, and copied by GDAL's COG driver, which
does not; turn by turn, CPU seconds of this process, the best of two. Then a nearly empty frame
(`--sparse` px, four squares of 2048 px) by `publish_cog` alone, and one of 12,000 px by both.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from affine import Affine

from geopanoptic.georef import GeoRef
from geopanoptic.grid import TileGrid, Window
from geopanoptic.raster import LabelWriter, gdal_env, publish_cog

FRAME_PX = 12_000
SQUARE_PX = 2048
KINDS = (("semantic", "uint8", "mode"), ("instances", "int32", "nearest"))


def georef(side: int) -> GeoRef:
    crs = rasterio.CRS.from_epsg(32645).to_wkt()
    return GeoRef(crs, Affine(0.3, 0.0, 3e5, 0.0, -0.3, 3.06e6), (side, side))


def town(window: Window) -> dict[str, np.ndarray]:
    """Parcels of 61 px of classes 3 to 7, on each a house of 23 to 42 px; any window alike."""
    rows, cols = (np.arange(a, b)[:, None] for a, b in (
        (window.row, window.row_stop), (window.col, window.col_stop)))  # fmt: skip
    cols = cols.T
    number = (rows // 61) * 4919 + cols // 61
    half = 11 + number * 2654435761 % 2**32 % 11
    house = (abs(rows % 61 - 30) <= half) & (abs(cols % 61 - 30) <= half)
    ground = 3 + number * 40503 % 65536 % 5
    semantic = np.where(house, 1, ground).astype(np.uint8)
    return {"semantic": semantic, "instances": np.where(house, number + 1, 0).astype(np.int32)}


def cpu_s(work: Callable[[], Any]) -> float:
    start = os.times()
    work()
    stop = os.times()
    return stop.user + stop.system - start.user - start.system


def by_gdal(tiled: Path, out: Path, overviews: str) -> None:
    with gdal_env():
        rasterio.shutil.copy(
            tiled, out, driver="COG", compress="DEFLATE", level=6, predictor="NO", blocksize=512,
            overview_resampling=overviews.upper(), bigtiff="IF_SAFER", num_threads=1,
        )  # fmt: skip


def dense(folder: Path, side: int) -> dict[str, Any]:
    found: dict[str, Any] = {"megapixels": side * side / 1e6}
    for name, dtype, overviews in KINDS:
        tiled, ours, gdals = (folder / f"{name}.{k}.tif" for k in ("tiled", "ours", "gdal"))
        with LabelWriter(tiled, georef(side), dtype) as writer:
            for tile in TileGrid((side, side), 2048, 0):
                writer.write(tile.core, town(tile.core)[name])
        rounds = [
            (
                cpu_s(lambda: publish_cog(tiled, ours, overviews=overviews)),  # noqa: B023
                cpu_s(lambda: by_gdal(tiled, gdals, overviews)),  # noqa: B023
            )
            for _ in range(2)
        ]
        best = [min(r[k] for r in rounds) for k in (0, 1)]
        found[name] = {
            "ours_verified_cpu_s": round(best[0], 2), "gdal_unverified_cpu_s": round(best[1], 2),
            "ours_mb": ours.stat().st_size / 1e6, "gdal_mb": gdals.stat().st_size / 1e6,
        }  # fmt: skip
    return found


def sparse(folder: Path, side: int, *, gdal: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, dtype, overviews in KINDS:
        tiled, out = folder / f"{name}.frame.tif", folder / f"{name}.frame.cog.tif"
        with LabelWriter(tiled, georef(side), dtype) as writer:
            for row, col in np.random.default_rng(0).integers(0, side - SQUARE_PX, (4, 2)).tolist():
                window = Window(row, col, SQUARE_PX, SQUARE_PX)
                writer.write(window, town(window)[name])
        ours = cpu_s(lambda: publish_cog(tiled, out, overviews=overviews))  # noqa: B023
        found[name] = {"ours_verified_cpu_s": round(ours, 2), "ours_mb": out.stat().st_size / 1e6}
        out.unlink()
        if gdal:
            found[name]["gdal_unverified_cpu_s"] = round(
                cpu_s(lambda: by_gdal(tiled, out, overviews)),  # noqa: B023
                2,
            )
            out.unlink()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--sparse", type=int, default=300_000)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        sparse(folder, 4096, gdal=False)  # compiled and imported before anything is measured
        found: dict[str, Any] = {
            f"{args.side} x {args.side}": dense(folder, args.side),
            f"{args.sparse} x {args.sparse}, four squares": sparse(folder, args.sparse, gdal=False),
        }
        found["peak_mb_so_far"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        name = f"{FRAME_PX} x {FRAME_PX}, four squares"
        found[name] = sparse(folder, FRAME_PX, gdal=True)
    found["machine"] = (
        f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[1]:.0f}"
    )
    found["date"] = datetime.now(UTC).date().isoformat()
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

"""Compare two maps of growing size: seconds and peak memory of `geopanoptic change`.

    python benchmarks/change/bench_maps.py [--sizes 2048,6144,12288] [--folder DIR]

Writes pairs of synthetic maps (500 objects in all sizes; land cover and its changes all over the
scene; the later map displaced by half a pixel, so that it must be looked up and registered), runs
each comparison in a fresh process and writes benchmarks/results/change_maps.json. Peak memory is
the resident size of the process (VmHWM). What grows with the scene is what is written, not memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
from affine import Affine

from geopanoptic.georef import GeoRef
from geopanoptic.grid import TileGrid, Window
from geopanoptic.panoptic_map import MapInfo, write_map_json
from geopanoptic.raster import LabelWriter
from geopanoptic.schema import LabelSchema

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "change_maps.json"
UTM = pyproj.CRS.from_epsg(32631).to_wkt()
GSD_M = 0.5
OBJECTS, CELL = 500, 60

_CHILD = """
import json, sys, time
from geopanoptic.change import ChangeSettings, change
start, cpu = time.perf_counter(), time.process_time()
found = change(sys.argv[1], sys.argv[2], sys.argv[3], ChangeSettings(mmu_m2=100), overwrite=True)
peak = [x for x in open('/proc/self/status') if x.startswith('VmHWM')][0].split()[1]
print(json.dumps({
    'seconds': time.perf_counter() - start, 'cpu_s': time.process_time() - cpu,
    'peak_mb': int(peak) / 1024, 'counts': found['objects']['counts'],
    'common_px': found['common']['px'], 'offset_m': found['registration']['offset_m'],
    'patches': found['patches']['count'],
}))
"""


def labels(window: Window, later: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return class and id of a window of the endless synthetic town."""
    r = np.arange(window.row, window.row_stop)[:, None]
    c = np.arange(window.col, window.col_stop)[None, :]
    wave = (np.sin(c / 57.0) * 30).astype(np.int64)
    classes = (3 + ((r + wave) // 211 + (c + wave.T.max(initial=0)) // 163) % 4).astype(np.uint8)
    if later:
        changed = (r % 509 < 40) & (c % 613 < 70)
        classes = np.where(changed, 3 + (classes - 2) % 4, classes).astype(np.uint8)
    i, j = r // CELL, c // CELL
    number = i * 25 + j + 1
    inside = (r % CELL >= 12) & (r % CELL < 40) & (c % CELL >= 12) & (c % CELL < 36)
    there = inside & (j < 25) & (number <= OBJECTS)
    if later:
        there &= number % 10 != 0
    ids = np.where(there, number, 0).astype(np.int32)
    return np.where(there, np.uint8(1), classes), ids


def write_map(folder: Path, size: int, later: bool) -> Path:
    """Write one map directory unless it is there."""
    if (folder / "map.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    shift = GSD_M / 2 if later else 0.0
    transform = Affine(GSD_M, 0, 448_000 + shift, 0, -GSD_M, 5_411_000)
    georef = GeoRef(UTM, transform, (size, size))
    with (
        LabelWriter(folder / "semantic.tif", georef, "uint8") as semantic,
        LabelWriter(folder / "instances.tif", georef, "int32") as instances,
    ):
        for tile in TileGrid((size, size), 1024, 0):
            classes, ids = labels(tile.core, later)
            semantic.write(tile.core, classes)
            instances.write(tile.core, ids)
    write_map_json(folder, MapInfo(LabelSchema.default()))
    return folder


def measure(size: int, folder: Path) -> dict[str, Any]:
    """Compare a pair of maps of size x size px in a fresh process."""
    sides = [write_map(folder / f"{size}_{k}.panoptic", size, k == "after")
             for k in ("before", "after")]  # fmt: skip
    out = folder / f"{size}.gpkg"
    command = [sys.executable, "-c", _CHILD, *map(str, sides), str(out)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return {"size": size, "mpx": size * size / 1e6} | found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="2048,6144,12288")
    parser.add_argument("--folder", type=Path, default=None, help="keeps the maps")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="change-maps-"))
    rows = []
    for size in map(int, given.sizes.split(",")):
        rows.append(measure(size, folder))
        print(json.dumps(rows[-1]), flush=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}"
    result = {"machine": machine, "date": time.strftime("%Y-%m-%d"), "rows": rows}
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Measure the main job on a whole scene, as a user runs it, against the bare network.

    python benchmarks/predict/whole_scene.py SCENE WINDOW [--model NAME] [--out FILE.json]

SCENE is the whole raster, WINDOW a raster that was cut out of it. Measured:

* `end_to_end`: `geopanoptic predict SCENE --out buildings.gpkg` as a new process, wall seconds
  and the greatest memory of it and its children together, from outside; `end_to_end_map` is the
  same for `--out MAP.panoptic`;
* `forward`: the network's own forward passes over the same windows of real pixels, in another
  process with the same number of threads; nothing else is timed;
* `consistency`: the same command on WINDOW, and on the very pixels of SCENE there (WINDOW may be
  compressed otherwise), compared with the part of the whole map: PQ of buildings, of all objects
  and of those that the window's rim does not cut.
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
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rasterio
from rasterio.windows import Window as RasterWindow

from geopanoptic.grid import Window
from geopanoptic.metrics import ClassCode, PanopticCount, Sides, quality_of
from geopanoptic.models import DEFAULT_MODEL, load_model
from geopanoptic.panoptic_map import PanopticMap
from geopanoptic.predict import PredictSettings
from geopanoptic.predict.infer import mirrored
from geopanoptic.predict.plan import make_plan
from geopanoptic.raster import Scene
from geopanoptic.workers import EngineSpec
from geopanoptic.workers.malloc import tune_malloc

BUILDING = 1
PREDICT = [sys.executable, "-m", "geopanoptic.cli.main", "predict"]


def measured(command: list[str]) -> tuple[float, float]:
    """Run a command; return wall seconds and the greatest memory of its family in MB."""
    start, most = time.perf_counter(), 0
    process = psutil.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        total = 0
        for member in [process, *process.children(recursive=True)]:
            try:
                total += member.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        most = max(most, total)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{command} left {process.returncode}")
    return time.perf_counter() - start, most / 1e6


def forward_seconds(scene: str, model: str, threads: int) -> dict[str, Any]:
    """Time the forward passes alone, over the windows that predict cuts."""
    plan = make_plan(Scene.open(scene), model, PredictSettings())
    tune_malloc()  # predict does: the bare network shall not be slower for want of it
    network = load_model(model, threads=threads, engine=plan.engine)  # the one predict takes
    rows, cols = plan.grid.window_shape
    network.forward(np.zeros((1, 3, rows, cols), np.uint8))  # set-up is not a pass
    seconds, tiles, seen_px = 0.0, 0, 0
    for region in plan.regions:
        pixels, valid = plan.read(region.window)
        for tile in map(plan.grid.tile, region.tiles):
            part = tile.window.within(region.window).slices
            if not valid[part].any():
                continue
            chip = mirrored(pixels[:, *part], tile.window, plan.seen_window(tile.index))
            start = time.perf_counter()
            network.forward(chip[None])
            seconds += time.perf_counter() - start
            tiles += 1
            seen_px += chip[0].size
    speed = seen_px / 1e6 / seconds
    engine = plan.engine.to_json()
    return {
        "seconds": seconds, "tiles": tiles, "mpx_per_s": speed, "threads": threads,
        "engine": engine,
    }  # fmt: skip


def cut_out(scene: str, window: str, path: Path) -> Path:
    """Write the part of the scene where WINDOW lies, pixel for pixel."""
    with rasterio.open(scene) as whole, rasterio.open(window) as part:
        col, row = (round(v) for v in ~whole.transform @ (part.transform.c, part.transform.f))
        box = RasterWindow(col, row, part.width, part.height)
        profile = {
            "driver": "GTiff", "count": whole.count, "dtype": whole.dtypes[0], "tiled": True,
            "width": part.width, "height": part.height, "crs": whole.crs,
            "transform": whole.window_transform(box),
        }  # fmt: skip
        with rasterio.open(path, "w", **profile) as out:
            out.write(whole.read(window=box))
    return path


def consistency(whole: Path, part: Path) -> dict[str, Any]:
    """Compare a map of a window with that part of the whole map, pixel grid on pixel grid.

    PQ of buildings over all objects, and over those that do not touch the window's rim in either
    map: an object that the window cuts is not the same object.
    """
    a, b = PanopticMap.open(whole), PanopticMap.open(part)
    row, col = (float(v) for v in a.georef.rowcol(b.georef.transform.c, b.georef.transform.f))
    if max(abs(row - round(row)), abs(col - round(col))) > 0.01:
        raise SystemExit(f"the two maps do not share a pixel grid: offset {row}, {col}")
    shape = tuple(min(n, m - o) for n, m, o in zip(
        b.georef.shape, a.georef.shape, (round(row), round(col)), strict=True))  # fmt: skip
    here = Window(0, 0, *shape)
    maps = [a.read(here.shifted(round(row), round(col))), b.read(here)]
    found = {"all": building_quality(maps)}
    rim = np.ones(shape, bool)
    rim[1:-1, 1:-1] = False
    cut = [np.unique(ids[rim]) for _, ids in maps]
    gone = [np.isin(ids, c) & (ids > 0) for (_, ids), c in zip(maps, cut, strict=True)]
    void = gone[0] | gone[1]
    left = [(np.where(void, 255, classes), np.where(void, 0, ids)) for classes, ids in maps]
    found["not_cut_by_the_rim"] = building_quality(left)
    return found


def building_quality(maps: list[Any]) -> dict[str, Any]:
    code = ClassCode.plain(7, [1, 2])
    count = PanopticCount.of(maps[0], maps[1], Sides(code, code, 7))
    q = quality_of(count, 7, [1, 2]).per_class[BUILDING]
    return {"pq": q.pq, "rq": q.rq, "sq": q.sq, "tp": q.tp, "fp": q.fp, "fn": q.fn}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scene")
    parser.add_argument("window")
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--forward-only", type=int, metavar="THREADS")
    args = parser.parse_args()
    if args.forward_only:
        print(json.dumps(forward_seconds(args.scene, args.model, args.forward_only)))
        return
    threads = EngineSpec().cores_per_process(1)
    with tempfile.TemporaryDirectory() as folder:
        maps = [Path(folder) / f"{name}.panoptic" for name in ("whole", "window", "same_pixels")]
        same = cut_out(args.scene, args.window, Path(folder) / "same_pixels.tif")
        found: dict[str, Any] = {}
        wall, memory = measured(
            [*PREDICT, args.scene, "--model", args.model, "--out", f"{folder}/buildings.gpkg"]
        )
        found["end_to_end"] = {"seconds": wall, "peak_memory_mb": memory}
        for path, scene in zip(maps, (args.scene, args.window, str(same)), strict=True):
            command = [*PREDICT, scene, "--model", args.model, "--out", str(path)]
            wall, memory = measured(command)
            if path == maps[0]:
                info = PanopticMap.open(path).info
                found["end_to_end_map"] = {"seconds": wall, "peak_memory_mb": memory}
                found["stages"] = info.run["seconds"]
                found["counts"] = info.counts["things_by_class"]
        bare = subprocess.run(
            [sys.executable, __file__, args.scene, args.window, "--model", args.model,
             "--forward-only", str(threads)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        found["forward"] = json.loads(bare.stdout)
        found["ratio"] = found["end_to_end"]["seconds"] / found["forward"]["seconds"]
        found["consistency"] = {
            "window_file": consistency(maps[0], maps[1]),
            "same_pixels": consistency(maps[0], maps[2]),
        }
    found["scene"] = Path(args.scene).name
    found["shape"] = list(Scene.open(args.scene).georef.shape)
    found["model"] = args.model
    found["machine"] = f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}"
    found["load_before"] = os.getloadavg()[2]
    found["date"] = datetime.now(UTC).date().isoformat()
    text = json.dumps(found, indent=1)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()

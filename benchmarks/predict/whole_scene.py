"""Measure the main job on a whole scene, as a user runs it, against the bare network.

    python benchmarks/predict/whole_scene.py SCENE WINDOW [--model NAME] [--out FILE.json]

SCENE is the whole raster, WINDOW a raster that was cut out of it. Measured:

* `end_to_end`: `geopanoptic predict SCENE --out MAP.panoptic` as a new process, wall seconds and
  the greatest memory of it and its children together, from outside;
* `forward`: the network's own forward passes over the same windows of real pixels, in another
  process with the same number of threads; nothing else is timed;
* `consistency`: the same command on WINDOW, compared with the part of the whole map there:
  PQ of buildings (and F1), all objects counted, also those at the window's rim.
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

from geopanoptic.grid import Window
from geopanoptic.metrics import ClassCode, PanopticCount, Sides, quality_of
from geopanoptic.models import DEFAULT_MODEL, load_model
from geopanoptic.panoptic_map import PanopticMap
from geopanoptic.predict import PredictSettings
from geopanoptic.predict.infer import pad_to
from geopanoptic.predict.plan import make_plan
from geopanoptic.raster import Scene
from geopanoptic.workers import EngineSpec

BUILDING = 1


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
    network = load_model(model, threads=threads)
    rows, cols = plan.grid.window_shape
    network.forward(np.zeros((1, 3, rows, cols), np.uint8))  # set-up is not a pass
    seconds, tiles = 0.0, 0
    for region in plan.regions:
        pixels, valid = plan.read(region.window)
        for tile in map(plan.grid.tile, region.tiles):
            part = tile.window.within(region.window).slices
            if not valid[part].any():
                continue
            chip = pad_to(pixels[:, *part], tile.window, plan.grid.nominal_window(tile.index))
            start = time.perf_counter()
            network.forward(chip[None])
            seconds += time.perf_counter() - start
            tiles += 1
    mpx = tiles * rows * cols / 1e6
    return {"seconds": seconds, "tiles": tiles, "mpx_per_s": mpx / seconds, "threads": threads}


def consistency(whole: Path, part: Path) -> dict[str, Any]:
    """Compare a map of a window with that part of the whole map, pixel grid on pixel grid."""
    a, b = PanopticMap.open(whole), PanopticMap.open(part)
    row, col = (float(v) for v in a.georef.rowcol(b.georef.transform.c, b.georef.transform.f))
    if max(abs(row - round(row)), abs(col - round(col))) > 0.01:
        raise SystemExit(f"the two maps do not share a pixel grid: offset {row}, {col}")
    shape = tuple(min(n, m - o) for n, m, o in zip(
        b.georef.shape, a.georef.shape, (round(row), round(col)), strict=True))  # fmt: skip
    here = Window(0, 0, *shape)
    code = ClassCode.plain(len(a.schema), [c.id for c in a.schema.things])
    count = PanopticCount.of(
        a.read(here.shifted(round(row), round(col))), b.read(here), Sides(code, code, len(a.schema))
    )
    building = quality_of(count, len(a.schema), [1, 2]).per_class[BUILDING]
    return {
        "pq": building.pq, "rq": building.rq, "sq": building.sq,
        "tp": building.tp, "fp": building.fp, "fn": building.fn,
    }  # fmt: skip


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
        maps = [Path(folder) / f"{name}.panoptic" for name in ("whole", "part")]
        found: dict[str, Any] = {}
        for path, scene in zip(maps, (args.scene, args.window), strict=True):
            command = [sys.executable, "-m", "geopanoptic.cli.main", "predict", scene]
            command += ["--model", args.model, "--out", str(path)]
            wall, memory = measured(command)
            if path == maps[0]:
                info = PanopticMap.open(path).info
                found["end_to_end"] = {"seconds": wall, "peak_memory_mb": memory}
                found["stages"] = info.run["seconds"]
                found["counts"] = info.counts["things_by_class"]
        bare = subprocess.run(
            [sys.executable, __file__, args.scene, args.window, "--model", args.model,
             "--forward-only", str(threads)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        found["forward"] = json.loads(bare.stdout)
        found["ratio"] = found["end_to_end"]["seconds"] / found["forward"]["seconds"]
        found["consistency"] = consistency(*maps)
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

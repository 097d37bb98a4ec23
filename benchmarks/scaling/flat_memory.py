"""Measure the memory that the main job takes on scenes of growing size, with a model that is free.

    python benchmarks/scaling/flat_memory.py FOLDER [--side N]... [--scene RASTER]... [--sparse N]
                                             [--out FILE.json]

Each scene is mapped to polygons by a process of its own (two threads); reported are the peak of
memory of it and its children together, CPU seconds, and the size of its regions. `--side N`: a
synthetic scene of N x N pixels, all valid, one square thing every 256 px. `--scene`: a raster of
yours (the model takes any GSD). `--sparse N`: a VRT of N x N pixels with four members of 2048 px.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

RUN = """
import json, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from sparse_scenes import Trivial
from pixel_oracle import oracle_card
from geopanoptic.predict import Execution, PredictSettings, Products, run
from geopanoptic.predict.plan import make_plan
from geopanoptic.raster import Scene
from geopanoptic.workers import EngineSpec
scene, out, gsd_m = sys.argv[1], Path(sys.argv[2]), float(sys.argv[3])
card = oracle_card(core=1024, halo=64, gsd_range_m=(gsd_m / 2, gsd_m * 2), preferred_gsd_m=gsd_m)
model, execution = Trivial(card), Execution(engine=EngineSpec(threads=2))
opened = Scene.open(scene)
settings = PredictSettings(bands=(1, 1, 1) if opened.band_count < 3 else None)
plan = make_plan(opened, model, settings)
outcome = run(scene, model, Products.to([out], overwrite=True), settings, execution)
print(json.dumps({{
    "tiles": len(plan.grid), "tiles_per_region": plan.k**2, "regions": len(plan.seen.indexes),
    "things": outcome.record.counts["things"], "failed": len(outcome.failed_tiles),
}}))
"""


def mapped(scene: Path, folder: Path, gsd_m: float) -> dict[str, Any]:
    """Map a scene in a new process and watch it from outside."""
    import psutil

    code = RUN.format(tests=str(Path(__file__).parents[2] / "tests"))
    command = [sys.executable, "-c", code, str(scene), str(folder / "out.gpkg"), str(gsd_m)]
    start, most = time.perf_counter(), 0
    process = psutil.Popen(command, stdout=subprocess.PIPE, text=True)
    cpu_s = 0.0
    while process.poll() is None:
        total = 0
        for member in [process, *process.children(recursive=True)]:
            try:
                total += member.memory_info().rss
                if member.pid == process.pid:
                    times = member.cpu_times()
                    cpu_s = times.user + times.system
            except psutil.Error:
                continue
        most = max(most, total)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{scene} left {process.returncode}")
    said: dict[str, Any] = json.loads(process.stdout.read().splitlines()[-1])
    return said | {
        "peak_mb": round(most / 1e6), "cpu_s": round(cpu_s, 1),
        "wall_s": round(time.perf_counter() - start, 1), "load": os.getloadavg()[0],
    }  # fmt: skip


def main() -> None:
    import numpy as np
    from sparse_scenes import GSD_M, dense_scene, sparse_vrt

    from geopanoptic.raster import Scene

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, action="append", default=[])
    parser.add_argument("--scene", type=Path, action="append", default=[])
    parser.add_argument("--sparse", type=int, action="append", default=[])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}

    def add(name: str, scene: Path, gsd_m: float) -> None:
        found[name] = mapped(scene, args.folder, gsd_m)
        print(name, found[name], flush=True)
        result = {
            "runs": found,
            "machine": f"{os.cpu_count()} cores",
            "date": datetime.now(UTC).date().isoformat(),
        }
        if args.out:
            args.out.write_text(json.dumps(result, indent=1) + "\n")

    for side in args.side:
        scene = dense_scene(args.folder / "dense.tif", side)
        add(f"{side} x {side}, all valid", scene, GSD_M)
        scene.unlink()
    for side in args.sparse:
        rng = np.random.default_rng(0)
        places = [(int(r), int(c)) for r, c in rng.integers(0, side - 2048, (4, 2))]
        vrt = sparse_vrt(args.folder / "sparse.vrt", (side, side), places, 2048)
        add(f"{side} x {side}, four members of 2048 x 2048", vrt, GSD_M)
    for raster in args.scene:
        georef = Scene.open(raster).georef
        add(
            f"{raster.name}, {georef.shape[0]} x {georef.shape[1]}",
            raster,
            float(georef.gsd_m or 1),
        )


if __name__ == "__main__":
    main()

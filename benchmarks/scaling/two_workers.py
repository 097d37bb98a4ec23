"""How much faster are two worker processes than one? A model that keeps one thread busy.

    python benchmarks/scaling/two_workers.py FOLDER [--side 8192] [--spin-ms 300 | --sleep-ms 300]
                                             [--rounds 3] [--out FILE.json]

The inference stage on a synthetic scene, with a model that spins (one thread, as a network on one
core does) or sleeps (as one on a GPU does: no core is wanted, so a busy machine matters less) for
so long per tile. One and two workers take turns; told are medians of tiles per second between the
first region done and the last, so that the start of processes is not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from slow_model import Slow
from sparse_scenes import dense_scene

from geopanoptic.predict import PredictSettings
from geopanoptic.predict.infer import infer_region
from geopanoptic.predict.plan import Plan, make_plan
from geopanoptic.raster import Scene
from geopanoptic.store import open_job
from geopanoptic.workers import EngineSpec, open_engine


def tiles_per_s(plan: Plan, folder: Path, workers: int) -> float:
    """Run the inference stage on so many workers."""
    seen: list[tuple[float, int]] = []

    def on_done(_index: int, answer: dict[str, Any]) -> None:
        seen.append((time.perf_counter(), answer["tiles"]))

    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        open_job(Path(name) / "job", plan.fingerprint(), files=Path(name)) as job,
        open_engine(EngineSpec(workers=workers)) as engine,
    ):
        at_work = replace(plan, job=job.ref, device="cpu", threads=1, batch=1)
        failures = engine.run(partial(infer_region, at_work), plan.seen.indexes, on_done)
        assert not failures, failures
    # the first region of each worker pays for its imports: leave them out
    return sum(tiles for _, tiles in seen[workers:]) / (seen[-1][0] - seen[workers - 1][0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=8192)
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--spin-ms", type=float, default=300.0)
    kind.add_argument("--sleep-ms", type=float)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    sleeps = args.sleep_ms is not None
    model = Slow(tile_s=(args.sleep_ms if sleeps else args.spin_ms) / 1e3, sleeps=sleeps)
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        scene = dense_scene(folder / "scene.tif", args.side)
        plan = make_plan(Scene.open(scene), model, PredictSettings())
        for _ in range(args.rounds):
            for workers, found in rates.items():
                found.append(round(tiles_per_s(plan, folder, workers), 3))
                print(workers, found, flush=True)
    one, two = (statistics.median(found) for found in rates.values())
    report = {
        "side": args.side, "tiles": len(plan.grid), "regions": len(plan.regions),
        "model": f"{'sleeps' if sleeps else 'spins'} {model.tile_s * 1e3:.0f} ms per tile",
        "tiles_per_s": {"1 worker": one, "2 workers": two}, "speed_up": round(two / one, 2),
        "cores": os.cpu_count(), "load": round(os.getloadavg()[1], 1),
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

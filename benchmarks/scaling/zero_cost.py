"""What does the machinery cost? CPU per tile of the main job with a free model, against a loop.

    python benchmarks/scaling/zero_cost.py FOLDER [--side 16384] [--workers 2] [--rounds 3]
                                           [--whole] [--out FILE.json]

The loop reads each window (one tile ahead, in a thread), runs the model, and writes class and
instance of the core into two GeoTIFFs; it stitches nothing. Compared with it: the inference stage,
in this process and on worker processes. They take turns, `--rounds` times, and medians are told:
CPU seconds of all processes, so that the figures mean something on a busy machine. Of workers the
peaks of memory are told too: RSS counts libraries that processes share in each, PSS shares them
out, USS leaves them out. `--whole`: everything end to end as well, once.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from sparse_scenes import Trivial, dense_scene

from geopanoptic.predict import Execution, PredictSettings, Products, run
from geopanoptic.predict.infer import infer_region
from geopanoptic.predict.plan import Plan, make_plan
from geopanoptic.predict.speed import Family, watched
from geopanoptic.raster import LabelWriter, Scene
from geopanoptic.store import open_job
from geopanoptic.workers import EngineSpec, open_engine


def tiles_ahead(plan: Plan) -> Iterator[tuple[Any, Any, Any]]:
    """Yield (tile, pixels, valid), each read while the one before is worked on."""
    with ThreadPoolExecutor(1) as ahead:
        waiting = None
        for tile in plan.grid:
            coming = tile, ahead.submit(plan.read, tile.window)
            if waiting is not None:
                yield waiting[0], *waiting[1].result()
            waiting = coming
        assert waiting is not None
        yield waiting[0], *waiting[1].result()


def loop(plan: Plan, folder: Path) -> None:
    model = plan.model
    with ExitStack() as files:
        kinds = (("semantic", "uint8"), ("instances", "int32"))
        georef = plan.scene.georef
        semantic, instances = (
            files.enter_context(LabelWriter(folder / f"{name}.tif", georef, kind))
            for name, kind in kinds
        )
        for tile, pixels, valid in tiles_ahead(plan):
            fields = model.forward(pixels[None])  # type: ignore[union-attr]
            found = model.decode({k: v[0] for k, v in fields.items()}, valid)  # type: ignore[union-attr]
            core = tile.core.within(tile.window).slices
            semantic.write(tile.core, found.stuff[core])
            instances.write(tile.core, found.instance[core])


class Peaks(threading.Thread):
    """The peaks of RSS, PSS and USS in MB of each child process, looked at every half second."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.mb: dict[int, dict[str, float]] = {}
        self._done = threading.Event()

    def run(self) -> None:
        import psutil

        while not self._done.wait(0.5):
            for process in psutil.Process().children(recursive=True):
                try:
                    found = process.memory_full_info()
                    name = " ".join(process.cmdline())
                except psutil.Error:
                    continue
                if "resource_tracker" in name:
                    continue
                most = self.mb.setdefault(process.pid, dict.fromkeys(("rss", "pss", "uss"), 0.0))
                for kind in most:
                    most[kind] = max(most[kind], getattr(found, kind) / 1e6)

    def __enter__(self) -> Peaks:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._done.set()
        self.join()


def inferred(plan: Plan, folder: Path, workers: int) -> tuple[float, list[dict[str, float]]]:
    """Run the inference stage; return its CPU seconds for the whole scene, and workers' peaks.

    Told from the first region done to the last, so that the start of processes is not in it.
    """
    total, done = plan.grid.shape[0] * plan.grid.shape[1], 0
    seen: list[tuple[int, float]] = []

    def on_done(_index: int, answer: dict[str, Any]) -> None:
        nonlocal done
        done += answer["px"]
        family.look()
        seen.append((done, family.cpu_s))

    with (
        tempfile.TemporaryDirectory(dir=folder) as name,
        watched() as family,
        open_job(Path(name) / "job", plan.fingerprint(), files=Path(name)) as job,
        open_engine(EngineSpec(workers=workers)) as engine,
        ExitStack() as stack,
    ):
        peaks = stack.enter_context(Peaks()) if workers else None
        at_work = replace(plan, job=job.ref, device="cpu", threads=1, batch=1)
        failures = engine.run(partial(infer_region, at_work), plan.seen.indexes, on_done)
        assert not failures, failures
    (first, before), (last, after) = seen[0], seen[-1]
    cpu_s = (after - before) / (last - first) * total if last > first else after
    return cpu_s, list(peaks.mb.values()) if peaks else []


def whole(scene: Path, folder: Path) -> Family:
    """Run the main job to polygons in this process."""
    out = Products.to([folder / "out.gpkg"], overwrite=True)
    with watched() as family:
        run(str(scene), Trivial(), out, PredictSettings(), Execution(engine=EngineSpec()))
    return family


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=16384)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--whole", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        small = make_plan(
            Scene.open(dense_scene(folder / "small.tif", 2048)), Trivial(), PredictSettings()
        )
        inferred(small, folder, 0)  # compiled and imported before anything is measured
        loop(small, folder)
        scene = dense_scene(folder / "scene.tif", args.side)
        plan = make_plan(Scene.open(scene), Trivial(), PredictSettings())
        ways = {"loop": None, "in_process": 0, f"workers_{args.workers}": args.workers}
        cpu_ms: dict[str, list[float]] = {way: [] for way in ways}
        peaks: list[dict[str, float]] = []
        for _ in range(args.rounds):
            for way, workers in ways.items():
                if workers is None:
                    with watched() as family:
                        loop(plan, folder)
                    cpu_s = family.cpu_s
                else:
                    cpu_s, found = inferred(plan, folder, workers)
                    peaks += found
                cpu_ms[way].append(round(cpu_s / len(plan.grid) * 1e3, 2))
                print(way, cpu_ms[way], flush=True)
        middle = {way: statistics.median(values) for way, values in cpu_ms.items()}
        report: dict[str, Any] = {
            "side": args.side,
            "tiles": len(plan.grid),
            "tiles_per_region": plan.k**2,
            "cpu_ms_per_tile": middle,
            "cpu_ms_per_tile_rounds": cpu_ms,
            "to_loop": {way: round(middle[way] / middle["loop"], 3) for way in middle},
            "worker_peak_mb": {
                kind: round(max(peak[kind] for peak in peaks)) for kind in ("rss", "pss", "uss")
            },
        }
        if args.whole:
            family = whole(scene, folder)
            report["whole_cpu_ms_per_tile"] = round(family.cpu_s / len(plan.grid) * 1e3, 1)
            report["whole_peak_mb"] = round(family.peak_bytes / 1e6)
    report |= {
        "cores": os.cpu_count(), "load": round(os.getloadavg()[1], 1),
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    if args.out:
        args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

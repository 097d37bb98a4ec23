"""What does the machinery cost? CPU per tile of the main job with a free model, against a loop.

    python benchmarks/scaling/zero_cost.py FOLDER [--side 16384] [--workers 2] [--out FILE.json]

The loop reads each window (one tile ahead, in a thread), runs the model, and writes class and
instance of the core into two GeoTIFFs; it stitches nothing. Compared with it: the inference stage,
in this process and on worker processes (their memory is reported too), and everything end to end.
CPU seconds of all processes, so that the figures mean something on a busy machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from sparse_scenes import Trivial, dense_scene

from geopanoptic.predict import Execution, PredictSettings, Products, run
from geopanoptic.predict.plan import Plan, make_plan
from geopanoptic.predict.speed import Family, watched
from geopanoptic.raster import LabelWriter, Scene
from geopanoptic.workers import EngineSpec


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


def job(scene: Path, folder: Path, workers: int, family: Family) -> float:
    """Run the main job; return the CPU seconds that inference takes for the whole scene.

    Told from the first report to the last, so that the start of processes is not in it.
    """
    seen: list[tuple[int, float]] = []

    def progress(stage: str, done: int, _total: int) -> None:
        if stage == "infer":
            family.look()
            seen.append((done, family.cpu_s))

    execution = Execution(engine=EngineSpec(workers=workers), progress=progress)
    out = Products.to([folder / "out.gpkg"], overwrite=True)
    run(str(scene), Trivial(), out, PredictSettings(), execution)
    (first, before), (last, after) = seen[0], seen[-1]
    return (after - before) / (last - first) * last if last > first else after


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=16384)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        small = dense_scene(folder / "small.tif", 2048)
        with watched() as family:
            job(small, folder, 0, family)  # compiled and imported before anything is measured
        scene = dense_scene(folder / "scene.tif", args.side)
        plan = make_plan(Scene.open(scene), Trivial(), PredictSettings())
        tiles = len(plan.grid)
        with watched() as family:
            loop(plan, folder)
        plain = family.cpu_s
        found: dict[str, Any] = {"tiles": tiles, "loop_cpu_ms_per_tile": plain / tiles * 1e3}
        for workers in (0, args.workers):
            with watched() as family:
                inferred = job(scene, folder, workers, family)
            found[f"workers_{workers}"] = {
                "infer_cpu_ms_per_tile": inferred / tiles * 1e3,
                "infer_to_loop": inferred / plain,
                "whole_cpu_ms_per_tile": family.cpu_s / tiles * 1e3,
                "peak_mb_all_processes": family.peak_bytes / 1e6,
            }
            print(json.dumps(found, indent=1), flush=True)
    found |= {
        "side": args.side, "cores": os.cpu_count(), "load": os.getloadavg()[1],
        "date": datetime.now(UTC).date().isoformat(),
    }  # fmt: skip
    if args.out:
        args.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

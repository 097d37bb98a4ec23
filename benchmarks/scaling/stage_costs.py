"""What does each stage of the main job cost? CPU milliseconds per tile of 1024 x 1024 px.

    python benchmarks/scaling/stage_costs.py SCENE --out FILE.json [--model NAME] [--rounds 2]

Maps the scene in this process and counts CPU seconds: of the threads while they read and decode,
of the whole process while seams, assembly and writing run. The rounds write a pair of rasters and
a GeoPackage in turn; the least of each is told, for what else the machine does only adds to it.
`throughput.py FILE.json` reckons with the result.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from geopanoptic.predict import Execution, PredictSettings, Products, run
from geopanoptic.predict.plan import Plan
from geopanoptic.raster import Scene
from geopanoptic.workers import EngineSpec

infer = import_module("geopanoptic.predict.infer")
record = import_module("geopanoptic.predict.run").RunRecord

TILE_PX = 1024**2


class Counted:
    """CPU seconds by name, from several threads."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = defaultdict(float)
        self._lock = threading.Lock()

    def of_thread(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **rest: Any) -> Any:
            start = time.thread_time()
            try:
                return function(*args, **rest)
            finally:
                with self._lock:
                    self.cpu_s[name] += time.thread_time() - start

        return counted

    def of_process(self, stage: Callable[..., Any]) -> Callable[..., Any]:
        @contextmanager
        def counted(run_record: Any, name: str) -> Iterator[None]:
            start = time.process_time()
            with stage(run_record, name):
                yield
            self.cpu_s[name] += time.process_time() - start

        return counted


def mapped(scene: str, model: str, out: Path) -> tuple[dict[str, float], int, int]:
    """Map the scene once; return CPU seconds by stage, pixels of the map, and things."""
    counted = Counted()
    before = Plan.read, infer._decode, record.stage
    Plan.read = counted.of_thread("read", Plan.read)  # type: ignore[method-assign]
    infer._decode = counted.of_thread("decode", infer._decode)
    record.stage = counted.of_process(record.stage)
    seen: list[int] = []
    try:
        outcome = run(
            scene, model, Products.to([out], overwrite=True), PredictSettings(),
            Execution(
                engine=EngineSpec(threads=2), progress=lambda _stage, _done, n: seen.append(n)
            ),
        )  # fmt: skip
    finally:
        Plan.read, infer._decode, record.stage = before  # type: ignore[method-assign]
    return dict(counted.cpu_s), seen[0], outcome.record.counts["things"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scene")
    parser.add_argument("--model", default="landcover-v3")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    found: dict[str, list[dict[str, float]]] = {"tif": [], "gpkg": []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(args.rounds):
            for suffix, rounds in found.items():
                cpu_s, px, things = mapped(args.scene, args.model, Path(folder) / f"out.{suffix}")
                rounds.append(cpu_s)
    every = [*found["tif"], *found["gpkg"]]
    tiles = px / TILE_PX

    def ms(*stages: str) -> float:
        return round(1000 * min(sum(cpu[s] for s in stages) for cpu in every) / tiles, 1)

    def writing(suffix: str) -> float:
        return round(min(cpu["write"] for cpu in found[suffix]) / (px / 1e9), 1)

    opened = Scene.open(args.scene)
    result = {
        "scene": Path(args.scene).name,
        "model": args.model,
        "tiles": round(tiles, 1),
        "things_per_mpx": round(things / (px / 1e6)),
        "read_ms": ms("read"),
        "decode_ms": ms("decode"),
        "finish_ms": ms("seam", "assemble"),
        "write_rasters_s_per_gpx": writing("tif"),
        "write_polygons_s_per_gpx": writing("gpkg"),
        "source_bytes_per_tile": round(Path(args.scene).stat().st_size / tiles),
        "source_px_per_px": round(opened.georef.shape[0] * opened.georef.shape[1] / px, 2),
        "machine": f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}",
        "date": datetime.now(UTC).date().isoformat(),
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()

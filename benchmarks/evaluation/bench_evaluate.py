"""Evaluate at scale: a 20,000 x 20,000 pair of 100,000 objects, and beside panopticapi.

    python benchmarks/evaluation/bench_evaluate.py scene [--size 20000] [--folder DIR]
    python benchmarks/evaluation/bench_evaluate.py rival [--size 10000] [--folder DIR]

`scene` writes a synthetic town as two map directories (kept in DIR for a second run) and runs
`geopanoptic evaluate` in a fresh process; targets: <= 60 s and <= 2 GB on 2 cores.

`rival` writes the same town as a COCO panoptic pair (PNG) and as map directories, and runs
panopticapi's own `pq_compute_single_core` (the distribution `panopticapi-lite`, installed by pip
into the folder) on the pair, and ours with one thread on both, each in a fresh process. The
statistics must be equal; target: ours >= 5 times as fast per pixel, on maps in our own format.
Its ids must stay below 2^24, PIL refuses images of more than 1.8e8 px, and it holds about 30 bytes
a pixel in memory.

Seconds are wall and CPU (user + system) of the process with its children; memory is the greatest
resident size of all its processes together, sampled every 50 ms.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import rasterio
from affine import Affine
from rasterio.windows import Window as RasterWindow

from geopanoptic.georef import GeoRef
from geopanoptic.panoptic_map import MapInfo, write_map_json
from geopanoptic.schema import LabelSchema

PATCH, CELL = 1000, 62  # 16 x 16 lots of 62 px in a patch: 256 objects, 102,400 in 20,000^2
UTM = rasterio.crs.CRS.from_epsg(32610).to_wkt()
GSD_M = 0.3
Arrays = tuple[np.ndarray, np.ndarray]


def patch(rng: np.random.Generator) -> tuple[Arrays, Arrays]:
    """Return truth and prediction (class, id 1..256) of one patch: most objects match."""
    ground = np.repeat(np.repeat(rng.integers(3, 8, (25, 25)), 40, 0), 40, 1).astype(np.uint8)
    noisy = np.where(rng.random(ground.shape) < 0.02, rng.integers(3, 8, ground.shape), ground)
    truth = ground.copy(), np.zeros(ground.shape, np.int32)
    pred = noisy.astype(np.uint8), np.zeros(ground.shape, np.int32)
    for k in range(256):
        r, c = (k // 16) * CELL + 4, (k % 16) * CELL + 4
        h, w = rng.integers(8, CELL - 12, 2)
        cls = 1 if rng.random() < 0.8 else 2
        shape = np.ones((h, w), bool)
        if rng.random() < 0.4:
            shape[: h // 2, : w // 2] = False
        paint(truth, r, c, shape, cls, k + 1)
        if rng.random() < 0.85:
            dr, dc = rng.integers(-3, 4, 2)
            ragged = shape & (rng.random(shape.shape) < 0.97)
            paint(pred, r + dr, c + dc, ragged, cls, k + 1)
    return truth, pred


def paint(side: Arrays, r: int, c: int, shape: np.ndarray, cls: int, k: int) -> None:
    for array, value in zip(side, (cls, k), strict=True):
        array[r : r + shape.shape[0], c : c + shape.shape[1]][shape] = value


def town(size: int) -> Any:
    """Yield (row, col, truth, prediction) of every patch, ids unique over the scene."""
    made = [patch(np.random.default_rng(seed)) for seed in range(8)]
    across = -(-size // PATCH)
    for n in range(across * across):
        row, col = n // across * PATCH, n % across * PATCH
        truth, pred = made[n * 7 % 8]
        sides = []
        for classes, ids in (truth, pred):
            cut = slice(0, min(PATCH, size - row)), slice(0, min(PATCH, size - col))
            moved = np.where(ids > 0, ids + n * 256, 0).astype(np.int32)
            sides.append((classes[cut], moved[cut]))
        yield row, col, *sides


def write_maps(folder: Path, size: int) -> tuple[Path, Path]:
    """Write the town as two map directories of tiled, deflated GeoTIFFs."""
    paths = folder / f"pred{size}.panoptic", folder / f"truth{size}.panoptic"
    if all((p / "map.json").exists() for p in paths):
        return paths
    georef = GeoRef(UTM, Affine(GSD_M, 0, 500_000, 0, -GSD_M, 5_000_000), (size, size))
    files: dict[tuple[int, str], Any] = {}
    for side, path in enumerate((paths[1], paths[0])):
        path.mkdir(parents=True, exist_ok=True)
        for name, dtype in (("semantic", "uint8"), ("instances", "int32")):
            files[side, name] = rasterio.open(
                path / f"{name}.tif", "w", driver="GTiff", height=size, width=size, count=1,
                dtype=dtype, crs=georef.crs, transform=georef.transform, compress="deflate",
                tiled=True, blockxsize=512, blockysize=512, nodata=0,
            )  # fmt: skip
    across = -(-size // PATCH)
    strip: list[Any] = []
    for row, _, *sides in town(size):
        strip.append(sides)
        if len(strip) < across:
            continue
        for (side, name), file in files.items():
            data = np.concatenate([s[side][name == "instances"] for s in strip], axis=1)
            file.write(data, 1, window=RasterWindow(0, row, size, data.shape[0]))
        strip = []
    for file in files.values():
        file.close()
    for path in paths:
        write_map_json(path, MapInfo(LabelSchema.default()))
    return paths


def write_coco(folder: Path, size: int) -> tuple[Path, Path]:
    """Write the town as a COCO panoptic pair."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    paths = folder / f"cpred{size}.json", folder / f"ctruth{size}.json"
    if all(p.exists() for p in paths):
        return paths
    classes = LabelSchema.default().classes
    categories = [
        {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": list(c.rgb)}
        for c in classes
    ]
    for side, path in enumerate((paths[1], paths[0])):
        ids = np.zeros((size, size), np.int32)
        seen: dict[int, tuple[int, int]] = {}
        for row, col, *sides in town(size):
            cls, inst = sides[side]
            label = np.where(inst > 0, inst + 1000, cls).astype(np.int32)
            ids[row : row + label.shape[0], col : col + label.shape[1]] = label
            for value, at, n in zip(*np.unique(label, return_index=True, return_counts=True)):  # noqa: B905
                old = seen.get(int(value), (0, 0))[1]
                seen[int(value)] = int(cls.ravel()[at]), old + int(n)
        rgb = np.stack([ids & 255, ids >> 8 & 255, ids >> 16], axis=-1).astype(np.uint8)
        path.with_suffix("").mkdir(exist_ok=True)
        Image.fromarray(rgb).save(path.with_suffix("") / "1.png", compress_level=1)
        segments = [
            {"id": k, "category_id": c, "area": a, "iscrowd": 0} for k, (c, a) in seen.items()
        ]
        note = {"image_id": 1, "file_name": "1.png", "segments_info": segments}
        image = {"id": 1, "file_name": "1.png", "height": size, "width": size}
        path.write_text(
            json.dumps({"images": [image], "annotations": [note], "categories": categories})
        )
    return paths


def measured(command: list[str], environment: dict[str, str] | None = None) -> dict[str, Any]:
    """Run a command; return its output, wall and CPU seconds, and greatest memory in MB."""
    start = time.perf_counter()
    process = psutil.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | (environment or {}),
    )  # fmt: skip
    most, cpu = 0, 0.0
    with tempfile.TemporaryFile("w+") as out:
        del out
        import threading

        text: list[str] = []
        reader = threading.Thread(target=lambda: text.append(process.stdout.read()))
        errors: list[str] = []
        other = threading.Thread(target=lambda: errors.append(process.stderr.read()))
        reader.start()
        other.start()
        while process.poll() is None:
            try:
                family = [process, *process.children(recursive=True)]
                most = max(most, sum(p.memory_info().rss for p in family))
                cpu = max(cpu, sum(sum(p.cpu_times()[:2]) for p in family))
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.05)
        reader.join()
        other.join()
    if process.returncode:
        raise SystemExit(f"{command} failed: {errors[0][-2000:]}")
    return {
        "out": text[0],
        "wall_s": round(time.perf_counter() - start, 2),
        "cpu_s": round(cpu, 2),
        "memory_mb": round(most / 1e6),
    }


def bench_scene(folder: Path, size: int, workers: int) -> dict[str, Any]:
    """Time the command with its default figures on the scene."""
    pred, truth = write_maps(folder, size)
    command = [
        sys.executable, "-m", "geopanoptic.cli.main", "evaluate", str(pred), str(truth), "--json",
        "--workers", str(workers),
    ]  # fmt: skip
    got = measured(command)
    result = json.loads(got.pop("out"))
    objects = sum(row["count_truth"] for row in result["per_class"].values())
    return got | {
        "size": size,
        "workers": workers,
        "truth_objects": objects,
        "pq": result["all"]["pq"],
        "mpx_per_s": round(size * size / 1e6 / got["wall_s"], 1),
    }


RIVAL = """
import json, sys, time
import PIL.Image

def plain(s):
    return [int(s.tp), int(s.fp), int(s.fn), float(s.iou)]

PIL.Image.MAX_IMAGE_PIXELS = None
from panopticapi.evaluation import pq_compute_single_core
truth, pred = (json.load(open(p)) for p in sys.argv[1:3])
categories = {c["id"]: c for c in truth["categories"]}
pairs = list(zip(truth["annotations"], pred["annotations"]))
start = time.process_time()
stat = pq_compute_single_core(0, pairs, sys.argv[1][:-5], sys.argv[2][:-5], categories)
seconds = time.process_time() - start
rows = {int(c): plain(s) for c, s in sorted(stat.pq_per_cat.items())}
print("RESULT" + json.dumps([seconds, rows]))
"""
OURS = """
import json, sys, time
from geopanoptic.evaluate import EvaluateSettings, evaluate
from geopanoptic.workers import EngineSpec
settings = EvaluateSettings(metrics=("pq",), bootstrap=0)
spec = EngineSpec(threads=1)
start = time.process_time()
found = evaluate(sys.argv[2], sys.argv[1], settings, engine=spec)
seconds = time.process_time() - start
rows = {n: [r["tp"], r["fp"], r["fn"], r["iou_sum"]] for n, r in found["per_class"].items()}
print("RESULT" + json.dumps([seconds, rows]))
"""


def bench_rival(folder: Path, size: int) -> dict[str, Any]:
    """Time panopticapi and ours on one COCO pair; statistics must agree."""
    pred, truth = write_coco(folder, size)
    package = folder / "panopticapi"
    if not package.exists():
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(package),
             "panopticapi-lite==0.2.0"],
            check=True,
        )  # fmt: skip
    names = {c.id: c.name for c in LabelSchema.default().classes}
    own_pred, own_truth = write_maps(folder, size)
    runs: dict[str, Any] = {}
    for who, code, files, environment in (
        ("panopticapi", RIVAL, (truth, pred), {"PYTHONPATH": str(package)}),
        ("geopanoptic, same PNG", OURS, (truth, pred), {}),
        ("geopanoptic, GeoTIFF", OURS, (own_truth, own_pred), {}),
    ):
        got = measured([sys.executable, "-c", code, *map(str, files)], environment)
        seconds, rows = json.loads(got.pop("out").rpartition("RESULT")[2])
        if who == "panopticapi":
            rows = {names[int(k)]: row for k, row in rows.items()}
        runs[who] = got | {"evaluate_cpu_s": round(seconds, 2), "rows": rows}
    theirs = runs["panopticapi"].pop("rows")
    out: dict[str, Any] = {"size": size, "panopticapi": runs.pop("panopticapi")}
    for who, run in runs.items():
        ours = run.pop("rows")
        for name, row in theirs.items():
            assert ours[name][:3] == row[:3], (name, ours[name], row)
            assert abs(ours[name][3] - row[3]) < 1e-9 * max(1, row[0]), (name, ours[name], row)
        ratio = out["panopticapi"]["evaluate_cpu_s"] / run["evaluate_cpu_s"]
        out[who] = run | {"statistics_equal": True, "times_as_fast": round(ratio, 1)}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("which", choices=("scene", "rival"))
    parser.add_argument("--size", type=int)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="evaluate-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if given.which == "scene":
            result = bench_scene(folder, given.size or 20_000, given.workers)
        else:
            result = bench_rival(folder, given.size or 10_000)
    finally:
        if given.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    machine = {
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "python": platform.python_version(),
    }
    result |= {"machine": machine}
    print(json.dumps(result, indent=1))
    if given.json:  # beside what the other benchmark left there
        kept = json.loads(given.json.read_text()) if given.json.exists() else {}
        given.json.write_text(json.dumps(kept | {given.which: result}, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Polygons at scale: label rasters to GeoPackage, and against rasterio's shapes + union.

    python benchmarks/polygons/bench_polygons.py [--size 20000] [--block 2048] [--json FILE]
    python benchmarks/polygons/bench_polygons.py --rival --size 4096 --block 1024
    python benchmarks/polygons/bench_polygons.py --million

The scene is synthetic: a 5000 x 5000 patch of ragged buildings (rectangles, L shapes, courtyards;
15 % vehicles) on five kinds of noisy ground, laid out as often as it takes, every instance with
an id of its own. Each figure comes from a fresh process: CPU seconds (user + system), wall
seconds, peak resident memory. Compiled code is cached, so run twice for warm figures.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyproj
from affine import Affine
from scipy import ndimage

from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.polygons import stuff_labels, thing_labels, trace
from geopanoptic.schema import LabelSchema
from geopanoptic.segments import SegmentTable
from geopanoptic.vector import TableContext, stuff_table, things_table, write_gpkg

PATCH, PER_PATCH = 5000, 12_500
SCHEMA = LabelSchema.default()


def make_patch() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return instance ids, classes of the pixels, classes of the ids of one patch."""
    rng = np.random.default_rng(0)
    inst = np.zeros((PATCH, PATCH), np.int32)
    cell = PATCH // 112
    class_of = np.zeros(112 * 112 + 1, np.uint8)
    for k in range(min(PER_PATCH, 112 * 112)):
        r, c = cell * (k // 112), cell * (k % 112)
        h, w = rng.integers(cell // 3, int(cell * 0.8), 2)
        r, c = r + rng.integers(0, cell - h), c + rng.integers(0, cell - w)
        mask = np.ones((h, w), bool)
        if rng.random() < 0.4:
            mask[: h // 2, : w // 2] = False
        if rng.random() < 0.1:
            mask[h // 3 : 2 * h // 3, w // 3 : 2 * w // 3] = False
        mask[[0, -1]] &= rng.random((2, w)) < 0.7
        mask[:, [0, -1]] &= rng.random((h, 2)) < 0.7
        inst[r : r + h, c : c + w][mask] = k + 1
        class_of[k + 1] = 1 + (rng.random() < 0.15)
    best = np.full((PATCH, PATCH), -np.inf, np.float32)
    ground = np.zeros((PATCH, PATCH), np.uint8)
    for spec in SCHEMA.stuff:
        rough = ndimage.gaussian_filter(rng.normal(size=(PATCH // 8, PATCH // 8)), 4)
        field = ndimage.zoom(rough.astype(np.float32), 8, order=1)
        field += rng.normal(size=field.shape).astype(np.float32) * 0.015 * field.std()
        ground[field > best] = spec.id
        np.maximum(best, field, out=best)
    return inst, np.where(inst > 0, class_of[inst], ground), class_of


@lru_cache(maxsize=1)
def patch() -> tuple[np.ndarray, ...]:
    path = Path(tempfile.gettempdir()) / "geopanoptic_bench_patch.npz"
    if not path.exists():
        inst, semantic, class_of = make_patch()
        np.savez(path, inst=inst, semantic=semantic, class_of=class_of)
    with np.load(path) as kept:
        return kept["inst"], kept["semantic"], kept["class_of"]


def labels_of(window: Window, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the classes and instance ids of a window of the scene."""
    inst, semantic, class_of = patch()
    across = -(-size // PATCH)
    out = np.zeros(window.shape, np.uint8), np.zeros(window.shape, np.int32)
    for i in range(window.row // PATCH, -(-window.row_stop // PATCH)):
        for j in range(window.col // PATCH, -(-window.col_stop // PATCH)):
            here = Window(i * PATCH, j * PATCH, PATCH, PATCH)
            part = window & here
            own, at = part.within(here).slices, part.within(window).slices
            ids = inst[own]
            out[0][at] = semantic[own]
            out[1][at] = np.where(ids > 0, ids + (i * across + j) * (len(class_of) - 1), 0)
    return out


def segments(size: int) -> SegmentTable:
    inst, _, class_of = patch()
    n_patches = (-(-size // PATCH)) ** 2
    ids = np.arange(1, (len(class_of) - 1) * n_patches + 1)
    n = len(ids)
    return SegmentTable(
        ids,
        np.tile(class_of[1:], n_patches),
        np.tile(np.bincount(inst.ravel(), minlength=len(class_of))[1:], n_patches),
        np.full(n, 0.8, np.float32),
        np.zeros((n, 4), np.int32),
        np.zeros(n, bool),
        np.zeros(n, bool),
        np.ones(n, np.uint16),
        np.full(n, np.nan, np.float32),
    )


def write_layer(layer: str, size: int, block: int, folder: Path) -> dict[str, Any]:
    """Trace one layer of the scene and write it to a GeoPackage."""
    georef = GeoRef(pyproj.CRS(32633).to_wkt(), Affine(0.3, 0, 5e5, 0, -0.3, 6e6), (size, size))
    context = TableContext(SCHEMA, georef, "2024-05-01", "bench", "bench 1")
    if layer == "things":
        traced = trace(lambda w: thing_labels(*labels_of(w, size)), georef.shape, block, group="id")
        batches = things_table(traced, segments(size), context)
    else:
        traced = trace(
            lambda w: stuff_labels(*labels_of(w, size), SCHEMA), georef.shape, block, group="part"
        )
        batches = stuff_table(traced, context)
    path = folder / f"{layer}.gpkg"
    counts = write_gpkg(path, {layer: batches}, georef.crs, SCHEMA)
    return {"features": counts[layer], "file_mb": round(path.stat().st_size / 1e6, 1)}


def trace_only(size: int, block: int, _: Path) -> dict[str, Any]:
    """Trace the stuff of the scene into geometry, and write nothing."""
    to_map = Affine(0.3, 0, 5e5, 0, -0.3, 6e6)
    n = 0
    for batch in trace(
        lambda w: stuff_labels(*labels_of(w, size), SCHEMA), (size, size), block, group="part"
    ):
        n += len(batch.to_geometry(to_map))
    return {"features": n}


def rival(size: int, block: int, _: Path) -> dict[str, Any]:
    """Polygonise the stuff per tile with rasterio, then join by union: what most tools do."""
    import rasterio.features
    import shapely

    to_map = Affine(0.3, 0, 5e5, 0, -0.3, 6e6)
    pieces: dict[int, list[Any]] = {}
    for r in range(0, size, block):
        for c in range(0, size, block):
            window = Window(r, c, block, block).clipped((size, size))
            labels = stuff_labels(*labels_of(window, size), SCHEMA)
            for shape, value in rasterio.features.shapes(
                labels,
                mask=labels > 0,
                connectivity=4,
                transform=to_map @ Affine.translation(window.col, window.row),
            ):
                pieces.setdefault(int(value), []).append(shapely.geometry.shape(shape))
    joined = [shapely.get_parts(shapely.union_all(p)) for p in pieces.values()]
    return {"features": sum(map(len, joined))}


def million(_size: int, block: int, folder: Path) -> dict[str, Any]:
    """Write 1,000,000 small ragged things of about 20 vertices in one streamed transaction."""
    cell, across = 10, 1000
    rng = np.random.default_rng(1)
    kept = np.zeros((across, cell, across, cell), bool)
    kept[:, 1:8, :, 1:8] = rng.integers(0, 4, (across, 7, across, 7), np.uint8) > 0
    kept[:, 3:6, :, 1:8] = kept[:, 1:8, :, 3:6] = True
    kept = kept.reshape(across * cell, across * cell)

    def things(window: Window) -> np.ndarray:
        r = np.arange(window.row, window.row_stop, dtype=np.int32)[:, None] // cell
        c = np.arange(window.col, window.col_stop, dtype=np.int32)[None, :] // cell
        return np.where(kept[window.slices], r * across + c + 1, 0).astype(np.int32)

    n = across * across
    ids, none = np.arange(1, n + 1), np.full(n, np.nan, np.float32)
    table = SegmentTable(
        ids, np.ones(n, np.uint8), ids, none, np.zeros((n, 4), np.int32),
        np.zeros(n, bool), np.zeros(n, bool), np.ones(n, np.uint16), none,
    )  # fmt: skip
    georef = GeoRef(pyproj.CRS(32633).to_wkt(), Affine(0.3, 0, 5e5, 0, -0.3, 6e6), kept.shape)
    context = TableContext(SCHEMA, georef, "2024-05-01", "bench", "bench 1")
    things_table(trace(things, (32, 32), 32, group="id"), table, context)
    before = psutil.Process().memory_info().rss >> 20
    batches = things_table(trace(things, georef.shape, block, group="id"), table, context)
    path = folder / "million.gpkg"
    counts = write_gpkg(path, {"things": batches}, georef.crs, SCHEMA)
    extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - before
    size = round(path.stat().st_size / 1e6, 1)
    return {"features": counts["things"], "file_mb": size, "extra_mb": extra}


STEPS = {
    "million": million,
    "things": lambda *a: write_layer("things", *a),
    "stuff": lambda *a: write_layer("stuff", *a),
    "trace": trace_only,
    "rival": rival,
}


def measure_here(step: str, size: int, block: int) -> dict[str, Any]:
    if step != "million":
        patch()
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        found = STEPS[step](size, block, Path(folder))
        found["cpu_s"] = round(time.process_time() - cpu, 2)
        found["wall_s"] = round(time.perf_counter() - wall, 2)
    found["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", type=int, default=20_000)
    parser.add_argument("--block", type=int, default=2048)
    parser.add_argument("--rival", action="store_true", help="compare with shapes + union")
    parser.add_argument("--million", action="store_true", help="write 1,000,000 polygons")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(measure_here(given.step, given.size, given.block)))
        return
    patch()
    report: dict[str, Any] = {
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores",
        "load": os.getloadavg()[0],
        "size_px": given.size,
        "block_px": given.block,
    }
    steps = ("trace", "rival") if given.rival else ("things", "stuff")
    for step in ("million",) if given.million else steps:
        again = [sys.executable, __file__, "--step", step]
        again += ["--size", str(given.size), "--block", str(given.block)]
        made = subprocess.run(again, check=True, capture_output=True, text=True)
        report[step] = json.loads(made.stdout)
        print(step, report[step], file=sys.stderr)
    print(json.dumps(report, indent=1))
    if given.json:
        given.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()

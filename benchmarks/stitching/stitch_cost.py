"""Measure what stitching costs, from 5k to 40k px edge: time, memory, linearity.

    python benchmarks/stitching/stitch_cost.py [--edges 5000,10000,20000,40000] [--out DIR]

One painted town is repeated over the scene, tile products are written to disk as a predict run
writes them, and then seam tasks, resolution and relabelling run from disk on two processes, as
workers would. Only these are timed; painting the town and labelling tiles are not stitching.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from town import make_town

from geopanoptic.grid import Tile, TileGrid, Window
from geopanoptic.segments import PanopticTile
from geopanoptic.stitch import (
    NodeTable,
    SeamTable,
    TileLabels,
    assemble_core,
    label_tile,
    match_seam,
    measure_core,
    number,
    resolve,
)

CORE_PX, HALO_PX = 1024, 64
BLOCK_PX = 2048
SCALE = 2  # every pixel of the town twice as large: about 300 objects per Mpx
WORKERS = 2


@dataclass(frozen=True)
class Job:
    """A scene on disk: the grid and the folder with its parts."""

    grid: TileGrid
    folder: Path

    def path(self, kind: str, k: int) -> Path:
        return self.folder / f"{kind}_{k}.npz"

    def product(self, k: int) -> TileLabels:
        with np.load(self.path("tile", k)) as part:
            nodes = NodeTable(**{n: part[n] for n in NodeTable.__dataclass_fields__})
            return TileLabels(self.grid.tile(k), part["labels"], nodes)


_BLOCK: dict[str, Any] = {}


def seen(window: Window) -> Any:
    """Return a window of the repeated town (instances) and their classes.

    A line without objects keeps repeats apart, so that objects grow in number with the scene.
    """
    if not _BLOCK:
        town = make_town(BLOCK_PX, 7, halls=2)
        instance = town.truth.instance.copy()
        instance[0] = instance[:, 0] = 0
        _BLOCK.update(instance=instance, class_of=town.truth.class_of)
    rows = np.arange(window.row, window.row_stop) // SCALE % BLOCK_PX
    cols = np.arange(window.col, window.col_stop) // SCALE % BLOCK_PX
    instance = _BLOCK["instance"][np.ix_(rows, cols)]
    return instance, _BLOCK["class_of"]


def make_tile(job: Job, k: int) -> int:
    """Label one tile and write its product, as the predict stage does; return its nodes."""
    tile: Tile = job.grid.tile(k)
    instance, class_of = seen(tile.window)
    ones = np.ones(instance.shape, np.uint8)
    product = label_tile(
        PanopticTile(tile, ones, instance, class_of, ones * np.uint8(150)), job.grid.shape
    )
    columns = {n: getattr(product.nodes, n) for n in NodeTable.__dataclass_fields__}
    np.savez(job.path("tile", k), labels=product.labels.astype(np.uint16), **columns)
    return len(product.nodes)


def seam_row(job: Job, row: int) -> float:
    """Match the tiles of one row of the grid with their forward neighbours."""
    products: dict[int, TileLabels] = {}
    tables = []
    first = row * job.grid.n_cols
    for k in range(first, first + job.grid.n_cols):
        for other in (k, *job.grid.forward_neighbours(k)):
            if other not in products:
                products[other] = job.product(other)
        tables += [
            match_seam(products[k], products[n], 0.25) for n in job.grid.forward_neighbours(k)
        ]
        column = k % job.grid.n_cols
        products = {n: p for n, p in products.items() if n > k and n % job.grid.n_cols >= column}
    table = SeamTable.concatenate(tables)
    np.savez(
        job.path("seam", row), **{n: getattr(table, n) for n in SeamTable.__dataclass_fields__}
    )
    return peak_mb()


class Luts:
    """Look-up tables of single tiles, from disk; kept while their tile is near."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.kept: dict[int, Any] = {}

    def lut(self, k: int):
        if k not in self.kept:
            with np.load(self.job.path("lut", k)) as part:
                self.kept[k] = part["gid"], part["mode"]
        return self.kept[k]


def core_row(job: Job, row: int) -> tuple[Any, Any, float]:
    """Assemble the cores of one row of the grid; return gids, their pixels, and peak memory."""
    labels: dict[int, Any] = {}
    gids, pixels, luts = [], [], Luts(job)
    first = row * job.grid.n_cols
    for k in range(first, first + job.grid.n_cols):
        near = (k, *job.grid.neighbours(k))
        for other in near:
            if other not in labels:
                with np.load(job.path("tile", other)) as part:
                    labels[other] = part["labels"]
        views = {n: (job.grid.tile(n).window, labels[n]) for n in near}
        out = assemble_core(job.grid.tile(k), views, luts)
        np.save(job.folder / f"core_{k}.npy", out.astype(np.int32))
        found, count, _ = measure_core(out, job.grid.tile(k).core)
        gids.append(found)
        pixels.append(count)
        for near in (labels, luts.kept):
            for n in [n for n in near if n % job.grid.n_cols < k % job.grid.n_cols]:
                del near[n]
    return np.concatenate(gids), np.concatenate(pixels), peak_mb()


def relabel_row(job: Job, row: int, lut_path: Path) -> float:
    """Give the cores of one row their final ids."""
    lut = np.load(lut_path, mmap_mode="r")
    first = row * job.grid.n_cols
    for k in range(first, first + job.grid.n_cols):
        path = job.folder / f"core_{k}.npy"
        np.save(path, lut[np.load(path)])
    return peak_mb()


def cpu_s() -> float:
    """Return the CPU seconds of this process and of its workers that have ended."""
    return sum(
        u.ru_utime + u.ru_stime
        for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def join_tables(job: Job) -> tuple[NodeTable, SeamTable]:
    nodes, seams = [], []
    for k in range(len(job.grid)):
        with np.load(job.path("tile", k)) as part:
            nodes.append(NodeTable(**{n: part[n] for n in NodeTable.__dataclass_fields__}))
    for row in range(job.grid.n_rows):
        with np.load(job.path("seam", row)) as part:
            seams.append(SeamTable(**{n: part[n] for n in SeamTable.__dataclass_fields__}))
    return NodeTable.concatenate(nodes), SeamTable.concatenate(seams)


def measure(edge: int, folder: Path) -> dict[str, Any]:
    """Stitch one scene of `edge` px from disk; return seconds by stage, memory and counts."""
    job = Job(TileGrid((edge, edge), CORE_PX, HALO_PX), folder)
    rows, times = range(job.grid.n_rows), {}
    with ProcessPoolExecutor(WORKERS) as pool:
        views = sum(pool.map(make_tile, [job] * len(job.grid), range(len(job.grid))))
    # fresh workers, so that their peak memory and CPU time are those of stitching
    cpu = cpu_s()
    with ProcessPoolExecutor(WORKERS) as pool:
        list(pool.map(peak_warm, range(WORKERS)))
        clock = time.perf_counter()

        def lap(name: str) -> None:
            nonlocal clock
            times[name] = round(time.perf_counter() - clock, 3)
            clock = time.perf_counter()

        peaks = list(pool.map(seam_row, [job] * len(rows), rows))
        lap("seam_s")
        nodes, seams = join_tables(job)
        done = resolve(nodes, seams, job.grid)
        for k in range(len(job.grid)):
            gid, mode = done.lut(k)
            np.savez(job.path("lut", k), gid=gid, mode=mode)
        n = len(done.segments)
        del nodes, seams
        lap("resolve_s")
        parts = list(pool.map(core_row, [job] * len(rows), rows))
        lap("assemble_s")
        gids = np.concatenate([p[0] for p in parts])
        ids = number(gids, np.concatenate([p[1] for p in parts]), 1)
        lut = np.zeros(n + 1, np.int32)
        lut[gids] = ids
        np.save(folder / "lut.npy", lut)
        peaks += list(
            pool.map(relabel_row, [job] * len(rows), rows, [folder / "lut.npy"] * len(rows))
        )
        lap("relabel_s")
    peaks += [p[2] for p in parts]
    return times | {
        "edge_px": edge,
        "tiles": len(job.grid),
        "views": views,
        "objects": int(ids.max()),
        "total_s": round(sum(times.values()), 3),
        "cpu_s": round(cpu_s() - cpu, 3),
        "coordinator_peak_mb": round(peak_mb()),
        "worker_peak_mb": round(max(peaks)),
        "all_peak_mb": round(peak_mb() + WORKERS * max(peaks)),
    }


def peak_warm(_: int) -> float:
    """Load the compiled loops of a worker before the clock starts (0.1 s from their cache)."""
    truth = np.ones((4, 4), np.int32)
    grid = TileGrid((4, 6), 4, 2)
    tiles = [
        label_tile(
            PanopticTile(
                t,
                np.ones(t.window.shape, np.uint8),
                np.ones(t.window.shape, np.int32),
                np.array([0, 1], np.uint8),
                np.ones(t.window.shape, np.uint8),
            ),
            grid.shape,
        )
        for t in grid
    ]
    match_seam(tiles[0], tiles[1], 0.25)
    return float(truth.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edges", default="5000,10000,20000,40000")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = []
    for edge in map(int, options.edges.split(",")):
        before = os.getloadavg()[0]
        with tempfile.TemporaryDirectory() as name:
            results.append(measure(edge, Path(name)) | {"load_before": round(before, 1)})
        print(json.dumps(results[-1]), flush=True)
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            record = {
                "tiling": {"core_px": CORE_PX, "halo_px": HALO_PX},
                "workers": WORKERS,
                "machine": f"{platform.platform()}, {os.cpu_count()} cores",
                "results": results,
            }
            (options.out / "stitching_cost.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()

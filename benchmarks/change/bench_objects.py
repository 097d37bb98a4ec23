"""Change at scale: two vector layers of a million buildings each, by the command a user types.

    python benchmarks/change/bench_objects.py [--objects 1000000] [--folder DIR] [--record FILE]

Makes a town of L-shaped houses in two dates (kept in DIR for a second run): most houses are drawn
anew with 0.15 m of noise, some are equal, removed, added, grown, split, merged; the second date is
0.8 m too far east and 0.6 m too far south. Then runs `geopanoptic change before.gpkg after.gpkg
--out changes.gpkg` in a fresh process; reading, registration, comparison, all layers written,
verified. Targets: <= 120 s and <= 4 GB on 2 cores.

Seconds are wall and CPU (user + system) of the process; on a busy machine the CPU seconds tell
more. Memory is the greatest resident size, sampled every 50 ms.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import psutil
import pyogrio
import shapely

LOT_M = 30.0
CRS = "EPSG:32631"
OFFSET = (0.8, -0.6)
# share of lots by what becomes of their house; the rest is drawn anew
SHARES = {"equal": 0.1, "removed": 0.05, "added": 0.05, "grown": 0.03, "split": 0.02,
          "merged": 0.02}  # fmt: skip


def houses(rng: np.random.Generator, n: int, scale: float = 1.0) -> np.ndarray:
    """Return the corners (n, 6, 2) of L-shaped houses around the origin, turned at random."""
    w, h = rng.uniform(8, 14, n) * scale, rng.uniform(8, 14, n) * scale
    a, b = w * rng.uniform(0.4, 0.8, n), h * rng.uniform(0.4, 0.8, n)
    zero = np.zeros(n)
    x = np.stack([zero, w, w, a, a, zero], 1) - w[:, None] / 2
    y = np.stack([zero, zero, b, b, h, h], 1) - h[:, None] / 2
    t = rng.uniform(0, 2 * np.pi, n)[:, None]
    return np.stack([x * np.cos(t) - y * np.sin(t), x * np.sin(t) + y * np.cos(t)], 2)


def town(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, dict[str, int]]:
    """Return the outlines of both dates and how many lots of each fate there are."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(n)))
    lot = np.stack(np.divmod(np.arange(n), side), 1) * LOT_M + [450_000, 5_400_000]
    fate = rng.choice([*SHARES, "drawn"], n, p=[*SHARES.values(), 1 - sum(SHARES.values())])
    corners = houses(rng, n) + lot[:, None, :]
    noise = rng.uniform(-0.15, 0.15, corners.shape)
    later = corners + np.where((fate == "drawn")[:, None, None], noise, 0.0)
    grown = fate == "grown"
    later[grown] = lot[grown, None] + (corners[grown] - lot[grown, None]) * np.sqrt(1.7)
    halves = shapely.box(*np.concatenate([lot - LOT_M, np.add(lot, [-0.5, LOT_M])], 1).T)
    others = shapely.box(*np.concatenate([np.add(lot, [0.5, -LOT_M]), lot + LOT_M], 1).T)
    before, after = shapely.polygons(corners), shapely.polygons(later)
    parts: dict[str, list[np.ndarray]] = {"before": [], "after": []}
    for name, whole, where in (
        ("after", after, fate == "split"),
        ("before", before, fate == "merged"),
    ):
        parts[name] = [shapely.intersection(whole[where], c[where]) for c in (halves, others)]
    before = np.concatenate([before[(fate != "added") & (fate != "merged")], *parts["before"]])
    after = np.concatenate([after[(fate != "removed") & (fate != "split")], *parts["after"]])
    after = shapely.transform(after, lambda xy: xy + np.array(OFFSET))
    names, counts = np.unique(fate, return_counts=True)
    return before, after, dict(zip(names.tolist(), counts.tolist(), strict=True))


def make(folder: Path, n: int) -> dict[str, Any]:
    """Write both dates once; return what is in them."""
    about = folder / f"town_{n}.json"
    if not about.exists():
        before, after, fates = town(n)
        for name, outlines in (("before", before), ("after", after)):
            rng = np.random.default_rng(1)
            frame = geopandas.GeoDataFrame(
                {"id": rng.permutation(len(outlines)) + 1, "class_name": "building",
                 "score": rng.uniform(0.5, 1.0, len(outlines))},
                geometry=outlines, crs=CRS,
            )  # fmt: skip
            pyogrio.write_dataframe(frame, folder / f"{name}_{n}.gpkg", use_arrow=True)
        about.write_text(json.dumps({"objects": [len(before), len(after)], "fates": fates}))
    return dict(json.loads(about.read_text()))


def measured(command: list[str]) -> dict[str, float]:
    """Run a command; return wall and CPU seconds and the peak of its memory."""
    start, peak = time.monotonic(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    watched = psutil.Process(process.pid)
    cpu = 0.0
    while process.poll() is None:
        try:
            peak = max(peak, watched.memory_info().rss)
            cpu = sum(watched.cpu_times()[:2])
        except psutil.NoSuchProcess:
            break
        time.sleep(0.05)
    if process.wait() != 0:
        raise SystemExit(f"{' '.join(command)} failed with {process.returncode}")
    return {
        "wall_s": round(time.monotonic() - start, 1),
        "cpu_s": round(cpu, 1),
        "peak_gb": round(peak / 1e9, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "gp_town")
    parser.add_argument("--record", type=Path)
    asked = parser.parse_args()
    asked.folder.mkdir(parents=True, exist_ok=True)
    about = make(asked.folder, asked.objects)
    before, after = (asked.folder / f"{d}_{asked.objects}.gpkg" for d in ("before", "after"))
    out = asked.folder / "changes.gpkg"
    load = os.getloadavg()[0]
    command = [sys.executable, "-m", "geopanoptic.cli.main", "change", str(before), str(after),
               "--out", str(out), "--overwrite"]  # fmt: skip
    found = measured(command)
    report = json.loads(out.with_name("report.json").read_text())
    result = {
        "command": "geopanoptic change before.gpkg after.gpkg --out changes.gpkg",
        **about,
        **found,
        "status_counts": report["objects"]["counts"],
        "offset_m": report["registration"]["offset_m"],
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "load_after": round(os.getloadavg()[0], 2),
        "machine": platform.processor() or platform.machine(),
        "date": dt.date.today().isoformat(),
    }
    text = json.dumps(result, indent=1)
    print(text)
    if asked.record is not None:
        asked.record.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

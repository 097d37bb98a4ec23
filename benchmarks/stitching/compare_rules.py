"""Compare rule G with the rules of peers on one synthetic town; write the results.

python benchmarks/stitching/compare_rules.py [--edge 3072] [--overlaps 0,16,32,64,128] [--out DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fates import ERRORS, Fates, crossing, fates, panoptic_quality
from peers import PEERS
from stitch_support import Noise, NoisySegmenter, OracleSegmenter, fast_pieces, stitch_tiles
from town import KINDS, Town, make_town

from geopanoptic.contingency import Contingency
from geopanoptic.grid import TileGrid
from geopanoptic.stitch import label_tile

TILE_PX = 512
OURS = "G (geopanoptic)"


@dataclass(frozen=True)
class Case:
    """One scene seen by one oracle: `ideal` ids are what it says without tiles."""

    name: str
    town: Town
    predict: Callable[..., Any]
    ideal: Any
    kind: Any


def exact_case(town: Town) -> Case:
    return Case(
        "exact",
        town,
        OracleSegmenter(town.truth, pieces=fast_pieces).predict,
        town.truth.instance,
        town.kind,
    )


def noisy_case(town: Town, noise: Noise, seed: int) -> Case:
    oracle = NoisySegmenter(town.truth, noise, seed)
    return Case("noisy", town, oracle.predict, oracle.ideal.instance, town.kind[oracle.origin])


def our_rule(tiles, grid: TileGrid):
    return stitch_tiles(tiles, grid).ids.astype(np.int64)


def run_rule(tiles, grid: TileGrid, rule) -> tuple[Any, float]:
    start = time.process_time()
    ids = rule(tiles, grid)
    seconds = time.process_time() - start
    there = np.zeros(int(ids.max()) + 1, bool)
    there[ids] = True
    there[0] = False
    return np.cumsum(there)[ids] * (ids > 0), seconds


def measured(case: Case, ids, grid: TileGrid, seam) -> dict[str, Any]:
    """Return the figures of one rule on one grid; `seam` bool by ideal id: it is on a seam."""
    table = Contingency.of(case.ideal, ids)
    n = int(case.ideal.max())
    fate = fates(table, n)
    inner = (np.arange(n + 1) > 0) & ~seam
    return {
        "pq_truth": panoptic_quality(
            table if case.name == "exact" else Contingency.of(case.town.truth.instance, ids)
        ),
        "pq_ideal": panoptic_quality(table),
        "pq_seam": panoptic_quality(table, seam, crossing(ids, grid)),
        "objects": n,
        "found": int(ids.max()),
        "seam": counts(fate, seam),
        "interior": counts(fate, inner),
        "by_kind": {
            name: counts(fate, seam & (case.kind == k)) for k, name in enumerate(KINDS) if k
        },
    }


def counts(fate: Fates, which) -> dict[str, int]:
    return {"objects": int(which.sum()), "error": int((fate.error & which).sum())} | {
        name: int((getattr(fate, name) & which).sum()) for name in (*ERRORS, "duplicated")
    }


def compare(case: Case, overlap: int, rules) -> dict[str, Any]:
    """Run all rules at one overlap on two grids, half a core apart."""
    core = TILE_PX - overlap
    shape, results = case.ideal.shape, {name: {"phases": [], "cpu_s": 0.0} for name in rules}
    maps: dict[str, list[Any]] = {name: [] for name in rules}
    for origin in ((0, 0), (core // 2, core // 2)):
        grid = TileGrid(shape, core, overlap // 2, origin)
        tiles = {t.index: label_tile(case.predict(t), shape) for t in grid}
        seam = crossing(case.ideal, grid)
        for name, rule in rules.items():
            ids, seconds = run_rule(tiles, grid, rule)
            results[name]["phases"].append(measured(case, ids, grid, seam))
            results[name]["cpu_s"] += seconds
            maps[name].append(ids)
    for name in rules:
        results[name]["pq_phase"] = panoptic_quality(Contingency.of(*maps[name]))
        results[name] |= summary(results[name].pop("phases"))
    return results


def summary(phases: list[dict[str, Any]]) -> dict[str, Any]:
    """Average the PQs of the phases, add up their counts, and give the rates in per cent."""
    merged = {
        k: float(np.mean([p[k] for p in phases])) for k in ("pq_truth", "pq_ideal", "pq_seam")
    }
    add = lambda parts: {k: sum(p[k] for p in parts) for k in parts[0]}  # noqa: E731
    merged["count_error"] = sum(p["found"] for p in phases) / sum(p["objects"] for p in phases) - 1
    for group in ("seam", "interior"):
        merged[group] = with_rates(add([p[group] for p in phases]))
    merged["by_kind"] = {
        k: with_rates(add([p["by_kind"][k] for p in phases])) for k in phases[0]["by_kind"]
    }
    return merged


def with_rates(total: dict[str, int]) -> dict[str, Any]:
    return total | {"error_rate": total["error"] / max(1, total["objects"])}


def table_of(results: dict[str, Any], case: str) -> str:
    """Return the figures of one case as a Markdown table: seam error per cent / seam PQ."""
    overlaps = list(results[case])
    lines = [
        "| rule | " + " | ".join(f"o={o}" for o in overlaps) + " |",
        "|---" * (len(overlaps) + 1) + "|",
    ]
    for name in results[case][overlaps[0]]:
        cells = [results[case][o][name] for o in overlaps]
        lines.append(
            f"| {name} | "
            + " | ".join(f"{100 * c['seam']['error_rate']:.2f} / {c['pq_seam']:.3f}" for c in cells)
            + " |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edge", type=int, default=3072)
    parser.add_argument("--overlaps", default="0,16,32,64,128")
    parser.add_argument("--cases", default="exact,noisy")
    parser.add_argument("--rules", default="")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    town = make_town(options.edge, options.seed)
    rules = {OURS: our_rule} | PEERS
    if options.rules:
        rules = {k: v for k, v in rules.items() if any(r in k for r in options.rules.split(","))}
    makers = {
        "exact": lambda: exact_case(town),
        "noisy": lambda: noisy_case(town, Noise(), options.seed),
    }
    results: dict[str, Any] = {}
    for name in options.cases.split(","):
        case, results[name] = makers[name](), {}
        for overlap in map(int, options.overlaps.split(",")):
            results[name][str(overlap)] = compare(case, overlap, rules)
            print(f"{name}, overlap {overlap} px: done", flush=True)
        print(table_of(results, name))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        path = options.out / "stitching.json"
        record = json.loads(path.read_text()) if path.exists() else {"scenes": {}, "results": {}}
        scene = {"edge_px": options.edge, "objects": town.truth.n, "seed": options.seed}
        record["scenes"] |= dict.fromkeys(results, scene)
        record["results"] |= results
        record |= {
            "tile_px": TILE_PX,
            "noise": asdict(Noise()),
            "machine": f"{platform.platform()}, {os.cpu_count()} cores",
        }
        path.write_text(json.dumps(record, indent=1) + "\n")
        print(f"wrote {path} in {(time.perf_counter() - start) / 60:.0f} min")


if __name__ == "__main__":
    main()

"""Draw the recorded results of the stitching benchmarks; needs matplotlib and nothing else.

python benchmarks/stitching/plots.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(__file__).parents[1] / "results"
OURS = "G (geopanoptic)"


def plot_rules(by_overlap: dict[str, Any], path: Path) -> None:
    """Draw seam error and seam PQ of the noisy case against the overlap, one line per rule."""
    overlaps = sorted(map(int, by_overlap))
    fig, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), dpi=80)
    for name in by_overlap[str(overlaps[0])]:
        style = {"lw": 2.5, "color": "k"} if name == OURS else {"lw": 1}
        cells = [by_overlap[str(o)][name] for o in overlaps]
        left.plot(overlaps, [100 * c["seam"]["error_rate"] for c in cells], "o-", ms=3, **style)
        quality = [c["pq_seam"] for c in cells]
        right.plot(overlaps, quality, "o-", ms=3, label=name, **style)
    inner = [100 * by_overlap[str(o)][OURS]["interior"]["error_rate"] for o in overlaps]
    left.plot(overlaps, inner, "k:", label="G, away from seams")
    left.set(yscale="log", xlabel="overlap, px", ylabel="objects on seams in error, %")
    left.legend(fontsize=7)
    right.set(xlabel="overlap, px", ylabel="PQ of objects on seams")
    right.legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))
    fig.tight_layout()
    fig.savefig(path)


def plot_cost(results: list[dict[str, Any]], path: Path) -> None:
    """Draw seconds by stage and peak memory against the size of the scene."""
    area = [r["edge_px"] ** 2 / 1e6 for r in results]
    fig, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), dpi=80)
    for name in ("cpu_s", "total_s", "seam_s", "assemble_s", "relabel_s", "resolve_s"):
        left.loglog(area, [r[name] for r in results], "o-", label=name.removesuffix("_s"), ms=3)
    left.loglog(area, [results[0]["cpu_s"] * a / area[0] for a in area], "k:", label="linear")
    left.set(xlabel="scene, Mpx", ylabel="seconds, 2 processes")
    left.legend(fontsize=7)
    for name, label in (("all_peak_mb", "all processes"), ("coordinator_peak_mb", "coordinator")):
        right.semilogx(area, [r[name] for r in results], "o-", label=label, ms=3)
    right.set(xlabel="scene, Mpx", ylabel="peak memory, MB", ylim=(0, None))
    right.legend(fontsize=7)
    fig.tight_layout()
    fig.savefig(path)


def main() -> None:
    rules = json.loads((RESULTS / "stitching.json").read_text())
    plot_rules(rules["results"]["noisy"], RESULTS / "stitching.png")
    cost = json.loads((RESULTS / "stitching_cost.json").read_text())
    plot_cost(cost["results"], RESULTS / "stitching_cost.png")


if __name__ == "__main__":
    main()

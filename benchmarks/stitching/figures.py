"""Print the figures of `docs/stitching.md` from the recorded results, as Markdown.

python benchmarks/stitching/figures.py [--write]      # --write: into the page, between marks
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "stitching.md"
OURS = "G (geopanoptic)"
BEGIN, END = "<!-- figures: {} -->\n", "<!-- end of figures -->"


def rules_table(results: dict[str, Any]) -> str:
    """Return seam error in per cent / seam PQ of every rule at every overlap, noisy oracle."""
    by_overlap = ascending(results["results"]["noisy"])
    rows = [["rule", *(f"{o} px" for o in by_overlap)], ["---"] * (len(by_overlap) + 1)]
    for name in by_overlap["64"]:
        cells = [by_overlap[o][name] for o in by_overlap]
        figures = [f"{100 * c['seam']['error_rate']:.2f} / {c['pq_seam']:.3f}" for c in cells]
        rows.append([f"**{name}**" if name == OURS else name, *figures])
    scene = results["scenes"]["noisy"]
    inner = [100 * by_overlap[o][OURS]["interior"]["error_rate"] for o in by_overlap]
    rows.append(["*away from seams, G*", *(f"{e:.2f}" for e in inner)])
    return (
        f"{scene['objects']} objects, {scene['edge_px']} x {scene['edge_px']} px.\n\n"
        + markdown(rows)
    )


def kinds_table(results: dict[str, Any]) -> str:
    """Return G's and the next best rule's errors by kind of object at 64 px."""
    at_64 = results["results"]["noisy"]["64"]
    peers = {k: v for k, v in at_64.items() if k != OURS}
    best = min(peers, key=lambda k: peers[k]["seam"]["error_rate"])
    rows = [
        ["kind", "objects on seams", "lost", "merged", "split", "G, % in error", f"{best}, %"],
        ["---"] * 7,
    ]
    for kind, c in at_64[OURS]["by_kind"].items():
        other = peers[best]["by_kind"][kind]
        rates = (f"{100 * x['error_rate']:.2f}" for x in (c, other))
        rows.append([kind, *(str(c[k]) for k in ("objects", "lost", "merged", "split")), *rates])
    return markdown(rows)


def exact_line(results: dict[str, Any]) -> str:
    """Say what the exact oracle gave."""
    scene, exact = results["scenes"]["exact"], ascending(results["results"]["exact"])
    with_halo = [c[OURS] for o, c in exact.items() if o != "0"]
    pq = min(c["pq_truth"] for c in with_halo)
    errors = sum(c[g]["error"] for c in with_halo for g in ("seam", "interior"))
    return (
        f"Exact oracle, {scene['objects']} objects on {scene['edge_px']} x {scene['edge_px']} px, "
        f"overlaps of {', '.join(o for o in exact if o != '0')} px, two grid origins each: "
        f"least PQ {pq:.4f}, {errors} objects in error (without a halo: PQ "
        f"{exact['0'][OURS]['pq_truth']:.4f}).\n"
    )


def cost_table(cost: dict[str, Any]) -> str:
    """Return time and memory against the size of the scene."""
    names = ("seam_s", "resolve_s", "assemble_s", "relabel_s", "total_s", "cpu_s")
    rows = [
        [
            *("edge, px", "objects"),
            *(n.removesuffix("_s") + ", s" for n in names),
            *("peak, MB", "load before"),
        ],
        ["---"] * (len(names) + 4),
    ]
    rows += [
        [
            str(r["edge_px"]),
            str(r["objects"]),
            *(f"{r[n]:.1f}" for n in names),
            str(r["all_peak_mb"]),
            str(r["load_before"]),
        ]
        for r in cost["results"]
    ]
    return markdown(rows)


def ascending(by_overlap: dict[str, Any]) -> dict[str, Any]:
    return {o: by_overlap[o] for o in sorted(by_overlap, key=int)}


def markdown(rows: list[list[str]]) -> str:
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def figures() -> dict[str, str]:
    """Return all figures by their mark in the page."""
    results = json.loads((RESULTS / "stitching.json").read_text())
    cost = json.loads((RESULTS / "stitching_cost.json").read_text())
    return {
        "exact": exact_line(results),
        "rules": rules_table(results),
        "kinds": kinds_table(results),
        "cost": cost_table(cost),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    page = PAGE.read_text()
    for mark, text in figures().items():
        before, rest = page.split(BEGIN.format(mark))
        page = before + BEGIN.format(mark) + text + END + rest.split(END, 1)[1]
        print(text)
    if write:
        PAGE.write_text(page)


if __name__ == "__main__":
    main()

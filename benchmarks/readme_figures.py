"""Write the README's figures from the recorded results: `python benchmarks/readme_figures.py`."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"<!-- figures -->.*?<!-- end of figures -->", re.DOTALL)


def results(name: str) -> Any:
    return json.loads((ROOT / "benchmarks" / name).read_text())


def figures() -> str:
    """Return the lines between the README's marks."""
    scene = results("results/whole_scene.json")
    model = results("results/model_quality_v3.json")
    seams = results("results/seams_banepa.json")
    cost = results("results/stitching_cost.json")
    polygons = results("results/polygons.json")["scene"]
    evaluation = results("evaluation/results.json")
    rows, cols = scene["shape"]
    buildings, vehicles = model["buildings"], model["vehicles"]["iou_0.5"]
    run, forward = scene["end_to_end"], scene["forward"]
    same = scene["consistency"]["same_pixels"]["not_cut_by_the_rim"]["pq"]
    twenty = next(c for c in cost["results"] if c["edge_px"] == 20000)
    judged = evaluation["scene"]
    kampala, kitsap = buildings["kampala"], buildings["kitsap_south"]
    pooled = buildings["pooled"]
    flipped = results("results/model_gsd.json")["runs"]["0.3 m, flips"]["pooled"]
    things = polygons["things"]
    table = [
        (
            "A town by drone, 0.13 m read at 0.3 m",
            f"{cols} x {rows} px: {run['seconds']:.0f} s end to end, "
            f"{run['peak_memory_mb'] / 1000:.1f} GB at the peak; the bare network alone takes "
            f"{forward['seconds']:.0f} s ({scene['ratio']:.2f} x)",
            "`benchmarks/predict`",
        ),
        (
            "The same place cut out and mapped alone",
            f"buildings not cut by the rim: PQ {same:.3f} against the whole map",
            "`benchmarks/predict`",
        ),
        (
            "The labelled part, cut into tiles in two ways half a tile apart",
            f"PQ of buildings {seams['phase_shift']['building']['pq']:.3f}, against one window "
            f"{seams['untiled']['building']['pq']:.3f}; "
            f"{seams['near_seam']['missed_near']:.1%} of the objects near seams are missed, "
            f"{seams['near_seam']['missed_away']:.1%} of the others",
            "`geopanoptic bench seams`",
        ),
        (
            "Buildings, places never trained on",
            f"Kampala F1 {kampala['f1']:.2f}, PQ {kampala['pq']:.2f}; "
            f"Kitsap south F1 {kitsap['f1']:.2f}, PQ {kitsap['pq']:.2f}; both together "
            f"{pooled['f1']:.2f} and {pooled['pq']:.2f}, with `--tta flips` "
            f"{flipped['f1']:.2f} and {flipped['pq']:.2f}",
            "`benchmarks/model_quality.py`",
        ),
        (
            "Vehicles, a sequence never trained on",
            f"Munich F1 {vehicles['f1']:.2f} (boxes, IoU >= 0.5)",
            "`benchmarks/model_quality.py`",
        ),
        (
            "Stitching alone, 20,000 x 20,000 px",
            f"{twenty['objects']:,} objects: {twenty['total_s']:.0f} s, "
            f"{twenty['all_peak_mb'] / 1000:.2f} GB",
            "`benchmarks/stitching`",
        ),
        (
            "Polygons, 20,000 x 20,000 px",
            f"{things['features']:,} things to GeoPackage: {things['cpu_s']:.0f} CPU s, "
            f"{things['peak_mb'] / 1000:.2f} GB",
            "`benchmarks/polygons`",
        ),
        (
            "Evaluation, 20,000 x 20,000 px",
            f"{judged['truth_objects']:,} objects: {judged['wall_s']:.0f} s, "
            f"{judged['memory_mb'] / 1000:.2f} GB",
            "`benchmarks/evaluation`",
        ),
    ]
    lines = [
        f"Measured on {scene['machine']}, {scene['date']}, on the CPU; the machine was shared and "
        "partly busy, so times are on the high side. Every figure comes from the script beside it.",
        "",
        "| what | figure | script |",
        "|---|---|---|",
        *(f"| {a} | {b} | {c} |" for a, b, c in table),
    ]
    return "\n".join(lines)


def filled(readme: str) -> str:
    """Return the README with its figures replaced."""
    block = f"<!-- figures -->\n{figures()}\n<!-- end of figures -->"
    return MARK.sub(lambda _: block, readme)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(filled(path.read_text()))

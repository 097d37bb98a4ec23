"""Joplin 2011, before and after the tornado: compare the model's maps of both images, honestly.

    python benchmarks/change/joplin.py [--shared ../shared] [--model NAME] [--folder DIR] [--docs]

Runs `geopanoptic change pre post --predict` in a fresh process and judges the building events by
the reference of `change_joplin_2011_west` (buildings and their damage by another model: lost when
the damage is 4). A reference building counts as found when a mapped building of the before date
covers at least half of it, or it half of one; it counts as told lost when all its finders are in
events `removed`. Also scores the comparison alone, without our model: the reference buildings at
both dates as vector files. Writes benchmarks/results/change_joplin.json; --docs puts the tables
into docs/change.md between its marks.
"""

from __future__ import annotations

import argparse
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
import shapely

ROOT = Path(__file__).resolve().parents[2]
RESULT = ROOT / "benchmarks" / "results" / "change_joplin.json"
MARKS = "<!-- joplin -->", "<!-- /joplin -->"
LOST_DAMAGE = 4


def run(arguments: list[str]) -> dict[str, Any]:
    """Run the command line in a fresh process; return its JSON."""
    command = [sys.executable, "-m", "geopanoptic.cli.main", *arguments, "--json"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def scores(lost: np.ndarray, told: np.ndarray) -> dict[str, Any]:
    """Return precision, recall and F1 of `told` against `lost`."""
    tp, fp, fn = int((lost & told).sum()), int((~lost & told).sum()), int((lost & ~told).sum())
    return {
        "tp": tp, "fp": fp, "fn": fn, "tn": int((~lost & ~told).sum()),
        "precision": tp / max(tp + fp, 1), "recall": tp / max(tp + fn, 1),
        "f1": 2 * tp / max(2 * tp + fp + fn, 1),
    }  # fmt: skip


def judge(gpkg: Path, reference: geopandas.GeoDataFrame) -> dict[str, Any]:
    """Return how the mapped building events agree with the reference buildings."""
    mapped = geopandas.read_file(gpkg, layer="objects_before")
    mapped = mapped[mapped.class_name == "building"].to_crs(32615).reset_index(drop=True)
    truth = reference.to_crs(32615)
    ground = geopandas.read_file(gpkg, layer="landcover_change").to_crs(32615)
    inside = truth.representative_point().within(shapely.box(*ground.total_bounds))
    truth = truth[inside].reset_index(drop=True)
    shapes = shapely.make_valid(np.asarray(truth.geometry.array))
    others = shapely.make_valid(np.asarray(mapped.geometry.array))
    t, m = shapely.STRtree(others).query(shapes, predicate="intersects")
    common = shapely.area(shapely.intersection(shapes[t], others[m]))
    half = common >= 0.5 * np.minimum(shapely.area(shapes[t]), shapely.area(others[m]))
    seen = (mapped.status != "unobserved").to_numpy()[m]
    t, m = t[half & seen], m[half & seen]
    removed = (mapped.status == "removed").to_numpy()[m]
    finders = np.bincount(t, minlength=len(truth))
    gone = np.bincount(t, removed, minlength=len(truth))
    lost = (truth.damage == LOST_DAMAGE).to_numpy()
    found = finders > 0
    told = found & (gone == finders)
    return {
        "reference_buildings": len(truth),
        "reference_lost": int(lost.sum()),
        "found_before": int(found.sum()),
        "found_and_lost": int((found & lost).sum()),
        "among_found": scores(lost[found], told[found]),
        "among_all": scores(lost, told),
    }


def judge_reference(reference: geopandas.GeoDataFrame, folder: Path) -> dict[str, Any]:
    """Return F1 of removed and kept when both dates are the reference's own buildings."""
    one, two = folder / "all.gpkg", folder / "standing.gpkg"
    numbered = reference.assign(id=np.arange(1, len(reference) + 1))
    numbered[numbered.at_t1.astype(bool)].to_file(one)
    numbered[numbered.at_t2.astype(bool)].to_file(two)
    out = folder / "reference.gpkg"
    report = run(["change", str(one), str(two), "--out", str(out), "--overwrite"])
    objects = geopandas.read_file(out, layer="objects_before").set_index("object_id")
    lost = ~numbered.at_t2.astype(bool).to_numpy()
    told = (objects.status.reindex(numbered.id) == "removed").to_numpy()
    kept = objects.status.reindex(numbered.id).isin(["unchanged", "modified"]).to_numpy()
    counts = {k: n for k, n in report["objects"]["counts"].items() if n}
    return {"counts": counts, "removed": scores(lost, told), "kept": scores(~lost, kept)}


def table(result: dict[str, Any]) -> str:
    """Return the Markdown that goes into the documentation."""
    own, ref, pair = result["model"], result["reference"], result["registration"]
    among = own["judged"]["among_found"]
    everything = own["judged"]["among_all"]
    counts = ", ".join(f"{n} {s}" for s, n in own["buildings"].items() if n)
    return "\n".join(
        [
            MARKS[0],
            f"`{result['command']}` ({result['machine']}, {result['date']}; model "
            f"`{result['model_name']}`; {own['seconds']:.0f} s, mapping not counted):",
            "",
            f"* Offset by the images: ({pair['offset_m'][0]:+.2f}, {pair['offset_m'][1]:+.2f}) m, "
            f"{pair['coarse']['inliers']} of {pair['coarse']['n']} windows agree, spread "
            f"{pair['coarse']['mad_px']:.2f} px; applied.",
            f"* Building events: {counts}.",
            f"* The reference has {own['judged']['reference_buildings']} buildings on the common "
            f"ground, {own['judged']['reference_lost']} of them lost; the model's map of the "
            f"before date covers {own['judged']['found_before']}.",
            "",
            "| lost buildings | precision | recall | F1 |",
            "|---|---|---|---|",
            f"| the model's maps, buildings that it found before | {among['precision']:.3f} | "
            f"{among['recall']:.3f} | {among['f1']:.3f} |",
            f"| the model's maps, all reference buildings | {everything['precision']:.3f} | "
            f"{everything['recall']:.3f} | {everything['f1']:.3f} |",
            f"| the reference's own buildings at both dates (the comparison alone) | "
            f"{ref['removed']['precision']:.3f} | {ref['removed']['recall']:.3f} | "
            f"{ref['removed']['f1']:.3f} |",
            MARKS[1],
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared")
    parser.add_argument("--model", default=None)
    parser.add_argument("--folder", type=Path, default=None, help="keeps the maps for another run")
    parser.add_argument("--docs", action="store_true", help="enter the tables in docs/change.md")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="joplin-"))
    folder.mkdir(parents=True, exist_ok=True)
    data = (given.shared / "data" / "change_joplin_2011_west").resolve()
    reference = geopandas.read_file(data / "buildings_t1_t2_model.gpkg")
    command = [
        "change",
        str(data / "joplin_pre.tif"),
        str(data / "joplin_post.tif"),
        "--predict",
        "--date-after",
        "2011-05-24",
        "--out",
        str(folder / "changes.gpkg"),
        "--overwrite",
    ]
    command += ["--model", given.model] if given.model else []
    report = run(command)
    about = json.loads((folder / "changes_before.panoptic" / "map.json").read_text())["model"]
    result = {
        "command": "geopanoptic change joplin_pre.tif joplin_post.tif --predict --out changes.gpkg",
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}",
        "model_name": about["name"],
        "registration": report["registration"],
        "model": {
            "buildings": report["objects"]["by_class"]["building"],
            "common_ha": report["common"]["ha"],
            "seconds": report["seconds"],
            "judged": judge(folder / "changes.gpkg", reference),
        },
        "reference": judge_reference(reference, folder),
    }
    RESULT.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    text = table(result)
    print(text)
    if given.docs:
        page = ROOT / "docs" / "change.md"
        before, _, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
        _, _, after = rest.partition(MARKS[1])
        page.write_text(before + text + after, encoding="utf-8")


if __name__ == "__main__":
    main()

"""Measure a model on places it was not trained on: whole scenes, tiled and stitched by predict.

    python benchmarks/model_quality.py DATA [--model NAME] [--out FILE] [--calibrate] [--write-card]

DATA is the folder of labelled scenes (kampala, the southern half of kitsap, dubai tile 2, munich
MOS75-93). Buildings are compared at the scene's own pixels after predict at 0.3 m: F1 and PQ at
IoU > 0.5. Stuff: IoU per class over labelled pixels, where a label that fits several classes
(vegetation: tree or grass) is met by any of them. Vehicles: bounding boxes of the instances
against the drawn boxes, matched greedily by falling IoU, F1 at IoU >= 0.3 and >= 0.5.

Scores of buildings: reliability and expected calibration error (15 bins) on those test places and
on the validation places, which `model_calibration` tells about; beside each error the one that
true probabilities would show on as many segments.

`--calibrate` first fits the card's score model of buildings on the validation places.
`--write-card` puts the figures into the card of the model file and writes docs/model-card.md with
its diagram and the pictures of `model_pictures`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from model_calibration import calibrate, collect, judged, report
from model_failures import failures, failures_page
from model_pictures import BundledScene, gallery, gallery_page
from model_places import TEST, Counts, as_scene, match_boxes, match_regions, run_predict
from scipy import ndimage

from geopanoptic.dataset.boxes import read_yolo
from geopanoptic.metrics import Reliability, segment_hits
from geopanoptic.models import DEFAULT_MODEL, read_card, save_model
from geopanoptic.models.checkpoint import model_path, read_header, read_tensors

ROOT = Path(__file__).parents[1]
MUNICH = [75, 77, 79, 81, 83, 85, 87, 89, 91, 93]
DUBAI_CODES = {1: {7}, 2: {6}, 3: {5, 2}, 4: {1}, 5: {3, 4}}  # their code -> our class ids


def measure_buildings(data: Path, model: str, work: Path) -> dict[str, Any]:
    """Score Kampala and the southern half of Kitsap, each and pooled."""
    out: dict[str, Any] = {}
    regions: dict[str, Counts] = {}
    scores, hits = [], []
    for place in TEST:
        scene, truth = place.read(data, work / "place.tif")
        semantic, instances, score = run_predict(scene, model, 0.3)
        pred = np.where(semantic == 1, instances, 0)
        counts = match_regions(truth, pred)
        regions[place.region] = regions.get(place.region, Counts()) + counts
        ids, hit = segment_hits(truth, pred)
        scores.append(np.array([score[i] for i in ids.tolist()], float))
        hits.append(hit)
        inter, union = ((pred > 0) & (truth > 0)).sum(), ((pred > 0) | (truth > 0)).sum()
        out[place.name] = counts.report() | {
            "pixel_iou": round(float(inter / union), 4),
            "vehicles_predicted": len(np.unique(instances[semantic == 2])),
            "reliability": judged(scores[-1], hit),
            "kinds": failures(truth, pred),
        }
    out |= {region: (out.get(region, {}) | counts.report()) for region, counts in regions.items()}
    out["pooled"] = sum(regions.values(), Counts()).report()
    out["reliability"] = judged(np.concatenate(scores), np.concatenate(hits))
    return out


def measure_stuff(data: Path, model: str, work: Path) -> dict[str, Any]:
    """Score land cover on Dubai tile 2 (about 0.8 m, read at 0.5 m)."""
    with rasterio.open(data / "landcover_dubai/tile2.jpg") as file:
        scene = as_scene(file.read(), 0.8, work / "dubai.tif")
    with rasterio.open(data / "landcover_dubai/tile2_classes.png") as file:
        codes = file.read(1)
    semantic, _, _ = run_predict(scene, model, 0.5)
    names = {1: "water", 2: "bare", 3: "road", 4: "building", 5: "vegetation"}
    out: dict[str, Any] = {}
    labelled = (codes > 0) & (semantic != 0)
    for code, ids in DUBAI_CODES.items():
        truth, pred = labelled & (codes == code), labelled & np.isin(semantic, list(ids))
        out[names[code]] = round(float((truth & pred).sum() / (truth | pred).sum()), 4)
    stuff = [v for k, v in out.items() if k != "building"]
    return out | {"mean_of_stuff": round(float(np.mean(stuff)), 4)}


def measure_vehicles(data: Path, model: str, work: Path) -> dict[str, Any]:
    """Score vehicles on the Munich sequence MOS75-93 at 0.15 m."""
    totals = {0.3: Counts(), 0.5: Counts()}
    for number in MUNICH:
        with rasterio.open(data / f"vehicles_boxes/MOS{number}.jpg") as file:
            rgb = file.read()
        boxes = read_yolo(data / f"vehicles_boxes/MOS{number}.txt", rgb.shape[1:])
        truth = np.concatenate(
            [boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], axis=1
        )
        scene = as_scene(rgb, 0.15, work / "munich.tif")
        semantic, instances, _ = run_predict(scene, model, None)
        found = ndimage.find_objects(np.where(semantic == 2, instances, 0))
        pred = np.array(
            [[r.start, c.start, r.stop, c.stop] for r, c in filter(None, found)], float
        ).reshape(-1, 4)
        for least in totals:
            totals[least] += match_boxes(truth, pred, least)
    return {f"iou_{least}": counts.report() for least, counts in totals.items()}


def card_metrics(result: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Return the figures as the flat rows of a card."""
    rows: list[dict[str, Any]] = []
    for place in ("kampala", "kitsap_south", "pooled"):
        for name in ("f1", "pq"):
            value = result["buildings"][place][name]
            rows.append({"what": f"building {name} at IoU 0.5", "where": place, "value": value})
    for where, found in (
        ("test places", result["buildings"]["reliability"]),
        ("validation, by blocks; mostly trained on", result["validation"]["calibrated"]),
    ):
        what = "building scores: expected calibration error"
        rows.append({"what": what, "where": where, "value": round(found["ece"], 4)})
        floor = found["ece_of_true_probabilities"]
        what = f"the same of true probabilities, {found['segments']} buildings"
        rows.append({"what": what, "where": where, "value": floor})
    for name, value in result["stuff"].items():
        rows.append({"what": f"{name} IoU", "where": "dubai tile 2", "value": value})
    for least, counted in result["vehicles"].items():
        what = f"vehicle box f1 at {least.replace('_', ' ')}"
        rows.append({"what": what, "where": "munich MOS75-93", "value": counted["f1"]})
    return tuple(rows)


def write_card(model: str, result: dict[str, Any]) -> None:
    """Put the figures into the model file's card and write docs/model-card.md."""
    path = model_path(model)
    header = read_header(path)
    card = replace(header.card, metrics=card_metrics(result))
    card = save_model(path, read_tensors(path, header), card)
    (ROOT / "docs").mkdir(exist_ok=True)
    (ROOT / "docs/model-card.md").write_text(card_page(card, result))
    bins = result["buildings"]["reliability"]
    known = Reliability(*(np.array(bins[k]) for k in ("n", "score", "hit_rate")))
    (ROOT / "docs/images/reliability.svg").write_text(known.svg("Buildings, test places") + "\n")


def validation_table(validation: dict[str, Any]) -> list[str]:
    """Return the lines of Markdown that say how far the scores of buildings can be trusted."""
    rows = [("all", validation["raw"], validation["calibrated"], None)]
    strip = validation["held_out_strip"]
    rows.append(
        (
            "banepa strip, not trained on",
            strip["raw"],
            strip["cross_validated"],
            strip["fitted_to_trained_on_places"],
        )
    )
    for name, region in validation["regions"].items():
        rows.append(
            (name, region["raw"], region["cross_validated"], region["fitted_to_other_regions"])
        )
    lines = [
        "## Scores of buildings on validation", "",
        "Every place with outlines but the test places; all but the strip were trained on. "
        "Expected calibration error (15 bins) of the mean probability; of the score model, "
        "cross-validated by blocks of 75 m; in brackets the error that true probabilities would "
        "show on as many segments; of a fit to other places only (for the strip: to those trained "
        "on; for a region: to the other regions). Order: how often a right building scores higher "
        "than a wrong one, by the mean and by the score model.", "",
        "| where | buildings | mean | score model | fitted elsewhere | order |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for name, raw, own, elsewhere in rows:
        floor = own["ece_of_true_probabilities"]
        other = "" if elsewhere is None else f"{elsewhere['ece']:.3f}"
        lines.append(
            f"| {name} | {own['segments']} | {raw['ece']:.3f} | {own['ece']:.3f} ({floor:.3f}) | "
            f"{other} | {raw['auc']:.2f} / {own['auc']:.2f} |"
        )
    return [*lines, ""]


def card_page(card: Any, result: dict[str, Any]) -> str:
    """Return the card and the figures as a page of Markdown."""
    lines = [
        f"# {card.name}", "", card.description, "",
        f"Written by `benchmarks/model_quality.py` on {result['date']}.", "",
        "| promise | |", "|---|---|",
        f"| classes | {', '.join(f'{c.name} ({c.kind})' for c in card.schema.classes)} |",
        f"| bands | {', '.join(card.bands)}, {card.value_range[0]:g}..{card.value_range[1]:g} |",
        f"| GSD | {card.gsd_range_m[0]:g} to {card.gsd_range_m[1]:g} m, "
        f"best {card.preferred_gsd_m:g} m |",
        f"| tile | core {card.core} px, halo {card.halo} px |",
        f"| architecture | {card.architecture} {json.dumps(dict(card.arguments))} |",
        f"| decoder | {card.decoder} {json.dumps(dict(card.thresholds))} |",
        f"| score model | {json.dumps({k: dict(v) for k, v in card.score_model.items()})} |",
        f"| licence | {card.licence} |", f"| sha256 of the weights | `{card.sha256}` |", "",
        "## Measured (on places it was not trained on, but where the row says otherwise)", "",
        "| what | where | value |", "|---|---|---|",
        *(f"| {m['what']} | {m['where']} | {m['value']:.3f} |" for m in card.metrics), "",
        f"Machine: {result['machine']}.", "",
        *validation_table(result["validation"]),
        "![reliability of building scores](images/reliability.svg)", "",
        *gallery_page(result["pictures"]),
        *failures_page(
            {name: found["kinds"] for name, found in result["validation"]["places"].items()}
            | {p.name: result["buildings"][p.name]["kinds"] for p in TEST}
        ),
        "## Trained on", "", "| data | used for | licence |", "|---|---|---|",
        *(f"| {d['name']} | {d['used for']} | {d['licence']} |" for d in card.training_data), "",
        (ROOT / "docs/model-card-notes.md").read_text(),
    ]  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="folder of the labelled scenes")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="bundled name or model file")
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--calibrate", action="store_true", help="fit the card's calibration first")
    parser.add_argument("--write-card", action="store_true", help="into model file and docs")
    given = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        images = ROOT / "docs/images" if given.write_card else work
        found = collect(given.data, given.model, work)
        if given.calibrate:
            calibrate(given.model, found)
        result = {
            "model": read_card(given.model).name,
            "sha256": read_card(given.model).sha256,
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}",
            "buildings": measure_buildings(given.data, given.model, work),
            "validation": report(found),
            "stuff": measure_stuff(given.data, given.model, work),
            "vehicles": measure_vehicles(given.data, given.model, work),
            "pictures": gallery(BundledScene.predicted(given.data, given.model), images),
        }
    result["seconds"] = round(time.monotonic() - start, 1)
    text = json.dumps(result, indent=1)
    print(text)
    if given.out:
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(text + "\n")
    if given.write_card:
        write_card(given.model, result)


if __name__ == "__main__":
    main()

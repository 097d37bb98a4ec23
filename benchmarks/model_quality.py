"""Measure a model on places it was not trained on: whole scenes, tiled and stitched by predict.

    python benchmarks/model_quality.py DATA [--model NAME] [--out FILE] [--write-card]

DATA is the folder of labelled scenes (kampala, the southern half of kitsap, dubai tile 2, munich
MOS75-93). Buildings are compared at the scene's own pixels after predict at 0.3 m: F1 and PQ at
IoU > 0.5. Stuff: IoU per class over labelled pixels, where a label that fits several classes
(vegetation: tree or grass) is met by any of them. Vehicles: bounding boxes of the instances
against the drawn boxes, matched greedily by falling IoU, F1 at IoU >= 0.3 and >= 0.5.

Scores of buildings: reliability and expected calibration error (15 bins) on those test places and
on the validation part, the last 640 rows of the Banepa window and a north-eastern part of Kitsap
(the latter was trained on); there by cross-validation, since the calibration is fitted to it.

`--calibrate` first fits the card's score calibration on the validation part. `--write-card` puts
the figures into the card of the model file and writes docs/model-card.md with its diagram.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.windows import Window as RasterWindow
from scipy import ndimage

from geopanoptic.contingency import Contingency
from geopanoptic.dataset.boxes import read_yolo
from geopanoptic.metrics import Reliability, apply_calibration, fit_calibration, segment_hits
from geopanoptic.metrics.calibration import Knots
from geopanoptic.models import DEFAULT_MODEL, read_card, save_model
from geopanoptic.models.checkpoint import model_path, read_header, read_tensors
from geopanoptic.predict import PredictSettings, predict

ROOT = Path(__file__).parents[1]
OAM = "buildings_oam/areas"
MUNICH = [75, 77, 79, 81, 83, 85, 87, 89, 91, 93]
DUBAI_CODES = {1: {7}, 2: {6}, 3: {5, 2}, 4: {1}, 5: {3, 4}}  # their code -> our class ids


@dataclass(frozen=True)
class Counts:
    """What a match of objects adds up from: pairs, their IoU, misses on both sides."""

    tp: int = 0
    iou_sum: float = 0.0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.tp + other.tp,
            self.iou_sum + other.iou_sum,
            self.fp + other.fp,
            self.fn + other.fn,
        )

    def report(self) -> dict[str, float]:
        objects = max(2 * self.tp + self.fp + self.fn, 1)
        return {
            "f1": round(2 * self.tp / objects, 4),
            "pq": round(2 * self.iou_sum / objects, 4),
            "precision": round(self.tp / max(self.tp + self.fp, 1), 4),
            "recall": round(self.tp / max(self.tp + self.fn, 1), 4),
            "truth": self.tp + self.fn,
            "predicted": self.tp + self.fp,
        }


def match_regions(truth: npt.NDArray[Any], pred: npt.NDArray[Any]) -> Counts:
    """Match two id rasters (0 = none) at IoU > 0.5, where pairs are unique."""
    table = Contingency.of(truth, pred)
    areas = [np.bincount(a.ravel()) for a in (truth, pred)]
    both = (table.a > 0) & (table.b > 0)
    inter = table.pixels[both]
    iou = inter / (areas[0][table.a[both]] + areas[1][table.b[both]] - inter)
    pairs = iou[iou > 0.5]
    n_truth, n_pred = (int((a[1:] > 0).sum()) for a in areas)
    return Counts(len(pairs), float(pairs.sum()), n_pred - len(pairs), n_truth - len(pairs))


def match_boxes(truth: npt.NDArray[Any], pred: npt.NDArray[Any], least: float) -> Counts:
    """Match boxes (row0, col0, row1, col1) one to one, by falling IoU, down to `least`."""
    low = np.maximum(truth[:, None, :2], pred[None, :, :2])
    high = np.minimum(truth[:, None, 2:], pred[None, :, 2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=-1)
    area = [np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (truth, pred)]
    iou = inter / np.maximum(area[0][:, None] + area[1][None] - inter, 1e-9)
    pairs = []
    used: tuple[set[int], set[int]] = (set(), set())
    for flat in np.argsort(-iou, axis=None):
        i, j = divmod(int(flat), iou.shape[1])
        if iou[i, j] < least:
            break
        if i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            pairs.append(float(iou[i, j]))
    return Counts(len(pairs), sum(pairs), len(pred) - len(pairs), len(truth) - len(pairs))


@dataclass(frozen=True)
class Scored:
    """Predicted objects of one class: `score` and whether each is right (`hit`), by place."""

    score: npt.NDArray[np.float64]
    hit: npt.NDArray[np.bool_]

    def __add__(self, other: Scored) -> Scored:
        both = (self.score, other.score), (self.hit, other.hit)
        return Scored(*(np.concatenate(pair) for pair in both))

    def reliability(self, knots: Knots = ()) -> Reliability:
        return Reliability.of(apply_calibration(knots, self.score), self.hit)

    def cross_validated(self, folds: int = 5) -> Reliability:
        """Return the reliability of scores that were calibrated on the other folds."""
        fold = np.random.default_rng(1).permutation(len(self.score)) % folds
        mended = np.empty(len(self.score))
        for k in range(folds):
            here = fold == k
            knots = fit_calibration(self.score[~here], self.hit[~here])
            mended[here] = apply_calibration(knots, self.score[here])
        return Reliability.of(mended, self.hit)


def run_predict(
    scene: Path, model: str, gsd_m: float | None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], dict[int, float]]:
    """Return the class and instance rasters of a scene on its own grid, and score by id."""
    with tempfile.TemporaryDirectory() as folder:
        settings = PredictSettings(gsd_m=gsd_m, grid="scene")
        panoptic = predict(scene, model, Path(folder) / "map.panoptic", settings=settings)
        table = panoptic.segment_table
        scores = dict(zip(table.id.tolist(), table.score.tolist(), strict=True))
        return panoptic.semantic.to_numpy(), panoptic.instances.to_numpy(), scores


def as_scene(rgb: npt.NDArray[Any], gsd_m: float, path: Path) -> Path:
    """Write pixels as a scene somewhere in UTM 32, so that they have a GSD."""
    profile = {
        "driver": "GTiff", "count": 3, "height": rgb.shape[1], "width": rgb.shape[2],
        "dtype": "uint8", "crs": "EPSG:32632", "tiled": True,
        "transform": Affine(gsd_m, 0, 5e5, 0, -gsd_m, 5e6),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(rgb)
    return path


Building = tuple[Counts, Scored, dict[str, Any]]


def buildings(scene: Path, truth: npt.NDArray[Any], model: str) -> Building:
    """Score the buildings of one scene."""
    semantic, instances, scores = run_predict(scene, model, 0.3)
    pred = np.where(semantic == 1, instances, 0)
    counts = match_regions(truth, pred)
    ids, hit = segment_hits(truth, pred)
    scored = Scored(np.array([scores[i] for i in ids.tolist()], float), hit)
    inter, union = ((pred > 0) & (truth > 0)).sum(), ((pred > 0) | (truth > 0)).sum()
    facts = counts.report() | {"pixel_iou": round(float(inter / union), 4)}
    facts["vehicles_predicted"] = len(np.unique(instances[semantic == 2]))
    return counts, scored, facts


def kitsap(data: Path, window: RasterWindow, path: Path) -> tuple[Path, npt.NDArray[Any]]:
    """Cut a part of the Kitsap scene; return it and its building ids."""
    folder = data / "buildings_kitsap"
    with rasterio.open(folder / "kitsap11_rgb.tif") as file:
        scene = as_scene(file.read(window=window), 0.3, path)
    with rasterio.open(folder / "kitsap11_instances_registered.tif") as file:
        return scene, file.read(1, window=window)


def validation(data: Path, model: str, work: Path) -> Building:
    """Score the part that chose thresholds and calibrates: Banepa's strip, a part of Kitsap."""
    folder, window = data / "buildings_oam/banepa_np", RasterWindow(0, 3456, 3072, 640)
    with rasterio.open(folder / "banepa_labelled_window.tif") as file:
        strip = as_scene(file.read([1, 2, 3], window=window), 0.132, work / "strip.tif")
    with rasterio.open(folder / "banepa_instances.tif") as file:
        truth = file.read(1, window=window)
    a, a_scored, _ = buildings(strip, truth, model)
    north, truth = kitsap(data, RasterWindow(3600, 0, 1400, 1400), work / "north.tif")
    b, b_scored, _ = buildings(north, truth, model)
    return a + b, a_scored + b_scored, (a + b).report()


def calibrate(data: Path, model: str, work: Path) -> None:
    """Fit the calibration of building scores on the validation part; keep it in the card."""
    path = model_path(model)
    header = read_header(path)
    plain = replace(header.card, score_calibration={})
    bare = work / "bare.safetensors"
    save_model(bare, read_tensors(path, header), plain)
    _, scored, _ = validation(data, str(bare), work)
    knots = fit_calibration(scored.score, scored.hit)
    card = replace(header.card, score_calibration={"building": knots})
    save_model(path, read_tensors(path, header), card)


def measure_validation(data: Path, model: str, work: Path) -> dict[str, Any]:
    """Score the validation part, and its calibration by cross-validation."""
    header = read_header(model_path(model))
    bare = work / "bare.safetensors"
    tensors = read_tensors(model_path(model), header)
    save_model(bare, tensors, replace(header.card, score_calibration={}))
    _, scored, facts = validation(data, str(bare), work)
    return facts | {
        "raw": scored.reliability().to_json(),
        "calibrated": scored.cross_validated().to_json(),
    }


def measure_buildings(data: Path, model: str, work: Path) -> dict[str, Any]:
    """Score Kampala and the southern half of Kitsap, each and pooled."""
    out: dict[str, Any] = {}
    kampala, scored = Counts(), Scored(np.zeros(0), np.zeros(0, bool))
    for k in (1, 2):
        scene = data / OAM / f"kampala_ug_{k}.tif"
        with rasterio.open(data / OAM / f"kampala_ug_{k}_instances.tif") as file:
            truth = file.read(1)
        counts, more, out[f"kampala_{k}"] = buildings(scene, truth, model)
        kampala, scored = kampala + counts, scored + more
    scene, truth = kitsap(data, RasterWindow(0, 2500, 5000, 2500), work / "kitsap.tif")
    south, more, out["kitsap_south"] = buildings(scene, truth, model)
    out["kampala"] = kampala.report()
    out["pooled"] = (kampala + south).report()
    out["reliability"] = (scored + more).reliability().to_json()
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
        ("validation, cross-validated", result["validation"]["calibrated"]),
    ):
        what = "building scores: expected calibration error"
        rows.append({"what": what, "where": where, "value": round(found["ece"], 4)})
    for name, value in result["stuff"].items():
        rows.append({"what": f"{name} IoU", "where": "dubai tile 2", "value": value})
    for least, report in result["vehicles"].items():
        what = f"vehicle box f1 at {least.replace('_', ' ')}"
        rows.append({"what": what, "where": "munich MOS75-93", "value": report["f1"]})
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
        f"| licence | {card.licence} |", f"| sha256 of the weights | `{card.sha256}` |", "",
        "## Measured on places it was not trained on", "",
        "| what | where | value |", "|---|---|---|",
        *(f"| {m['what']} | {m['where']} | {m['value']:.3f} |" for m in card.metrics), "",
        f"Machine: {result['machine']}.", "",
        "![reliability of building scores](images/reliability.svg)", "",
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
        if given.calibrate:
            calibrate(given.data, given.model, work)
        result = {
            "model": read_card(given.model).name,
            "sha256": read_card(given.model).sha256,
            "date": datetime.now(UTC).date().isoformat(),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, Python "
            f"{platform.python_version()}",
            "buildings": measure_buildings(given.data, given.model, work),
            "validation": measure_validation(given.data, given.model, work),
            "stuff": measure_stuff(given.data, given.model, work),
            "vehicles": measure_vehicles(given.data, given.model, work),
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

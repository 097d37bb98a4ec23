"""Fit and judge the scores of buildings on every place with outlines that is no test place.

Most of these places were trained on (`model_places.VALIDATION` says which), because the one strip
that was not holds 163 buildings: too few to fit to, and so few that the scores' measured error
would be 0.08 if they were perfect (`metrics.ece_of_truth`). So errors are cross-validated over
blocks of 75 m: no segment's score comes from a fit that has seen its block. Two more figures tell
whether that is too kind: the error on the strip of a fit to trained-on places only, and the error
on each region of a fit to the other regions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from model_failures import Kinds, failures
from model_places import VALIDATION, Counts, match_regions, recarded, run_predict
from scipy import ndimage
from scipy.stats import rankdata

from geopanoptic.metrics import Reliability, ece_of_truth, segment_hits
from geopanoptic.models import read_card, save_model
from geopanoptic.models.checkpoint import model_path, read_header, read_tensors
from geopanoptic.models.confidence import SCORE_KEYS, fit_score_model, modelled

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

BLOCK_M = 75.0
FOLDS = 10
# Cards that make predict answer with the two means themselves.
_PROBES = {
    "mean": {"bias": 0.0, "mean": 1.0, "outline": 0.0},
    "outline": {"bias": 0.0, "mean": 0.0, "outline": 1.0},
}


@dataclass(frozen=True)
class Buildings:
    """Predicted buildings of the validation places, one row each.

    `mean`, `outline`: what their pixels and outlines say; `hit`: a true building lies there at
    IoU > 0.5; `region`, `block`: numbers; `held_out`: of a place that was not trained on.
    """

    mean: Floats
    outline: Floats
    hit: Bools
    region: npt.NDArray[np.int64]
    block: npt.NDArray[np.int64]
    held_out: Bools

    def take(self, rows: Bools) -> Buildings:
        return Buildings(*(getattr(self, f.name)[rows] for f in fields(self)))

    def fitted(self) -> dict[str, float]:
        return fit_score_model(self.mean, self.outline, self.hit)

    def scored(self, model: dict[str, float]) -> Floats:
        return modelled([model[k] for k in SCORE_KEYS], self.mean, self.outline)

    def cross_validated(self) -> Floats:
        """Return scores, each by a fit to the other folds of blocks."""
        fold = np.random.default_rng(1).permutation(int(self.block.max()) + 1)[self.block] % FOLDS
        score = np.empty(len(self.hit))
        for k in range(FOLDS):
            here = fold == k
            if here.any():
                score[here] = self.take(here).scored(self.take(~here).fitted())
        return score


@dataclass(frozen=True)
class Validation:
    """The buildings, the regions' names by number; matches and kinds of failures by place."""

    buildings: Buildings
    regions: tuple[str, ...]
    counts: dict[str, Counts]
    kinds: dict[str, Kinds]


def collect(data: Path, model: str, work: Path) -> Validation:
    """Predict every validation place, twice: for the one mean and the other."""
    regions = tuple(dict.fromkeys(p.region for p in VALIDATION))
    probes = {}
    for name, probe in _PROBES.items():
        card = read_card(model)
        calibration = {k: v for k, v in card.score_calibration.items() if k != "building"}
        probes[name] = recarded(
            model,
            work / f"probe_{name}.safetensors",
            score_model=dict(card.score_model) | {"building": probe},
            score_calibration=calibration,
        )
    parts, counts, kinds = [], {}, {}
    for place in VALIDATION:
        scene, truth = place.read(data, work / "place.tif")
        semantic, instances, mean = run_predict(scene, probes["mean"], 0.3)
        outline = run_predict(scene, probes["outline"], 0.3)[2]
        if mean.keys() != outline.keys():
            raise SystemExit("the two runs gave other buildings: predict is not deterministic here")
        pred = np.where(semantic == 1, instances, 0)
        counts[place.name] = match_regions(truth, pred)
        kinds[place.name] = failures(truth, pred)
        ids, hit = segment_hits(truth, pred)
        blocks = list(_blocks(pred, place.gsd_m))
        parts.append(
            {
                "mean": np.array([mean[i] for i in ids.tolist()]),
                "outline": np.array([outline[i] for i in ids.tolist()]),
                "hit": hit,
                "region": np.full(len(ids), regions.index(place.region)),
                "block": np.array([len(parts) << 32 | r << 16 | c for r, c in blocks], np.int64),
                "held_out": np.full(len(ids), not place.trained_on),
            }
        )
    columns = {k: np.concatenate([p[k] for p in parts]) for k in parts[0]}
    columns["block"] = np.unique(columns["block"], return_inverse=True)[1]
    return Validation(Buildings(**columns), regions, counts, kinds)


def _blocks(pred: npt.NDArray[Any], gsd_m: float) -> Iterator[tuple[int, int]]:
    """Yield the block of 75 m that holds the centre of each building's box, by rising id."""
    for box in filter(None, ndimage.find_objects(pred)):
        row, col = (int((s.start + s.stop) / 2 * gsd_m / BLOCK_M) for s in box)
        yield row, col


def calibrate(model: str, found: Validation) -> dict[str, float]:
    """Fit the score model of buildings to all of them and keep it in the model file's card."""
    path = model_path(model)
    header = read_header(path)
    fitted = found.buildings.fitted()
    knots = {k: v for k, v in header.card.score_calibration.items() if k != "building"}
    card = replace(
        header.card,
        score_model=dict(header.card.score_model) | {"building": fitted},
        score_calibration=knots,
    )
    save_model(path, read_tensors(path, header), card)
    return fitted


def judged(score: Floats, hit: Bools) -> dict[str, Any]:
    """Return the reliability, and what to hold its error against."""
    floor = ece_of_truth(score)
    even = Reliability.of_equal_counts(score, hit).ece
    return Reliability.of(score, hit).to_json() | {
        "segments": len(score),
        "ece_of_true_probabilities": None if floor is None else round(floor, 4),
        "ece_in_bins_of_equal_count": None if even is None else round(even, 4),
        "mean_score": round(float(score.mean()), 4),
        "mean_hit_rate": round(float(hit.mean()), 4),
        "auc": auc(score, hit),
    }


def auc(score: Floats, hit: Bools) -> float | None:
    """Return the share of pairs of a right and a wrong segment in which the right scores higher."""
    n, m = int(hit.sum()), int((~hit).sum())
    if not n or not m:
        return None
    return round(float((rankdata(score)[hit].sum() - n * (n + 1) / 2) / (n * m)), 4)


def report(found: Validation) -> dict[str, Any]:
    """Return counts and reliabilities; see the module's first lines for what each is."""
    b, total = found.buildings, Counts()
    for counts in found.counts.values():
        total = total + counts
    crossed = b.cross_validated()
    out: dict[str, Any] = total.report() | {
        "places": {
            name: counts.report() | {"kinds": found.kinds[name]}
            for name, counts in found.counts.items()
        },
        "score_model": b.fitted(),
        "raw": judged(b.mean, b.hit),
        "calibrated": judged(crossed, b.hit),
    }
    trained = b.take(~b.held_out).fitted()
    strip = b.take(b.held_out)
    out["held_out_strip"] = {
        "raw": judged(strip.mean, strip.hit),
        "cross_validated": judged(crossed[b.held_out], strip.hit),
        "fitted_to_trained_on_places": judged(strip.scored(trained), strip.hit),
    }
    out["regions"] = {}
    for k, name in enumerate(found.regions):
        here = b.region == k
        part = b.take(here)
        out["regions"][name] = {
            "raw": judged(part.mean, part.hit),
            "cross_validated": judged(crossed[here], part.hit),
            "fitted_to_other_regions": judged(part.scored(b.take(~here).fitted()), part.hit),
        }
    return out

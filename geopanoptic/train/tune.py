"""Choose the decoder's thresholds and calibrate scores on the validation sources."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.dataset import Planes, SourceArray
from geopanoptic.dataset.chips import ChipSettings, cut_chip
from geopanoptic.metrics import Reliability, apply_calibration, fit_calibration
from geopanoptic.models import Fields, ModelCard, Segmented, Segmenter
from geopanoptic.models.decode import decoder_of
from geopanoptic.models.fusion import FusionRules, decode_rasters
from geopanoptic.models.systems.segmenter import Answer, MaskSegmenter, fused
from geopanoptic.schema import ClassSpec
from geopanoptic.train.validate import ClassScore, Truth, score_class

WINDOW_PX = 512
MOST_WINDOWS = 12  # enough to choose a handful of numbers by, few enough to keep in memory
_LEAST_KNOWN = 0.02  # share of labelled pixels below which a window tells nothing

# Values that are tried, one threshold after the other, the ones that matter most first.
_GRID: dict[str, tuple[float, ...]] = {
    "score": (0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9),
    "region": (0.3, 0.4, 0.5, 0.6),
    "ratio": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "peak": (0.05, 0.1, 0.15, 0.25, 0.4),
    "reach_px": (8.0, 16.0, 32.0, 64.0),
    "area_px": (4.0, 9.0, 16.0, 25.0),
}


# The same of the rules that fuse masks, which are for all classes together.
_RULES: dict[str, tuple[float, ...]] = {
    "score": (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8),
    "area_px": (4.0, 9.0, 16.0, 25.0),
}


@dataclass(frozen=True, slots=True)
class Sample:
    """A window of the ground at the model's GSD: the network's fields and the truth."""

    fields: Fields
    truth: Truth

    def decoded(self, card: ModelCard) -> Segmented:
        """Decode it with the card's thresholds."""
        return decoder_of(card).decode(self.fields, np.ones(self.truth.ids.shape, bool))


@dataclass(frozen=True, slots=True)
class MaskSample:
    """The same of a network of masks: its answer before any rule, and the truth."""

    answer: Answer
    truth: Truth

    def decoded(self, card: ModelCard) -> Segmented:
        """Fuse and decode it with the card's thresholds."""
        rules, shape = FusionRules.from_thresholds(card.thresholds), self.truth.ids.shape
        fields = fused(self.answer, card, (shape[0], shape[1]), rules)
        return decode_rasters(fields, np.ones(shape, bool), rules)


Samples = Sequence[Sample] | Sequence[MaskSample]


def samples(model: Segmenter, sources: Sequence[SourceArray], seed: int) -> Samples:
    """Run the network over windows spread evenly over the validation sources."""
    card = model.card
    planes = Planes(len(card.bands), len(card.schema))
    windows = list(_windows(sources, planes, card.preferred_gsd_m))
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(windows))[:MOST_WINDOWS]
    out: list[Any] = []
    for k in sorted(chosen.tolist()):
        block = windows[k].round().astype(np.uint8)
        pixels = np.ascontiguousarray(np.moveaxis(block[..., : planes.n_bands], -1, 0))[None]
        truth = Truth.of(block, planes)
        if isinstance(model, MaskSegmenter):
            out += [MaskSample(answer, truth) for answer in model.answers(pixels)]
        else:
            fields = model.forward(pixels)
            out.append(Sample({n: f[0] for n, f in fields.items()}, truth))
    return out


def _windows(
    sources: Sequence[SourceArray], planes: Planes, gsd_m: float
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield windows (h, w, planes) at the model's GSD that hold labels."""
    for source in sources:
        array = np.load(source.path, mmap_mode="r")
        ratio = gsd_m / source.gsd_m
        extent = [n / ratio for n in array.shape[:2]]
        size = int(min(WINDOW_PX, -(-max(extent) // 32) * 32))
        settings = ChipSettings(size, 0, planes, augment=False)
        counts = [max(1, round(e / size)) for e in extent]
        for row, col in np.ndindex(*counts):
            centre = (np.array([row, col]) + 0.5) * np.array(array.shape[:2]) / counts
            chip = cut_chip([array], centre, np.eye(2) * ratio, settings)
            block = np.moveaxis(chip.numpy(), 0, -1)
            sets = block[..., planes.sets].astype(np.uint8)
            known = (sets != planes.everything).any(-1)
            if known.mean() >= _LEAST_KNOWN:
                yield block


def tune(
    card: ModelCard, found: Samples, given: frozenset[str]
) -> tuple[ModelCard, dict[str, float]]:
    """Return the card with the thresholds that score best, and the PQ of every tuned class.

    Thresholds named in `given` stay. Each is moved by itself, in turn, until none gains: classes
    do not touch each other's thresholds, so one after the other is as good as all together. The
    rules of masks are for all classes: they follow the mean over the classes of things.
    """
    if card.decoder in ("paste", "queries"):
        return _tune_rules(card, found, given)
    reached: dict[str, float] = {}
    for spec in card.schema.things:
        best = _pq(card, found, spec)
        if best is None:
            continue
        for _ in range(2):
            before = best
            for key, values in _GRID.items():
                name = f"{spec.name}_{key}"
                if name not in card.thresholds or name in given:
                    continue
                for value in values:
                    tried = replace(card, thresholds={**card.thresholds, name: value})
                    score = _pq(tried, found, spec)
                    if score is not None and score > best + 1e-4:
                        card, best = tried, score
            if best <= before:
                break
        reached[spec.name] = best
    return card, reached


def _tune_rules(
    card: ModelCard, found: Samples, given: frozenset[str]
) -> tuple[ModelCard, dict[str, float]]:
    best = _pq_of_all(card, found)
    for name, values in _RULES.items():
        if name in given or not best:
            continue
        for value in values:
            tried = replace(card, thresholds={**card.thresholds, name: value})
            reached = _pq_of_all(tried, found)
            if np.mean(list(reached.values())) > np.mean(list(best.values())) + 1e-4:
                card, best = tried, reached
    return card, best


def _pq_of_all(card: ModelCard, found: Samples) -> dict[str, float]:
    """Return the PQ of every class of things of which the truth has one.

    Which these are does not depend on the thresholds, so means over them can be compared.
    """
    parts: dict[str, list[ClassScore]] = {c.name: [] for c in card.schema.things}
    for sample in found:
        tile = sample.decoded(card)
        for spec in card.schema.things:
            parts[spec.name].append(_score(card, sample, tile, spec))
    qualities = {n: ClassScore.sum(p).quality for n, p in parts.items() if p}
    return {n: q.pq for n, q in qualities.items() if q.tp + q.fn and q.pq is not None}


def _pq(card: ModelCard, found: Samples, spec: ClassSpec) -> float | None:
    """Return the PQ of one class over the samples, decoded with the card's thresholds."""
    parts = [_score(card, sample, sample.decoded(card), spec) for sample in found]
    return ClassScore.sum(parts).quality.pq if parts else None


def _score(
    card: ModelCard, sample: Sample | MaskSample, tile: Segmented, spec: ClassSpec
) -> ClassScore:
    channel = card.schema.ids.index(spec.id)
    semantic = np.where(tile.instance > 0, tile.class_of[tile.instance], tile.stuff)
    none = np.full(len(tile.class_of), np.nan)
    truth = sample.truth.of_class(channel)
    return score_class(spec, truth, (semantic, tile.instance), none)


def calibrated(card: ModelCard, judged: dict[str, ClassScore]) -> ModelCard:
    """Return the card with scores calibrated on judged segments of whole scenes.

    Its metrics get the expected calibration error of every calibrated class, by two-fold
    cross-fitting: no segment's score is mended by a map that has seen it.
    """
    knots, rows = {}, []
    for spec in card.schema.things:
        found = judged[spec.name]
        made = fit_calibration(found.score, found.hit)
        if not made:
            continue
        knots[spec.name] = made
        for name, value in _errors(found).items():
            rows.append({"what": f"{spec.name} {name}", "where": "validation", "value": value})
    return replace(card, score_calibration=knots, metrics=(*card.metrics, *rows))


def _errors(found: ClassScore) -> dict[str, float]:
    """Return the calibration error before, and after with the other half's map."""
    half = np.arange(len(found.score)) % 2 == 0
    mended = found.score.copy()
    for part in (half, ~half):
        knots = fit_calibration(found.score[~part], found.hit[~part])
        mended[part] = apply_calibration(knots, found.score[part])
    before, after = (Reliability.of(s, found.hit).ece for s in (found.score, mended))
    named: dict[str, Any] = {
        "calibration error of raw scores": before,
        "calibration error": after,
    }
    return {n: round(float(v), 4) for n, v in named.items() if v is not None}

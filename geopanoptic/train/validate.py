"""Judge a network on the validation sources: whole scenes through predict, exact PQ per class.

Labels are partial, so every class is counted by itself: pixels that are it, pixels that are
surely not it, and void. For complete labels that is the Panoptic Quality of Kirillov 2019.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from geopanoptic.dataset import Planes, SourceArray
from geopanoptic.dataset.planes import is_exactly, mask_bytes
from geopanoptic.metrics import (
    CLASS_LABEL,
    ClassCode,
    ClassQuality,
    Overlap,
    PanopticCount,
    QualityStats,
    Rules,
    Sides,
    match,
    mean,
)
from geopanoptic.models import ModelCard, Segmenter
from geopanoptic.models.networks import segmenter_of
from geopanoptic.schema import NODATA, ClassSpec, LabelSchema

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int32]

_IS, _IS_NOT = 1, 2  # the two classes that one class is judged with


@dataclass(frozen=True, slots=True)
class Truth:
    """Labels of one part of the ground: sets (h, w, n_sets) and instance ids (h, w)."""

    sets: Bytes
    ids: Ints

    @classmethod
    def of(cls, array: Bytes, planes: Planes) -> Truth:
        """Read the labels of a prepared array (h, w, planes)."""
        return cls(np.asarray(array[..., planes.sets]), planes.ids_of(array))

    def of_class(self, channel: int) -> tuple[Bytes, Ints]:
        """Return 1 where a pixel is of this class, 2 where surely not, 0 void; and its ids."""
        mine = is_exactly(self.sets, 1 << channel)
        bit = mask_bytes(1 << channel, self.sets.shape[-1])
        without = ~(self.sets & bit).any(-1) & self.sets.any(-1)
        classes = np.where(mine, _IS, np.where(without, _IS_NOT, 0)).astype(np.uint8)
        return classes, np.where(mine, self.ids, 0).astype(np.int32)


@dataclass(frozen=True, slots=True)
class ClassScore:
    """What one class's segments add up to: quality statistics, and scores of the predicted ones.

    `score`, `hit` (n,): of predicted things that are judged; whether they are right.
    """

    stats: QualityStats
    score: npt.NDArray[np.float64]
    hit: npt.NDArray[np.bool_]

    @classmethod
    def sum(cls, parts: Sequence[ClassScore]) -> ClassScore:
        """Add the scores of several parts of the ground."""
        return cls(
            QualityStats.sum([p.stats for p in parts]),
            np.concatenate([p.score for p in parts]),
            np.concatenate([p.hit for p in parts]),
        )

    @property
    def quality(self) -> ClassQuality:
        return self.stats.of_class(_IS)


@dataclass(frozen=True, slots=True)
class Judgement:
    """Scores per class name; `pq` is the mean over the classes that are there."""

    classes: dict[str, ClassScore]

    @property
    def pq(self) -> float | None:
        return mean(c.quality.pq for c in self.classes.values())

    def row(self) -> dict[str, float]:
        """Return PQ and the PQ of every class that is there, as a row of the log."""
        per_class = {n: c.quality.pq for n, c in self.classes.items()}
        known = {f"pq_{n}": v for n, v in per_class.items() if v is not None}
        return {"pq": -1.0 if self.pq is None else self.pq} | known


def score_class(
    spec: ClassSpec,
    truth: tuple[Bytes, Ints],
    pred: tuple[Bytes, Ints],
    scores: npt.NDArray[np.float64],
) -> ClassScore:
    """Count one class: `truth` as `Truth.of_class`, `pred` classes and ids on the same pixels.

    `scores` by instance id, NaN where there is none.
    """
    classes = np.where(pred[0] == spec.id, _IS, np.where(pred[0] == NODATA, 0, _IS_NOT))
    ids = np.where(pred[0] == spec.id, pred[1], 0)
    things = frozenset([_IS] if spec.is_thing else [])
    code = ClassCode.of({_IS: _IS, _IS_NOT: _IS_NOT}, things, [0])
    count = PanopticCount.of(truth, (classes, ids), Sides(code, code, 2))
    found = match(Overlap.of(count, Rules(things=things)))
    stats = found.statistics(2)
    if not spec.is_thing:
        return ClassScore(stats, np.zeros(0), np.zeros(0, bool))
    label = found.overlap.pred.label
    hit = np.zeros(len(label), bool)
    hit[found.overlap.p[found.pair]] = True
    judged = (hit | found.fp) & (label < CLASS_LABEL)
    judged &= found.overlap.pred.class_id == _IS
    value = scores[label[judged].astype(np.int64)]
    known = ~np.isnan(value)
    return ClassScore(stats, value[known], hit[judged][known])


class Judge:
    """Maps the validation sources with the weights of the moment and scores the maps."""

    def __init__(self, net: nn.Module, card: ModelCard, sources: Sequence[SourceArray]) -> None:
        self.sources = tuple(sources)
        self.card = replace(card, score_calibration={})
        self.planes = Planes(len(card.bands), len(card.schema))
        self._net = copy.deepcopy(net).eval()

    @property
    def device(self) -> torch.device:
        return next(self._net.parameters()).device

    def segmenter(self, weights: dict[str, torch.Tensor]) -> Segmenter:
        """Return the model of the card with these weights."""
        self._net.load_state_dict(weights)
        return segmenter_of(self.card, self._net, self.device)

    def __call__(self, weights: dict[str, torch.Tensor]) -> Judgement:
        """Map every source and score all classes."""
        model = self.segmenter(weights)
        parts: list[dict[str, ClassScore]] = []
        for source in self.sources:
            array = np.load(source.path)
            semantic, instances, scores = mapped(model, array[..., : self.planes.n_bands], source)
            truth = Truth.of(array, self.planes)
            parts.append(score_all(self.card.schema, truth, (semantic, instances), scores))
        return Judgement({n: ClassScore.sum([p[n] for p in parts]) for n in self.card.schema.names})

    def panels(self, weights: dict[str, torch.Tensor], most_px: int = 384) -> list[Bytes]:
        """Return scene, truth and map of a corner of one source as colours (h, w, 3)."""
        from geopanoptic.train.record import colour_map

        source = self.sources[0]
        array = np.load(source.path, mmap_mode="r")
        rows, cols = (min(n, most_px) for n in array.shape[:2])
        top, left = ((n - size) // 2 for n, size in zip(array.shape, (rows, cols), strict=False))
        part = np.array(array[top : top + rows, left : left + cols])
        pixels = part[..., : self.planes.n_bands]
        semantic, instances, _ = mapped(self.segmenter(weights), pixels, source)
        truth = Truth.of(part, self.planes)
        shown = np.zeros((rows, cols), np.uint8)
        for k, spec in enumerate(self.card.schema.classes):
            shown[is_exactly(truth.sets, 1 << k)] = spec.id
        three = pixels[..., :3] if pixels.shape[-1] >= 3 else np.repeat(pixels[..., :1], 3, -1)
        schema = self.card.schema
        return [
            three,
            colour_map(shown, truth.ids, schema),
            colour_map(semantic, instances, schema),
        ]


def score_all(
    schema: LabelSchema,
    truth: Truth,
    pred: tuple[Bytes, Ints],
    scores: npt.NDArray[np.float64],
) -> dict[str, ClassScore]:
    """Score all classes of one part of the ground, by name."""
    return {
        spec.name: score_class(spec, truth.of_class(k), pred, scores)
        for k, spec in enumerate(schema.classes)
    }


def mapped(
    model: Segmenter, pixels: Bytes, source: SourceArray
) -> tuple[Bytes, Ints, npt.NDArray[np.float64]]:
    """Map a source's pixels (h, w, band) with predict: classes, ids and scores by id.

    The pixels get a place somewhere in UTM 32, so that they have a size on the ground.
    """
    import rioxarray  # noqa: F401 - gives arrays their `.rio`
    import xarray
    from affine import Affine

    from geopanoptic.predict import PredictSettings, predict_array

    bands = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
    scene: Any = xarray.DataArray(bands, dims=("band", "y", "x")).rio.write_crs("EPSG:32632")
    step = source.gsd_m
    scene = scene.rio.write_transform(Affine(step, 0, 500_000, 0, -step, 5_000_000))
    numbers = tuple(range(1, len(bands) + 1))
    found = predict_array(scene, model, PredictSettings(grid="scene", bands=numbers))
    table = found.attrs["segments"]
    things = table[table["id"] > 0]
    scores = np.full(int(things["id"].max() if len(things) else 0) + 1, np.nan)
    scores[things["id"].to_numpy()] = things["score"].to_numpy()
    return found["semantic"].to_numpy(), found["instances"].to_numpy(), scores

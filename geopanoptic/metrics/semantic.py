"""Per-pixel measures of classes, from the confusion of one count."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geopanoptic.metrics.quality import mean

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ClassAccuracy:
    """IoU, user's accuracy (precision) and producer's accuracy (recall) of a class's pixels."""

    iou: float | None
    ua: float | None
    pa: float | None


def _ratio(part: float, whole: float) -> float | None:
    return float(part / whole) if whole > 0 else None


def class_accuracy(confusion: Ints, c: int) -> ClassAccuracy:
    """Read one class from `confusion` int64 (n+1, n+1) [truth, prediction]; 0 = void.

    Pixels of void truth are left out; void prediction on judged truth is a miss.
    """
    hit = int(confusion[c, c])
    truth, pred = int(confusion[c].sum()), int(confusion[1:, c].sum())
    return ClassAccuracy(_ratio(hit, truth + pred - hit), _ratio(hit, pred), _ratio(hit, truth))


def overall_accuracy(confusion: Ints) -> float | None:
    """Return the share of judged pixels (truth not void) that have the truth's class."""
    return _ratio(int(np.trace(confusion[1:, 1:])), int(confusion[1:].sum()))


def mean_iou(confusion: Ints, classes: list[int]) -> float | None:
    """Return the mean IoU over those of the classes that either side holds."""
    return mean(class_accuracy(confusion, c).iou for c in classes)

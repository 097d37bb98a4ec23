"""Boundary PQ (Cheng 2021): a match must also agree near the outlines."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.contingency import Contingency
from geopanoptic.metrics.count import VOID_LABEL, ClassCode
from geopanoptic.metrics.kernel import find_outlines, paint_labels
from geopanoptic.metrics.overlap import Overlap

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

INTERIOR = 2**32 - 1  # label of pixels that are far from every outline of their segment
OUTSIDE = 2**32 - 2  # label beyond the frame


def labels_of(
    classes: npt.NDArray[np.uint8], ids: npt.NDArray[np.int32], code: ClassCode
) -> npt.NDArray[np.uint32]:
    """Return the label of every pixel, as `PanopticCount` defines it."""
    out = np.empty(classes.shape, np.uint32)
    paint_labels(classes, ids, code.code, code.keeps_id, out)
    return out


def outlines(padded: npt.NDArray[np.uint32], distance: int) -> Bools:
    """Tell which pixels lie within Chebyshev `distance` of another label.

    `padded` (rows + 2 d, cols + 2 d) holds the labels around, OUTSIDE beyond the frame; the
    result has the shape without the padding. Law: equals ``maximum_filter != minimum_filter`` of
    size 2 d + 1. One pass, so its cost does not grow with `distance`.
    """
    rows, cols = padded.shape[0] - 2 * distance, padded.shape[1] - 2 * distance
    out = np.empty((rows, cols), bool)
    find_outlines(padded, distance, out)
    return out


def count_outlines(
    truth: npt.NDArray[np.uint32], pred: npt.NDArray[np.uint32], distance: int
) -> Contingency:
    """Count outline pixels of one block; both label arrays padded by `distance`.

    A label becomes INTERIOR away from its outline; void stays void everywhere, for all void
    truth leaves the union, not only its rim.
    """
    core = (slice(distance, -distance), slice(distance, -distance))
    sides = []
    for padded in (truth, pred):
        label = padded[core].copy()
        label[~outlines(padded, distance) & (label != VOID_LABEL)] = INTERIOR
        sides.append(label)
    return Contingency.of(*sides)


def boundary_iou(overlap: Overlap, outline: Contingency) -> Floats:
    """Return min(mask IoU, boundary IoU) for each pair of an overlap."""
    area_t = _areas(*outline.areas_a(), overlap.truth.label)
    area_p = _areas(*outline.areas_b(), overlap.pred.label)
    void = outline.a == VOID_LABEL
    void_p = _areas(outline.b[void], outline.pixels[void], overlap.pred.label)
    key = _key(overlap.truth.label[overlap.t], overlap.pred.label[overlap.p])
    both = _areas(_key(outline.a, outline.b), outline.pixels, key)
    union = area_t[overlap.t] + area_p[overlap.p] - both - void_p[overlap.p]
    if overlap.rules.pred_void == "ignore":
        void = outline.b == VOID_LABEL
        union = (
            union - _areas(outline.a[void], outline.pixels[void], overlap.truth.label)[overlap.t]
        )
    rim = np.divide(both, union, out=np.zeros(len(both)), where=union > 0)
    return np.minimum(overlap.iou(), rim)


def _key(a: npt.NDArray[np.int64], b: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    return (a.astype(np.uint64) << np.uint64(32)) | b.astype(np.uint64)


def _areas(
    labels: npt.NDArray[Any], pixels: npt.NDArray[np.int64], wanted: npt.NDArray[Any]
) -> npt.NDArray[np.int64]:
    """Look up pixels by label in a table sorted by label; 0 where there is none."""
    if len(labels) == 0:
        return np.zeros(len(wanted), np.int64)
    at = np.searchsorted(labels, wanted).clip(0, len(labels) - 1)
    return np.where(labels[at] == wanted, pixels[at], 0)

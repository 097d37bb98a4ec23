"""Say how predicted buildings go wrong: whether finding, parting or outlining them is at fault.

Every true building is one of, in this order: found (IoU > 0.5 with a predicted one); merged (most
of it lies in a predicted one that holds most of another, too); split (two or more predicted ones
that lie mostly in it cover more than half of it); outlined badly (IoU 0.3 to 0.5); missed (less
than a tenth of it is predicted); partly found. Every predicted one: right; merged (it holds most
of two or more); a part (most of it lies in a true one that is found or split); outlined badly;
nothing (less than a tenth of it is a building); partly right.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.contingency import Contingency

TRUE_KINDS = ("found", "merged", "split", "outlined badly", "missed", "partly found")
PREDICTED_KINDS = ("right", "merged", "a part", "outlined badly", "nothing", "partly right")
Kinds = dict[str, dict[str, int]]


def failures(truth: npt.NDArray[Any], pred: npt.NDArray[Any]) -> Kinds:
    """Count the kinds of true and of predicted buildings; id rasters, 0 = none."""
    table = Contingency.of(truth, pred)
    both = (table.a > 0) & (table.b > 0)
    t, p, shared = table.a[both], table.b[both], table.pixels[both]
    area_t, area_p = (np.bincount(a.ravel()) for a in (truth, pred))
    area_t[0] = area_p[0] = 0
    n_t, n_p = len(area_t), len(area_p)
    iou = shared / (area_t[t] + area_p[p] - shared)
    best_t, best_p = np.zeros(n_t), np.zeros(n_p)
    np.maximum.at(best_t, t, iou)
    np.maximum.at(best_p, p, iou)
    cover_t = np.bincount(t, shared, n_t) / np.maximum(area_t, 1)
    cover_p = np.bincount(p, shared, n_p) / np.maximum(area_p, 1)

    held = 2 * shared > area_t[t]  # most of the true one lies in this predicted one
    holds = np.bincount(p[held], minlength=n_p)
    merged_t = np.zeros(n_t, bool)
    merged_t[t[held]] = holds[p[held]] >= 2
    inside = 2 * shared > area_p[p]  # most of the predicted one lies in this true one
    parts = np.bincount(t[inside], minlength=n_t)
    parts_cover = np.bincount(t[inside], shared[inside], n_t) / np.maximum(area_t, 1)
    split_t = (parts >= 2) & (parts_cover > 0.5)

    true_kind = np.select(
        [best_t > 0.5, merged_t, split_t, best_t > 0.3, cover_t < 0.1], [0, 1, 2, 3, 4], 5
    )
    part_p = np.zeros(n_p, bool)
    part_p[p[inside]] = np.isin(true_kind[t[inside]], (0, 2))
    predicted_kind = np.select(
        [best_p > 0.5, holds >= 2, part_p, best_p > 0.3, cover_p < 0.1], [0, 1, 2, 3, 4], 5
    )
    return {
        "true": _counted(true_kind[area_t > 0], TRUE_KINDS),
        "predicted": _counted(predicted_kind[area_p > 0], PREDICTED_KINDS),
    }


def _counted(kind: npt.NDArray[np.int64], names: tuple[str, ...]) -> dict[str, int]:
    found = Counter(kind.tolist())
    return {name: found[k] for k, name in enumerate(names)}


def failures_page(places: dict[str, Kinds]) -> list[str]:
    """Return the lines of Markdown that show the kinds as shares, a row per place."""
    lines = ["## How buildings go wrong", "", *(__doc__ or "").split("\n\n", 1)[1].splitlines(), ""]
    for side, names in (("true", TRUE_KINDS), ("predicted", PREDICTED_KINDS)):
        lines += [f"| {side} | n | {' | '.join(names)} |", "|---" * (len(names) + 2) + "|"]
        for place, kinds in places.items():
            n = sum(kinds[side].values())
            shares = (f"{kinds[side][name] / max(n, 1):.2f}" for name in names)
            lines.append(f"| {place} | {n} | {' | '.join(shares)} |")
        lines.append("")
    return lines

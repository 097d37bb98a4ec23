"""Figures of a series of dates: SCOT, VPQ and STQ, from what the single dates were counted to."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.evaluate.pairing import Pairs
from geopanoptic.evaluate.scene import Scene
from geopanoptic.evaluate.settings import EvaluateSettings
from geopanoptic.metrics import (
    CountedDate,
    DateObjects,
    Hits,
    Overlap,
    PanopticQuality,
    Scot,
    TubeOverlap,
    scot,
    vpq,
)

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]

GROUPS = ("all", "things", "stuff")


def map_series(
    scenes: Sequence[Scene], pairs: Pairs, settings: EvaluateSettings
) -> tuple[dict[str, Any], list[str]]:
    """Return (figures, warnings) of scenes that are the dates of one series, in time order.

    An id (of a thing; of stuff where segments are kept) is one object at all dates.
    """
    things = list(pairs.classes.things)
    objects = []
    for s in scenes:
        o = s.overlap
        keep = (
            np.isin(o.truth.class_id, things) & ~o.ignored_truth() & s.chosen.truth,
            np.isin(o.pred.class_id, things) & ~o.ignored_pred() & s.chosen.pred,
        )
        objects.append(date_objects(o, (o.truth.label, o.pred.label), keep))
    found = scot(objects)
    dates = [CountedDate(s.counted.count, s.overlap.rules) for s in scenes]
    names = [s.names[0] for s in scenes]
    figures = scot_figures({"": found}, {"": names})
    figures |= _tube_figures(dates, pairs, settings)
    return figures, _order_warnings(scenes)


def date_objects(o: Overlap, ids: tuple[Ints, Ints], keep: tuple[Bools, Bools]) -> DateObjects:
    """Return the objects of one date that take part, by their ids over time.

    `ids`: the id over time of each truth and prediction segment, `keep` which of them take part.
    """
    rows = np.flatnonzero(o.judged & keep[0][o.t] & keep[1][o.p])
    return DateObjects(
        ids[0][keep[0]], ids[1][keep[1]], ids[0][o.t[rows]], ids[1][o.p[rows]], o.iou()[rows]
    )


def scot_figures(found: Mapping[str, Scot], dates: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return SCOT of each area of interest and the mean over them, with all it is made of.

    `found`, `dates`: by the area's name ('' where there is only one).
    """
    per_aoi = {name: _aoi_figures(s) for name, s in found.items()}
    removed = [row["removed_f1"] for row in per_aoi.values() if row["removed_f1"] is not None]
    undefined = [name for name, s in found.items() if s.undefined]
    return {
        "dates": max((len(s.dates) for s in found.values()), default=0),
        "scot": math.fsum(s.scot for s in found.values()) / len(found) if found else None,
        "scot_undefined": "no new object" if undefined else None,
        "removed_f1": math.fsum(removed) / len(removed) if removed else None,
        "per_aoi": per_aoi,
        "per_timestep": {
            f"{name}/{date}" if name else date: _date_figures(hits)
            for name, s in found.items()
            for date, hits in zip(dates[name], s.dates, strict=True)
        },
    }


def _aoi_figures(found: Scot) -> dict[str, Any]:
    row: dict[str, Any] = {"mm": found.mismatches}
    for name, hits in (("track", found.track), ("change", found.change)):
        row |= {f"{name}_{k}": v for k, v in asdict(hits).items()}
        row[f"{name}_score"] = hits.f1 or 0.0  # solaris: 0 where there is nothing to score
    row |= {"scot": found.scot, "undefined": found.undefined}
    row |= {f"removed_{k}": v for k, v in asdict(found.removed).items()}
    return row | {"removed_f1": found.removed.f1}


def _date_figures(hits: Hits) -> dict[str, Any]:
    return {
        "n_truth": hits.tp + hits.fn,
        "n_proposal": hits.tp + hits.fp,
        **asdict(hits),
        "f1": hits.f1 or 0.0,
    }


def _tube_figures(
    dates: Sequence[CountedDate], pairs: Pairs, settings: EvaluateSettings
) -> dict[str, Any]:
    classes = pairs.classes
    found = vpq(dates, classes.count, settings.vpq_windows)
    tubes = TubeOverlap.of(dates, classes.count)
    like, exact = tubes.like_deeplab2(classes.numbers), tubes.exact(classes.numbers)
    names = [c.name for c in classes.classes]
    return {
        "vpq": found.mean("all"),
        "vpq_things": found.mean("things"),
        "vpq_stuff": found.mean("stuff"),
        "vpq_windows": {str(k): _window(w, names) for k, w in enumerate(found.windows, 1)},
        "stq": like.stq,
        "aq": like.aq,
        "iou": like.iou,
        "stq_exact": {"stq": exact.stq, "aq": exact.aq, "iou": exact.iou},
    }


def _window(window: PanopticQuality, names: Sequence[str]) -> dict[str, Any]:
    out: dict[str, Any] = {g: asdict(getattr(window, g)) for g in GROUPS}
    out["per_class"] = {
        name: {k: getattr(window.per_class[c], k) for k in ("tp", "fp", "fn", "iou_sum", "pq")}
        for c, name in enumerate(names, 1)
    }
    return out


def _order_warnings(scenes: Sequence[Scene]) -> list[str]:
    """Tell of what makes the pairs look like no series."""
    out = []
    known = [s.pair.pred.date or s.pair.truth.date for s in scenes]
    dated = [d for d in known if d is not None]
    if len(dated) == len(known) and any(a >= b for a, b in pairwise(dated)):
        out.append(
            f"the dates of the maps do not rise in the order given ({', '.join(dated[:4])} ...)"
        )
    sizes = [s.pair.georef.gsd_m or 1.0 for s in scenes]
    if max(sizes) > 1.01 * min(sizes):
        out.append(
            f"pixels of {min(sizes):.3g} to {max(sizes):.3g} m: VPQ and STQ add pixels of unequal "
            f"size; bring the maps to one grid first"
        )
    return out

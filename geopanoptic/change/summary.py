"""The tables of a comparison: transitions from class to class, and what each class gained."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from geopanoptic.change.counting import Counts
from geopanoptic.schema import LabelSchema

Row = dict[str, Any]


def transitions(counts: Counts, schema: LabelSchema) -> list[Row]:
    """Return a row for every pair of classes that occurs on comparable ground, sorted by ids.

    Law: `pixels` add up to the comparable pixels, `share_of_common` to 100.
    """
    total = counts.common_m2 or 1.0
    rows = []
    for a in schema.classes:
        for b in schema.classes:
            pixels = int(counts.pixels[a.id, b.id])
            if pixels == 0:
                continue
            m2 = float(counts.area_m2[a.id, b.id])
            rows.append(
                {
                    "from_id": a.id,
                    "from_class": a.name,
                    "to_id": b.id,
                    "to_class": b.name,
                    "changed": a.id != b.id,
                    "pixels": pixels,
                    "area_m2": m2,
                    "area_ha": m2 / 1e4,
                    "percent_of_common": 100 * m2 / total,
                }
            )
    return rows


def class_summary(counts: Counts, schema: LabelSchema, years: float | None) -> list[Row]:
    """Return what became of each class on comparable ground, true square metres.

    `persistence` stayed, `gain` came, `loss` went, `net` = gain - loss, `swap` = 2 min(gain, loss)
    (Pontius, Shusas, McEachern 2004), `annual_rate` = ln(after / before) / years (Puyravaud 2003),
    null without dates or where the class is absent at a date.
    """
    valid = [c.id for c in schema.classes]
    area = counts.area_m2
    rows = []
    for c in schema.classes:
        before = float(area[c.id, valid].sum())
        after = float(area[valid, c.id].sum())
        if before == 0 and after == 0:
            continue
        stay = float(area[c.id, c.id])
        others = [k for k in valid if k != c.id]
        gain, loss = float(area[others, c.id].sum()), float(area[c.id, others].sum())
        rate = math.log(after / before) / years if years and before > 0 and after > 0 else None
        rows.append(
            {
                "class_id": c.id,
                "class_name": c.name,
                "kind": c.kind,
                "before_m2": before,
                "after_m2": after,
                "persistence_m2": stay,
                "gain_m2": gain,
                "loss_m2": loss,
                "net_m2": gain - loss,
                "swap_m2": 2 * min(gain, loss),
                "total_change_m2": gain + loss,
                "change_percent": 100 * (after - before) / before if before else None,
                "annual_rate": rate,
                "before_px": int(counts.pixels[c.id, valid].sum()),
                "after_px": int(counts.pixels[valid, c.id].sum()),
            }
        )
    return rows


def matrix(rows: Sequence[Row], schema: LabelSchema, key: str) -> dict[str, dict[str, Any]]:
    """Return rows as class before -> class after -> value, by the ids as text."""
    made: dict[str, dict[str, Any]] = {}
    for row in rows:
        made.setdefault(str(row["from_id"]), {})[str(row["to_id"])] = row[key]
    order = [str(c.id) for c in schema.classes]
    return {k: made[k] for k in order if k in made}

"""An evaluation for people: the table of the terminal, and a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_COLUMNS = (
    ("class", None),
    ("PQ", "pq"),
    ("SQ", "sq"),
    ("RQ", "rq"),
    ("TP", "tp"),
    ("FP", "fp"),
    ("FN", "fn"),
    ("IoU", "iou"),
    ("P", "precision"),
    ("R", "recall"),
    ("F1", "f1"),
    ("AP50", "ap50"),
)


def shown(value: Any) -> str:
    """Return a figure as text: three decimals, '-' where undefined."""
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def rows_of(result: Mapping[str, Any]) -> list[list[str]]:
    """Return the header and a row per class that is seen, then the means."""
    rows = [[title for title, _ in _COLUMNS]]
    for name, row in result["per_class"].items():
        if row.get("count_truth") or row.get("count_pred") or row.get("iou") is not None:
            rows.append([name, *(shown(row.get(key)) for _, key in _COLUMNS[1:] if key)])
    for group in ("things", "stuff", "all"):
        mean = result[group]
        rows.append([group, *(shown(mean.get(key)) for _, key in _COLUMNS[1:] if key)])
    return rows


def headline(result: Mapping[str, Any]) -> list[str]:
    """Return the sentences under the table."""
    interval = (result.get("ci95") or {}).get("pq.all")
    within = f" (95 %: {interval[0]:.3f} .. {interval[1]:.3f})" if interval else ""
    lines = [f"PQ {shown(result['all']['pq'])}{within}"]
    if result["all"].get("pq_dagger") is not None:
        lines[0] += f", PQ-dagger {shown(result['all']['pq_dagger'])}"
    if "boundary" in result:
        lines[0] += f", boundary PQ {shown(result['boundary']['all']['pq'])}"
    lines.append(f"mIoU {shown(result.get('miou'))}, overall accuracy {shown(result.get('oa'))}")
    if "f1" in result:
        f1 = result["f1"]
        lines.append(
            f"Things at IoU > {f1['iou']:g}: F1 {shown(f1['f1'])}, precision "
            f"{shown(f1['precision'])}, recall {shown(f1['recall'])}"
        )
    if "ap" in result:
        ap = result["ap"]
        lines.append(
            f"AP {shown(ap['ap'])}, AP50 {shown(ap['ap50'])}"
            + (f" ({ap['reason']})" if ap["ap"] is None and ap["reason"] else "")
        )
    if "objects" in result:
        lines += [
            f"{title}: " + ", ".join(f"{n} {word}" for word, n in result["objects"][side].items())
            for title, side in (("Truth objects", "truth"), ("Predictions", "pred"))
        ]
    return lines


def table(result: Mapping[str, Any]) -> str:
    """Return the text that the command prints."""
    rows = rows_of(result)
    wide = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [f"{row[0]:<{wide[0]}}"]
        cells += [f"{cell:>{w}}" for cell, w in zip(row[1:], wide[1:], strict=True)]
        lines.append("  ".join(cells).rstrip())
    lines += ["", *headline(result)]
    lines += [f"Note: {warning}" for warning in result["warnings"]]
    return "\n".join(lines) + "\n"

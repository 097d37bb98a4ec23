"""An evaluation for people: the table of the terminal, and a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from geopanoptic.report.style import TABLES_STYLE

if TYPE_CHECKING:
    from geopanoptic.evaluate.run import Evaluation

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
    if "series" in result:
        lines += series_lines(result["series"])
    if "objects" in result:
        lines += [
            f"{title}: " + ", ".join(f"{n} {word}" for word, n in result["objects"][side].items())
            for title, side in (("Truth objects", "truth"), ("Predictions", "pred"))
        ]
    return lines


def series_lines(series: Mapping[str, Any]) -> list[str]:
    """Return the sentences about a series of dates."""
    areas = series["per_aoi"].values()
    track, change = (
        sum(a[f"{k}_score"] for a in areas) / max(len(areas), 1) for k in ("track", "change")
    )
    scot = f"SCOT {shown(series['scot'])}"
    if series["scot_undefined"]:
        scot += f" (undefined: {series['scot_undefined']})"
    lines = [
        f"Series of {series['dates']} dates: {scot}, tracking {shown(track)} with "
        f"{sum(a['mm'] for a in areas)} mismatches, change {shown(change)}, removed F1 "
        f"{shown(series['removed_f1'])}"
    ]
    if "vpq" in series:
        lines.append(
            f"VPQ {shown(series['vpq'])} (windows of 1 to {len(series['vpq_windows'])} dates), "
            f"STQ {shown(series['stq'])} (AQ {shown(series['aq'])}, mIoU {shown(series['iou'])})"
        )
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


_STYLE = """
.bar{background:#eee;height:.9rem;width:20rem;position:relative}
.bar i{display:block;height:100%;background:#2b83ba}
.bar b{position:absolute;top:.3rem;height:.3rem;background:#0006}
figure{display:inline-block;margin:.5rem;vertical-align:top}
figure img{width:10rem;height:10rem;object-fit:contain;background:#f5f5f5;
image-rendering:pixelated}
figcaption{font-size:.8rem;max-width:10rem}
.key{display:inline-block;width:.8rem;height:.8rem;margin:0 .3rem 0 .8rem}
.note{color:#8a4b00}
"""


def page(found: Evaluation, image: str | None = None) -> str:
    """Return a self-contained HTML page: no script, no link, every name escaped."""
    result = found.result
    names = ", ".join(
        f"{scene['prediction']} against {scene['truth']}" for scene in result["scenes"][:5]
    )
    more = f" and {len(result['scenes']) - 5} more" if len(result["scenes"]) > 5 else ""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>Evaluation</title><style>{TABLES_STYLE}{_STYLE}</style>",
        "<h1>How good is the map?</h1>",
        f"<p>{escape(names + more)}</p>",
        *(f"<p>{escape(line)}</p>" for line in headline(result)),
        *(f"<p class='note'>Note: {escape(line)}</p>" for line in result["warnings"]),
        "<h2>Figures</h2>",
        _table(rows_of(result)),
        "<h2>Panoptic Quality by class</h2>",
        _bars(result),
    ]
    if "by_size" in result:
        parts += ["<h2>Things by size</h2>", _sizes(result["by_size"])]
    if "confusion" in result:
        parts += ["<h2>Which class became which (pixels)</h2>", _confusion(result["confusion"])]
    parts += _pictures(found, image)
    parts.append(
        "<h2>How this was made</h2><table>"
        + "".join(
            f"<tr><td>{escape(str(key))}<td>{escape(str(value))}"
            for key, value in {**result["parameters"], **result["versions"]}.items()
        )
        + "</table></html>\n"
    )
    return "\n".join(parts)


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}" for cell in row) for row in rows[1:])
    return f"<table><tr>{head}{body}</table>"


def _bars(result: Mapping[str, Any]) -> str:
    """Draw PQ per class, with its 95 % interval as a dark line."""
    intervals = (result.get("ci95") or {}).get("per_class", {})
    rows = []
    for name, row in result["per_class"].items():
        value = row.get("pq")
        if value is None:
            continue
        within = intervals.get(name, {}).get("pq")
        line = ""
        if within:
            left, width = 100 * within[0], 100 * (within[1] - within[0])
            line = f"<b style='left:{left:.1f}%;width:{width:.1f}%'></b>"
        rows.append(
            f"<tr><td>{escape(name)}<td><div class='bar'><i style='width:{100 * value:.1f}%'></i>"
            f"{line}</div><td>{value:.3f}"
        )
    return f"<table>{''.join(rows)}</table>"


def _sizes(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [["size", "true objects", "recall", "predicted", "precision", "mean IoU", "AP"]]
    for row in rows:
        high = row["to_m2"]
        size = f"{row['from_m2']:g} .. {high:g}" if high else f"> {row['from_m2']:g}"
        lines.append(
            [
                f"{size} m2",
                shown(row["count_truth"]),
                shown(row["recall"]),
                shown(row["count_pred"]),
                shown(row["precision"]),
                shown(row["mean_iou"]),
                shown(row["ap"]),
            ]
        )
    return _table(lines)


def _confusion(confusion: Mapping[str, Any]) -> str:
    """Draw the confusion of the classes that occur; rows are the truth, shaded by row share."""
    names, pixels = confusion["classes"], confusion["pixels"]
    used = [k for k in range(len(names)) if any(pixels[k]) or any(row[k] for row in pixels)]
    head = "".join(f"<th>{escape(names[k])}" for k in used)
    body = ""
    for r in used:
        total = sum(pixels[r]) or 1
        cells = "".join(
            f"<td style='background:rgba(43,131,186,{pixels[r][c] / total:.3f})'>{pixels[r][c]:,}"
            for c in used
        )
        body += f"<tr><td>{escape(names[r])}{cells}"
    return f"<table><tr><th>truth \\ map{head}{body}</table>"


def _pictures(found: Evaluation, image: str | None) -> list[str]:
    from geopanoptic.evaluate.chips import PRED_COLOR, TRUTH_COLOR, chips

    if not found.scenes or "objects" not in found.result:
        return []
    keys = "".join(
        f"<span class='key' style='background:rgb{color}'></span>{what}"
        for color, what in ((TRUTH_COLOR, "truth"), (PRED_COLOR, "map"))
    )
    parts = ["<h2>The largest mistakes</h2>", f"<p>Outlines: {keys}</p>"]
    for title, pictures in chips(found.scenes, image):
        parts.append(f"<h3>{escape(title)}</h3>")
        parts += [
            f"<figure><img alt='{escape(chip.caption, quote=True)}' src='{chip.uri}'>"
            f"<figcaption>{escape(chip.caption)}</figcaption></figure>"
            for chip in pictures
        ]
    return parts

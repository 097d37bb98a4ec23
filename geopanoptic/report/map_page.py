"""The report of a panoptic map: one HTML page that needs nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from geopanoptic.report.charts import histogram, share_bar, stacked_bar
from geopanoptic.report.swipe import SWIPE_STYLE, Overlay, Slide, legend_html, swipe


@dataclass(frozen=True, slots=True)
class ClassRow:
    """One class: its `area` in the page's unit, and for things how many, how large, how sure."""

    name: str
    kind: str
    color: str
    area: float
    share: float
    count: int | None = None
    median_m2: float | None = None
    score: float | None = None
    score_bins: tuple[int, ...] = ()
    size_bins: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class SeamFacts:
    """How well neighbouring tiles agree: counts by quality, a histogram, the worst ones."""

    good: int
    fair: int
    poor: int
    agreement: float | None
    joins: int
    refused: int
    bins: tuple[int, ...]
    worst: tuple[tuple[str, float, int], ...] = ()


@dataclass(frozen=True)
class MapPage:
    """All that the page tells. `unit`: 'ha' or 'px'. `facts`: rows of (name, value) under the
    title; `made`: rows on how it was made; `record`: the run record, shown as it is.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    unit: str
    total: float
    classes: Sequence[ClassRow]
    unclassified: float
    size_ticks: Sequence[tuple[float, str]] = ()
    slides: Sequence[Slide] = ()
    sides: tuple[str, str] = ("scene", "map")
    overlays: Sequence[Overlay] = ()
    seams: SeamFacts | None = None
    made: Sequence[tuple[str, str]] = ()
    record: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()


STYLE = """
:root{color-scheme:light dark;--ink:#1c2330;--soft:#606b7d;--line:#e4e8ee;--paper:#fff;
--card:#f6f8fb;--warn:#b26a00}
@media(prefers-color-scheme:dark){:root{--ink:#e7ebf2;--soft:#97a3b6;--line:#2c3546;--paper:#12161e;
--card:#1a2030;--warn:#e0a040}}
*{box-sizing:border-box}
body{font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif;max-width:68rem;margin:0 auto;
padding:2.6rem 1.4rem 4rem;color:var(--ink);background:var(--paper)}
h1{font-size:2rem;line-height:1.2;margin:0 0 .4rem;letter-spacing:-.02em;overflow-wrap:anywhere}
h2{font-size:1.2rem;margin:2.8rem 0 .8rem;letter-spacing:-.01em}
p.soft,.soft{color:var(--soft)}
.facts{display:flex;flex-wrap:wrap;gap:.2rem 1.6rem;margin:0 0 1.6rem;color:var(--soft)}
.facts b{color:var(--ink);font-weight:500}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.8rem;
margin:1.2rem 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:.7rem;padding:.8rem 1rem}
.tile b{display:block;font-size:1.55rem;font-weight:600;letter-spacing:-.02em;line-height:1.25}
.tile span{color:var(--soft);font-size:.86rem}
.stack{display:flex;height:1.1rem;border-radius:.55rem;overflow:hidden;background:var(--line);
margin:.4rem 0 1.2rem}
.stack i{display:block;height:100%}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;width:100%}
td,th{padding:.38rem .7rem;text-align:right;border-bottom:1px solid var(--line);font-weight:400;
white-space:nowrap}
th{color:var(--soft);font-size:.86rem}
td:first-child,th:first-child{text-align:left;padding-left:0}
.made td:last-child{text-align:left;white-space:normal;overflow-wrap:anywhere;width:99%}
.made td:first-child{color:var(--soft)}
.dot{display:inline-block;width:.8rem;height:.8rem;border-radius:.2rem;margin-right:.55rem;
vertical-align:-.05rem;border:1px solid #0002}
.share{display:inline-block;width:9rem;height:.6rem;border-radius:.3rem;background:var(--line);
overflow:hidden;vertical-align:middle}
.share i{display:block;height:100%}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(17rem,1fr));gap:1.2rem 2rem}
.chart{margin:0}.chart figcaption{margin-bottom:.3rem}
.chart svg{width:100%;display:block}.chart text{fill:var(--soft);font-size:11px}
.axis{stroke:var(--line);fill:none}
.note{border-left:3px solid var(--warn);padding:.1rem 0 .1rem .9rem;margin:.8rem 0}
.swipe{max-width:none;border-radius:.6rem;border-color:var(--line)!important}
details{margin-top:1rem}summary{cursor:pointer;color:var(--soft)}
pre{background:var(--card);border:1px solid var(--line);border-radius:.6rem;padding:1rem;
overflow:auto;max-height:30rem;font-size:.82rem}
footer{margin-top:3rem;color:var(--soft);font-size:.86rem}
@media print{details,.swipe input{display:none}body{max-width:none}h2{break-after:avoid}}
"""


def map_page(page: MapPage) -> str:
    """Return the page: no link, no font, nothing fetched; every name escaped."""
    facts = "".join(f"<span>{escape(k)} <b>{escape(v)}</b></span>" for k, v in page.facts)
    parts = [
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>{escape(page.title)}</title><style>{SWIPE_STYLE}{STYLE}</style></head><body>",
        f"<h1>{escape(page.title)}</h1><div class='facts'>{facts}</div>",
        *(f"<p class='note'>{escape(note)}</p>" for note in page.notes),
        _tiles(page),
    ]
    if page.slides:
        legend = [(row.name, row.color) for row in page.classes]
        parts += [
            swipe(page.slides, page.sides, overlays=page.overlays, ident="map"),
            f"<p class='soft'>{legend_html(legend)}</p>",
            "<p class='soft'>Drag across the picture. It has at most 1024 pixels a side; the map "
            "itself has all of them.</p>",
        ]
    parts += ["<h2>What is there</h2>", _classes(page)]
    parts += _histograms(page)
    if page.seams is not None:
        parts += ["<h2>How well the tiles fit</h2>", _seams(page.seams)]
    if page.made:
        rows = "".join(f"<tr><td>{escape(k)}<td>{escape(v)}" for k, v in page.made)
        parts += ["<h2>How this was made</h2>", f"<table class='made'>{rows}</table>"]
    if page.record:
        text = json.dumps(page.record, indent=1, ensure_ascii=False, default=str)
        parts.append(f"<details><summary>Run record</summary><pre>{escape(text)}</pre></details>")
    parts.append("<footer>Made by geopanoptic. Areas are counted pixels on the ellipsoid, and as "
                 "good as the map; for areas with a confidence interval see <code>geopanoptic "
                 "sample</code>.</footer></body></html>\n")  # fmt: skip
    return "\n".join(parts)


def _tiles(page: MapPage) -> str:
    tiles = [(f"{page.total:,.{_decimals(page.total)}f} {page.unit}", "mapped")]
    tiles += [
        (f"{row.count:,}", f"{row.name}, {amount(row.area)} {page.unit}")
        for row in page.classes
        if row.count is not None
    ][:4]
    if page.seams is not None and page.seams.agreement is not None:
        tiles.append((f"{100 * page.seams.agreement:.0f} %", "of the things in overlaps agree"))
    return "<div class='tiles'>{}</div>".format(
        "".join(f"<div class='tile'><b>{escape(a)}</b><span>{escape(b)}</span></div>"
                for a, b in tiles)
    )  # fmt: skip


def _decimals(value: float) -> int:
    return 0 if value >= 1000 else 1 if value >= 10 else 2


def amount(value: float) -> str:
    """Return an area with as many decimals as its size deserves."""
    return f"{value:,.{_decimals(value)}f}" if value >= 0.01 or value == 0 else f"{value:.4f}"


def _classes(page: MapPage) -> str:
    rest = page.unclassified / page.total if page.total else 0.0
    stack = [(row.name, row.share, row.color) for row in page.classes]
    head = ("class", "", "share", page.unit, "how many", "median m2", "mean score")
    most = max((row.share for row in page.classes), default=0.0) or 1.0
    rows = []
    for row in page.classes:
        dot = f"<i class='dot' style='background:{escape(row.color, quote=True)}'></i>"
        cells = (
            share_bar(row.share / most, row.color),
            f"{100 * row.share:.1f} %",
            amount(row.area),
            "" if row.count is None else f"{row.count:,}",
            "" if row.median_m2 is None else f"{row.median_m2:,.0f}",
            "" if row.score is None else f"{row.score:.2f}",
        )
        rows.append(f"<tr><td>{dot}{escape(row.name)}" + "".join(f"<td>{c}" for c in cells))
    if page.unclassified > 0:
        rows.append(
            f"<tr><td class='soft'>no class (nodata, void)<td><td>{100 * rest:.1f} %"
            f"<td>{amount(page.unclassified)}<td><td><td>"
        )
    titles = "".join(f"<th>{escape(h)}" for h in head)
    return f"{stacked_bar(stack)}<div class='wide'><table><tr>{titles}{''.join(rows)}</table></div>"


def _histograms(page: MapPage) -> list[str]:
    scored = [row for row in page.classes if any(row.score_bins)]
    sized = [row for row in page.classes if any(row.size_bins)]
    parts = []
    if scored:
        ticks = [(k / 4, f"{k / 4:g}") for k in range(5)]
        charts = "".join(
            histogram(row.score_bins, ticks, row.color, f"{row.name}: score") for row in scored
        )
        parts += [
            "<h2>How sure the model is</h2>",
            "<p class='soft'>Things by score. A score is the model's own word, not a probability "
            "of being right.</p>",
            f"<div class='charts'>{charts}</div>",
        ]
    if sized:
        size_unit = "m2" if page.unit == "ha" else "px"
        charts = "".join(
            histogram(row.size_bins, page.size_ticks, row.color, f"{row.name}: size, {size_unit}")
            for row in sized
        )
        parts += ["<h2>How large the things are</h2>", f"<div class='charts'>{charts}</div>"]
    return parts


def _seams(seams: SeamFacts) -> str:
    colors = {"good": "#1b9e77", "fair": "#e6ab02", "poor": "#d95f02"}
    counts = {"good": seams.good, "fair": seams.fair, "poor": seams.poor}
    total = sum(counts.values())
    stack = stacked_bar([(k, n / total, colors[k]) for k, n in counts.items()]) if total else ""
    said = ", ".join(f"{n:,} {k}" for k, n in counts.items())
    mean = "-" if seams.agreement is None else f"{100 * seams.agreement:.1f} %"
    lines = [
        f"<p class='soft'>{total:,} overlaps of neighbouring tiles: {said} (at least 90 %, at "
        f"least 70 %, less). Of the things' pixels there {mean} got the same object from both "
        f"tiles; {seams.joins:,} pieces were joined, {seams.refused:,} joins refused. The layer "
        f"<code>seams_qa</code> shows where.</p>",
        stack,
    ]
    ticks = [(k / 5, f"{20 * k} %") for k in range(6)]
    chart = histogram(seams.bins, ticks, colors["good"], "Overlaps by agreement")
    lines.append(f"<div class='charts'>{chart}</div>")
    if seams.worst:
        rows = "".join(
            f"<tr><td>{escape(where)}<td>{100 * agreement:.0f} %<td>{pieces:,}"
            for where, agreement, pieces in seams.worst
        )
        lines.append(
            "<div class='wide'><table><tr><th>the worst of them, at<th>agreement<th>pairs of "
            f"pieces{rows}</table></div>"
        )
    return "".join(lines)

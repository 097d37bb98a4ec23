"""A comparison for people: the text of the terminal, and a self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from geopanoptic.change.objects import STATUSES
from geopanoptic.report.style import TABLES_STYLE
from geopanoptic.report.swipe import SWIPE_STYLE, Overlay, Slide, swipe

Report = Mapping[str, Any]

_STYLE = """
.same{outline:2px solid #8888}.note{color:#8a4b00}.quiet{color:#666;font-size:.9rem}
.wide{overflow-x:auto}
"""

_NO_AREA = (
    "These areas are counted pixels of two maps. Errors of the maps count as change, so they are "
    "no estimate of how much really changed; for one with a confidence interval, interpret a "
    "sample: geopanoptic sample, then geopanoptic area."
)


def hectares(m2: float | None) -> str:
    """Return an area as text: hectares with enough digits, '-' where undefined."""
    if m2 is None:
        return "-"
    ha = m2 / 1e4
    return f"{ha:,.0f}" if abs(ha) >= 1000 else f"{ha:.2f}" if abs(ha) >= 1 else f"{ha:.4f}"


def headline(report: Report) -> list[str]:
    """Return the sentences that say what was found."""
    lines = []
    objects = report.get("objects")
    if objects:
        counts = objects["counts"]
        seen = ", ".join(f"{counts[s]} {s}" for s in STATUSES if counts[s]) or "no objects"
        lines.append(f"Objects: {objects['n_before']} before, {objects['n_after']} after: {seen}.")
        below = sum(objects["counts_below_mmu"].values())
        if below:
            mmu = report["parameters"]["mmu_m2"]
            lines.append(f"{below} more events are below the minimum mapping unit of {mmu:g} m2.")
    common = report.get("common")
    if common and common["px"]:
        changed = sum(r["area_m2"] for r in report["transitions"] if r["changed"])
        share = 100 * changed / common["m2"] if common["m2"] else 0.0
        lines.append(
            f"Land cover: {hectares(changed)} ha of {hectares(common['m2'])} ha comparable ground "
            f"({share:.1f} %) are another class after than before."
        )
        small = report["patches"]["area_m2"]
        if small["below_mmu"] or small["sliver"]:
            lines.append(
                f"Of these {hectares(small['below_mmu'])} ha are patches below the minimum mapping "
                f"unit and {hectares(small['sliver'])} ha slivers."
            )
    lines.append(_registration_line(report["registration"]))
    return lines


def _registration_line(found: Report) -> str:
    offset = found["offset_m"]
    if found["mode"] == "given":
        x, y = found["applied"]["m"]
        return f"Registration: the after map was moved back by the given ({x:+.2f}, {y:+.2f}) m."
    if offset is None:
        return "Registration: no offset between the maps could be measured; nothing was moved."
    x, y = offset
    what = f"the after map lies ({x:+.2f}, {y:+.2f}) m east and north of the before map"
    if found["is_applied"]:
        return f"Registration: {what}; it was moved back by that."
    if found["trusted"] and found["mode"] == "auto":
        return f"Registration: {what}, less than a quarter of a pixel; nothing was moved."
    return f"Registration: {what}; nothing was moved."


def text(report: Report) -> str:
    """Return what the command prints."""
    lines = headline(report)
    rows = [["class", "before ha", "after ha", "gain", "loss", "net"]]
    for row in report.get("class_summary") or ():
        keys = ("before_m2", "after_m2", "gain_m2", "loss_m2", "net_m2")
        rows.append([row["class_name"], *(hectares(row[k]) for k in keys)])
    if len(rows) > 1:
        wide = [max(len(r[k]) for r in rows) for k in range(len(rows[0]))]
        lines.append("")
        for r in rows:
            cells = [f"{r[0]:<{wide[0]}}"]
            cells += [f"{cell:>{w}}" for cell, w in zip(r[1:], wide[1:], strict=True)]
            lines.append("  ".join(cells).rstrip())
    lines += [f"Note: {warning}" for warning in report["warnings"]]
    return "\n".join(lines) + "\n"


def page(report: Report, slides: Sequence[Slide], overlays: Sequence[Overlay],
         legend: Sequence[tuple[str, str]]) -> str:  # fmt: skip
    """Return a self-contained HTML page: nothing is fetched, every name escaped."""
    names = tuple(
        f"{side}, {report[side]['date']}" if report[side]["date"] else side
        for side in ("before", "after")
    )
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'>",
        "<meta name='viewport' content='width=device-width'>",
        f"<title>Change</title><style>{TABLES_STYLE}{_STYLE}{SWIPE_STYLE}</style>",
        "<h1>What has changed?</h1>",
        f"<p>{escape(report['before']['name'])} ({escape(names[0])}) against "
        f"{escape(report['after']['name'])} ({escape(names[1])})</p>",
        *(f"<p>{escape(line)}</p>" for line in headline(report)),
        *(f"<p class='note'>Note: {escape(line)}</p>" for line in report["warnings"]),
    ]
    if slides:
        parts += [
            "<h2>Before and after</h2>",
            swipe(slides, (names[0], names[1]), overlays=overlays, legend=legend),
            "<p class='quiet'>Drag across the picture. It shows the common ground in at most 1000 "
            "pixels each way; open the rasters and layers in a GIS for the rest.</p>",
        ]
    if report.get("objects"):
        parts += ["<h2>Objects</h2>", _objects(report["objects"])]
    if report.get("transitions") is not None:
        parts += [
            "<h2>From class to class (hectares)</h2>",
            _matrix(report),
            f"<p class='quiet'>{escape(_NO_AREA)}</p>",
            "<h2>Classes</h2>",
            _classes(report["class_summary"]),
            "<h2>What could not be compared</h2>",
            _not_comparable(report),
        ]
    parts += ["<h2>Registration</h2>", _registration(report["registration"])]
    about = {**report["parameters"], **report["versions"]}
    parts.append("<h2>How this was made</h2>" + _pairs({k: _shown(v) for k, v in about.items()}))
    return "\n".join(parts) + "</html>\n"


def _shown(value: Any) -> str:
    if value is None or value == []:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _pairs(rows: Mapping[str, str]) -> str:
    body = "".join(f"<tr><td>{escape(k)}<td>{escape(v)}" for k, v in rows.items())
    return f"<table>{body}</table>"


def _table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}" for c in row) for row in rows[1:])
    return f"<div class='wide'><table><tr>{head}{body}</table></div>"


def _objects(objects: Report) -> str:
    used = [s for s in STATUSES if objects["counts"][s] or objects["counts_below_mmu"][s]]
    rows = [["class", *used]]
    for name, counts in objects["by_class"].items():
        rows.append([name, *(str(counts.get(s, 0)) for s in used)])
    rows.append(["all", *(str(objects["counts"][s]) for s in used)])
    if any(objects["counts_below_mmu"].values()):
        small = objects["counts_below_mmu"]
        rows.append(["below the mapping unit", *(str(small[s]) for s in used)])
    return _table(rows)


def _matrix(report: Report) -> str:
    """Draw the matrix; rows are before, shaded by the share of their row, the diagonal framed."""
    rows = report["transitions"]
    ids = sorted({r["from_id"] for r in rows} | {r["to_id"] for r in rows})
    names = {r["from_id"]: r["from_class"] for r in rows}
    names |= {r["to_id"]: r["to_class"] for r in rows}
    area = {(r["from_id"], r["to_id"]): r["area_m2"] for r in rows}
    head = "".join(f"<th>{escape(names[k])}" for k in ids)
    body = ""
    for a in ids:
        total = sum(area.get((a, b), 0.0) for b in ids)
        cells = ""
        for b in ids:
            value = area.get((a, b), 0.0)
            shade = value / total if total else 0.0
            rgb = "43,131,186" if a == b else "215,48,31"
            mark = " class='same'" if a == b else ""
            cells += (
                f"<td{mark} style='background:rgba({rgb},{0.6 * shade:.3f})'>"
                f"{hectares(value) if value else ''}"
            )
        body += f"<tr><td>{escape(names[a])}{cells}<td>{hectares(total)}"
    totals = "".join(f"<td>{hectares(sum(area.get((a, b), 0.0) for a in ids))}" for b in ids)
    grand = hectares(sum(area.values()))
    return (
        f"<div class='wide'><table><tr><th>before \\ after{head}<th>before{body}"
        f"<tr><td>after{totals}<td>{grand}</table></div>"
    )


def _classes(rows: Sequence[Report]) -> str:
    dated = any(r["annual_rate"] is not None for r in rows)
    head = ["class", "before", "after", "stayed", "gain", "loss", "net", "swap", "change"]
    lines = [[*head, "per year"] if dated else head]
    keys = ("before_m2", "after_m2", "persistence_m2", "gain_m2", "loss_m2", "net_m2", "swap_m2")
    for r in rows:
        change = "-" if r["change_percent"] is None else f"{r['change_percent']:+.1f} %"
        line = [r["class_name"], *(hectares(r[k]) for k in keys), change]
        if dated:
            rate = r["annual_rate"]
            line.append("-" if rate is None else f"{100 * rate:+.2f} %")
        lines.append(line)
    return _table(lines)


def _not_comparable(report: Report) -> str:
    found, total = report["not_comparable"], report["grid"]["px"]
    rows = [["of the common grid", "before", "after"]]
    for reason, what in (
        ("extent", "outside the map"), ("nodata", "nodata"), ("mask", "under the mask"),
        ("void", "class void"),
    ):  # fmt: skip
        shares = [100 * found[side][reason] / total for side in ("before", "after")]
        rows.append([what, *(f"{share:.2f} %" for share in shares)])
    common = report["common"]
    line = (
        f"<p>{100 * common['share_of_grid']:.1f} % of the common grid can be compared. Of the "
        f"ground that the before map covers {100 * found['before']['beyond_common']:.1f} % lies "
        f"beyond it, of the after map {100 * found['after']['beyond_common']:.1f} %.</p>"
    )
    return line + _table(rows)


def _registration(found: Report) -> str:
    rows = {"mode": found["mode"], "trusted": "yes" if found["trusted"] else "no"}
    for name, key in (("offset found", "found"), ("applied", "applied")):
        m = found[key]["m"]
        rows[name] = "-" if m is None else f"{m[0]:+.3f}, {m[1]:+.3f} m ({found[key]['px']:.2f} px)"
    for name, what in (("coarse", "windows"), ("fine", "objects")):
        step = found[name]
        if step is not None:
            x, y = step["offset_m"]
            rows[f"{name} step"] = (
                f"{x:+.3f}, {y:+.3f} m; {step['inliers']} of {step['n']} {what} agree, spread "
                f"{step['mad_px']:.2f} px"
            )
    return _pairs(rows)

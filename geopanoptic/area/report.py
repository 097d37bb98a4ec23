"""Areas for people and programs: JSON, a table, a page; pixel counts beside the estimates."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np

from geopanoptic import __version__
from geopanoptic.metrics.area import AreaEstimate, Estimates, SampleCounts

SAYING = (
    "Counting a map's pixels is not an estimate of area: it adds up the map's errors. The adjusted "
    "area is; it comes with a 95 % confidence interval."
)
_SOURCES = {
    "olofsson2014": "Olofsson et al. 2014 (the strata are the map's classes)",
    "stehman2014": "Stehman 2014 (the strata are not the map's classes)",
}


@dataclass(frozen=True)
class AreaReport:
    """What `estimate_areas` returns; `mapped`: class -> (pixels, m2) of the map itself."""

    estimator: str
    source: str
    classes: list[str]
    strata: list[str]
    sample: SampleCounts
    found: AreaEstimate
    mapped: dict[str, tuple[int, float]]
    metres: bool
    warnings: list[str]

    @property
    def unit(self) -> str:
        """The unit of areas: 'ha', or 'px' without a CRS."""
        return "ha" if self.metres else "px"

    @property
    def total(self) -> float:
        """Area of the sampled strata in `unit`."""
        kept = self.sample.sampled
        return float(self.sample.area[kept].sum() / 1e4 if self.metres
                     else self.sample.pixels[kept].sum())  # fmt: skip

    def mapped_area(self, name: str) -> float | None:
        """Return the area that the map shows of a class in `unit`, by counting its pixels."""
        if name not in self.mapped:
            return None
        pixels, area = self.mapped[name]
        return area / 1e4 if self.metres else float(pixels)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; undefined figures are null."""
        found = self.found
        units = self.sample.counts.sum(axis=(1, 2))
        share = self.sample.area / self.sample.area[self.sample.sampled].sum()
        return {
            "estimator": self.estimator,
            "source": _SOURCES[self.estimator],
            "sample": self.source,
            "n": int(units.sum()),
            "unit": self.unit,
            "total_area": self.total,
            "overall_accuracy": _figure(found.overall, 0),
            "per_class": {name: self._class(k, name) for k, name in enumerate(self.classes)},
            "matrix": {
                "rows": "map",
                "columns": "reference",
                "classes": self.classes,
                "counts": self.sample.counts.sum(axis=0).tolist(),
                "proportions": found.matrix.tolist(),
            },
            "strata": {
                name: {
                    "pixels": int(self.sample.pixels[k]),
                    "area_m2": float(self.sample.area[k]) if self.metres else None,
                    "share": float(share[k]) if units[k] else None,
                    "n": int(units[k]),
                }
                for k, name in enumerate(self.strata)
            },
            "warnings": self.warnings,
            "note": SAYING,
            "version": __version__,
        }

    def _class(self, k: int, name: str) -> dict[str, Any]:
        area = self.found.area
        scaled = Estimates(area.value * self.total, area.se * self.total)
        pixels = self.mapped.get(name, (None, None))[0]
        return {
            "users_accuracy": _figure(self.found.users, k),
            "producers_accuracy": _figure(self.found.producers, k),
            "area_proportion": _figure(area, k),
            "area": _figure(scaled, k),
            "mapped_area": self.mapped_area(name),
            "mapped_pixels": pixels,
            "n_map": int(self.sample.counts[:, k].sum()),
            "n_reference": int(self.sample.counts[:, :, k].sum()),
        }


def _figure(pair: Estimates, k: int) -> dict[str, Any]:
    """Return value, standard error and 95 % interval of one figure."""
    value, half = _number(pair.value[k]), _number(pair.half_width[k])
    known = value is not None and half is not None
    return {
        "value": value,
        "se": _number(pair.se[k]),
        "half_width": half,
        "ci95": [value - half, value + half] if known else None,  # type: ignore[operator]
    }


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def area_table(report: AreaReport) -> str:
    """Return the text that the command prints."""
    rows = area_rows(report)
    wide = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [f"{cell:>{w}}" for cell, w in zip(row[1:], wide[1:], strict=True)]
        lines.append("  ".join([f"{row[0]:<{wide[0]}}", *cells]))
    overall = report.found.overall
    n = int(report.sample.counts.sum())
    lines += [
        "",
        f"Overall accuracy {_plus(overall, 0, 3)}, from {n} interpreted pixels of "
        f"{len(report.strata)} strata; {_SOURCES[report.estimator]}.",
        SAYING,
        *(f"Note: {warning}" for warning in report.warnings),
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def area_rows(report: AreaReport) -> list[list[str]]:
    """Return a header and a row per class: pixel count and adjusted area side by side."""
    unit, found = report.unit, report.found
    rows = [["class", f"mapped {unit}", f"adjusted {unit}", "95 %", "user's", "producer's"]]
    for k, name in enumerate(report.classes):
        mapped = report.mapped_area(name)
        half = found.area.half_width[k] * report.total
        rows.append(
            [
                name,
                "-" if mapped is None else _amount(mapped, report.total),
                _amount(found.area.value[k] * report.total, report.total),
                "-" if np.isnan(half) else f"+- {_amount(half, report.total)}",
                _plus(found.users, k, 2),
                _plus(found.producers, k, 2),
            ]
        )
    return rows


def _amount(value: float, total: float) -> str:
    """Return an area with as many decimals as a total of that size deserves."""
    return f"{value:,.{0 if total >= 1e4 else 1 if total >= 100 else 3}f}"


def _plus(pair: Estimates, k: int, decimals: int) -> str:
    if np.isnan(pair.value[k]):
        return "-"
    half = pair.half_width[k]
    within = "" if np.isnan(half) else f" +- {half:.{decimals}f}"
    return f"{pair.value[k]:.{decimals}f}{within}"


_STYLE = """
:root{color-scheme:light dark;--ink:#1d2433;--soft:#667;--line:#e3e6ec;--paper:#fff;--a:#b9c2d0;
--b:#2b6cb0}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ef;--soft:#99a;--line:#333a48;--paper:#151a23;
--a:#465064;--b:#63a4e8}}
body{font:15px/1.55 system-ui,sans-serif;max-width:62rem;margin:2.5rem auto;padding:0 1.2rem;
color:var(--ink);background:var(--paper)}
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin-top:2.2rem}
p.soft{color:var(--soft);max-width:46rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.3rem .8rem;text-align:right;border-bottom:1px solid var(--line);font-weight:400}
th{color:var(--soft)}td:first-child,th:first-child{text-align:left;padding-left:0}
.note{border-left:3px solid #c77d0a;padding-left:.8rem}
svg text{fill:var(--ink);font-size:13px}svg .soft{fill:var(--soft);font-size:12px}
"""


def area_page(report: AreaReport) -> str:
    """Return a self-contained HTML page: no script, no link, every name escaped."""
    matrix = report.sample.counts.sum(axis=0)
    names = [escape(name) for name in report.classes]
    head = "".join(f"<th>{name}" for name in names)
    body = "".join(
        f"<tr><td>{names[i]}" + "".join(f"<td>{n:,}" for n in row) for i, row in enumerate(matrix)
    )
    rows = area_rows(report)
    figures = "".join("<tr>" + "".join(f"<td>{escape(c)}" for c in row) for row in rows[1:])
    title = "".join(f"<th>{escape(c)}" for c in rows[0])
    overall = _plus(report.found.overall, 0, 3).replace("+-", "±")
    return "\n".join(
        [
            "<!doctype html><html lang='en'><meta charset='utf-8'>",
            "<meta name='viewport' content='width=device-width'>",
            f"<title>Areas with uncertainty</title><style>{_STYLE}</style>",
            "<h1>How much is there, really?</h1>",
            f"<p class='soft'>{escape(report.source)}: {int(matrix.sum()):,} interpreted pixels in "
            f"{len(report.strata)} strata. Overall accuracy {overall}. "
            f"{escape(_SOURCES[report.estimator])}.</p>",
            *(f"<p class='note'>{escape(w)}</p>" for w in report.warnings),
            "<h2>Area by class</h2>",
            f"<p class='soft'>{SAYING}</p>",
            _bars(report),
            f"<table><tr>{title}{figures}</table>".replace("+-", "±"),
            "<h2>Which class became which (interpreted pixels)</h2>",
            f"<table><tr><th>map \\ reference{head}{body}</table>",
            f"<p class='soft'>geopanoptic {escape(__version__)}</p></html>\n",
        ]
    )


def _bars(report: AreaReport) -> str:
    """Draw mapped and adjusted area of each class, with the interval as a whisker."""
    value = report.found.area.value * report.total
    half = np.nan_to_num(report.found.area.half_width * report.total)
    mapped = [report.mapped_area(name) or 0.0 for name in report.classes]
    left = min(300, 20 + 8 * max(len(name) for name in report.classes))  # room for the names
    scale = (720 - left) / max([*(value + half), *mapped, 1e-12])
    parts = []
    for k, name in enumerate(report.classes):
        y = 46 * k
        low, high = (value[k] - half[k]) * scale, (value[k] + half[k]) * scale
        parts.append(
            f"<text x='{left - 10}' y='{y + 26}' text-anchor='end'>{escape(name)}</text>"
            f"<rect x='{left}' y='{y + 6}' width='{mapped[k] * scale:.1f}' height='12' "
            f"fill='var(--a)'/>"
            f"<rect x='{left}' y='{y + 20}' width='{value[k] * scale:.1f}' height='16' "
            f"fill='var(--b)'/>"
            f"<path d='M{left + max(low, 0):.1f} {y + 28}H{left + high:.1f}m0-5v10' "
            f"stroke='var(--ink)' fill='none' stroke-width='1.5'/>"
        )
    height = 46 * len(report.classes) + 24
    key = (
        f"<g transform='translate({left},{height - 14})'><rect width='12' height='10' "
        "fill='var(--a)'/><text class='soft' x='18' y='10'>pixels counted on the map</text>"
        "<rect x='210' width='12' height='10' fill='var(--b)'/><text class='soft' x='228' "
        "y='10'>adjusted, with 95 % interval</text></g>"
    )
    return f"<svg viewBox='0 0 760 {height}' width='760' role='img'>{''.join(parts)}{key}</svg>"

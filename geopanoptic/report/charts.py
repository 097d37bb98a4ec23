"""Small charts as SVG text: in the colours of the page, light or dark, without script."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

_WIDTH, _HEIGHT = 320, 110


def histogram(
    counts: Sequence[int], ticks: Sequence[tuple[float, str]], color: str, title: str
) -> str:
    """Draw bars of `counts` from left to right; `ticks`: (place 0..1, label) under them."""
    most = max(counts, default=0)
    step = _WIDTH / max(len(counts), 1)
    bars = "".join(
        f"<rect x='{k * step + 0.5:.1f}' y='{_HEIGHT - h:.1f}' width='{step - 1:.1f}' "
        f"height='{h:.1f}' rx='1'><title>{n:,}</title></rect>"
        for k, n in enumerate(counts)
        if (h := (_HEIGHT - 14) * n / most if most else 0.0) > 0
    )
    marks = "".join(
        f"<text x='{x * _WIDTH:.1f}' y='{_HEIGHT + 15}' text-anchor='{_anchor(x)}'>"
        f"{escape(label)}</text>"
        for x, label in ticks
    )
    return (
        f"<figure class='chart'><figcaption>{escape(title)}</figcaption>"
        f"<svg viewBox='0 0 {_WIDTH} {_HEIGHT + 20}' role='img' aria-label='"
        f"{escape(title, quote=True)}'><g fill='{escape(color, quote=True)}'>{bars}</g>"
        f"<path d='M0 {_HEIGHT + 0.5}H{_WIDTH}' class='axis'/>{marks}</svg></figure>"
    )


def _anchor(x: float) -> str:
    return "start" if x <= 0 else "end" if x >= 1 else "middle"


def stacked_bar(parts: Sequence[tuple[str, float, str]]) -> str:
    """Draw one bar of the full width: (name, share 0..1, colour) from left to right."""
    cells = "".join(
        f"<i style='width:{100 * share:.3f}%;background:{escape(color, quote=True)}' "
        f"title='{escape(name, quote=True)} {100 * share:.1f} %'></i>"
        for name, share, color in parts
        if share > 0
    )
    return f"<div class='stack'>{cells}</div>"


def share_bar(share: float, color: str) -> str:
    """Draw a bar of `share` 0..1 for a cell of a table."""
    return (
        f"<span class='share'><i style='width:{100 * share:.2f}%;"
        f"background:{escape(color, quote=True)}'></i></span>"
    )

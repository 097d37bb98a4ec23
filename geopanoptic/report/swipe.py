"""Two pictures under one slider: drag, and one gives way to the other; one HTML fragment.

    page = f"<style>{SWIPE_STYLE}</style>" + swipe(
        [Slide("map", png_uri(before), png_uri(after))], ("2011-05-01", "2011-05-24"),
        overlays=[Overlay("changes", png_uri(rgba), legend)])

Pictures are data URIs, so nothing is fetched. The slider needs one line of script, which the
fragment holds; without scripts both pictures are seen half and half.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]

SWIPE_STYLE = """
.swipe{--x:50%;position:relative;max-width:64rem;margin:1rem 0;background:#f2f2f2;
border:1px solid #ccc;line-height:0;user-select:none;overflow:hidden}
.swipe img{width:100%;display:block;image-rendering:auto}
.swipe .top,.swipe .over{position:absolute;inset:0;height:100%}
.swipe .top{clip-path:inset(0 0 0 var(--x))}
.swipe .bar{position:absolute;top:0;bottom:0;left:var(--x);width:3px;margin-left:-1.5px;
background:#fff;box-shadow:0 0 4px #000a;pointer-events:none}
.swipe .bar::after{content:"\\2194";position:absolute;top:50%;left:50%;
transform:translate(-50%,-50%);background:#fff;border-radius:50%;width:2rem;height:2rem;line-height:2rem;text-align:center;
font-size:1.1rem;color:#333;box-shadow:0 0 4px #0006}
.swipe input[type=range]{position:absolute;inset:0;width:100%;height:100%;margin:0;opacity:0;
cursor:ew-resize}
.swipe .tag{position:absolute;top:.6rem;padding:.2rem .6rem;line-height:1.3;font-size:.85rem;
background:#000a;color:#fff;border-radius:.3rem;pointer-events:none}
.swipe .tag.l{left:.6rem}.swipe .tag.r{right:.6rem}
.swipe .slide,.swipe .over{display:none}.swipe .over{pointer-events:none}
.swipe-box input{accent-color:#2b83ba}
.swipe-keys{font-size:.9rem;line-height:1.6}
.swipe-keys label{margin-right:1rem;white-space:nowrap}
.swipe-key{display:inline-block;width:.8rem;height:.8rem;margin:0 .3rem 0 .8rem;
border:1px solid #0003;vertical-align:-1px}
"""


@dataclass(frozen=True, slots=True)
class Slide:
    """One pair of pictures of the same ground, as data URIs of equal proportions."""

    title: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class Overlay:
    """A transparent picture over both, with its legend: (name, '#rrggbb'); `shown` at first."""

    title: str
    uri: str
    legend: tuple[tuple[str, str], ...] = ()
    shown: bool = True


def swipe(
    slides: Sequence[Slide],
    names: tuple[str, str],
    *,
    overlays: Sequence[Overlay] = (),
    legend: Sequence[tuple[str, str]] = (),
    ident: str = "swipe",
) -> str:
    """Return the fragment: a chooser when there are several slides, the pictures, the legends.

    `names`: what left and right are called (dates). `legend`: of the slides themselves. `ident`:
    unlike that of other swipes on the page; letters, digits and dashes. Every name is escaped.
    """
    assert slides, "a swipe needs a pair of pictures"
    assert ident.replace("-", "").isalnum(), f"ident {ident!r} goes into CSS as it is"
    rules, keys, pictures = [], [], []
    for k, slide in enumerate(slides):
        name = f"{ident}-s{k}"
        checked = " checked" if k == 0 else ""
        rules.append(f"#{ident}:has(#{name}:checked) .slide.s{k}{{display:block}}")
        keys.append(
            f"<label><input type='radio' name='{ident}-slide' id='{name}'{checked}> "
            f"{escape(slide.title)}</label>"
        )
        alt = [escape(f"{slide.title}, {date}", quote=True) for date in names]
        pictures.append(
            f"<div class='slide s{k}'><img alt='{alt[0]}' src='{slide.before}'>"
            f"<img class='top' alt='{alt[1]}' src='{slide.after}'></div>"
        )
    boxes = []
    for k, overlay in enumerate(overlays):
        name = f"{ident}-o{k}"
        rules.append(f"#{ident}:has(#{name}:checked) .over.o{k}{{display:block}}")
        checked = " checked" if overlay.shown else ""
        boxes.append(
            f"<label><input type='checkbox' id='{name}'{checked}> {escape(overlay.title)}</label>"
            f"{legend_html(overlay.legend)}<br>"
        )
        pictures.append(
            f"<img class='over o{k}' alt='{escape(overlay.title, quote=True)}' src='{overlay.uri}'>"
        )
    chooser = "".join(keys) if len(slides) > 1 else f"<span hidden>{''.join(keys)}</span>"
    return (
        f"<style>{''.join(rules)}</style><div class='swipe-box' id='{ident}'>"
        f"<div class='swipe-keys'>{chooser}{legend_html(legend)}</div>"
        f"<div class='swipe'>{''.join(pictures)}<div class='bar'></div>"
        f"<span class='tag l'>{escape(names[0])}</span>"
        f"<span class='tag r'>{escape(names[1])}</span>"
        "<input type='range' min='0' max='100' value='50' step='0.1' aria-label='swipe between the "
        "two dates' oninput=\"this.parentNode.style.setProperty('--x',this.value+'%')\"></div>"
        f"<div class='swipe-keys'>{''.join(boxes)}</div></div>"
    )


def legend_html(rows: Sequence[tuple[str, str]]) -> str:
    """Return coloured squares with their names."""
    return "".join(
        f"<span class='swipe-key' style='background:{escape(color, quote=True)}'></span>"
        f"{escape(name)}"
        for name, color in rows
    )


def png_uri(picture: Picture) -> str:
    """Return a (rows, cols, 3 or 4) uint8 picture as a PNG data URI."""
    height, width, bands = picture.shape
    assert bands in (3, 4), f"a picture has 3 or 4 bands, not {bands}"
    lines = np.zeros((height, 1 + width * bands), np.uint8)  # a filter byte of 0 before each line
    lines[:, 1:] = picture.reshape(height, -1)
    kind = 2 if bands == 3 else 6
    head = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    body = _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(lines.tobytes(), 7))
    data = b"\x89PNG\r\n\x1a\n" + body + _chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

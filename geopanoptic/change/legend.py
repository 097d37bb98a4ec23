"""What the numbers of the change rasters mean, for GDAL, QGIS and people: RAT, QML, CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

import numpy as np
import numpy.typing as npt

from geopanoptic.schema import LabelSchema

Rgb = tuple[int, int, int]

UNCHANGED, CHANGED, SMALL = 1, 2, 3


@dataclass(frozen=True, slots=True)
class Entry:
    """One value of a raster: `label`, colour; in a from-to raster both classes and pixels."""

    value: int
    label: str
    rgb: Rgb
    before: str = ""
    after: str = ""
    pixels: int = 0


def from_to_legend(
    pixels: npt.NDArray[np.int64], schema: LabelSchema, factor: int
) -> tuple[Entry, ...]:
    """Return an entry for every pair of classes that occurs, sorted by code.

    What stayed is pale in its class's colour; what changed has the colour of what it became, with
    a tint of what it was.
    """
    entries = []
    for a in schema.classes:
        for b in schema.classes:
            n = int(pixels[a.id, b.id])
            if n == 0:
                continue
            same = a.id == b.id
            label = f"{a.name} (unchanged)" if same else f"{a.name} → {b.name}"
            rgb = _mixed(a.rgb, (255, 255, 255), 0.72) if same else _mixed(b.rgb, a.rgb, 0.2)
            entries.append(Entry(a.id * factor + b.id, label, rgb, a.name, b.name, n))
    return tuple(sorted(entries, key=lambda e: e.value))


def status_legend() -> tuple[Entry, ...]:
    """Return the entries of the status raster."""
    return (
        Entry(UNCHANGED, "unchanged", (217, 217, 217)),
        Entry(CHANGED, "changed", (215, 48, 31)),
        Entry(SMALL, "below minimum mapping unit, or sliver", (253, 174, 97)),
    )


def _mixed(one: Rgb, other: Rgb, share: float) -> Rgb:
    r, g, b = (round(x * (1 - share) + y * share) for x, y in zip(one, other, strict=True))
    return r, g, b


def write_legends(tif: Path, entries: Sequence[Entry], *, colour_table: bool) -> None:
    """Write .aux.xml (attribute table; colour table for bytes), .qml and .csv beside `tif`."""
    write_rat(Path(f"{tif}.aux.xml"), entries, colour_table=colour_table)
    write_qml(tif.with_suffix(".qml"), entries)
    with tif.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(["value", "label", "from_class", "to_class", "pixels", "red", "green", "blue"])
        out.writerows(
            [e.value, e.label, e.before, e.after, e.pixels or "", *e.rgb] for e in entries
        )


def write_rat(path: Path, entries: Sequence[Entry], *, colour_table: bool) -> None:
    """Write GDAL's side file. A colour table is an entry for every number, so only for bytes."""
    root = Element("PAMDataset")
    band = SubElement(root, "PAMRasterBand", band="1")
    if colour_table:
        by_value = {e.value: e for e in entries}
        names, colours = SubElement(band, "CategoryNames"), SubElement(band, "ColorTable")
        for value in range(max(by_value) + 1):
            entry = by_value.get(value)
            SubElement(names, "Category").text = entry.label if entry else "nodata"
            rgba = (*entry.rgb, 255) if entry else (0, 0, 0, 0)
            cells = zip(("c1", "c2", "c3", "c4"), rgba, strict=True)
            SubElement(colours, "Entry", {key: str(v) for key, v in cells})
    table = SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    # GDALRATFieldType: 0 integer, 2 string; usage: 5 min-max, 2 name, 0 generic, 6-9 r g b alpha
    fields = (("Value", 0, 5), ("Class", 2, 2), ("From", 2, 0), ("To", 2, 0), ("Red", 0, 6),
              ("Green", 0, 7), ("Blue", 0, 8), ("Alpha", 0, 9))  # fmt: skip
    for index, (name, kind, usage) in enumerate(fields):
        field = SubElement(table, "FieldDefn", index=str(index))
        SubElement(field, "Name").text = name
        SubElement(field, "Type").text = str(kind)
        SubElement(field, "Usage").text = str(usage)
    for index, e in enumerate(entries):
        row = SubElement(table, "Row", index=str(index))
        for cell in (e.value, e.label, e.before, e.after, *e.rgb, 255):
            SubElement(row, "F").text = str(cell)
    _write(root, path)


def write_qml(path: Path, entries: Sequence[Entry]) -> None:
    """Write the QGIS style: one named, coloured entry per value (QGIS 3.22 and later)."""
    root = Element("qgis", version="3.22.0", styleCategories="Symbology|Rendering")
    pipe = SubElement(root, "pipe")
    renderer = SubElement(
        pipe, "rasterrenderer", type="paletted", band="1", opacity="1", alphaBand="-1"
    )
    SubElement(renderer, "rasterTransparency")
    palette = SubElement(renderer, "colorPalette")
    for e in entries:
        colour = "#{:02x}{:02x}{:02x}".format(*e.rgb)
        SubElement(
            palette, "paletteEntry", value=str(e.value), label=e.label, color=colour, alpha="255"
        )
    SubElement(pipe, "brightnesscontrast", brightness="0", contrast="0", gamma="1")
    SubElement(pipe, "huesaturation", saturation="0", grayscaleMode="0", colorizeOn="0")
    SubElement(pipe, "rasterresampler", maxOversampling="2")
    _write(root, path)


def _write(root: Element, path: Path) -> None:
    indent(root, " ")
    # without an XML declaration: GDAL silently ignores a side file that starts with one
    ElementTree(root).write(path, encoding="UTF-8", xml_declaration=False)

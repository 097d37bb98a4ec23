"""How QGIS and GDAL learn the classes of a label raster: colour table, RAT, names, and .qml.

Measured with QGIS 3.22 and 3.40: 3.40 reads class names from the raster attribute table, 3.22 only
from the .qml beside the file, so both are written. All text goes through ElementTree.
"""

from __future__ import annotations

import colorsys
from pathlib import Path
from xml.etree.ElementTree import Element, ElementTree, SubElement, indent

from geopanoptic.schema import NODATA, VOID, LabelSchema

_VOID_RGB = (128, 128, 128)
_QGIS = "3.22.0"
_COLOURS = 64
_BOUNDS = 1024  # entries of the instance legend at most: 50 000 of them take QGIS 4 s to open

Row = tuple[int, str, tuple[int, int, int], int]


def legend(schema: LabelSchema) -> tuple[Row, ...]:
    """Return (value, name, (red, green, blue), alpha) of nodata, every class, and void."""
    classes = tuple((c.id, c.name, c.rgb, 255) for c in schema.classes)
    return (NODATA, "nodata", (0, 0, 0), 0), *classes, (VOID, "void", _VOID_RGB, 255)


def write_pam(path: Path, schema: LabelSchema) -> None:
    """Write GDAL's side file (.aux.xml) with category names, colour and attribute tables.

    The COG driver carries all three over from the side file of its source.
    """
    root = Element("PAMDataset")
    band = SubElement(root, "PAMRasterBand", band="1")
    names, colours = SubElement(band, "CategoryNames"), SubElement(band, "ColorTable")
    rows = legend(schema)
    by_value = {value: (name, rgb, alpha) for value, name, rgb, alpha in rows}
    for value in range(max(by_value) + 1):
        name, rgb, alpha = by_value.get(value, ("", (0, 0, 0), 255))
        SubElement(names, "Category").text = name
        entry = zip(("c1", "c2", "c3", "c4"), (*rgb, alpha), strict=True)
        SubElement(colours, "Entry", {key: str(value) for key, value in entry})
    table = SubElement(band, "GDALRasterAttributeTable", tableType="thematic")
    # GDALRATFieldType: 0 integer, 2 string; GDALRATFieldUsage: 5 min-max, 2 name, 6-9 r g b alpha
    fields = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8),
              ("Alpha", 0, 9))  # fmt: skip
    for index, (name, kind, usage) in enumerate(fields):
        field = SubElement(table, "FieldDefn", index=str(index))
        SubElement(field, "Name").text = name
        SubElement(field, "Type").text = str(kind)
        SubElement(field, "Usage").text = str(usage)
    for index, (value, name, rgb, alpha) in enumerate(rows):
        row = SubElement(table, "Row", index=str(index))
        for cell in (value, name, *rgb, alpha):
            SubElement(row, "F").text = str(cell)
    _write(root, path)


def write_semantic_qml(path: Path, schema: LabelSchema) -> None:
    """Write the QGIS style of a semantic raster: one named, coloured entry per class."""
    root, renderer = _raster_style("paletted")
    palette = SubElement(renderer, "colorPalette")
    for value, name, rgb, alpha in legend(schema)[1:]:
        SubElement(
            palette,
            "paletteEntry",
            value=str(value),
            label=name,
            color=_hex(rgb),
            alpha=str(alpha),
        )
    _write(root, path)


def write_instances_qml(path: Path, count: int) -> None:
    """Write the QGIS style of an instance raster with ids 1..count: 64 colours, taken in turn.

    Hues a golden ratio apart keep neighbouring ids distinct. 0 (no instance) is transparent.
    """
    entries = max(1, min(count, _BOUNDS))
    root, renderer = _raster_style("singlebandpseudocolor", (1, max(count, 1)))
    shader = _ramp(renderer, "DISCRETE", 1, max(count, 1))
    SubElement(shader, "item", value="0.5", label="no instance", color="#000000", alpha="0")
    for index in range(entries):
        bound = (index + 1) * max(count, 1) / entries + (0.5 if entries == count else 0.0)
        value = "inf" if index == entries - 1 else f"{bound:.6g}"
        colour = _hex(golden_colour(index % _COLOURS))
        SubElement(shader, "item", value=value, label=f"{bound:.0f}", color=colour, alpha="255")
    _write(root, path)


def write_score_qml(path: Path) -> None:
    """Write the QGIS style of a score raster: 0..200 stands for 0..1, 255 for none."""
    root, renderer = _raster_style("singlebandpseudocolor", (0, 200))
    shader = _ramp(renderer, "INTERPOLATED", 0, 200)
    stops = (("#440154", 0), ("#3b528b", 50), ("#21918c", 100), ("#5ec962", 150), ("#fde725", 200))
    for colour, value in stops:
        label = f"{value / 200:g}"
        SubElement(shader, "item", value=str(value), label=label, color=colour, alpha="255")
    _write(root, path)


def golden_colour(index: int) -> tuple[int, int, int]:
    """Return the colour of a number: hues step by the golden ratio, so near numbers differ."""
    hue = (0.07 + index * 0.6180339887498949) % 1.0
    rgb = colorsys.hsv_to_rgb(hue, (0.75, 0.55, 0.9)[index % 3], (0.95, 0.85, 0.7)[index // 3 % 3])
    return round(rgb[0] * 255), round(rgb[1] * 255), round(rgb[2] * 255)


def _raster_style(kind: str, limits: tuple[int, int] | None = None) -> tuple[Element, Element]:
    """Return (root, renderer) of a QML document for band 1."""
    root = Element("qgis", version=_QGIS, styleCategories="Symbology|Rendering")
    pipe = SubElement(root, "pipe")
    renderer = SubElement(pipe, "rasterrenderer", type=kind, band="1", opacity="1", alphaBand="-1")
    if limits is not None:
        renderer.set("classificationMin", str(limits[0]))
        renderer.set("classificationMax", str(limits[1]))
    SubElement(renderer, "rasterTransparency")
    SubElement(pipe, "brightnesscontrast", brightness="0", contrast="0", gamma="1")
    SubElement(pipe, "huesaturation", saturation="0", grayscaleMode="0", colorizeOn="0")
    # no zoomedInResampler: smoothing would invent classes between two numbers
    SubElement(pipe, "rasterresampler", maxOversampling="2")
    return root, renderer


def _ramp(renderer: Element, kind: str, low: int, high: int) -> Element:
    shader = SubElement(renderer, "rastershader")
    return SubElement(
        shader, "colorrampshader", colorRampType=kind, classificationMode="1", clip="0",
        minimumValue=str(low), maximumValue=str(high), labelPrecision="0",
    )  # fmt: skip


def _hex(rgb: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


def _write(root: Element, path: Path) -> None:
    indent(root, " ")
    temporary = path.with_name(path.name + ".tmp")
    # without an XML declaration: GDAL silently ignores a side file that starts with one
    ElementTree(root).write(temporary, encoding="UTF-8", xml_declaration=False)
    temporary.replace(path)

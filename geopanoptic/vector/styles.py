"""How QGIS draws a layer: symbology as QML text, for a GeoPackage's `layer_styles` table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from xml.sax.saxutils import quoteattr

from geopanoptic.schema import ClassSpec, LabelSchema


class LayerStyle(Protocol):
    """Whatever can say in QML how QGIS is to draw a layer."""

    def to_qml(self) -> str: ...


@dataclass(frozen=True)
class Style:
    """Draw features by the value of `attribute`: rows of (value, label, '#rrggbb').

    `outlined` features have an almost clear fill in their colour and a strong outline; others
    are filled and have none. `line`: the layer holds lines.
    """

    attribute: str
    categories: tuple[tuple[str, str, str], ...]
    outlined: bool = False
    line: bool = False

    @classmethod
    def of_classes(cls, classes: Sequence[ClassSpec], *, outlined: bool) -> Style:
        """Draw by `class_name` in the schema's colours."""
        return cls("class_name", tuple((c.name, c.name, c.color) for c in classes), outlined)

    def to_qml(self) -> str:
        """Return the QML document; it works in QGIS 3.22 and later."""
        categories, symbols = [], []
        for i, (value, label, color) in enumerate(self.categories):
            categories.append(
                f'<category type="string" value={quoteattr(value)} label={quoteattr(label)} '
                f'symbol="{i}" render="true"/>'
            )
            symbols.append(self._symbol(i, color))
        return (
            "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>"
            '<qgis version="3.22.0" styleCategories="Symbology">'
            f'<renderer-v2 type="categorizedSymbol" attr={quoteattr(self.attribute)} '
            'forceraster="0" symbollevels="0" enableorderby="0">'
            f"<categories>{''.join(categories)}</categories>"
            f"<symbols>{''.join(symbols)}</symbols>"
            f"</renderer-v2><layerGeometryType>{1 if self.line else 2}</layerGeometryType></qgis>"
        )

    def _symbol(self, name: int, color: str) -> str:
        rgb = tuple(int(color[i : i + 2], 16) for i in (1, 3, 5))
        if self.line:
            return self._line(name, ",".join(map(str, rgb)) + ",255")
        fill = ",".join(map(str, rgb)) + (",90" if self.outlined else ",255")
        dark = ",".join(str(v * 7 // 10) for v in rgb) + ",255"
        options = {
            "color": fill,
            "outline_color": dark,
            "outline_style": "solid" if self.outlined else "no",
            "outline_width": "0.3",
            "outline_width_unit": "MM",
            "style": "solid",
        }
        rows = "".join(
            f'<Option type="QString" name="{k}" value="{v}"/>' for k, v in options.items()
        )
        return (
            f'<symbol type="fill" name="{name}" alpha="1" clip_to_extent="1" force_rhr="0">'
            '<layer class="SimpleFill" enabled="1" locked="0" pass="0">'
            f'<Option type="Map">{rows}</Option></layer></symbol>'
        )

    @staticmethod
    def _line(name: int, color: str) -> str:
        options = {
            "line_color": color,
            "line_style": "solid",
            "line_width": "0.5",
            "line_width_unit": "MM",
        }
        rows = "".join(
            f'<Option type="QString" name="{k}" value="{v}"/>' for k, v in options.items()
        )
        return (
            f'<symbol type="line" name="{name}" alpha="1" clip_to_extent="1" force_rhr="0">'
            '<layer class="SimpleLine" enabled="1" locked="0" pass="0">'
            f'<Option type="Map">{rows}</Option></layer></symbol>'
        )


@dataclass(frozen=True)
class GraduatedStyle:
    """Draw polygons by a number: `ranges` of (from, to, '#rrggbb'), one after the other."""

    attribute: str
    ranges: tuple[tuple[float, float, str], ...]

    @classmethod
    def of_scores(cls) -> GraduatedStyle:
        """Draw by `score`: tenths, from dark (unsure) to light; the colours of `score.qml`."""
        colors = ("#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779",
                  "#6ece58", "#b5de2b", "#fde725")  # fmt: skip
        return cls("score", tuple((k / 10, (k + 1) / 10, c) for k, c in enumerate(colors)))

    def to_qml(self) -> str:
        """Return the QML document; it works in QGIS 3.22 and later."""
        ranges, symbols = [], []
        for i, (low, high, color) in enumerate(self.ranges):
            ranges.append(
                f'<range lower="{low:.15f}" upper="{high:.15f}" label="{low:g} - {high:g}" '
                f'symbol="{i}" render="true"/>'
            )
            rgb = ",".join(str(int(color[k : k + 2], 16)) for k in (1, 3, 5))
            symbols.append(
                f'<symbol type="fill" name="{i}" alpha="1" clip_to_extent="1" force_rhr="0">'
                '<layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map">'
                f'<Option type="QString" name="color" value="{rgb},255"/>'
                '<Option type="QString" name="outline_color" value="35,35,35,255"/>'
                '<Option type="QString" name="outline_width" value="0.15"/>'
                '<Option type="QString" name="outline_style" value="solid"/>'
                '<Option type="QString" name="style" value="solid"/></Option></layer></symbol>'
            )
        return (
            "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>"
            '<qgis version="3.22.0" styleCategories="Symbology">'
            f'<renderer-v2 type="graduatedSymbol" attr={quoteattr(self.attribute)} '
            'graduatedMethod="GraduatedColor" forceraster="0" symbollevels="0" enableorderby="0">'
            f"<ranges>{''.join(ranges)}</ranges><symbols>{''.join(symbols)}</symbols>"
            "</renderer-v2><layerGeometryType>2</layerGeometryType></qgis>"
        )


def other_styles() -> dict[str, tuple[str, LayerStyle]]:
    """Return layer -> (name, style) that QGIS offers besides the default: things by score."""
    return {"things": ("score", GraduatedStyle.of_scores())}


def default_styles(schema: LabelSchema) -> dict[str, LayerStyle]:
    """Return the styles of a map's layers: things outlined, stuff filled."""
    return {
        "things": Style.of_classes(schema.things, outlined=True),
        "stuff": Style.of_classes(schema.stuff, outlined=False),
    }

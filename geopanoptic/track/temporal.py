"""Styles that tell QGIS's temporal controller when a feature is there."""

from __future__ import annotations

from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

from geopanoptic.vector.styles import LayerStyle


@dataclass(frozen=True)
class TemporalStyle:
    """A style whose layer has a time: features are there from `start` until before `end`.

    Both name DATETIME columns; a missing end lasts for ever. QGIS 3.14 and later play the layer
    with the temporal controller as soon as it is opened.
    """

    drawn: LayerStyle
    start: str
    end: str

    def to_qml(self) -> str:
        """Return the QML document of the style, with the layer's temporal properties."""
        # mode 2: start and end from fields; limitMode 0: include the begin, exclude the end
        temporal = (
            '<temporal enabled="1" mode="2" limitMode="0" accumulate="0" fixedDuration="0" '
            f'durationUnit="d" durationField="" startField={quoteattr(self.start)} '
            f'endField={quoteattr(self.end)} startExpression="" endExpression="">'
            "<fixedRange><start></start><end></end></fixedRange></temporal>"
        )
        qml = self.drawn.to_qml()
        head, sign, rest = qml.partition('styleCategories="Symbology"')
        assert sign, "a style of symbology only"
        opening, close, body = rest.partition(">")
        return f'{head}styleCategories="Symbology|Temporal"{opening}{close}{temporal}{body}'

"""The files of a sample: points and pixels for QGIS, a form with the classes, the strata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import shapely

from geopanoptic.georef import GeoRef
from geopanoptic.schema import LabelSchema
from geopanoptic.vector import RUN, LayerSpec, run_table, write_gpkg
from geopanoptic.vector.specs import GEOMETRY

_ANSWER = (("reference", pa.string()), ("sure", pa.string()), ("note", pa.string()))
_PLACE = (("sample_id", pa.int64()), ("row", pa.int64()), ("col", pa.int64()))
_SECRET = (("stratum", pa.string()), ("map_class", pa.string()))

STRATA = LayerSpec(
    "strata",
    (
        ("stratum", pa.string()),
        ("pixels", pa.int64()),
        ("area_m2", pa.float64()),
        ("share", pa.float64()),
        ("units", pa.int64()),
    ),
    None,
)
CLASSES = LayerSpec(
    "map_classes",
    (("map_class", pa.string()), ("pixels", pa.int64()), ("area_m2", pa.float64())),
    None,
)


@dataclass(frozen=True)
class SamplePoints:
    """Units drawn, in the order of their numbers 1..n; `choices` are the classes to answer."""

    georef: GeoRef
    row: npt.NDArray[np.int64]
    col: npt.NDArray[np.int64]
    stratum: Sequence[str]
    map_class: Sequence[str]
    choices: Sequence[str]
    strata: list[dict[str, Any]]
    classes: list[dict[str, Any]]

    def columns(self, *, blind: bool) -> dict[str, Any]:
        n = len(self.row)
        empty = pa.nulls(n, pa.string())
        found = {"sample_id": pa.array(np.arange(1, n + 1)), "row": self.row, "col": self.col}
        if not blind:
            found |= {"stratum": list(self.stratum), "map_class": list(self.map_class)}
        return found | {name: empty for name, _ in _ANSWER}

    def centres(self) -> npt.NDArray[np.object_]:
        x, y = self.georef.xy(self.row + 0.5, self.col + 0.5)
        made: npt.NDArray[np.object_] = shapely.points(x, y)
        return made

    def squares(self) -> npt.NDArray[np.object_]:
        down, right = np.array([0, 1, 1, 0, 0]), np.array([0, 0, 1, 1, 0])
        x, y = self.georef.xy(self.row[:, None] + down, self.col[:, None] + right)
        rings = shapely.polygons(np.stack([x, y], axis=-1))
        made: npt.NDArray[np.object_] = shapely.multipolygons(rings[:, None])
        return made


@dataclass(frozen=True)
class FormStyle:
    """Draw units as rings (`marker`) or outlines, and ask for `reference` with a list to choose."""

    choices: Sequence[str]
    marker: bool

    def to_qml(self) -> str:
        """Return the QML document; it works in QGIS 3.22 and later."""
        if self.marker:
            kind, layer = "marker", "SimpleMarker"
            options = {"name": "circle", "color": "255,255,255,0", "outline_color": "230,0,120,255",
                       "outline_width": "0.6", "size": "4"}  # fmt: skip
        else:
            kind, layer = "fill", "SimpleFill"
            options = {"color": "255,255,255,0", "style": "no", "outline_color": "230,0,120,255",
                       "outline_style": "solid", "outline_width": "0.4"}  # fmt: skip
        rows = "".join(
            f'<Option type="QString" name="{k}" value="{v}"/>' for k, v in options.items()
        )
        symbol = (
            f'<symbol type="{kind}" name="0" alpha="1" clip_to_extent="1" force_rhr="0">'
            f'<layer class="{layer}" enabled="1" locked="0" pass="0">'
            f'<Option type="Map">{rows}</Option></layer></symbol>'
        )
        return (
            "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>"
            '<qgis version="3.22.0" styleCategories="Symbology|Fields|Forms">'
            '<renderer-v2 type="singleSymbol" forceraster="0" symbollevels="0" '
            f'enableorderby="0"><symbols>{symbol}</symbols></renderer-v2>'
            f"<fieldConfiguration>{self._form()}</fieldConfiguration>"
            f"<layerGeometryType>{0 if self.marker else 2}</layerGeometryType></qgis>"
        )

    def _form(self) -> str:
        """Return the widgets of the answers: a list of classes, and whether it is sure."""
        if not self.choices:
            return ""
        return self._choice("reference", self.choices) + self._choice("sure", ("yes", "no"))

    @staticmethod
    def _choice(field: str, values: Sequence[str]) -> str:
        rows = "".join(
            f'<Option type="Map"><Option type="QString" name={quoteattr(v)} value={quoteattr(v)}/>'
            f"</Option>"
            for v in values
        )
        return (
            f'<field name="{field}"><editWidget type="ValueMap"><config><Option type="Map">'
            f'<Option type="List" name="map">{rows}</Option></Option></config></editWidget></field>'
        )


def write_sample(path: Path, points: SamplePoints, facts: dict[str, Any]) -> None:
    """Write everything that is known of the sample: it is what `area` needs later."""
    columns = (*_PLACE, *_SECRET, *_ANSWER)
    layers: dict[str | LayerSpec, Any] = {
        LayerSpec("sample", columns, "Point"): _batch(points, points.centres(), blind=False),
        LayerSpec("pixels", columns[:5]): _batch(points, points.squares(), blind=False),
        STRATA: iter([pa.RecordBatch.from_pylist(points.strata, schema=STRATA.arrow_schema)]),
        CLASSES: iter([pa.RecordBatch.from_pylist(points.classes, schema=CLASSES.arrow_schema)]),
        LayerSpec("design", RUN.columns, None): iter([run_table(facts)]),
    }
    _write(path, layers, points)


def write_blind(path: Path, points: SamplePoints) -> None:
    """Write the units for the interpreter, who must not know what the map says."""
    layers: dict[str | LayerSpec, Any] = {
        LayerSpec("sample", (*_PLACE, *_ANSWER), "Point"): _batch(
            points, points.centres(), blind=True
        ),
        LayerSpec("pixels", _PLACE): _batch(points, points.squares(), blind=True),
    }
    _write(path, layers, points)


def _write(path: Path, layers: dict[str | LayerSpec, Any], points: SamplePoints) -> None:
    styles = {
        "sample": FormStyle(points.choices, marker=True),
        "pixels": FormStyle((), marker=False),
    }
    write_gpkg(path, layers, points.georef.crs, LabelSchema(()), styles=styles)


def _batch(
    points: SamplePoints, shapes: npt.NDArray[np.object_], *, blind: bool
) -> Iterator[pa.RecordBatch]:
    columns = points.columns(blind=blind)
    columns[GEOMETRY] = pa.array(shapely.to_wkb(shapes), pa.large_binary())
    yield pa.RecordBatch.from_pydict(columns)

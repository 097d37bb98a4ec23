"""The STAC item of a map: valid by pystac's schemas, and its extensions read by pystac."""

from __future__ import annotations

import json
import re
import socket
from dataclasses import replace
from pathlib import Path

import pytest
from affine import Affine
from random_model import random_card
from rasters import noise, write_raster

from geopanoptic.georef import GeoRef
from geopanoptic.panoptic_map import stac_item
from geopanoptic.schema import ClassSpec, LabelSchema

pystac = pytest.importorskip("pystac", reason="pystac is not installed; pip install pystac")
pytest.importorskip("jsonschema", reason="jsonschema is not installed; pip install jsonschema")

UTM = GeoRef("EPSG:32610", Affine(0.3, 0, 5e5, 0, -0.3, 5e6), (400, 500))
RUN = {
    "scene": "town",
    "started": "2026-05-04T03:02:01Z",
    "model": "landcover",
    "model_version": "1",
    "read": {"uri": "town.tif"},
}
FILES = ("semantic.tif", "instances.tif", "panoptic.gpkg", "segments.parquet", "report.html")


@pytest.fixture
def georef(tmp_path: Path) -> GeoRef:
    from geopanoptic.raster import Scene

    return Scene.open(write_raster(tmp_path / "town.tif", noise(3, 40, 50))).georef


def item_of(georef: GeoRef, date: str | None = "2024-05-01", **card: object) -> dict:
    model = replace(random_card(), **card)  # type: ignore[arg-type]
    return stac_item(FILES, georef, model.schema, date=date, run=RUN, card=model)


def validate_core(item: dict) -> None:
    """Validate by the schemas of STAC itself, which pystac brings along."""
    bare = json.loads(json.dumps(item))
    bare["stac_extensions"] = []
    pystac.Item.from_dict(bare).validate()


@pytest.mark.parametrize("date", ["2024-05-01", "2024-05-01T10:11:12Z", None])
def test_the_item_is_valid_stac(georef: GeoRef, date: str | None) -> None:
    validate_core(item_of(georef, date))


def test_a_map_without_crs_or_model_is_valid_too() -> None:
    plain = GeoRef.of_pixels((30, 40))
    item = stac_item(("semantic.tif",), plain, LabelSchema.default(), date=None, run={})
    validate_core(item)
    assert item["geometry"] is None
    assert not any("mlm" in uri for uri in item["stac_extensions"])


def test_a_broken_item_is_not_valid(georef: GeoRef) -> None:
    item = item_of(georef)
    item["properties"]["datetime"] = "yesterday"
    with pytest.raises((pystac.errors.STACError, ValueError)):
        validate_core(item)


def test_pystac_reads_projection_classes_processing_and_model(georef: GeoRef) -> None:
    from pystac.extensions.classification import ClassificationExtension
    from pystac.extensions.mlm import MLMExtension
    from pystac.extensions.projection import ProjectionExtension

    raw = item_of(georef)
    item = pystac.Item.from_dict(raw)
    projection = ProjectionExtension.ext(item)
    assert projection.shape == list(georef.shape)
    assert projection.transform[:6] == list(georef.transform)[:6]
    assert projection.code.startswith("EPSG:")
    schema = random_card().schema
    classes = ClassificationExtension.ext(item.assets["semantic"]).classes
    assert [c.value for c in classes] == [0, *schema.ids, 255]
    assert [c.name for c in classes][1:-1] == list(schema.names)
    model = MLMExtension.ext(item)
    assert model.tasks == ["panoptic-segmentation"]
    assert model.input[0].input.shape == [-1, 3, -1, -1]
    assert [c.value for c in model.output[0].classes] == list(schema.ids)
    assert item.assets["model"].roles == ["mlm:model"]
    assert item.properties["processing:software"]["landcover"] == "1"
    assert {a.href for a in item.assets.values()} >= {f"./{name}" for name in FILES}
    assert [link.href for link in item.links if link.rel == "derived_from"] == ["town.tif"]


def test_names_fit_the_patterns_of_the_extensions(georef: GeoRef) -> None:
    # classification 2.0.0 and MLM 1.4.0 allow few letters; the title keeps the real name
    schema = LabelSchema((ClassSpec(1, "bâtiment / léger", "thing", "#aabbcc"),))
    item = item_of(georef, name="Modèle №1", schema=schema)
    (one,) = (c for c in item["assets"]["semantic"]["classification:classes"] if c["value"] == 1)
    assert re.fullmatch(r"[0-9A-Za-z_-]+", one["name"])
    assert one["title"] == "bâtiment / léger"
    assert one["color_hint"] == "AABBCC"
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", item["properties"]["mlm:name"])
    short = item_of(georef, name="7")["properties"]["mlm:name"]
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", short)


def test_the_item_is_valid_by_the_schemas_of_its_extensions(georef: GeoRef) -> None:
    try:
        socket.create_connection(("stac-extensions.github.io", 443), timeout=3).close()
    except OSError:
        pytest.skip("the extensions' schemas are on the network, and there is none")
    assert len(pystac.Item.from_dict(item_of(georef)).validate()) == 5

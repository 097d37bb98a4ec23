"""The STAC item beside a map: what it is, where, when, of which classes, made by what.

STAC 1.1.0; extensions projection 2.0.0, classification 2.0.0, processing 1.2.0.
"""

from __future__ import annotations

import re
from typing import Any

import pyproj

from geopanoptic import __version__
from geopanoptic.georef import GeoRef
from geopanoptic.schema import NODATA, VOID, LabelSchema

_EXTENSIONS = [
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/classification/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
]
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def stac_item(
    name: str, georef: GeoRef, schema: LabelSchema, *, date: str | None, run: dict[str, Any]
) -> dict[str, Any]:
    """Return the item as plain JSON values. `date`: when the scene was taken, ISO, if known.

    The item's datetime is the scene's, never the run's; an unknown date is the interval up to
    the run. Without a CRS the geometry is null.
    """
    started = run["started"]
    when: dict[str, Any] = {"datetime": f"{date}T00:00:00Z" if date and len(date) == 10 else date}
    if date is None:
        when = {
            "datetime": None,
            "start_datetime": "1900-01-01T00:00:00Z",
            "end_datetime": started,
        }
    geometry = _footprint(georef)
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": _EXTENSIONS,
        "id": name,
        "geometry": geometry,
        "properties": {
            **when,
            "created": started,
            "title": f"Panoptic map of {run['scene']}",
            "gsd": georef.gsd_m,
            "processing:software": {"geopanoptic": __version__, run["model"]: run["model_version"]},
            "processing:level": "L4",
            "processing:lineage": "Panoptic segmentation of a georeferenced scene",
            "processing:datetime": started,
            **_projection(georef),
        },
        "links": [],
        "assets": _assets(schema),
    }
    if geometry is not None:
        lon, lat = zip(*geometry["coordinates"][0], strict=True)
        item["bbox"] = [min(lon), min(lat), max(lon), max(lat)]
    if item["properties"]["gsd"] is None:
        del item["properties"]["gsd"]
    return item


def _footprint(georef: GeoRef) -> dict[str, Any] | None:
    if not georef.has_metres:
        return None
    h, w = georef.shape
    x, y = georef.xy([h, h, 0, 0, h], [0, w, w, 0, 0])
    to_wgs84 = pyproj.Transformer.from_crs(georef.crs, "EPSG:4326", always_xy=True)
    lon, lat = to_wgs84.transform(x, y)
    ring = [[round(a, 7), round(b, 7)] for a, b in zip(lon, lat, strict=True)]
    return {"type": "Polygon", "coordinates": [ring]}


def _projection(georef: GeoRef) -> dict[str, Any]:
    found: dict[str, Any] = {
        "proj:shape": list(georef.shape),
        "proj:transform": list(georef.transform)[:6],
    }
    if georef.crs is not None:
        crs = pyproj.CRS.from_wkt(georef.crs)
        code = crs.to_epsg()
        found["proj:code"] = f"EPSG:{code}" if code else None
        if code is None:
            found["proj:projjson"] = crs.to_json_dict()
    return found


def _assets(schema: LabelSchema) -> dict[str, Any]:
    classes = [
        {"value": NODATA, "name": "nodata", "title": "no measurement", "nodata": True},
        *(
            {
                "value": c.id,
                # the extension allows these letters only; the title holds the real name
                "name": re.sub(r"[^A-Za-z0-9_-]", "_", c.name),
                "title": c.name,
                "description": f"{c.name} ({c.kind})",
                "color_hint": c.color[1:].upper(),
            }
            for c in schema.classes
        ),
        {"value": VOID, "name": "void", "title": "unlabelled"},
    ]
    return {
        "semantic": {
            "href": "./semantic.tif",
            "type": _COG,
            "title": "class of every pixel",
            "roles": ["data"],
            "classification:classes": classes,
        },
        "instances": {
            "href": "./instances.tif",
            "type": _COG,
            "title": "instance id of every pixel; 0 = not a thing",
            "roles": ["data"],
        },
        "polygons": {
            "href": "./panoptic.gpkg",
            "type": "application/geopackage+sqlite3",
            "title": "things, stuff and seams as polygons",
            "roles": ["data"],
        },
        "segments": {
            "href": "./segments.parquet",
            "type": "application/vnd.apache.parquet",
            "title": "one row per segment",
            "roles": ["metadata"],
        },
    }

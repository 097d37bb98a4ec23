"""The STAC item beside a map: what it is, where, when, of which classes, made by what.

STAC 1.1.0; extensions projection 2.0.0, classification 2.0.0, processing 1.2.0, MLM 1.4.0.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

import pyproj

from geopanoptic import __version__
from geopanoptic.georef import GeoRef
from geopanoptic.schema import NODATA, VOID, LabelSchema

if TYPE_CHECKING:
    from geopanoptic.models import ModelCard

_EPOCH = "1900-01-01T00:00:00Z"
_HOST = "https://stac-extensions.github.io"
_EXTENSIONS = (
    f"{_HOST}/projection/v2.0.0/schema.json",
    f"{_HOST}/classification/v2.0.0/schema.json",
    f"{_HOST}/processing/v1.2.0/schema.json",
)
_MLM = f"{_HOST}/mlm/v1.4.0/schema.json"  # the newest that pystac reads
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_PROCESSING = "Panoptic segmentation of a georeferenced scene"

# file of a map directory -> (key, media type, title, role)
_FILES = {
    "instances.tif": ("instances", _COG, "instance id of every pixel; 0 = not a thing", "data"),
    "score.tif": ("score", _COG, "score of every pixel; 0..200 is 0..1, 255 none", "data"),
    "panoptic.gpkg": (
        "polygons",
        "application/geopackage+sqlite3",
        "things, stuff and seams as polygons",
        "data",
    ),
    "segments.parquet": (
        "segments",
        "application/vnd.apache.parquet",
        "one row per segment",
        "metadata",
    ),
    "report.html": ("report", "text/html", "report: picture, areas, scores, seams", "overview"),
}


def stac_item(
    files: Collection[str],
    georef: GeoRef,
    schema: LabelSchema,
    *,
    date: str | None,
    run: Mapping[str, Any],
    card: ModelCard | None = None,
) -> dict[str, Any]:
    """Return the item of a map directory as plain JSON values.

    `files`: names of the files that become assets, where they are known here. `date`: when the
    scene was taken, ISO, if known. The item's datetime is the scene's, never the run's; an unknown
    date is the interval up to the run. Without a CRS the geometry is null. `card`: the model that
    made the map, described by the MLM extension; its asset has a name, not an address, because the
    weights do not lie beside the map.
    """
    started = run.get("started") or _EPOCH
    name = str(run.get("scene") or "map")
    when: dict[str, Any] = {"datetime": f"{date}T00:00:00Z" if date and len(date) == 10 else date}
    if date is None:
        when = {"datetime": None, "start_datetime": _EPOCH, "end_datetime": started}
    geometry = _footprint(georef)
    software = {"geopanoptic": __version__}
    if "model" in run:
        software[str(run["model"])] = str(run.get("model_version", ""))
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [*_EXTENSIONS, *([_MLM] if card else [])],
        "id": name,
        "geometry": geometry,
        "properties": {
            **when,
            "created": started,
            "title": f"Panoptic map of {name}",
            "gsd": georef.gsd_m,
            "processing:software": software,
            "processing:level": "L4",
            "processing:lineage": _PROCESSING,
            "processing:datetime": started,
            **_projection(georef),
            **(_model_fields(card, schema) if card else {}),
        },
        "links": _links(run),
        "assets": _assets(files, schema) | (_model_asset(card) if card else {}),
    }
    if geometry is not None:
        lon, lat = zip(*geometry["coordinates"][0], strict=True)
        item["bbox"] = [min(lon), min(lat), max(lon), max(lat)]
    if item["properties"]["gsd"] is None:
        del item["properties"]["gsd"]
    return item


def _links(run: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Link the scene(s) that the map was derived from."""
    uris = (run.get("read") or {}).get("uri") or []
    listed = [uris] if isinstance(uris, str) else uris
    return [{"rel": "derived_from", "href": uri, "title": "the scene"} for uri in listed]


def _model_fields(card: ModelCard, schema: LabelSchema) -> dict[str, Any]:
    """Return the MLM properties: what the model is, takes and gives."""
    name = re.sub(r"[^a-zA-Z0-9_.-]", "_", card.name)
    scaling = [
        {"type": "z-score", "mean": m, "stddev": s}
        for m, s in zip(card.mean, card.std, strict=True)
    ]
    tasks = ["panoptic-segmentation"]
    return {
        # a letter first, a letter or digit last, three at least
        "mlm:name": name
        if re.fullmatch(r"[a-zA-Z][\w.-]+[a-zA-Z0-9]", name)
        else f"model-{name}-0",
        "mlm:architecture": card.architecture,
        "mlm:framework": "PyTorch",
        "mlm:tasks": tasks,
        "mlm:input": [
            {
                "name": "scene",
                "description": f"{', '.join(card.bands)} at {card.gsd_range_m[0]:g} to "
                f"{card.gsd_range_m[1]:g} m per pixel",
                "bands": [],
                "input": {
                    "shape": [-1, len(card.bands), -1, -1],
                    "dim_order": ["batch", "channel", "height", "width"],
                    "data_type": "uint8",
                },
                "value_scaling": scaling,
            }
        ],
        "mlm:output": [
            {
                "name": "panoptic map",
                "description": "class and instance of every pixel",
                "tasks": tasks,
                "result": {
                    "shape": [2, -1, -1],
                    "dim_order": ["channel", "height", "width"],
                    "data_type": "int32",
                },
                # of the network: no nodata, no void; and no title, which MLM 1.4's readers refuse
                "classification:classes": [
                    {k: v for k, v in row.items() if k != "title"}
                    for row in _classes(schema)
                    if row["value"] not in (NODATA, VOID)
                ],
            }
        ],
        "mlm:hyperparameters": {
            "core": card.core,
            "halo": card.halo,
            "join_threshold": card.join_threshold,
            "decoder": card.decoder,
        },
    }


def _model_asset(card: ModelCard) -> dict[str, Any]:
    return {
        "model": {
            "href": f"urn:geopanoptic:{re.sub(r'[^A-Za-z0-9._-]', '_', card.name)}:{card.sha256}",
            "title": f"{card.name} {card.version}, weights with this digest",
            "type": "application/vnd.safetensors",
            "roles": ["mlm:model"],
            "mlm:artifact_type": "safetensors.torch.save_file",
        }
    }


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


def _classes(schema: LabelSchema) -> list[dict[str, Any]]:
    return [
        {
            "value": NODATA,
            "name": "nodata",
            "title": "no measurement",
            "description": "no measurement",
            "nodata": True,
        },
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
        {"value": VOID, "name": "void", "title": "unlabelled", "description": "unlabelled"},
    ]


def _assets(files: Collection[str], schema: LabelSchema) -> dict[str, Any]:
    found: dict[str, Any] = {
        "semantic": {
            "href": "./semantic.tif",
            "type": _COG,
            "title": "class of every pixel",
            "roles": ["data"],
            "data_type": "uint8",
            "nodata": NODATA,
            "classification:classes": _classes(schema),
        }
    }
    for file, (key, media, title, role) in _FILES.items():
        if file in files:
            found[key] = {"href": f"./{file}", "type": media, "title": title, "roles": [role]}
    return found

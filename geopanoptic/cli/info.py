"""`geopanoptic info`: describe whatever file it is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geopanoptic.cli.options import json_option, print_json

_MODEL_SUFFIXES = {".safetensors", ".onnx", ".xml"}


@click.command(short_help="Describe a scene, a map or a model file.")
@click.argument("path")
@json_option
def info(path: str, as_json: bool) -> None:
    """Describe PATH: a scene (any raster), a panoptic map, or a model file.

    \b
    geopanoptic info scene.tif
    geopanoptic info scene.panoptic
    """
    if Path(path).suffix.lower() in _MODEL_SUFFIXES:
        found = _model(path)
    elif (Path(path) / "map.json").exists():
        found = _map(path)
    else:
        found = _scene(path)
    if as_json:
        print_json(found)
    else:
        width = max(len(name) for name in found)
        for name, value in found.items():
            click.echo(f"{name:<{width}}  {_plain(value)}")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_plain(v) for v in value)
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def _scene(path: str) -> dict[str, Any]:
    from geopanoptic.raster import Scene

    scene = Scene.open(path)
    georef = scene.georef
    rows, cols = georef.shape
    found: dict[str, Any] = {
        "kind": "scene",
        "size": f"{cols} x {rows} px",
        "bands": list(scene.band_names) or scene.band_count,
        "dtype": scene.dtype,
        "nodata": scene.nodata,
        "alpha": scene.has_alpha,
        "mask": scene.has_mask,
        "date": scene.date,
        "crs": _crs_name(georef.crs),
        "gsd_m": georef.gsd_m,
    }
    if georef.has_metres:
        area_km2 = float(georef.row_area_m2().sum()) * cols / 1e6
        found["area_km2"] = area_km2
        lon, lat = georef.lonlat(*georef.xy(rows / 2, cols / 2))
        found["centre_lonlat"] = [float(lon), float(lat)]
    return found


def _crs_name(wkt: str | None) -> str | None:
    if wkt is None:
        return None
    import pyproj

    crs = pyproj.CRS.from_wkt(wkt)
    code = crs.to_epsg()
    return f"{crs.name} (EPSG:{code})" if code else crs.name


def _map(path: str) -> dict[str, Any]:
    from geopanoptic.panoptic_map import PanopticMap

    panoptic = PanopticMap.open(path)
    rows, cols = panoptic.georef.shape
    segments = panoptic.segments
    return {
        "kind": "panoptic map",
        "size": f"{cols} x {rows} px",
        "crs": _crs_name(panoptic.georef.crs),
        "gsd_m": panoptic.georef.gsd_m,
        "date": panoptic.date,
        "things": {
            spec.name: int(((segments.class_id == spec.id) & (segments.kind == "thing")).sum())
            for spec in panoptic.schema.things
        },
        "area_m2": {
            spec.name: float(segments.area_m2[segments.class_id == spec.id].sum())
            for spec in panoptic.schema.classes
        },
    }


def _model(path: str) -> dict[str, Any]:
    from geopanoptic.models import read_card

    return {"kind": "model", **read_card(path).to_json()}

"""Classes of a class raster that comes without a schema."""

from __future__ import annotations

import numpy as np

from geopanoptic.georef import GeoRef
from geopanoptic.panoptic_map.derive import blocks
from geopanoptic.panoptic_map.source import PackedSource, RasterSource
from geopanoptic.schema import NODATA, VOID, ClassSpec, LabelSchema

_COLORS = ("#d1495b", "#1b7837", "#2b83ba", "#edae49", "#8d99ae", "#d8b98a", "#9b5de5", "#00798c")


def raster_schema(source: RasterSource | PackedSource, georef: GeoRef) -> LabelSchema:
    """Name the classes of a raster by its GDAL category names, else 'class_N'.

    A class is a thing when some of its pixels carry an instance id. Reads the rasters once.
    """
    seen, with_id = np.zeros(256, bool), np.zeros(256, bool)
    for window in blocks(georef.shape):
        classes, ids = source.read(window)
        seen[np.unique(classes)] = True
        with_id[np.unique(classes[ids > 0])] = True
    named = source.semantic if isinstance(source, RasterSource) else None
    names = {} if named is None else category_names(named)
    colors = {} if named is None else palette(named)
    specs: list[ClassSpec] = []
    for value in np.flatnonzero(seen).tolist():
        if value in (NODATA, VOID):
            continue
        name = names.get(value) or f"class_{value}"
        if any(c.name == name for c in specs):
            name = f"{name}_{value}"
        kind = "thing" if with_id[value] else "stuff"
        color = colors.get(value, _COLORS[value % len(_COLORS)])
        specs.append(ClassSpec(value, name, "thing" if kind == "thing" else "stuff", color))
    return LabelSchema(tuple(specs))


def category_names(path: str) -> dict[int, str]:
    """Return value -> name from the .aux.xml beside a raster (category names or attribute table).

    Empty when there is none or it cannot be read: names are a convenience.
    """
    import xml.etree.ElementTree as ET
    from pathlib import Path

    sidecar = Path(f"{path}.aux.xml")
    if not sidecar.exists():
        return {}
    try:
        root = ET.parse(sidecar).getroot()
    except (ET.ParseError, OSError):
        return {}
    found = {
        k: (node.text or "").strip()
        for k, node in enumerate(root.iterfind(".//CategoryNames/Category"))
    }
    return {k: v for k, v in found.items() if v and v.isprintable() and len(v) <= 60}


def palette(path: str) -> dict[int, str]:
    """Return value -> '#rrggbb' from the raster's colour table, empty when it has none."""
    from geopanoptic.panoptic_map.source import open_labels
    from geopanoptic.raster.gdal import gdal_env

    with gdal_env(), open_labels(path) as dataset:
        try:
            table = dataset.colormap(1)
        except ValueError:
            return {}
    return {k: "#{:02x}{:02x}{:02x}".format(*rgb[:3]) for k, rgb in table.items()}

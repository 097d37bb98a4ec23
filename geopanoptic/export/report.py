"""The HTML report of a map, with the scene that it was made of where that can be found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj

from geopanoptic.errors import SceneError
from geopanoptic.georef import GeoRef
from geopanoptic.panoptic_map import PanopticMap, report_of
from geopanoptic.raster import ReadRequest, Scene, WorkingScene

_OFF_PX = 2.0  # a working grid may reach over the scene's rim by a part of a pixel


def write_report(panoptic: PanopticMap, path: Path, scene: str | None = None) -> None:
    """Write the report to `path`; `scene`: the raster to show (None: the one the run record names).

    Raises SceneError when the given scene cannot be read or covers other ground. The record's own
    scene is left out when it is not there any more.
    """
    path.write_text(report_of(panoptic, None, _scene_of(panoptic, scene)), encoding="utf-8")


def _scene_of(panoptic: PanopticMap, given: str | None) -> WorkingScene | None:
    read = panoptic.info.run.get("read") or {}
    found = given or read.get("uri")
    if not isinstance(found, str) or (given is None and not Path(found).is_file()):
        return None
    bands = tuple(read.get("bands") or ()) if given is None else ()
    scene = Scene.open(found)
    request = ReadRequest(bands=bands) if bands else _request(scene)
    working = WorkingScene.plan(scene, request)
    off = _distance_px(panoptic.georef, scene.georef)
    if off <= _OFF_PX:
        return working
    if given is None:
        return None
    raise SceneError(
        f"{given} covers other ground than {panoptic.name}: its corners are {off:.1f} pixels off; "
        f"give the scene the map was made of"
    )


def _request(scene: Scene) -> ReadRequest:
    colours = {"red", "green", "blue"} <= set(scene.band_names)
    return (
        ReadRequest() if colours else ReadRequest(bands=tuple(range(1, scene.band_count + 1))[:3])
    )


def _distance_px(a: GeoRef, b: GeoRef) -> float:
    """Return how far the corners of two grids are apart, in pixels of `a`; inf for other CRSs."""
    if (a.crs is None) != (b.crs is None):
        return float("inf")
    if a.crs and b.crs and pyproj.CRS.from_wkt(a.crs) != pyproj.CRS.from_wkt(b.crs):
        return float("inf")
    rows, cols = b.shape
    x, y = b.xy([0, 0, rows, rows], [0, cols, 0, cols])
    row, col = a.rowcol(x, y)
    height, width = a.shape
    apart = np.hypot(row - [0, 0, height, height], col - [0, width, 0, width])
    return float(apart.max())

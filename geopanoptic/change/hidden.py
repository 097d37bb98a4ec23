"""The ground that cannot be compared, as polygons."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import shapely
from affine import Affine

from geopanoptic.change.aligned import EMPTY, MASKED, Offset
from geopanoptic.change.lattice import same_crs, transformed
from geopanoptic.change.objects import Geometries
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.panoptic_map import FieldChoice, PanopticMap, is_vector, read_polygons
from geopanoptic.panoptic_map.source import RasterSource, raster_facts
from geopanoptic.panoptic_map.vector import in_crs
from geopanoptic.polygons import trace
from geopanoptic.raster import LabelReader
from geopanoptic.schema import NODATA

_PER_SIDE = 33  # points along each side of an outline: sides are curved in another CRS

_CELL_PX = 512  # large clouds and frames are cut on this grid, so that clipping stays cheap
# what hides a pixel: bit 1 the before map is empty there, bit 2 the after map, both: also a mask
BEFORE, AFTER = 1, 2


@dataclass(frozen=True)
class Hidden:
    """Polygons in the frame of the before date where a date saw nothing, and which date it was.

    `kind`: BEFORE, AFTER or both; a mask of either date hides the ground from both.
    """

    geometry: Geometries = field(default_factory=lambda: np.zeros(0, object))
    kind: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))

    def from_date(self, date: int) -> Geometries:
        """Return what is hidden at a date."""
        return self.geometry[(self.kind & date) > 0]

    def plus(self, other: Hidden) -> Hidden:
        """Return what either hides."""
        return Hidden(
            np.concatenate([self.geometry, other.geometry]), np.append(self.kind, other.kind)
        )


def trace_hidden(why_file: Path, grid: GeoRef, block: int) -> Hidden:
    """Trace the pixels inside both maps that one date did not see, from `why.tif`.

    What lies outside a map's extent is not among them: footprints are exact.
    """
    kind_of = np.zeros(16, np.int32)
    for before in range(4):
        for after in range(4):
            kind = BEFORE * (before == EMPTY) + AFTER * (after == EMPTY)
            if MASKED in (before, after):
                kind = BEFORE + AFTER
            kind_of[4 * before + after] = kind
    across = -(-grid.shape[1] // _CELL_PX)
    with LabelReader(why_file) as reader:

        def labels(window: Window) -> npt.NDArray[np.int32]:
            kind = kind_of[reader.read(window)]
            rows = np.arange(window.row, window.row_stop) // _CELL_PX
            cols = np.arange(window.col, window.col_stop) // _CELL_PX
            cell = (rows[:, None] * across + cols[None, :]).astype(np.int32)
            return np.where(kind > 0, cell * 4 + kind, 0).astype(np.int32)

        batches = list(trace(labels, grid.shape, block, group="id"))
    if not batches:
        return Hidden()
    geometry = np.concatenate([b.to_geometry(grid.transform) for b in batches])
    label = np.concatenate([b.labels for b in batches]).astype(np.int64)
    order = np.argsort(label, kind="stable")  # the order of blocks must not matter
    return Hidden(geometry[order], label[order] % 4)


def mask_polygons(path: str, crs: str | None, offset: Offset) -> Hidden:
    """Return what a mask (a raster that is 0, or polygons) hides, in `crs`, moved back by `offset`.

    For objects without a grid: a mask raster is traced on its own.
    """
    if is_vector(path):
        found = read_polygons(path, FieldChoice(only_class="mask"))
        geometry = in_crs(found, _place(crs))
    else:
        facts = raster_facts(path)
        source = RasterSource(path)
        geometry = _in_crs(
            _traced(lambda w: source.read(w)[0] == 0, facts.georef), facts.georef, crs
        )
    return Hidden(
        _back(shapely.make_valid(geometry), offset), _kinds(len(geometry), BEFORE + AFTER)
    )


def unseen_of(
    panoptic: PanopticMap, crs: str | None, date: int, offset: Offset
) -> tuple[Hidden, Any]:
    """Return the nodata of a map as what a date did not see, and the map's outline, in `crs`."""
    georef = panoptic.georef
    traced = _traced(lambda w: panoptic.read(w)[0] == NODATA, georef)
    geometry = _back(_in_crs(traced, georef, crs), offset)
    h, w = georef.shape
    along = np.linspace(0.0, 1.0, _PER_SIDE)
    one = np.ones(_PER_SIDE)
    row = np.concatenate([0 * one, h * along, h * one, h * (1 - along)])
    col = np.concatenate([w * along, w * one, w * (1 - along), 0 * one])
    outline = np.array([shapely.Polygon(np.stack(georef.xy(row, col), axis=1))], object)
    placed = _back(_in_crs(outline, georef, crs), offset)[0]
    return Hidden(geometry, _kinds(len(geometry), date)), placed


def _kinds(n: int, kind: int) -> npt.NDArray[np.int64]:
    return np.full(n, kind, np.int64)


def _traced(hides: Callable[[Window], npt.NDArray[np.bool_]], georef: GeoRef) -> Geometries:
    batches = list(trace(lambda w: hides(w).astype(np.int32), georef.shape, 2048, group="part"))
    if not batches:
        return np.zeros(0, object)
    return np.concatenate([b.to_geometry(georef.transform) for b in batches])


def _in_crs(geometry: Geometries, georef: GeoRef, crs: str | None) -> Geometries:
    place = _place(crs)
    if same_crs(georef, place) or not len(geometry):
        return geometry
    moved: Geometries = shapely.transform(
        geometry, lambda xy: np.stack(transformed(georef, place, xy[:, 0], xy[:, 1]), axis=1)
    )
    return np.asarray(shapely.make_valid(moved), object)


def _place(crs: str | None) -> GeoRef:
    return GeoRef(crs, Affine.identity(), (1, 1))


def _back(geometry: Geometries, offset: Offset) -> Geometries:
    if offset == (0.0, 0.0) or not len(geometry):
        return geometry
    moved: Geometries = shapely.transform(geometry, lambda xy: xy - np.array(offset))
    return moved

"""Open the maps of a series and lay their objects into the frame of the reference date."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geopanoptic.change.hidden import BEFORE, mask_polygons, unseen_of
from geopanoptic.change.object_files import (
    ObjectFields,
    areal,
    in_crs_of,
    map_objects,
    read_objects,
)
from geopanoptic.change.objects import Common, ObjectRules, ObjectSet
from geopanoptic.change.observed import observe
from geopanoptic.change.offset import OffsetRules
from geopanoptic.change.prepare import Maps, fine_estimate, kept, register_maps
from geopanoptic.change.registration import (
    RegisterChoice,
    Registration,
    Scale,
    decide,
    registration_json,
)
from geopanoptic.change.settings import ChangeSettings
from geopanoptic.change.sides import common_classes, is_vector_side, open_side
from geopanoptic.georef import GeoRef
from geopanoptic.panoptic_map import PanopticMap
from geopanoptic.track.dates import DatedMap, file_of
from geopanoptic.track.settings import TrackSettings
from geopanoptic.track.views import DateView, Geometries

Told = Callable[[str, int, int], None]
Offset = tuple[float, float]

_VECTOR_SHIFT_M = 10.0


@dataclass(frozen=True)
class Opened:
    """One date: its view, the map behind it (None for vector files and dates read back).

    `offset`: how far it lay from the reference, map units; it has been moved back by that.
    `registration`: how that was found, for the record. `left_out`: objects under its own mask.
    """

    view: DateView
    source: str
    map: PanopticMap | None = None
    offset: Offset = (0.0, 0.0)
    registration: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    left_out: int = 0


@dataclass(frozen=True)
class Frame:
    """What all dates are brought to: the reference date's objects, CRS and link rule.

    `map`: the reference map, None where it is a vector file.
    """

    date: str
    objects: ObjectSet
    map: PanopticMap | None
    rules: ObjectRules

    @property
    def crs(self) -> str | None:
        return self.objects.crs

    @classmethod
    def of(cls, dated: DatedMap, settings: TrackSettings) -> Frame:
        """Open the reference date."""
        objects, panoptic = _objects(dated, settings, None)
        pixel_m = 0.0 if panoptic is None else Scale.of(panoptic.georef).pixel_m
        return cls(dated.date, objects, panoptic, settings.rules(pixel_m))


def open_date(dated: DatedMap, frame: Frame, settings: TrackSettings, told: Told) -> Opened:
    """Open one date, register it to the reference, and move it there."""
    if dated.date == frame.date:
        objects, panoptic, made, record = frame.objects, frame.map, Registration("none"), None
    else:
        objects, panoptic = _objects(dated, settings, frame)
        images = tuple(file_of(settings.images, d) for d in (frame.date, dated.date))
        change = settings.change(None if None in images else images)  # type: ignore[arg-type]
        made, record = _registered((objects, panoptic), frame, change, told)
    offset = made.applied
    objects = objects.moved(-offset[0], -offset[1]) if offset != (0.0, 0.0) else objects
    footprint, hidden = None, np.zeros(0, object)
    if panoptic is not None:
        unseen, footprint = unseen_of(panoptic, frame.crs, BEFORE, offset)
        hidden = unseen.geometry
    masked = np.zeros(0, object)
    mask = file_of(settings.masks, dated.date)
    if mask is not None:
        masked = mask_polygons(mask, frame.crs, offset).geometry
    trusted = _trusted(objects, masked, settings.least_observed)
    view = DateView(dated.date, trusted, footprint, hidden, masked)
    name = str(dated.map) if panoptic is None else panoptic.name
    left_out = len(objects) - len(trusted)
    return Opened(view, name, panoptic, offset, record, made.notes, left_out)


def _objects(
    dated: DatedMap, settings: TrackSettings, frame: Frame | None
) -> tuple[ObjectSet, PanopticMap | None]:
    """Return the things of a date in the CRS of the frame, and the map they are of."""
    panoptic = None
    if is_vector_side(dated.map):
        fields = ObjectFields(settings.id_field, settings.class_field)
        objects = read_objects(str(dated.map), fields)
    else:
        schema = frame.map.schema if frame is not None and frame.map is not None else None
        panoptic = open_side(dated.map, schema)
        objects = map_objects(panoptic)
    objects = kept(objects, settings.classes)
    if frame is not None:
        objects = in_crs_of(objects, frame.crs)
    # all MultiPolygons: what is read back from a file must be the very same
    return replace(objects, geometry=areal(objects.geometry)), panoptic


def _registered(
    date: tuple[ObjectSet, PanopticMap | None], frame: Frame, settings: ChangeSettings, told: Told
) -> tuple[Registration, dict[str, Any]]:
    """Find the offset of a date from the reference, as `geopanoptic change` does."""
    objects, panoptic = date
    both = frame.objects, objects
    if panoptic is not None and frame.map is not None:
        classes = common_classes(frame.map.schema, panoptic.schema)
        maps = Maps(frame.map, panoptic, classes, settings)
        made, most_m = register_maps(maps, both, told)
        return made, registration_json(made, maps.grid().grid, most_m)
    most_m = _VECTOR_SHIFT_M if settings.max_shift_m is None else settings.max_shift_m
    fine = fine_estimate(both, frame.rules, OffsetRules(most_m), None)
    grid = _metre_grid(frame)
    made = decide(RegisterChoice.read(settings.register), None, fine, (0, 0), grid)
    return made, registration_json(made, grid, most_m)


def _metre_grid(frame: Frame) -> GeoRef:
    """Return a grid of about one metre in the middle of the reference's objects."""
    import shapely
    from affine import Affine

    box = shapely.total_bounds(frame.objects.geometry)
    x, y = (0.0, 0.0) if not np.isfinite(box).all() else ((box[0] + box[2]) / 2, box[1::2].mean())
    unit = Scale.of(GeoRef(frame.crs, Affine(1, 0, x, 0, -1, y), (1, 1))).pixel_m
    return GeoRef(frame.crs, Affine(1 / unit, 0, x, 0, -1 / unit, y), (1, 1))


def _trusted(objects: ObjectSet, masked: Geometries, least_observed: float) -> ObjectSet:
    """Leave out the objects that lie under their own date's mask for the most part."""
    if not len(masked):
        return objects
    share = observe(objects, Common(hidden=masked), "before").observed
    return objects.take(share > least_observed + 1e-9)

"""Both ways of comparing: maps with their pixels, or vector files by their objects alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from geopanoptic.change.aligned import Offset
from geopanoptic.change.counting import Counts, Pair, count_pair
from geopanoptic.change.grid import CommonGrid, GridChoice, no_overlap
from geopanoptic.change.hidden import AFTER, BEFORE, Hidden, mask_polygons, trace_hidden, unseen_of
from geopanoptic.change.object_files import (
    ObjectFields,
    attributes,
    in_crs_of,
    map_objects,
    read_objects,
)
from geopanoptic.change.object_notes import object_notes
from geopanoptic.change.objects import Common, Events, ObjectRules, ObjectSet
from geopanoptic.change.observed import observe
from geopanoptic.change.offset import OffsetRules
from geopanoptic.change.prepare import Maps, Told, fine_estimate, kept, register_maps
from geopanoptic.change.registration import RegisterChoice, Registration, Scale, decide
from geopanoptic.change.relate import relate
from geopanoptic.change.settings import ChangeSettings
from geopanoptic.change.sides import MapLike, date_of, is_vector_side, open_side, years_between
from geopanoptic.errors import ConfigError, SceneError, SchemaError, nearest_name
from geopanoptic.georef import GeoRef
from geopanoptic.panoptic_map import PanopticMap


@dataclass(frozen=True)
class Pixels:
    """What only maps have: the common grid, both maps on it, and what was counted."""

    maps: Maps
    common: CommonGrid
    pair: Pair
    counts: Counts
    work: Path


@dataclass(frozen=True)
class Compared:
    """A comparison before it is written. `grid`: of the report; of vector files their extent."""

    names: tuple[str, str]
    dates: tuple[str | None, str | None]
    settings: ChangeSettings
    rules: ObjectRules
    registration: Registration
    max_shift_m: float
    grid: GeoRef
    before: ObjectSet
    after: ObjectSet
    common: Common
    events: Events
    warnings: tuple[str, ...]
    pixels: Pixels | None = None

    @property
    def years(self) -> float | None:
        return years_between(*self.dates)


def compare_maps(
    before: MapLike,
    after: MapLike,
    settings: ChangeSettings,
    place: tuple[Path, int],
    told: Told,
) -> Compared:
    """Compare two maps; `place` = (working folder, threads).

    Pixels are streamed in a few passes, objects are held as outlines.
    """
    work, threads = place
    maps = Maps.open(before, after, settings)
    dates = _dates((before, after), settings, (maps.before.date, maps.after.date))
    objects = maps.objects(maps.grid().grid.crs)
    registration, most_m = register_maps(maps, objects, told)
    offset = registration.applied
    common = maps.grid(offset)
    pair = maps.pair(common.grid, offset)
    counts = count_pair(pair, work, settings.block, threads, lambda k, n: told("count", k, n))
    if counts.common_px == 0:
        raise SceneError(
            "the maps overlap, but no pixel is observed at both dates (nodata and masks hide all "
            "of it); check the masks and the nodata values"
        )
    hidden = Hidden()
    if counts.why.sum() > counts.why[0, 0]:
        hidden = trace_hidden(work / "why.tif", common.grid, settings.block)
    rules = settings.rules(maps.coarsest_m(common.grid))
    one, two, ground = seen_objects(objects, common.footprint, hidden, offset)
    events = relate(one, two, rules, ground)
    return Compared(
        (maps.before.name, maps.after.name), dates, settings, rules, registration, most_m,
        common.grid, one, two, ground, events,
        (*registration.notes, *_date_notes(dates), *_class_notes(maps)),
        Pixels(maps, common, pair, counts, work),
    )  # fmt: skip


def seen_objects(
    objects: tuple[ObjectSet, ObjectSet], footprint: Any, hidden: Hidden, offset: Offset
) -> tuple[ObjectSet, ObjectSet, Common]:
    """Return the objects with the share of them that the other date saw, and the common ground.

    An object is never hidden by its own date's nodata: it would not be there.
    """
    ground = Common(offset, footprint, hidden.geometry)
    one = observe(objects[0], replace(ground, hidden=hidden.from_date(AFTER)), "before")
    two = observe(objects[1], replace(ground, hidden=hidden.from_date(BEFORE)), "after")
    return one, two, ground


def compare_objects(before: MapLike, after: MapLike, settings: ChangeSettings) -> Compared:
    """Compare objects alone: at least one date is a vector file.

    A date that is a map brings its extent and nodata; of a vector file nobody knows what it did not
    look at, so it counts as having looked everywhere.
    """
    fields = _fields((before, after), settings)
    sides = [_object_side(s, f) for s, f in zip((before, after), fields, strict=True)]
    crs = _objects_crs(sides, settings)
    one, two = (in_crs_of(objects, crs) for objects, _ in sides)
    _check_classes(settings.classes, {*one.class_names, *two.class_names})
    one, two = kept(one, settings.classes), kept(two, settings.classes)
    grid = _extent((one, two), crs)
    if settings.register_images is not None:
        raise ConfigError("--register-images needs panoptic maps; give --register DX,DY instead")
    dates = _dates((before, after), settings, (None, None))
    rules = settings.rules(0.0)
    choice = RegisterChoice.read(settings.register)
    most_m = 10.0 if settings.max_shift_m is None else settings.max_shift_m
    fine = fine_estimate((one, two), rules, OffsetRules(most_m), None)
    registration = decide(choice, None, fine, (0, 0), grid)
    offset = registration.applied
    hidden, footprint = Hidden(), None
    for k, (_, panoptic) in enumerate(sides):
        if panoptic is not None:
            unseen = unseen_of(panoptic, crs, (BEFORE, AFTER)[k], offset if k else (0.0, 0.0))
            hidden, footprint = hidden.plus(unseen[0]), unseen[1]
    for k, path in enumerate((settings.mask_before, settings.mask_after)):
        if path is not None:
            hidden = hidden.plus(mask_polygons(path, crs, offset if k else (0.0, 0.0)))
    one, two, ground = seen_objects((one, two), footprint, hidden, offset)
    events = relate(one, two, rules, ground)
    return Compared(
        (str(_named(before)), str(_named(after))), dates, settings, rules, registration, most_m,
        grid, one, two, ground, events,
        (*registration.notes, *_date_notes(dates), *object_notes(one, two, events, offset)),
    )  # fmt: skip


def _named(side: MapLike) -> str | Path:
    return side.name if isinstance(side, PanopticMap) else side


def _fields(sides: tuple[MapLike, MapLike], settings: ChangeSettings) -> list[ObjectFields]:
    """Return the attributes to read of each side; where only one file has one, it serves there."""
    files = [None if isinstance(s, PanopticMap) or not is_vector_side(s) else s for s in sides]
    held = [set() if f is None else set(attributes(f)) for f in files]

    def of_side(name: str | None, k: int) -> str | None:
        return None if name in held[1 - k] and name not in held[k] else name

    return [
        ObjectFields(of_side(settings.id_field, k), of_side(settings.class_field, k))
        for k in (0, 1)
    ]


def _object_side(side: MapLike, fields: ObjectFields) -> tuple[ObjectSet, PanopticMap | None]:
    if isinstance(side, PanopticMap) or not is_vector_side(side):
        panoptic = open_side(side)
        return map_objects(panoptic), panoptic
    return read_objects(side, fields), None


def _check_classes(wanted: tuple[str, ...] | None, known: set[str]) -> None:
    for name in wanted or ():
        if name not in known:
            raise SchemaError(
                f"--classes: no object is a '{name}'{nearest_name(name, known)}; there are "
                f"{', '.join(sorted(known)) or 'none'}"
            )


def _objects_crs(
    sides: list[tuple[ObjectSet, PanopticMap | None]], settings: ChangeSettings
) -> str | None:
    choice = GridChoice.read(settings.grid)
    if choice.crs is not None:
        import pyproj

        return str(pyproj.CRS.from_user_input(choice.crs).to_wkt())
    return sides[1 if choice.name == "after" else 0][0].crs


def _extent(sets: tuple[ObjectSet, ObjectSet], crs: str | None) -> GeoRef:
    """Return a grid of metre-sized pixels around all objects.

    Raises SceneError when the two dates lie further apart than both are wide.
    """
    import shapely
    from affine import Affine

    boxes = [shapely.total_bounds(s.geometry) for s in sets if len(s)]
    if not boxes:
        return GeoRef(crs, Affine(1, 0, 0, 0, -1, 0), (1, 1))
    low = np.min([b[:2] for b in boxes], axis=0)
    high = np.max([b[2:] for b in boxes], axis=0)
    span = float(max((high - low).max(), 1e-9))

    def around(x0: float, y0: float, x1: float, y1: float) -> GeoRef:
        middle = Affine(1, 0, (x0 + x1) / 2, 0, -1, (y0 + y1) / 2)
        size = 1.0 / float(np.mean(Scale.of(GeoRef(crs, middle, (0, 0))).metres))
        shape = max(1, int(np.ceil((y1 - y0) / size))), max(1, int(np.ceil((x1 - x0) / size)))
        return GeoRef(crs, Affine(size, 0, x0, 0, -size, y1), shape)

    if len(boxes) == 2:
        gap = np.maximum(boxes[0][:2] - boxes[1][2:], boxes[1][:2] - boxes[0][2:]).max()
        if gap > 0.5 * span:
            raise no_overlap(around(*boxes[0]), around(*boxes[1]))
    return around(*low, *high)


def _dates(
    sides: tuple[MapLike, MapLike], settings: ChangeSettings, known: tuple[str | None, str | None]
) -> tuple[str | None, str | None]:
    given = settings.date_before, settings.date_after
    options = "--date-before", "--date-after"
    one, two = (
        date_of(side, g, option) or k
        for side, g, option, k in zip(sides, given, options, known, strict=True)
    )
    return one, two


def _class_notes(maps: Maps) -> tuple[str, ...]:
    names = [set(m.schema.names) for m in (maps.before, maps.after)]
    if not names[0] or not names[1] or names[0] & names[1]:
        return ()
    shown = [", ".join(sorted(n)[:5]) for n in names]
    return (
        f"the two maps have no class name in common (before: {shown[0]}; after: {shown[1]}), so "
        f"all ground has changed; give their classes the same names",
    )


def _date_notes(dates: tuple[str | None, str | None]) -> tuple[str, ...]:
    if None not in dates and years_between(*dates) is None:
        return (
            f"the dates are not in order: before is {dates[0]}, after is {dates[1]}; no annual "
            f"rates are given",
        )
    return ()

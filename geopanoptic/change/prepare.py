"""Bring two dates together: open them, find the offset, lay them on one grid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from geopanoptic.change.aligned import Aligned, Mask, displaced
from geopanoptic.change.counting import Pair
from geopanoptic.change.grid import CommonGrid, GridChoice, common_grid
from geopanoptic.change.imagery import Image
from geopanoptic.change.object_files import in_crs_of, map_objects
from geopanoptic.change.objects import ObjectRules, ObjectSet
from geopanoptic.change.offset import OffsetRules, fine_offset
from geopanoptic.change.registration import (
    Estimate,
    Offset,
    RegisterChoice,
    Registration,
    Scale,
    decide,
    default_max_shift_m,
    estimate_shift,
)
from geopanoptic.change.settings import ChangeSettings
from geopanoptic.change.sides import Classes, MapLike, common_classes, open_side, thing_table
from geopanoptic.change.windows import Edges, measure_shifts, place_windows
from geopanoptic.georef import GeoRef
from geopanoptic.panoptic_map import PanopticMap

Told = Callable[[str, int, int], None]

_LIKE_PIXELS = 1.1  # pixel sizes this close round outlines alike


@dataclass(frozen=True)
class Maps:
    """Both dates as maps, with the classes they share and the settings of the comparison."""

    before: PanopticMap
    after: PanopticMap
    classes: Classes
    settings: ChangeSettings

    @classmethod
    def open(cls, before: MapLike, after: MapLike, settings: ChangeSettings) -> Maps:
        """Open both; a side of bare rasters that names no classes borrows the other's."""
        one, two = open_side(before), open_side(after)
        if one.loose_kinds and not two.loose_kinds:
            one = open_side(before, two.schema)
        elif two.loose_kinds and not one.loose_kinds:
            two = open_side(after, one.schema)
        classes = common_classes(one.schema, two.schema)
        classes.schema.subset(settings.classes or ())  # an unknown class is refused here
        return cls(one, two, classes, settings)

    def coarsest_m(self, grid: GeoRef) -> float:
        """Return the largest pixel involved, metres: outlines are no sharper than that."""
        return max(Scale.of(g).pixel_m for g in (grid, self.before.georef, self.after.georef))

    def grid(self, offset: Offset = (0.0, 0.0)) -> CommonGrid:
        """Return the common grid when the after map is moved back by `offset`."""
        choice = GridChoice.read(self.settings.grid)
        return common_grid(self.before.georef, self.after.georef, choice, offset)

    def pair(self, grid: GeoRef, offset: Offset = (0.0, 0.0)) -> Pair:
        """Return both maps on a grid, the after map moved back by `offset`."""
        masks = self.settings.mask_before, self.settings.mask_after
        sides = []
        for panoptic, class_of, mask, at in (
            (self.before, self.classes.of_before, masks[0], grid),
            (self.after, self.classes.of_after, masks[1], displaced(grid, offset)),
        ):
            opened = None if mask is None else Mask.open(mask, at)
            thing = thing_table(panoptic.schema)
            sides.append(Aligned(panoptic.source, panoptic.georef, at, class_of, thing, opened))
        return Pair(sides[0], sides[1], grid, self.classes.factor)

    def objects(self, crs: str | None) -> tuple[ObjectSet, ObjectSet]:
        """Return the things of both dates in one CRS."""
        one, two = (
            kept(in_crs_of(map_objects(side), crs), self.settings.classes)
            for side in (self.before, self.after)
        )
        return one, two


def kept(objects: ObjectSet, classes: tuple[str, ...] | None) -> ObjectSet:
    """Return the objects of the named classes; all when None."""
    if classes is None:
        return objects
    return objects.take(np.isin(objects.class_names.astype(str), classes))


def register_maps(
    maps: Maps, objects: tuple[ObjectSet, ObjectSet], told: Told
) -> tuple[Registration, float]:
    """Find the offset between two maps; return it and the largest shift allowed, metres.

    Two steps: windows of edges, then centroids of matched objects in map units. With images in
    place of the maps only the windows count. Never fails for want of something to see.
    """
    settings = maps.settings
    choice = RegisterChoice.read(settings.register)
    grid = maps.grid().grid
    scale = Scale.of(grid)
    most_m = settings.max_shift_m
    most_m = default_max_shift_m(scale) if most_m is None else most_m
    most_px = most_m / scale.pixel_m
    before, after = _edges(maps, grid)
    windows = place_windows(grid.shape, most_px)
    shifts = measure_shifts(windows, before, after, lambda k, n: told("register", k, n))
    coarse = estimate_shift(shifts, grid, most_px)
    fine = None
    if settings.register_images is None:
        good = coarse is not None and coarse.agrees
        start = coarse.offset if coarse is not None and good else None
        limits = OffsetRules(most_m, scale.pixel_m)
        fine = fine_estimate(objects, settings.rules(scale.pixel_m), limits, start)
    beyond = int((shifts.length > most_px).sum())
    sizes = [Scale.of(g).pixel_m for g in (maps.before.georef, maps.after.georef)]
    like = max(sizes) <= _LIKE_PIXELS * min(sizes)
    counts = len(shifts), beyond
    return decide(choice, coarse, fine, counts, grid, like_pixels=like), most_m


def _edges(maps: Maps, grid: GeoRef) -> tuple[Edges, Edges]:
    images = maps.settings.register_images
    if images is not None:
        return Image.open(images[0], grid).edges, Image.open(images[1], grid).edges
    pair = maps.pair(grid)
    return pair.before.edges, pair.after.edges


def fine_estimate(
    objects: tuple[ObjectSet, ObjectSet],
    rules: ObjectRules,
    limits: OffsetRules,
    start: Offset | None,
) -> Estimate | None:
    """Return the offset that centroids of matched objects show, from a first one; None if none."""
    found = fine_offset(objects[0], objects[1], rules, limits, start)
    if found.candidates == 0:
        return None
    offset = (float(found.dx), float(found.dy))
    mad_px = found.mad_m / limits.pixel_m
    # of a median of normal errors, from their median absolute deviation
    error_px = 1.2533 * 1.4826 * mad_px / max(found.candidates, 1) ** 0.5
    return Estimate(offset, found.candidates, found.n, mad_px, error_px=error_px)

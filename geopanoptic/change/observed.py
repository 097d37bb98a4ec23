"""How much of every object was seen at both dates, by geometry (rasters count their pixels)."""

from __future__ import annotations

from typing import Literal

import numpy as np
import shapely

from geopanoptic.change.geometry import cut
from geopanoptic.change.objects import Common, ObjectSet

Date = Literal["before", "after"]


def observe(objects: ObjectSet, common: Common, date: Date) -> ObjectSet:
    """Return the objects with the share of their area inside the common area as `observed`.

    The after objects are moved back by the common offset first. Shares are multiplied with those
    that the objects came with.
    """
    if common.footprint is None and not len(common.hidden):
        return objects
    dx, dy = common.offset
    place = objects.moved(-dx, -dy).geometry if date == "after" and (dx or dy) else objects.geometry
    area = shapely.area(place)
    left = shapely.area(cut(place, common.footprint, common.hidden))
    share = np.divide(left, area, out=np.ones(len(area)), where=area > 0)
    return objects.seen(objects.observed * np.clip(share, 0.0, 1.0))

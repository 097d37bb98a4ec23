"""What tracking works on: the objects of each date in one frame, and the ground each date saw."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.change.objects import Common, Events, ObjectRules, ObjectSet
from geopanoptic.change.observed import observe
from geopanoptic.change.relate import relate

Bools = npt.NDArray[np.bool_]
Geometries = npt.NDArray[np.object_]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class DateView:
    """The objects of one date, with coordinates in the CRS and frame of the reference date.

    `date`: ISO 8601. `footprint`: the ground that the map covers (a valid polygon; None:
    everywhere). `hidden`: polygons in it where the map has nodata. `masked`: polygons where it is
    not to be trusted (cloud, shadow); objects that lie there for the most part are not among
    `objects`. Dates are compared where both saw.
    """

    date: str
    objects: ObjectSet
    footprint: Any | None = None
    hidden: Geometries = field(default_factory=lambda: np.zeros(0, object))
    masked: Geometries = field(default_factory=lambda: np.zeros(0, object))

    def __len__(self) -> int:
        return len(self.objects)


def common_footprint(before: DateView, after: DateView) -> Any | None:
    """Return the ground that both dates cover; None: everywhere."""
    import shapely

    known = [v.footprint for v in (before, after) if v.footprint is not None]
    if len(known) == 2 and not shapely.equals(*known):
        return shapely.intersection(*known)
    return known[0] if known else None


def relate_rows(
    views: tuple[DateView, DateView], rows: tuple[Ints, Ints], rules: ObjectRules
) -> Events:
    """Say what became of some objects of one date among some of a later one: `change.relate`.

    An object is not hidden by its own date's nodata: it would not be there. A mask hides the
    ground at both dates.
    """
    before, after = views
    footprint = common_footprint(before, after)
    masks = [before.masked, after.masked]
    every = Common(hidden=np.concatenate([before.hidden, after.hidden, *masks]))
    every = replace(every, footprint=footprint)
    of_before = replace(every, hidden=np.concatenate([after.hidden, *masks]))
    of_after = replace(every, hidden=np.concatenate([before.hidden, *masks]))
    return relate(
        observe(before.objects.take(rows[0]), of_before, "before"),
        observe(after.objects.take(rows[1]), of_after, "after"),
        rules,
        every,
    )

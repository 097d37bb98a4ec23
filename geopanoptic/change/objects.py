"""What the object half of a change works on: objects of two dates, rules, links, events.

before, after = ObjectSet(...), ObjectSet(...)            same CRS
offset = fine_offset(before, after, rules)                geopanoptic.change.offset
events = relate(before, after, rules, Common(...))        geopanoptic.change.relate
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import ConfigError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Geometries = npt.NDArray[np.object_]

STATUSES = (
    "unchanged", "added", "removed", "grown", "shrunk", "modified", "reclassified", "split",
    "merged", "complex", "unobserved",
)  # fmt: skip
UNNAMED = "object"  # the class of objects whose file names none


@dataclass(frozen=True, slots=True)
class ObjectSet:
    """The objects (things) of one date as parallel arrays of length n.

    `ids`: int64, or object dtype of str; unique, carried through unchanged. `class_names`: object
    dtype of str. `geometry`: valid shapely polygons or multipolygons with coordinates in `crs`
    (WKT; None: plain units, taken for metres). `scores` float64 in 0..1, NaN where there is none.
    `observed` float64 in 0..1: the share of the object's area that was seen at both dates; for an
    object of a raster that is the share seen at the other date. `area_m2`: the true area of the
    whole object (plain area without a CRS). `touches_edge`: meets the rim of its map or nodata
    there, so it may be cut.
    """

    ids: npt.NDArray[Any]
    class_names: npt.NDArray[np.object_]
    geometry: Geometries
    scores: Floats
    observed: Floats
    area_m2: Floats
    touches_edge: Bools
    crs: str | None

    def __post_init__(self) -> None:
        for f in fields(self):
            if f.name != "crs":
                got = len(getattr(self, f.name))
                assert got == len(self.ids), f"{f.name} has {got} rows, not {len(self.ids)}"

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: npt.ArrayLike) -> ObjectSet:
        """Return the objects picked by an index or boolean array."""
        keep = np.asarray(rows)
        picked = {f.name: getattr(self, f.name)[keep] for f in fields(self) if f.name != "crs"}
        return replace(self, **picked)

    def seen(self, observed: Floats) -> ObjectSet:
        """Return the same objects with other observed shares."""
        return replace(self, observed=observed)

    def moved(self, dx: float, dy: float) -> ObjectSet:
        """Return the objects moved by (dx, dy) map units; areas are kept."""
        import shapely

        shifted = shapely.transform(self.geometry, lambda xy: xy + np.array([dx, dy]))
        return replace(self, geometry=shifted)


@dataclass(frozen=True, slots=True)
class ObjectRules:
    """Thresholds of section "objects" in docs/change.md; all symmetric in the two dates.

    Two objects of one class are linked when they share at least `link` of the smaller, or, when
    `link_both` is set, more than `link_both` of both or more than `link_either` of either.
    `near`: objects that stayed alone are also linked when each lies inside the other grown by
    `tolerance_m` (a car that moved by a metre). `twins`: objects of equal outline belong
    together, and to no third. Objects of other classes are linked when they fulfil the link rule,
    have an IoU of at least `same_place_iou` and no partner of their own class. `compatible`:
    groups of class names that count as one class.

    One object that became one is unchanged when each lies inside the other grown by `tolerance_m`
    or when the IoU is at least `iou` and the area ratio at most `ratio`; for this the later one
    may be moved by the difference of their centroids up to `max_object_shift_m`. With an observed
    share of at most `least_observed` an event is unobserved. Events with less than `mmu_m2` at
    either date are below the minimum mapping unit.
    """

    link: float = 0.5
    link_both: float | None = None
    link_either: float = 0.9
    tolerance_m: float = 1.0
    iou: float = 0.6
    ratio: float = 1.25
    max_object_shift_m: float = 3.0
    least_observed: float = 0.5
    mmu_m2: float = 0.0
    same_place_iou: float = 0.3
    compatible: tuple[tuple[str, ...], ...] = ()
    near: bool = True
    twins: bool = True

    def __post_init__(self) -> None:
        for name in ("link", "link_either", "iou", "same_place_iou"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"{name} {getattr(self, name)} must lie in 0..1, above 0")
        if self.link_both is not None and not 0 <= self.link_both <= 1:
            raise ConfigError(f"link_both {self.link_both} must lie in 0..1")
        if not 0 <= self.least_observed < 1:
            raise ConfigError(f"least_observed {self.least_observed} must lie in 0..1, below 1")
        if self.ratio < 1:
            raise ConfigError(f"ratio {self.ratio} must be at least 1")
        for name in ("tolerance_m", "max_object_shift_m", "mmu_m2"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} {getattr(self, name)} must not be negative")

    @classmethod
    def linz(cls, **changes: Any) -> ObjectRules:
        """Return Land Information New Zealand's link rule: > 5 % of both or > 90 % of either.

        Source: nz-buildings, `buildings_bulk_load` comparison (BSD-3). No other link is made.
        """
        return replace(cls(link_both=0.05, link_either=0.9, near=False, twins=False), **changes)


@dataclass(frozen=True, slots=True)
class Common:
    """What the two dates share on the ground, in the CRS of both sets.

    `offset`: (dx, dy) map units by which the after objects lie too far east and north; they are
    compared after moving them back. `footprint`: the area that both dates cover (a valid polygon
    or multipolygon; None: everywhere). `hidden`: polygons in it that one date did not see (cloud,
    nodata). Footprint and hidden lie in the frame of the before date. They refine what is compared
    of objects whose `observed` is below 1; other objects are taken whole.
    """

    offset: tuple[float, float] = (0.0, 0.0)
    footprint: Any | None = None
    hidden: Geometries = field(default_factory=lambda: np.zeros(0, object))


@dataclass(frozen=True, slots=True)
class Links:
    """Which object of before belongs to which of after: parallel arrays, sorted by (before, after).

    `before`, `after`: row numbers in the two sets. `overlap_m2`: true area shared on the common
    area. `frac_before`, `frac_after`: its share of the observed part of either. `iou` of the
    observed parts. `event_id` of both.
    """

    before: Ints
    after: Ints
    overlap_m2: Floats
    frac_before: Floats
    frac_after: Floats
    iou: Floats
    event_id: Ints

    def __len__(self) -> int:
        return len(self.before)


@dataclass(frozen=True)
class Events:
    """What became of all objects: one row per event, every object in exactly one.

    `columns`: name -> array of length n (see `EVENT_COLUMNS` in `columns.py`; NaN or None where a
    value does not apply). `event_of_before`, `event_of_after`: the event_id of every object of
    the two sets, in their order. `links`: the pairs inside the events.

    Law: sums of n_before and n_after are the numbers of objects.
    """

    columns: Mapping[str, npt.NDArray[Any]]
    event_of_before: Ints
    event_of_after: Ints
    links: Links

    def __len__(self) -> int:
        return len(self.columns["event_id"])

    @property
    def status(self) -> npt.NDArray[np.object_]:
        return self.columns["status"]

    def status_of(self, event_id: Ints) -> npt.NDArray[np.object_]:
        """Return the status of the events with these ids (they are 1..n in order)."""
        return self.status[np.asarray(event_id) - 1]

    def counts(self, below_mmu: bool = False) -> dict[str, int]:
        """Count events by status, those below the minimum mapping unit only when asked for."""
        chosen = np.full(len(self), True) if below_mmu else ~self.columns["below_mmu"]
        status = self.status[chosen]
        return {name: int((status == name).sum()) for name in STATUSES}


@dataclass(frozen=True, slots=True)
class Offset:
    """How far the after objects lie from the before ones, and how well that is known.

    `dx`, `dy`: median difference of centroids, after minus before, map units; `dx_m`, `dy_m` the
    same in true metres along the map's axes. `n`: pairs that agree, `candidates`: pairs at hand,
    `mad_m`: median absolute deviation of the pairs' differences, of the worse axis. `applied`:
    whether it is large and certain enough to be taken off, `reason`: why or why not.
    """

    dx: float
    dy: float
    dx_m: float
    dy_m: float
    n: int
    candidates: int
    mad_m: float
    applied: bool
    reason: str

    @property
    def taken(self) -> tuple[float, float]:
        """What to give to `Common(offset=...)`: (dx, dy) when it is applied, else no offset."""
        return (self.dx, self.dy) if self.applied else (0.0, 0.0)

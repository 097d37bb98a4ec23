"""What a user may set for an evaluation."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from geopanoptic.errors import ConfigError, nearest_name
from geopanoptic.georef import GeoRef

METRICS = ("pq", "pq-dagger", "boundary-pq", "miou", "ap", "f1", "errors")
CHEAP = tuple(m for m in METRICS if m != "boundary-pq")


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """Everything that changes the figures; nothing here changes how the work is spread.

    `metrics`: which groups of figures (`METRICS`). `boundary`: the tolerance of boundary PQ, as
    '1m', '3px' or a ratio of the image's diagonal ('0.02'). `iou`: the threshold of F1. Objects
    under `min_area_m2` take no part in F1, AP and errors (m2; px without a CRS). `max_dets`: AP
    counts so many detections per image and class (COCO: 100; None: all). `bootstrap`: number of
    replicates, 0 = no intervals. `pred_void`, `stuff_segments`: see docs/evaluation.md.
    `void_classes`: truth classes that are not judged. `class_map`: CSV from,to of truth classes.
    `resample_truth`: bring the truth to the prediction's grid by nearest neighbour.
    `aoi`, `mask`: polygons to judge; raster (0) or polygons to leave out.
    `crowd_field`, `truth_class_field`, `pred_class_field`: attributes of vector files.
    `series`: the pairs are the dates of one series in time order, and an id is one object over
    time; `vpq_windows`: VPQ over 1 .. so many dates.
    """

    metrics: tuple[str, ...] = CHEAP
    boundary: str | None = None
    iou: float = 0.5
    min_area_m2: float = 0.0
    max_dets: int | None = None
    bootstrap: int = 200
    pred_void: Literal["miss", "ignore"] = "miss"
    stuff_segments: Literal["auto", "merge", "keep"] = "auto"
    void_classes: tuple[str, ...] = ()
    class_map: str | None = None
    resample_truth: bool = False
    aoi: str | None = None
    mask: str | None = None
    crowd_field: str | None = None
    truth_class_field: str | None = None
    pred_class_field: str | None = None
    series: bool = False
    vpq_windows: int = 4

    def __post_init__(self) -> None:
        for name in self.metrics:
            if name not in METRICS:
                raise ConfigError(
                    f"there is no metric '{name}'{nearest_name(name, METRICS)}; "
                    f"choose from {', '.join(METRICS)}"
                )
        if not 0 < self.iou < 1:
            raise ConfigError(f"--iou {self.iou} must lie between 0 and 1")
        if self.min_area_m2 < 0 or self.bootstrap < 0:
            raise ConfigError("--min-area and --bootstrap must not be negative")
        if self.max_dets is not None and self.max_dets < 1:
            raise ConfigError(f"--max-dets {self.max_dets} must be at least 1")
        if self.vpq_windows < 1:
            raise ConfigError(f"--vpq-windows {self.vpq_windows} must be at least 1")
        if self.boundary is not None:
            Tolerance.read(self.boundary)

    @property
    def tolerance(self) -> Tolerance | None:
        """The boundary tolerance, or None when boundary PQ is not asked for."""
        if self.boundary is not None:
            return Tolerance.read(self.boundary)
        return Tolerance(1.0, "m") if "boundary-pq" in self.metrics else None

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values, for the record."""
        values = asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


@dataclass(frozen=True, slots=True)
class Tolerance:
    """A distance near an outline: `value` metres ('m'), pixels ('px'), or of the diagonal."""

    value: float
    unit: Literal["m", "px", "ratio"]

    @classmethod
    def read(cls, text: str) -> Tolerance:
        """Read '1m', '3px' or '0.02'; ConfigError otherwise."""
        unit: Literal["m", "px", "ratio"] = (
            "px" if text.endswith("px") else "m" if text.endswith("m") else "ratio"
        )
        try:
            value = float(text.removesuffix(unit))
        except ValueError as why:
            raise ConfigError(
                f"--boundary-tolerance {text}: write metres (1m), pixels (3px) or a share of the "
                f"image diagonal (0.02)"
            ) from why
        if not value > 0 or (unit == "ratio" and value >= 1):
            raise ConfigError(f"--boundary-tolerance {text} must be more than 0 (a share: below 1)")
        return cls(value, unit)

    def pixels(self, georef: GeoRef) -> int:
        """Return the distance in whole pixels of a grid, at least 1.

        A ratio is taken of the diagonal and rounded (boundary-iou-api). Raises SceneError for
        metres on a grid without a CRS.
        """
        if self.unit == "ratio":
            height, width = georef.shape
            return max(1, round(self.value * math.hypot(height, width)))
        if self.unit == "px":
            return max(1, round(self.value))
        georef.need_metres("--boundary-tolerance in metres (use 3px instead)")
        return max(1, round(self.value / (georef.gsd_m or 1.0)))

"""What a user may set for a comparison."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal

from geopanoptic.change.counting import MOST_BLOCK
from geopanoptic.change.grid import GridChoice
from geopanoptic.change.objects import ObjectRules
from geopanoptic.change.registration import RegisterChoice
from geopanoptic.errors import ConfigError


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """When objects of two dates are one, and which objects count: what change and track share.

    `max_shift_m`: largest offset between dates, None = 10 m, or two pixels. `link_rule`: 'default'
    or 'linz'; `link`: share of the smaller object. `tolerance_m` None = 1 m, or two pixels; the
    other thresholds as in `objects.ObjectRules`. `compatible`: groups of class names that count as
    one. `classes`: only these classes of things. `id_field`, `class_field`: attributes of vector
    files. Raises ConfigError for values that make no rule.
    """

    max_shift_m: float | None = None
    link_rule: Literal["default", "linz"] = "default"
    link: float = 0.5
    tolerance_m: float | None = None
    iou: float = 0.6
    ratio: float = 1.25
    max_object_shift_m: float = 3.0
    least_observed: float = 0.5
    compatible: tuple[tuple[str, ...], ...] = ()
    classes: tuple[str, ...] | None = None
    id_field: str | None = None
    class_field: str | None = None

    def __post_init__(self) -> None:
        if self.link_rule not in ("default", "linz"):
            raise ConfigError(f"--link-rule {self.link_rule}: use default or linz")
        for option, value in (("max-shift", self.max_shift_m), ("tolerance", self.tolerance_m)):
            if value is not None and not value >= 0:
                raise ConfigError(f"--{option} {value} must be a number that is not negative")
        self.rules(0.0)

    def rules(self, pixel_m: float) -> ObjectRules:
        """Return the rules for objects on a grid of `pixel_m` (0: vectors only)."""
        return self._rules(pixel_m, 0.0)

    def _rules(self, pixel_m: float, mmu_m2: float) -> ObjectRules:
        given: dict[str, Any] = {
            "tolerance_m": self.tolerance(pixel_m),
            "iou": self.iou,
            "ratio": self.ratio,
            "max_object_shift_m": self.max_object_shift_m,
            "least_observed": self.least_observed,
            "mmu_m2": mmu_m2,
            "compatible": self.compatible,
        }
        if self.link_rule == "linz":
            return ObjectRules.linz(**given)
        return ObjectRules(link=self.link, **given)

    def tolerance(self, pixel_m: float) -> float:
        """Return the tolerance in metres: as set, else the larger of 1 m and two pixels."""
        return max(1.0, 2 * pixel_m) if self.tolerance_m is None else self.tolerance_m

    def shared(self) -> dict[str, Any]:
        """Return what change and track share, by name."""
        return {f.name: getattr(self, f.name) for f in fields(LinkSettings)}

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values, for the record."""
        return {k: _plain(v) for k, v in asdict(self).items()}


@dataclass(frozen=True, slots=True)
class ChangeSettings(LinkSettings):
    """Everything that changes the result of a comparison; nothing here says how work is spread.

    `grid`: 'before', 'after', 'finest' or 'EPSG:32631+0.5'. `register`: 'auto', 'none' or metres
    'DX,DY' that the after map lies too far east and north; `register_images` = (before, after)
    rasters to measure the offset on instead of the maps. `mask_before`, `mask_after`: a raster that
    is 0, or polygons around, what must not be compared. `mmu_m2`: minimum mapping unit of objects
    and patches. `date_before`, `date_after`: ISO. `block`: pixels, changes no figure.
    """

    grid: str = "before"
    register: str = "auto"
    register_images: tuple[str, str] | None = None
    mask_before: str | None = None
    mask_after: str | None = None
    mmu_m2: float = 0.0
    date_before: str | None = None
    date_after: str | None = None
    block: int = 1024

    def __post_init__(self) -> None:
        GridChoice.read(self.grid)
        RegisterChoice.read(self.register)
        if not 64 <= self.block <= MOST_BLOCK:
            raise ConfigError(f"--block {self.block} must lie in 64..{MOST_BLOCK} px")
        if self.register_images is not None and len(self.register_images) != 2:
            raise ConfigError("--register-images needs two rasters: before and after")
        LinkSettings.__post_init__(self)

    def rules(self, pixel_m: float) -> ObjectRules:
        """Return the rules for objects on a grid of `pixel_m` (0: vectors only)."""
        return self._rules(pixel_m, self.mmu_m2)


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value

"""What a user may set for tracking."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from geopanoptic.change.objects import ObjectRules
from geopanoptic.change.settings import ChangeSettings
from geopanoptic.errors import ConfigError, nearest_name
from geopanoptic.track.identity import SplitPolicy
from geopanoptic.track.life import ConfirmRule


@dataclass(frozen=True, slots=True)
class TrackSettings:
    """Everything that changes tracks; nothing here says how work is spread.

    `max_gap`: a track ends when so many dates in a row saw its place and not the object.
    `split_policy`: of a split or merger the part that shares most keeps the id ('largest'), or
    nobody ('new'). `confirm_seen` of the first `confirm_of` dates make a track confirmed.
    `reference`: the date in whose frame and CRS all is compared (None: the first).
    `register` 'auto' or 'none'; `max_shift_m` None = 10 m, or two pixels. The thresholds of the
    link rule are those of `geopanoptic change`. `images` = (date, raster): where the reference and
    another date have one, the offset is measured on these and not on the maps. `masks` = (date,
    file): what was not seen at a date. `classes`: only these things.
    `id_field`, `class_field`: attributes of vector files.
    """

    max_gap: int = 2
    split_policy: SplitPolicy = "largest"
    confirm_seen: int = 2
    confirm_of: int = 3
    reference: str | None = None
    register: Literal["auto", "none"] = "auto"
    max_shift_m: float | None = None
    link_rule: Literal["default", "linz"] = "default"
    link: float = 0.5
    tolerance_m: float | None = None
    iou: float = 0.6
    ratio: float = 1.25
    max_object_shift_m: float = 3.0
    least_observed: float = 0.5
    compatible: tuple[tuple[str, ...], ...] = ()
    images: tuple[tuple[str, str], ...] = ()
    masks: tuple[tuple[str, str], ...] = ()
    classes: tuple[str, ...] | None = None
    id_field: str | None = None
    class_field: str | None = None

    def __post_init__(self) -> None:
        if self.max_gap < 1:
            raise ConfigError(f"--max-gap {self.max_gap} must be at least 1 (no gap at all)")
        if self.split_policy not in ("largest", "new"):
            hint = nearest_name(self.split_policy, ("largest", "new"))
            raise ConfigError(f"--split-policy {self.split_policy}{hint}: use largest or new")
        if not 1 <= self.confirm_seen <= self.confirm_of:
            raise ConfigError(
                f"--confirm {self.confirm_seen}/{self.confirm_of}: K of M dates, 1 <= K <= M"
            )
        if self.register not in ("auto", "none"):
            raise ConfigError(f"--register {self.register}: use auto or none")
        self.change()  # checks the thresholds

    @property
    def confirm(self) -> ConfirmRule:
        return ConfirmRule(self.confirm_seen, self.confirm_of)

    def change(self, images: tuple[str, str] | None = None) -> ChangeSettings:
        """Return the settings with which two dates are compared; `images` to register them by."""
        return ChangeSettings(
            register=self.register,
            register_images=images,
            max_shift_m=self.max_shift_m,
            link_rule=self.link_rule,
            link=self.link,
            tolerance_m=self.tolerance_m,
            iou=self.iou,
            ratio=self.ratio,
            max_object_shift_m=self.max_object_shift_m,
            least_observed=self.least_observed,
            compatible=self.compatible,
            classes=self.classes,
            id_field=self.id_field,
            class_field=self.class_field,
        )

    def rules(self, pixel_m: float) -> ObjectRules:
        """Return the link rule on a reference grid of `pixel_m` (0: vector files only)."""
        return self.change().rules(pixel_m)

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain values, for the record."""
        return {k: _plain(v) for k, v in asdict(self).items()}


def _plain(value: Any) -> Any:
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value

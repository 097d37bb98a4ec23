"""What a user may set for tracking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from geopanoptic.change.settings import ChangeSettings, LinkSettings
from geopanoptic.errors import ConfigError, nearest_name
from geopanoptic.track.identity import SplitPolicy
from geopanoptic.track.life import ConfirmRule


@dataclass(frozen=True, slots=True)
class TrackSettings(LinkSettings):
    """Everything that changes tracks; nothing here says how work is spread.

    `max_gap`: a track ends when so many dates in a row saw its place and not the object.
    `split_policy`: of a split or merger the part that shares most keeps the id ('largest'), or
    nobody ('new'). `confirm_seen` of the first `confirm_of` dates make a track confirmed.
    `reference`: the date in whose frame and CRS all is compared (None: the first).
    `register` 'auto' or 'none'. `images` = (date, raster): where the reference and
    another date have one, the offset is measured on these and not on the maps. `masks` = (date,
    file): what was not seen at a date.
    """

    max_gap: int = 2
    split_policy: SplitPolicy = "largest"
    confirm_seen: int = 2
    confirm_of: int = 3
    reference: str | None = None
    register: Literal["auto", "none"] = "auto"
    images: tuple[tuple[str, str], ...] = ()
    masks: tuple[tuple[str, str], ...] = ()

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
        LinkSettings.__post_init__(self)

    @property
    def confirm(self) -> ConfirmRule:
        return ConfirmRule(self.confirm_seen, self.confirm_of)

    def change(self, images: tuple[str, str] | None = None) -> ChangeSettings:
        """Return the settings with which two dates are compared; `images` to register them by."""
        return ChangeSettings(register=self.register, register_images=images, **self.shared())

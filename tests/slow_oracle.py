"""The oracle that takes its time, so that something can happen to a run meanwhile."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from pixel_oracle import PixelOracle


@dataclass(frozen=True)
class SlowOracle(PixelOracle):
    """Sleep for so many seconds per call of the network."""

    seconds: float = 0.0

    def forward(self, chips: Any) -> Any:
        time.sleep(self.seconds)
        return super().forward(chips)

"""A model that takes its time; a module of its own so that workers can import it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sparse_scenes import Trivial


@dataclass(frozen=True)
class Slow(Trivial):
    """Answers as `Trivial` does, after so many seconds per tile, asleep or on one core."""

    tile_s: float = 0.3
    sleeps: bool = False

    def forward(self, chips: npt.NDArray[Any]) -> dict[str, npt.NDArray[Any]]:
        wanted = self.tile_s * len(chips)
        if self.sleeps:
            time.sleep(wanted)
        else:
            small = np.ones((256, 256), np.float32)
            end = time.thread_time() + wanted
            while time.thread_time() < end:
                np.sin(small, out=small)  # outside of Python's lock, as a network is
        return super().forward(chips)

"""Paint a synthetic town: tens of thousands of objects of known kinds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from stitch_support import BUILDING, ROAD, VEHICLE, Truth

from geopanoptic.stitch.kernels import cc4

KINDS = ("none", "row house", "detached", "L/U shape", "vehicle", "hall")
ROW, DETACHED, BENT, CAR, HALL = range(1, 6)
DISTRICT_PX = 260  # no divisor of a tile, so that seams run through districts


@dataclass(frozen=True)
class Town:
    """A painted scene and the kind (index into KINDS) of each of its instances 0..n."""

    truth: Truth
    kind: npt.NDArray[np.uint8]


class Painter:
    """Paints shapes with fresh ids onto one canvas and remembers their kinds."""

    def __init__(self, shape: tuple[int, int], seed: int) -> None:
        self.canvas = np.zeros(shape, np.int32)
        self.kinds = [0]
        self.rng = np.random.default_rng(seed)

    def fresh(self, kind: int) -> int:
        self.kinds.append(kind)
        return len(self.kinds) - 1

    def box(self, row: int, col: int, high: int, wide: int, kind: int) -> None:
        self.canvas[row : row + high, col : col + wide] = self.fresh(kind)

    def turned(self, row: float, col: float, size: tuple[float, float], angle: float, kind: int):
        """Paint a rectangle of `size` turned by `angle` about its centre (row, col)."""
        reach = int(np.hypot(*size) / 2) + 2
        r0, c0 = max(0, int(row) - reach), max(0, int(col) - reach)
        view = self.canvas[r0 : int(row) + reach, c0 : int(col) + reach]
        dr = np.arange(view.shape[0])[:, None] + r0 - row
        dc = np.arange(view.shape[1])[None, :] + c0 - col
        along = abs(dr * np.cos(angle) + dc * np.sin(angle)) <= size[0] / 2
        across = abs(dc * np.cos(angle) - dr * np.sin(angle)) <= size[1] / 2
        view[along & across & (view == 0)] = self.fresh(kind)

    def rows_of_houses(self, row: int, col: int, edge: int) -> None:
        at = row + 4
        while at + 40 < row + edge:
            deep = int(self.rng.integers(26, 40))
            for line in range(2):  # back to back
                here = col + int(self.rng.integers(2, 14))
                while here + 30 < col + edge:
                    wide = int(self.rng.integers(16, 28))
                    self.box(at + line * deep, here, deep, wide, ROW)
                    here += wide
            at += 2 * deep + int(self.rng.integers(14, 30))

    def detached_houses(self, row: int, col: int, edge: int) -> None:
        for r in range(row + 26, row + edge - 20, 52):
            for c in range(col + 26, col + edge - 20, 52):
                size = self.rng.uniform(24, 40, 2)
                shift = self.rng.uniform(-5, 5, 2)
                self.turned(
                    r + shift[0], c + shift[1], tuple(size), self.rng.uniform(0, 3.2), DETACHED
                )

    def bent_houses(self, row: int, col: int, edge: int) -> None:
        for r in range(row + 6, row + edge - 70, 84):
            for c in range(col + 6, col + edge - 70, 84):
                high, wide = self.rng.integers(44, 72, 2)
                arm = int(self.rng.integers(12, 18))
                self.box(r, c, high, wide, BENT)
                if self.rng.random() < 0.5:  # an L
                    self.canvas[r : r + high - arm, c + arm : c + wide] = 0
                else:  # a U
                    self.canvas[r : r + high - arm, c + arm : c + wide - arm] = 0

    def car_park(self, row: int, col: int, edge: int) -> None:
        for r in range(row + 4, row + edge - 30, 46):
            for line in range(2):
                c = col + 4 + int(self.rng.integers(0, 6))
                while c + 8 < col + edge:
                    if self.rng.random() < 0.85:
                        self.box(r + 14 * line, c, 14, 6, CAR)
                    c += 6 + int(self.rng.integers(0, 3))

    def hall(self) -> None:
        """A hall longer than a 512-px tile, on cleared ground; every third is a giant U."""
        long, wide = int(self.rng.integers(560, 1700)), int(self.rng.integers(60, 150))
        canvas = self.canvas if self.rng.random() < 0.5 else self.canvas.T
        span = wide if self.rng.random() < 0.67 else min(4 * wide, 500)
        row = int(self.rng.integers(8, max(9, canvas.shape[0] - span - 8)))
        col = int(self.rng.integers(8, max(9, canvas.shape[1] - long - 8)))
        k = self.fresh(HALL)
        around = canvas[max(0, row - 6) : row + span + 6, max(0, col - 6) : col + long + 6]
        if np.isin(around, [i for i, kind in enumerate(self.kinds) if kind == HALL]).any():
            return  # halls do not lie on halls
        around[:] = 0
        canvas[row : row + span, col : col + long] = k
        if span > wide:
            canvas[row + wide : row + span, col + wide : col + long - wide] = 0


def make_town(edge_px: int = 4096, seed: int = 0, halls: int | None = None) -> Town:
    """Paint a square town; about 950 objects per Mpx, `halls` (1 per 0.4 Mpx) of them huge."""
    painter = Painter((edge_px, edge_px), seed)
    districts = (
        painter.rows_of_houses,
        painter.detached_houses,
        painter.bent_houses,
        painter.car_park,
    )
    for row in range(0, edge_px, DISTRICT_PX):
        for col in range(0, edge_px, DISTRICT_PX):
            which = painter.rng.choice(4, p=(0.35, 0.25, 0.15, 0.25))
            districts[which](row, col, min(DISTRICT_PX, edge_px - max(row, col)))
    for _ in range(edge_px**2 // 400_000 if halls is None else halls):
        painter.hall()
    pieces, n = cc4(painter.canvas)
    source = np.zeros(n + 1, int)
    source[pieces.ravel()] = painter.canvas.ravel()
    kind = np.array(painter.kinds, np.uint8)[source]
    class_of = np.where(kind == CAR, VEHICLE, BUILDING).astype(np.uint8)
    class_of[0] = 0
    return Town(Truth(pieces, class_of, np.full(pieces.shape, ROAD, np.uint8)), kind)

"""Vehicle masks from axis-aligned boxes: a rounded rectangle at the angle the box implies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import SceneError

ASPECT = 2.4  # length / width of a car; buses are longer, but hardly ever stand askew
_STRAIGHT = 1.8  # a box longer than this is taken as the car itself, along the axes


def read_yolo(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.float64]:
    """Read a YOLO text file to rows (row, col, height, width) in pixels of a `shape` image."""
    rows = []
    for n, line in enumerate(path.read_text().splitlines(), start=1):
        part = line.split()
        if len(part) != 5:
            raise SceneError(
                f"{path} line {n} has {len(part)} numbers, not 5 (class x y width height); "
                "export the boxes in YOLO format"
            )
        x, y, w, h = (float(v) for v in part[1:])
        rows.append((y * shape[0], x * shape[1], h * shape[0], w * shape[1]))
    return np.array(rows, float).reshape(-1, 4)


def paint_boxes(
    boxes: npt.NDArray[np.float64], grey: npt.NDArray[np.floating]
) -> npt.NDArray[np.int32]:
    """Paint one instance per box on an image's grid (h, w): ids 1..n, 0 elsewhere.

    A box of h x w pixels around a rectangle of aspect `ASPECT` leaves two angles, mirror images of
    each other; the one along which the picture's gradients are weaker is taken.
    """
    out = np.zeros(grey.shape, np.int32)
    gy, gx = (np.gradient(grey.astype(np.float32), axis=axis) for axis in (0, 1))
    for i, (row, col, height, width) in enumerate(boxes, start=1):
        r0, r1 = max(int(row - height / 2), 0), min(int(row + height / 2) + 2, grey.shape[0])
        c0, c1 = max(int(col - width / 2), 0), min(int(col + width / 2) + 2, grey.shape[1])
        length, across, angle = _fit(height, width)
        cross = float((gx[r0:r1, c0:c1] * gy[r0:r1, c0:c1]).sum())
        # gradients of an elongated thing point across it: a thing along +45 deg (down-right) has
        # gx and gy of opposite sign
        angle = -angle if cross > 0 else angle
        y, x = np.mgrid[r0:r1, c0:c1]
        dy, dx = y + 0.5 - row, x + 0.5 - col
        u = (dx * np.cos(angle) + dy * np.sin(angle)) / (length / 2)
        v = (-dx * np.sin(angle) + dy * np.cos(angle)) / (across / 2)
        body = np.abs(u) ** 4 + np.abs(v) ** 4 <= 1  # a superellipse: a rectangle, rounded
        out[r0:r1, c0:c1][body] = i
    return out


def _fit(height: float, width: float) -> tuple[float, float, float]:
    """Return length, width and angle (0 = along columns, up to pi/2) of the car in a box.

    Solves w = L cos a + W sin a, h = L sin a + W cos a with L = ASPECT * W.
    """
    long, short = max(height, width), max(min(height, width), 1e-6)
    if long / short >= _STRAIGHT:
        length, across, angle = long, short, 0.0
    else:
        angles = np.linspace(0, np.pi / 4, 91)
        ratio = (ASPECT * np.cos(angles) + np.sin(angles)) / (
            ASPECT * np.sin(angles) + np.cos(angles)
        )
        angle = float(angles[np.argmin(np.abs(ratio - long / short))])
        across = long / (ASPECT * np.cos(angle) + np.sin(angle))
        length = ASPECT * across
    return (length, across, angle) if width >= height else (length, across, np.pi / 2 - angle)

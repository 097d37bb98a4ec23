"""Chips: training samples cut from prepared sources at a random place, scale and angle.

Chip number `i` depends on the seed and on `i` only, so a resumed training sees the chips it would
have seen, whatever the number of loader processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from geopanoptic.dataset.augment import augment_colour, augment_sharpness
from geopanoptic.dataset.sources import LEVELS, SourceSpec, level_path
from geopanoptic.dataset.targets import STEP_M, ZERO

_FOCUS_PIXELS = 3000  # remembered per class and source


@dataclass(frozen=True, slots=True)
class ChipSettings:
    """`size_px` of a chip, `seed`, the number of classes, and whether to augment."""

    size_px: int
    seed: int
    n_classes: int
    augment: bool = True


@dataclass(frozen=True, slots=True)
class SourceArray:
    """A source and the path of its prepared array (`sources.prepare_source`)."""

    spec: SourceSpec
    path: Path


Chip = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


class ChipSet(torch.utils.data.Dataset[Chip]):
    """Random access to chips: item i is (image uint8 (3, s, s), sets, signed px, second px)."""

    def __init__(self, sources: Sequence[SourceArray], settings: ChipSettings, n_chips: int):
        self.sources = tuple(sources)
        self.settings = settings
        self.n_chips = n_chips
        self.levels = [
            [np.load(level_path(s.path, k), mmap_mode="r") for k in range(LEVELS)]
            for s in self.sources
        ]
        weight = np.array([s.spec.weight for s in self.sources], float)
        self.share = weight / weight.sum()
        self.focus = [_focus_pixels(a, settings.n_classes) for a, *_ in self.levels]

    def __len__(self) -> int:
        return self.n_chips

    def __getitem__(self, i: int) -> Chip:
        rng = np.random.default_rng([self.settings.seed, i])
        k = int(rng.choice(len(self.sources), p=self.share))
        spec, array = self.sources[k].spec, self.levels[k][0]
        gsd_m = float(np.exp(rng.uniform(*np.log(spec.gsd_range_m))))
        centre = rng.uniform(0, array.shape[:2])
        reach = self.settings.size_px * gsd_m / spec.gsd_m
        if rng.random() < spec.focus and self.focus[k]:
            pixels = self.focus[k][int(rng.integers(len(self.focus[k])))]
            centre = pixels[int(rng.integers(len(pixels)))] + rng.uniform(-0.3, 0.3, 2) * reach
        inside = np.minimum(reach / 2, np.array(array.shape[:2]) / 2)
        centre = np.clip(centre, inside, np.array(array.shape[:2]) - inside)
        chip = cut_chip(self.levels[k], centre, _matrix(rng, gsd_m / spec.gsd_m), self.settings)
        return self._finish(chip, gsd_m, rng)

    def _finish(self, chip: torch.Tensor, gsd_m: float, rng: np.random.Generator) -> Chip:
        """Augment the image and turn the distance bytes into chip pixels."""
        image = chip[:3] / 255
        if self.settings.augment:
            image = augment_sharpness(augment_colour(image, rng), rng)
        step_px = STEP_M / gsd_m
        return (
            (image * 255).round().byte(),
            chip[3].byte(),
            (chip[4] - ZERO) * step_px,
            chip[5] * step_px,
        )


def _focus_pixels(array: npt.NDArray[np.uint8], n_classes: int) -> list[npt.NDArray[np.float64]]:
    """List, per class that is labelled alone somewhere, some of its pixels (row, col)."""
    step = max(1, int(np.sqrt(array.shape[0] * array.shape[1] / 2e6)))
    sets = np.asarray(array[::step, ::step, 3])
    found = []
    for k in range(n_classes):
        where = np.argwhere(sets == 1 << k)
        if len(where) > 20:
            pick = np.linspace(0, len(where) - 1, min(len(where), _FOCUS_PIXELS)).astype(int)
            found.append(where[pick] * float(step))
    return found


def _matrix(rng: np.random.Generator, ratio: float) -> npt.NDArray[np.float64]:
    """Return the map from chip to source pixels (row, col): scale, turn, flip, a little shear."""
    angle = rng.uniform(0, 2 * np.pi) if rng.random() < 0.6 else rng.integers(4) * np.pi / 2
    c, s = np.cos(angle), np.sin(angle)
    turn = np.array([[c, -s], [s, c]]) @ np.diag([1.0, -1.0 if rng.random() < 0.5 else 1.0])
    stretch = float(np.exp(rng.normal(0, 0.05)))
    shear = np.array([[stretch, rng.normal(0, 0.03)], [0, 1 / stretch]])
    return np.asarray(ratio * turn @ shear, np.float64)


def cut_chip(
    levels: Sequence[npt.NDArray[np.uint8]],
    centre: npt.NDArray[np.float64],
    matrix: npt.NDArray[np.float64],
    settings: ChipSettings,
) -> torch.Tensor:
    """Sample a chip (6, s, s) float by an affine map from a source's copies (h, w, 6).

    `centre` and `matrix` are in pixels of the finest copy. The coarsest copy that is still at
    least as fine as the chip is used (so nothing aliases by more than 2); the image is taken
    bilinearly, labels by the nearest pixel. Beyond the source the image is mirrored and the labels
    are void.
    """
    size = settings.size_px
    scale = float(np.sqrt(abs(np.linalg.det(matrix))))
    level = int(np.clip(np.floor(np.log2(scale)), 0, len(levels) - 1))
    centre, matrix = centre / 2**level, matrix / 2**level
    half = np.abs(matrix) @ np.full(2, size / 2) + 2
    low, high = np.floor(centre - half).astype(int), np.ceil(centre + half).astype(int)
    block = _mirrored(levels[level], low, high, (1 << settings.n_classes) - 1)
    rows, cols = high - low
    # affine_grid wants the map in units of half images, x before y
    theta = np.zeros((2, 3), np.float32)
    theta[:, :2] = matrix[::-1, ::-1] * size / np.array([[cols], [rows]])
    theta[:, 2] = ((centre - low) * 2 / np.array([rows, cols]) - 1)[::-1]
    grid = F.affine_grid(torch.from_numpy(theta)[None], [1, 1, size, size], align_corners=False)
    planes = torch.from_numpy(block).permute(2, 0, 1)[None].float()
    parts = [
        F.grid_sample(part, grid, mode=mode, align_corners=False, padding_mode="border")[0]
        for part, mode in ((planes[:, :3], "bilinear"), (planes[:, 3:], "nearest"))
    ]
    return torch.cat(parts)


def _mirrored(
    array: npt.NDArray[np.uint8],
    low: npt.NDArray[np.int64],
    high: npt.NDArray[np.int64],
    everything: int,
) -> npt.NDArray[np.uint8]:
    """Read rows and cols low..high, mirrored beyond the rim, where labels become void."""
    shape = np.array(array.shape[:2])
    if (low >= 0).all() and (high <= shape).all():
        return np.ascontiguousarray(array[low[0] : high[0], low[1] : high[1]])
    index = []
    for a, b, n in zip(low, high, shape, strict=True):
        i = np.arange(a, b) % (2 * n)
        index.append(np.where(i < n, i, 2 * n - 1 - i))
    r0, r1, c0, c1 = index[0].min(), index[0].max(), index[1].min(), index[1].max()
    block = np.asarray(array[r0 : r1 + 1, c0 : c1 + 1])[np.ix_(index[0] - r0, index[1] - c0)]
    outside = np.zeros(block.shape[:2], bool)
    outside[(np.arange(low[0], high[0]) < 0) | (np.arange(low[0], high[0]) >= shape[0])] = True
    outside[:, (np.arange(low[1], high[1]) < 0) | (np.arange(low[1], high[1]) >= shape[1])] = True
    block[outside, 3] = everything
    block[outside, 4] = 0
    return block

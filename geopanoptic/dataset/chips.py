"""Chips: training samples cut from prepared sources at a random place, scale and angle.

Chip number `i` depends on the seed and on `i` only, so a resumed training sees the chips it would
have seen, whatever the number of loader processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional as F

from geopanoptic.dataset.augment import augment_colour, augment_objects, augment_sharpness
from geopanoptic.dataset.planes import Planes, is_exactly
from geopanoptic.dataset.sources import LEVELS, SourceArray, level_path, step_m
from geopanoptic.dataset.targets import ZERO

_FOCUS_PIXELS = 3000  # remembered per class and source
# Share of chips in which objects are tinted apart. All of them is too much: the colours of water,
# plants and cars are worth knowing (docs/model-card.md).
_TINTED = 0.4


@dataclass(frozen=True, slots=True)
class ChipSettings:
    """`size_px` of a chip, `seed`, the planes of the sources, and whether to augment colours."""

    size_px: int
    seed: int
    planes: Planes
    augment: bool = True


class Chip(NamedTuple):
    """A training sample of s x s pixels; in a batch every field has a leading axis.

    `image` uint8 (band, s, s); `sets` uint8 (n_sets, s, s), bit masks of classes; `signed_px`,
    `second_px` float32 (s, s), distances in chip pixels (see `targets`); `ids` int32 (s, s).
    """

    image: torch.Tensor
    sets: torch.Tensor
    signed_px: torch.Tensor
    second_px: torch.Tensor
    ids: torch.Tensor


class ChipSet(torch.utils.data.Dataset[Chip]):
    """Random access to chips: item i depends on the seed and on i alone."""

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
        self.focus = [_focus_pixels(a, settings.planes) for a, *_ in self.levels]

    def __len__(self) -> int:
        return self.n_chips

    def __getitem__(self, i: int) -> Chip:
        rng = np.random.default_rng([self.settings.seed, i])
        k = int(rng.choice(len(self.sources), p=self.share))
        source, array = self.sources[k], self.levels[k][0]
        spec = source.spec
        gsd_m = float(np.exp(rng.uniform(*np.log(spec.gsd_range_m or (source.gsd_m,) * 2))))
        centre = rng.uniform(0, array.shape[:2])
        reach = self.settings.size_px * gsd_m / source.gsd_m
        if rng.random() < spec.focus and self.focus[k]:
            pixels = self.focus[k][int(rng.integers(len(self.focus[k])))]
            centre = pixels[int(rng.integers(len(pixels)))] + rng.uniform(-0.3, 0.3, 2) * reach
        inside = np.minimum(reach / 2, np.array(array.shape[:2]) / 2)
        centre = np.clip(centre, inside, np.array(array.shape[:2]) - inside)
        matrix = _matrix(rng, gsd_m / source.gsd_m)
        chip = cut_chip(self.levels[k], centre, matrix, self.settings)
        return self._finish(chip, step_m(spec) / gsd_m, rng)

    def _finish(self, chip: torch.Tensor, step_px: float, rng: np.random.Generator) -> Chip:
        """Augment the image and turn the distance bytes into chip pixels."""
        planes = self.settings.planes
        image = chip[: planes.n_bands] / 255
        low, high = chip[planes.ids]
        ids = (low + 256 * high).int()
        if self.settings.augment:
            if rng.random() < _TINTED:
                image = augment_objects(image, ids, rng)
            image = augment_sharpness(augment_colour(image, rng), rng)
        return Chip(
            (image * 255).round().byte(),
            chip[planes.sets].byte(),
            (chip[planes.signed] - ZERO) * step_px,
            chip[planes.second] * step_px,
            ids,
        )


def _focus_pixels(array: npt.NDArray[np.uint8], planes: Planes) -> list[npt.NDArray[np.float64]]:
    """List, per class that is labelled alone somewhere, some of its pixels (row, col)."""
    step = max(1, int(np.sqrt(array.shape[0] * array.shape[1] / 2e6)))
    sets = np.asarray(array[::step, ::step, planes.sets])
    found = []
    for k in range(planes.n_classes):
        where = np.argwhere(is_exactly(sets, 1 << k))
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
    """Sample a chip (planes, s, s) float by an affine map from a source's copies (h, w, planes).

    `centre` and `matrix` are in pixels of the finest copy. The coarsest copy that is still at
    least as fine as the chip is used (so nothing aliases by more than 2); the image is taken
    bilinearly, labels by the nearest pixel. Beyond the source the image is mirrored and the labels
    are void.
    """
    size, n_bands = settings.size_px, settings.planes.n_bands
    scale = float(np.sqrt(abs(np.linalg.det(matrix))))
    level = int(np.clip(np.floor(np.log2(scale)), 0, len(levels) - 1))
    centre, matrix = centre / 2**level, matrix / 2**level
    half = np.abs(matrix) @ np.full(2, size / 2) + 2
    low, high = np.floor(centre - half).astype(int), np.ceil(centre + half).astype(int)
    block = _mirrored(levels[level], low, high, settings.planes)
    rows, cols = high - low
    # affine_grid wants the map in units of half images, x before y
    theta = np.zeros((2, 3), np.float32)
    theta[:, :2] = matrix[::-1, ::-1] * size / np.array([[cols], [rows]])
    theta[:, 2] = ((centre - low) * 2 / np.array([rows, cols]) - 1)[::-1]
    grid = F.affine_grid(torch.from_numpy(theta)[None], [1, 1, size, size], align_corners=False)
    planes = torch.from_numpy(block).permute(2, 0, 1)[None].float()
    parts = [
        F.grid_sample(part, grid, mode=mode, align_corners=False, padding_mode="border")[0]
        for part, mode in ((planes[:, :n_bands], "bilinear"), (planes[:, n_bands:], "nearest"))
    ]
    return torch.cat(parts)


def _mirrored(
    array: npt.NDArray[np.uint8],
    low: npt.NDArray[np.int64],
    high: npt.NDArray[np.int64],
    planes: Planes,
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
    block[outside, planes.sets] = planes.everything
    block[outside, planes.signed] = 0
    block[outside, planes.ids] = 0
    return block

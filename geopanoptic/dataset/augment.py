"""Radiometric augmentation of one chip: a float image (band, h, w) in 0..1 in, the same out.

Few places make a network learn what colours roofs and ground have *there*. So single instances,
all the ground, and patches of ground that are nothing are tinted on their own: what is left to
learn from is texture, form and shadow.
"""

from __future__ import annotations

import io

import numpy as np
import torch
from torch.nn import functional as F


def augment_colour(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Change exposure, contrast, gamma, cast, saturation; now and then haze or grey."""
    x = image
    n = len(x)
    gain = torch.tensor(np.exp(rng.normal(0, 0.10, (n, 1, 1))), dtype=x.dtype)
    x = x * gain * float(np.exp(rng.normal(0, 0.2)))
    mean = x.mean()
    x = (x - mean) * float(np.exp(rng.normal(0, 0.2))) + mean + float(rng.normal(0, 0.05))
    x = x.clamp(0, 1) ** float(np.exp(rng.normal(0, 0.22)))
    grey = x.mean(0, keepdim=True)
    saturation = 0.0 if rng.random() < 0.04 else float(np.exp(rng.normal(0, 0.3)))
    x = grey + (x - grey) * saturation
    if rng.random() < 0.3:  # mix the bands a little: other sensors, other filters
        mix = torch.eye(n) + torch.tensor(rng.normal(0, 0.08, (n, n)), dtype=x.dtype)
        x = torch.einsum("ij,jhw->ihw", mix / mix.sum(1, keepdim=True), x)
    if rng.random() < 0.12:
        x = _haze(x, rng)
    return x.clamp(0, 1)


def _haze(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Fade a chip to white by a smooth field."""
    coarse = torch.tensor(rng.random((1, 1, 3, 3)), dtype=x.dtype) * float(rng.uniform(0.2, 0.7))
    veil = F.interpolate(coarse, size=x.shape[-2:], mode="bilinear", align_corners=True)[0]
    return x * (1 - veil) + veil * float(rng.uniform(0.75, 1.0))


def augment_objects(
    image: torch.Tensor, ids: torch.Tensor, rng: np.random.Generator
) -> torch.Tensor:
    """Tint instances, the ground and patches of it apart; now and then cast a shadow.

    `ids` (h, w) numbers the instances, 0 elsewhere. Labels hold as they are: a tinted patch of
    ground is ground, and a tinted roof a roof, so no edge of a tint tells what lies inside.
    """
    x, ground = image, ids == 0
    if rng.random() < 0.3:
        x = _tint(x, ground, rng, 0.15)
    if rng.random() < 0.5:
        for i in torch.unique(ids[~ground]).tolist():
            if rng.random() < 0.5:
                x = _tint(x, ids == i, rng, 0.25)
    if rng.random() < 0.3:
        for _ in range(int(rng.integers(1, 6))):
            x = _tint(x, _rectangle(ids.shape, rng, (8, 70)) & ground, rng, 0.25)
    if rng.random() < 0.15:
        shade = _soft(_rectangle(ids.shape, rng, (20, 200)))
        x = x * (1 - shade * float(rng.uniform(0.3, 0.7)))
    return x.clamp(0, 1)


def _tint(
    x: torch.Tensor, where: torch.Tensor, rng: np.random.Generator, sigma: float
) -> torch.Tensor:
    """Multiply the bands by factors of their own where the mask is, softly at its edge."""
    factors = np.exp(rng.normal(0, sigma, (len(x), 1, 1)) + rng.normal(0, sigma))
    return x * (1 + _soft(where) * torch.tensor(factors - 1, dtype=x.dtype))


def _soft(where: torch.Tensor) -> torch.Tensor:
    return F.avg_pool2d(where.float()[None], 3, 1, 1, count_include_pad=False)


def _rectangle(
    shape: tuple[int, ...], rng: np.random.Generator, sides_px: tuple[int, int]
) -> torch.Tensor:
    """Return a mask (h, w): a turned rectangle somewhere, of sides within `sides_px`."""
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    r, c = rows - rng.uniform(0, shape[0]), cols - rng.uniform(0, shape[1])
    angle = rng.uniform(0, np.pi)
    low, high = np.log(sides_px).tolist()
    half = np.exp(rng.uniform(low, high, 2)) / 2
    along = np.abs(r * np.cos(angle) + c * np.sin(angle)) <= half[0]
    across = np.abs(c * np.cos(angle) - r * np.sin(angle)) <= half[1]
    return torch.from_numpy(along & across)


def augment_sharpness(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Blur, lose resolution, sharpen, add noise or JPEG artefacts, each now and then."""
    x = image
    kind = rng.random()
    if kind < 0.2:
        x = _blur(x, float(rng.uniform(0.4, 1.3)))
    elif kind < 0.35:
        small = F.interpolate(
            x[None], scale_factor=float(rng.uniform(0.45, 0.9)), mode="bilinear", antialias=True
        )
        x = F.interpolate(small, size=x.shape[-2:], mode="bicubic")[0]
    elif kind < 0.45:
        x = x + (x - _blur(x, 1.0)) * float(rng.uniform(0.3, 1.2))
    if rng.random() < 0.2:
        noise = rng.standard_normal(x.shape, dtype=np.float32) * rng.uniform(0.005, 0.03)
        x = x + torch.from_numpy(noise.astype(np.float32))
    x = x.clamp(0, 1)
    if len(x) != 3:  # JPEG knows three colours
        return x
    return _jpeg(x, int(rng.integers(30, 93))) if rng.random() < 0.35 else x


def _blur(x: torch.Tensor, sigma: float) -> torch.Tensor:
    taps = torch.arange(-3, 4, dtype=x.dtype)
    kernel = torch.exp(-(taps**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, 7)
    y = F.conv2d(F.pad(x[:, None], (3, 3, 0, 0), mode="reflect"), kernel)
    y = F.conv2d(F.pad(y, (0, 0, 3, 3), mode="reflect"), kernel.transpose(2, 3))
    return y[:, 0]


def _jpeg(x: torch.Tensor, quality: int) -> torch.Tensor:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray((x * 255).byte().permute(1, 2, 0).numpy()).save(file, "JPEG", quality=quality)
    back = np.array(Image.open(file), np.float32) / 255
    return torch.from_numpy(back).permute(2, 0, 1)

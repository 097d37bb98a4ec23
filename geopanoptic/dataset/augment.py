"""Radiometric augmentation of one chip: a float image (band, h, w) in 0..1 in, the same out."""

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

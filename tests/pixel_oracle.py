"""A scene whose pixels spell out the truth, and the model that reads it off them.

It goes through the whole program, files and all: what comes out must be what was spelled.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning
from scenes import TREE, Truth, connected_pieces

from geopanoptic.models import ModelCard
from geopanoptic.models.segmenter import Segmented
from geopanoptic.schema import LabelSchema

GSD_M = 0.3
SPELLED = Affine(GSD_M, 0, 500_000, 0, -GSD_M, 5_000_000)


def oracle_card(**changes: Any) -> ModelCard:
    facts: dict[str, Any] = {
        "name": "oracle",
        "version": "1",
        "architecture": "oracle",
        "arguments": {},
        "schema": LabelSchema.default(),
        "bands": ("red", "green", "blue"),
        "mean": (0.0, 0.0, 0.0),
        "std": (1.0, 1.0, 1.0),
        "gsd_range_m": (0.2, 0.5),
        "preferred_gsd_m": GSD_M,
        "core": 64,
        "halo": 8,
        "decoder": "oracle",
        "thresholds": {},
        "licence": "Apache-2.0",
        "sha256": "0" * 64,
    }
    return ModelCard(**(facts | changes))


@dataclass(frozen=True)
class PixelOracle:
    """Read id (red + 256 green) and class (blue) of every pixel; fragments get ids of their own."""

    card: ModelCard = field(default_factory=oracle_card)

    def forward(self, chips: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.float32]]:
        return {"pixels": chips.astype(np.float32)}

    def decode(
        self, fields: dict[str, npt.NDArray[np.float32]], valid: npt.NDArray[np.bool_]
    ) -> Segmented:
        red, green, blue = np.where(valid, fields["pixels"], 0).astype(np.int64)
        pieces, first = connected_pieces(red + 256 * green)
        class_of = np.zeros(len(first) + 1, np.uint8)
        class_of[1:] = blue.ravel()[first]
        stuff = np.where(pieces > 0, TREE, blue).astype(np.uint8)
        score = np.where(valid, 100 + red % 100, 255).astype(np.uint8)
        return Segmented(stuff, pieces, class_of, score)

    def segment(self, chips: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> list[Segmented]:
        fields = self.forward(chips)
        return [self.decode({"pixels": fields["pixels"][i]}, valid[i]) for i in range(len(chips))]


def semantic_of(truth: Truth) -> npt.NDArray[np.uint8]:
    return np.where(truth.instance > 0, truth.class_of[truth.instance], truth.stuff)


def spell(truth: Truth, path: Path, crs: str | None = "EPSG:32633", **profile: Any) -> Path:
    """Write the scene of a truth; nodata is where all bands are 0."""
    assert truth.n < 2**16
    pixels = np.stack([truth.instance % 256, truth.instance // 256, semantic_of(truth)])
    given = {
        "driver": "GTiff", "count": 3, "dtype": "uint8", "nodata": 0,
        "height": truth.shape[0], "width": truth.shape[1], "crs": crs,
        "transform": SPELLED if crs else None, "photometric": "RGB",
    } | profile  # fmt: skip
    given = {k: v for k, v in given.items() if v is not None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", **given) as scene:
            scene.write(pixels.astype(np.uint8))
    return path

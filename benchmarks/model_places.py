"""Places with known truth, and what both tools that measure models on them share."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import rasterio
from affine import Affine
from rasterio.windows import Window as RasterWindow

from geopanoptic.contingency import Contingency
from geopanoptic.models import ModelCard, save_model
from geopanoptic.models.checkpoint import model_path, read_header, read_tensors
from geopanoptic.predict import PredictSettings, predict

OAM = "buildings_oam/areas"
BANEPA = "buildings_oam/banepa_np"
KITSAP = "buildings_kitsap"


@dataclass(frozen=True)
class Counts:
    """What a match of objects adds up from: pairs, their IoU, misses on both sides."""

    tp: int = 0
    iou_sum: float = 0.0
    fp: int = 0
    fn: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.tp + other.tp,
            self.iou_sum + other.iou_sum,
            self.fp + other.fp,
            self.fn + other.fn,
        )

    def report(self) -> dict[str, float]:
        objects = max(2 * self.tp + self.fp + self.fn, 1)
        return {
            "f1": round(2 * self.tp / objects, 4),
            "pq": round(2 * self.iou_sum / objects, 4),
            "precision": round(self.tp / max(self.tp + self.fp, 1), 4),
            "recall": round(self.tp / max(self.tp + self.fn, 1), 4),
            "truth": self.tp + self.fn,
            "predicted": self.tp + self.fp,
        }


def match_regions(truth: npt.NDArray[Any], pred: npt.NDArray[Any]) -> Counts:
    """Match two id rasters (0 = none) at IoU > 0.5, where pairs are unique."""
    table = Contingency.of(truth, pred)
    areas = [np.bincount(a.ravel()) for a in (truth, pred)]
    both = (table.a > 0) & (table.b > 0)
    inter = table.pixels[both]
    iou = inter / (areas[0][table.a[both]] + areas[1][table.b[both]] - inter)
    pairs = iou[iou > 0.5]
    n_truth, n_pred = (int((a[1:] > 0).sum()) for a in areas)
    return Counts(len(pairs), float(pairs.sum()), n_pred - len(pairs), n_truth - len(pairs))


def match_boxes(truth: npt.NDArray[Any], pred: npt.NDArray[Any], least: float) -> Counts:
    """Match boxes (row0, col0, row1, col1) one to one, by falling IoU, down to `least`."""
    low = np.maximum(truth[:, None, :2], pred[None, :, :2])
    high = np.minimum(truth[:, None, 2:], pred[None, :, 2:])
    inter = np.prod(np.clip(high - low, 0, None), axis=-1)
    area = [np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (truth, pred)]
    iou = inter / np.maximum(area[0][:, None] + area[1][None] - inter, 1e-9)
    pairs = []
    used: tuple[set[int], set[int]] = (set(), set())
    for flat in np.argsort(-iou, axis=None):
        i, j = divmod(int(flat), iou.shape[1])
        if iou[i, j] < least:
            break
        if i not in used[0] and j not in used[1]:
            used[0].add(i)
            used[1].add(j)
            pairs.append(float(iou[i, j]))
    return Counts(len(pairs), sum(pairs), len(pred) - len(pairs), len(truth) - len(pairs))


def run_predict(
    scene: Path, model: str, gsd_m: float | None, tta: Literal["none", "flips"] = "none"
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32], dict[int, float]]:
    """Return the class and instance rasters of a scene on its own grid, and score by id."""
    with tempfile.TemporaryDirectory() as folder:
        settings = PredictSettings(gsd_m=gsd_m, grid="scene", tta=tta)
        panoptic = predict(scene, model, Path(folder) / "map.panoptic", settings=settings)
        table = panoptic.segment_table
        scores = dict(zip(table.id.tolist(), table.score.tolist(), strict=True))
        return panoptic.semantic.to_numpy(), panoptic.instances.to_numpy(), scores


def as_scene(rgb: npt.NDArray[Any], gsd_m: float, path: Path) -> Path:
    """Write pixels as a scene somewhere in UTM 32, so that they have a GSD."""
    profile = {
        "driver": "GTiff", "count": 3, "height": rgb.shape[1], "width": rgb.shape[2],
        "dtype": "uint8", "crs": "EPSG:32632", "tiled": True,
        "transform": Affine(gsd_m, 0, 5e5, 0, -gsd_m, 5e6),
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as file:
        file.write(rgb)
    return path


@dataclass(frozen=True)
class Place:
    """A part of a scene with building ids: `window` is col, row, width, height, None for all."""

    name: str
    region: str
    trained_on: bool
    image: str
    truth: str
    gsd_m: float
    window: tuple[int, int, int, int] | None = None

    def read(self, data: Path, path: Path) -> tuple[Path, npt.NDArray[Any]]:
        """Return the scene and its building ids; a part of one is written to `path` first."""
        if self.window is None:
            with rasterio.open(data / self.truth) as file:
                return data / self.image, file.read(1)
        window = RasterWindow(*self.window)
        with rasterio.open(data / self.image) as file:
            scene = as_scene(file.read([1, 2, 3], window=window), self.gsd_m, path)
        with rasterio.open(data / self.truth) as file:
            return scene, file.read(1, window=window)


def _area(name: str, region: str, trained_on: bool, gsd_m: float) -> Place:
    image, truth = f"{OAM}/{name}.tif", f"{OAM}/{name}_instances.tif"
    return Place(name, region, trained_on, image, truth, gsd_m)


_BANEPA = (f"{BANEPA}/banepa_labelled_window.tif", f"{BANEPA}/banepa_instances.tif", 0.132)
_KITSAP = (f"{KITSAP}/kitsap11_rgb.tif", f"{KITSAP}/kitsap11_instances_registered.tif", 0.3)

# Everything with building outlines but the test places: what scores are calibrated on.
VALIDATION = (
    Place("banepa_strip", "banepa", False, *_BANEPA, (0, 3456, 3072, 640)),
    Place("banepa_window", "banepa", True, *_BANEPA, (0, 0, 3072, 3456)),
    *(_area(f"banepa_np_{k}", "banepa", True, 0.132) for k in (1, 2)),
    *(_area(f"zanzibar_tz_{k}", "zanzibar", True, 0.149) for k in (1, 2)),
    Place("kitsap_north", "kitsap", True, *_KITSAP, (0, 0, 5000, 2460)),
)
TEST = (
    *(_area(f"kampala_ug_{k}", "kampala", False, 0.149) for k in (1, 2)),
    Place("kitsap_south", "kitsap_south", False, *_KITSAP, (0, 2500, 5000, 2500)),
)


def recarded(model: str, path: Path, **changes: Any) -> str:
    """Write the model with other entries in its card to `path`; return the path as a name."""
    header = read_header(model_path(model))
    tensors = read_tensors(model_path(model), header)
    card: ModelCard = replace(header.card, **changes)
    save_model(path, tensors, card)
    return str(path)

"""Draw where a model is good and where it is not, on the bundled scene.

The scene is a part of Kitsap's southern half, which no model trains on; its outlines lie with the
labelled scenes. Windows of 86 m are picked by rule: of those with eight true buildings or more,
the two with the highest and the two with the lowest PQ that do not overlap. A building counts in a
window that holds more than half of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from model_places import KITSAP, run_predict
from PIL import Image
from rasterio.windows import Window as RasterWindow
from scipy import ndimage

from geopanoptic.contingency import Contingency

ROOT = Path(__file__).parents[1]
SCENE = ROOT / "examples/bremerton.tif"
CUT = RasterWindow(2300, 3000, 2048, 2000)  # of kitsap11: see scripts/make_example_scene

SIDE_PX = 288
STEP_PX = 96
LEAST_BUILDINGS = 8
EACH = 2  # best and worst windows
MOST_BYTES = 140_000  # of one picture

FOUND, FALSE, MISSED = (38, 166, 91), (240, 120, 20), (214, 39, 120)

Ints = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class BundledScene:
    """Pixels (row, col, 3), true and predicted building ids, and which of them are matched.

    `iou`: IoU of each matched pair, by true id and by predicted id, 0 for those without one.
    """

    pixels: Bytes
    truth: Ints
    pred: Ints
    iou: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

    @classmethod
    def predicted(cls, data: Path, model: str) -> BundledScene:
        """Map the scene; read its outlines, which must lie on the same pixels."""
        with rasterio.open(SCENE) as scene:
            pixels, place = np.moveaxis(scene.read(), 0, -1), scene.transform
        with rasterio.open(data / KITSAP / "kitsap11_instances_registered.tif") as file:
            truth = file.read(1, window=CUT)
            if not place.almost_equals(file.window_transform(CUT), 1e-3):
                raise SystemExit(f"{SCENE.name} and the outlines do not lie on the same pixels")
        semantic, instances, _ = run_predict(SCENE, model, 0.3)
        pred = np.where(semantic == 1, instances, 0).astype(np.int32)
        return cls(pixels, truth, pred, _matched(truth, pred))

    def pq(self, window: tuple[slice, slice]) -> tuple[float, int]:
        """Return the PQ of the buildings that belong to a window, and how many are true."""
        truth, pred = (
            _belonging(ids, window)[1:] for ids in (self.truth, self.pred)
        )  # entry 0 is no building
        ious = self.iou[0][1:][truth]
        both = int(truth.sum() + pred.sum())
        return (2 * float(ious.sum()) / both if both else 0.0), int(truth.sum())

    def windows(self) -> list[tuple[float, tuple[slice, slice]]]:
        """Return the best and the worst windows with their PQ, best first."""
        rows, cols = self.truth.shape
        found = []
        for r in range(0, rows - SIDE_PX + 1, STEP_PX):
            for c in range(0, cols - SIDE_PX + 1, STEP_PX):
                window = (slice(r, r + SIDE_PX), slice(c, c + SIDE_PX))
                pq, n = self.pq(window)
                if n >= LEAST_BUILDINGS:
                    found.append((pq, window))
        found.sort(key=lambda f: (-f[0], f[1][0].start, f[1][1].start))
        best = _apart(found, [])
        worst = _apart(found[::-1], best)
        return best + worst[::-1]

    def picture(self, window: tuple[slice, slice]) -> Image.Image:
        """Draw scene, truth and prediction side by side, at one pixel each."""
        photo = self.pixels[window]
        panels = [photo]
        for ids, iou, alone in (
            (self.truth, self.iou[0], MISSED),
            (self.pred, self.iou[1], FALSE),
        ):
            panels.append(_tinted(photo, ids[window], iou, alone))
        gap = np.full((SIDE_PX, 4, 3), 255, np.uint8)
        row = [panels[0], gap, panels[1], gap, panels[2]]
        return Image.fromarray(np.concatenate(row, axis=1))


def _matched(truth: Ints, pred: Ints) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    table = Contingency.of(truth, pred)
    areas = [np.bincount(a.ravel()) for a in (truth, pred)]
    both = (table.a > 0) & (table.b > 0)
    a, b = table.a[both], table.b[both]
    iou = table.pixels[both] / (areas[0][a] + areas[1][b] - table.pixels[both])
    out = np.zeros(len(areas[0])), np.zeros(len(areas[1]))
    pair = iou > 0.5
    out[0][a[pair]], out[1][b[pair]] = iou[pair], iou[pair]
    return out


def _belonging(ids: Ints, window: tuple[slice, slice]) -> npt.NDArray[np.bool_]:
    """Tell for each id whether more than half of its pixels lie in the window."""
    size = int(ids.max()) + 1
    inside = np.bincount(ids[window].ravel(), minlength=size)
    return 2 * inside > np.bincount(ids.ravel(), minlength=size)


def _apart(
    found: list[tuple[float, tuple[slice, slice]]], taken: list[tuple[float, tuple[slice, slice]]]
) -> list[tuple[float, tuple[slice, slice]]]:
    """Return the first EACH windows that overlap neither each other nor those taken."""
    out: list[tuple[float, tuple[slice, slice]]] = []
    for pq, window in found:
        clear = all(
            any(abs(a.start - b.start) >= SIDE_PX for a, b in zip(window, other, strict=True))
            for _, other in out + taken
        )
        if clear:
            out.append((pq, window))
        if len(out) == EACH:
            break
    return out


def _tinted(
    photo: Bytes, ids: Ints, iou: npt.NDArray[np.float64], alone: tuple[int, int, int]
) -> Bytes:
    """Fill buildings over a grey photo: green where matched, else in the colour of `alone`."""
    grey = photo.mean(-1, keepdims=True) * 0.55 + 90
    out = np.repeat(grey, 3, axis=-1)
    colour = np.where((iou > 0)[ids][..., None], FOUND, alone).astype(float)
    there = (ids > 0)[..., None]
    out = np.where(there, 0.35 * out + 0.65 * colour, out)
    smooth = (ndimage.minimum_filter(ids, 3) == ids) & (ndimage.maximum_filter(ids, 3) == ids)
    line = there & ~smooth[..., None]
    return np.where(line, colour * 0.5, out).round().astype(np.uint8)


def gallery(scene: BundledScene, folder: Path) -> list[dict[str, Any]]:
    """Write the pictures as `model_good_N.png` and `model_bad_N.png`; return what they show."""
    rows = []
    for k, (pq, window) in enumerate(scene.windows()):
        kind, number = ("good", k + 1) if k < EACH else ("bad", k - EACH + 1)
        path = folder / f"model_{kind}_{number}.png"
        picture = scene.picture(window)
        for colours in (256, 128, 64, 32):
            few = picture.quantize(colours, kmeans=2, dither=Image.Dither.NONE)
            few.save(path, optimize=True)
            if path.stat().st_size <= MOST_BYTES:
                break
        truth, pred = (_belonging(ids, window)[1:] for ids in (scene.truth, scene.pred))
        hits = int((scene.iou[0][1:][truth] > 0).sum())
        rows.append(
            {
                "picture": path.name,
                "kind": kind,
                "row": window[0].start,
                "col": window[1].start,
                "pq": round(pq, 3),
                "truth": int(truth.sum()),
                "found": hits,
                "false": int((scene.iou[1][1:][pred] == 0).sum()),
            }
        )
    return rows


def gallery_page(rows: list[dict[str, Any]]) -> list[str]:
    """Return the lines of Markdown that show the pictures."""
    lines = [
        "## Good and bad cases",
        "",
        f"From the bundled scene (Bremerton, {SIDE_PX} x {SIDE_PX} px of 0.3 m each), a part of "
        "the southern half of Kitsap. The windows are picked by rule "
        "(`benchmarks/model_pictures.py`): of those with at least "
        f"{LEAST_BUILDINGS} true buildings, the {EACH} with the highest PQ of "
        f"buildings and the {EACH} with the lowest. Left the scene; middle the true outlines, "
        "found (green) or missed (magenta); right the predicted ones, right (green) or false "
        "(orange); right means IoU above 0.5.",
        "",
    ]
    for row in rows:
        said = (
            f"{row['kind'].capitalize()}: PQ {row['pq']:.2f}, {row['found']} of {row['truth']} "
            f"buildings found, {row['false']} false (row {row['row']}, column {row['col']})"
        )
        lines += [said, "", f"![{said}](images/{row['picture']})", ""]
    return lines

"""COCO panoptic: X.json beside the folder X/ of PNGs whose colours are segment ids.

id = R + 256 G + 256^2 B (the code of panopticapi's `rgb2id`; 0 = void). Ids are counted anew in
every image, because 2^24 of them is all a PNG can hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import SceneError
from geopanoptic.grid import Window
from geopanoptic.panoptic_map import PanopticMap
from geopanoptic.raster import write_png
from geopanoptic.schema import NODATA, VOID
from geopanoptic.store import atomic_outputs, check_output

LARGEST_PX = 16_384  # edge of one PNG; larger ones cannot be opened by common readers
MOST_IDS = 2**24 - 1


def write_coco(panoptic: PanopticMap, final: Path, tile: int | None, *, overwrite: bool) -> None:
    """Write `final` (X.json) and its folder X/; `tile` px cuts the map into images of that size.

    Nodata and void pixels are 0. A stuff class is one segment per image, a thing one per instance
    (cut at the images' edges). Raises SceneError when the map is too large for one image.
    """
    shape = panoptic.georef.shape
    if tile is None and max(shape) > LARGEST_PX:
        raise SceneError(
            f"the map has {shape[0]} x {shape[1]} pixels, too many for one PNG (at most "
            f"{LARGEST_PX} a side); cut it with --tile 2048"
        )
    folder = final.with_suffix("")
    check_output(folder, overwrite=False)
    with atomic_outputs([final, folder], overwrite) as staging:
        pngs = staging / folder.name
        pngs.mkdir()
        data = _write_images(panoptic, pngs, tile)
        (staging / final.name).write_text(json.dumps(data), encoding="utf-8")


def _write_images(panoptic: PanopticMap, pngs: Path, tile: int | None) -> dict[str, Any]:
    """Write the PNGs into a folder; return what the JSON says of them."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, window in enumerate(_windows(panoptic.georef.shape, tile), start=1):
        name = f"{pngs.name}_{window.row}_{window.col}.png"
        ids, segments = _segments(panoptic, window)
        colours = np.stack([ids % 256, ids // 256 % 256, ids // 65536]).astype(np.uint8)
        write_png(pngs / name, colours)
        images.append(
            {"id": number, "file_name": name, "height": window.height, "width": window.width}
        )
        annotations.append({"image_id": number, "file_name": name, "segments_info": segments})
    return {
        "info": {"description": f"geopanoptic map {panoptic.name}"},
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": c.id, "name": c.name, "isthing": int(c.is_thing), "color": list(c.rgb)}
            for c in panoptic.schema.classes
        ],
    }


def _windows(shape: tuple[int, int], tile: int | None) -> Iterator[Window]:
    step = tile or max(shape)
    for row in range(0, shape[0], step):
        for col in range(0, shape[1], step):
            yield Window(row, col, step, step).clipped(shape)


def _segments(
    panoptic: PanopticMap, window: Window
) -> tuple[npt.NDArray[np.int64], list[dict[str, Any]]]:
    """Return the image's ids 1..n (0 = void) and one row per segment."""
    classes, instances = panoptic.read(window)
    # Things by instance, stuff by class: the negative numbers cannot meet the positive ones.
    named = np.where(instances > 0, instances.astype(np.int64), -classes.astype(np.int64))
    named[(classes == NODATA) | (classes == VOID)] = 0
    values, first, inverse = np.unique(named, return_index=True, return_inverse=True)
    there = values != 0
    if there.sum() > MOST_IDS:
        raise SceneError(f"{there.sum()} segments do not fit into one PNG; cut with --tile 2048")
    new_id = np.where(there, np.cumsum(there), 0)
    ids = new_id[inverse.reshape(named.shape)]
    boxes, areas = _boxes(ids, int(there.sum()))
    rows = [
        {
            "id": int(new_id[k]),
            "category_id": int(classes.ravel()[first[k]]),
            "area": int(areas[new_id[k]]),
            "bbox": boxes[new_id[k] - 1],
            "iscrowd": 0,
        }
        for k in np.flatnonzero(there)
    ]
    return ids, rows


def _boxes(ids: npt.NDArray[np.int64], n: int) -> tuple[list[list[int]], npt.NDArray[np.int64]]:
    """Return COCO boxes [x, y, width, height] of ids 1..n, and the areas of ids 0..n."""
    flat = ids.ravel()
    rows, cols = np.divmod(np.arange(flat.size), ids.shape[1])
    low = np.full((2, n + 1), 2**31)
    high = np.zeros((2, n + 1), np.int64)
    for axis, places in enumerate((cols, rows)):
        np.minimum.at(low[axis], flat, places)
        np.maximum.at(high[axis], flat, places + 1)
    boxes = np.stack([low[0], low[1], high[0] - low[0], high[1] - low[1]], axis=1)[1:]
    return boxes.tolist(), np.bincount(flat, minlength=n + 1)

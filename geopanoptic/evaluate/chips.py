"""Pictures of single mistakes: small PNGs that live inside the HTML page."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geopanoptic.evaluate.scene import Scene
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window

Rgb = npt.NDArray[np.uint8]

EACH = 4  # pictures of each kind of mistake
SIDE = 160  # pixels of a picture
KINDS = (
    ("missed", "truth", "Missed: in the truth, not in the map"),
    ("false", "pred", "False: in the map, not in the truth"),
    ("split", "truth", "Split: one object mapped as several"),
    ("merged", "truth", "Merged: several objects mapped as one"),
    ("misclassified", "truth", "Misclassified: right shape, wrong class"),
)
TRUTH_COLOR, PRED_COLOR, BOTH_COLOR = (230, 97, 1), (33, 113, 181), (120, 198, 121)


@dataclass(frozen=True, slots=True)
class Chip:
    """One picture: its `caption`, and the PNG as a data URI."""

    caption: str
    uri: str


def chips(scenes: Sequence[Scene], image: str | None = None) -> Iterator[tuple[str, list[Chip]]]:
    """Yield (title, pictures) for each kind of mistake that occurs: the largest ones.

    Truth outlines are orange, the map's blue; without imagery truth and map are tinted, green
    where they agree.
    """
    for status, side, title in KINDS:
        found = []
        for scene in scenes:
            segments = getattr(scene.overlap, side)
            fate = scene.fates.truth if side == "truth" else scene.fates.pred
            thing = np.isin(segments.class_id, list(scene.classes.things))
            rows = np.flatnonzero((fate.status == status) & thing)
            order = np.argsort(-segments.area_px[rows], kind="stable")[:EACH]
            found += [(int(segments.area_px[k]), scene, side, int(k)) for k in rows[order]]
        found.sort(key=lambda item: -item[0])
        if found:
            yield title, [_chip(s, side, k, image) for _, s, side, k in found[:EACH]]


def _chip(scene: Scene, side: str, row: int, image: str | None) -> Chip:
    segments = getattr(scene.overlap, side)
    fate = scene.fates.truth if side == "truth" else scene.fates.pred
    first_row, first_col, stop_row, stop_col = (int(v) for v in segments.bbox[row])
    margin = max(12, (max(stop_row - first_row, stop_col - first_col)) // 3)
    window = Window.from_bounds(first_row, first_col, stop_row, stop_col)
    window = window.grown(margin).clipped(scene.pair.georef.shape)
    name = scene.classes.name(int(segments.class_id[row]))
    area = float(scene.area_m2(segments)[row])
    unit = "m2" if scene.pair.georef.has_metres else "px"
    caption = f"{name} {int(segments.label[row])}, {area:.0f} {unit}, IoU {fate.iou[row]:.2f}"
    return Chip(caption, data_uri(_draw(scene, window, image)))


def _draw(scene: Scene, window: Window, image: str | None) -> Rgb:
    step = max(1, -(-max(window.shape) // (SIDE * 4)))
    sides = []
    for panoptic, code in (
        (scene.pair.truth, scene.pair.sides.truth),
        (scene.pair.pred, scene.pair.sides.pred),
    ):
        classes, ids = panoptic.source.read(window)
        thing = np.isin(code.code[classes], list(scene.classes.things))
        sides.append(np.where(thing, ids, 0)[::step, ::step])
    truth, pred = sides
    if image is None:
        rgb = np.full((*truth.shape, 3), 245, np.uint8)
        for where, color in (
            ((truth > 0) & (pred == 0), TRUTH_COLOR),
            ((truth == 0) & (pred > 0), PRED_COLOR),
            ((truth > 0) & (pred > 0), BOTH_COLOR),
        ):
            rgb[where] = (np.array(color) * 0.35 + 255 * 0.65).astype(np.uint8)
    else:
        rgb = _imagery(image, scene.pair.georef.crop(window), (truth.shape[0], truth.shape[1]))
    zoom = max(1, SIDE // max(truth.shape))
    rgb, truth, pred = (np.repeat(np.repeat(x, zoom, 0), zoom, 1) for x in (rgb, truth, pred))
    rgb[_rim(truth)] = TRUTH_COLOR
    rgb[_rim(pred)] = PRED_COLOR
    return rgb


def _rim(ids: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """Return the pixels of segments that have another label to the right or below."""
    rim = np.zeros(ids.shape, bool)
    rim[:, :-1] |= ids[:, 1:] != ids[:, :-1]
    rim[:-1] |= ids[1:] != ids[:-1]
    return rim


def _imagery(path: str, georef: GeoRef, shape: tuple[int, int]) -> Rgb:
    """Read the imagery under a window, first three bands, stretched to 2 .. 98 %."""
    from rasterio.vrt import WarpedVRT
    from rasterio.windows import from_bounds

    from geopanoptic.panoptic_map.source import open_labels
    from geopanoptic.raster.gdal import gdal_env, scene_errors

    with (
        gdal_env(),
        scene_errors(f"cannot read --image {path}", "it must be a raster GDAL reads"),
        open_labels(path) as source,
    ):
        bands = list(range(1, min(source.count, 3) + 1))
        if georef.crs is None or source.crs is None:
            data = source.read(
                bands,
                window=from_bounds(*georef.bounds, source.transform),
                out_shape=(len(bands), *shape),
                boundless=True,
            )
        else:
            wanted = georef.zoomed(shape)
            with WarpedVRT(
                source,
                crs=wanted.crs,
                transform=wanted.transform,
                height=shape[0],
                width=shape[1],
            ) as warped:
                data = warped.read(bands)
    data = data[[0, 0, 0]] if len(bands) < 3 else data
    low, high = np.percentile(data, [2, 98])
    stretched = (data - low) / max(float(high - low), 1e-9) * 255
    out: Rgb = np.moveaxis(stretched.clip(0, 255).astype(np.uint8), 0, -1).copy()
    return out


def data_uri(rgb: Rgb) -> str:
    """Return an RGB picture as a PNG data URI."""
    height, width, _ = rgb.shape
    rows = np.concatenate([np.zeros((height, 1), np.uint8), rgb.reshape(height, -1)], axis=1)

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 6))
        + chunk(b"IEND", b"")
    )
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")

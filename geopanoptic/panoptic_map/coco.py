"""Read COCO panoptic data sets: X.json beside the folder X/ of PNGs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geopanoptic.errors import SceneError
from geopanoptic.grid import Shape
from geopanoptic.panoptic_map.source import CocoSource, open_labels
from geopanoptic.raster.gdal import gdal_env, scene_errors
from geopanoptic.schema import ClassSpec, LabelSchema


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One image: its key, source, shape, and what its table says of the segments.

    `key`: the image id as text. `crowd`: ids with `iscrowd`. `score`: id -> score, where given.
    `area`: id -> the table's area in pixels.
    """

    key: str
    source: CocoSource
    shape: Shape
    crowd: frozenset[int]
    score: Mapping[int, float]
    area: Mapping[int, int]


def read_coco(
    path: Path, categories: LabelSchema | None = None
) -> tuple[LabelSchema, list[CocoImage]]:
    """Read X.json; the PNGs lie in X/ (or X.json's own folder).

    `categories` serves when the file has none of its own (prediction files often have not).
    Raises SceneError for a file that is not COCO panoptic, and names what is missing.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        annotations = data["annotations"]
    except (OSError, ValueError, KeyError, TypeError) as why:
        raise SceneError(f"{path} is not a COCO panoptic file: {why!r}") from why
    schema, number = _schema(path, data.get("categories"), categories)
    sizes = {i["id"]: i for i in data.get("images", [])}
    return schema, [_image(path, note, sizes, number) for note in annotations]


def _schema(
    path: Path, rows: list[dict[str, Any]] | None, fallback: LabelSchema | None
) -> tuple[LabelSchema, dict[int, int]]:
    """Return the schema, and category id -> class id (its own where it fits in 1..254)."""
    if not rows:
        if fallback is None:
            raise SceneError(f"{path} lists no categories; give a file that does")
        return fallback, {c.id: c.id for c in fallback.classes}
    own = all(1 <= int(r["id"]) <= 254 for r in rows)
    if not own and len(rows) > 254:
        raise SceneError(f"{path} has {len(rows)} categories; a map holds at most 254 classes")
    number = {int(r["id"]): int(r["id"]) if own else k for k, r in enumerate(rows, 1)}
    specs = [
        ClassSpec(
            number[int(r["id"])],
            str(r["name"]),
            "thing" if r.get("isthing", 1) else "stuff",
            "#{:02x}{:02x}{:02x}".format(*r["color"]) if "color" in r else "#808080",
        )
        for r in rows
    ]
    return LabelSchema(tuple(specs)), number


def _image(
    path: Path, note: dict[str, Any], sizes: Mapping[Any, dict[str, Any]], number: dict[int, int]
) -> CocoImage:
    folder = path.with_suffix("")
    png = (folder if folder.is_dir() else path.parent) / Path(str(note["file_name"]))
    png = png.with_suffix(".png")
    if not png.exists():
        raise SceneError(f"{path} names {note['file_name']}, but there is no {png}")
    segments = note["segments_info"]
    for s in segments:
        if int(s["category_id"]) not in number:
            raise SceneError(
                f"{path}: segment {s['id']} of {png.name} has category {s['category_id']}, which "
                f"the categories do not list"
            )
    size = sizes.get(note["image_id"], {})
    return CocoImage(
        key=str(note["image_id"]),
        source=CocoSource.of(
            str(png), {int(s["id"]): number[int(s["category_id"])] for s in segments}
        ),
        shape=(int(size["height"]), int(size["width"])) if "height" in size else _png_shape(png),
        crowd=frozenset(int(s["id"]) for s in segments if s.get("iscrowd")),
        score={int(s["id"]): float(s["score"]) for s in segments if "score" in s},
        area={int(s["id"]): int(s["area"]) for s in segments if "area" in s},
    )


def _png_shape(png: Path) -> Shape:
    with (
        gdal_env(),
        scene_errors(f"cannot open {png}", "it must be a PNG"),
        open_labels(str(png)) as dataset,
    ):
        return dataset.height, dataset.width

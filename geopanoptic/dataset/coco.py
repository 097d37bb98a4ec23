"""COCO panoptic data sets as sources: a folder of pictures, X.json and the PNGs in X/."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.dataset.specs import SourceSpec
from geopanoptic.errors import ConfigError, SceneError
from geopanoptic.grid import Window
from geopanoptic.panoptic_map.coco import CocoImage, read_coco
from geopanoptic.schema import LabelSchema


@dataclass(frozen=True, slots=True)
class Categories:
    """A raster of category numbers (255 void) and the names of the numbers."""

    raster: npt.NDArray[np.uint8]
    names: Mapping[int, str]


def pictures_of(spec: SourceSpec, root: Path) -> list[SourceSpec]:
    """Return a source once per picture of its COCO layer, sharing its weight; others as they are.

    Raises SceneError when the JSON cannot be read or a picture is not in the folder.
    """
    layers = [layer for layer in spec.layers if layer.kind == "coco"]
    if not layers or spec.picture:
        return [spec]
    if len(layers) > 1:
        raise ConfigError(f"source {spec.name} has {len(layers)} coco layers; make two sources")
    data = _data(root / layers[0].path)
    names = [name for name, _ in data.pictures.values()]
    for name in names:
        if not (root / spec.image / name).exists():
            raise SceneError(
                f"{root / layers[0].path} names the picture {name}, but there is none in "
                f"{root / spec.image}; `image` of the source is the folder of pictures"
            )
    return [
        replace(
            spec, name=f"{spec.name}/{Path(n).stem}", picture=n, weight=spec.weight / len(names)
        )
        for n in names
    ]


def read_picture_labels(
    path: Path, picture: str, shape: tuple[int, int]
) -> tuple[Categories, npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
    """Return the categories, segment ids and crowd areas of one picture, each (h, w).

    Raises SceneError when the PNG has another shape than the picture.
    """
    data = _data(path)
    image = next(i for name, i in data.pictures.values() if name == picture)
    if image.shape != shape:
        raise SceneError(
            f"{image.source.png} has {image.shape[0]} x {image.shape[1]} pixels, the picture "
            f"{picture} {shape[0]} x {shape[1]}; leave gsd_m of the source as the pictures are"
        )
    classes, ids = image.source.read(Window.whole(shape))
    crowd = np.isin(ids, list(image.crowd)) if image.crowd else np.zeros(shape, bool)
    names = {c.id: c.name for c in data.schema.classes}
    return Categories(classes, names), ids.astype(np.int32), crowd


@dataclass(frozen=True, slots=True)
class _Data:
    """A read JSON: its categories, and (file name, image) by image id."""

    schema: LabelSchema
    pictures: Mapping[str, tuple[str, CocoImage]]


def _data(path: Path) -> _Data:
    if not path.exists():
        raise SceneError(f"there is no file {path}; check the path (relative to data_root)")
    return _read(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: Path, stamp: int) -> _Data:  # noqa: ARG001 - the stamp forgets a changed file
    schema, images = read_coco(path)
    listed: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")).get("images", [])
    names = {str(i["id"]): str(i["file_name"]) for i in listed}
    lacking = [i.key for i in images if i.key not in names]
    if lacking:
        raise SceneError(
            f"{path} lists no image {lacking[0]}, which an annotation names; COCO panoptic needs "
            "`images` with id and file_name"
        )
    return _Data(schema, {i.key: (names[i.key], i) for i in images})

"""Layers of labels: each says which classes a pixel may be, where it is void, which instance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.dataset.boxes import paint_boxes, read_yolo
from geopanoptic.dataset.coco import read_picture_labels
from geopanoptic.dataset.ground import Ground, burn, read_polygons, read_raster
from geopanoptic.dataset.planes import Planes, mask_bytes, set_of
from geopanoptic.dataset.specs import KINDS, LayerSpec, SourceSpec
from geopanoptic.errors import ConfigError, SceneError, SchemaError, nearest_name
from geopanoptic.schema import NODATA, VOID, LabelSchema

Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Found:
    """What a layer says: sets uint8 (h, w, n_sets), void bool (h, w), instances int32 or None."""

    sets: Bytes
    void: Bools
    instance: Ints | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer is read: the source, its ground, the schema, and the root of its path."""

    spec: SourceSpec
    ground: Ground
    schema: LabelSchema
    root: Path

    @property
    def planes(self) -> Planes:
        return Planes(len(self.ground.pixels), len(self.schema))

    def bytes_of(self, mask: int) -> Bytes:
        return mask_bytes(mask, self.planes.n_sets)

    def nothing_said(self) -> Bytes:
        """Return sets of all classes, (h, w, n_sets)."""
        return np.tile(self.planes.everything, (*self.ground.shape, 1))

    def no_pixel(self) -> Bools:
        return np.zeros(self.ground.shape, bool)


def apply_layer(layer: LayerSpec, place: Place) -> Found:
    """Read one layer. Raises ConfigError for an unknown kind, SchemaError for a class that is not
    in the schema, SceneError for files that cannot be read or do not lie on the scene.
    """
    if layer.kind not in _KINDS:
        raise ConfigError(
            f"source {place.spec.name}: no label layer is of kind '{layer.kind}'"
            f"{nearest_name(layer.kind, KINDS)}; use {', '.join(KINDS)}"
        )
    return _KINDS[layer.kind](layer, place)


def names_of(said: object, where: str) -> list[str]:
    """Return what a code stands for as a list of class names; [] is void."""
    if isinstance(said, str):
        return [] if said == "void" else [said]
    if isinstance(said, list) and all(isinstance(s, str) for s in said):
        return said
    raise ConfigError(f"{where} stands for {said!r}; write a class name or a list of them")


def _vector(layer: LayerSpec, place: Place) -> Found:
    path = place.root / layer.path
    frame = read_polygons(path, layer.layer, place.ground)
    masks, things = _classes_of_rows(layer, place, frame, path)
    ids = burn(frame.geometry, place.ground)
    table = np.stack([place.planes.everything, *(place.bytes_of(m) for m in masks)])
    if not layer.sparse and things:
        rest = set_of(place.schema.names, place.schema) & ~set_of(things, place.schema)
        table[0] = place.bytes_of(rest)
    void_row = np.array([False, *(m == 0 for m in masks)])
    table[void_row] = place.planes.everything
    thing_masks = {set_of([c.name], place.schema) for c in place.schema.things}
    number = np.zeros(len(masks) + 1, np.int32)
    is_thing = np.array([False, *(m in thing_masks for m in masks)])
    number[is_thing] = np.arange(1, is_thing.sum() + 1)
    instance = number[ids]
    void = void_row[ids] | _overgrown(instance, place.ground.pixels, layer.void_green)
    return Found(table[ids], void, instance)


def _classes_of_rows(
    layer: LayerSpec, place: Place, frame: Any, path: Path
) -> tuple[list[int], list[str]]:
    """Return the bit mask of each row (0: void), and the thing classes the layer speaks of."""
    schema = place.schema
    if not layer.column:
        if not layer.thing:
            raise ConfigError(
                f"source {place.spec.name}: the vector layer {layer.path} names neither a `thing` "
                "nor a `column` that holds the class"
            )
        mask = set_of([layer.thing], schema)
        return [mask] * len(frame), [n for n in [layer.thing] if schema.by_name(n).is_thing]
    if layer.column not in frame.columns:
        known = [str(c) for c in frame.columns if c != "geometry"]
        raise SceneError(
            f"{path} has no attribute '{layer.column}'{nearest_name(layer.column, known)}; it has "
            f"{', '.join(known) or 'none'}"
        )
    values = [_text(v) for v in frame[layer.column]]
    table: dict[str, list[str]] = {}
    for value in dict.fromkeys(values):
        if layer.codes and value not in layer.codes:
            raise SchemaError(
                f"{path}: the attribute '{layer.column}' has the value '{value}'"
                f"{nearest_name(value, layer.codes)}, which `codes` does not map; give it class "
                "names, or [] for void"
            )
        if not layer.codes and value not in schema.names:
            raise SchemaError(
                f"{path}: the attribute '{layer.column}' has the value '{value}'"
                f"{nearest_name(value, schema.names)}, and no class is called that; the classes "
                f"are {', '.join(schema.names)}; map it with `codes`"
            )
        said = layer.codes.get(value, value)
        table[value] = names_of(said, f"source {place.spec.name}: code '{value}'")
    names = {n for given in (layer.codes or table).values() for n in names_of(given, layer.path)}
    things = sorted(n for n in names if schema.by_name(n).is_thing)
    return [set_of(table[v], schema) for v in values], things


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _ignore(layer: LayerSpec, place: Place) -> Found:
    frame = read_polygons(place.root / layer.path, layer.layer, place.ground)
    return Found(place.nothing_said(), burn(frame.geometry, place.ground) > 0)


def _instances(layer: LayerSpec, place: Place) -> Found:
    instance = read_raster(place.root / layer.path, place.ground).astype(np.int32)
    return _things(layer, place, instance)


def _boxes(layer: LayerSpec, place: Place) -> Found:
    boxes = read_yolo(place.root / layer.path, place.ground.shape)
    return _things(layer, place, paint_boxes(boxes, place.ground.pixels[:3].mean(0)))


def _things(layer: LayerSpec, place: Place, instance: Ints) -> Found:
    """Say the layer's thing where there is an instance, and not that thing elsewhere."""
    void = _overgrown(instance, place.ground.pixels, layer.void_green)
    if not layer.thing:
        return Found(place.nothing_said(), void, instance)
    bit = set_of([layer.thing], place.schema)
    rest = set_of(place.schema.names, place.schema) & (~bit if not layer.sparse else -1)
    table = np.stack([place.bytes_of(rest), place.bytes_of(bit)])
    return Found(table[(instance > 0).astype(np.uint8)], void, instance)


def _classes(layer: LayerSpec, place: Place) -> Found:
    raster = read_raster(place.root / layer.path, place.ground)
    codes: Mapping[str, Any] = layer.codes or {str(c.id): [c.name] for c in place.schema.classes}
    if not layer.codes:
        values = set(np.unique(raster).tolist()) - {NODATA, VOID}
        if strange := sorted(values - set(place.schema.ids)):
            raise SchemaError(
                f"{layer.path} has the value {strange[0]}, which is no class id of the schema "
                f"({', '.join(map(str, place.schema.ids))}); map its values with `codes`"
            )
    sets, void = place.nothing_said(), place.no_pixel()
    for code, said in codes.items():
        mask = _eroded(raster == _number(code, layer, place), layer.shrink_px)
        names = names_of(said, f"source {place.spec.name}: code '{code}'")
        if names:
            sets[mask] = place.bytes_of(set_of(names, place.schema))
        else:
            void |= mask
    return Found(sets, void)


def _number(code: str, layer: LayerSpec, place: Place) -> int:
    try:
        return int(code)
    except ValueError as why:
        raise ConfigError(
            f"source {place.spec.name}: code '{code}' of {layer.path} is no whole number"
        ) from why


def _coco(layer: LayerSpec, place: Place) -> Found:
    category, segment, crowd = read_picture_labels(
        place.root / layer.path, place.spec.picture, place.ground.shape
    )
    table = np.tile(place.planes.everything, (256, 1))
    is_thing = np.zeros(256, bool)
    for code, name in category.names.items():
        said = layer.codes.get(name, name) if layer.codes else name
        names = names_of(said, f"source {place.spec.name}: category '{name}'")
        mask = set_of(names, place.schema)
        if mask:
            table[code] = place.bytes_of(mask)
        is_thing[code] = len(names) == 1 and place.schema.by_name(names[0]).is_thing
    instance = np.where(is_thing[category.raster], segment, 0)
    instance = np.unique(instance, return_inverse=True)[1].reshape(instance.shape)
    return Found(table[category.raster], crowd, instance.astype(np.int32))


def _eroded(mask: Bools, by_px: int) -> Bools:
    """Keep the pixels at least `by_px` inside; the rest is left unsaid."""
    from scipy import ndimage

    return ndimage.binary_erosion(mask, iterations=by_px, border_value=1) if by_px else mask


def _excess_green(rgb: Bytes) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the index (2g - r - b) / (r + g + b) of 5 x 5 means, and r + g + b.

    Source: Woebbecke et al. 1995, "Color indices for weed identification".
    """
    from scipy import ndimage

    r, g, b = (ndimage.uniform_filter(band.astype(np.float32), 5) for band in rgb[:3])
    total = r + g + b
    return (2 * g - r - b) / np.maximum(total, 1), total


def _overgrown(instance: Ints, rgb: Bytes, share: float) -> Bools:
    """Mark the instances of which more than `share` is vegetation."""
    if share >= 1:
        return np.zeros(instance.shape, bool)
    green = _excess_green(rgb)[0] > 0.1
    area = np.bincount(instance.ravel())
    grown = np.bincount(instance.ravel(), weights=green.ravel())
    bad = grown > share * np.maximum(area, 1)
    bad[0] = False
    return np.asarray(bad[instance], bool)


def _greenness(layer: LayerSpec, place: Place) -> Found:
    """Say tree-or-grass where the excess-green index is high, neither where it is low.

    Dark pixels, where the index is noise, are left unsaid.
    """
    index, total = _excess_green(place.ground.pixels)
    green = set_of(["tree", "grass"], place.schema)
    sets = place.nothing_said()
    sets[(index > _code(layer, place, "high")) & (total > 90)] = place.bytes_of(green)
    other = set_of(place.schema.names, place.schema) & ~green
    sets[(index < _code(layer, place, "low")) & (total > 200)] = place.bytes_of(other)
    return Found(sets, place.no_pixel())


def _code(layer: LayerSpec, place: Place, name: str) -> Any:
    if name not in layer.codes:
        raise ConfigError(
            f"source {place.spec.name}: the layer '{layer.kind}' lacks the entry '{name}' of codes"
        )
    return layer.codes[name]


def _everywhere(layer: LayerSpec, place: Place) -> Found:
    sets = place.nothing_said()
    names = names_of(_code(layer, place, "all"), f"source {place.spec.name}")
    sets[:] = place.bytes_of(set_of(names, place.schema))
    return Found(sets, place.no_pixel())


def _drawn(layer: LayerSpec, place: Place) -> Found:
    """Burn drawn polygons: `classes` sets, `void` areas, or one instance each of a `thing`."""
    from rasterio.features import rasterize
    from shapely.affinity import translate
    from shapely.geometry import shape as to_geometry

    sets, void = place.nothing_said(), place.no_pixel()
    instance = np.zeros(place.ground.shape, np.int32)
    window = place.ground.window
    row, col = (window.row, window.col) if window else (0, 0)
    try:
        features: Iterable[Any] = json.loads((place.root / layer.path).read_text())["features"]
    except (OSError, ValueError, KeyError) as why:
        raise SceneError(f"{place.root / layer.path} is no GeoJSON of features: {why!r}") from why
    for feature in features:
        geometry = translate(to_geometry(feature["geometry"]), -col, -row)
        burnt = rasterize([geometry], place.ground.shape, dtype="uint8").astype(bool)
        said = feature["properties"]
        if said.get("void"):
            void |= burnt
        elif "thing" in said:
            sets[burnt] = place.bytes_of(set_of([said["thing"]], place.schema))
            instance[burnt] = instance.max() + 1
        else:
            sets[burnt] &= place.bytes_of(set_of(said["classes"], place.schema))
    return Found(sets, void, instance)


_KINDS: dict[str, Callable[[LayerSpec, Place], Found]] = {
    "vector": _vector,
    "ignore": _ignore,
    "instances": _instances,
    "classes": _classes,
    "coco": _coco,
    "boxes": _boxes,
    "polygons": _drawn,
    "greenness": _greenness,
    "everywhere": _everywhere,
}

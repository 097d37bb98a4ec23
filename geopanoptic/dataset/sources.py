"""Sources: a scene and layers of labels, each of which narrows the set of classes of a pixel.

A pixel begins as "any class". Every layer intersects that set with what it knows, until one class
is left, which stands; a pixel whose layers contradict each other becomes void again. So sources
that know little (a footprint map, a box file, a vegetation index) and sources that know all are
prepared by the same six lines.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.dataset.boxes import paint_boxes, read_yolo
from geopanoptic.dataset.targets import distance_bytes
from geopanoptic.errors import ConfigError, SceneError
from geopanoptic.schema import LabelSchema

FORMAT = 5  # of the cached arrays; a change makes old caches stale
LEVELS = 3  # copies at full, half and quarter size: a chip is cut from the nearest finer one


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """One layer of labels.

    `kind`: `instances` (raster of ids of class `thing`; 0 is "not a `thing`"), `boxes` (YOLO text
    of `thing`), `classes` (raster of codes, `codes` maps each to class names, other codes say
    nothing), `polygons` (GeoJSON on the scene's grid in pixels (x = col, y = row), property
    `classes` a list of names, or `void`, or `thing`: one instance of it), `greenness`
    (excess-green index of the scene: above `codes` "high" is tree or grass, below "low" is
    neither), `everywhere` (all pixels are one of `codes` "all"). `void_green`: instances with more
    than this share of vegetation are made void: ruins, and outlines drawn under trees, teach
    nothing about roofs.
    """

    kind: str
    path: str = ""
    thing: str = ""
    codes: dict[str, Any] = field(default_factory=dict)
    shrink_px: int = 0
    void_green: float = 1.0


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A scene to train on: image path under the data root, GSD, layers, and its weight in draws.

    `window`: (row, col, height, width) or none. `gsd_range_m`: scales its chips are drawn at.
    `focus`: share of chips centred on a pixel of a class drawn evenly, so rare classes come up.
    `each`: the source stands for several, with '{each}' in its texts replaced and its weight
    shared out (`expand`).
    """

    name: str
    image: str
    gsd_m: float
    layers: tuple[LayerSpec, ...]
    weight: float = 1.0
    window: tuple[int, int, int, int] | None = None
    gsd_range_m: tuple[float, float] = (0.2, 0.45)
    focus: float = 0.5
    each: tuple[str, ...] = ()


def expand(spec: SourceSpec) -> list[SourceSpec]:
    """Return a source once per item of its `each`, or as it is."""

    def filled(layer: LayerSpec, item: str) -> LayerSpec:
        return replace(layer, path=layer.path.replace("{each}", item))

    return [
        replace(
            spec,
            name=spec.name.replace("{each}", item),
            image=spec.image.replace("{each}", item),
            layers=tuple(filled(layer, item) for layer in spec.layers),
            weight=spec.weight / len(spec.each),
            each=(),
        )
        for item in spec.each
    ] or [spec]


def set_of(names: list[str], schema: LabelSchema) -> int:
    """Return the bit mask of class names; bit k is the k-th class of the schema."""
    return sum(1 << schema.ids.index(schema.by_name(n).id) for n in names)


def prepare_source(
    spec: SourceSpec, schema: LabelSchema, data_root: Path, label_root: Path, cache: Path
) -> Path:
    """Decode a source to a (h, w, 6) uint8 .npy in `cache` and return its path.

    Channels: red, green, blue, label set, signed, second (see `targets`). Prepared once: the
    name carries a hash of the specification. Raises SceneError for an unreadable file.
    """
    said = replace(spec, weight=1.0, gsd_range_m=(1.0, 1.0), focus=0.0)  # not of the array
    key = json.dumps([FORMAT, asdict(said), schema.to_json()], sort_keys=True)
    for layer in spec.layers:
        if layer.kind == "polygons":
            key += (label_root / layer.path).read_text()
    out = cache / f"{spec.name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.npy"
    if out.exists():
        return out
    rgb = _read(data_root / spec.image, spec.window)[:3]
    if rgb.shape[0] != 3:
        raise SceneError(f"{spec.image} has {rgb.shape[0]} band(s); training needs 3 (RGB)")
    everything = (1 << len(schema)) - 1
    sets = np.full(rgb.shape[1:], everything, np.uint8)
    void = np.zeros(rgb.shape[1:], bool)
    instance = np.zeros(rgb.shape[1:], np.int32)
    for layer in spec.layers:
        root = label_root if layer.kind == "polygons" else data_root
        found = _apply(layer, spec, root, rgb, schema)
        # what one class alone claims stands: a drawn parking lot does not void the shop on it
        open_ = (sets & (sets - 1)) != 0
        sets = np.where(open_, sets & found.sets, sets)
        void |= found.void
        if found.instance is not None:
            fresh = found.instance + (found.instance > 0) * int(instance.max())
            instance = np.where((instance == 0) & (found.instance > 0), fresh, instance)
    sets[(sets == 0) | void] = everything
    instance = instance.astype(np.int32)
    instance[void] = 0
    signed, second = distance_bytes(instance, spec.gsd_m)
    signed[void] = 0
    cache.mkdir(parents=True, exist_ok=True)
    array = np.concatenate([rgb, sets[None], signed[None], second[None]]).transpose(1, 2, 0)
    for level in reversed(range(LEVELS)):  # the full one last: it says that all are there
        part = out.with_suffix(".tmp.npy")
        np.save(part, _coarser(array, 2**level))
        part.replace(level_path(out, level))
    return out


def level_path(path: Path, level: int) -> Path:
    """Name the copy of a prepared array that is coarser by 2**level."""
    return path if level == 0 else path.with_name(f"{path.stem}.half{level}.npy")


def _coarser(array: npt.NDArray[np.uint8], by: int) -> npt.NDArray[np.uint8]:
    """Average the image over by x by pixels and take the labels of their centre pixel."""
    if by == 1:
        return np.ascontiguousarray(array)
    rows, cols = array.shape[0] // by, array.shape[1] // by
    fine = array[: rows * by, : cols * by].reshape(rows, by, cols, by, 6)
    image = fine[..., :3].mean((1, 3), dtype=np.float32).round().astype(np.uint8)
    return np.concatenate([image, fine[:, by // 2, :, by // 2, 3:]], axis=-1)


@dataclass(frozen=True, slots=True)
class _Found:
    sets: npt.NDArray[np.uint8]
    void: npt.NDArray[np.bool_]
    instance: npt.NDArray[np.int32] | None = None


def _apply(
    layer: LayerSpec,
    spec: SourceSpec,
    root: Path,
    rgb: npt.NDArray[np.uint8],
    schema: LabelSchema,
) -> _Found:
    """Read one layer: the sets it allows, where it makes void, and its instances."""
    shape = rgb.shape[1:]
    everything = (1 << len(schema)) - 1
    sets = np.full(shape, everything, np.uint8)
    none = np.zeros(shape, bool)
    path = root / layer.path
    if layer.kind in ("instances", "boxes"):
        if layer.kind == "instances":
            instance = _read(path, spec.window)[0].astype(np.int32)
        else:
            instance = paint_boxes(read_yolo(path, shape), rgb.mean(0))
        bit = set_of([layer.thing], schema)
        sets = np.where(instance > 0, bit, everything & ~bit).astype(np.uint8)
        return _Found(sets, _overgrown(instance, rgb, layer.void_green), instance)
    if layer.kind == "classes":
        codes = _read(path, spec.window)[0]
        for code, names in layer.codes.items():
            mask = _eroded(codes == int(code), layer.shrink_px)
            sets[mask] = set_of(list(names), schema)
        return _Found(sets, none)
    if layer.kind == "greenness":
        return _Found(_greenness(rgb, layer, schema), none)
    if layer.kind == "everywhere":
        sets[:] = set_of(list(layer.codes["all"]), schema)
        return _Found(sets, none)
    if layer.kind == "polygons":
        return _polygons(path, spec, shape, schema)
    raise ConfigError(
        f"source {spec.name}: no label layer is of kind '{layer.kind}'; use instances, boxes, "
        "classes, polygons, greenness or everywhere"
    )


def _eroded(mask: npt.NDArray[np.bool_], by_px: int) -> npt.NDArray[np.bool_]:
    """Keep the pixels at least `by_px` inside; the rest is left unsaid."""
    from scipy import ndimage

    return ndimage.binary_erosion(mask, iterations=by_px, border_value=1) if by_px else mask


def _excess_green(
    rgb: npt.NDArray[np.uint8],
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the index (2g - r - b) / (r + g + b) of 5 x 5 means, and r + g + b.

    Source: Woebbecke et al. 1995, "Color indices for weed identification".
    """
    from scipy import ndimage

    r, g, b = (ndimage.uniform_filter(band.astype(np.float32), 5) for band in rgb)
    total = r + g + b
    return (2 * g - r - b) / np.maximum(total, 1), total


def _overgrown(
    instance: npt.NDArray[np.int32], rgb: npt.NDArray[np.uint8], share: float
) -> npt.NDArray[np.bool_]:
    """Mark the instances of which more than `share` is vegetation."""
    if share >= 1:
        return np.zeros(instance.shape, bool)
    green = _excess_green(rgb)[0] > 0.1
    area = np.bincount(instance.ravel())
    grown = np.bincount(instance.ravel(), weights=green.ravel())
    bad = grown > share * np.maximum(area, 1)
    bad[0] = False
    return bad[instance]


def _greenness(
    rgb: npt.NDArray[np.uint8], layer: LayerSpec, schema: LabelSchema
) -> npt.NDArray[np.uint8]:
    """Say tree-or-grass where the excess-green index is high, neither where it is low.

    Dark pixels, where the index is noise, are left unsaid.
    """
    index, total = _excess_green(rgb)
    codes = layer.codes
    everything = (1 << len(schema)) - 1
    green = set_of(["tree", "grass"], schema)
    out = np.full(rgb.shape[1:], everything, np.uint8)
    out[(index > float(codes["high"])) & (total > 90)] = green
    out[(index < float(codes["low"])) & (total > 200)] = everything & ~green
    return out


def _polygons(path: Path, spec: SourceSpec, shape: tuple[int, ...], schema: LabelSchema) -> _Found:
    """Burn drawn polygons: `classes` sets, `void` areas, or one instance each of a `thing`."""
    from rasterio.features import rasterize
    from shapely.affinity import translate
    from shapely.geometry import shape as to_geometry

    everything = (1 << len(schema)) - 1
    sets = np.full(shape, everything, np.uint8)
    void = np.zeros(shape, bool)
    instance = np.zeros(shape, np.int32)
    row, col = (spec.window or (0, 0))[:2]
    for feature in json.loads(path.read_text())["features"]:
        geometry = translate(to_geometry(feature["geometry"]), -col, -row)
        burnt = rasterize([geometry], shape, dtype="uint8").astype(bool)
        said = feature["properties"]
        if said.get("void"):
            void |= burnt
        elif "thing" in said:
            sets[burnt] = set_of([said["thing"]], schema)
            instance[burnt] = instance.max() + 1
        else:
            sets[burnt] &= set_of(said["classes"], schema)
    return _Found(sets, void, instance)


def _read(path: Path, window: tuple[int, int, int, int] | None) -> npt.NDArray[Any]:
    """Read all bands of a raster, or of its window."""
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError
    from rasterio.windows import Window

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                if window is None:
                    return file.read()  # type: ignore[no-any-return]
                row, col, height, width = window
                return file.read(window=Window(col, row, width, height))  # type: ignore[no-any-return]
    except RasterioError as why:
        raise SceneError(f"cannot read {path}: {why}; check the path and the file") from why

"""Sources: a scene and layers of labels, each of which narrows the set of classes of a pixel.

A pixel begins as "any class". Every layer intersects that set with what it knows, until one class
is left, which stands; a pixel whose layers contradict each other becomes void again. So sources
that know little (a footprint map, a box file, a vegetation index) and sources that know all are
prepared by the same six lines.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.dataset.ground import Ground, burn, read_ground, read_polygons
from geopanoptic.dataset.layers import Place, apply_layer
from geopanoptic.dataset.planes import MOST_IDS, Planes, mask_bytes, set_of
from geopanoptic.dataset.specs import SourceSpec
from geopanoptic.dataset.targets import STEP_M, distance_bytes
from geopanoptic.errors import ConfigError
from geopanoptic.schema import LabelSchema

FORMAT = 6  # of the cached arrays; a change makes old caches stale
LEVELS = 3  # copies at full, half and quarter size: a chip is cut from the nearest finer one
_REACH_PX = 9.0  # of the coarsest chip: as far as distances are kept at least


@dataclass(frozen=True, slots=True)
class Roots:
    """Folders: `data` of scenes and labels, `labels` of drawn polygons, `cache` of what is made."""

    data: Path
    labels: Path
    cache: Path


@dataclass(frozen=True, slots=True)
class Reading:
    """How scenes are read: classes, names of the bands, and the GSD where a scene has none."""

    schema: LabelSchema
    bands: tuple[str, ...] = ("red", "green", "blue")
    default_gsd_m: float = 0.3

    @property
    def planes(self) -> Planes:
        return Planes(len(self.bands), len(self.schema))


@dataclass(frozen=True, slots=True)
class SourceArray:
    """A prepared source: its specification, the path of its array, and the GSD of its pixels."""

    spec: SourceSpec
    path: Path
    gsd_m: float


def step_m(spec: SourceSpec) -> float:
    """Return the step of the distance bytes: fine, but reaching as far as the chips need."""
    coarsest = max(spec.gsd_range_m or (0.0, 0.0))
    return max(STEP_M, coarsest * _REACH_PX / 127)


def prepare_source(spec: SourceSpec, reading: Reading, roots: Roots) -> SourceArray:
    """Decode a source to a (h, w, planes) uint8 .npy in the cache (see `Planes`).

    Prepared once: the name carries a hash of the specification and of the label files. Raises
    SceneError, SchemaError or ConfigError for what cannot be read or does not fit.
    """
    out = roots.cache / f"{_file_name(spec)}-{_key(spec, reading, roots)}.npy"
    facts = out.with_suffix(".json")
    if not (out.exists() and facts.exists()):
        if not spec.layers:
            raise ConfigError(f"source {spec.name} has no label layers; see docs/training.md")
        ground = read_ground(spec, roots.data, reading.bands, reading.default_gsd_m)
        array = _array(spec, ground, reading, roots)
        roots.cache.mkdir(parents=True, exist_ok=True)
        facts.write_text(json.dumps({"gsd_m": ground.gsd_m}))
        for level in reversed(range(LEVELS)):  # the full one last: it says that all are there
            part = out.with_suffix(".tmp.npy")
            np.save(part, _coarser(array, 2**level, len(reading.bands)))
            part.replace(level_path(out, level))
    return SourceArray(spec, out, float(json.loads(facts.read_text())["gsd_m"]))


def level_path(path: Path, level: int) -> Path:
    """Name the copy of a prepared array that is coarser by 2**level."""
    return path if level == 0 else path.with_name(f"{path.stem}.half{level}.npy")


def _file_name(spec: SourceSpec) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in spec.name)[:80]


def _key(spec: SourceSpec, reading: Reading, roots: Roots) -> str:
    """Hash everything that the array depends on; of big files the size and time."""
    said = replace(spec, weight=1.0, focus=0.0, validation=False, name="")  # not of the array
    key = json.dumps([FORMAT, asdict(said), reading.schema.to_json(), reading.bands,
                      reading.default_gsd_m], sort_keys=True)  # fmt: skip
    files = [(roots.labels if y.kind == "polygons" else roots.data) / y.path
             for y in spec.layers if y.path]  # fmt: skip
    files += [roots.data / p for p in (spec.aoi, spec.exclude) if p]
    files.append(roots.data / spec.image / spec.picture)
    for file in files:
        if file.is_file():
            stat = file.stat()
            key += f"|{stat.st_size} {stat.st_mtime_ns}"
    return hashlib.sha256(key.encode()).hexdigest()[:12]


def _array(spec: SourceSpec, ground: Ground, reading: Reading, roots: Roots) -> npt.NDArray[Any]:
    """Put the layers together: (h, w, planes) uint8."""
    planes = reading.planes
    sets = np.tile(planes.everything, (*ground.shape, 1))
    void = ~ground.valid | _outside(spec, ground, roots.data)
    instance = np.zeros(ground.shape, np.int32)
    for layer in spec.layers:
        root = roots.labels if layer.kind == "polygons" else roots.data
        found = apply_layer(layer, Place(spec, ground, reading.schema, root))
        # what one class alone claims stands: a drawn parking lot does not void the shop on it
        open_ = np.bitwise_count(sets).sum(-1) > 1
        sets = np.where(open_[..., None], sets & found.sets, sets)
        void |= found.void
        if found.instance is not None:
            fresh = found.instance + (found.instance > 0) * int(instance.max())
            instance = np.where((instance == 0) & (found.instance > 0), fresh, instance)
    sets[~sets.any(-1) | void] = planes.everything
    things = set_of([c.name for c in reading.schema.things], reading.schema)
    instance[void | ~(sets & mask_bytes(things, planes.n_sets)).any(-1)] = 0
    instance = _in_raster_order(instance)
    signed, second = distance_bytes(instance, ground.gsd_m, step_m(spec))
    signed[void] = 0
    packed = np.where(instance > 0, (instance - 1) % MOST_IDS + 1, 0)
    low, high = (packed % 256).astype(np.uint8), (packed // 256).astype(np.uint8)
    parts = [*ground.pixels, *np.moveaxis(sets, -1, 0), signed, second, low, high]
    return np.stack(parts, axis=-1)


def _in_raster_order(instance: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Number instances 1.. by their first pixel, so that near ones have near numbers."""
    ids, first = np.unique(instance, return_index=True)
    ids, first = ids[ids > 0], first[ids > 0]
    number = np.zeros(int(instance.max()) + 1, np.int32)
    number[ids[np.argsort(first)]] = np.arange(1, len(ids) + 1)
    return number[instance]


def _outside(spec: SourceSpec, ground: Ground, root: Path) -> npt.NDArray[np.bool_]:
    """Return where labels do not count: outside the `aoi`, inside `exclude`."""
    out = np.zeros(ground.shape, bool)
    if spec.aoi:
        out |= burn(read_polygons(root / spec.aoi, "", ground).geometry, ground) == 0
    if spec.exclude:
        out |= burn(read_polygons(root / spec.exclude, "", ground).geometry, ground) > 0
    return out


def _coarser(array: npt.NDArray[np.uint8], by: int, n_bands: int) -> npt.NDArray[np.uint8]:
    """Average the image over by x by pixels and take the labels of their centre pixel."""
    rows, cols = array.shape[0] // by, array.shape[1] // by
    if by == 1 or not rows or not cols:
        return np.ascontiguousarray(array)
    fine = array[: rows * by, : cols * by].reshape(rows, by, cols, by, array.shape[-1])
    image = fine[..., :n_bands].mean((1, 3), dtype=np.float32).round().astype(np.uint8)
    return np.concatenate([image, fine[:, by // 2, :, by // 2, n_bands:]], axis=-1)

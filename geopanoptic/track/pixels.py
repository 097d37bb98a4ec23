"""What happened to the ground: class trajectories of every pixel, and rasters of track ids."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.change.aligned import Aligned, Mask, displaced
from geopanoptic.change.sides import common_classes, thing_table
from geopanoptic.georef import GeoRef
from geopanoptic.grid import TileGrid, Window
from geopanoptic.panoptic_map import PanopticMap
from geopanoptic.raster import LabelWriter, publish_cog, write_instances_qml
from geopanoptic.schema import VOID, LabelSchema
from geopanoptic.track.dates import file_of
from geopanoptic.track.opening import Opened, Told
from geopanoptic.track.settings import TrackSettings
from geopanoptic.track.tables import Rows

Array = npt.NDArray[np.generic]
Ints = npt.NDArray[np.int64]

BLOCK = 1024
NO_DATE, NO_COUNT = 0, 255
CLASS_RASTERS = (
    ("first_change_date", "int32", NO_DATE),
    ("n_changes", "uint8", NO_COUNT),
    ("last_class", "uint8", 0),
)


@dataclass(frozen=True)
class Stack:
    """The class maps of all dates on the reference grid, moved back by their offsets.

    `dates` int64: yyyymmdd of each. Pixels that a date did not see, or called void, are 0.
    """

    layers: tuple[Aligned, ...]
    dates: Ints
    grid: GeoRef
    schema: LabelSchema

    @classmethod
    def of(
        cls, opened: Sequence[Opened], reference: PanopticMap, settings: TrackSettings
    ) -> Stack | None:
        """Lay the maps on the reference's grid; None when some date has no pixels."""
        maps = [o.map for o in opened if o.map is not None]
        if len(maps) < len(opened):
            return None
        schema = reference.schema
        for m in maps:
            schema = common_classes(schema, m.schema).schema
        layers = []
        for o, m in zip(opened, maps, strict=True):
            grid = displaced(reference.georef, o.offset)
            path = file_of(settings.masks, o.view.date)
            mask = None if path is None else Mask.open(path, grid)
            code = common_classes(schema, m.schema).of_after
            code[VOID] = 0
            layers.append(Aligned(m.source, m.georef, grid, code, thing_table(m.schema), mask))
        dates = np.array([int(o.view.date[:10].replace("-", "")) for o in opened], np.int64)
        return cls(tuple(layers), dates, reference.georef, schema)

    def read(self, window: Window) -> npt.NDArray[np.uint8]:
        """Return the classes of a window at all dates, shape (dates, rows, cols)."""
        return np.stack([layer.read(window)[0] for layer in self.layers])


@dataclass
class Trajectories:
    """The sequences of classes that pixels went through, with pixels and true area of each."""

    schema: LabelSchema
    pixels: dict[tuple[int, ...], int] = field(default_factory=dict)
    area_m2: dict[tuple[int, ...], float] = field(default_factory=dict)

    def add(self, classes: npt.NDArray[np.uint8], row_m2: npt.NDArray[np.float64]) -> None:
        """Count the pixels of a block; `row_m2` is the area of a pixel in each of its rows."""
        names: list[tuple[int, ...]] = [()]
        code = np.zeros(classes[0].size, np.int64)
        last = np.zeros(classes[0].size, np.uint8)
        for layer in classes:
            now = layer.ravel()
            changed = (now > 0) & (now != last)
            last = np.where(changed, now, last)
            key = code * 256 + np.where(changed, now, 0)
            found, code = np.unique(key, return_inverse=True)
            code = code.ravel()
            names = [names[k >> 8] + ((k & 255,) if k & 255 else ()) for k in found.tolist()]
        weight = np.repeat(row_m2, classes.shape[2])
        px, m2 = np.bincount(code, minlength=len(names)), np.bincount(code, weight, len(names))
        for name, n, area in zip(names, px.tolist(), m2.tolist(), strict=True):
            if name:
                self.pixels[name] = self.pixels.get(name, 0) + n
                self.area_m2[name] = self.area_m2.get(name, 0.0) + area

    def rows(self) -> Rows:
        """Return the table, the most frequent first."""
        order = sorted(self.pixels, key=lambda k: (-self.pixels[k], k))
        total = sum(self.area_m2.values())
        named = {c.id: c.name for c in self.schema.classes}
        return {
            "trajectory": [" > ".join(named[c] for c in k) for k in order],
            "n_changes": [len(k) - 1 for k in order],
            "pixels": [self.pixels[k] for k in order],
            "area_m2": [self.area_m2[k] for k in order],
            "share": [self.area_m2[k] / total if total else 0.0 for k in order],
        }


def summarised(
    classes: npt.NDArray[np.uint8], dates: Ints
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Return first change (yyyymmdd, 0 none), number of changes (255 never seen), last class.

    `classes` uint8 (dates, rows, cols), 0 where not seen. A change is seen at the date whose class
    is not that of the date before that saw the pixel.
    """
    shape = classes.shape[1:]
    first = np.full(shape, NO_DATE, np.int32)
    changes, last = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    for date, now in zip(dates.tolist(), classes, strict=True):
        seen = now > 0
        changed = seen & (last > 0) & (now != last)
        first[changed & (changes == 0)] = date
        changes[changed] += 1
        last[seen] = now[seen]
    changes[last == 0] = NO_COUNT
    return first, changes, last


def follow_classes(stack: Stack, folder: Path | None, told: Told) -> Rows:
    """Walk over all pixels once: return the table of trajectories, and write the rasters.

    Into `folder` (None: only the table) go first_change_date.tif, n_changes.tif and
    last_class.tif, COGs on the reference grid. Memory holds one block of all dates.
    """
    found = Trajectories(stack.schema)
    row_m2 = stack.grid.row_area_m2()
    grid = TileGrid(stack.grid.shape, BLOCK, 0)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".track-") as work:
        writers = [
            LabelWriter(Path(work) / f"{name}.tif", stack.grid, dtype, nodata)
            for name, dtype, nodata in (CLASS_RASTERS if folder is not None else ())
        ]
        try:
            for writer in writers:
                writer.__enter__()
            for k, tile in enumerate(grid, 1):
                classes = stack.read(tile.core)
                found.add(classes, row_m2[tile.core.row : tile.core.row_stop])
                made: tuple[npt.NDArray[Any], ...] = summarised(classes, stack.dates)
                for writer, array in zip(writers, made, strict=False):
                    writer.write(tile.core, array)
                told("classes", k, len(grid))
        finally:
            for writer in writers:
                writer.close()
        for (name, _, _), writer in zip(CLASS_RASTERS, writers, strict=False):
            assert folder is not None
            publish_cog(
                writer.path, folder / f"{name}.tif",
                overviews="mode" if name == "last_class" else "nearest",
                palette=stack.schema if name == "last_class" else None,
            )  # fmt: skip
    return found.rows()


def write_track_ids(opened: Opened, track: Ints, folder: Path) -> Path:
    """Write track_ids_DATE.tif: the track of every object's pixels, on the map's own grid.

    int32, 0 = no thing. Together with the class raster it is a map whose ids last over time:
    `geopanoptic evaluate --series` takes SEMANTIC.tif,track_ids_DATE.tif.
    """
    assert opened.map is not None
    ids = opened.view.objects.ids
    lookup = np.zeros(int(ids.max(initial=0)) + 1, np.int32)
    lookup[ids] = track
    thing = thing_table(opened.map.schema)
    name = f"track_ids_{opened.view.date.replace(':', '')}.tif"
    with tempfile.TemporaryDirectory(dir=folder, prefix=".track-") as work:
        made = Path(work) / name
        with LabelWriter(made, opened.map.georef, "int32", 0) as writer:
            for tile in TileGrid(opened.map.georef.shape, BLOCK, 0):
                classes, instance = opened.map.read(tile.core)
                instance = np.where(thing[classes], instance, 0).clip(0, len(lookup) - 1)
                writer.write(tile.core, lookup[instance])
        publish_cog(made, folder / name, overviews="nearest")
    write_instances_qml((folder / name).with_suffix(".qml"), int(track.max(initial=0)))
    return folder / name

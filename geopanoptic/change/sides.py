"""Open the two dates: a map or a vector file each, their dates, and the classes they share."""

from __future__ import annotations

import csv
import datetime as dt
import re
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import ConfigError, SceneError
from geopanoptic.grid import TileGrid
from geopanoptic.panoptic_map import MapInfo, PanopticMap, is_vector, open_maps
from geopanoptic.raster import Scene
from geopanoptic.schema import NODATA, VOID, ClassSpec, LabelSchema

MapLike = str | Path | PanopticMap

_COMPACT = re.compile(r"(?<!\d)((?:19|20)\d\d)[-_]?(0[1-9]|1[0-2])[-_]?(0[1-9]|[12]\d|3[01])(?!\d)")
_YEAR_DAYS = 365.2425
COLORS = (
    "#d1495b", "#1b7837", "#2b83ba", "#edae49", "#8d99ae", "#d8b98a", "#9b5de5", "#00798c",
    "#a6d96a", "#f15bb5", "#2e4057", "#66a182",
)  # fmt: skip


def is_vector_side(side: MapLike) -> bool:
    """Tell whether a side comes as a vector file: objects, no pixels."""
    return not isinstance(side, PanopticMap) and is_vector(side)


def open_side(side: MapLike, schema: LabelSchema | None = None) -> PanopticMap:
    """Open one date's map (not a vector file).

    Bare rasters that name no classes take `schema` where it is given. Of an id raster in which
    every pixel carries an id, classes whose only id is their own class id are stuff. A table
    T1_segments.csv beside T1_class.tif,T1_id.tif names the classes (class_id, class_name, isthing).
    Raises SceneError, StoreError or SchemaError with the cure.
    """
    if isinstance(side, PanopticMap):
        return side
    maps = open_maps(side)
    if len(maps) != 1:
        raise SceneError(f"{side} holds {len(maps)} images; change compares one map with one map")
    opened = maps[0]
    named = _named_beside(str(side)) if opened.loose_kinds else None
    if named is not None:
        return replace(opened, info=MapInfo(named, opened.date), loose_kinds=False)
    if opened.loose_kinds and opened.has_instances:
        opened = replace(opened, info=MapInfo(_told_apart(opened), opened.date))
    if schema is not None and opened.loose_kinds:
        known = set(schema.ids)
        if all(c.id in known for c in opened.schema.classes):
            opened = replace(opened, info=MapInfo(schema, opened.date), loose_kinds=False)
    return opened


def _named_beside(pair: str) -> LabelSchema | None:
    """Return the classes that a table of segments beside two rasters names; None without one."""
    files = [Path(part.strip()) for part in pair.split(",")]
    prefixes = {f.with_name(f.stem.rpartition("_")[0]) for f in files if "_" in f.stem}
    if len(files) != 2 or len(prefixes) != 1:
        return None
    prefix = prefixes.pop()
    table = prefix.with_name(f"{prefix.name}_segments.csv")
    if not table.is_file():
        return None
    found: dict[int, ClassSpec] = {}
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                k, name, thing = int(row["class_id"]), row["class_name"], int(row["isthing"])
            except (KeyError, TypeError, ValueError) as why:
                raise SceneError(
                    f"{table} must have columns class_id, class_name and isthing (0 or 1): {why!r}"
                ) from why
            colour = COLORS[k % len(COLORS)]
            found.setdefault(k, ClassSpec(k, name, "thing" if thing else "stuff", colour))
    return LabelSchema(tuple(found.values()))


def _told_apart(opened: PanopticMap) -> LabelSchema:
    """Return the schema with those classes as stuff that have no ids but their class id."""
    guessed = {c.id for c in opened.schema.things}
    only_own, everywhere = set(guessed), True
    for tile in TileGrid(opened.georef.shape, 2048, 0):
        classes, ids = opened.read(tile.core)
        known = (classes != NODATA) & (classes != VOID)
        everywhere = everywhere and bool((ids[known] > 0).all())
        if not everywhere:
            return opened.schema
        only_own -= set(np.unique(classes[known & (ids != classes)]).tolist())
    return LabelSchema(
        tuple(replace(c, kind="stuff") if c.id in only_own else c for c in opened.schema.classes)
    )


@dataclass(frozen=True)
class Classes:
    """The classes of both maps under common ids; `of_before`, `of_after`: uint8 (256,) tables."""

    schema: LabelSchema
    of_before: npt.NDArray[np.uint8]
    of_after: npt.NDArray[np.uint8]

    @property
    def factor(self) -> int:
        """What a from-to code multiplies the class before with."""
        return 100 if max(self.schema.ids, default=1) < 100 else 1000


def common_classes(before: LabelSchema, after: LabelSchema) -> Classes:
    """Join two schemas by class name; ids are those of before, then those of after if free.

    A class that is a thing at one date only is a thing.
    """
    by_name: dict[str, ClassSpec] = {c.name: c for c in before.classes}
    used = {c.id for c in before.classes}
    for c in after.classes:
        if c.name in by_name:
            if c.is_thing and not by_name[c.name].is_thing:
                by_name[c.name] = replace(by_name[c.name], kind="thing")
            continue
        new = c.id
        if new in used:
            new = next((k for k in range(1, 255) if k not in used), 0)
            if new == 0:
                raise SceneError("the two maps have more than 254 classes together")
        used.add(new)
        by_name[c.name] = replace(c, id=new)
    tables = []
    for schema in (before, after):
        table = np.zeros(256, np.uint8)
        table[VOID] = VOID
        for c in schema.classes:
            table[c.id] = by_name[c.name].id
        tables.append(table)
    return Classes(LabelSchema(tuple(by_name.values())), tables[0], tables[1])


def thing_table(schema: LabelSchema) -> npt.NDArray[np.bool_]:
    """Return bool (256,): which of a map's own class ids are things."""
    table = np.zeros(256, bool)
    table[[c.id for c in schema.things]] = True
    return table


def date_of(side: MapLike, given: str | None, option: str) -> str | None:
    """Return the ISO date of a side: as given, of its map.json, its tags or its file name.

    Raises ConfigError for a given date that is none.
    """
    if given is not None:
        try:
            dt.datetime.fromisoformat(given)
        except ValueError as why:
            raise ConfigError(f"{option} {given} is not ISO 8601; write 2024-05-01") from why
        return given
    if isinstance(side, PanopticMap):
        return side.date
    file = Path(str(side).split(",")[0])
    if (file / "map.json").is_file():
        from geopanoptic.panoptic_map import read_map_json

        written = read_map_json(file).date
        if written is not None:
            return written
    if file.is_file() and not is_vector(file) and file.suffix.lower() != ".json":
        return Scene.open(file).date
    for found in _COMPACT.finditer(file.name):
        with suppress(ValueError):  # 31 February
            return dt.date(*map(int, found.groups())).isoformat()
    return None


def years_between(before: str | None, after: str | None) -> float | None:
    """Return the years between two ISO dates; None when one is unknown or they are not in order."""
    if before is None or after is None:
        return None
    days = [dt.datetime.fromisoformat(d).replace(tzinfo=None) for d in (before, after)]
    years = (days[1] - days[0]).total_seconds() / 86400 / _YEAR_DAYS
    return years if years > 0 else None

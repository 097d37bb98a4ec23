"""Any form of a map as a map directory: the way in for COCO panoptic, Cityscapes ids, rasters."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic import __version__
from geopanoptic.georef import GeoRef
from geopanoptic.grid import TileGrid, Window
from geopanoptic.panoptic_map import (
    MapInfo,
    PanopticMap,
    polygon_layers,
    report_of,
    save_segments,
    stac_item,
    write_map_json,
)
from geopanoptic.raster import LabelReader, LabelWriter, publish_cog, write_instances_qml
from geopanoptic.schema import NODATA, VOID
from geopanoptic.segments import SegmentTable
from geopanoptic.vector import TableContext, run_table, write_gpkg, write_project

_BLOCK = 2048


def write_directory(panoptic: PanopticMap, folder: Path, final: Path) -> None:
    """Write `panoptic` as a map directory into `folder`, which will be called `final`.

    Things are numbered 1..N in the order of their ids. Pixels of a thing class that belong to no
    object (crowds of COCO, groups of Cityscapes) become void: a map knows no things without one.
    Every file of contracts.md section 1 is made but seams and scores of pixels, which only a
    prediction has. Raises SceneError for a map that cannot be read.
    """
    folder.mkdir()
    table, number = _numbered(panoptic)
    reader = _Renumbered(panoptic, number)
    lost = _write_rasters(reader, folder, panoptic.georef)
    schema, georef = panoptic.schema, panoptic.georef
    save_segments(folder, table, schema, georef)
    run = _run(panoptic, table, lost)
    context = TableContext(schema, georef, panoptic.date, run["scene"], run.get("model"))
    written = LabelReader(folder / "semantic.tif"), LabelReader(folder / "instances.tif")

    def read(window: Window) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        return written[0].read(window), written[1].read(window)

    layers = {"things": iter(()), "stuff": iter(()), **polygon_layers(read, table, context)}
    layers["run"] = iter([run_table(run)])
    write_gpkg(folder / "panoptic.gpkg", layers, georef.crs, schema)
    write_instances_qml(folder / "instances.qml", int(table.id.max(initial=0)))
    info = MapInfo(schema, panoptic.date, panoptic.info.model, run, run["counts"])
    write_map_json(folder, info)
    page = report_of(PanopticMap.open(folder), final.stem)
    (folder / "report.html").write_text(page, encoding="utf-8")
    files = [path.name for path in folder.iterdir()]
    item = stac_item(files, georef, schema, date=panoptic.date, run=run)
    (folder / "item.json").write_text(json.dumps(item, indent=1) + "\n", encoding="utf-8")
    write_project(folder / f"{final.stem}.qgz", folder, georef.crs, final=final)


def _numbered(panoptic: PanopticMap) -> tuple[SegmentTable, npt.NDArray[np.int32]]:
    """Return the table with things 1..N, and a look-up from old to new ids (0: no object)."""
    table = panoptic.segment_table
    # ids of a crowd name no object, nor those that lie on other pixels than a table lists
    kept = ~np.isin(table.id, list(panoptic.crowd))
    table = table.take(np.flatnonzero(kept))
    thing = np.isin(table.class_id, [c.id for c in panoptic.schema.things]) & (table.id > 0)
    old = np.sort(table.id[thing])
    number = np.zeros(int(old.max(initial=0)) + 1, np.int32)
    number[old] = np.arange(1, len(old) + 1)
    ids = np.where(thing, number[np.where(thing, table.id, 0)], table.id)
    score = table.score.copy()
    for row in np.flatnonzero(np.isnan(score)).tolist():
        score[row] = panoptic.score.get(int(table.id[row]), np.nan)
    return replace(table, id=ids.astype(np.int64), score=score), number


class _Renumbered:
    """Read a map with its things renumbered; `lost` counts the pixels of things without object."""

    def __init__(self, panoptic: PanopticMap, number: npt.NDArray[np.int32]) -> None:
        self._panoptic, self._number = panoptic, number
        self._thing = np.isin(np.arange(256), [c.id for c in panoptic.schema.things])
        self._known = np.isin(np.arange(256), [*panoptic.schema.ids, NODATA])
        self.lost = 0

    def read(self, window: Window) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        classes, ids = self._panoptic.read(window)
        thing = self._thing[classes]
        safe = np.where(thing & (ids < len(self._number)), ids, 0)
        new = np.where(thing, self._number[safe], 0).astype(np.int32)
        without = thing & (new == 0)
        self.lost += int(without.sum())
        classes = np.where(without | ~self._known[classes], np.uint8(VOID), classes)
        return classes.astype(np.uint8), new


def _write_rasters(reader: _Renumbered, folder: Path, georef: GeoRef) -> int:
    tiled = folder / "semantic.tiled.tif", folder / "instances.tiled.tif"
    schema = reader._panoptic.schema
    try:
        with (
            LabelWriter(tiled[0], georef, "uint8") as semantic,
            LabelWriter(tiled[1], georef, "int32") as instances,
        ):
            for tile in TileGrid(georef.shape, _BLOCK, 0):
                classes, ids = reader.read(tile.core)
                semantic.write(tile.core, classes)
                instances.write(tile.core, ids)
        publish_cog(tiled[0], folder / "semantic.tif", overviews="mode", palette=schema)
        publish_cog(tiled[1], folder / "instances.tif", overviews="nearest")
    finally:
        for path in tiled:
            path.unlink(missing_ok=True)
    return reader.lost


def _run(panoptic: PanopticMap, table: SegmentTable, lost: int) -> dict[str, Any]:
    things = table.things
    counts = {
        "segments": len(table),
        "things": len(things),
        "things_by_class": {
            c.name: int((things.class_id == c.id).sum()) for c in panoptic.schema.things
        },
        "px_of_things_without_object": lost,
    }
    given = {k: v for k, v in panoptic.info.run.items() if k in ("scene", "model", "read")}
    name = Path(panoptic.name.split(",")[0].split("#")[0]).stem
    return {
        "geopanoptic": __version__,
        "scene": name,
        **given,
        "imported_from": panoptic.name,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "counts": counts,
    }

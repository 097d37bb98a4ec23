"""Check that a map directory keeps the promises of its format, block by block."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geopanoptic.errors import GeoPanopticError
from geopanoptic.grid import Window
from geopanoptic.panoptic_map.derive import blocks, derive_segments
from geopanoptic.panoptic_map.map import PanopticMap
from geopanoptic.panoptic_map.source import raster_facts
from geopanoptic.panoptic_map.tables import load_segments, segment_areas_m2
from geopanoptic.schema import NODATA, VOID
from geopanoptic.segments import SegmentTable

_SHOWN = 5  # examples named per broken promise


def check_map(path: str | Path) -> list[str]:
    """Return the broken promises of a map directory, one sentence each; empty = none.

    Checks: the files and their types; every valid pixel has one class of the schema; things and
    only things have instance ids, each on one class; raster and table hold the same ids, classes,
    areas and boxes; counts of map.json; polygons, burnt again, equal the rasters. Reads windows
    of 2048 px, so memory does not grow with the map.
    """
    folder = Path(path)
    try:
        panoptic = PanopticMap.open(folder)
        if panoptic.folder is None:
            return [f"{path} is not a map directory"]
        broken = _check_files(folder)
        broken += _check_pixels(panoptic)
        if broken:
            return broken
        derived = derive_segments(panoptic.georef.shape, panoptic.read, panoptic.schema)
    except GeoPanopticError as why:
        return [str(why)]
    if (folder / "segments.parquet").exists():
        broken += _check_table(panoptic, derived)
    broken += _check_counts(panoptic, derived)
    if (folder / "panoptic.gpkg").exists():
        broken += _check_polygons(panoptic)
    return broken


def _check_files(folder: Path) -> list[str]:
    broken = []
    semantic, instances = (raster_facts(folder / f"{n}.tif") for n in ("semantic", "instances"))
    if semantic.dtype != "uint8":
        broken.append(f"semantic.tif is {semantic.dtype}, not uint8")
    if semantic.nodata != NODATA:
        broken.append(f"semantic.tif has the nodata value {semantic.nodata}, not {NODATA}")
    if instances.dtype != "int32":
        broken.append(f"instances.tif is {instances.dtype}, not int32")
    broken += [
        f"{name}.tif has {facts.bands} bands, not 1"
        for name, facts in (("semantic", semantic), ("instances", instances))
        if facts.bands != 1
    ]
    return broken


def _check_pixels(panoptic: PanopticMap) -> list[str]:
    """Check class values and the law instance > 0 <=> thing; count offenders, name the first."""
    thing, known = np.zeros(256, bool), np.zeros(256, bool)
    thing[[c.id for c in panoptic.schema.things]] = True
    known[[*panoptic.schema.ids, NODATA, VOID]] = True
    faults = {
        "have a class value that the schema does not name": _Fault(),
        "have an instance id but no thing class": _Fault(),
        "have a thing class but no instance id": _Fault(),
        "have a negative instance id": _Fault(),
    }
    for window in blocks(panoptic.georef.shape):
        classes, ids = panoptic.read(window)
        wrong = (
            ~known[classes],
            (ids > 0) & ~thing[classes],
            (ids == 0) & thing[classes],
            ids < 0,
        )
        for fault, where in zip(faults.values(), wrong, strict=True):
            fault.add(where, window, classes, ids)
    return [
        f"{f.count} pixels {what}; the first: {f.first}" for what, f in faults.items() if f.count
    ]


class _Fault:
    """How many pixels break a promise, and the first of them."""

    def __init__(self) -> None:
        self.count, self.first = 0, ""

    def add(self, where: npt.NDArray[np.bool_], window: Window, classes: Any, ids: Any) -> None:
        n = int(where.sum())
        if n and not self.count:
            row, col = (int(i[0]) for i in np.nonzero(where))
            self.first = (
                f"row {window.row + row}, col {window.col + col}, class {classes[row, col]}, "
                f"instance {ids[row, col]}"
            )
        self.count += n


def _check_table(panoptic: PanopticMap, derived: SegmentTable) -> list[str]:
    try:
        table = load_segments(panoptic.folder or "")
    except (GeoPanopticError, AssertionError) as why:
        return [f"segments.parquet: {why}"]
    broken = []
    only_raster = np.setdiff1d(derived.id, table.id)
    only_table = np.setdiff1d(table.id, derived.id)
    if len(only_raster):
        broken.append(f"{len(only_raster)} ids are in the rasters only: {_some(only_raster)}")
    if len(only_table):
        broken.append(f"{len(only_table)} ids are in the table only: {_some(only_table)}")
    _, a, b = np.intersect1d(derived.id, table.id, return_indices=True)
    for name in ("class_id", "area_px"):
        differs = getattr(derived, name)[a] != getattr(table, name)[b]
        if differs.any():
            k = int(np.flatnonzero(differs)[0])
            broken.append(
                f"{name} of {int(differs.sum())} segments differs from the raster's; segment "
                f"{derived.id[a][k]}: table {getattr(table, name)[b][k]}, "
                f"raster {getattr(derived, name)[a][k]}"
            )
    boxes = (derived.bbox[a] != table.bbox[b]).any(axis=1)
    if boxes.any():
        k = int(np.flatnonzero(boxes)[0])
        broken.append(
            f"the box of {int(boxes.sum())} segments differs from the raster's; segment "
            f"{derived.id[a][k]}: table {table.bbox[b][k].tolist()}, raster "
            f"{derived.bbox[a][k].tolist()}"
        )
    return broken + _check_areas(panoptic, table)


def _check_areas(panoptic: PanopticMap, table: SegmentTable) -> list[str]:
    import pyarrow.parquet as pq

    frame = pq.read_table(panoptic.folder / "segments.parquet").to_pandas()  # type: ignore[operator]
    if "area_m2" not in frame:
        return []
    wanted = segment_areas_m2(table, panoptic.georef)
    off = ~np.isclose(frame["area_m2"].to_numpy(float), wanted, rtol=1e-3, atol=0)
    if not off.any():
        return []
    k = int(np.flatnonzero(off)[0])
    return [
        f"area_m2 of {int(off.sum())} segments is not area_px times the pixel's area; segment "
        f"{table.id[k]}: {frame['area_m2'].iloc[k]:.3f}, expected {wanted[k]:.3f}"
    ]


def _check_counts(panoptic: PanopticMap, derived: SegmentTable) -> list[str]:
    found = {
        "segments": len(derived),
        "things": int((derived.id > 0).sum()),
        "instances": int((derived.id > 0).sum()),
    }
    return [
        f"map.json counts {panoptic.info.counts[key]} {key}, the rasters hold {n}"
        for key, n in found.items()
        if isinstance(panoptic.info.counts.get(key), int) and panoptic.info.counts[key] != n
    ]


def _check_polygons(panoptic: PanopticMap) -> list[str]:
    """Burn the polygons again, window by window, and compare with the rasters."""
    import pyogrio

    file = panoptic.folder / "panoptic.gpkg"  # type: ignore[operator]
    layers = {str(name) for name, _ in pyogrio.list_layers(file)}
    # a model of things alone makes no layer of stuff, and the other way round
    kinds = {"things": panoptic.schema.things, "stuff": panoptic.schema.stuff}
    broken = [f"panoptic.gpkg has no layer {n}" for n in kinds if kinds[n] and n not in layers]
    wrong = {"things": 0, "stuff": 0}
    things = np.zeros(256, bool)
    things[[c.id for c in panoptic.schema.things]] = True
    for window in blocks(panoptic.georef.shape):
        classes, ids = panoptic.read(window)
        stuff = np.where(things[classes] | (classes == VOID), NODATA, classes)
        for layer, column, raster in (("things", "instance_id", ids), ("stuff", "class_id", stuff)):
            if layer in layers:
                burnt = _burn(panoptic, window, layer, column)
                wrong[layer] += int((burnt != raster).sum())
    return broken + [
        f"the polygons of layer {layer}, burnt again, differ from the raster in {n} pixels"
        for layer, n in wrong.items()
        if n
    ]


def _burn(panoptic: PanopticMap, window: Window, layer: str, column: str) -> Any:
    """Return the layer's polygons of a window burnt with the values of `column`."""
    import pyogrio
    import shapely
    from affine import Affine
    from rasterio.features import rasterize

    georef = panoptic.georef
    frame = pyogrio.read_dataframe(
        panoptic.folder / "panoptic.gpkg",  # type: ignore[operator]
        layer=layer,
        columns=[column],
        bbox=georef.crop(window).bounds,
    )
    if len(frame) == 0:
        return np.zeros(window.shape, np.int32)
    pixels = shapely.transform(
        frame.geometry.to_numpy(),
        lambda xy: np.stack(georef.rowcol(xy[:, 0], xy[:, 1])[::-1], axis=1),
    )
    return rasterize(
        zip(pixels, frame[column].tolist(), strict=True),
        out_shape=window.shape,
        transform=Affine.translation(window.col, window.row),
        fill=0,
        dtype="int32",
    )


def _some(ids: npt.NDArray[np.int64]) -> str:
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return ", ".join(str(i) for i in ids[:_SHOWN].tolist()) + more

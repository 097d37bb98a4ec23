"""What can be sampled: a raster whose values are strata, or classes that interpreters answer."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy.typing as npt

from geopanoptic.errors import ConfigError, SceneError
from geopanoptic.georef import GeoRef
from geopanoptic.grid import Window
from geopanoptic.panoptic_map import PanopticMap
from geopanoptic.raster import LabelReader
from geopanoptic.schema import NODATA, VOID

Kind = Literal["classes", "transitions", "status"]
KINDS: tuple[Kind, ...] = ("classes", "transitions", "status")

# What `changes_status.tif` holds, should its attribute table be missing.
_STATUS = {1: "unchanged", 2: "changed", 3: "below_mmu"}


@dataclass(frozen=True)
class Plane:
    """A label raster: `read(window)` returns its values, `names` says what they are.

    Values in `left_out` (nodata, void) belong to no stratum. A value without a name is called
    'value N'.
    """

    path: str
    georef: GeoRef
    read: Callable[[Window], npt.NDArray[Any]]
    names: dict[int, str]
    left_out: frozenset[int]

    def name(self, value: int) -> str:
        return self.names.get(value, f"value {value}")


def default_kind(path: str | Path) -> Kind:
    """Return what is sampled when nothing is said: transitions of a change, classes of a map."""
    file = Path(path)
    return "transitions" if file.suffix.lower() == ".gpkg" and file.name != "panoptic.gpkg" else (
        "classes"
    )  # fmt: skip


def open_plane(path: str | Path, kind: Kind) -> Plane:
    """Open the labels of `kind` of a map, a change or a raster.

    A map (directory, COCO, rasters) has 'classes'. A change NAME.gpkg has 'transitions'
    (NAME.tif) and 'status' (NAME_status.tif). Any other one-band raster is taken as it is, with
    the names in its .aux.xml. Raises SceneError with the cure when the raster is not there,
    ConfigError when there is no such kind.
    """
    file = Path(path)
    if kind not in KINDS:
        raise ConfigError(f"strata '{kind}' are not known; use {', '.join(KINDS)}")
    if file.name == "panoptic.gpkg" and (file.parent / "map.json").exists():
        file = file.parent
    if file.suffix.lower() in (".tif", ".tiff", ".vrt"):
        return _of_raster(_sibling(file, kind) if kind == "status" else file)
    if file.suffix.lower() == ".gpkg":
        if kind == "classes":
            raise ConfigError(
                f"{path} is a change, with strata 'transitions' or 'status'; give a map for "
                f"'classes'"
            )
        raster = file.with_suffix(".tif")
        return _of_raster(_sibling(raster, kind) if kind == "status" else raster)
    if kind != "classes":
        raise ConfigError(
            f"{path} is a map, which has strata 'classes'; '{kind}' are those of a change"
        )
    panoptic = PanopticMap.open(path)
    return Plane(
        str(path),
        panoptic.georef,
        lambda window: panoptic.read(window)[0],
        {c.id: c.name for c in panoptic.schema.classes},
        frozenset({NODATA, VOID}),
    )


def _sibling(raster: Path, kind: Kind) -> Path:
    """Return NAME_status.tif of NAME.tif (itself when it is the one)."""
    if raster.stem.endswith(f"_{kind}"):
        return raster
    return raster.with_name(f"{raster.stem}_{kind}{raster.suffix}")


def _of_raster(raster: Path) -> Plane:
    if not raster.exists():
        raise SceneError(
            f"there is no {raster}, whose values are the strata; `geopanoptic change` writes it "
            f"beside its GeoPackage, or give the raster itself"
        )
    reader = LabelReader(raster)
    names = raster_names(raster)
    if not names and raster.stem.endswith("_status"):
        names = dict(_STATUS)
    left_out = {0 if reader.nodata is None else int(reader.nodata), NODATA}
    left_out |= {value for value, name in names.items() if name in ("nodata", "void")}
    return Plane(str(raster), reader.georef, reader.read, names, frozenset(left_out))


def raster_names(raster: Path) -> dict[int, str]:
    """Return value -> name from the attribute table, else the category names, of X.aux.xml."""
    side = Path(f"{raster}.aux.xml")
    if not side.exists():
        return {}
    try:
        root = ET.parse(side).getroot()
    except (ET.ParseError, OSError) as why:
        raise SceneError(f"cannot read the names in {side}: {why}; make the raster anew") from why
    table = root.find(".//GDALRasterAttributeTable")
    if table is not None:
        usage = [int(f.findtext("Usage", "0")) for f in table.iterfind("FieldDefn")]
        if 2 in usage and 5 in usage:  # GDALRATFieldUsage: 5 value, 2 name
            cells = [[f.text or "" for f in row.iterfind("F")] for row in table.iterfind("Row")]
            return {int(float(c[usage.index(5)])): c[usage.index(2)] for c in cells}
    found = [(node.text or "").strip() for node in root.iterfind(".//CategoryNames/Category")]
    return {value: name for value, name in enumerate(found) if name}

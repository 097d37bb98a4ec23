"""A QGIS project of a map: polygons, rasters and the scene, grouped, styled, with relative paths.

Written by hand, without QGIS. What QGIS 3.22 and 3.40 need was measured: a layer's id longer than
ten characters, a CRS with its WKT, and projections switched on in the properties. A project keeps
its own styles, so those of the GeoPackage and of the .qml files are copied into it.
"""

from __future__ import annotations

import os
import sqlite3
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import pyproj

from geopanoptic.errors import StoreError
from geopanoptic.vector.geopackage import publish, space_left
from geopanoptic.vector.styles import other_styles


@dataclass(frozen=True)
class ProjectLayer:
    """One layer of a project: its `name`, `source` (a file, for polygons with ``|layername=``),
    `group` in the legend, whether it is `shown` at first, and its style as QML text or None.
    """

    name: str
    source: str
    group: str
    shown: bool
    qml: str | None

    @property
    def is_vector(self) -> bool:
        return "|layername=" in self.source

    @property
    def id(self) -> str:
        return f"geopanoptic_{self.group}_{self.name}".lower().replace(" ", "_")


def write_project(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    crs_wkt: str | None,
    scene: str | os.PathLike[str] | None = None,
    *,
    final: str | os.PathLike[str] | None = None,
) -> None:
    """Write a .qgz that opens the map directory `folder` styled; sources are relative to `path`.

    Polygons and rasters come with the styles stored beside them; an 8-bit RGB `scene` lies below.
    When `folder` is still under a temporary name, `final` is the one it will have: the way from
    there to the scene is what the project holds. Raises StoreError when it cannot be written.
    """
    target = Path(path)
    start = target.parent.resolve()
    scene_start = (
        start
        if final is None
        else Path(final).resolve() / start.relative_to(Path(folder).resolve())
    )
    layers = [*_layers(Path(folder), start), *_scene(scene, scene_start)]
    if scene is not None:  # it would lie hidden under the classes
        layers = [replace(x, shown=x.shown and x.name != "semantic") for x in layers]
    _write(target, _document(target.stem, layers, crs_wkt, _extent(Path(folder) / "panoptic.gpkg")))


def write_package_project(
    path: str | os.PathLike[str],
    package: str | os.PathLike[str],
    shown: Mapping[str, bool],
    crs_wkt: str | None,
) -> None:
    """Write a .qgz that opens layers of a GeoPackage as they are styled in it, the first on top.

    `shown`: layer names and whether they are drawn at first; those without a style are left out.
    A project also keeps a style's temporal properties, which QGIS drops when it opens a layer from
    the file by itself (qgis/QGIS#42223, measured with 3.22).
    """
    target, file = Path(path), Path(package)
    styles = _styles(file)
    source = _relative(file, target.parent.resolve())
    layers = [
        ProjectLayer(name, f"{source}|layername={name}", file.stem, drawn, styles[name])
        for name, drawn in shown.items()
        if name in styles
    ]
    _write(target, _document(target.stem, layers, crs_wkt, _extent(file)))


def _write(target: Path, root: Element) -> None:
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp.qgz")
    try:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            head = "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
            archive.writestr(f"{target.stem}.qgs", head + ElementTree.tostring(root, "unicode"))
        publish(temporary, target)
    except OSError as why:
        raise StoreError(f"cannot write {target}: {why}; {space_left(target)}") from why
    finally:
        temporary.unlink(missing_ok=True)


def _layers(folder: Path, start: Path) -> Iterator[ProjectLayer]:
    """Yield the layers of a map from the top of the legend to its bottom."""
    package = folder / "panoptic.gpkg"
    if package.exists():
        styles, others = _styles(package), other_styles()
        for name in ("seams_qa", "things", "stuff"):
            if name in styles:
                source = f"{_relative(package, start)}|layername={name}"
                yield ProjectLayer(name, source, "Polygons", name == "things", styles[name])
            if name in styles and name in others:
                by, drawn = others[name]
                yield ProjectLayer(f"{name} by {by}", source, "Polygons", False, drawn.to_qml())
    for name in ("instances", "semantic", "score"):
        raster = folder / f"{name}.tif"
        beside = raster.with_suffix(".qml")
        if raster.exists() and beside.exists():
            qml, shown = beside.read_text(encoding="utf-8"), name == "semantic"
            yield ProjectLayer(name, _relative(raster, start), "Rasters", shown, qml)


def _styles(package: Path) -> dict[str, str]:
    with closing(sqlite3.connect(f"file:{package}?mode=ro", uri=True)) as db:
        default = "SELECT f_table_name, styleQML FROM layer_styles WHERE useAsDefault = 1"
        return dict(db.execute(default))


def _scene(scene: str | os.PathLike[str] | None, start: Path) -> Iterator[ProjectLayer]:
    if scene is not None:
        text = os.fspath(scene)
        remote = "://" in text or text.startswith("/vsi")
        source = text if remote else _relative(Path(text), start)
        yield ProjectLayer("scene", source, "Scene", True, _RGB)


def _relative(file: Path, start: Path) -> str:
    way = Path(os.path.relpath(file.resolve(), start)).as_posix()
    return way if way.startswith("..") else f"./{way}"


_RGB = (
    '<qgis><pipe><rasterrenderer type="multibandcolor" redBand="1" greenBand="2" blueBand="3" '
    'alphaBand="-1" opacity="1"/></pipe></qgis>'
)


def _extent(package: Path) -> tuple[float, ...] | None:
    """Return the bounds of the polygons as the GeoPackage knows them."""
    if not package.exists():
        return None
    with closing(sqlite3.connect(f"file:{package}?mode=ro", uri=True)) as db:
        row: tuple[float, ...] = db.execute(
            "SELECT min(min_x), min(min_y), max(max_x), max(max_y) FROM gpkg_contents"
            " WHERE data_type = 'features'"
        ).fetchone()
    return None if None in row else row


def _document(
    title: str,
    layers: list[ProjectLayer],
    crs_wkt: str | None,
    extent: tuple[float, ...] | None,
) -> Element:
    root = Element("qgis", version="3.22.0", projectname=title)
    SubElement(root, "title").text = title
    _add_crs(SubElement(root, "projectCrs"), crs_wkt)
    tree = SubElement(root, "layer-tree-group")
    groups: dict[str, Element] = {}
    for layer in layers:
        if layer.group not in groups:
            groups[layer.group] = SubElement(
                tree, "layer-tree-group", name=layer.group, checked="Qt::Checked", expanded="1"
            )
        SubElement(
            groups[layer.group],
            "layer-tree-layer",
            id=layer.id,
            name=layer.name,
            source=layer.source,
            providerKey="ogr" if layer.is_vector else "gdal",
            checked="Qt::Checked" if layer.shown else "Qt::Unchecked",
            expanded="1" if layer.shown else "0",
        )
    canvas = SubElement(root, "mapcanvas", name="theMapCanvas", annotationsVisible="1")
    if extent is not None:
        corners = SubElement(canvas, "extent")
        for name, value in zip(("xmin", "ymin", "xmax", "ymax"), extent, strict=True):
            SubElement(corners, name).text = repr(value)
    _add_crs(SubElement(canvas, "destinationsrs"), crs_wkt)
    inside = SubElement(root, "projectlayers")
    for layer in layers:
        _add_layer(inside, layer, crs_wkt)
    properties = SubElement(root, "properties")
    system = SubElement(properties, "SpatialRefSys")
    SubElement(system, "ProjectionsEnabled", type="int").text = "1"
    SubElement(SubElement(properties, "Paths"), "Absolute", type="bool").text = "false"
    return root


def _add_layer(parent: Element, layer: ProjectLayer, crs_wkt: str | None) -> None:
    kind = {"type": "vector", "geometry": "Polygon"} if layer.is_vector else {"type": "raster"}
    made = SubElement(parent, "maplayer", kind)
    SubElement(made, "id").text = layer.id
    SubElement(made, "datasource").text = layer.source
    SubElement(made, "layername").text = layer.name
    _add_crs(SubElement(made, "srs"), crs_wkt)
    provider = SubElement(made, "provider", encoding="UTF-8")
    provider.text = "ogr" if layer.is_vector else "gdal"
    if layer.qml is not None:
        for part in ElementTree.fromstring(layer.qml):
            if part.tag in ("renderer-v2", "pipe", "temporal"):
                made.append(part)


def _add_crs(parent: Element, crs_wkt: str | None) -> None:
    if crs_wkt is None:
        return
    crs = pyproj.CRS.from_wkt(crs_wkt)
    authority = crs.to_authority()
    system = SubElement(parent, "spatialrefsys", nativeFormat="Wkt")
    SubElement(system, "wkt").text = crs_wkt
    if authority is not None:
        SubElement(system, "authid").text = ":".join(authority)
    SubElement(system, "description").text = crs.name

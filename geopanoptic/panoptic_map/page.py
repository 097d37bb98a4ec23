"""Gather what the report of a map tells: areas, scores, sizes, seams, pictures, the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj

from geopanoptic.errors import SceneError
from geopanoptic.georef import GeoRef
from geopanoptic.panoptic_map.map import PanopticMap
from geopanoptic.panoptic_map.tables import segment_areas_m2
from geopanoptic.raster import Panels, WorkingScene, jpeg_uri, read_panels
from geopanoptic.report.map_page import ClassRow, MapPage, SeamFacts, map_page
from geopanoptic.report.swipe import Overlay, Slide, png_uri
from geopanoptic.schema import NODATA, VOID, LabelSchema

_BINS = 20
_SEAM_COLORS = {"good": "#1b9e77", "fair": "#e6ab02", "poor": "#d95f02"}
_PALE = np.array([236, 239, 243], np.uint8)


def report_of(
    panoptic: PanopticMap, title: str | None = None, scene: WorkingScene | None = None
) -> str:
    """Return the HTML report of a map; `scene` is what it was made of, for the picture.

    Reads the tables, the overviews of the rasters (all of them where there are none), and the
    seams of panoptic.gpkg. Raises SceneError or StoreError when a file cannot be read.
    """
    georef, schema = panoptic.georef, panoptic.schema
    unit, scale = ("ha", 1e-4) if georef.has_metres else ("px", 1.0)
    total_m2 = float(georef.row_area_m2().sum() * georef.shape[1])
    total = total_m2 * scale if georef.has_metres else float(georef.shape[0] * georef.shape[1])
    classes, edges = _class_rows(panoptic, total, unit == "ha")
    panels, trouble = _panels(panoptic, scene)
    seams = _seam_table(panoptic)
    page = MapPage(
        title=title or Path(panoptic.name).stem,
        facts=_facts(panoptic),
        unit=unit,
        total=total,
        classes=classes,
        unclassified=total * _bare_share(panoptic),
        size_ticks=_size_ticks(edges),
        slides=_slides(panels, schema),
        sides=("scene", "map") if panels.scene is not None else ("classes", "objects"),
        overlays=_overlays(seams, georef, panels),
        seams=_seam_facts(seams, panoptic),
        made=_made(panoptic),
        record=dict(panoptic.info.run),
        notes=[*_notes(panoptic), *trouble],
    )
    return map_page(page)


def _panels(panoptic: PanopticMap, scene: WorkingScene | None) -> tuple[Panels, list[str]]:
    """Return the pictures, and why the scene is not among them though it was asked for.

    The report comes last in a long run: a scene that cannot be read any more costs it a picture.
    """
    shape, files = panoptic.georef.shape, _files(panoptic)
    if scene is not None:
        try:
            panels = read_panels(panoptic.read, shape, files, scene)
        except SceneError as why:
            return read_panels(panoptic.read, shape, files), [f"The scene is not shown: {why}"]
        said = "The scene is not shown: it has no overviews, and reading it all would take minutes."
        return panels, [said] if panels.scene is None else []
    return read_panels(panoptic.read, shape, files), []


def _files(panoptic: PanopticMap) -> tuple[Path, Path] | None:
    folder = panoptic.folder
    return None if folder is None else (folder / "semantic.tif", folder / "instances.tif")


def _bare_share(panoptic: PanopticMap) -> float:
    """Return the share of pixels without a class: nodata and void."""
    rows, cols = panoptic.georef.shape
    return 1.0 - int(panoptic.segment_table.area_px.sum()) / (rows * cols)


def _class_rows(
    panoptic: PanopticMap, total: float, metres: bool
) -> tuple[list[ClassRow], npt.NDArray[np.float64]]:
    """Return a row per class, largest first, and the edges of the size bins."""
    table = panoptic.segment_table
    area = segment_areas_m2(table, panoptic.georef) if metres else table.area_px.astype(float)
    things = np.isin(table.class_id, [c.id for c in panoptic.schema.things])
    edges = _size_edges(area[things & (area > 0)])
    rows = []
    for spec in panoptic.schema.classes:
        own = table.class_id == spec.id
        size, score = area[own], table.score[own]
        known = score[~np.isnan(score)]
        shown = float(size.sum()) * (1e-4 if metres else 1.0)
        row = ClassRow(
            spec.name, spec.kind, spec.color, shown, shown / total if total else 0.0,
            score=float(known.mean()) if len(known) else None,
        )  # fmt: skip
        if spec.is_thing:
            row = ClassRow(
                spec.name, spec.kind, spec.color, shown, row.share,
                count=int(own.sum()),
                median_m2=float(np.median(size)) if len(size) and metres else None,
                score=row.score,
                score_bins=_counts(known, np.linspace(0, 1, _BINS + 1)),
                size_bins=_counts(size, edges),
            )  # fmt: skip
        rows.append(row)
    return sorted(rows, key=lambda row: -row.area), edges


def _counts(values: npt.NDArray[Any], edges: npt.NDArray[np.float64]) -> tuple[int, ...]:
    return tuple(np.histogram(values, edges)[0].tolist()) if len(edges) > 1 else ()


def _size_edges(size: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return edges of whole decades that hold all sizes, three bins each and finer."""
    if not len(size):
        return np.zeros(0)
    low, high = np.floor(np.log10(size.min())), np.ceil(np.log10(size.max() * 1.0001))
    per_decade = max(4, round(_BINS / max(high - low, 1)))
    edges: npt.NDArray[np.float64] = np.logspace(low, high, int(high - low) * per_decade + 1)
    return edges


def _size_ticks(edges: npt.NDArray[np.float64]) -> list[tuple[float, str]]:
    if not len(edges):
        return []
    low, high = np.log10(edges[0]), np.log10(edges[-1])
    decades = range(round(low), round(high) + 1)
    return [((k - low) / (high - low), f"{10.0**k:,g}") for k in decades]


def _facts(panoptic: PanopticMap) -> list[tuple[str, str]]:
    georef, run, model = panoptic.georef, panoptic.info.run, panoptic.info.model
    rows, cols = georef.shape
    facts = [("scene", str(run["scene"]))] if run.get("scene") else []
    facts.append(("date", panoptic.date[:10]) if panoptic.date else ("date", "unknown"))
    if model.get("name"):
        facts.append(("model", f"{model['name']} {model.get('version', '')}".strip()))
    facts.append(("size", f"{cols:,} x {rows:,} px"))
    if georef.gsd_m is not None:
        facts.append(("GSD", f"{georef.gsd_m:.3g} m"))
    crs = "none" if georef.crs is None else pyproj.CRS.from_wkt(georef.crs).name
    return [*facts, ("CRS", crs)]


def _made(panoptic: PanopticMap) -> list[tuple[str, str]]:
    """Return the rows a reader asks for first; the run record has all."""
    run = panoptic.info.run
    read, grid, seconds = run.get("read") or {}, run.get("grid") or {}, run.get("seconds") or {}
    rows = [("program", f"geopanoptic {run['geopanoptic']}")] if "geopanoptic" in run else []
    if "uri" in read:
        uri = read["uri"]
        rows.append(("scene", uri if isinstance(uri, str) else f"{uri[0]} and {len(uri) - 1} more"))
        names = [n or f"band {b}" for n, b in zip(read["band_names"], read["bands"], strict=True)]
        rows.append(("bands read", ", ".join(names)))
    if "model" in run:
        sha = str(run.get("model_sha256", ""))[:12]
        rows.append(("model", f"{run['model']} {run.get('model_version', '')} ({sha})"))
    if "core" in grid:
        rows.append(
            ("tiles", f"{grid['tiles']:,} of {grid['core']} px with a halo of {grid['halo']} px")
        )
    if run.get("started"):
        rows.append(("started", str(run["started"])))
    stages = {k: v for k, v in seconds.items() if "." not in k}
    if stages:
        rows.append(("seconds", ", ".join(f"{k} {v:.1f}" for k, v in stages.items())))
    return rows


def _notes(panoptic: PanopticMap) -> list[str]:
    run = panoptic.info.run
    notes = [str(note) for note in (run.get("read") or {}).get("notes") or ()]
    failed = run.get("failed_tiles") or {}
    if failed:
        notes.append(f"{len(failed)} tiles failed; their pixels are nodata: {', '.join(failed)}")
    return notes


def _slides(panels: Panels, schema: LabelSchema) -> list[Slide]:
    classes, objects = (png_uri(p) for p in _map_pictures(panels, schema))
    if panels.scene is None:
        return [Slide("map", classes, objects)]
    scene = jpeg_uri(panels.scene)
    return [Slide("Classes", scene, classes), Slide("Objects", scene, objects)]


def _map_pictures(panels: Panels, schema: LabelSchema) -> tuple[Any, Any]:
    """Return the map by class, and its things each in a colour of its own on pale ground."""
    from geopanoptic.raster.style import golden_colour

    palette = np.full((256, 3), 255, np.uint8)
    palette[VOID] = 200
    for spec in schema.classes:
        palette[spec.id] = spec.rgb
    classes = palette[panels.classes]
    ids = np.where(np.isin(panels.classes, [c.id for c in schema.things]), panels.ids, 0)
    if panels.factor <= 4:  # else a thing has few pixels, and outlines would hide it
        line = np.zeros(ids.shape, bool)
        line[1:] |= ids[1:] != ids[:-1]
        line[:, 1:] |= ids[:, 1:] != ids[:, :-1]
        classes[line & (ids > 0)] //= 2
    taken = np.array([golden_colour(k) for k in range(64)], np.uint8)
    ground = np.where((panels.classes == NODATA)[..., None], np.uint8(255), _PALE)
    ground = (0.75 * ground + 0.25 * palette[panels.classes]).astype(np.uint8)
    objects = np.where((ids > 0)[..., None], taken[ids % 64], ground)
    return classes, objects


def _seam_table(panoptic: PanopticMap) -> Any:
    """Return the seams of panoptic.gpkg as a GeoDataFrame, None when there are none."""
    if panoptic.folder is None or not (panoptic.folder / "panoptic.gpkg").exists():
        return None
    import pyogrio

    package = panoptic.folder / "panoptic.gpkg"
    if "seams_qa" not in [str(row[0]) for row in pyogrio.list_layers(package)]:
        return None
    return pyogrio.read_dataframe(package, layer="seams_qa")


def _seam_facts(seams: Any, panoptic: PanopticMap) -> SeamFacts | None:
    if seams is None:
        return None
    counts = seams["quality"].value_counts()
    agreement = seams["agreement"].to_numpy(float)
    used = seams["candidates"].to_numpy() > 0
    worst = seams[used].nsmallest(5, "agreement")
    mean = panoptic.info.run.get("counts", {}).get("agreement")
    return SeamFacts(
        good=int(counts.get("good", 0)),
        fair=int(counts.get("fair", 0)),
        poor=int(counts.get("poor", 0)),
        agreement=float(mean) if mean is not None else None,
        joins=int(seams["joins"].sum()),
        refused=int(seams["refused"].sum()),
        bins=_counts(agreement[used], np.linspace(0, 1, _BINS + 1)),
        worst=tuple(
            (
                f"x {point.x:.6g}, y {point.y:.7g} (tiles {row.tile_a} and {row.tile_b})",
                float(row.agreement),
                int(row.candidates),
            )
            for row, point in zip(worst.itertuples(), worst.geometry.centroid, strict=True)
        ),
    )


def _overlays(seams: Any, georef: GeoRef, panels: Panels) -> list[Overlay]:
    """Draw the strips where tiles meet, coloured by how well they agree."""
    if seams is None or not len(seams):
        return []
    shape = panels.classes.shape
    picture = np.zeros((*shape, 4), np.uint8)
    bounds = seams.geometry.bounds.to_numpy()
    down, right = georef.rowcol(bounds[:, [0, 2]], bounds[:, [3, 1]])
    rows = np.rint(down * shape[0] / georef.shape[0]).astype(int)
    cols = np.rint(right * shape[1] / georef.shape[1]).astype(int)
    for quality in ("good", "fair", "poor"):  # the worst on top
        rgb = [int(_SEAM_COLORS[quality][k : k + 2], 16) for k in (1, 3, 5)]
        for k in np.flatnonzero((seams["quality"] == quality).to_numpy()):
            picture[rows[k, 0] : max(rows[k]), cols[k, 0] : max(cols[k])] = [*rgb, 110]
    legend = tuple(_SEAM_COLORS.items())
    return [Overlay("Overlaps of tiles, by agreement", png_uri(picture), legend, shown=False)]

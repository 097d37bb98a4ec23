"""Write everything a comparison leaves behind, under names that are given to it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geopanoptic.change.aligned import Offset, sample_bytes
from geopanoptic.change.compare import Compared, Pixels
from geopanoptic.change.layers import STATUS_COLORS, Dated, object_layers, object_styles
from geopanoptic.change.legend import from_to_legend
from geopanoptic.change.objects import Geometries
from geopanoptic.change.outputs import (
    Files,
    parameter_rows,
    patch_style,
    table_layer,
    write_json,
    write_transitions,
)
from geopanoptic.change.page import page
from geopanoptic.change.patches import LAYER, Confidence, Patches, PatchRules
from geopanoptic.change.pictures import Sheet, drawn_objects, sheet_of_objects
from geopanoptic.change.prepare import Told
from geopanoptic.change.rasters import write_codes, write_status
from geopanoptic.change.report import add_patches, make_report
from geopanoptic.grid import Window
from geopanoptic.panoptic_map.source import RasterSource, raster_facts
from geopanoptic.raster import LabelReader
from geopanoptic.report.swipe import Overlay, Slide
from geopanoptic.schema import LabelSchema
from geopanoptic.vector import write_gpkg

Images = tuple[str | None, str | None]


def write_files(
    compared: Compared, files: Files, images: Images, start: float, told: Told
) -> dict[str, Any]:
    """Write all files of a comparison; return the report. `start`: of the clock, monotonic."""
    report = make_report(compared)
    pixels = compared.pixels
    report["outputs"] = [p.name for p in files.all(pixels is not None)]
    if pixels is None:
        _write_package(compared, files.gpkg, report, None)
    else:
        _write_with_pixels(compared, pixels, files, report, told)
    report["seconds"] = round(time.monotonic() - start, 3)
    slides, overlays, legend = _pictures(compared, files, images)
    files.html.write_text(page(report, slides, overlays, legend), encoding="utf-8")
    write_json(files.json, report)
    return report


def _write_with_pixels(
    compared: Compared, pixels: Pixels, files: Files, report: dict[str, Any], told: Told
) -> None:
    schema, factor = pixels.maps.classes.schema, pixels.pair.factor
    block = compared.settings.block
    codes_file = pixels.work / "codes.tif"
    with LabelReader(codes_file) as codes:
        patches = Patches(
            codes, compared.grid, schema, factor,
            PatchRules(compared.rules.mmu_m2, compared.rules.tolerance_m),
            compared.dates, block, _confidence(pixels),
        )  # fmt: skip
        _write_package(compared, files.gpkg, report, patches)
    write_status(
        codes_file, files.gpkg, files.status, factor, block, lambda k, n: told("write", k, n)
    )
    write_codes(codes_file, files.codes, from_to_legend(pixels.counts.pixels, schema, factor))
    write_transitions(files.transitions, report["transitions"])


def _write_package(
    compared: Compared, path: Path, report: dict[str, Any], patches: Patches | None
) -> None:
    """Write the layers and tables; patches are traced while they are written."""
    dated = Dated(compared.events, compared.before, compared.after, compared.dates)
    layers: dict[Any, Any] = dict(object_layers(dated))
    styles = object_styles()
    schema = LabelSchema(())
    if patches is not None:
        schema = patches.schema
        layers[LAYER] = patches.batches()
        styles[LAYER.name] = patch_style([(c.name, c.color) for c in schema.classes])
        for name in ("transitions", "class_summary"):
            spec, batches = table_layer(name, report[name])
            layers[spec] = batches
    spec, batches = table_layer("parameters", parameter_rows(report))
    layers[spec] = batches
    write_gpkg(path, layers, compared.before.crs, schema, styles=styles)
    if patches is not None:
        add_patches(report, patches.totals)


def _confidence(pixels: Pixels) -> Confidence | None:
    """Return score before x score after of a window, where both maps keep score.tif."""
    sources = []
    for panoptic, side in (
        (pixels.maps.before, pixels.pair.before), (pixels.maps.after, pixels.pair.after),
    ):  # fmt: skip
        path = None if panoptic.folder is None else panoptic.folder / "score.tif"
        if path is None or not path.exists():
            return None
        sources.append((RasterSource(str(path)), raster_facts(path).georef, side.grid))

    def read(window: Window) -> Any:
        value = np.ones(window.shape, np.float32)
        for source, own, grid in sources:
            score, inside = sample_bytes(source, own, grid, window)
            known = inside & (score <= 200)
            value *= np.where(known, score / np.float32(200), np.float32(np.nan))
        return value

    return read


def _pictures(
    compared: Compared, files: Files, images: Images
) -> tuple[list[Slide], list[Overlay], Sequence[tuple[str, str]]]:
    pixels, offset = compared.pixels, compared.registration.applied
    dated = Dated(compared.events, compared.before, compared.after, compared.dates)
    shapes = _in_one_frame(dated, offset)
    status = np.concatenate(
        [
            compared.events.status_of(compared.events.event_of_before),
            compared.events.status_of(compared.events.event_of_after),
        ]
    )
    legend: tuple[tuple[str, str], ...] = ()
    if pixels is None:
        sheet = sheet_of_objects(shapes, compared.before.crs)
        if sheet is None:
            return [], [], ()
        slides = [drawn_objects(sheet, shapes, ("#d6191b", "#2166ac"))]
    else:
        schema = pixels.maps.classes.schema
        sheet = Sheet.of(compared.grid)
        slides = [sheet.maps(files.codes, schema, pixels.pair.factor)]
        legend = tuple((c.name, c.color) for c in schema.classes)
    shown = sheet.images(images, offset)
    slides = [shown, *slides] if shown is not None else slides
    overlays = []
    drawn = sheet.objects(np.concatenate(shapes), status, STATUS_COLORS)
    overlays += [drawn] if drawn is not None else []
    overlays += [sheet.land_cover(files.status)] if pixels is not None else []
    return slides, overlays, legend


def _in_one_frame(dated: Dated, offset: Offset) -> tuple[Geometries, Geometries]:
    after = dated.after
    if offset != (0.0, 0.0):
        after = after.moved(-offset[0], -offset[1])
    return dated.before.geometry, after.geometry

"""Stage 5: turn the finished rasters into products, each put in place whole or not at all."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from geopanoptic.panoptic_map import (
    MapInfo,
    PanopticMap,
    report_of,
    save_segments,
    stac_item,
    write_map_json,
)
from geopanoptic.predict.finished import Finished
from geopanoptic.predict.layers import write_layers
from geopanoptic.predict.plan import Plan
from geopanoptic.predict.settings import Products, instances_beside
from geopanoptic.raster import (
    publish_cog,
    write_instances_qml,
    write_preview,
    write_score_qml,
)
from geopanoptic.store import atomic_output, check_output
from geopanoptic.vector import regular_classes, write_project


def publish(finished: Finished, products: Products) -> tuple[Path, ...]:
    """Write every product of `products` from the finished rasters; return their paths.

    Each product is made beside its final name, verified, and renamed: a reader never sees half of
    one, and a failure leaves what stood there before.
    """
    plan, rasters = finished.plan, finished.rasters
    polygons: list[Path] = []  # whole-map polygons already written, to be copied
    for path in products.of_kind("map"):
        with atomic_output(path, products.overwrite) as folder:
            _write_map(folder, path, finished, products)
        polygons.append(path / "panoptic.gpkg")
    for path in products.of_kind("raster"):
        _write_pair(path, finished, products.overwrite)
    plain = products.classes is None and products.simplify_m is None
    plain &= not regular_classes(plan.card.schema, products.regularize)
    for path in products.of_kind("vector"):
        for file in products.files_of(path):
            check_output(file, products.overwrite)
        if plain and path.suffix == ".gpkg" and polygons:
            with atomic_output(path, products.overwrite) as temporary:
                shutil.copyfile(polygons[0], temporary)
        else:
            write_layers(path, finished, products)
        polygons += [path] if plain and path.suffix == ".gpkg" else []
    for path in products.of_kind("preview"):
        with atomic_output(path, products.overwrite) as temporary:
            labels = (rasters.semantic, rasters.instances)
            write_preview(temporary, plan.scene, labels, plan.card.schema)
    return products.paths


def _write_map(folder: Path, final: Path, finished: Finished, products: Products) -> None:
    """Write the files of a map directory into `folder`, which will be called `final`."""
    plan, rasters, run = finished.plan, finished.rasters, finished.run
    schema = plan.card.schema
    folder.mkdir()
    with ThreadPoolExecutor(1, thread_name_prefix="cog") as beside:
        # GDAL writes the rasters in a thread of its own while this one traces polygons.
        cogs = beside.submit(_write_rasters, folder, finished, products.scores)
        save_segments(folder, rasters.table, schema, rasters.georef)
        write_layers(
            folder / "panoptic.gpkg",
            finished,
            replace(products, classes=None, simplify_m=None, regularize=False),
        )
        cogs.result()
    date = plan.scene.scene.date
    info = MapInfo(
        schema=schema,
        date=date,
        model={"name": plan.card.name, "version": plan.card.version, "sha256": plan.card.sha256},
        run=run,
        counts=run["counts"],
    )
    write_map_json(folder, info)
    page = report_of(PanopticMap.open(folder), final.stem, plan.scene)
    (folder / "report.html").write_text(page, encoding="utf-8")
    files = [path.name for path in folder.iterdir()]
    item = stac_item(files, rasters.georef, schema, date=date, run=run, card=plan.card)
    (folder / "item.json").write_text(json.dumps(item, indent=1) + "\n", encoding="utf-8")
    project = folder / f"{final.stem}.qgz"
    write_project(project, folder, rasters.georef.crs, _picture(plan), final=final)


def _write_rasters(folder: Path, finished: Finished, scores: bool) -> None:
    rasters, schema = finished.rasters, finished.plan.card.schema
    publish_cog(rasters.semantic, folder / "semantic.tif", overviews="mode", palette=schema)
    publish_cog(rasters.instances, folder / "instances.tif", overviews="nearest")
    write_instances_qml(folder / "instances.qml", int(rasters.table.id.max(initial=0)))
    if scores:
        publish_cog(rasters.score, folder / "score.tif", overviews="nearest")
        write_score_qml(folder / "score.qml")


def _picture(plan: Plan) -> Path | None:
    """Return the scene's file where QGIS shows it as it is: a local one in 8-bit colours."""
    scene = plan.scene.scene
    plain = scene.dtype == "uint8" and scene.band_count >= 3 and len(scene.members) == 1
    return Path(scene.members[0]) if plain and Path(scene.members[0]).is_file() else None


def _write_pair(path: Path, finished: Finished, overwrite: bool) -> None:
    """Write NAME.tif and NAME.instances.tif, with their styles; `publish_cog` is atomic itself."""
    rasters, beside = finished.rasters, instances_beside(path)
    for final in (path, beside):
        check_output(final, overwrite)
    publish_cog(rasters.instances, beside, overviews="nearest")
    write_instances_qml(beside.with_suffix(".qml"), int(rasters.table.id.max(initial=0)))
    publish_cog(rasters.semantic, path, overviews="mode", palette=finished.plan.card.schema)

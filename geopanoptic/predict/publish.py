"""Stage 5: turn the finished rasters into products, each put in place whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
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
from geopanoptic.predict.settings import Products, instances_beside, product_kind
from geopanoptic.raster import (
    publish_cog,
    write_instances_qml,
    write_preview,
    write_score_qml,
)
from geopanoptic.store import atomic_outputs
from geopanoptic.vector import regular_classes, write_project


def publish(finished: Finished, products: Products) -> tuple[Path, ...]:
    """Write every product of `products` from the finished rasters; return their paths.

    All are made in hidden folders beside their final names, verified, and renamed when the last
    one is done: a reader never sees half of one, and after a failure what stood there before is
    untouched and the same command can be run again.
    """
    plan, rasters = finished.plan, finished.rasters
    plain = products.classes is None and products.simplify_m is None
    plain &= not regular_classes(plan.card.schema, products.regularize)
    polygons: list[Path] = []  # whole-map polygons already written, to be copied
    with ExitStack() as stack:
        # left in reverse order: the first product, entered first, gets its name last
        made = {path: stack.enter_context(_place(path, products)) for path in products.paths}
        for path in products.of_kind("map"):
            _write_map(made[path], path, finished, products)
            polygons.append(made[path] / "panoptic.gpkg")
        for path in products.of_kind("raster"):
            _write_pair(made[path], finished)
        for path in products.of_kind("vector"):
            copied = plain and path.suffix == ".gpkg"
            if copied and polygons:
                shutil.copyfile(polygons[0], made[path])
            else:
                write_layers(made[path], finished, products)
            polygons += [made[path]] if copied else []
        for path in products.of_kind("preview"):
            labels = (rasters.semantic, rasters.instances)
            write_preview(made[path], plan.scene, labels, plan.card.schema)
    return products.paths


@contextmanager
def _place(path: Path, products: Products) -> Iterator[Path]:
    """Yield where to make a product of one or more files, side by side, until it is published."""
    sides: tuple[Path, ...] = ()
    if product_kind(path) == "raster":
        beside = instances_beside(path)
        sides = (beside.with_suffix(".qml"), path.with_suffix(".qml"), Path(f"{path}.aux.xml"))
    with atomic_outputs(products.files_of(path), products.overwrite, sides) as folder:
        yield folder / path.name


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
        assert rasters.score is not None
        publish_cog(rasters.score, folder / "score.tif", overviews="nearest")
        write_score_qml(folder / "score.qml")


def _picture(plan: Plan) -> Path | None:
    """Return the scene's file where QGIS shows it as it is: a local one in 8-bit colours."""
    scene = plan.scene.scene
    plain = scene.dtype == "uint8" and scene.band_count >= 3 and len(scene.members) == 1
    return Path(scene.members[0]) if plain and Path(scene.members[0]).is_file() else None


def _write_pair(path: Path, finished: Finished) -> None:
    """Write NAME.tif and NAME.instances.tif, with their styles."""
    rasters, beside = finished.rasters, instances_beside(path)
    publish_cog(rasters.instances, beside, overviews="nearest")
    write_instances_qml(beside.with_suffix(".qml"), int(rasters.table.id.max(initial=0)))
    publish_cog(rasters.semantic, path, overviews="mode", palette=finished.plan.card.schema)

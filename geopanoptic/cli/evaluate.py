"""`geopanoptic evaluate`: score a map against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geopanoptic.cli.options import json_option, names


@click.command(short_help="Score a map against the truth: Panoptic Quality and more.")
@click.argument("pred", metavar="PRED")
@click.argument("truth", metavar="TRUTH")
@click.option(
    "--pair",
    "more",
    nargs=2,
    multiple=True,
    metavar="PRED TRUTH",
    help="One more pair; the statistics of all pairs are summed.",
)
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.json", help="Write all figures."
)
@click.option(
    "--errors",
    type=click.Path(path_type=Path),
    metavar="FILE.gpkg",
    help="Write every object with what became of it, styled for QGIS.",
)
@click.option(
    "--html",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Write a page with tables, bars and pictures of the mistakes.",
)
@click.option("--image", metavar="RASTER", help="Imagery behind the pictures of --html.")
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option(
    "--metrics",
    metavar="LIST",
    help="Of pq,pq-dagger,boundary-pq,miou,ap,f1,errors; default all but boundary-pq.",
)
@click.option(
    "--boundary-tolerance",
    metavar="1m|3px|0.02",
    help="Also boundary PQ: metres, pixels or a share of the diagonal.",
)
@click.option("--iou", default=0.5, show_default=True, help="Least IoU (exclusive) of F1.")
@click.option(
    "--min-area",
    default=0.0,
    metavar="M2",
    help="Leave smaller objects out of F1, AP and errors (m2; px without a CRS).",
)
@click.option(
    "--max-dets",
    type=int,
    metavar="N",
    help="AP counts N detections per image and class (COCO: 100); default all.",
)
@click.option(
    "--bootstrap",
    default=200,
    show_default=True,
    metavar="N",
    help="Replicates of the 95 % intervals; 0 = none.",
)
@click.option(
    "--pred-void",
    type=click.Choice(["miss", "ignore"]),
    default="miss",
    show_default=True,
    help="What void of the prediction on judged truth is.",
)
@click.option(
    "--stuff-segments",
    type=click.Choice(["auto", "merge", "keep"]),
    default="auto",
    show_default=True,
    help="One segment per stuff class, or those of the files; "
    "auto keeps them when both are COCO panoptic.",
)
@click.option(
    "--void-class",
    "void_classes",
    multiple=True,
    metavar="NAME",
    help="A truth class that is not judged; may be repeated.",
)
@click.option(
    "--series",
    is_flag=True,
    help="The pairs are the dates of one series, in time order, and an id is one object over "
    "time: also SCOT, VPQ, STQ. Of vector files: one pair with columns id and date.",
)
@click.option(
    "--vpq-windows",
    default=4,
    show_default=True,
    type=click.IntRange(min=1),
    metavar="K",
    help="VPQ over runs of 1 .. K dates.",
)
@click.option("--class-map", metavar="CSV", help="Truth classes to the prediction's: from,to.")
@click.option(
    "--resample-truth",
    type=click.Choice(["nearest"]),
    help="Bring the truth to the prediction's grid.",
)
@click.option("--aoi", metavar="FILE", help="Polygons to judge; void outside.")
@click.option("--mask", metavar="FILE", help="To leave out: raster where 0, or inside polygons.")
@click.option(
    "--crowd-field",
    metavar="NAME",
    help="Attribute of truth polygons that are to be ignored where it is true.",
)
@click.option(
    "--class-field", "truth_class_field", metavar="NAME", help="Class attribute of truth polygons."
)
@click.option("--pred-class-field", metavar="NAME", help="Class attribute of predicted polygons.")
@click.option(
    "--baseline",
    type=click.Path(path_type=Path),
    metavar="OLD.json",
    help="Show the difference to an earlier evaluation.",
)
@click.option(
    "--fail-below",
    multiple=True,
    metavar="NAME=VALUE",
    help="Exit with 4 when a figure is less, like pq=0.45, building.f1=baseline-0.01.",
)
@click.option(
    "--block",
    default=4096,
    show_default=True,
    type=click.IntRange(min=64),
    metavar="PX",
    help="Edge of the blocks read; changes no figure.",
)
@click.option(
    "--workers",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    metavar="N",
    help="Worker processes; 0 counts in threads of this process.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Use a running Dask cluster.")
@json_option
def evaluate(pred: str, truth: str, more: tuple[tuple[str, str], ...], as_json: bool,
             **given: Any) -> int:  # fmt: skip
    """Score the map PRED against TRUTH, exactly and over the whole scene.

    A map is a directory NAME.panoptic, a COCO panoptic X.json beside its folder X/,
    SEMANTIC.tif,INSTANCES.tif, a class raster, or a vector file of things.

    \b
    geopanoptic evaluate town.panoptic truth.gpkg
    geopanoptic evaluate town.panoptic truth.panoptic --html town.html --errors town-errors.gpkg
    geopanoptic evaluate pred.json truth.json --fail-below pq=0.45
    geopanoptic evaluate a20.panoptic t20.panoptic --pair a21.panoptic t21.panoptic --series
    geopanoptic evaluate tracks.gpkg truth.geojson --series
    """
    import time

    from geopanoptic.cli.progress import show_progress
    from geopanoptic.evaluate import EvaluateSettings, Outputs
    from geopanoptic.evaluate import evaluate as run
    from geopanoptic.evaluate.gate import Gate
    from geopanoptic.evaluate.page import table
    from geopanoptic.workers import EngineSpec
    from geopanoptic.workers.spec import available_cores

    start = time.monotonic()
    gate = Gate.read(given.pop("baseline"), given.pop("fail_below"))
    outputs = Outputs(
        given.pop("out"), given.pop("errors"), given.pop("html"),
        given.pop("overwrite"), given.pop("image"),
    )  # fmt: skip
    spec = EngineSpec(
        workers=given.pop("workers"),
        scheduler=given.pop("scheduler"),
        threads=min(available_cores(), 4),
    )
    walk = (given.pop("block"), show_progress())
    metrics = names(given.pop("metrics"))
    given["boundary"] = given.pop("boundary_tolerance")
    given["min_area_m2"] = given.pop("min_area")
    given["resample_truth"] = given["resample_truth"] is not None
    settings = EvaluateSettings(**given if metrics is None else given | {"metrics": metrics})
    preds, truths = [pred, *(p for p, _ in more)], [truth, *(t for _, t in more)]
    found = run(preds, truths, settings, outputs, spec, walk=walk)
    click.echo(found.to_json() if as_json else table(found.result), nl=False)
    for line in gate.differences(found.result):
        click.echo(line, err=as_json)
    broken = gate.broken(found.result)
    for line in broken:
        click.echo(line, err=True)
    click.echo(f"Done in {time.monotonic() - start:.1f} s.", err=True)
    return 4 if broken else 0

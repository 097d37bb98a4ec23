"""`geopanoptic area`: accuracies and error-adjusted areas from interpreted pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geopanoptic.cli.options import json_option, print_json


@click.command(short_help="Estimate areas with uncertainty from interpreted pixels.")
@click.argument("labelled", metavar="LABELLED", type=click.Path(path_type=Path))
@click.option(
    "--strata-from",
    metavar="RASTER|MAP|CHANGES",
    help="Count the strata's pixels here.  [default: the table in the sample]",
)
@click.option(
    "--strata",
    type=click.Choice(["classes", "transitions", "status"]),
    help="Which strata of --strata-from.",
)
@click.option("--sample", metavar="SAMPLE.gpkg", help="The sample that a blind copy belongs to.")
@click.option("--reference-field", metavar="NAME", help="The attribute with the answers.")
@click.option(
    "--out",
    "outs",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write .json with all figures, or an .html page; may be given several times.",
)
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@json_option
def area(labelled: Path, outs: tuple[Path, ...], as_json: bool, **given: Any) -> None:
    """Estimate accuracies and areas from pixels that people interpreted.

    Olofsson et al. 2014 when the strata are the map's classes, Stehman 2014 otherwise. Counting
    pixels is no estimate of area; both are shown side by side.

    \b
    geopanoptic area sample_labelled.gpkg --strata-from changes.tif
    geopanoptic area sample_blind.gpkg --out areas.json --out areas.html
    """
    from geopanoptic.area import EstimateSettings, estimate_areas
    from geopanoptic.area.report import area_table

    report = estimate_areas(labelled, EstimateSettings(**given), outs)
    if as_json:
        print_json(report.to_json())
        return
    click.echo(area_table(report), nl=False)
    for out in outs:
        click.echo(f"Wrote {out}")

"""`geopanoptic sample`: pixels to interpret, for an honest area."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geopanoptic.cli.options import json_option, print_json
from geopanoptic.errors import ConfigError


@click.command(short_help="Draw pixels to interpret, for areas with uncertainty.")
@click.argument("source", metavar="CHANGES|MAP|RASTER")
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="SAMPLE.gpkg",
    help="Where to write; SAMPLE_blind.gpkg, for the interpreter, lies beside it.",
)  # fmt: skip
@click.option(
    "--strata",
    type=click.Choice(["classes", "transitions", "status"]),
    help="What the strata are: classes of a map, transitions or status of a change.  "
    "[default: what the input has]",
)
@click.option(
    "--label",
    type=click.Choice(["classes", "transitions", "status"]),
    help="What the interpreter answers, when it is not the strata.",
)
@click.option(
    "--se", type=float, default=0.01, show_default=True,
    help="Wanted standard error of the overall accuracy.",
)  # fmt: skip
@click.option("--n", "units", type=int, help="How many pixels, instead of --se.")
@click.option(
    "--expected-accuracy",
    "accuracy",
    multiple=True,
    default=["0.8"],
    show_default=True,
    metavar="VALUE|STRATUM=VALUE",
    help="User's accuracy expected of all strata, or of one; may be repeated.",
)
@click.option(
    "--min-per-stratum", "least", type=int, default=50, show_default=True,
    help="Pixels in every stratum at least.",
)  # fmt: skip
@click.option(
    "--rare", type=float, default=0.0, metavar="SHARE",
    help="Put strata below this share of the area together.",
)  # fmt: skip
@click.option("--seed", type=int, default=1, show_default=True, help="Of the random numbers.")
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@json_option
def sample(source: str, out: Path, accuracy: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Draw a stratified random sample of pixels for people to interpret.

    Give SAMPLE_blind.gpkg to the interpreter (QGIS offers the classes in a list), then run
    `geopanoptic area`.

    \b
    geopanoptic sample changes.gpkg --strata status --se 0.01 --out sample.gpkg
    geopanoptic sample town.panoptic --out sample.gpkg --expected-accuracy building=0.9
    """
    from geopanoptic.area import SampleSettings, draw_sample

    settings = SampleSettings(accuracy=_accuracies(accuracy), **given)
    report = draw_sample(source, out, settings)
    if as_json:
        print_json(report.to_json())
        return
    wide = max(len(s["stratum"]) for s in report.strata)
    for s in report.strata:
        click.echo(f"{s['stratum']:<{wide}}  {s['share']:7.2%} of the area  {s['units']:>6} pixels")
    for warning in report.warnings:
        click.echo(f"Note: {warning}")
    for path in report.paths:
        click.echo(f"Wrote {path}")


def _accuracies(texts: tuple[str, ...]) -> dict[str, float]:
    """Read '0.8' and 'building=0.9'; '' names all other strata."""
    found = {}
    for text in texts:
        name, _, value = text.rpartition("=")
        try:
            found[name.strip()] = float(value)
        except ValueError as why:
            raise ConfigError(
                f"--expected-accuracy {text}: write a number, or STRATUM=NUMBER like building=0.9"
            ) from why
    return found

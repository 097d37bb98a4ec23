"""`geopanoptic bench`: measurements on the user's own scene and machine."""

from __future__ import annotations

from typing import Any

import click

from geopanoptic.cli.options import engine_options, engine_spec, json_option, print_json


@click.group(short_help="Measure a model on a scene.")
def bench() -> None:
    """Measure a model on your own scene."""


@bench.command("seams", short_help="How much does tiling show in the map of a scene?")
@click.argument("scene")
@click.option("--model", default=None, metavar="NAME|FILE", help="Model; see `geopanoptic models`.")
@click.option("--truth", metavar="MAP", help="Reference for the errors near seams.")
@click.option("--tile", "core", type=int, metavar="N", help="Tile core, pixels. [the card's]")
@click.option("--halo", type=int, metavar="N", help="Extra pixels around a core. [the card's]")
@engine_options
@json_option
def seams(scene: str, as_json: bool, **options: Any) -> None:
    """Measure how much tiling shows in the map of SCENE; no truth is needed.

    The scene is mapped with two tile grids half a tile apart, and in one window if it is small
    enough: where tiling does not show, the maps are equal (PQ 1).
    """
    from geopanoptic.models import DEFAULT_MODEL
    from geopanoptic.predict import Execution, PredictSettings, seam_report

    settings = PredictSettings(core=options["core"], halo=options["halo"])
    model, execution = options["model"] or DEFAULT_MODEL, Execution(engine=engine_spec(options))
    report = seam_report(scene, model, settings, execution, options["truth"])
    if as_json:
        print_json(report)
        return
    click.echo(f"{report['tiles']} tiles of {report['core']} px, halo {report['halo']} px")
    for title, key in (("two grids half a tile apart", "phase_shift"), ("one window", "untiled")):
        for name, q in (report[key] or {}).items():
            click.echo(f"PQ of {name}, tiled against {title}: {q['pq']:.3f} ({q['n']} matched)")
    near = report["near_seam"]
    if near and near["missed_near"] is not None:
        click.echo(
            f"not found within 32 px of a seam: {100 * near['missed_near']:.1f} % of "
            f"{near['objects_near']}; elsewhere {100 * (near['missed_away'] or 0):.1f} % of "
            f"{near['objects_away']} (reference: {near['reference']})"
        )

"""`geopanoptic bench`: measurements on the user's own scene and machine."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from geopanoptic.cli.options import engine_options, engine_spec, json_option, print_json


class _SpeedFirst(click.Group):
    """`bench SCENE` is `bench speed SCENE`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["speed", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_SpeedFirst, short_help="Measure a model on a scene.")
def bench() -> None:
    """Measure a model on your own scene and machine.

    \b
    How fast is it, how much memory does it take, what does it cost?
        geopanoptic bench scene.tif --price-per-hour 1.20
    How much does tiling show in the map?
        geopanoptic bench seams scene.tif
    """


@bench.command("speed", short_help="How fast, how much memory, at what cost? (the default)")
@click.argument("scene")
@click.option("--model", default=None, metavar="NAME|FILE", help="Model; see `geopanoptic models`.")
@click.option("--tile", "core", type=int, metavar="N", help="Tile core, pixels. [the card's]")
@click.option("--halo", type=int, metavar="N", help="Extra pixels around a core. [the card's]")
@click.option("--batch", type=click.IntRange(min=1), help="Tiles per network call.")
@click.option("--price-per-hour", type=float, metavar="P", help="Of this machine, any currency.")
@click.option(
    "--out", type=click.Path(path_type=Path), metavar="FILE.json", help="Keep the result."
)
@engine_options
@json_option
def speed(scene: str, as_json: bool, **options: Any) -> None:
    """Map SCENE into a temporary folder and tell what that took, beside the bare network."""
    from geopanoptic.models import DEFAULT_MODEL
    from geopanoptic.predict import Execution, PredictSettings, speed_report
    from geopanoptic.store import atomic_output, check_output

    if options["out"] is not None:
        check_output(options["out"], True, (".json",))
    settings = PredictSettings(core=options["core"], halo=options["halo"])
    execution = Execution(engine=engine_spec(options), batch=options["batch"])
    model = options["model"] or DEFAULT_MODEL
    report = speed_report(scene, model, settings, execution, options["price_per_hour"])
    report["date"] = datetime.now(UTC).date().isoformat()
    if options["out"] is not None:
        with atomic_output(options["out"], True) as path:
            path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print_json(report) if as_json else _print_speed(report)


def _print_speed(report: dict[str, Any]) -> None:
    """Print the report as a table of names and values; what was not measured is left out."""
    bare, overhead, host = report["bare"], report["overhead"], report["machine"]
    rows: list[tuple[str, Any, str]] = [
        ("scene", f"{report['shape'][1]} x {report['shape'][0]} px, {report['tiles']} tiles", ""),
        ("network", f"{report['model']} on {report['engine']}", ""),
        ("machine", f"{host['cores']} cores, {host['gpu'] or 'no GPU'}", ""),
        ("load before", host["load_before"], ".1f"),
        ("end to end, s", report["wall_s"], ".1f"),
        ("CPU of all processes, s", report["cpu_s"], ".1f"),
        ("speed, Mpx/s", report["mpx_per_s"], ".3f"),
        ("speed, km2/h", report["km2_per_hour"], ".2f"),
        ("peak memory of all processes, MB", report["peak_ram_mb"], ".0f"),
        ("peak memory on the GPU, MB", report["peak_vram_mb"], ".0f"),
        ("one forward pass alone, s", bare["wall_s_per_tile"], ".3f"),
        ("end to end / bare passes, wall", overhead["wall"], ".2f"),
        ("end to end / bare passes, CPU", overhead["cpu"], ".2f"),
        ("cost per 1000 km2", report["cost_per_1000_km2"], ".2f"),
        *((f"  stage {name}, s", value, ".2f") for name, value in report["stages"].items()),
    ]
    for name, value, form in rows:
        if value is not None:
            click.echo(f"{name:<36} {value:{form}}")


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

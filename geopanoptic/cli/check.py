"""`geopanoptic check`: does a map keep its promises?"""

from __future__ import annotations

import click

from geopanoptic.cli.options import json_option, print_json


@click.command(short_help="Check that a map keeps its promises.")
@click.argument("map_path", metavar="MAP")
@json_option
def check(map_path: str, as_json: bool) -> int:
    """Check that the panoptic map MAP keeps its promises; exit status 1 when it does not.

    Every valid pixel has one class; an instance lies on pixels of one thing class; raster, table
    and polygons agree pixel for pixel; counts and areas agree.
    """
    from geopanoptic.panoptic_map import check_map

    broken = check_map(map_path)
    if as_json:
        print_json({"ok": not broken, "broken": broken})
    else:
        for line in broken:
            click.echo(line)
        click.echo("The map keeps its promises." if not broken else f"{len(broken)} broken.")
    return 1 if broken else 0

"""`geopanoptic track`: follow objects over a series of dates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geopanoptic.cli.options import json_option, link_options, names, print_json
from geopanoptic.errors import ConfigError

# options whose values are kept in tracks.gpkg, so that later dates are tracked alike
_KEPT = (
    "max_gap", "split_policy", "confirm", "reference", "register", "max_shift_m", "link_rule",
    "link", "tolerance_m", "iou", "ratio", "max_object_shift_m", "least_observed", "compatible",
    "classes", "id_field", "class_field",
)  # fmt: skip


@click.command(short_help="Follow objects over a series of dates: one id each, splits, mergers.")
@click.argument("maps", metavar="DATE=MAP ...", nargs=-1)
@click.option(
    "--stac",
    type=click.Path(path_type=Path),
    metavar="ITEMS.json",
    help="Take the maps of STAC items (an item, a collection of items, a list).",
)
@click.option(
    "--glob",
    "pattern",
    metavar="PATTERN",
    help="Take all maps of that name, like 'maps/*.panoptic'; dates from map.json or the names.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="tracks.gpkg",
    help="Where to write; needed unless --append is given.",
)
@click.option(
    "--append",
    type=click.Path(path_type=Path),
    metavar="tracks.gpkg",
    help="Add later dates to this file; no id in it changes. Without --out it is replaced.",
)
@click.option(
    "--rasters",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="Also write track_ids_DATE.tif, first_change_date.tif, n_changes.tif, last_class.tif.",
)
@click.option(
    "--max-gap",
    default=2,
    show_default=True,
    metavar="N",
    help="A track ends when N dates in a row saw its place without it; clouds do not count.",
)
@click.option(
    "--split-policy",
    type=click.Choice(["largest", "new"]),
    default="largest",
    show_default=True,
    help="Who keeps the id when things split or merge: the part that shares most, or nobody.",
)
@click.option(
    "--confirm",
    default="2/3",
    show_default=True,
    metavar="K/M",
    help="Confirmed: seen at K of the first M dates that saw the place.",
)
@click.option("--reference", metavar="DATE", help="Whose frame and grid to use; default the first.")
@click.option(
    "--register",
    type=click.Choice(["auto", "none"]),
    default="auto",
    show_default=True,
    help="Whether to move dates that lie off the reference.",
)
@click.option(
    "--register-image",
    "images",
    multiple=True,
    metavar="DATE=FILE",
    help="Imagery to measure offsets on instead of the maps (also of the reference); repeatable.",
)
@link_options
@click.option(
    "--mask",
    "masks",
    multiple=True,
    metavar="DATE=FILE",
    help="What a date did not see (cloud): raster where 0, or inside polygons; repeatable.",
)
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@json_option
@click.pass_context
def track(ctx: click.Context, /, maps: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Follow the objects of maps of several dates.

    A map is a directory NAME.panoptic, SEMANTIC.tif,INSTANCES.tif, a COCO panoptic X.json or a
    vector file of things. Dates are ISO 8601; a year or a month stands for its first day.

    \b
    geopanoptic track 2018=a.panoptic 2020=b.panoptic 2022-05=c.panoptic --out tracks.gpkg
    geopanoptic track --glob 'maps/*.panoptic' --out tracks.gpkg --rasters tracks
    geopanoptic track 2024=d.panoptic --append tracks.gpkg
    """
    from geopanoptic.cli.progress import show_progress
    from geopanoptic.track import TrackOutputs, from_glob, from_stac, read_pair
    from geopanoptic.track import track as run

    dated = [read_pair(m) for m in maps]
    stac, pattern = given.pop("stac"), given.pop("pattern")
    dated += from_stac(stac) if stac is not None else []
    dated += from_glob(pattern) if pattern is not None else []
    out, append = given.pop("out"), given.pop("append")
    if out is None and append is None:
        raise click.UsageError("name the file to write with --out tracks.gpkg", ctx)
    if append is not None:
        _refuse_other_settings(ctx)
    outputs = TrackOutputs(
        append if out is None else out, append, given.pop("rasters"), given.pop("overwrite")
    )
    found = run(dated, outputs, _settings(given), progress=show_progress())
    if as_json:
        print_json(found.report | {"out": str(outputs.package)})
        return
    click.echo(summary(found.report))
    click.echo(f"Wrote {outputs.package} in {found.report['seconds']:.1f} s.", err=True)


def _settings(given: dict[str, Any]) -> Any:
    from geopanoptic.track import TrackSettings, read_pair

    seen, slash, of = given.pop("confirm").partition("/")
    if not (slash and seen.isdigit() and of.isdigit()):
        raise ConfigError(f"--confirm {seen}{slash}{of}: write K/M, like 2/3")
    masks, images = ([read_pair(m) for m in given.pop(k)] for k in ("masks", "images"))
    return TrackSettings(
        confirm_seen=int(seen),
        confirm_of=int(of),
        compatible=tuple(names(c) or () for c in given.pop("compatible")),
        masks=tuple((m.date, str(m.map)) for m in masks),
        images=tuple((m.date, str(m.map)) for m in images),
        classes=names(given.pop("classes")),
        **given,
    )


def _refuse_other_settings(ctx: click.Context) -> None:
    """Raise ConfigError for settings given with --append: the file has its own."""
    source = click.core.ParameterSource.COMMANDLINE
    given = [k for k in _KEPT if ctx.get_parameter_source(k) == source]
    if given:
        options = {p.name: p.opts[-1] for p in ctx.command.params}
        shown = ", ".join(f"{options[k]}" for k in given)
        raise ConfigError(
            f"--append keeps the settings of the file, so that no id changes; leave out {shown}, "
            f"or track all dates anew"
        )


def summary(report: dict[str, Any]) -> str:
    """Return the table of the terminal: one line per date and class, then totals."""
    columns = ("date", "class", "count", "area_m2", "added", "removed", "split", "merged")
    rows = [list(columns)]
    rows += [
        [f"{r[c]:.0f}" if c == "area_m2" else str(r[c]) for c in columns]
        for r in report["timeline"]
    ]
    wide = [max(len(row[k]) for row in rows) for k in range(len(columns))]
    lines = [
        "  ".join(
            cell.ljust(w) if k < 2 else cell.rjust(w)
            for k, (cell, w) in enumerate(zip(row, wide, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines += [
        "",
        f"{report['tracks']} tracks of {report['objects']} objects at {len(report['dates'])} "
        f"dates, {report['confirmed']} confirmed",
    ]
    lines += [f"Note: {w}" for w in report["warnings"]]
    return "\n".join(lines)

"""`geopanoptic change`: what has changed between two dates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geopanoptic.cli.options import json_option, link_options, names, print_json

if TYPE_CHECKING:
    from geopanoptic.change import ChangeSettings, Running


@click.command(short_help="Compare two dates: objects, land cover, areas.")
@click.argument("before", metavar="BEFORE")
@click.argument("after", metavar="AFTER")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.gpkg",
    help="Layers of events, objects, links and land-cover change; rasters, tables and reports are "
    "written beside it.",
)
@click.option(
    "--grid",
    default="before",
    show_default=True,
    metavar="before|after|finest|EPSG:N+SIZE",
    help="Pixels on which the maps are compared.",
)
@click.option(
    "--register",
    default="auto",
    show_default=True,
    metavar="auto|none|DX,DY",
    help="Find how far the after map is displaced and move it back; do not; or move it back by so "
    "many metres east and north.",
)
@click.option(
    "--register-images",
    nargs=2,
    default=None,
    metavar="BEFORE.tif AFTER.tif",
    help="Measure the offset on these images instead of the maps. [with --predict: the scenes]",
)
@link_options
@click.option("--mask-before", metavar="FILE", help="Not seen before: raster where 0, or polygons.")
@click.option("--mask-after", metavar="FILE", help="Not seen after: raster where 0, or polygons.")
@click.option(
    "--mmu",
    "mmu_m2",
    default=0.0,
    metavar="M2",
    help="Minimum mapping unit: smaller objects and patches stay out of the headline counts.",
)
@click.option("--date-before", metavar="YYYY-MM-DD", help="If the map does not say.")
@click.option("--date-after", metavar="YYYY-MM-DD", help="If the map does not say.")
@click.option("--images", nargs=2, default=None, metavar="BEFORE.tif AFTER.tif",
              help="Images to swipe in the report.")  # fmt: skip
@click.option("--predict", "predicts", is_flag=True, help="BEFORE and AFTER are scenes: map them.")
@click.option("--model", metavar="NAME|FILE", help="Model of --predict; see `geopanoptic models`.")
@click.option(
    "--device",
    default="auto",
    show_default=True,
    metavar="auto|cpu|cuda[:N]",
    help="Where the network of --predict runs.",
)
@click.option(
    "--block",
    default=1024,
    show_default=True,
    type=click.IntRange(min=64, max=4096),
    metavar="PX",
    help="Edge of the blocks read; changes no figure.",
)
@click.option(
    "--threads", type=click.IntRange(min=1), metavar="N", help="Threads that read and count."
)
@click.option("--overwrite", is_flag=True, help="Replace outputs that exist.")
@click.option("--fail-on-change", is_flag=True, help="Exit with 3 when something has changed.")
@json_option
def change(before: str, after: str, out: Path, as_json: bool, **given: Any) -> int:
    """Compare two dates of the same ground: BEFORE and AFTER.

    A date is a map directory NAME.panoptic, SEMANTIC.tif,INSTANCES.tif, a COCO panoptic X.json, or
    a vector file (objects only). CRS, pixel size and extent may differ. Clouds and nodata are not
    change: what one date did not see is `unobserved`.

    \b
    geopanoptic change 2011.panoptic 2024.panoptic --out changes.gpkg
    geopanoptic change roofs-2019.gpkg roofs-2024.geojson --out changes.gpkg --mmu 20
    geopanoptic change before.tif after.tif --predict --out changes.gpkg
    """
    import time

    from geopanoptic.change import change as run
    from geopanoptic.change.page import text

    start = time.monotonic()
    fails, overwrite, predicts = (given.pop(k) for k in ("fail_on_change", "overwrite", "predicts"))
    model, device = given.pop("model"), given.pop("device")
    settings, running = _nouns(given, quiet=as_json)
    if predicts:
        _predict_both((before, after), out, (model, device), settings, running)
        settings, running = _with_scenes((before, after), settings, running)
        before, after = (str(_map_of(out, side)) for side in ("before", "after"))
    found = run(before, after, out, settings, overwrite=overwrite, running=running)
    if as_json:
        print_json(found.report)
    else:
        click.echo(text(found.report), nl=False)
        for path in found.files.values():
            if path.suffix in (".gpkg", ".tif", ".html"):
                click.echo(f"Wrote {path}")
    click.echo(f"Done in {time.monotonic() - start:.1f} s.", err=True)
    return 3 if fails and found.has_changed else 0


def _nouns(given: dict[str, Any], *, quiet: bool) -> tuple[ChangeSettings, Running]:
    """Sort the flat options of the command line into settings and how to run."""
    from geopanoptic.change import ChangeSettings, Running
    from geopanoptic.cli.progress import show_progress

    images = given.pop("images") or given["register_images"] or (None, None)
    running = Running(given.pop("threads"), images, None if quiet else show_progress())
    given["classes"] = names(given["classes"])
    given["compatible"] = tuple(names(group) or () for group in given["compatible"])
    return ChangeSettings(**given), running


def _map_of(out: Path, side: str) -> Path:
    """Return where --predict keeps the map of a side: beside the output."""
    return out.with_name(f"{out.stem}_{side}.panoptic")


def _predict_both(
    scenes: tuple[str, str],
    out: Path,
    model: tuple[str | None, str],
    settings: ChangeSettings,
    running: Running,
) -> None:
    """Map both scenes with one model; a map that is there already is kept.

    One that another scene, model or version has made is made anew, and an interrupted one goes on
    where it stopped.
    """
    from geopanoptic.change.outputs import Files
    from geopanoptic.models import DEFAULT_MODEL
    from geopanoptic.predict import Execution, PredictSettings, Products
    from geopanoptic.predict import run as predict
    from geopanoptic.workers import EngineSpec

    Files(out).check_name()
    name = model[0] or DEFAULT_MODEL
    dates = settings.date_before, settings.date_after
    for scene, side, date in zip(scenes, ("before", "after"), dates, strict=True):
        path = _map_of(out, side)
        if not _is_made(path, scene, name):
            click.echo(f"Mapping {scene} with {name}", err=True)
            predict(
                scene,
                name,
                Products.to([path], overwrite=True),
                PredictSettings(date=date),
                Execution(EngineSpec(device=model[1]), progress=running.progress),
            )


def _with_scenes(
    scenes: tuple[str, str], settings: ChangeSettings, running: Running
) -> tuple[ChangeSettings, Running]:
    """Use the scenes where they are better than their maps: to register by, and to look at.

    What a model makes of two dates differs by more than the offset between them.
    """
    from dataclasses import replace

    if settings.register_images is None and settings.register == "auto":
        settings = replace(settings, register_images=scenes)
    if running.images == (None, None):
        running = replace(running, images=scenes)
    return settings, running


def _is_made(path: Path, scene: str, model: str) -> bool:
    """Tell whether this version has made a map of this scene, as it is now, with this model."""
    if not (path / "map.json").is_file():
        return False
    from geopanoptic import __version__
    from geopanoptic.models import read_card
    from geopanoptic.panoptic_map import read_map_json

    made = read_map_json(path).run
    file = Path(scene)
    return (
        made.get("geopanoptic") == __version__
        and made.get("read", {}).get("uri") == scene
        and made.get("model_sha256") == read_card(model).sha256
        and not made.get("failed_tiles")
        and file.is_file()
        and file.stat().st_mtime < (path / "map.json").stat().st_mtime
    )

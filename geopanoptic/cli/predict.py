"""`geopanoptic predict`: the main job."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from geopanoptic.cli.options import (
    engine_options,
    engine_spec,
    json_option,
    names,
    numbers,
    print_json,
    regularize_option,
)

if TYPE_CHECKING:
    from geopanoptic.predict import Execution, Outcome, PredictSettings, Products


@click.command(short_help="Make a panoptic map of a scene.")
@click.argument("scene")
@click.option(
    "--out",
    "outs",
    multiple=True,
    metavar="PATH",
    help="Where to write; may be given several times. The suffix picks the product: .gpkg "
    ".parquet .fgb .geojson (polygons), .tif (class raster, with NAME.instances.tif beside it), "
    ".panoptic (the whole map, a folder), .png (a preview).",
)
@click.option("--model", default=None, metavar="NAME|FILE", help="Model; see `geopanoptic models`.")
@click.option("--classes", metavar="A,B", help="Only these classes in polygon files.")
@click.option("--gsd", "gsd_m", type=float, metavar="METRES", help="Work at this pixel size.")
@click.option(
    "--grid",
    type=click.Choice(["working", "scene"]),
    default=None,
    help="Pixel grid of the rasters: the one the model saw, or the scene's own. [working]",
)
@click.option("--bands", metavar="1,2,3", help="Bands to read as the model's, by number.")
@click.option(
    "--tta",
    type=click.Choice(["none", "flips"]),
    default="none",
    show_default=True,
    help="Test-time augmentation: flips averages over mirror images, at four times the work.",
)
@click.option(
    "--engine",
    type=click.Choice(["auto", "torch", "torch_compile", "openvino", "onnxruntime"]),
    default="auto",
    show_default=True,
    help="What carries out the network; auto takes the best that is installed for the model.",
)
@click.option(
    "--precision",
    type=click.Choice(["auto", "fp32", "bf16", "fp16", "int8"]),
    default="auto",
    show_default=True,
    help="What it computes in; auto takes int8 where the processor is fast in it and the model's "
    "card tells that it agrees with fp32.",
)
@click.option("--nodata", type=float, metavar="V", help="Pixel value that means no measurement.")
@click.option("--mask", metavar="FILE", help="Raster; leave out pixels that are 0 there.")
@click.option("--aoi", metavar="FILE", help="Polygons; leave out pixels outside of them.")
@click.option("--date", metavar="YYYY-MM-DD", help="Date of the scene, if the file does not say.")
@click.option(
    "--min-area", "min_area_m2", type=float, metavar="M2", help="Drop smaller objects. [the card's]"
)
@click.option(
    "--simplify", "simplify_m", type=float, metavar="METRES", help="Simplify polygon outlines."
)
@regularize_option
@click.option("--scores", is_flag=True, help="Also write the confidence of every pixel.")
@click.option("--tile", "core", type=int, metavar="N", help="Tile core, pixels. [the card's]")
@click.option("--halo", type=int, metavar="N", help="Extra pixels around a core. [the card's]")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    help="Tiles per network call; halved where memory runs out. [1 on a CPU, 4 on a GPU]",
)
@engine_options
@click.option(
    "--work-dir", metavar="DIR", help="Keep finished tiles here: a folder, or s3://bucket/job."
)
@click.option("--fresh", is_flag=True, help="Forget the finished tiles of an earlier run.")
@click.option("--config", type=click.Path(path_type=Path), help="YAML file with these options.")
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@click.option("--dry-run", is_flag=True, help="Only print tiles, memory, disk and time.")
@json_option
def predict(scene: str, **options: Any) -> int:
    """Make a panoptic map of SCENE: a GeoTIFF, COG, VRT, JPEG2000, local, s3:// or https://.

    \b
    Buildings and land cover as polygons, styled for QGIS:
        geopanoptic predict scene.tif --out buildings.gpkg
    The whole map, with rasters:
        geopanoptic predict scene.tif --out scene.panoptic
    What would it take?
        geopanoptic predict scene.tif --out buildings.gpkg --dry-run

    An interrupted run goes on when the same command is given again.
    """
    from geopanoptic.models import DEFAULT_MODEL
    from geopanoptic.predict import dry_run, run

    settings, products, execution = _nouns(_with_config(options))
    model = options["model"] or DEFAULT_MODEL
    if options["dry_run"]:
        found = dry_run(scene, model, settings, execution)
        print_json(found) if options["as_json"] else _print_estimate(found)
        return 0
    outcome = run(scene, model, products, settings, execution)
    _print_outcome(outcome, as_json=options["as_json"])
    return 5 if outcome.failed_tiles else 0


def _with_config(options: dict[str, Any]) -> dict[str, Any]:
    """Fill options that were not given from --config; the command line wins."""
    if options["config"] is None:
        return options
    from geopanoptic.config import read_yaml
    from geopanoptic.errors import ConfigError, nearest_name

    known = {_option_name(k): k for k in options if k not in ("config", "as_json", "dry_run")}
    context = click.get_current_context()
    for name, value in read_yaml(options["config"]).items():
        if name not in known:
            raise ConfigError(
                f"{options['config']}: unknown option '{name}'{nearest_name(name, known)}"
            )
        key = known[name]
        source = context.get_parameter_source(key)
        if source is None or source.name == "DEFAULT":
            joined = ",".join(map(str, value)) if isinstance(value, list) else value
            options[key] = (
                tuple([value] if isinstance(value, str) else value) if key == "outs" else joined
            )
    return options


def _option_name(key: str) -> str:
    spelled = {"outs": "out", "gsd_m": "gsd", "min_area_m2": "min-area", "simplify_m": "simplify"}
    return spelled.get(key, {"core": "tile"}.get(key, key.replace("_", "-")))


def _nouns(options: dict[str, Any]) -> tuple[PredictSettings, Products, Execution]:
    """Sort the flat options of the command line into the three nouns of a run."""
    from geopanoptic.predict import Execution, PredictSettings, Products

    given = {f.name: options[f.name] for f in fields(PredictSettings) if f.name in options}
    given["bands"] = numbers(options["bands"], "--bands")
    given["grid"] = options["grid"] or "working"
    settings = PredictSettings(**given)
    products = Products.to(
        options["outs"],
        classes=names(options["classes"]),
        simplify_m=options["simplify_m"],
        regularize=options["regularize"],
        scores=options["scores"],
        overwrite=options["overwrite"],
    )
    from geopanoptic.cli.progress import show_progress

    execution = Execution(
        engine=engine_spec(options),
        work_dir=options["work_dir"],
        fresh=options["fresh"],
        batch=options["batch"],
        progress=None if options["as_json"] else show_progress(),
    )
    return settings, products, execution


def _print_estimate(found: dict[str, Any]) -> None:
    gsd = f"{found['gsd_m']:.3f} m" if found["gsd_m"] else "unknown (no CRS)"
    click.echo(
        f"{found['shape'][1]} x {found['shape'][0]} px at GSD {gsd}\n"
        f"model {found['model']} on {found['engine']}\n"
        f"{found['tiles']} tiles in {found['regions']} regions\n"
        f"about {found['seconds']:.0f} s, {found['ram_mb']:.0f} MB of memory, "
        f"{found['work_mb']:.0f} MB of disk while it runs"
    )


def _print_outcome(outcome: Outcome, *, as_json: bool) -> None:
    record = outcome.record
    if as_json:
        print_json(
            {
                "outputs": [str(p) for p in outcome.paths],
                "engine": record.engine,
                "counts": record.counts,
                "seconds": {k: round(v, 3) for k, v in record.seconds.items()},
                "failed_tiles": record.failed_tiles,
            }
        )
    else:
        by_class = record.counts.get("things_by_class", {})
        found = ", ".join(f"{n} {name}{'' if n == 1 else 's'}" for name, n in by_class.items())
        click.echo(f"Network on {record.engine}.", err=True)
        click.echo(f"Found {found or 'no objects'}.")
        for path in outcome.paths:
            click.echo(f"Wrote {path}")
    if outcome.failed_tiles:
        click.echo(f"{len(outcome.failed_tiles)} tiles failed; there the map is nodata:", err=True)
        for reason in outcome.failed_tiles.values():
            click.echo(f"  {reason}", err=True)

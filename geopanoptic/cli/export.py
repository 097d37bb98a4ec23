"""`geopanoptic export`: a map in another format."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geopanoptic.cli.options import json_option, names, print_json, regularize_option


@click.command(short_help="Write a map in another format.")
@click.argument("map_path", metavar="MAP")
@click.option(
    "--out",
    "outs",
    required=True,
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Where to write; may be given several times. .gpkg .parquet .fgb .geojson .pmtiles: "
    "polygons; .json: COCO panoptic with a folder of PNGs; .tif: class x divisor + instance; "
    ".html: a report; .panoptic: a map directory.",
)
@click.option("--classes", metavar="A,B", help="Only these classes in polygon files.")
@click.option(
    "--min-area", "min_area_m2", type=float, default=0.0, metavar="M2", help="Drop smaller ones."
)
@click.option(
    "--simplify",
    "simplify_m",
    type=float,
    default=0.0,
    metavar="METRES",
    help="Simplify polygon outlines.",
)
@regularize_option
@click.option("--tile", type=click.IntRange(min=64), metavar="N", help="Cut COCO images of N px.")
@click.option(
    "--divisor",
    type=click.IntRange(min=2),
    default=1000,
    show_default=True,
    help="Of packed ids; 1000 gives Cityscapes ids.",
)
@click.option("--scene", metavar="RASTER", help="What a report shows beside the map.")
@click.option(
    "--from-ids",
    type=click.IntRange(min=2),
    metavar="DIVISOR",
    help="MAP is one raster of class x DIVISOR + instance; Cityscapes: 1000.",
)
@click.option("--image", metavar="ID", help="Which image, when MAP is a COCO file with several.")
@click.option("--like", metavar="RASTER", help="Put the map on the ground where this raster lies.")
@click.option("--classes-of", metavar="MAP", help="Class names of a raster that has none.")
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@json_option
def export(map_path: str, outs: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Write the panoptic map MAP in another format; the suffix picks it.

    \b
    geopanoptic export scene.panoptic --out buildings.parquet --classes building
    geopanoptic export scene.panoptic --out coco.json --tile 1024
    geopanoptic export coco.json --like scene.tif --out scene.panoptic
    geopanoptic export aachen_instanceIds.png --from-ids 1000 --out aachen.panoptic
    """
    from geopanoptic.export import ExportSettings, MapOpening
    from geopanoptic.export import export as write

    opening = MapOpening(
        ids=options.pop("from_ids"),
        image=options.pop("image"),
        like=options.pop("like"),
        schema_of=options.pop("classes_of"),
    )
    classes = options.pop("classes")
    settings = ExportSettings(classes=names(classes), opening=opening, **options)
    for out in outs:
        write(map_path, out, settings)
        if not as_json:
            click.echo(f"Wrote {out}")
    if as_json:
        print_json({"outputs": [str(out) for out in outs]})

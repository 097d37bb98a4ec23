"""`geopanoptic models`: which models there are, what a card promises, other forms of a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from geopanoptic.cli.options import json_option, print_json

_OUT = click.option("--out", required=True, type=click.Path(path_type=Path), metavar="FILE.onnx")
_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace an existing file.")


@click.group(short_help="List the models, or show one model's card.", invoke_without_command=True)
@click.pass_context
def models(ctx: click.Context) -> None:
    """List the models, show one model's card, or write a model in another form."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_command)


@models.command("list")
@json_option
def list_command(as_json: bool = False) -> None:
    """List the bundled models."""
    from geopanoptic.models import list_models

    cards = list_models()
    if as_json:
        print_json([card.to_json() for card in cards])
        return
    for card in cards:
        low, high = card.gsd_range_m
        click.echo(
            f"{card.name} {card.version}: {', '.join(card.schema.names)}; "
            f"bands {', '.join(card.bands)}; GSD {low:g} to {high:g} m "
            f"(best {card.preferred_gsd_m:g} m); {card.licence}"
        )


@models.command("show")
@click.argument("name")
def show_command(name: str) -> None:
    """Print the card of the model NAME (a bundled name, a file, `A + B`) as JSON."""
    from geopanoptic.models import read_card

    print_json(read_card(name).to_json())


@models.command("export")
@click.argument("name")
@_OUT
@_OVERWRITE
def export_command(name: str, out: Path, overwrite: bool) -> None:
    """Write the dense model NAME as one ONNX file with its card inside.

    \b
        geopanoptic models export landcover-v1 --out landcover.onnx
        geopanoptic predict scene.tif --model landcover.onnx --out buildings.gpkg
    """
    from geopanoptic.models.checkpoint import model_path
    from geopanoptic.models.engines.quantize import exported_model

    _check(out, overwrite)
    data, _ = exported_model(model_path(name))
    _write(out, data, overwrite)


@models.command("quantize")
@click.argument("name")
@click.argument("scene")
@_OUT
@click.option("--chips", default=24, show_default=True, type=click.IntRange(2, 500))
@_OVERWRITE
@json_option
def quantize_command(
    name: str, scene: str, out: Path, chips: int, overwrite: bool, as_json: bool
) -> None:
    """Write the 8-bit twin of the dense model NAME, calibrated on chips of SCENE.

    Half of the chips calibrate, on the other half it is compared with NAME. Whether it is good
    enough is yours to say: predict with both and `geopanoptic evaluate` against labels.
    """
    from geopanoptic.models.checkpoint import model_path
    from geopanoptic.models.engines.quantize import quantized_model
    from geopanoptic.predict.sample_chips import sample_chips

    _check(out, overwrite)
    pixels = sample_chips(scene, name, chips)
    data, _, found = quantized_model(model_path(name), pixels)
    _write(out, data, overwrite)
    told: dict[str, Any] = {
        "out": str(out), "class_agreement": found.classes, "things_pq": found.things_pq,
        "chips": found.chips,
    }  # fmt: skip
    if as_json:
        print_json(told)
    else:
        click.echo(
            f"On {found.chips} chips {found.classes:.2%} of pixels have the class of {name}, and "
            f"its things agree with PQ {found.things_pq:.3f}."
        )


def _check(out: Path, overwrite: bool) -> None:
    from geopanoptic.store import check_output

    check_output(out, overwrite, suffixes=(".onnx",))


def _write(out: Path, data: bytes, overwrite: bool) -> None:
    from geopanoptic.store import atomic_output

    with atomic_output(out, overwrite) as temporary:
        temporary.write_bytes(data)
    click.echo(f"Wrote {out}", err=True)

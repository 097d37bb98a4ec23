"""`geopanoptic models`: which models there are, what a card promises, other forms of a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from geopanoptic.cli.options import json_option, print_json

_OVERWRITE = click.option("--overwrite", is_flag=True, help="Replace an existing file.")


def _out(metavar: str) -> Callable[[Any], Any]:
    return click.option("--out", required=True, type=click.Path(path_type=Path), metavar=metavar)


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
@_out("FILE.onnx|FILE.xml")
@_OVERWRITE
def export_command(name: str, out: Path, overwrite: bool) -> None:
    """Write the dense model NAME as a graph with its card inside, the suffix tells which.

    \b
    .onnx  one file, which `--model` takes, too
    .xml   OpenVINO's, with the weights in a .bin beside it

    \b
        geopanoptic models export landcover-v3 --out landcover.onnx
        geopanoptic predict scene.tif --model landcover.onnx --out buildings.gpkg
    """
    from geopanoptic.models.checkpoint import model_path
    from geopanoptic.models.engines.quantize import exported_model, write_ir
    from geopanoptic.store import atomic_outputs, check_output

    check_output(out, overwrite, suffixes=(".onnx", ".xml"))
    data, card = exported_model(model_path(name))
    one_file = out.suffix.lower() == ".onnx"
    finals = [out] if one_file else [out, out.with_suffix(".bin")]
    with atomic_outputs(finals, overwrite) as folder:
        if one_file:
            (folder / out.name).write_bytes(data)
        else:
            write_ir(data, card, folder / out.name)
    click.echo(f"Wrote {' and '.join(map(str, finals))}", err=True)


@models.command("quantize")
@click.argument("name")
@click.argument("scenes", nargs=-1, required=True)
@_out("FILE.safetensors")
@click.option(
    "--chips", default=32, show_default=True, type=click.IntRange(2, 1000), help="Of all scenes."
)
@_OVERWRITE
@json_option
def quantize_command(
    name: str, scenes: tuple[str, ...], out: Path, chips: int, overwrite: bool, as_json: bool
) -> None:
    """Let the dense model NAME compute in 8 bits, as it reads chips of SCENES.

    FILE has the weights of NAME, and in its card the range of what each convolution reads. Half of
    the chips give the ranges; on the other half 8 bits are compared with 32, and --precision auto
    takes 8 bits only where they agree. Take scenes of many kinds, and none that you test on.

    \b
        geopanoptic models quantize mine.safetensors a.tif b.tif --out mine.safetensors --overwrite
    """
    from geopanoptic.models.checkpoint import model_path
    from geopanoptic.models.engines.quantize import with_ranges
    from geopanoptic.predict.sample_chips import sample_chips
    from geopanoptic.store import atomic_output, check_output

    check_output(out, overwrite, suffixes=(".safetensors",))
    each = max(2, chips // len(scenes))
    pixels = [chip for scene in scenes for chip in sample_chips(scene, name, each)]
    with atomic_output(out, overwrite) as temporary:
        _, found = with_ranges(model_path(name), pixels, temporary)
    click.echo(f"Wrote {out}", err=True)
    told = {k: v for k, v in found.to_json().items() if k not in ("ranges", "weights")}
    if as_json:
        print_json({"out": str(out), "agrees": found.agrees, **told})
        return
    click.echo(
        f"On {found.chips} chips {found.class_agreement:.2%} of pixels have the class that they "
        f"have in 32 bits, and things agree with PQ {found.things_pq:.3f}: --precision auto "
        + ("takes 8 bits." if found.agrees else "stays with floats; --precision int8 asks for it.")
    )


@models.command("convert")
@click.argument("weights", type=click.Path(path_type=Path))
@click.option(
    "--card",
    required=True,
    type=click.Path(path_type=Path),
    metavar="CARD.yaml",
    help="What the model promises; see docs/models.md.",
)
@_out("FILE.safetensors")
@click.option("--key", default="", help="Which state dict, where WEIGHTS holds several.")
@_OVERWRITE
def convert_command(weights: Path, card: Path, out: Path, key: str, overwrite: bool) -> None:
    """Make a model file of the PyTorch checkpoint WEIGHTS and a card.

    WEIGHTS is a state dict that torch.save wrote, alone or inside a training checkpoint, or a
    safetensors file without a card. No code of it is run: a file that holds more than tensors and
    plain values is refused.

    \b
        geopanoptic models convert unet.pt --card unet.card.yaml --out unet.safetensors
        geopanoptic predict scene.tif --model unet.safetensors --out landcover.gpkg
    """
    from geopanoptic.models.convert import convert
    from geopanoptic.store import atomic_output, check_output

    check_output(out, overwrite, suffixes=(".safetensors",))
    with atomic_output(out, overwrite) as temporary:
        made = convert(weights, card, temporary, key=key)
    click.echo(f"Wrote {out}: {made.name} {made.version}, {len(made.schema)} classes", err=True)

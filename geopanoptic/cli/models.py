"""`geopanoptic models`: which models there are, and what a card promises."""

from __future__ import annotations

import click

from geopanoptic.cli.options import json_option, print_json


@click.group(short_help="List the models, or show one model's card.", invoke_without_command=True)
@click.pass_context
def models(ctx: click.Context) -> None:
    """List the models, or show one model's card."""
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
    """Print the card of the model NAME (a bundled name or a file) as JSON."""
    from geopanoptic.models import read_card

    print_json(read_card(name).to_json())

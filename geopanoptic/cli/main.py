"""The command `geopanoptic`: a thin group of lazily imported commands.

A command's module is imported only when that command runs or shows its help, so that
`geopanoptic --help` stays under half a second. The only place where errors become messages.
"""

from __future__ import annotations

import atexit
import importlib
import os
import sys
import traceback
from typing import Any

import click

from geopanoptic import __version__
from geopanoptic.errors import GeoPanopticError

# name -> one line for `geopanoptic --help`; each lives in geopanoptic/cli/<name>.py
COMMANDS = {
    "predict": "Make a panoptic map (polygons, rasters) of a scene.",
    "evaluate": "Score a map against the truth: Panoptic Quality and more.",
    "sample": "Draw pixels to interpret, for areas with uncertainty.",
    "area": "Estimate areas with uncertainty from interpreted pixels.",
    "change": "Compare two dates: objects, land cover, areas.",
    "track": "Follow objects over a series of dates.",
    "train": "Train a model on your own scenes and labels.",
    "export": "Write a map in another format.",
    "info": "Describe a scene, a map or a model file.",
    "check": "Check that a map keeps its promises.",
    "models": "List the models, or show one model's card.",
    "bench": "Measure a model on a scene: how much does tiling show?",
    "doctor": "Tell what this machine offers and what is missing.",
}


class LazyGroup(click.Group):
    """Import a command's module on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's door
        return list(COMMANDS)

    def get_command(
        self,
        ctx: click.Context,  # noqa: ARG002
        name: str,
    ) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = getattr(importlib.import_module(f"geopanoptic.cli.{name}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from geopanoptic.errors import nearest_name

            hint = nearest_name(args[0], COMMANDS) if args else ""
            raise click.UsageError(error.message + hint, ctx) from error

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="geopanoptic")
@click.option("-v", "--verbose", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, verbose: bool) -> None:
    """Turn large GeoTIFFs into panoptic maps: every pixel a class, every object one id.

    \b
    The main job:
        geopanoptic predict scene.tif --out buildings.gpkg
    """
    ctx.obj = {"verbose": verbose}


def main() -> None:
    """Run the command line; print an error's message (a traceback with -v) and exit."""
    verbose = any(a in ("-v", "--verbose") for a in sys.argv[1:])
    try:
        status: Any = cli.main(standalone_mode=False)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(1)
    except (KeyboardInterrupt, click.Abort):
        click.echo("Interrupted. Run the same command again to go on from here.", err=True)
        _leave(130)
    except GeoPanopticError as error:
        if verbose:
            traceback.print_exc()
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): not an error, and no traceback at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    sys.exit(status if isinstance(status, int) else 0)


def entry() -> None:
    """Be the program `geopanoptic`: `main`, then leave at once.

    Taking torch and its libraries down module by module takes two seconds and frees nothing that
    the system does not free faster; what has registered for the exit is called.
    """
    status: Any = 1
    try:
        main()
    except SystemExit as leave:
        status = leave.code or 0
    atexit._run_exitfuncs()
    _leave(status)


def _leave(status: int) -> None:
    """Exit now: worker threads may still hold a tile, and a second Ctrl-C must not hang."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    entry()

"""Options that several commands share: one spelling, one meaning, one help text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from geopanoptic.errors import ConfigError

if TYPE_CHECKING:
    from geopanoptic.workers import EngineSpec

Command = TypeVar("Command", bound=Callable[..., Any])

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


def numbers(text: str | None, option: str) -> tuple[int, ...] | None:
    """Read '1,2,3' as whole numbers; ConfigError names the option."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as why:
        raise ConfigError(f"{option} {text}: write whole numbers with commas, like 1,2,3") from why


def names(text: str | None) -> tuple[str, ...] | None:
    """Read 'building,vehicle' as names."""
    if text is None:
        return None
    return tuple(part.strip() for part in text.split(",") if part.strip())


def byte_count(text: str | None, option: str) -> int | None:
    """Read '4GB', '800 MB' or a plain number of bytes."""
    if text is None:
        return None
    found = re.fullmatch(r"\s*([0-9]*\.?[0-9]+)\s*([kKmMgGtT]?)i?([bB]?)\s*", text)
    if not found:
        raise ConfigError(f"{option} {text}: write a size like 4GB or 800MB")
    unit = (found[2].upper() + "B") if found[2] else ""
    return int(float(found[1]) * _UNITS[unit])


def print_json(value: Any) -> None:
    """Print one JSON object on stdout: the result of a command with --json."""
    click.echo(json.dumps(value, indent=2, default=str))


def json_option(command: Command) -> Command:
    """Add --json."""
    return click.option(
        "--json", "as_json", is_flag=True, help="Print the result as one JSON object on stdout."
    )(command)


def regularize_option(command: Command) -> Command:
    """Add --regularize / --no-regularize."""
    return click.option(
        "--regularize/--no-regularize",
        default=None,
        help="Straight walls and right angles for buildings in polygon files, where that fits "
        "their pixels. [off]",
    )(command)


_LINK_OPTIONS = (
    click.option(
        "--max-shift",
        "max_shift_m",
        type=float,
        metavar="METRES",
        help="Largest offset between dates. [10, or 2 px]",
    ),
    click.option(
        "--link-rule",
        type=click.Choice(["default", "linz"]),
        default="default",
        show_default=True,
        help="When two objects belong together; linz: over 5 % of both or 90 % of either.",
    ),
    click.option(
        "--link",
        default=0.5,
        show_default=True,
        help="Share of the smaller object that must overlap.",
    ),
    click.option(
        "--tolerance",
        "tolerance_m",
        type=float,
        metavar="METRES",
        help="Outlines this close are the same; change calls thinner patches slivers. "
        "[1 m, or 2 px]",
    ),
    click.option("--iou", default=0.6, show_default=True, help="Least IoU of an unchanged object."),
    click.option(
        "--ratio",
        default=1.25,
        show_default=True,
        help="Area ratio above which it has grown or shrunk.",
    ),
    click.option(
        "--max-object-shift",
        "max_object_shift_m",
        default=3.0,
        show_default=True,
        metavar="METRES",
        help="An object may be displaced so far (relief, lean) and still be unchanged.",
    ),
    click.option(
        "--observed",
        "least_observed",
        default=0.5,
        show_default=True,
        help="Objects seen at the other date by no more than this share are unobserved.",
    ),
    click.option(
        "--compatible",
        multiple=True,
        metavar="A,B",
        help="Classes of things that count as one; may be repeated.",
    ),
    click.option("--classes", metavar="A,B", help="Only objects of these classes."),
    click.option(
        "--id-field",
        metavar="NAME",
        help="Attribute that names an object of vector files.",
    ),
    click.option("--class-field", metavar="NAME", help="Class attribute of vector files."),
)


def link_options(command: Command) -> Command:
    """Add the options of `change.LinkSettings`: when objects of two dates are one."""
    for option in reversed(_LINK_OPTIONS):
        command = option(command)
    return command


def engine_options(command: Command) -> Command:
    """Add the options that say where the work runs."""
    for option in reversed(
        (
            click.option(
                "--workers",
                type=click.IntRange(min=0),
                default=0,
                show_default=True,
                help="Worker processes on this machine; 0 works in this one process.",
            ),
            click.option(
                "--scheduler",
                metavar="ADDRESS",
                help="Use a running Dask cluster, like tls://host:8786.",
            ),
            *_cluster_options(),
            click.option(
                "--device",
                default="auto",
                show_default=True,
                metavar="auto|cpu|cuda[:N]",
                help="Where the network runs.",
            ),
            click.option(
                "--max-ram",
                metavar="SIZE",
                help="Memory that all processes together may use, like 4GB.",
            ),
        )
    ):
        command = option(command)
    return command


def _cluster_options() -> list[Callable[[Command], Command]]:
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    insecure = "Use an unencrypted scheduler on another host: whoever reaches it runs any code."
    dashboard = "Serve Dask's dashboard of the --workers, to this host only; its address is said."
    return [
        click.option("--tls-ca", type=file, metavar="FILE", help="For tls://: the authority,"),
        click.option("--tls-cert", type=file, metavar="FILE", help="our certificate,"),
        click.option("--tls-key", type=file, metavar="FILE", help="and its key."),
        click.option("--insecure", is_flag=True, help=insecure),
        click.option("--dashboard", is_flag=True, help=dashboard),
    ]


def engine_spec(options: dict[str, Any]) -> EngineSpec:
    """Make the engine's description from the options of `engine_options`; ConfigError."""
    from geopanoptic.workers import EngineSpec, Tls

    files = [options[name] for name in ("tls_ca", "tls_cert", "tls_key")]
    if any(files) and not all(files):
        raise ConfigError("--tls-ca, --tls-cert and --tls-key belong together: name all three")
    if any(files) and not str(options["scheduler"]).startswith("tls://"):
        raise ConfigError(
            "certificates are for an encrypted cluster, but --scheduler is "
            f"{options['scheduler']}; write tls://host:8786, or leave --tls-* out"
        )
    if options["dashboard"] and (options["scheduler"] or not options["workers"]):
        raise ConfigError(
            "--dashboard shows the processes of --workers N (1 or more); a cluster of your own has "
            "its own dashboard"
        )
    return EngineSpec(
        workers=options["workers"],
        scheduler=options["scheduler"],
        device=options["device"],
        max_ram=byte_count(options["max_ram"], "--max-ram"),
        tls=Tls(*map(Path, files)) if all(files) else None,
        insecure=options["insecure"],
        dashboard=options["dashboard"],
    )

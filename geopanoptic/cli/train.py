"""`geopanoptic train`: a configuration in, a model file out."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from geopanoptic.cli.options import json_option, print_json

if TYPE_CHECKING:
    from geopanoptic.train import TrainConfig


@click.command(short_help="Train a model on your own scenes and labels.")
@click.argument("config_path", metavar="CONFIG.yaml", type=click.Path(path_type=Path))
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), metavar="MODEL.safetensors",
    help="The model file to write; the run's folder (logs, curves, checkpoints) is "
    "MODEL.train beside it.",
)  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), help="Train so many steps. [the file's]")
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads. [the file's]")
@click.option(
    "--device", default="auto", show_default=True, metavar="auto|cpu|cuda[:N]",
    help="Where the network is trained.",
)  # fmt: skip
@click.option("--work-dir", type=click.Path(path_type=Path), help="The run's folder.")
@click.option("--fresh", is_flag=True, help="Forget an earlier run of this folder.")
@click.option("--overwrite", is_flag=True, help="Replace an existing model file.")
@click.option("--dry-run", is_flag=True, help="Only read the configuration and all sources.")
@json_option
def train(
    config_path: Path,
    out: Path,
    steps: int | None,
    threads: int | None,
    device: str,
    work_dir: Path | None,
    fresh: bool,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Train a model as CONFIG.yaml says. configs/ and docs/training.md have examples.

    \b
        geopanoptic train configs/buildings.yaml --out mine.safetensors
        geopanoptic predict scene.tif --model mine.safetensors --out buildings.gpkg
    On several GPUs:
        torchrun --standalone --nproc-per-node 4 -m geopanoptic.cli.main train CONFIG.yaml --out ...

    An interrupted training goes on when the same command is given again.
    """
    from geopanoptic.train import Execution, TrainPaths, fit
    from geopanoptic.train.publish import check_sources, forget_run, publish_model

    config = _config(config_path, steps, threads)
    run = work_dir or out.with_suffix(".train")
    paths = TrainPaths.beside(config, config_path, run)
    publish_model(paths, config, out, overwrite, only_check=True)
    if fresh:
        forget_run(paths)
    if dry_run:
        found = check_sources(config, paths)
        print_json(found) if as_json else _print_sources(found)
        return
    card = fit(config, paths, execution=Execution(device, _say))
    if int(os.environ.get("RANK", "0")) > 0:  # torchrun: the first process publishes and speaks
        return
    publish_model(paths, config, out, overwrite)
    metrics = [dict(row) for row in card.metrics]
    if as_json:
        print_json({"model": str(out), "run": str(run), "card": card.to_json()})
        return
    for row in metrics:
        click.echo(f"{row['what']}: {row['value']:.3f} ({row['where']})")
    click.echo(f"Wrote {out}; curves and samples in {run / 'index.html'}")


def _config(path: Path, steps: int | None, threads: int | None) -> TrainConfig:
    from geopanoptic.train import TrainConfig

    config = TrainConfig.from_yaml(path)
    if steps is not None:
        config = replace(config, steps=steps)
    return config if threads is None else replace(config, threads=threads)


def _say(what: str, values: dict[str, float]) -> None:
    """Print one line of progress on stderr."""
    step = values.get("step")
    start = f"step {step:g}: " if step is not None else f"{what}: "
    rest = ", ".join(f"{k} {v:.4g}" for k, v in values.items() if k != "step")
    click.echo(start + rest, err=True)


def _print_sources(found: list[dict[str, object]]) -> None:
    for row in found:
        click.echo(
            f"{row['name']}: {row['rows']} x {row['cols']} px at {row['gsd_m']:.3g} m, "
            f"{row['role']}, {row['instances']} things, labelled {row['labelled']:.0%}"
        )
        for name, share in row["classes"].items():  # type: ignore[attr-defined]
            click.echo(f"    {name}: {share:.1%}")

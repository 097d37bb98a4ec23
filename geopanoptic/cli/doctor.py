"""`geopanoptic doctor`: what this machine offers, what is missing, what it is good for."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from geopanoptic.cli.options import json_option, print_json

_NEEDED = (
    "torch", "segmentation_models_pytorch", "rasterio", "pyogrio", "geopandas", "shapely",
    "numpy", "scipy", "numba", "xarray", "rioxarray", "dask", "distributed", "zarr",
)  # fmt: skip
_EXTRA = {
    "onnx": "writes graphs for the engines below: pip install 'geopanoptic[cpu]'",
    "dask_cuda": "several GPUs: pip install 'geopanoptic[gpu]'",
    "transformers": "Hugging Face models: pip install 'geopanoptic[hf]'",
    "s3fs": "work directories on S3: pip install 'geopanoptic[s3]'",
}


@click.command(short_help="Tell what this machine offers and what is missing.")
@json_option
def doctor(as_json: bool) -> int:
    """Tell what this machine offers and what is missing; exit status 1 when something needed is."""
    found = _look()
    if as_json:
        print_json(found)
        return 1 if found["missing"] else 0
    click.echo(f"python {found['python']}, {found['cores']} cores, {found['memory_gb']:.1f} GB")
    click.echo(f"free disk here: {found['free_disk_gb']:.1f} GB")
    click.echo(f"GPU: {found['gpu'] or 'none; networks run on the CPU'}")
    for name, version in found["libraries"].items():
        click.echo(f"  {name:<28} {version}")
    for name, cure in found["optional"].items():
        click.echo(f"  {name:<28} {cure}")
    click.echo("engines for networks on the CPU, the best first:")
    for name, state in found["engines"].items():
        click.echo(f"  {name:<28} {state}")
    for name, why in found["missing"].items():
        click.echo(f"MISSING {name}: {why}", err=True)
    click.echo(f"models: {', '.join(found['models']) or 'none'}")
    click.echo("All is well." if not found["missing"] else "Mend the above and ask again.")
    return 1 if found["missing"] else 0


def _look() -> dict[str, Any]:
    import psutil

    libraries, missing = {}, {}
    for name in _NEEDED:
        try:
            module = importlib.import_module(name)
            libraries[name] = getattr(module, "__version__", "installed")
        except Exception as why:  # an import may fail in any way; the doctor's job is to tell
            missing[name] = f"{type(why).__name__}: {why}"
    return {
        "python": sys.version.split()[0],
        "geopanoptic": importlib.metadata.version("geopanoptic"),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "memory_gb": psutil.virtual_memory().total / 1e9,
        "free_disk_gb": shutil.disk_usage(Path.cwd()).free / 1e9,
        "gpu": _gpu(),
        "libraries": libraries,
        "optional": {name: _optional(name, cure) for name, cure in _EXTRA.items()},
        "engines": _engines(),
        "missing": missing,
        "models": _models(missing),
    }


def _optional(name: str, cure: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return f"not installed ({cure})"


def _engines() -> dict[str, str]:
    """Return each engine's version and precision, or why it cannot be used."""
    from geopanoptic.models.engines import ON_CPU, lacking, usable_engine

    return {name: lacking(name) or str(usable_engine(name)) for name in ON_CPU}


def _gpu() -> str | None:
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    return ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _models(missing: dict[str, str]) -> list[str]:
    from geopanoptic.errors import GeoPanopticError
    from geopanoptic.models import list_models

    try:
        return [card.name for card in list_models()]
    except GeoPanopticError as why:
        missing["bundled model"] = str(why)
        return []

"""Before and after the loop: what sources hold, forgetting a run, the model under its name."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from geopanoptic.dataset import Planes
from geopanoptic.dataset.planes import is_exactly
from geopanoptic.store import atomic_output, check_output
from geopanoptic.train.settings import TrainConfig, TrainPaths

if TYPE_CHECKING:
    from pathlib import Path


def publish_model(
    paths: TrainPaths, config: TrainConfig, out: Path, overwrite: bool, *, only_check: bool = False
) -> None:
    """Copy the finished model to `out`; nothing half-written ever stands there.

    Raises StoreError when it exists and may not be replaced, or for another suffix.
    """
    check_output(out, overwrite, {".safetensors"})
    if only_check:
        return
    with atomic_output(out, overwrite) as part:
        shutil.copyfile(paths.run / f"{config.name}.safetensors", part)


def forget_run(paths: TrainPaths) -> None:
    """Remove checkpoints and logs of an earlier run; prepared sources stay."""
    for path in (paths.last, paths.best, paths.run / "log.csv", paths.run / "validation.csv"):
        path.unlink(missing_ok=True)
    shutil.rmtree(paths.run / "samples", ignore_errors=True)


def check_sources(config: TrainConfig, paths: TrainPaths) -> list[dict[str, Any]]:
    """Prepare all sources and tell what they hold, one row each; raises what training would."""
    from geopanoptic.train.loop import prepared

    schema = config.schema()
    planes = Planes(len(config.bands), len(schema))
    rows = []
    for source in [s for part in prepared(config, paths, schema) for s in part]:
        array = np.load(source.path, mmap_mode="r")
        sets = np.asarray(array[..., planes.sets])
        known = (sets != planes.everything).any(-1)
        shares = {
            name: float(is_exactly(sets, 1 << k).mean()) for k, name in enumerate(schema.names)
        }
        rows.append(
            {
                "name": source.spec.name,
                "role": "validation" if source.spec.validation else "training",
                "rows": array.shape[0],
                "cols": array.shape[1],
                "gsd_m": source.gsd_m,
                "labelled": float(known.mean()),
                "instances": int((np.unique(planes.ids_of(np.asarray(array))) > 0).sum()),
                "classes": {n: v for n, v in shares.items() if v > 0},
            }
        )
    return rows

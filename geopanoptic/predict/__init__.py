"""Predict: a scene in, a panoptic map out. The main job.

predict            the Python door: scene, model, out -> PanopticMap
run, dry_run       the same for the command line, with every noun spelled out
predict_array      an array in memory, for notebooks
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from geopanoptic.predict.run import Execution, Outcome, RunRecord, dry_run, run
from geopanoptic.predict.settings import PredictSettings, Products

if TYPE_CHECKING:
    from geopanoptic.predict.arrays import predict_array as predict_array
    from geopanoptic.predict.door import predict as predict
    from geopanoptic.predict.seams import seam_report as seam_report
    from geopanoptic.predict.speed import speed_report as speed_report

# name -> its module, imported on first use: the command line needs none of them
_ON_USE = {
    "predict": "door",
    "predict_array": "arrays",
    "seam_report": "seams",
    "speed_report": "speed",
}

__all__ = [
    "Execution",
    "Outcome",
    "PredictSettings",
    "Products",
    "RunRecord",
    "dry_run",
    "predict",
    "predict_array",
    "run",
    "seam_report",
    "speed_report",
]


def __getattr__(name: str) -> Any:
    if name not in _ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ON_USE[name]}"), name)

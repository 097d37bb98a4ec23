"""Predict: a scene in, a panoptic map out. The main job.

predict            the Python door: scene, model, out -> PanopticMap
run, dry_run       the same for the command line, with every noun spelled out
predict_array      an array in memory, for notebooks
"""

from geopanoptic.predict.arrays import predict_array
from geopanoptic.predict.door import predict
from geopanoptic.predict.run import Execution, Outcome, RunRecord, dry_run, run
from geopanoptic.predict.seams import seam_report
from geopanoptic.predict.settings import PredictSettings, Products
from geopanoptic.predict.speed import speed_report

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

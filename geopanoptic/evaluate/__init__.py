"""Score a panoptic map against the truth, exactly and over whole scenes."""

from geopanoptic.evaluate.run import Evaluation, Outputs, evaluate
from geopanoptic.evaluate.settings import METRICS, EvaluateSettings

__all__ = ["METRICS", "EvaluateSettings", "Evaluation", "Outputs", "evaluate"]

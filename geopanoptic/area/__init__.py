"""Honest areas: draw a stratified sample of pixels, and estimate from the interpreted ones.

draw_sample      a map or a change in, points to interpret out (with a blind copy)
estimate_areas   interpreted points in, accuracies and error-adjusted areas out
"""

from geopanoptic.area.estimate import AreaReport, EstimateSettings, estimate_areas
from geopanoptic.area.sample import SampleReport, SampleSettings, draw_sample

__all__ = [
    "AreaReport",
    "EstimateSettings",
    "SampleReport",
    "SampleSettings",
    "draw_sample",
    "estimate_areas",
]

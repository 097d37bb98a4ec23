"""All figures of merit, read from one additive count of two panoptic maps.

    count = PanopticCount.sum(PanopticCount.of(truth, pred, sides, origin) for each block)
    quality = quality_of(count, n_classes, things)

Pure arrays and tables: no files, no Dask, no torch.
"""

from geopanoptic.metrics.count import ClassCode, PanopticCount, Sides
from geopanoptic.metrics.overlap import Overlap, Rules, SegmentSide
from geopanoptic.metrics.quality import (
    ClassQuality,
    Matching,
    MeanQuality,
    PanopticQuality,
    QualityStats,
    match,
    panoptic_quality,
    quality_of,
)

__all__ = [
    "ClassCode",
    "ClassQuality",
    "Matching",
    "MeanQuality",
    "Overlap",
    "PanopticCount",
    "PanopticQuality",
    "QualityStats",
    "Rules",
    "SegmentSide",
    "Sides",
    "match",
    "panoptic_quality",
    "quality_of",
]

"""All figures of merit, read from one additive count of two panoptic maps.

    count = PanopticCount.sum(PanopticCount.of(truth, pred, sides, origin) for each block)
    quality = quality_of(count, n_classes, things)

Pure arrays and tables: no files, no Dask, no torch.
"""

from geopanoptic.metrics.bootstrap import GroundStats, Intervals, bootstrap
from geopanoptic.metrics.boundary import boundary_iou, count_outlines, labels_of
from geopanoptic.metrics.calibration import (
    Knots,
    Reliability,
    apply_calibration,
    ece_of_truth,
    expected_calibration_error,
    fit_calibration,
    segment_hits,
)
from geopanoptic.metrics.count import CLASS_LABEL, VOID_LABEL, ClassCode, PanopticCount, Sides
from geopanoptic.metrics.detection import (
    COCO_IOUS,
    F1,
    Candidates,
    Chosen,
    average_precision,
    match_objects,
    mean_ap,
)
from geopanoptic.metrics.objects import PRED_STATUS, TRUTH_STATUS, Fate, Fates, fates
from geopanoptic.metrics.overlap import Overlap, Rules, SegmentSide
from geopanoptic.metrics.quality import (
    ClassQuality,
    Matching,
    MeanQuality,
    PanopticQuality,
    QualityStats,
    dagger,
    dagger_terms,
    match,
    mean,
    panoptic_quality,
    quality_of,
)
from geopanoptic.metrics.scot import SCOT_IOU, DateObjects, Hits, Scot, scot
from geopanoptic.metrics.semantic import (
    ClassAccuracy,
    class_accuracy,
    mean_iou,
    overall_accuracy,
)
from geopanoptic.metrics.tally import Tally
from geopanoptic.metrics.tubes import (
    CountedDate,
    TrackingQuality,
    TubeOverlap,
    VideoQuality,
    stq,
    vpq,
)

__all__ = [
    "CLASS_LABEL",
    "COCO_IOUS",
    "F1",
    "PRED_STATUS",
    "SCOT_IOU",
    "TRUTH_STATUS",
    "VOID_LABEL",
    "Candidates",
    "Chosen",
    "ClassAccuracy",
    "ClassCode",
    "ClassQuality",
    "CountedDate",
    "DateObjects",
    "Fate",
    "Fates",
    "GroundStats",
    "Hits",
    "Intervals",
    "Knots",
    "Matching",
    "MeanQuality",
    "Overlap",
    "PanopticCount",
    "PanopticQuality",
    "QualityStats",
    "Reliability",
    "Rules",
    "Scot",
    "SegmentSide",
    "Sides",
    "Tally",
    "TrackingQuality",
    "TubeOverlap",
    "VideoQuality",
    "apply_calibration",
    "average_precision",
    "bootstrap",
    "boundary_iou",
    "class_accuracy",
    "count_outlines",
    "dagger",
    "dagger_terms",
    "ece_of_truth",
    "expected_calibration_error",
    "fates",
    "fit_calibration",
    "labels_of",
    "match",
    "match_objects",
    "mean",
    "mean_ap",
    "mean_iou",
    "overall_accuracy",
    "panoptic_quality",
    "quality_of",
    "scot",
    "segment_hits",
    "stq",
    "vpq",
]

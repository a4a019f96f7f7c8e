"""Scores as sums of counts: exact whatever the batching and the number of processes.

Functions and tallies take NumPy label maps (uint8, train ids, 255 = void) and import no torch.  `TallyMetric` makes a
torchmetrics `Metric` of any tally; `ConfusionMatrix`, `BoundaryIoU` and `SegmentationScores` are the common ones.
Everything is imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segfocus.metrics.binary import ForegroundScores as ForegroundScores
    from segfocus.metrics.bootstrap import Bootstrap as Bootstrap
    from segfocus.metrics.bootstrap import difference_intervals as difference_intervals
    from segfocus.metrics.boundary import boundary_band as boundary_band
    from segfocus.metrics.boundary import boundary_counts as boundary_counts
    from segfocus.metrics.boundary import boundary_iou as boundary_iou
    from segfocus.metrics.boundary_f import BoundaryF as BoundaryF
    from segfocus.metrics.calibration import Calibration as Calibration
    from segfocus.metrics.calibration import expected_calibration_error as expected_calibration_error
    from segfocus.metrics.changes import Changes as Changes
    from segfocus.metrics.comparison import Comparison as Comparison
    from segfocus.metrics.confusion import category_iou as category_iou
    from segfocus.metrics.confusion import confusion_matrix as confusion_matrix
    from segfocus.metrics.confusion import scores_from_confusion as scores_from_confusion
    from segfocus.metrics.headroom import Headroom as Headroom
    from segfocus.metrics.importance import ImportanceQuality as ImportanceQuality
    from segfocus.metrics.instance import InstanceScores as InstanceScores
    from segfocus.metrics.instance import read_instances as read_instances
    from segfocus.metrics.labels import labels_from_scores as labels_from_scores
    from segfocus.metrics.mean_boundary_accuracy import MeanBoundaryAccuracy as MeanBoundaryAccuracy
    from segfocus.metrics.region_recall import paired_recall_intervals as paired_recall_intervals
    from segfocus.metrics.region_recall import recall_counts as recall_counts
    from segfocus.metrics.region_recall import recall_scores as recall_scores
    from segfocus.metrics.regions import RegionErrors as RegionErrors
    from segfocus.metrics.regions import component_bins as component_bins
    from segfocus.metrics.regions import distance_bins as distance_bins
    from segfocus.metrics.regions import thickness_bins as thickness_bins
    from segfocus.metrics.scores import Counts as Counts
    from segfocus.metrics.suite import Suite as Suite
    from segfocus.metrics.tally import Tally as Tally
    from segfocus.metrics.thin import ThinStructures as ThinStructures
    from segfocus.metrics.torch_metrics import BoundaryIoU as BoundaryIoU
    from segfocus.metrics.torch_metrics import ConfusionMatrix as ConfusionMatrix
    from segfocus.metrics.torch_metrics import SegmentationScores as SegmentationScores
    from segfocus.metrics.torch_metrics import TallyMetric as TallyMetric

_HOMES = {
    "Bootstrap": "bootstrap",
    "BoundaryF": "boundary_f",
    "BoundaryIoU": "torch_metrics",
    "Calibration": "calibration",
    "Changes": "changes",
    "Comparison": "comparison",
    "ConfusionMatrix": "torch_metrics",
    "Counts": "scores",
    "ForegroundScores": "binary",
    "Headroom": "headroom",
    "ImportanceQuality": "importance",
    "InstanceScores": "instance",
    "MeanBoundaryAccuracy": "mean_boundary_accuracy",
    "RegionErrors": "regions",
    "SegmentationScores": "torch_metrics",
    "Suite": "suite",
    "Tally": "tally",
    "TallyMetric": "torch_metrics",
    "ThinStructures": "thin",
    "boundary_band": "boundary",
    "boundary_counts": "boundary",
    "boundary_iou": "boundary",
    "category_iou": "confusion",
    "component_bins": "regions",
    "confusion_matrix": "confusion",
    "difference_intervals": "bootstrap",
    "distance_bins": "regions",
    "expected_calibration_error": "calibration",
    "labels_from_scores": "labels",
    "paired_recall_intervals": "region_recall",
    "read_instances": "instance",
    "recall_counts": "region_recall",
    "recall_scores": "region_recall",
    "scores_from_confusion": "confusion",
    "thickness_bins": "regions",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'segfocus.metrics' has no attribute {name!r}; it has: {', '.join(__all__)}")
    value = getattr(import_module(f"segfocus.metrics.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return list(__all__)

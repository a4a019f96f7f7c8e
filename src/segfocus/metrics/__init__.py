"""Scores as sums of counts: exact whatever the batching and the number of processes.

The functions take NumPy label maps (uint8, train ids, 255 = void) and import no torch; `ConfusionMatrix`,
`BoundaryIoU` and `SegmentationScores` are the same counts as torchmetrics, imported on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segfocus.metrics.boundary import boundary_band as boundary_band
    from segfocus.metrics.boundary import boundary_counts as boundary_counts
    from segfocus.metrics.boundary import boundary_iou as boundary_iou
    from segfocus.metrics.confusion import confusion_matrix as confusion_matrix
    from segfocus.metrics.confusion import scores_from_confusion as scores_from_confusion
    from segfocus.metrics.scores import Counts as Counts
    from segfocus.metrics.torch_metrics import BoundaryIoU as BoundaryIoU
    from segfocus.metrics.torch_metrics import ConfusionMatrix as ConfusionMatrix
    from segfocus.metrics.torch_metrics import SegmentationScores as SegmentationScores

_HOMES = {
    "BoundaryIoU": "torch_metrics",
    "ConfusionMatrix": "torch_metrics",
    "Counts": "scores",
    "SegmentationScores": "torch_metrics",
    "boundary_band": "boundary",
    "boundary_counts": "boundary",
    "boundary_iou": "boundary",
    "confusion_matrix": "confusion",
    "scores_from_confusion": "confusion",
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

"""Counts: the running sums of an evaluation, and the scores they give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics.boundary import boundary_counts, check_distances
from segfocus.metrics.confusion import VOID, confusion_matrix, mean_of_present, ratio, scores_from_confusion


class Counts:
    """Sums of counts over pictures.  Order, batching and merging change nothing; memory does not grow.

    State (int64): `confusion` [truth, prediction], `boundary_intersection` and `boundary_union`
    [distances, classes], and `n_pictures`.
    """

    def __init__(self, num_classes: int, distances: Sequence[int] = (1, 3, 5)) -> None:
        """Zero counts for classes 0 to num_classes - 1 and Boundary IoU at `distances` px (may be empty)."""
        self.num_classes = num_classes
        self.distances = check_distances(distances) if distances else ()
        self.confusion = np.zeros((num_classes, num_classes), np.int64)
        self.boundary_intersection = np.zeros((len(self.distances), num_classes), np.int64)
        self.boundary_union = np.zeros((len(self.distances), num_classes), np.int64)
        self.n_pictures = 0

    def update(self, target: np.ndarray, prediction: np.ndarray) -> None:
        """Add one picture: uint8 height x width train ids, 255 = void in the truth.

        Raises:
            SegfocusError: wrong dtype, unequal sizes or values outside the classes; the counts stay as they were.
        """
        confusion = confusion_matrix(target, prediction, self.num_classes)
        if self.distances:
            intersection, union = boundary_counts(target, prediction, self.num_classes, self.distances)
            self.boundary_intersection += intersection
            self.boundary_union += union
        self.confusion += confusion
        self.n_pictures += 1

    def merge(self, other: Counts) -> None:
        """Add the counts of another process or part of the pictures."""
        if (self.num_classes, self.distances) != (other.num_classes, other.distances):
            raise SegfocusError(
                f"expected counts of {self.num_classes} classes at distances {self.distances}, "
                f"got {other.num_classes} classes at {other.distances}"
            )
        self.confusion += other.confusion
        self.boundary_intersection += other.boundary_intersection
        self.boundary_union += other.boundary_union
        self.n_pictures += other.n_pictures

    def boundary_iou(self) -> np.ndarray:
        """Boundary IoU in [0, 1], [distances, classes]; NaN for a class that is in neither truth nor prediction."""
        return ratio(self.boundary_intersection, self.boundary_union)

    def summary(self, classes: Classes | Sequence[str]) -> dict[str, Any]:
        """The scores as strict JSON values: fractions in [0, 1], None for a class that is absent (see
        `scores_from_confusion`), means over the classes that are present.

        Keys: miou, per_class {name: iou}, pixel_accuracy, mean_accuracy, boundary_iou {"1": mean over classes, ...},
        boundary_iou_per_class {"1": {name: value}, ...}, classes, n_pictures, ignore.
        """
        names = list(classes if isinstance(classes, Sequence) else classes.names)
        if len(names) != self.num_classes:
            raise SegfocusError(f"expected {self.num_classes} class names, got {len(names)}: {', '.join(names)}")
        scores = scores_from_confusion(self.confusion)
        boundary = dict(zip(map(str, self.distances), self.boundary_iou(), strict=True))
        return {
            "miou": _number(scores["miou"]),
            "per_class": _by_name(names, scores["iou"]),
            "pixel_accuracy": _number(scores["pixel_accuracy"]),
            "mean_accuracy": _number(scores["mean_accuracy"]),
            "boundary_iou": {distance: _number(mean_of_present(values)) for distance, values in boundary.items()},
            "boundary_iou_per_class": {distance: _by_name(names, values) for distance, values in boundary.items()},
            "classes": names,
            "n_pictures": self.n_pictures,
            "ignore": VOID,
        }


def _by_name(names: list[str], values: np.ndarray) -> dict[str, float | None]:
    return {name: _number(value) for name, value in zip(names, values, strict=True)}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)

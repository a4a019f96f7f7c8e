"""Counts: the running sums of an evaluation, and the scores they give."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from segfocus.data.classes import Classes
from segfocus.metrics.boundary import Bands
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import VOID, category_iou, mean_of_present, ratio, scores_from_confusion
from segfocus.metrics.tally import Tally, by_name, names_of, number


class Counts(Tally):
    """IoU, accuracy and Boundary IoU.

    State: `confusion` [truth, prediction], `boundary_intersection` and `boundary_union` [bands, classes], and
    `n_pictures`.
    """

    def __init__(self, num_classes: int, distances: Sequence[int] = (1, 3, 5), shares: Sequence[float] = ()) -> None:
        """Zero counts for classes 0 to num_classes - 1.

        Args:
            num_classes: 1 to 254.
            distances: of the Boundary IoU, in px; may be empty.
            shares: further distances, as shares of each picture's diagonal (0.02 is the paper's), rounded to whole px
                and at least 1 as the paper's code does; they come after `distances`.

        Raises:
            SegfocusError: distances below 1 px or shares outside 0 to 1.
        """
        super().__init__(num_classes)
        self.bands = Bands(tuple(distances), tuple(shares))
        bands = len(self.bands.names)
        self.counts = {
            "confusion": np.zeros((num_classes, num_classes), np.int64),
            "boundary_intersection": np.zeros((bands, num_classes), np.int64),
            "boundary_union": np.zeros((bands, num_classes), np.int64),
            "n_pictures": np.zeros((), np.int64),
        }

    @property
    def settings(self) -> tuple[Any, ...]:
        return (self.num_classes, self.bands)

    @property
    def confusion(self) -> np.ndarray:
        """int64 [truth, prediction]"""
        return self.counts["confusion"]

    @property
    def n_pictures(self) -> int:
        return int(self.counts["n_pictures"])

    def count(self, comparison: Comparison) -> dict[str, np.ndarray]:
        intersection, union = comparison.boundary_counts(self.bands.widths(comparison.target.shape))
        return {
            "confusion": comparison.confusion,
            "boundary_intersection": intersection,
            "boundary_union": union,
            "n_pictures": np.ones((), np.int64),
        }

    def boundary_iou(self) -> np.ndarray:
        """Boundary IoU in [0, 1], [bands, classes]; NaN for a class that is in neither truth nor prediction."""
        return ratio(self.counts["boundary_intersection"], self.counts["boundary_union"])

    def summary(self, classes: Classes | Sequence[str]) -> dict[str, Any]:
        """The scores as strict JSON values: fractions in [0, 1], None for a class that is absent (see
        `scores_from_confusion`), means over the classes that are present.

        Keys: miou, per_class {name: iou}, pixel_accuracy, mean_accuracy, frequency_weighted_iou,
        boundary_iou {"1": mean over classes, ...}, boundary_iou_per_class {"1": {name: value}, ...}, classes,
        n_pictures, ignore; where the classes have categories also category_miou and per_category {name: iou}.
        """
        names = names_of(classes, self.num_classes)
        scores = scores_from_confusion(self.confusion)
        boundary = dict(zip(self.bands.names, self.boundary_iou(), strict=True))
        found = {
            "miou": number(scores["miou"]),
            "per_class": by_name(names, scores["iou"]),
            "pixel_accuracy": number(scores["pixel_accuracy"]),
            "mean_accuracy": number(scores["mean_accuracy"]),
            "frequency_weighted_iou": number(scores["frequency_weighted_iou"]),
            "boundary_iou": {distance: number(mean_of_present(values)) for distance, values in boundary.items()},
            "boundary_iou_per_class": {distance: by_name(names, values) for distance, values in boundary.items()},
            "classes": names,
            "n_pictures": self.n_pictures,
            "ignore": VOID,
        }
        if isinstance(classes, Classes) and any(classes.category):
            categories = category_iou(self.confusion, classes.category)
            found["category_miou"] = number(mean_of_present(np.array([*categories.values()])))
            found["per_category"] = by_name(list(categories), categories.values())
        return found

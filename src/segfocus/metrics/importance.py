"""How well a method's own importance map finds the regions that hold what matters.

What is searched for in the regions (see `segfocus.metrics.region_recall`):

    boundary      labelled pixels whose 3 x 3 neighbourhood holds another class (neither void nor the frame is one);
    error         labelled pixels that the prediction has wrong;
    error_before  those that the baseline has wrong, where there is one: what a refiner should have looked at;
    thin          labelled pixels that no 5 x 5 square of their class inside the picture covers (an opening of radius 2
                  removes them), corners of larger things among them.

A network that has refined the chosen regions already has fewer errors there, so its `error` says less about its
choice than that of the same network before refining.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Real

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import VOID
from segfocus.metrics.region_recall import (
    RATIOS,
    REGION,
    recall_counts,
    recall_scores,
    region_scores,
    region_side,
    region_sums,
    selected_counts,
)
from segfocus.metrics.regions import DISTANCE_EDGES
from segfocus.metrics.tally import UNIT, Tally, as_units, names_of

AMOUNTS = ("boundary", "error", "thin")
"""what regions are searched for"""
THIN_RADIUS = 2
"""px of the opening that removes thin pixels: up to 4 px wide"""


def sought_pixels(comparison: Comparison) -> dict[str, Bool[np.ndarray, "height width"]]:
    """Which pixels are searched for, by the names of `AMOUNTS`."""
    return {
        "boundary": boundary_pixels(comparison.target),
        "error": comparison.wrong,
        "thin": (comparison.thickness_bin <= DISTANCE_EDGES.index(THIN_RADIUS)) & comparison.labelled,
    }


class ImportanceQuality(Tally):
    """The recalls of each picture's own importance map, and how its ranks agree with the regions' share of errors.

    State: those of `recall_counts`; `correlation`: sum of Spearman's correlation in units of 2**-40 over
    `correlated` pictures; `n_pictures`.
    """

    def __init__(
        self, num_classes: int, ratios: Sequence[float] = RATIOS, region: int = REGION, *, baseline: bool = False
    ) -> None:
        """
        Args:
            num_classes: of the labels.
            ratios: shares K of the regions in [0, 1].
            region: px; see `region_side`.
            baseline: whether every comparison will have a baseline, whose errors are then searched for, too.

        Raises:
            SegfocusError: bad ratios, or a region below 1 px.
        """
        super().__init__(num_classes)
        selected_counts(ratios, 1)
        if region < 1:
            raise SegfocusError(f"region: expected at least 1 px, got {region}; try {REGION}")
        self.ratios, self.region = tuple(map(float, ratios)), int(region)
        self.amounts = (*AMOUNTS, "error_before") if baseline else AMOUNTS
        per_ratio, per_amount = (len(self.amounts), len(self.ratios)), len(self.amounts)
        self.counts = {
            **{name: np.zeros(per_ratio, np.int64) for name in ("inside", "best", "chance")},
            **{name: np.zeros(per_amount, np.int64) for name in ("total", "area", "best_area")},
            **{name: np.zeros((), np.int64) for name in ("correlation", "correlated", "n_pictures")},
        }

    @property
    def settings(self) -> tuple[Any, ...]:
        return (self.num_classes, self.ratios, self.region, self.amounts)

    def count(self, comparison: Comparison) -> dict[str, np.ndarray]:
        """
        Raises:
            SegfocusError: no importance (or baseline where one was promised), or importance that is not finite.
        """
        importance, target = comparison.importance, comparison.target
        if importance is None:
            raise SegfocusError(
                f"{comparison.name or 'picture'}: expected an importance map for these scores, got none; "
                "try whole pictures instead of windows, or leave out 'importance'"
            )
        size = (target.shape[0], target.shape[1])
        scores = region_scores(importance, size, self.region)
        side = region_side(importance.shape, size, self.region)
        amounts = {name: region_sums(mask, side) for name, mask in self._masks(comparison).items()}
        found = recall_counts(scores, amounts, self.ratios)
        labelled = region_sums(comparison.labelled, side)
        seen = labelled > 0
        correlation = rank_correlation(scores[seen], amounts["error"][seen] / labelled[seen])
        there = not math.isnan(correlation)
        return {
            **found,
            "correlation": as_units([correlation if there else 0.0]).reshape(()),
            "correlated": np.asarray(there, np.int64),
            "n_pictures": np.ones((), np.int64),
        }

    def _masks(self, comparison: Comparison) -> dict[str, Bool[np.ndarray, "height width"]]:
        """What is searched for, in the order of `amounts`."""
        masks = sought_pixels(comparison)
        if "error_before" in self.amounts:
            if comparison.baseline is None:
                raise SegfocusError(f"{comparison.name or 'picture'}: expected a baseline for these scores, got none")
            masks["error_before"] = comparison.target != comparison.baseline
        return masks

    def summary(self, classes: Classes | Sequence[str]) -> dict[str, Any]:
        """{"importance": {"region": px, "ratios": [...], "n_pictures", "correlation": mean of Spearman's over
        `correlated` pictures (the others have no errors, or importance that does not vary), "amounts":
        `recall_scores`}}"""
        names_of(classes, self.num_classes)
        correlated = int(self.counts["correlated"])
        return {
            "importance": {
                "region": self.region,
                "ratios": list(self.ratios),
                "n_pictures": int(self.counts["n_pictures"]),
                "correlation": int(self.counts["correlation"]) / UNIT / correlated if correlated else None,
                "correlated": correlated,
                "amounts": recall_scores(self.counts, self.amounts),
            }
        }


def boundary_pixels(target: np.ndarray) -> Bool[np.ndarray, "height width"]:
    """Labelled pixels with another class among their eight neighbours; void and the frame are no classes.

    Args:
        target: uint8 height x width, train ids, 255 = void.
    """
    square = np.ones((3, 3), np.uint8)
    # void is no maximum as 0 and no minimum as 255; a labelled pixel is part of its own neighbourhood
    highest = cv2.dilate(np.where(target == VOID, np.uint8(0), target), square)
    return (highest != cv2.erode(target, square)) & (target != VOID)


def rank_correlation(first: Real[np.ndarray, "values"], second: Real[np.ndarray, "values"]) -> float:
    """Spearman's correlation in [-1, 1], equal values at their mean rank; NaN where either does not vary."""
    ranks = [_mean_ranks(values) - (values.size - 1) / 2 for values in (first, second)]
    scale = math.sqrt(float((ranks[0] ** 2).sum() * (ranks[1] ** 2).sum()))
    return float((ranks[0] * ranks[1]).sum()) / scale if scale else float("nan")


def _mean_ranks(values: np.ndarray) -> Float64[np.ndarray, "values"]:
    """From 0."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (count.cumsum() - (count + 1) / 2)[place.reshape(-1)]

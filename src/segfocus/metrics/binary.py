"""Foreground scores of two-class tasks (saliency, cracks, vessels): class 1 is the foreground.  NumPy and OpenCV only.

From labels:
    IoU = TP / (TP + FP + FN) and Dice = F1 = 2 TP / (2 TP + FP + FN), pixels of all pictures pooled before dividing;
    the IoU also as a mean over pictures, where a picture with empty truth and empty prediction is left out.
From the foreground's probability p:
    MAE   mean of |p - truth| (Perazzi et al., "Saliency Filters", CVPR 2012, equation 12), over all pixels and as a
          mean over pictures
    max F largest over thresholds of (1 + b^2) P R / (b^2 P + R) with b^2 = 0.3 (Achanta et al., "Frequency-tuned
          Salient Region Detection", CVPR 2009, equations 6 and 7), P precision and R recall; p is rounded to 8 bits
          and foreground at the thresholds 1/255, 2/255, ... 1.  Pooled: P and R of all pixels.  Per picture: each
          picture's F at every threshold, averaged over the pictures with some foreground, then the largest (as the
          common saliency toolboxes do; Achanta et al. average P and R before F).

Where this differs from saliency toolboxes: void is never counted, and p is not stretched to [0, 1] in each picture,
which would hide how sure a prediction is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import joint_histogram, ratio
from segfocus.metrics.tally import SUM_UNIT, UNIT, Tally, as_sum_units, as_units, names_of, number

BETA_SQUARED = 0.3
"""weight of recall in the F-measure, as everywhere in saliency"""
_LEVELS = 256


class ForegroundScores(Tally):
    """IoU, Dice, MAE and max F of the foreground (see the top of this file).

    State: `confusion`; `levels` [truth, 8-bit p] and `error`, the absolute error summed over pixels (2**-20), both 0
    without probabilities; `per_picture`, the pictures' IoU, mean error and F by threshold summed (2**-40), and
    `pictures`, how many have each.
    """

    def __init__(self, num_classes: int = 2) -> None:
        """Zero counts.

        Raises:
            SegfocusError: other than two classes.
        """
        super().__init__(num_classes)
        if num_classes != 2:
            raise SegfocusError(f"foreground scores: expected two classes, got {num_classes}; try IoU per class")
        self.counts = {
            "confusion": np.zeros((2, 2), np.int64),
            "levels": np.zeros((2, _LEVELS), np.int64),
            "error": np.zeros(1, np.int64),
            "per_picture": np.zeros(_LEVELS + 1, np.int64),
            "pictures": np.zeros(_LEVELS + 1, np.int64),
        }

    def count(self, comparison: Comparison) -> dict[str, np.ndarray]:
        levels, error = np.zeros((2, _LEVELS), np.int64), 0.0
        if comparison.has_probabilities:
            levels, error = _levels_and_error(comparison)
        per_picture = np.array([_iou(comparison.confusion), ratio(error, levels.sum()), *f_measures(levels)])
        there = ~np.isnan(per_picture)
        return {
            "confusion": comparison.confusion,
            "levels": levels,
            "error": as_sum_units(np.array([error])),
            "per_picture": as_units(np.where(there, per_picture, 0)),
            "pictures": there.astype(np.int64),
        }

    def summary(self, classes: Classes | Sequence[str]) -> dict[str, Any]:
        """{"binary": ...} with foreground_iou, foreground_iou_per_picture, dice, mae, mae_per_picture, max_f,
        max_f_threshold (the smallest 8-bit probability that is foreground there) and max_f_per_picture; None where
        there is no foreground, or without probabilities."""
        names_of(classes, self.num_classes)
        (_, false_positives), (misses, hits) = self.counts["confusion"]
        levels, error = self.counts["levels"], self.counts["error"][0] / SUM_UNIT
        iou, mean_error, *f_by_threshold = ratio(self.counts["per_picture"] / UNIT, self.counts["pictures"])
        pooled = f_measures(levels)
        best = int(pooled.argmax())
        return {
            "binary": {
                "foreground_iou": number(_iou(self.counts["confusion"])),
                "foreground_iou_per_picture": number(iou),
                "dice": number(ratio(2 * hits, 2 * hits + false_positives + misses)),
                "mae": number(ratio(error, levels.sum())),
                "mae_per_picture": number(mean_error),
                "max_f": number(pooled[best]),
                "max_f_threshold": None if np.isnan(pooled[best]) else (best + 1) / 255,
                "max_f_per_picture": number(max(f_by_threshold)),
            }
        }


def f_measures(levels: Int64[np.ndarray, "truth level"]) -> Float64[np.ndarray, "threshold"]:
    """F with b^2 = 0.3 at the thresholds 1/255, 2/255, ... 1, where p >= threshold is foreground.

    Args:
        levels: pixels by truth (background, foreground) and 8-bit probability.

    Returns:
        values in [0, 1]; 0 where nothing is both predicted and true; all NaN without true foreground.
    """
    false, hits = levels[:, ::-1].cumsum(1)[:, ::-1][:, 1:]
    # (1 + b^2) P R / (b^2 P + R) with P = hits / predicted and R = hits / foreground, without its 0 / 0
    foreground = levels[1].sum()
    score = (1 + BETA_SQUARED) * hits / np.maximum(BETA_SQUARED * foreground + hits + false, 1)
    return score if foreground else np.full_like(score, np.nan)


def _iou(confusion: Int64[np.ndarray, "truth guess"]) -> Float64[np.ndarray, ""]:
    return ratio(confusion[1, 1], confusion.sum() - confusion[0, 0])


def _levels_and_error(comparison: Comparison) -> tuple[Int64[np.ndarray, "truth level"], float]:
    """Labelled pixels by truth and 8-bit probability of the foreground, and the sum of their absolute errors."""
    foreground = comparison.probabilities[1]
    levels = np.rint(foreground.clip(0, 1) * np.float32(255)).astype(np.uint8)
    errors = np.abs(foreground - comparison.target)[comparison.labelled]
    return joint_histogram(comparison.target, levels, 2, _LEVELS), float(errors.sum(dtype=np.float64))

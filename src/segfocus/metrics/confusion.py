"""Confusion matrix, and the scores that follow from it.  NumPy and OpenCV only.

Label maps are uint8, height x width, train ids; 255 in the truth is void and never counted, whatever the
prediction says there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float64, Int64, Real

from segfocus.errors import SegfocusError

VOID = 255
_EXACT = 2**24  # OpenCV's histograms count in float32, where 2**24 + 1 is 2**24


def confusion_matrix(target: np.ndarray, prediction: np.ndarray, num_classes: int) -> Int64[np.ndarray, "truth guess"]:
    """Pixels of each true class (row) by predicted class (column).

    Args:
        target: uint8 height x width, train ids, 255 = void (dropped).
        prediction: uint8 height x width, train ids; where the truth is void any value is accepted.
        num_classes: 1 to 254.

    Raises:
        SegfocusError: not uint8, not two-dimensional, empty, unequal sizes, or a value that is no class.
    """
    check_labels(target, prediction, num_classes)
    matrix = joint_histogram(target, prediction, num_classes, num_classes)
    if matrix.sum() + np.count_nonzero(target == VOID) != target.size:
        refuse_values(target, prediction, num_classes)
    return matrix


def scores_from_confusion(matrix: Real[np.ndarray, "classes classes"]) -> dict[str, Any]:
    """Scores in [0, 1] of a confusion matrix (rows = truth): miou, iou, pixel_accuracy, mean_accuracy,
    frequency_weighted_iou.

    `iou` is one value a class: intersection / union, both summed over all pictures before dividing.  A class that
    is neither in the truth nor in the prediction has no union: its IoU is NaN and `miou` leaves it out.  A class
    that is only predicted scores 0 and counts.  `mean_accuracy` averages the recall of the classes that are in the
    truth.  `frequency_weighted_iou` weighs each IoU with the class's share of the true pixels (Long et al. 2015).
    Without any labelled pixel all scores are NaN.
    """
    matrix = matrix.astype(np.float64)
    hits, truth, guess = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
    iou = ratio(hits, truth + guess - hits)
    return {
        "miou": mean_of_present(iou),
        "iou": iou,
        "pixel_accuracy": float(ratio(hits.sum(), matrix.sum())),
        "mean_accuracy": mean_of_present(ratio(hits, truth)),
        "frequency_weighted_iou": float(ratio(np.nansum(truth * iou), truth.sum())),
    }


def category_iou(matrix: Real[np.ndarray, "classes classes"], categories: Sequence[str | None]) -> dict[str, float]:
    """IoU of each category (NaN when it is in neither truth nor prediction), as Cityscapes scores it.

    A pixel is right when its predicted class belongs to the category of its true class; classes without a category
    (None) are outside all of them.
    """
    matrix = matrix.astype(np.float64)
    scores: dict[str, float] = {}
    for category in dict.fromkeys(name for name in categories if name is not None):
        member = np.array([name == category for name in categories])
        hits = matrix[np.ix_(member, member)].sum()
        scores[category] = float(ratio(hits, matrix[member].sum() + matrix[:, member].sum() - hits))
    return scores


def ratio(part: Any, whole: Any) -> Float64[np.ndarray, "..."]:
    """part / whole, NaN where whole is 0."""
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(part, whole, out=np.full(whole.shape, np.nan), where=whole > 0)


def mean_of_present(values: np.ndarray) -> float:
    """Mean over the values that are not NaN; NaN when there is none."""
    present = values[~np.isnan(values)]
    return float(present.mean()) if present.size else float("nan")


def joint_histogram(first: np.ndarray, second: np.ndarray, rows: int, columns: int) -> Int64[np.ndarray, "_ _"]:
    """How often (first, second) takes each value in [0, rows) x [0, columns); other values drop out.

    Both uint8 and of one shape.  Counted in parts that float32 holds exactly, so exact at any size.
    """
    total = np.zeros((rows, columns), np.int64)
    for parts in exact_parts(first, second):
        total += _counts(cv2.calcHist(parts, [0, 1], None, [rows, columns], [0, rows, 0, columns]), (rows, columns))
    return total


def histogram(values: np.ndarray, count: int) -> Int64[np.ndarray, "count"]:
    """How often each value 0 to count - 1 occurs in a uint8 array height x width; exact at any size."""
    total = np.zeros(count, np.int64)
    for parts in exact_parts(values):
        total += _counts(cv2.calcHist(parts, [0], None, [count], [0, count]), (count,))
    return total


def exact_parts(*maps: np.ndarray) -> Iterator[list[np.ndarray]]:
    """The maps in parts of few enough pixels for exact counts; whole rows, which OpenCV spreads over threads."""
    maps = tuple(np.ascontiguousarray(values) for values in maps)
    if maps[0].shape[1] > _EXACT:
        maps = tuple(values.reshape(-1, 1) for values in maps)
    rows = _EXACT // max(1, maps[0].shape[1])
    for start in range(0, maps[0].shape[0], rows):
        yield [values[start : start + rows] for values in maps]


def _counts(counts: Any, shape: tuple[int, ...]) -> Int64[np.ndarray, "..."]:
    return np.asarray(counts).reshape(shape).astype(np.int64)


def check_labels(target: np.ndarray, prediction: np.ndarray, num_classes: int) -> None:
    """Refuse what is no pair of label maps of one size."""
    if not 1 <= num_classes < VOID:
        raise SegfocusError(f"expected 1 to 254 classes, got {num_classes}; 255 marks void in 8-bit labels")
    for name, labels in (("target", target), ("prediction", prediction)):
        if labels.dtype != np.uint8 or labels.ndim != 2 or not labels.size:
            raise SegfocusError(
                f"{name}: expected uint8 labels height x width, got {labels.dtype} of shape {labels.shape}; "
                "try labels.astype(np.uint8) after mapping to train ids"
            )
    if target.shape != prediction.shape:
        raise SegfocusError(
            f"expected target and prediction of one size, got {target.shape} and {prediction.shape}; "
            "try to predict at the picture's own size"
        )


def refuse_values(target: np.ndarray, prediction: np.ndarray, num_classes: int) -> None:
    """Name the labelled values that are no class; nothing happens where there is none."""
    counted = target != VOID
    for name, labels in (("target", target), ("prediction", prediction)):
        outside = np.unique(labels[counted & (labels >= num_classes)])
        if outside.size:
            values = ", ".join(map(str, outside[:5])) + (", ..." if outside.size > 5 else "")
            void = " or 255 (void)" if name == "target" else ""
            raise SegfocusError(
                f"{name}: expected train ids 0 to {num_classes - 1}{void}, got {values}; "
                "try to map raw values with the classes file first"
            )

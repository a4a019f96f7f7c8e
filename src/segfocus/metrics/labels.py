"""From coarse scores to labels at the picture's size.  NumPy and OpenCV only."""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import UInt8

from segfocus.errors import SegfocusError


def labels_from_scores(scores: np.ndarray, size: tuple[int, int]) -> UInt8[np.ndarray, "height width"]:
    """The class of the highest score at each pixel, scores enlarged bilinearly.

    One class is enlarged at a time and compared with the best so far, so the large scores of all classes never exist
    together: a fraction of the time and memory of enlarging them all and taking the argmax.

    Args:
        scores: floats, classes x rows x columns: logits or probabilities.
        size: height and width of the labels in px.  Corners are not aligned (as in torch with align_corners=False).

    Returns:
        uint8 labels; of equal scores the lowest class wins.

    Raises:
        SegfocusError: no classes, more than 254, or no size.
    """
    if scores.ndim != 3 or not 1 <= len(scores) <= 254 or min(*scores.shape, *size) < 1:
        raise SegfocusError(
            f"scores: expected 1 to 254 classes x rows x columns and a size, got {scores.shape} and {size}; "
            "try one picture at a time"
        )
    labels = np.zeros(size, np.uint8)
    best, large, higher = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.bool_)
    for train_id, channel in enumerate(scores):
        channel = np.ascontiguousarray(channel, np.float32)
        if train_id == 0:
            cv2.resize(channel, size[::-1], dst=best, interpolation=cv2.INTER_LINEAR)
            continue
        cv2.resize(channel, size[::-1], dst=large, interpolation=cv2.INTER_LINEAR)
        np.greater(large, best, out=higher)
        np.maximum(large, best, out=best)
        np.copyto(labels, np.uint8(train_id), where=higher)
    return labels

"""Boundary IoU of every class at once (Cheng et al., "Boundary IoU", CVPR 2021).  NumPy and OpenCV only.

The paper takes one class' binary mask G, the pixels G_d of it within d of its contour (the mask minus the mask
eroded d times with a 3 x 3 square, zeros outside the picture), likewise P_d of the predicted mask, and scores
|G_d & P_d| / |G_d | P_d|.  Eroding class by class costs two erosions of d steps for every class.  Here one label
map gives all classes:

    a pixel is an *edge* when some 3 x 3 neighbour has another label, or when it lies on the picture's frame;
    a pixel of class c is within d of "not c" exactly when its chessboard distance to the nearest edge is below d.

Why: let k >= 1 be the distance from a pixel of class c to the nearest pixel that is not c (or outside).  One step
before that pixel, at distance k - 1, lies an edge; and an edge at distance m has, or is, something that is not c at
distance at most m + 1.  So the nearest edge is at k - 1, and k <= d is the same as k - 1 < d.

Void (255): the prediction is set to void where the truth is void; void is background of every class mask, so a
class that touches void has a contour there; void pixels are never counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8

from segfocus.errors import SegfocusError
from segfocus.metrics.confusion import VOID, check_labels, histogram, ratio, refuse_values

_SQUARE = np.ones((3, 3), np.uint8)


def boundary_band(labels: np.ndarray, distance: int) -> Bool[np.ndarray, "height width"]:
    """Pixels within `distance` px (chessboard, from 1) of a pixel of another label or of the picture's outside.

    Args:
        labels: uint8 height x width; void is a label like any other here.
    """
    return band_level(labels, check_distances([distance])) == 0


def boundary_counts(
    target: np.ndarray, prediction: np.ndarray, num_classes: int, distance: int | Sequence[int]
) -> tuple[Int64[np.ndarray, "*distances classes"], Int64[np.ndarray, "*distances classes"]]:
    """Pixels in intersection and union of the true and the predicted boundary band, for each class.

    Args:
        target: uint8 height x width, train ids, 255 = void.
        prediction: uint8 height x width, train ids; 255 where the truth is not void is no class: a miss.
        distance: band width d in px, or several (then the counts have one row for each).

    Returns:
        intersection and union, int64, [classes] or [distances, classes].  They add up over pictures.

    Raises:
        SegfocusError: not uint8, empty, unequal sizes, a value that is no class, or a distance below 1.
    """
    check_labels(target, prediction, num_classes)
    distances = check_distances([distance] if isinstance(distance, int) else distance)
    order = sorted(set(distances))
    target, prediction = np.ascontiguousarray(target), np.ascontiguousarray(prediction)
    guess = np.maximum(prediction, _byte_mask(np.equal(target, VOID)))
    # n to 254 are the values that wrap to less than 255 - n; they would be counted as another class's band
    if any((labels - np.uint8(num_classes) < VOID - num_classes).any() for labels in (target, guess)):
        refuse_values(target, prediction, num_classes)
    differ = _byte_mask(np.not_equal(target, guess))
    intersection = np.empty((len(order), num_classes), np.int64)
    union = np.empty_like(intersection)
    # One byte holds the class and the narrowest band with the pixel, for as many bands as fit below 255; the running
    # sum over bands of its histogram is the count at each distance.  Sums saturate at 255, which is never counted.
    # Buffers are reused: fresh pages would cost more than the arithmetic.
    bands = max(1, VOID // num_classes)
    for rows in (slice(start, start + bands) for start in range(0, len(order), bands)):
        in_target, in_guess = (band_level(labels, order[rows], step=num_classes) for labels in (target, guess))
        in_both = np.maximum(in_target, in_guess)
        cv2.add(target, in_target, dst=in_target)
        cv2.add(guess, in_guess, dst=in_guess)
        np.maximum(cv2.add(target, in_both, dst=in_both), differ, out=in_both)
        first, second, intersection[rows] = (
            histogram(key, len(order[rows]) * num_classes).reshape(-1, num_classes).cumsum(0)
            for key in (in_target, in_guess, in_both)
        )
        union[rows] = first + second - intersection[rows]
    rows = 0 if isinstance(distance, int) else [order.index(d) for d in distances]
    return intersection[rows], union[rows]


def boundary_iou(
    target: np.ndarray, prediction: np.ndarray, num_classes: int, distance: int
) -> Float64[np.ndarray, "classes"]:
    """Boundary IoU in [0, 1] of each class for one pair; NaN for a class in neither.  For several pictures sum
    `boundary_counts` first."""
    return ratio(*boundary_counts(target, prediction, num_classes, distance))


def check_distances(distances: Sequence[int]) -> tuple[int, ...]:
    """The distances as a tuple; refuses none at all, fractions and values outside 1 to 4096 px."""
    if not distances or any(d != int(d) or not 1 <= d <= 4096 for d in distances):
        raise SegfocusError(
            f"boundary distances: expected whole pixels from 1 to 4096, got {list(distances)}; try 1 3 5"
        )
    return tuple(int(d) for d in distances)


@dataclass(frozen=True)
class Bands:
    """Widths of the bands in which Boundary IoU is counted: some in px, some as shares of each picture's diagonal.

    Raises:
        SegfocusError: distances that are no whole px from 1 to 4096, or shares outside (0, 1).
    """

    distances: tuple[int, ...]
    """px"""
    shares: tuple[float, ...] = ()
    """of the diagonal; 0.02 is the paper's"""

    def __post_init__(self) -> None:
        if self.distances:
            check_distances(self.distances)
        if any(not 0 < share < 1 for share in self.shares):
            raise SegfocusError(
                f"boundary distances: expected shares of the diagonal in (0, 1), got {list(self.shares)}; try 0.02"
            )

    @property
    def names(self) -> tuple[str, ...]:
        """'3' is px, '2%' of the diagonal."""
        return (*map(str, self.distances), *(f"{100 * share:g}%" for share in self.shares))

    def widths(self, size: tuple[int, ...]) -> tuple[int, ...]:
        """px for a picture of (height, width); shares are rounded, to at least 1, as the paper's code does."""
        diagonal = math.hypot(*size)
        return (*self.distances, *(max(1, round(share * diagonal)) for share in self.shares))


def band_level(labels: np.ndarray, distances: Sequence[int], step: int = 1) -> UInt8[np.ndarray, "height width"]:
    """`step` for every band that does not reach a pixel: with ascending distances, step x the first that does."""
    labels = np.ascontiguousarray(labels)
    level, outside = cv2.dilate(labels, _SQUARE), cv2.erode(labels, _SQUARE)
    np.equal(level, outside, out=outside.view(np.bool_))
    outside[0] = outside[-1] = outside[:, 0] = outside[:, -1] = 0  # the frame; what is left is outside the band of 1
    outside *= np.uint8(step)
    level[:] = 0
    reached = 1
    for distance in distances:
        if distance > reached:
            # the pixels below `distance` from an edge are the edges grown by a square: eroding what is outside
            outside = cv2.erode(outside, np.ones((2 * (distance - reached) + 1,) * 2, np.uint8))
            reached = distance
        level += outside
    return level


def _byte_mask(mask: Bool[np.ndarray, "height width"]) -> UInt8[np.ndarray, "height width"]:
    """255 where true, in place."""
    values = mask.view(np.uint8)
    values *= np.uint8(VOID)
    return values

"""Boundary F-score: do predicted and true contours lie within a few pixels of each other?

For each class, precision is the share of its predicted boundary pixels that have a true boundary pixel of the same
class within `tolerance` px (Euclidean), recall the share of its true ones that have a predicted one, and
F = 2 P R / (P + R).  The measure is the BSDS one (Martin et al., "Learning to detect natural image boundaries",
TPAMI 2004), per class as by Csurka et al. ("What is a good evaluation measure for semantic segmentation?", BMVC
2013) and Perazzi et al. (DAVIS, CVPR 2016).  Where this differs:

- any number of pixels may match one pixel, as in DAVIS' code; BSDS assigns them one to one;
- matched and boundary pixels are summed over pictures before dividing, as for BSDS' data set score (ODS); Csurka et
  al. and DAVIS average over pictures;
- tolerances are pixels; those papers take a share of the diagonal (0.75 %, DAVIS 0.8 %);
- a boundary is a class' own pixels beside another label or void (3 x 3), or at the picture's frame: as for Boundary
  IoU.  DAVIS marks one of the two pixels at each change and leaves the frame out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics.boundary import boundary_band, check_distances
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import VOID, check_labels, mean_of_present, ratio
from segfocus.metrics.tally import Tally, by_name, names_of, number

_MOST = 64
"""px; a search of every pixel within more would take seconds a picture"""


def boundary_matches(
    labels: np.ndarray, others: np.ndarray, num_classes: int, tolerances: Sequence[int]
) -> tuple[Int64[np.ndarray, "classes"], Int64[np.ndarray, "tolerances classes"]]:
    """Boundary pixels of each class in `labels`, and how many have one of the same class in `others` nearby.

    With the prediction as `labels` their quotient is precision, with the truth it is recall.  Void must be at the
    same pixels in both.

    Args:
        labels: uint8 height x width, train ids, 255 = void.
        others: likewise.
        tolerances: px, 1 to 64; matched are the pixels at Euclidean distance <= tolerance.

    Returns:
        boundary pixels, and matched boundary pixels at each tolerance, in the order given.

    Raises:
        SegfocusError: not uint8, unequal sizes, or other tolerances.
    """
    check_labels(labels, others, num_classes)
    tolerances = _check_tolerances(tolerances)
    reach = max(tolerances)
    own, field = _boundary_classes(labels), np.pad(_boundary_classes(others), reach, constant_values=VOID)
    rows, columns = np.nonzero(own < num_classes)
    found = own[rows, columns]
    total = np.bincount(found, minlength=num_classes)
    place = (rows + reach) * field.shape[1] + columns + reach  # in the flattened field
    field, width = field.ravel(), field.shape[1]
    matched = {}
    # Nearest offsets first: most pixels match at once, and the search goes on with those that are left.
    for above, most in pairwise((-1, *sorted({tolerance**2 for tolerance in tolerances}))):
        for offsets in _rings(above, most):
            hit = np.zeros(found.size, bool)
            for down, right in offsets:
                hit |= field.take(place + (down * width + right)) == found
            place, found = place[~hit], found[~hit]
        matched[most] = total - np.bincount(found, minlength=num_classes)
    return total, np.stack([matched[tolerance**2] for tolerance in tolerances])


def boundary_f(
    target: np.ndarray, prediction: np.ndarray, num_classes: int, tolerance: int
) -> Float64[np.ndarray, "classes"]:
    """Boundary F in [0, 1] of each class for one pair; NaN for a class in neither.  For several pictures use
    `BoundaryF`."""
    tally = BoundaryF(num_classes, (tolerance,))
    tally.update(target, prediction)
    return tally.scores()["f"][0]


class BoundaryF(Tally):
    """Boundary F-score, precision and recall of each class at several tolerances.

    State: `guess` and `truth` [classes], predicted and true boundary pixels; `guess_matched` and `truth_matched`
    [tolerances, classes], those of them that have a partner of the same class within each tolerance.
    """

    def __init__(self, num_classes: int, tolerances: Sequence[int] = (1, 3, 5)) -> None:
        """Zero counts at `tolerances` px, 1 to 64."""
        super().__init__(num_classes)
        self.tolerances = _check_tolerances(tolerances)
        for side in ("guess", "truth"):
            self.counts[side] = np.zeros(num_classes, np.int64)
            self.counts[f"{side}_matched"] = np.zeros((len(self.tolerances), num_classes), np.int64)

    @property
    def settings(self) -> tuple[Any, ...]:
        return (*super().settings, self.tolerances)

    def count(self, comparison: Comparison) -> dict[str, np.ndarray]:
        truth, guess = comparison.target, comparison.prediction
        found: dict[str, np.ndarray] = {}
        for side, labels, others in (("guess", guess, truth), ("truth", truth, guess)):
            found[side], found[f"{side}_matched"] = boundary_matches(labels, others, self.num_classes, self.tolerances)
        return found

    def scores(self) -> dict[str, Float64[np.ndarray, "tolerances classes"]]:
        """`precision`, `recall` and `f` in [0, 1]; NaN where nothing was predicted, nothing was there, or neither."""
        precision, recall = self._matched_share("guess"), self._matched_share("truth")
        # A class on one side only has nothing matched: it scores 0, where one quotient is NaN.
        p, r = np.nan_to_num(precision), np.nan_to_num(recall)
        f = np.nan_to_num(ratio(2 * p * r, p + r))
        is_present = self.counts["guess"] + self.counts["truth"] > 0
        return {"precision": precision, "recall": recall, "f": np.where(is_present, f, np.nan)}

    def _matched_share(self, side: str) -> Float64[np.ndarray, "tolerances classes"]:
        matched = self.counts[f"{side}_matched"]
        return ratio(matched, np.broadcast_to(self.counts[side], matched.shape))

    def summary(self, classes: Classes | Sequence[str]) -> dict[str, Any]:
        """Keys `boundary_f` {"1": mean over the classes in truth or prediction, ...} and `boundary_f_per_class`
        {"1": {name: value}, ...}."""
        names = names_of(classes, self.num_classes)
        rows = dict(zip(map(str, self.tolerances), self.scores()["f"], strict=True))
        return {
            "boundary_f": {tolerance: number(mean_of_present(values)) for tolerance, values in rows.items()},
            "boundary_f_per_class": {tolerance: by_name(names, values) for tolerance, values in rows.items()},
        }


def _boundary_classes(labels: np.ndarray) -> UInt8[np.ndarray, "height width"]:
    """The class of each boundary pixel, void elsewhere."""
    return np.where(boundary_band(labels, 1), labels, np.uint8(VOID))


def _rings(above: int, most: int) -> Iterator[Int64[np.ndarray, "offsets 2"]]:
    """The offsets (down, right) whose squared distance is in (above, most], ring by ring, nearest first."""
    reach = math.isqrt(most)
    steps = np.arange(-reach, reach + 1)
    squared = steps[:, None] ** 2 + steps**2
    for value in np.unique(squared[(squared > above) & (squared <= most)]):
        yield np.argwhere(squared == value) - reach


def _check_tolerances(tolerances: Sequence[int]) -> tuple[int, ...]:
    checked = check_distances(tolerances)
    if max(checked) > _MOST:
        raise SegfocusError(f"boundary tolerances: expected at most {_MOST} px, got {max(checked)}; try 1 3 5")
    return checked

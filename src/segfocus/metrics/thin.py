"""clDice of thin classes: does the prediction follow the lines of the truth?  Skeletons by scikit-image.

Shit et al., "clDice - a Novel Topology-Preserving Loss Function for Tubular Structure Segmentation", CVPR 2021,
equations 1 and 2.  With V_L and V_P the true and the predicted mask and S_L and S_P their skeletons:

    topology precision    Tprec = |S_P & V_L| / |S_P|        no false branches
    topology sensitivity  Tsens = |S_L & V_P| / |S_L|        no gaps
    clDice = 2 Tprec Tsens / (Tprec + Tsens)

Where this differs: the four numbers of pixels are summed over all pictures before dividing (the paper averages over
pictures, where one with a speck of a pole weighs as much as one with a hundred metres of cable).  Void is background
of both masks.  The skeleton is Zhang and Suen's thinning, as in the authors' evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import ratio
from segfocus.metrics.tally import Tally, names_of, number

_TRUTH, _TRUTH_FOUND, _GUESS, _GUESS_RIGHT = range(4)


class ThinStructures(Tally):
    """clDice of the classes marked thin.

    State: `skeletons` [thin classes, 4]: pixels of the true skeleton, of it inside the predicted mask, of the
    predicted skeleton, and of it inside the true mask.
    """

    def __init__(self, num_classes: int, thin: Sequence[int]) -> None:
        """
        Args:
            num_classes: 2 to 254.
            thin: train ids of the thin classes; none gives an empty summary.  A skeleton takes about half a second per
                million pixels of thick mask, so only classes that are thin belong here.

        Raises:
            SegfocusError: a train id outside the classes, or twice.
        """
        super().__init__(num_classes)
        if any(not 0 <= index < num_classes for index in thin) or len(set(thin)) < len(thin):
            raise SegfocusError(f"thin classes: expected different train ids below {num_classes}, got {list(thin)}")
        self.thin = tuple(thin)
        self.counts = {"skeletons": np.zeros((len(self.thin), 4), np.int64)}

    @property
    def settings(self) -> tuple[Any, ...]:
        return (*super().settings, self.thin)

    def count(self, comparison: Comparison) -> dict[str, np.ndarray]:
        found = np.zeros_like(self.counts["skeletons"])
        for row, index in zip(found, self.thin, strict=True):
            truth, guess = comparison.target == index, comparison.prediction == index
            row[_TRUTH], row[_TRUTH_FOUND] = _skeleton_pixels(truth, guess)
            row[_GUESS], row[_GUESS_RIGHT] = _skeleton_pixels(guess, truth)
        return {"skeletons": found}

    def summary(self, classes: Classes | Sequence[str]) -> dict[str, Any]:
        """{"thin": {name: {"cldice", "topology_precision", "topology_sensitivity"}}} for the thin classes.

        A class that is only in the truth or only in the prediction has a clDice of 0, one in neither None.
        """
        names = names_of(classes, self.num_classes)
        rows = zip(self.thin, self.counts["skeletons"], strict=True)
        return {"thin": {names[index]: _scores(row) for index, row in rows}}


def skeleton(mask: Bool[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Lines one pixel wide in the middle of the mask (Zhang and Suen, 1984); pixels beyond the picture are
    background."""
    from skimage.morphology import skeletonize

    lines = np.zeros_like(mask)
    if box := _bounding_box(mask):
        lines[box] = skeletonize(mask[box])  # thinning looks at 3 x 3 pixels: what is empty can be left out
    return lines


def _skeleton_pixels(mask: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """Pixels of the mask's skeleton, and how many of them lie inside the other mask."""
    lines = skeleton(mask)
    return int(np.count_nonzero(lines)), int(np.count_nonzero(lines & other))


def _bounding_box(mask: np.ndarray) -> tuple[slice, slice] | None:
    rows, columns = (np.flatnonzero(mask.any(axis)) for axis in (1, 0))
    if not rows.size:
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _scores(row: np.ndarray) -> dict[str, float | None]:
    precision = float(ratio(row[_GUESS_RIGHT], row[_GUESS]))
    sensitivity = float(ratio(row[_TRUTH_FOUND], row[_TRUTH]))
    either = row[_GUESS] + row[_TRUTH] > 0
    both = np.nan_to_num([precision, sensitivity])  # a mask without a skeleton finds nothing
    harmonic = 2 * both.prod() / both.sum() if both.any() else 0.0
    return {
        "cldice": number(harmonic) if either else None,
        "topology_precision": number(precision),
        "topology_sensitivity": number(sensitivity),
    }

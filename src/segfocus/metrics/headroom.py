"""Headroom: how much the idea behind each method could gain at most on given predictions.

The truth makes each idea's decisions (see `segfocus.metrics.ceilings`), within a budget: a share of the picture, a
reach, a patch size.  What comes out is scored as any prediction is.  The rows say which idea is worth trying on these
predictions, and from which budget on; a method that is really run gains a part of it.

Within one idea a larger budget never has fewer right pixels.  Where a budget only turns wrong pixels right (FoR-Net,
OVeNet, RANet where its vote is right) mIoU never falls either: a class that a pixel is given to gains a hit within an
unchanged union, and the class it is taken from loses a false positive.  Boundary IoU may fall: half a repair can leave
a longer edge than none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from segfocus.data.classes import Classes
from segfocus.metrics.boundary import boundary_counts, check_distances
from segfocus.metrics.ceilings import (
    best_bias_per_patch,
    borrow_nearby,
    entropy_per_region,
    importance_per_region,
    one_vote_per_region,
    perfect_regions,
    wrong_per_region,
)
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import joint_histogram, mean_of_present, ratio, scores_from_confusion
from segfocus.metrics.tally import Tally, names_of, number

PERCENTS = (5, 10, 25, 50, 100)
"""of the regions of each picture that FoR-Net may set right"""
RADII = (0, 1, 2, 4, 8, 16)
"""px within which OVeNet may borrow"""
SIDES = (None, 128, 64, 32, 16)
"""px of ThreshNet's patches; None is the whole picture"""
RANKINGS = ("truth", "entropy", "importance")
"""of FoR-Net's regions: by wrong pixels, by the prediction's entropy, by the network's own importance map"""


class Row(NamedTuple):
    """One line of the table: whose idea, which form of it, and how much it may do."""

    idea: str
    variant: str
    budget: str


BASE = Row("base", "", "")
FORNET = {ranking: [Row("fornet", ranking, f"{percent} %") for percent in PERCENTS] for ranking in RANKINGS}
OVENET = [Row("ovenet", "truth", f"{radius} px") for radius in RADII]
RANET = [Row("ranet", "vote", "true regions"), Row("ranet", "vote where right", "true regions")]
THRESHNET = [Row("threshnet", "class bias", f"{side} px patches" if side else "whole picture") for side in SIDES]
ROWS = (BASE, *(row for rows in FORNET.values() for row in rows), *OVENET, *RANET, *THRESHNET)


class Headroom(Tally):
    """Counts of every row.

    State: `confusion` [rows, truth, guess], `boundary_intersection` and `boundary_union` [rows, classes] at `distance`
    px, `n_pictures` [rows].  FoR-Net by entropy and ThreshNet need probabilities, FoR-Net by importance an importance
    map; a row is reported when every picture brought what it needs.
    """

    def __init__(self, num_classes: int, distance: int = 3) -> None:
        """
        Raises:
            SegfocusError: a distance that is no band of Boundary IoU.
        """
        super().__init__(num_classes)
        (self.distance,) = check_distances([distance])
        self.counts = {
            "confusion": np.zeros((len(ROWS), num_classes, num_classes), np.int64),
            "boundary_intersection": np.zeros((len(ROWS), num_classes), np.int64),
            "boundary_union": np.zeros((len(ROWS), num_classes), np.int64),
            "n_pictures": np.zeros(len(ROWS), np.int64),
        }

    @property
    def settings(self) -> tuple[Any, ...]:
        return (self.num_classes, self.distance)

    def count(self, comparison: Comparison) -> dict[str, np.ndarray]:
        found = {name: np.zeros_like(value) for name, value in self.counts.items()}
        target = comparison.target
        for row, guess in predictions_at_best(comparison):
            index = ROWS.index(row)
            intersection, union = boundary_counts(target, guess, self.num_classes, self.distance)
            found["confusion"][index] = joint_histogram(target, guess, self.num_classes, self.num_classes)
            found["boundary_intersection"][index] = intersection
            found["boundary_union"][index] = union
            found["n_pictures"][index] = 1
        return found

    def summary(self, classes: Classes | Sequence[str]) -> dict[str, Any]:
        """{"headroom": {"distance": px of the Boundary IoU, "base": scores, "rows": [{"idea", "variant", "budget",
        and the row's scores}, ...]}}; scores are miou, boundary_iou (mean over classes) and pixel_accuracy."""
        names_of(classes, self.num_classes)
        n_pictures = self.counts["n_pictures"]
        measured = [row for row, pictures in zip(ROWS, n_pictures, strict=True) if pictures == n_pictures[0]]
        rows = [{**row._asdict(), **self._scores(row)} for row in measured if row != BASE and n_pictures[0]]
        return {"headroom": {"distance": self.distance, "base": self._scores(BASE), "rows": rows}}

    def _scores(self, row: Row) -> dict[str, float | None]:
        index = ROWS.index(row)
        scores = scores_from_confusion(self.counts["confusion"][index])
        boundary = ratio(self.counts["boundary_intersection"][index], self.counts["boundary_union"][index])
        return {
            "miou": number(scores["miou"]),
            "boundary_iou": number(mean_of_present(boundary)),
            "pixel_accuracy": number(scores["pixel_accuracy"]),
        }


def predictions_at_best(comparison: Comparison) -> Iterator[tuple[Row, UInt8[np.ndarray, "height width"]]]:
    """What each idea would predict at best, for the rows that this picture brings enough for; the base comes first."""
    target, prediction, num_classes = comparison.target, comparison.prediction, comparison.num_classes
    yield BASE, prediction
    for name, ranking in _rankings(comparison):
        yield from zip(FORNET[name], perfect_regions(target, prediction, ranking, PERCENTS), strict=True)
    yield from zip(OVENET, borrow_nearby(target, prediction, num_classes, RADII), strict=True)
    yield from zip(RANET, one_vote_per_region(comparison.components[0], target, prediction, num_classes), strict=True)
    if comparison.has_probabilities:
        patched = best_bias_per_patch(target, prediction, comparison.probabilities, SIDES)
        yield from zip(THRESHNET, patched, strict=True)


def _rankings(comparison: Comparison) -> Iterator[tuple[str, np.ndarray]]:
    """The rankings of FoR-Net's regions that can be told for this picture."""
    yield "truth", wrong_per_region(comparison.target, comparison.prediction)
    if comparison.has_probabilities:
        yield "entropy", entropy_per_region(comparison.probabilities)
    if comparison.importance is not None:
        yield "importance", importance_per_region(comparison.importance, comparison.target.shape)

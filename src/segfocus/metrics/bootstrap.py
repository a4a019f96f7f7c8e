"""Confidence intervals by a streaming bootstrap over pictures, for scores and for differences of two systems.

The bootstrap (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, ch. 13: percentile intervals) scores
many replicates of the data set, in each of which pictures are drawn with replacement.  Here the number of times that
a replicate holds a picture is drawn from Poisson(1), independently for each picture (Hanley and MacGibbon, "Creating
non-parametric bootstrap samples using Poisson frequencies", 2006; Chamandy et al., "Estimating uncertainty for
massive data streams", 2012).  So a replicate is a sum of weighted counts: nothing of a picture need be kept.

The weights are a function of the seed and the picture's name alone.  Hence order, batching and the number of
processes change nothing, and two systems that are scored on the same pictures are resampled alike: the intervals of
their difference are paired, which takes the pictures' own difficulty out of it.  Each picture needs a name of its own.

What the intervals say and do not say:

* They tell how the score would vary over other pictures drawn like these.  Frames of one video are not drawn
  independently, and their intervals come out too narrow.  Training again is another source of variation, not seen
  here.
* From few pictures nothing honest can be said: see `pictures_needed`.  Below that, intervals are None.
* A class that a replicate lacks is left out of the replicate's means, as everywhere; the replicate is left out of
  that class's own interval.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics.boundary import Bands
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import ratio
from segfocus.metrics.tally import Tally, names_of


class Bootstrap(Tally):
    """Weighted counts of every replicate.

    State: `hits`, `truth`, `guess` [replicates, classes] in px; `boundary_intersection`, `boundary_union`
    [replicates, bands, classes] in px; `drawn` [replicates] pictures; `pictures_with` [classes], the pictures that
    show a class in truth or prediction; `n_pictures`.
    """

    def __init__(
        self,
        num_classes: int,
        distances: Sequence[int] = (1, 3, 5),
        shares: Sequence[float] = (),
        *,
        replicates: int = 1000,
        seed: int = 0,
    ) -> None:
        """
        Args:
            num_classes: 1 to 254.
            distances: of the Boundary IoU, in px; may be empty.
            shares: further ones, as shares of each picture's diagonal.
            replicates: 1000 place the ends of a 95 % interval to about 4 % of its half width (standard error).
            seed: another one draws other weights.

        Raises:
            SegfocusError: bad distances, or fewer than 2 replicates.
        """
        super().__init__(num_classes)
        if replicates < 2:
            raise SegfocusError(f"bootstrap: expected at least 2 replicates, got {replicates}; try 1000")
        self.bands = Bands(tuple(distances), tuple(shares))
        self.replicates = replicates
        self.seed = seed
        per_class = (replicates, num_classes)
        per_band = (replicates, len(self.bands.names), num_classes)
        self.counts = {
            "hits": np.zeros(per_class, np.int64),
            "truth": np.zeros(per_class, np.int64),
            "guess": np.zeros(per_class, np.int64),
            "boundary_intersection": np.zeros(per_band, np.int64),
            "boundary_union": np.zeros(per_band, np.int64),
            "drawn": np.zeros(replicates, np.int64),
            "pictures_with": np.zeros(num_classes, np.int64),
            "n_pictures": np.zeros((), np.int64),
        }

    @property
    def settings(self) -> tuple[Any, ...]:
        return (self.num_classes, self.bands, self.replicates, self.seed)

    def count(self, comparison: Comparison) -> dict[str, np.ndarray]:
        """
        Raises:
            SegfocusError: the picture has no name.
        """
        weights = poisson_weights(comparison.name, self.replicates, self.seed)
        matrix = comparison.confusion
        truth, guess = matrix.sum(1), matrix.sum(0)
        intersection, union = comparison.boundary_counts(self.bands.widths(comparison.target.shape))
        once = {
            "hits": matrix.diagonal(),
            "truth": truth,
            "guess": guess,
            "boundary_intersection": intersection,
            "boundary_union": union,
            "drawn": np.int64(1),
        }
        found = {name: np.multiply.outer(weights, value) for name, value in once.items()}
        return found | {"pictures_with": (truth + guess > 0).astype(np.int64), "n_pictures": np.ones((), np.int64)}

    def scores(self) -> dict[str, np.ndarray]:
        """The scores of every replicate, replicates first, NaN where one has nothing to score.

        Keys, in [0, 1]: miou, pixel_accuracy, mean_accuracy [replicates]; per_class [replicates, classes];
        boundary_iou [replicates, bands]; boundary_iou_per_class [replicates, bands, classes].
        """
        hits, truth, guess = (self.counts[name] for name in ("hits", "truth", "guess"))
        iou = ratio(hits, truth + guess - hits)
        boundary = ratio(self.counts["boundary_intersection"], self.counts["boundary_union"])
        return {
            "miou": _mean_of_present(iou),
            "pixel_accuracy": ratio(hits.sum(1), truth.sum(1)),
            "mean_accuracy": _mean_of_present(ratio(hits, truth)),
            "per_class": iou,
            "boundary_iou": _mean_of_present(boundary),
            "boundary_iou_per_class": boundary,
        }

    def intervals(self, classes: Classes | Sequence[str], level: float = 0.95) -> dict[str, Any]:
        """Percentile intervals as strict JSON values: [low, high], or None where there were too few pictures.

        Keys: level, replicates, n_pictures, pictures_needed; miou, pixel_accuracy, mean_accuracy;
        per_class {name: interval of its IoU}; boundary_iou {"3": interval of the mean over classes};
        boundary_iou_per_class {"3": {name: interval}}.
        """
        return _describe(self, self.scores(), self.counts["pictures_with"], names_of(classes, self.num_classes), level)

    def summary(self, classes: Classes | Sequence[str]) -> dict[str, Any]:
        """{"intervals": `intervals` at 95 %}"""
        return {"intervals": self.intervals(classes)}


def difference_intervals(
    first: Bootstrap, second: Bootstrap, classes: Classes | Sequence[str], level: float = 0.95
) -> dict[str, Any]:
    """Paired intervals of second - first, with the keys of `Bootstrap.intervals`; negative where the second is worse.

    Raises:
        SegfocusError: the two differ in seed, replicates, distances or classes, or saw other pictures.
    """
    if first.settings != second.settings:
        raise SegfocusError(
            "paired bootstrap: expected the same (classes, distances, replicates, seed) in both, got "
            f"{first.settings} and {second.settings}; try to score both with the same settings"
        )
    if not all(np.array_equal(first.counts[name], second.counts[name]) for name in ("n_pictures", "drawn")):
        raise SegfocusError(
            "paired bootstrap: expected the same pictures in both, got "
            f"{first.counts['n_pictures']} and {second.counts['n_pictures']} pictures that are not the same; "
            "try one list of names for both"
        )
    before, after = first.scores(), second.scores()
    change = {name: after[name] - before[name] for name in after}
    pictures_with = np.minimum(first.counts["pictures_with"], second.counts["pictures_with"])
    return _describe(first, change, pictures_with, names_of(classes, first.num_classes), level)


def poisson_weights(name: str, replicates: int, seed: int = 0) -> Int64[np.ndarray, "replicates"]:
    """How often each replicate holds the picture called `name`: Poisson(1), a function of (seed, name) alone.

    The random bits are SHAKE-256 of both, so that no library's version and no machine changes the draw.

    Raises:
        SegfocusError: an empty name.
    """
    if not name:
        raise SegfocusError(
            "bootstrap: expected a name for each picture, got none; try name=, by which it is recognised when resampled"
        )
    bits = hashlib.shake_256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest(4 * replicates)
    # the weight is k when the draw lies between the k-th and the next value of the distribution function
    return np.searchsorted(_poisson_steps(), np.frombuffer(bits, "<u4"), side="right").astype(np.int64)


def interval(values: np.ndarray, level: float = 0.95) -> list[float] | None:
    """Percentile interval [low, high] that holds the middle `level` of the replicates' values.

    Values that are NaN (replicates with nothing to score) are dropped; None when no other is left.  Quantiles are
    interpolated linearly.

    Raises:
        SegfocusError: a level outside (0, 1).
    """
    _check_level(level)
    values = np.asarray(values, np.float64)
    values = values[~np.isnan(values)]
    if not values.size:
        return None
    return np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist()


def pictures_needed(level: float = 0.95) -> int:
    """The fewest pictures for which an interval at `level` is given: 6 at 95 %.

    Even the whole range of n independent values holds their median only with probability 1 - 2 ** (1 - n) (all n lie
    on one side with probability 2 ** -n each), and no percentile of resampled data reaches beyond that range.  Below
    6 pictures this is under 95 %: the interval would claim more than the data can say.
    """
    _check_level(level)
    return math.ceil(1 - math.log2(1 - level))


def _describe(
    bootstrap: Bootstrap, scores: dict[str, np.ndarray], pictures_with: np.ndarray, names: list[str], level: float
) -> dict[str, Any]:
    """Intervals of the replicates' scores, named."""
    n_pictures, needed = int(bootstrap.counts["n_pictures"]), pictures_needed(level)

    def span(values: np.ndarray, pictures: int = n_pictures) -> list[float] | None:
        return interval(values, level) if pictures >= needed else None

    def spans(values: Float64[np.ndarray, "replicates classes"]) -> dict[str, list[float] | None]:
        columns = zip(names, values.T, pictures_with.tolist(), strict=True)
        return {name: span(column, pictures) for name, column, pictures in columns}

    bands = bootstrap.bands.names
    return {
        "level": level,
        "replicates": bootstrap.replicates,
        "n_pictures": n_pictures,
        "pictures_needed": needed,
        **{name: span(scores[name]) for name in ("miou", "pixel_accuracy", "mean_accuracy")},
        "per_class": spans(scores["per_class"]),
        "boundary_iou": {band: span(values) for band, values in zip(bands, scores["boundary_iou"].T, strict=True)},
        "boundary_iou_per_class": {
            band: spans(values)
            for band, values in zip(bands, scores["boundary_iou_per_class"].swapaxes(0, 1), strict=True)
        },
    }


def _mean_of_present(values: Float64[np.ndarray, "*rest classes"]) -> Float64[np.ndarray, "*rest"]:
    """Mean over the last axis of what is not NaN; NaN where nothing is left."""
    present = ~np.isnan(values)
    return ratio(np.where(present, values, 0).sum(-1), present.sum(-1))


def _poisson_steps() -> np.ndarray:
    """Distribution function of Poisson(1) at 0, 1, 2, ... in units of 2**-32, up to where it rounds to 1."""
    terms = (math.exp(-1) / math.factorial(k) for k in itertools.count())
    steps = (round(2**32 * value) for value in itertools.accumulate(terms))
    return np.fromiter(itertools.takewhile(lambda step: step < 2**32, steps), np.uint32)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise SegfocusError(f"interval: expected a level between 0 and 1, got {level}; try 0.95")

"""A threshold of its own for each patch of a probability map (ThreshNet, later PatchRefineNet: Nagendra, Kifer et al.,
WACV 2024, section 3: the region-specific target).  NumPy only.

Maps are float32 in [0, 1], or uint8 / uint16, where 255 / 65535 stands for 1.  A pixel is foreground when its
probability exceeds the threshold (strictly).  Truth maps are uint8: 1 foreground, 0 background, 255 ignored.
Patches are squares of `patch` px whose grid lines lie `offset` px (row, column) from the map's upper left corner, and
then every `patch` px; those at the frame are cut off by it.  A patch without foreground is best served by few false
alarms: the + 1 in the scores sees to it (with 0 / 0 = 0 instead, 29 % of the target's pixels would be wrong).

| score | of each patch, t = threshold | |
|---|---|---|
| foreground | (TP + 1) / (G + FP + 1) | the released rule, default |
| mean | mean of that and (TN + 1) / (B + G - TP + 1) | the paper's "mIoU" |
| pooled | sum TP / sum (G + FP) over all patches | best IoU that the map can have (Dinkelbach's method) |
| right | TP + TN | most right pixels |

G, B = labelled pixels of foreground and background; TP, FP, TN of those as usual.

How: a pixel counts for a threshold by the number of thresholds below its probability, so one histogram of
(patch, truth, that number), summed from above, gives TP and FP at every threshold as integers: the same time for any
patch.  Every choice is exact (`foreground`: ratios of integers below 2**26, which float64 keeps apart; `pooled`,
`right`: integers), and equal to that of a loop over patches and thresholds.

Where this differs: the paper has thresholds 0.05 ... 0.95 and no word on ties; these are 0.05 ... 1 (the last takes
nothing), and of equal scores the lowest threshold wins, as in the released results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from segfocus.errors import SegfocusError
from segfocus.ops.patch_maps import (
    EVERYTHING,
    IGNORE,
    check_maps,
    check_type,
    full_scale,
    integer_cuts,
    patch_index,
    thresholds_below,
)

THRESHOLDS = tuple(step / 20 for step in range(1, 21))
"""0.05 to 1 in steps of 0.05"""
SCORES = ("foreground", "mean", "pooled", "right")
_KINDS = 4  # truth & 3: 0 background, 1 foreground, 3 ignored (255)
_BAND = 2**15  # pixels counted at a time: their numbers stay in the processor's cache


@dataclass(frozen=True)
class PatchCounts:
    """What `best_thresholds` chooses by: pixels of each patch above each threshold, ignored ones left out."""

    true_positives: Int64[np.ndarray, "rows columns thresholds"]
    false_positives: Int64[np.ndarray, "rows columns thresholds"]
    foreground: Int64[np.ndarray, "rows columns"]
    background: Int64[np.ndarray, "rows columns"]
    thresholds: tuple[float, ...]


def count_patches(
    probability: np.ndarray,
    truth: np.ndarray,
    patch: int,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    offset: tuple[int, int] = (0, 0),
) -> PatchCounts:
    """True and false positives of every patch at every threshold.

    Args:
        probability: float32 in [0, 1], uint8 or uint16.
        truth: 1 foreground, 0 background, 255 ignored.
        patch: side in px, from 1; larger than the map is one patch (with offset 0).
        thresholds: in (0, 1], ascending.
        offset: px from the upper left corner to a grid line (row, column); any integers, only their remainder by
            `patch` matters.

    Raises:
        SegfocusError: a map of another type, with values outside [0, 1] or NaN; a truth of another size or with other
            values; a patch below 1; thresholds that do not ascend within (0, 1].
    """
    check_maps(probability, truth)
    steps = [float(threshold) for threshold in thresholds]
    if not steps or steps[0] <= 0 or steps[-1] > 1 or any(low >= high for low, high in pairwise(steps)):
        raise SegfocusError(f"thresholds: expected ascending numbers in (0, 1], got {steps}; try 0.25 0.5 0.75")
    bins = len(steps) + 1
    small = np.min_scalar_type(_KINDS * bins)
    below = thresholds_below(probability.dtype, steps)
    rows, columns = patch_index(probability.shape, patch, offset)
    shape = int(rows[-1]) + 1, int(columns[-1]) + 1
    histogram = np.zeros((shape[0], shape[1] * _KINDS * bins), np.int64)
    high = max(1, _BAND // len(columns))
    across = columns * (_KINDS * bins)
    keys = np.empty((min(high, len(rows)), len(columns)), np.int64)
    for top in range(0, len(rows), high):
        band = slice(top, top + high)
        kind = (truth[band] & 3).astype(small)
        key = np.add(kind * small.type(bins) + below(probability[band]), across, out=keys[: len(kind)])
        row = rows[band] - rows[top]
        if row[-1]:
            key += (row * histogram.shape[1])[:, None]
        part = histogram[rows[top] : rows[top] + row[-1] + 1]
        part += np.bincount(key.ravel(), minlength=part.size).reshape(part.shape)
    histogram = histogram.reshape(*shape, _KINDS, bins)[:, :, :2]
    above = histogram[..., ::-1].cumsum(-1)[..., ::-1]
    return PatchCounts(above[:, :, 1, 1:], above[:, :, 0, 1:], above[:, :, 1, 0], above[:, :, 0, 0], tuple(steps))


def best_thresholds(
    probability: np.ndarray,
    truth: np.ndarray,
    patch: int,
    *,
    score: str = "foreground",
    thresholds: Sequence[float] = THRESHOLDS,
    offset: tuple[int, int] = (0, 0),
    ties: str = "lowest",
) -> Float32[np.ndarray, "rows columns"]:
    """The threshold of best score for each patch; arguments as `count_patches`.

    Args:
        score: see the table above; "pooled" is taken over this map (over many: `best_thresholds_of_all`).
        ties: of equal scores the lowest threshold, or with "middle" the one nearest to 0.5 (the lower of two): the
            better to look at, where an empty patch has many that are equally good.

    Raises:
        SegfocusError: as `count_patches`, or another score.
    """
    counts = count_patches(probability, truth, patch, thresholds=thresholds, offset=offset)
    return _choose([counts], score, ties)[0]


def best_thresholds_of_all(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    patch: int,
    *,
    score: str = "pooled",
    thresholds: Sequence[float] = THRESHOLDS,
    offset: tuple[int, int] = (0, 0),
    ties: str = "lowest",
) -> list[Float32[np.ndarray, "rows columns"]]:
    """`best_thresholds` of each (probability, truth); "pooled" is best for the IoU over all pixels of all of them.

    The upper bound of what thresholds for patches can do.  Only counts are kept, one pair is held at a time.
    """
    counted = [count_patches(*pair, patch, thresholds=thresholds, offset=offset) for pair in pairs]
    return _choose(counted, score, ties) if counted else []


def best_single_threshold(
    pairs: Iterable[tuple[np.ndarray, np.ndarray]],
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    ties: str = "lowest",
) -> float:
    """The one threshold of best IoU over all pixels of all (probability, truth), maps of any sizes.

    Raises:
        SegfocusError: as `count_patches`, or no pair.
    """
    total = None
    for probability, truth in pairs:
        whole = count_patches(probability, truth, max(probability.shape), thresholds=thresholds)
        one = np.stack([whole.true_positives[0, 0], whole.false_positives[0, 0] + whole.foreground[0, 0]])
        total = one if total is None else total + one
    if total is None:
        raise SegfocusError("best_single_threshold: expected at least one pair, got none; try a larger split")
    steps = tuple(float(threshold) for threshold in thresholds)
    return steps[int(_preferred((total[:1] + 1) / (total[1:] + 1), steps, ties)[0])]


def best_cuts(
    probability: np.ndarray,
    truth: np.ndarray,
    patch: int,
    *,
    score: str = "foreground",
    offset: tuple[int, int] = (0, 0),
) -> Float32[np.ndarray, "rows columns"]:
    """The best of all thresholds there are, not of 20 only: the upper bound for any set of them.

    Every value of a patch's labelled pixels is tried, and -1, which takes all of them; of equal scores the lowest.
    Arguments and errors as `best_thresholds`.
    """
    check_maps(probability, truth)
    rows, columns = patch_index(probability.shape, patch, offset)
    count = (rows[-1] + 1) * (columns[-1] + 1)
    labelled = truth != IGNORE
    of_patch = np.add.outer(rows * (columns[-1] + 1), columns)[labelled]
    value, foreground = probability[labelled], truth[labelled].astype(np.int64)
    # -1 before every patch's own values, ascending
    of_patch = np.concatenate([np.arange(count), of_patch])
    value = np.concatenate([np.full(count, EVERYTHING), value.astype(np.float64)])
    kind = np.concatenate([np.full(count, -1), foreground])
    order = np.lexsort((value, of_patch))
    of_patch, value, kind = of_patch[order], value[order], kind[order]
    last = np.flatnonzero(np.append((value[1:] != value[:-1]) | (of_patch[1:] != of_patch[:-1]), True))
    totals = np.stack([np.bincount(of_patch[kind == which], minlength=count) for which in (0, 1)])
    passed = np.stack([(kind == which).cumsum() for which in (0, 1)])[:, last]  # at or below the cut
    of_patch, value = of_patch[last], value[last]
    before = totals.cumsum(1) - totals
    false, true = (totals + before)[:, of_patch] - passed
    background, foreground = totals[:, of_patch]
    starts = np.searchsorted(of_patch, np.arange(count))

    def first_best(values: np.ndarray) -> np.ndarray:
        highest = np.flatnonzero(values == np.maximum.reduceat(values, starts)[of_patch])
        return highest[np.searchsorted(of_patch[highest], np.arange(count))]

    best = value[_best(score, true, false, foreground, background, first_best, int(totals[1].sum()))]
    best = np.where(best < 0, best, best / full_scale(probability.dtype))
    return best.astype(np.float32).reshape(rows[-1] + 1, columns[-1] + 1)


def apply_thresholds(
    probability: np.ndarray,
    thresholds: Float32[np.ndarray, "rows columns"],
    patch: int,
    offset: tuple[int, int] = (0, 0),
) -> Bool[np.ndarray, "height width"]:
    """Whether each pixel's probability exceeds its patch's threshold.

    In uint8 and uint16 maps the comparison is one of integers: a threshold stands for its multiple of 1 / 255 or
    1 / 65535, to a hundredth of a step, so that 51 of 255 does not exceed 0.2.

    Raises:
        SegfocusError: a map of another type, a patch below 1, thresholds for another number of patches.
    """
    check_type(probability)
    rows, columns = patch_index(probability.shape, patch, offset)
    if thresholds.shape != (rows[-1] + 1, columns[-1] + 1):
        raise SegfocusError(
            f"thresholds: expected {rows[-1] + 1} x {columns[-1] + 1} for patches of {patch} px, got "
            f"{thresholds.shape[0]} x {thresholds.shape[1]}; try the patch and offset they were made with"
        )
    if probability.dtype != np.float32:
        thresholds = integer_cuts(thresholds, probability.dtype)
    mask = np.empty(probability.shape, bool)
    wide = thresholds[:, columns]
    edges = np.searchsorted(rows, np.arange(len(thresholds) + 1))
    for row, (top, bottom) in enumerate(pairwise(edges)):
        np.greater(probability[top:bottom], wide[row], out=mask[top:bottom])
    return mask


def threshold_target(
    probability: np.ndarray,
    truth: np.ndarray,
    patch: int,
    *,
    score: str = "foreground",
    thresholds: Sequence[float] | None = THRESHOLDS,
    offset: tuple[int, int] = (0, 0),
) -> UInt8[np.ndarray, "height width"]:
    """The region-specific target: the map cut at the best threshold of each patch; 255 where the truth is ignored.

    Args:
        thresholds: as `best_thresholds`; None tries every cut (`best_cuts`).
    """
    if thresholds is None:
        best = best_cuts(probability, truth, patch, score=score, offset=offset)
    else:
        best = best_thresholds(probability, truth, patch, score=score, thresholds=thresholds, offset=offset)
    target = apply_thresholds(probability, best, patch, offset).view(np.uint8)
    target[truth == IGNORE] = IGNORE
    return target


def _best(
    score: str,
    true: np.ndarray,
    false: np.ndarray,
    foreground: np.ndarray,
    background: np.ndarray,
    first_best: Callable[[np.ndarray], np.ndarray],
    total: int,
) -> np.ndarray:
    """Which candidate each patch takes; `first_best` says it for values of any meaning, `total` = sum of G."""
    if score == "foreground":
        return first_best((true + 1) / (foreground + false + 1))
    if score == "mean":
        other = (background - false + 1) / (background + foreground - true + 1)
        return first_best(((true + 1) / (foreground + false + 1) + other) / 2)
    if score == "right":
        return first_best(true - false)
    if score != "pooled":
        raise SegfocusError(f"score: expected one of {', '.join(SCORES)}, got {score!r}; try 'foreground'")
    if not true.any():
        return first_best(-false)
    # Dinkelbach: IoU a / b is reached or surpassed where b TP - a FP is largest, until nothing surpasses it
    above, below = 0, 1
    while True:
        chosen = first_best(below * true - above * false)
        reached = int(true.ravel()[chosen].sum()), int(false.ravel()[chosen].sum()) + total
        if reached[0] * below == above * reached[1]:
            return chosen
        above, below = reached


def _preferred(values: np.ndarray, steps: Sequence[float], ties: str) -> np.ndarray:
    """Index of the largest of the last axis; of equal ones by `ties`."""
    if ties == "lowest":
        return values.argmax(-1)
    if ties != "middle":
        raise SegfocusError(f"ties: expected lowest or middle, got {ties!r}; try 'lowest'")
    order = np.abs(np.array(steps) - 0.5).round(9).argsort(kind="stable")
    return order[values[..., order].argmax(-1)]


def _choose(counted: Sequence[PatchCounts], score: str, ties: str) -> list[Float32[np.ndarray, "_ _"]]:
    """The best threshold of every patch of every map."""
    steps = counted[0].thresholds
    true, false = (
        np.concatenate([getattr(counts, name).reshape(-1, len(steps)) for counts in counted])
        for name in ("true_positives", "false_positives")
    )
    foreground, background = (
        np.concatenate([getattr(counts, name).reshape(-1, 1) for counts in counted])
        for name in ("foreground", "background")
    )
    first = np.arange(len(true)) * len(steps)  # candidates are counted through all patches

    def first_best(values: np.ndarray) -> np.ndarray:
        return first + _preferred(values, steps, ties)

    chosen = _best(score, true, false, foreground, background, first_best, int(foreground.sum()))
    best = np.array(steps, np.float32)[chosen - first]
    ends = np.cumsum([counts.foreground.size for counts in counted])[:-1]
    return [part.reshape(counts.foreground.shape) for part, counts in zip(np.split(best, ends), counted, strict=True)]

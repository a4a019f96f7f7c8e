"""What `segfocus.ops.patches` computes, as loops over patches and thresholds, and maps to try it on."""

from fractions import Fraction

import numpy as np

TWENTY = [Fraction(step, 20) for step in range(1, 21)]


def field(seed, height, width, dtype=np.float32, ignored=0.1):
    """A smooth noisy map with many values exactly at thresholds, and a truth with ignored pixels."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    line = np.abs((rows - columns + 7 * seed) % 19 - 9) < 3
    value = np.clip(0.35 * line + 0.3 + 0.2 * np.sin(rows / 9 + seed) + 0.15 * rng.standard_normal(line.shape), 0, 1)
    value = np.where(rng.random(line.shape) < 0.2, rng.integers(0, 21, line.shape) / 20, value)
    truth = line.astype(np.uint8)
    truth[rng.random(line.shape) < ignored] = 255
    truth[: height // 3, : width // 3] = np.minimum(truth[: height // 3, : width // 3], 0)  # patches without foreground
    if dtype != np.float32:
        value = (value * np.iinfo(dtype).max).round()
    return value.astype(dtype), truth


def exceeds(probability, threshold):
    """probability > threshold: in float32 of a float map, in integers of an integer map."""
    if probability.dtype == np.float32:
        return probability > np.float32(float(threshold))
    scale = int(np.iinfo(probability.dtype).max)
    return probability.astype(np.int64) * threshold.denominator > threshold.numerator * scale


def grid(shape, patch, offset):
    """(row, column, pixels) of each patch."""
    starts = [
        [max(line, 0) for line in range(start % patch - patch, size, patch) if line + patch > 0]
        for size, start in zip(shape, offset, strict=True)
    ]
    ends = [[*lines[1:], size] for lines, size in zip(starts, shape, strict=True)]
    for row, (top, bottom) in enumerate(zip(starts[0], ends[0], strict=True)):
        for column, (left, right) in enumerate(zip(starts[1], ends[1], strict=True)):
            yield row, column, np.s_[top:bottom, left:right]


def counts(mask, truth):
    """TP, FP, G, B of a patch."""
    return [int(np.sum(found)) for found in (mask & (truth == 1), mask & (truth == 0), truth == 1, truth == 0)]


def score_of(score, true, false, foreground, background):
    overlap = Fraction(true + 1, foreground + false + 1)
    if score == "foreground":
        return overlap
    if score == "mean":
        other = Fraction(background - false + 1, background + foreground - true + 1)
        return (float(overlap) + float(other)) / 2
    return true + background - false


def thresholds_by_loops(probability, truth, patch, score, offset=(0, 0), steps=TWENTY, order=None):
    """The first best threshold of each patch, and the mask; `order` says in which order thresholds are tried."""
    found, mask = {}, np.zeros(probability.shape, bool)
    for row, column, pixels in grid(probability.shape, patch, offset):
        best = None
        for step in order or steps:
            taken = exceeds(probability[pixels], step)
            value = score_of(score, *counts(taken, truth[pixels]))
            if best is None or value > best:
                best, found[row, column], mask[pixels] = value, step, taken
    rows, columns = (1 + max(place[axis] for place in found) for axis in (0, 1))
    table = np.array([[float(found[row, column]) for column in range(columns)] for row in range(rows)], np.float32)
    return table, mask

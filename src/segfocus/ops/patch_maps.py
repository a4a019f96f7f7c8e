"""The maps that `segfocus.ops.patches` takes: what is checked of them, which patch a pixel lies in, and how their
values meet thresholds.  NumPy only.

Integer maps are compared as integers: a threshold is taken for its multiple of 1 / 255 or 1 / 65535 rounded to a
hundredth of a step, so that 51 of 255 does not exceed 0.2, which float32 cannot hold exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Int64

from segfocus.errors import SegfocusError

IGNORE = 255
"""in truth maps: never counted"""
EVERYTHING = -1.0
"""the threshold that even a probability of 0 exceeds"""


def patch_index(
    shape: tuple[int, ...], patch: int, offset: tuple[int, int] = (0, 0)
) -> tuple[Int64[np.ndarray, " height"], Int64[np.ndarray, " width"]]:
    """The patch's row for each row of pixels, and its column for each column of pixels."""
    if patch < 1:
        raise SegfocusError(f"patch: expected a side of at least 1 px, got {patch}; try 64")
    rows, columns = (
        (np.arange(size, dtype=np.int64) + -start % patch) // patch for size, start in zip(shape, offset, strict=True)
    )
    return rows, columns


def check_type(probability: np.ndarray) -> None:
    """Refuse what is no map of probabilities by its type or shape."""
    if probability.dtype not in (np.float32, np.uint8, np.uint16) or probability.ndim != 2 or not probability.size:
        raise SegfocusError(
            "probability: expected height x width of float32, uint8 or uint16, got "
            f"{' x '.join(map(str, probability.shape))} of {probability.dtype}; try .astype(np.float32)"
        )


def check_maps(probability: np.ndarray, truth: np.ndarray) -> None:
    """Refuse maps and truths with other values, types or sizes than `segfocus.ops.patches` says."""
    check_type(probability)
    if probability.dtype == np.float32 and not (probability.min() >= 0 and probability.max() <= 1):  # NaN too
        raise SegfocusError(
            f"probability: expected numbers in [0, 1], got {probability.min()} to {probability.max()}; "
            "try the sigmoid of logits"
        )
    if truth.shape != probability.shape or truth.dtype != np.uint8:
        raise SegfocusError(
            f"truth: expected uint8 of {' x '.join(map(str, probability.shape))} as the probabilities, got "
            f"{truth.dtype} of {' x '.join(map(str, truth.shape))}; try the mask of the same picture"
        )
    if ((truth > 1) & (truth != IGNORE)).any():
        other = truth[(truth > 1) & (truth != IGNORE)][0]
        raise SegfocusError(f"truth: expected 0, 1 and {IGNORE} (ignored), got {other}; try mask == {other}")


def full_scale(dtype: np.dtype) -> int:
    """The value that stands for 1."""
    return 1 if dtype == np.float32 else int(np.iinfo(dtype).max)


def integer_cuts(thresholds: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The largest value of an integer map that does not exceed each threshold."""
    cuts = np.floor((np.asarray(thresholds, np.float64) * full_scale(dtype)).round(2))
    return cuts.astype(dtype if cuts.min() >= 0 else np.int32)


def thresholds_below(dtype: np.dtype, steps: Sequence[float]) -> Callable[[np.ndarray], np.ndarray]:
    """A function that says for each value of a map how many of the ascending thresholds lie below it."""
    small = np.min_scalar_type(len(steps))
    if dtype != np.float32:
        cuts = integer_cuts(np.array(steps), dtype).astype(np.int64)
        runs = np.diff(cuts + 1, prepend=0, append=full_scale(dtype) + 1)
        return np.arange(len(runs), dtype=small).repeat(runs).take
    parts = round(1 / steps[0])
    if parts > 100 or any(step != number / parts for number, step in enumerate(steps, 1)):
        exact = np.array(steps, np.float32)
        return lambda values: exact.searchsorted(values, side="left").astype(small)
    reached = (np.arange(parts + 1) / parts).astype(np.float32)
    reached[0] = EVERYTHING

    def of_equal_steps(values: np.ndarray) -> np.ndarray:
        # parts x value, rounded down, is that number, or one more where the value is a threshold or nearly so
        number = (values * np.float32(parts)).astype(np.uint8)
        number -= (values <= reached.take(number)).view(np.uint8)
        return np.minimum(number, np.uint8(len(steps))) if len(steps) < parts else number

    return of_equal_steps

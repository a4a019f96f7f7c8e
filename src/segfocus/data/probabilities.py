"""Stored numbers as checked probabilities: [channels, height, width], float32 in [0, 1]."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from segfocus.data.classes import IGNORE
from segfocus.errors import SegfocusError

_FULL_SCALE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
"""integers that stand for 1"""
_OUTSIDE = 1e-3
"""how far floats may lie outside [0, 1]: rounding of half precision"""
_SUM = 1e-3
_HALF_SUM = 1e-2
"""how far the sum over classes of floats may lie from 1: networks compute in half precision and bfloat16"""


def as_fractions(
    values: np.ndarray,
    path: Path,
    corner: tuple[int, int] = (0, 0),
    remedy: str = "softmax (sigmoid for one channel): these may be logits",
) -> Float32[np.ndarray, "channels height width"]:
    """Stored probabilities as float32 in [0, 1]: 8-bit values / 255, 16-bit values / 65535, floats as they are.

    Args:
        values: of one file, or of a part of it.
        path: for messages.
        corner: row and column in the file where `values` begin, for messages.
        remedy: what to try where floats lie outside [0, 1].

    Raises:
        SegfocusError: NaN, infinity, values outside [0, 1], other integers; names the file.
    """
    if values.dtype == np.bool_ or values.dtype in _FULL_SCALE:
        return np.ascontiguousarray(np.divide(values, _FULL_SCALE.get(values.dtype, 1), dtype=np.float32))
    if values.dtype.kind != "f":
        raise SegfocusError(
            f"{path}: expected probabilities as floats, 8-bit or 16-bit values, got {values.dtype}; try float16, "
            "or --prediction-kind labels"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        fractions = np.ascontiguousarray(values, np.float32)
        lowest, highest = fractions.min(), fractions.max()
    if not (np.isfinite(lowest) and np.isfinite(highest)):
        raise _not_finite(fractions, path, corner)
    if lowest < -_OUTSIDE or highest > 1 + _OUTSIDE:
        whole = lowest >= 0 and 1 < highest <= 255 and bool((fractions == np.rint(fractions)).all())
        advice = "8-bit integers, or values / 255" if whole else remedy
        raise SegfocusError(f"{path}: expected probabilities in [0, 1], got {lowest:g} to {highest:g}; try {advice}")
    if lowest < 0 or highest > 1:
        fractions = fractions.clip(0, 1)
    return fractions


def of_logits(
    values: np.ndarray, path: Path, corner: tuple[int, int] = (0, 0)
) -> Float32[np.ndarray, "classes height width"]:
    """Probabilities of stored logits: softmax over channels; of a single one its sigmoid, the foreground's, after the
    background's.

    Args:
        values: [channels, height, width], floats, of one file or of a part of it.
        path, corner: as for `as_fractions`.

    Raises:
        SegfocusError: NaN, infinity, integers; names the file.
    """
    if values.dtype.kind != "f":
        raise SegfocusError(f"{path}: expected logits as floats, got {values.dtype}; try without --logits")
    with np.errstate(over="ignore"):
        logits = values.astype(np.float32)
    if not np.isfinite(logits).all():
        raise _not_finite(logits, path, corner)
    if len(logits) == 1:
        return np.exp(-np.logaddexp(0, np.concatenate([logits, -logits])))
    logits -= logits.max(0)
    np.exp(logits, out=logits)
    logits /= logits.sum(0)
    return logits


def _not_finite(values: np.ndarray, path: Path, corner: tuple[int, int]) -> SegfocusError:
    where = np.argwhere(~np.isfinite(values))
    channel, row, column = where[0]
    return SegfocusError(
        f"{path}: expected numbers, got NaN or infinity {len(where)} times, first in channel {channel} at row "
        f"{corner[0] + row}, column {corner[1] + column}; try to predict without half precision"
    )


def check_sums(
    values: Float32[np.ndarray, "channels height width"],
    stored: np.dtype,
    path: Path,
    corner: tuple[int, int] = (0, 0),
) -> None:
    """Refuse pixels whose channels sum neither to 1 nor to 0, which says that there is no prediction.

    `corner` is as for `as_fractions`.  How far from 1 they may lie follows from the type in which they were stored:
    half a step a channel for integers, 1 % for floats.

    Raises:
        SegfocusError: names the file and the first such pixel.
    """
    rounding = len(values) * 0.5 / _FULL_SCALE[stored] + _SUM if stored in _FULL_SCALE else _HALF_SUM
    total = values.sum(0)
    off = (abs(total - 1) > rounding) & (total > 0)
    if off.any():
        row, column = np.argwhere(off)[0]
        raise SegfocusError(
            f"{path}: expected probabilities that sum to 1 at each pixel, got {total[row, column]:.3f} at row "
            f"{corner[0] + row}, column {corner[1] + column} ({off.mean():.1%} of all pixels are off); "
            "try softmax over the classes"
        )


def most_probable(
    probabilities: Float32[np.ndarray, "classes height width"],
) -> UInt8[np.ndarray, "height width"]:
    """The class of the largest probability, the first of equal ones; 255 where all are 0.

    A running maximum: `argmax` over the first axis takes several times as long.
    """
    best = probabilities[0].copy()
    labels = np.where(best > 0, np.uint8(0), np.uint8(IGNORE))
    for index in range(1, len(probabilities)):
        channel = probabilities[index]
        np.copyto(labels, np.uint8(index), where=channel > best)
        np.maximum(best, channel, out=best)
    return labels

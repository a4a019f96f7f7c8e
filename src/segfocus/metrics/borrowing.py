"""Whether a method that borrows predictions points at the right pixels, and trusts them where it should.

For a pixel p with the offset o the seed pixel is p + o, rounded to whole pixels and kept inside the picture.  All
pixels of a cell have the cell's offset.  Offsets and confidence are those of Alexandropoulos et al., "OVeNet",
arXiv 2303.14516, section 3; the questions asked of them here are ours.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int64, Shaped, UInt8

from segfocus.errors import SegfocusError
from segfocus.metrics.confusion import VOID, check_labels
from segfocus.metrics.tally import SUM_UNIT, number

PARTS = ("wrong before", "right before")
"""labelled pixels by the initial prediction"""
_LENGTH_STEP, _LENGTHS = 0.25, 4096
"""px of a bin of offset lengths, and bins: to 1024 px, longer ones in the last"""


class Borrowing:
    """Counts over pictures, exact under any order (int64)."""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.lengths: Int64[np.ndarray, "lengths"] = np.zeros(_LENGTHS, np.int64)
        """labelled pixels by the length of their offset"""
        self._parts = {
            key: np.zeros(len(PARTS), np.int64)
            for key in ("pixels", "seeds", "same_class", "would_be_right", "confidence")
        }
        self._trust = {key: np.zeros(2, np.int64) for key in ("pixels", "confidence")}

    def add(
        self,
        target: UInt8[np.ndarray, "height width"],
        initial: UInt8[np.ndarray, "_ _"],
        offsets: Float[np.ndarray, "2 rows columns"],
        confidence: Float[np.ndarray, "rows columns"],
    ) -> None:
        """Count one picture.

        Args:
            target: train ids, 255 = void.
            initial: train ids predicted before borrowing.
            offsets: (x, y) in px on a grid that covers the picture.
            confidence: in [0, 1] on the same grid.

        Raises:
            SegfocusError: labels that are no classes, sizes that differ, or offsets that are not finite.
        """
        check_labels(target, initial, self.num_classes)
        if not np.isfinite(offsets).all():
            raise SegfocusError("offsets: expected finite values, got NaN or infinity; try a smaller learning rate")
        from segfocus.viz.maps import enlarge

        labelled = target != VOID
        rows, columns = seed_pixels(offsets, target.shape)
        seed_truth = target[rows, columns]
        trust = enlarge(confidence, target.shape)
        wrong = (initial != target) & labelled
        for index, part in enumerate((wrong, labelled & ~wrong)):
            seeds = part & (seed_truth != VOID)
            added = {
                "pixels": part.sum(),
                "seeds": seeds.sum(),
                "same_class": (seeds & (seed_truth == target)).sum(),
                "would_be_right": (part & (initial[rows, columns] == target)).sum(),
                "confidence": _sum(trust, part),
            }
            for key, value in added.items():
                self._parts[key][index] += value
        for index, agree in enumerate((True, False)):
            chosen = labelled & (seed_truth != VOID) & ((seed_truth == target) == agree)
            self._trust["pixels"][index] += chosen.sum()
            self._trust["confidence"][index] += _sum(trust, chosen)
        length = enlarge(np.hypot(*offsets.astype(np.float64)), target.shape)[labelled]
        bins = np.minimum(length / _LENGTH_STEP, _LENGTHS - 1).astype(np.int64)
        self.lengths += np.bincount(bins, minlength=_LENGTHS)

    def quantile(self, share: float) -> float | None:
        """The length in px that so many pixels do not exceed, to the next 0.25 px; None without pixels."""
        total = int(self.lengths.sum())
        if not total:
            return None
        return float((np.searchsorted(self.lengths.cumsum(), share * total) + 1) * _LENGTH_STEP)

    def summary(self) -> dict[str, Any]:
        """JSON values; fractions in [0, 1], None where nothing was counted.

        Returns:
            {"lengths": {"50 %", "90 %", "99 %": px}, "parts": [{"part", "pixels", "same_class": share of the seed
            pixels that are truly of the pixel's class (void seeds left out), "would_be_right": share of the pixels
            whose seed pixel was predicted as the pixel's true class, "confidence": mean}], "confidence":
            {"same_class", "other_class": mean where the seed pixel truly is of the pixel's class, and where not}}
        """
        count, unit = self._parts, float(SUM_UNIT)
        parts = [
            {
                "part": part,
                "pixels": int(count["pixels"][index]),
                "same_class": _ratio(count["same_class"][index], count["seeds"][index]),
                "would_be_right": _ratio(count["would_be_right"][index], count["pixels"][index]),
                "confidence": _ratio(count["confidence"][index] / unit, count["pixels"][index]),
            }
            for index, part in enumerate(PARTS)
        ]
        sums = zip(self._trust["confidence"], self._trust["pixels"], strict=True)
        trust = [_ratio(total / unit, pixels) for total, pixels in sums]
        return {
            "lengths": {f"{share} %": self.quantile(share / 100) for share in (50, 90, 99)},
            "parts": parts,
            "confidence": dict(zip(("same_class", "other_class"), trust, strict=True)),
        }


def seed_pixels(
    offsets: Float[np.ndarray, "2 rows columns"], size: tuple[int, ...]
) -> tuple[Int64[np.ndarray, "height width"], Int64[np.ndarray, "height width"]]:
    """Row and column of every pixel's seed pixel in a picture of `size` = (height, width) that the grid covers."""
    from segfocus.viz.maps import enlarge

    height, width = size
    x, y = (np.rint(enlarge(part, (height, width))).astype(np.int64) for part in offsets)
    rows = (np.arange(height)[:, None] + y).clip(0, height - 1)
    columns = (np.arange(width) + x).clip(0, width - 1)
    return rows, columns


def _sum(values: Shaped[np.ndarray, "height width"], mask: Bool[np.ndarray, "height width"]) -> int:
    return round(float(values[mask].sum(dtype=np.float64)) * SUM_UNIT)


def _ratio(part: Any, whole: Any) -> float | None:
    return number(part / whole) if whole else None

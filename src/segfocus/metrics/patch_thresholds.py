"""Which threshold each patch of a map would need, and which one a refiner's mask amounts to.

The best threshold is that of `segfocus.ops.patches` (score "foreground"); the implied one is found alike, with the
refined mask in the place of the truth.  Of equal thresholds the one nearest to 0.5 counts: a patch that needs none has
0.5.  Of three or more classes each is compared with all others, as ThreshNet does.

Thresholds of patches are from Nagendra et al., "ThreshNet", arXiv 2211.06560, section 3.2; the questions asked of them
here are ours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, Int64, UInt8

from segfocus.errors import SegfocusError
from segfocus.metrics.confusion import VOID, check_labels
from segfocus.metrics.tally import number
from segfocus.ops.patches import THRESHOLDS, apply_thresholds, best_thresholds

KINDS = ("best", "implied")
_MIDDLE = 0.5


class ClassThresholds(NamedTuple):
    """Of one class in one picture."""

    best: Float32[np.ndarray, "rows columns"]
    """by the truth"""
    implied: Float32[np.ndarray, "rows columns"]
    """by the refined mask"""
    counted: Bool[np.ndarray, "rows columns"]
    """patches where the map exceeds the lowest threshold anywhere: elsewhere all thresholds do the same"""


def class_thresholds(
    index: int,
    target: UInt8[np.ndarray, "height width"],
    base: Float32[np.ndarray, "height width"],
    labels: UInt8[np.ndarray, "height width"],
    patch: int,
) -> ClassThresholds:
    """Thresholds of the class `index` in every patch.

    Args:
        index: the class.
        target: train ids, 255 = void, which is not counted.
        base: the class's probability before refining, in [0, 1].
        labels: train ids after refining.
        patch: side in px; the grid begins in the upper left corner.

    Raises:
        SegfocusError: sizes that differ, probabilities outside [0, 1] or NaN, a patch below 1.
    """
    void = target == VOID
    found = []
    for mask in (target == index, labels == index):
        truth = mask.astype(np.uint8)
        truth[void] = VOID
        found.append(best_thresholds(base, truth, patch, ties="middle"))
    above = (base > np.float32(THRESHOLDS[0])) & ~void
    starts = [np.arange(0, side, patch) for side in target.shape]
    counted = np.logical_or.reduceat(np.logical_or.reduceat(above, starts[0], 0), starts[1], 1)
    return ClassThresholds(found[0], found[1], counted)


class PatchThresholds:
    """Counts over pictures, exact under any order (int64).

    Raises:
        SegfocusError: fewer than two classes.
    """

    def __init__(self, num_classes: int, patch: int) -> None:
        if num_classes < 2:
            raise SegfocusError(f"patch thresholds: expected at least two classes, got {num_classes}; try 2")
        self.num_classes, self.patch = num_classes, patch
        self.counts: dict[str, Int64[np.ndarray, "thresholds"]] = {
            kind: np.zeros(len(THRESHOLDS), np.int64) for kind in KINDS
        }
        """patches by their threshold"""
        self._followed, self._off, self._changed, self._explained = (0,) * 4

    def add(
        self,
        target: UInt8[np.ndarray, "height width"],
        base: Float32[np.ndarray, "classes _ _"],
        labels: UInt8[np.ndarray, "_ _"],
    ) -> None:
        """Count one picture.

        Args:
            target: train ids, 255 = void.
            base: probabilities in [0, 1] before refining.
            labels: train ids after refining.

        Raises:
            SegfocusError: labels or maps that do not fit each other; the counts stay as they were.
        """
        check_labels(target, labels, self.num_classes)
        if base.shape != (self.num_classes, *target.shape):
            raise SegfocusError(
                f"patch thresholds: expected maps of {self.num_classes} x {target.shape[0]} x {target.shape[1]}, got "
                f"{' x '.join(map(str, base.shape))}; try the maps that were refined, at their own size"
            )
        before = base[1] > np.float32(_MIDDLE) if self.num_classes == 2 else base.argmax(0)
        classes = (1,) if self.num_classes == 2 else range(self.num_classes)
        parts = [class_thresholds(index, target, base[index], labels, self.patch) for index in classes]
        for index, part in zip(classes, parts, strict=True):
            for kind, thresholds in zip(KINDS, (part.best, part.implied), strict=True):
                steps = (thresholds[part.counted] * len(THRESHOLDS)).round().astype(np.int64) - 1
                self.counts[kind] += np.bincount(steps, minlength=len(THRESHOLDS))
            wanted, taken = (
                np.sign(values[part.counted] - np.float32(_MIDDLE)) for values in (part.best, part.implied)
            )
            self._off += int((wanted != 0).sum())
            self._followed += int(((wanted != 0) & (wanted == taken)).sum())
            refined = labels == index
            changed = (refined != (before == index)) & (target != VOID)
            self._changed += int(changed.sum())
            if changed.any():
                cut = apply_thresholds(base[index], part.implied, self.patch)
                self._explained += int((changed & (cut == refined)).sum())

    def summary(self) -> dict[str, Any]:
        """JSON values; fractions in [0, 1], None where nothing was counted.

        Returns:
            {"patch": px, "thresholds": [...], "patches": those where thresholds matter (of three or more classes each
            counts), "best", "implied": [patches with each threshold], "best_off", "implied_off": share of the patches
            whose threshold is not 0.5, "followed": share of the patches with a best threshold above or below 0.5 whose
            implied one lies on the same side, "changed": pixels whose label changed (of three or more classes counted
            in both), "explained": the share of them that the implied thresholds change alike}
        """
        patches = int(self.counts["best"].sum())
        middle = THRESHOLDS.index(_MIDDLE)
        shares = {f"{kind}_off": _ratio(patches - int(self.counts[kind][middle]), patches) for kind in KINDS}
        return {
            "patch": self.patch,
            "thresholds": list(THRESHOLDS),
            "patches": patches,
            **{kind: self.counts[kind].tolist() for kind in KINDS},
            **shares,
            "followed": _ratio(self._followed, self._off),
            "changed": self._changed,
            "explained": _ratio(self._explained, self._changed),
        }


def _ratio(part: int, whole: int) -> float | None:
    return number(part / whole) if whole else None

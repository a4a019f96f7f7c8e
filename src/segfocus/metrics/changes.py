"""Which pixels a second prediction changes for better and for worse."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import VOID
from segfocus.metrics.regions import PARTITIONS, bin_names, size_bins
from segfocus.metrics.tally import Tally, names_of

KINDS = ("right", "fixed", "broken", "still_wrong")
"""right in both predictions; wrong in the baseline alone; wrong in the new one alone; wrong in both"""


def changes(comparison: Comparison) -> np.ndarray:
    """Index into `KINDS` of every pixel, uint8 height x width; 255 where the truth is void.

    Raises:
        SegfocusError: the comparison has no baseline.
    """
    if comparison.baseline is None:
        raise SegfocusError(f"{comparison.name or 'picture'}: expected a baseline prediction, got none")
    was_wrong = comparison.baseline != comparison.target
    kinds = was_wrong.astype(np.uint8) + 2 * comparison.wrong.astype(np.uint8)
    kinds[~comparison.labelled] = VOID
    return kinds


class Changes(Tally):
    """Pixels of each of `KINDS` by true class and by the parts of `segfocus.metrics.regions.PARTITIONS`."""

    needs = ("baseline",)

    def __init__(self, num_classes: int) -> None:
        super().__init__(num_classes)
        self.counts = {"per_class": np.zeros((num_classes, len(KINDS)), np.int64)}
        for name, edges in PARTITIONS.items():
            self.counts[name] = np.zeros((len(edges) + 1, len(KINDS)), np.int64)

    def count(self, comparison: Comparison) -> dict[str, np.ndarray]:
        kinds = changes(comparison)
        counted = kinds != VOID
        kinds = kinds[counted]
        numbered, sizes, _ = comparison.components
        maps = {
            "per_class": comparison.target,
            "distance": comparison.distance_bin,
            "thickness": comparison.thickness_bin,
            "component_size": size_bins(sizes).take(numbered),
        }
        return {name: _joint(values[counted], kinds, len(self.counts[name])) for name, values in maps.items()}

    def summary(self, classes: Classes | Sequence[str]) -> dict[str, Any]:
        """{"changed": {"fixed", "broken", "still_wrong": pixels, "per_class": {name: {the same}},
        "per_region": {partition: {"bins": [...], "fixed": [...], "broken": [...], "still_wrong": [...]}}}}"""
        names = names_of(classes, self.num_classes)
        per_class = self.counts["per_class"]
        return {
            "changed": {
                **_named(per_class.sum(0)),
                "per_class": {name: _named(row) for name, row in zip(names, per_class, strict=True)},
                "per_region": {
                    name: {
                        "bins": bin_names(edges),
                        **{kind: self.counts[name][:, index].tolist() for index, kind in enumerate(KINDS) if index},
                    }
                    for name, edges in PARTITIONS.items()
                },
            }
        }


def _joint(values: np.ndarray, kinds: np.ndarray, rows: int) -> np.ndarray:
    key = values.astype(np.int64) * len(KINDS) + kinds
    return np.bincount(key, minlength=rows * len(KINDS)).reshape(rows, len(KINDS))


def _named(row: np.ndarray) -> dict[str, int]:
    return {kind: int(pixels) for kind, pixels in zip(KINDS, row, strict=True) if kind != "right"}

"""Tally: integer counts that add up over pictures, and the scores that follow from them.

Every state is int64, so the sums are exact: order, batching, merging and the number of processes change nothing,
and memory does not grow with the number of pictures.  Where a score averages fractions, the fraction is counted in
units of 2**-40 (`as_units`), which keeps twelve decimals and adds exactly; sums over pixels in units of 2**-20.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics.comparison import Comparison

UNIT = 2**40
"""a fraction of 1 as an integer; room for 8 million fractions in int64"""
SUM_UNIT = 2**20
"""a picture's float64 sum over pixels as an integer; room for millions of pictures"""


class Tally(ABC):
    """Counts of one kind.  A subclass sets zeros in `counts`, says in `count` what one picture adds, and in
    `summary` what follows; it never changes `counts` itself."""

    needs: ClassVar[tuple[str, ...]] = ()
    """what pictures must come with beside labels: 'probabilities', 'instances', 'baseline', 'importance'"""

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self.counts: dict[str, np.ndarray] = {}

    @abstractmethod
    def count(self, comparison: Comparison) -> dict[str, np.ndarray]:
        """What one picture adds to each of `counts`: int64, same keys and shapes.  Pure."""

    @abstractmethod
    def summary(self, classes: Classes | Sequence[str]) -> dict[str, Any]:
        """The scores so far as strict JSON values (fractions in [0, 1]; None where nothing was to be scored)."""

    @property
    def settings(self) -> tuple[Any, ...]:
        """What two tallies must share to be merged."""
        return (self.num_classes, *((name, value.shape) for name, value in self.counts.items()))

    def update(
        self,
        target: np.ndarray,
        prediction: np.ndarray,
        *,
        probabilities: np.ndarray | None = None,
        instances: np.ndarray | None = None,
        importance: np.ndarray | None = None,
        baseline: np.ndarray | None = None,
        name: str = "",
    ) -> None:
        """Add one picture (arguments: see `Comparison`).

        Raises:
            SegfocusError: bad values; the counts stay as they were.
        """
        self.add(
            Comparison(
                target,
                prediction,
                self.num_classes,
                probabilities=probabilities,
                instances=instances,
                importance=importance,
                baseline=baseline,
                name=name,
            )
        )

    def add(self, comparison: Comparison) -> None:
        """Add one picture that was compared already, so that several tallies share the work."""
        found = self.count(comparison)
        for name, value in found.items():
            self.counts[name] += value

    def merge(self, other: Tally) -> None:
        """Add the counts of another process or part of the pictures.

        Raises:
            SegfocusError: the other counts something else.
        """
        if type(self) is not type(other) or self.settings != other.settings:
            raise SegfocusError(
                f"expected counts made alike, got {type(self).__name__} of {self.settings} and "
                f"{type(other).__name__} of {other.settings}; try the same classes and distances"
            )
        for name, value in other.counts.items():
            self.counts[name] += value


def as_units(fractions: Any) -> np.ndarray:
    """Fractions in [0, 1] as integers in units of 2**-40, rounded."""
    return np.rint(np.asarray(fractions, np.float64) * UNIT).astype(np.int64)


def as_sum_units(sums: np.ndarray) -> np.ndarray:
    """Sums over a picture's pixels as integers in units of 2**-20, rounded."""
    return np.rint(sums * SUM_UNIT).astype(np.int64)


def number(value: Any) -> float | None:
    """A JSON value: None for NaN."""
    value = float(value)
    return None if math.isnan(value) else value


def numbers(values: Any) -> list[float | None]:
    """`number` of each."""
    return [number(value) for value in values]


def names_of(classes: Classes | Sequence[str], num_classes: int) -> list[str]:
    """Class names in the order of train ids.

    Raises:
        SegfocusError: another count of names, or a name twice, which would hide a class's scores.
    """
    names = list(classes if isinstance(classes, Sequence) else classes.names)
    if len(names) != num_classes:
        raise SegfocusError(f"expected {num_classes} class names, got {len(names)}: {', '.join(names)}")
    if len(set(names)) < len(names):
        raise SegfocusError(f"expected different class names, got {', '.join(names)}")
    return names


def by_name(names: Sequence[str], values: Any) -> dict[str, float | None]:
    """{name: value} as JSON values."""
    return {name: number(value) for name, value in zip(names, values, strict=True)}

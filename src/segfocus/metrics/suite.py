"""Suite: several tallies over the same pictures, and their scores in one dictionary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError, nearest
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.scores import Counts
from segfocus.metrics.tally import Tally

DISTANCES = (1, 3, 5)
"""px of the Boundary IoU, tolerances of the boundary F-score, bands of the intervals"""
DIAGONAL_SHARE = 0.02
"""of the Boundary IoU as Cheng et al. set it"""
GROUPS = {
    "overlap": "IoU, accuracy, Boundary IoU, categories",
    "regions": "errors by distance to the boundary, thickness and component size; trimap IoU",
    "boundary_f": "boundary F-score",
    "mba": "CascadePSP's mean boundary accuracy",
    "thin": "clDice of the classes marked thin",
    "instances": "iIoU; needs instance maps",
    "calibration": "ECE, Brier, NLL; needs probabilities",
    "binary": "foreground scores of a two-class task",
    "intervals": "bootstrap confidence intervals over pictures",
    "headroom": "how much each method could gain at most",
    "importance": "how well a method's importance finds errors, boundaries and thin parts; needs importance",
}
"""group -> what it scores"""


class _Given(NamedTuple):
    """What a suite is built for."""

    classes: Classes
    distances: tuple[int, ...]
    given: frozenset[str]
    instance_sizes: dict[str, float] | None


class Suite(Tally):
    """The chosen groups of scores as one tally: each picture's maps are computed once and shared.

    `counts` holds those of every group, as 'group/name'.
    """

    def __init__(
        self,
        classes: Classes,
        groups: Literal["all", "basic"] | Sequence[str] = "all",
        distances: Sequence[int] = DISTANCES,
        *,
        probabilities: bool = False,
        instances: bool = False,
        baseline: bool = False,
        importance: bool = False,
        instance_sizes: dict[str, float] | None = None,
    ) -> None:
        """
        Args:
            classes: names, thin flags and categories.
            groups: names from `GROUPS`; "basic" is overlap alone; "all" is every group for which the pictures bring
                what it needs (see `left_out`).
            distances: px of the Boundary IoU.
            probabilities: whether every comparison will have probabilities.
            instances: whether every comparison will have instances.
            baseline: whether every comparison will have a baseline, whose changed pixels are then counted.
            importance: whether every comparison will have importance.
            instance_sizes: mean object size in px of each class, for iIoU; default the mean of the truth.

        Raises:
            SegfocusError: an unknown group, or one that needs what the pictures do not bring.
        """
        super().__init__(classes.num_classes)
        self.classes = classes
        self.left_out: dict[str, str] = {}
        """group -> why it is not scored"""
        brings = {
            "probabilities": probabilities,
            "instances": instances,
            "baseline": baseline,
            "importance": importance,
        }
        given = _Given(
            classes, tuple(distances), frozenset(name for name, there in brings.items() if there), instance_sizes
        )
        self.tallies: dict[str, Tally] = {}
        for group in _chosen(groups):
            lacking = _lacking(group, given)
            if lacking is None:
                self.tallies[group] = _MAKERS[group](given)
            elif groups == "all":
                self.left_out[group] = lacking
            else:
                raise SegfocusError(f"metrics: expected {lacking[3:]} for '{group}', got none; leave it out")
        if baseline:
            self.tallies["changed"] = _changed(given)
        self.counts = {
            f"{group}/{name}": value for group, tally in self.tallies.items() for name, value in tally.counts.items()
        }

    @property
    def settings(self) -> tuple[Any, ...]:
        return (self.num_classes, *((group, tally.settings) for group, tally in self.tallies.items()))

    def count(self, comparison: Comparison) -> dict[str, np.ndarray]:
        return {
            f"{group}/{name}": value
            for group, tally in self.tallies.items()
            for name, value in tally.count(comparison).items()
        }

    def summary(self, classes: Classes | Sequence[str] | None = None) -> dict[str, Any]:
        """The summaries of all groups in one dictionary of strict JSON values; see `docs/reference.md`."""
        found: dict[str, Any] = {}
        for tally in self.tallies.values():
            found |= tally.summary(self.classes if classes is None else classes)
        if self.left_out:
            found["left_out"] = dict(self.left_out)
        return found

    @property
    def overlap(self) -> Counts:
        """The tally of IoU and Boundary IoU, which every suite has."""
        counts = self.tallies["overlap"]
        assert isinstance(counts, Counts)
        return counts

    def difference(self, before: Suite) -> dict[str, Any]:
        """What has changed since `before`, which scored another prediction of the same pictures.

        Returns:
            {"miou": {"value": now - before, "interval": [low, high] or None}, "pixel_accuracy": ...,
            "mean_accuracy": ..., "boundary_iou": {distance: ...}, "per_class": {name: ...},
            "boundary_iou_per_class": {distance: {name: ...}}}; intervals of 95 % from the paired bootstrap
            over pictures, None where the suites were made without the group 'intervals'.
        """
        now, then = (suite.overlap.summary(suite.classes) for suite in (self, before))
        intervals: dict[str, Any] = {}
        if "intervals" in self.tallies and "intervals" in before.tallies:
            from segfocus.metrics.bootstrap import Bootstrap, difference_intervals

            first, second = before.tallies["intervals"], self.tallies["intervals"]
            assert isinstance(first, Bootstrap)
            assert isinstance(second, Bootstrap)
            intervals = difference_intervals(first, second, self.classes)
        found: dict[str, Any] = {}
        for key in ("miou", "pixel_accuracy", "mean_accuracy"):
            found[key] = _change(now[key], then[key], intervals.get(key))
        for key in ("boundary_iou", "per_class"):
            ranges = intervals.get(key) or {}
            found[key] = _changes(now[key], then[key], ranges)
        key = "boundary_iou_per_class"
        ranges = intervals.get(key) or {}
        found[key] = {
            distance: _changes(values, then[key][distance], ranges.get(distance) or {})
            for distance, values in now[key].items()
        }
        return found


def _change(now: float | None, then: float | None, interval: list[float] | None) -> dict[str, Any]:
    return {"value": None if now is None or then is None else now - then, "interval": interval}


def _changes(now: dict[str, Any], then: dict[str, Any], intervals: dict[str, Any]) -> dict[str, Any]:
    return {name: _change(value, then[name], intervals.get(name)) for name, value in now.items()}


def _chosen(groups: str | Sequence[str]) -> list[str]:
    """Names of groups in the order of GROUPS; the overlap is always among them."""
    groups = [groups] if isinstance(groups, str) else groups
    for group in groups:
        if group not in (*GROUPS, "all", "basic"):
            raise SegfocusError(f"metrics: unknown group '{group}'; {nearest(group, [*GROUPS, 'all', 'basic'])}")
    return [group for group in GROUPS if group in groups or group == "overlap" or "all" in groups]


def _lacking(group: str, given: _Given) -> str | None:
    """Why a group cannot be scored: 'no ...'."""
    if group == "binary" and given.classes.num_classes != 2:
        return "no two-class task"
    if group == "thin" and not any(given.classes.thin):
        return "no class marked thin: true in the classes file"
    needed = {"instances": "instances", "calibration": "probabilities", "importance": "importance"}.get(group)
    if needed and needed not in given.given:
        return f"no {needed}"
    return None


def _regions(given: _Given) -> Tally:
    from segfocus.metrics.regions import RegionErrors

    return RegionErrors(given.classes.num_classes)


def _boundary_f(given: _Given) -> Tally:
    from segfocus.metrics.boundary_f import BoundaryF

    return BoundaryF(given.classes.num_classes, given.distances)


def _mba(given: _Given) -> Tally:
    from segfocus.metrics.mean_boundary_accuracy import MeanBoundaryAccuracy

    return MeanBoundaryAccuracy(given.classes.num_classes)


def _thin(given: _Given) -> Tally:
    from segfocus.metrics.thin import ThinStructures

    thin = [train_id for train_id, marked in enumerate(given.classes.thin) if marked]
    return ThinStructures(given.classes.num_classes, thin)


def _instances(given: _Given) -> Tally:
    from segfocus.metrics.instance import InstanceScores

    return InstanceScores(given.classes, given.instance_sizes)


def _calibration(given: _Given) -> Tally:
    from segfocus.metrics.calibration import Calibration

    return Calibration(given.classes.num_classes)


def _binary(given: _Given) -> Tally:
    from segfocus.metrics.binary import ForegroundScores

    return ForegroundScores(given.classes.num_classes)


def _intervals(given: _Given) -> Tally:
    from segfocus.metrics.bootstrap import Bootstrap

    return Bootstrap(given.classes.num_classes, given.distances, (DIAGONAL_SHARE,))


def _headroom(given: _Given) -> Tally:
    from segfocus.metrics.headroom import Headroom

    return Headroom(given.classes.num_classes)


def _importance(given: _Given) -> Tally:
    from segfocus.metrics.importance import ImportanceQuality

    return ImportanceQuality(given.classes.num_classes, baseline="baseline" in given.given)


def _changed(given: _Given) -> Tally:
    from segfocus.metrics.changes import Changes

    return Changes(given.classes.num_classes)


_MAKERS: dict[str, Callable[[_Given], Tally]] = {
    "overlap": lambda given: Counts(given.classes.num_classes, given.distances, (DIAGONAL_SHARE,)),
    "regions": _regions,
    "boundary_f": _boundary_f,
    "mba": _mba,
    "thin": _thin,
    "instances": _instances,
    "calibration": _calibration,
    "binary": _binary,
    "intervals": _intervals,
    "headroom": _headroom,
    "importance": _importance,
}

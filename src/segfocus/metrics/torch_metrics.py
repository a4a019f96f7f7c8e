"""Tallies as torchmetrics: states are sums, so any batching and any number of processes give the same scores.

Thin shells: labels are handed to the NumPy functions on the CPU, which is where they are fastest (a 1024 x 2048
pair costs less there than one `torch.bincount`).
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.confusion import ratio, scores_from_confusion
from segfocus.metrics.scores import Counts
from segfocus.metrics.suite import DIAGONAL_SHARE, Suite
from segfocus.metrics.tally import Tally


class TallyMetric(Metric):
    """Any `segfocus.metrics.Tally` as a Metric: `TallyMetric(BoundaryF(19), names)`; `compute` gives its summary."""

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    def __init__(self, tally: Tally, classes: Classes | Sequence[str], **kwargs: Any) -> None:
        """
        Args:
            tally: what to count; its own counts are left alone.
            classes: the classes, or their names.
            kwargs: of `torchmetrics.Metric`.
        """
        super().__init__(**kwargs)
        self.classes = classes
        self._empty = copy.deepcopy(tally)
        for value in self._empty.counts.values():
            value[...] = 0
        # `MetricCollection` updates only one of the metrics whose states are equal after the first batch, which two
        # that count differently can be by chance: their fingerprints are not.  (torchmetrics 1.6 compares the first
        # state alone, so it has to be this one.)
        self.add_state("fingerprint", _fingerprint(self._empty), dist_reduce_fx="max")
        self._states = {name: name.replace("/", "__") for name in tally.counts}
        for name, state in self._states.items():
            zeros = torch.from_numpy(self._empty.counts[name].copy())
            self.add_state(state, zeros, dist_reduce_fx="sum")

    def update(
        self,
        preds: Tensor,
        target: Tensor,
        probabilities: Tensor | None = None,
        instances: Tensor | None = None,
        names: str | Sequence[str] | None = None,
        *,
        importance: Tensor | None = None,
        baseline: Tensor | None = None,
    ) -> None:
        """Add pictures.

        Args:
            preds: train ids "batch height width" or "height width", any integer dtype.
            target: the same shape; 255 = void.
            probabilities: "batch classes height width" or "classes height width", for tallies that need them.
            instances: integers of the shape of `target`, for tallies that need them.
            names: of the pictures, for bootstrap intervals.
            importance: a method's map, "batch rows columns" or "rows columns", for its row of the headroom and
                for tallies that need it.
            baseline: train ids of another prediction, of the shape of `target`, for what has changed.

        Raises:
            SegfocusError: bad values, or not one of each for every picture; nothing of the batch is counted.
        """
        pairs = _pairs(preds, target)
        single, count = preds.ndim == 2, len(pairs)
        maps = {
            "probabilities": _each("probabilities", probabilities, single, count),
            "instances": _each("instances", instances, single, count),
            "importance": _each("importance", importance, single, count),
            "baseline": _each("baseline", _labels("baseline", baseline), single, count),
        }
        names = [names] if isinstance(names, str) else [""] * count if names is None else names
        _check_count("names", len(names), count)
        added: dict[str, np.ndarray] = {}
        for index, (truth, guess) in enumerate(pairs):
            given = {key: values[index] for key, values in maps.items()}
            found = self._empty.count(Comparison(truth, guess, self._empty.num_classes, name=names[index], **given))
            added = {name: added[name] + value if name in added else value for name, value in found.items()}
        for name, value in added.items():
            state = self._states[name]
            setattr(self, state, getattr(self, state) + torch.as_tensor(value).to(self.device))

    def tally(self) -> Tally:
        """The state of this process as NumPy counts (inside `compute`: of all processes)."""
        found = copy.deepcopy(self._empty)
        for name, state in self._states.items():
            found.counts[name][...] = getattr(self, state).cpu().numpy()
        return found

    def compute(self) -> Any:
        """The tally's summary; strict JSON values."""
        return self.tally().summary(self.classes)


class ConfusionMatrix(TallyMetric):
    """Confusion matrix over all pixels that are not void; `compute` gives int64 [truth, prediction]."""

    confusion: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(Counts(num_classes, ()), _numbered(num_classes), **kwargs)

    def compute(self) -> Int[Tensor, "truth prediction"]:
        """The counts so far."""
        return self.confusion.clone()

    def scores(self) -> dict[str, Any]:
        """`segfocus.metrics.scores_from_confusion` of the counts so far (over all processes)."""
        return scores_from_confusion(self.compute().cpu().numpy())


class BoundaryIoU(TallyMetric):
    """Boundary IoU of each class (see `segfocus.metrics.boundary`); `compute` gives float64 [bands, classes] on the
    CPU."""

    higher_is_better = True
    boundary_intersection: Tensor
    boundary_union: Tensor

    def __init__(
        self, num_classes: int, distances: Sequence[int] = (1, 3, 5), shares: Sequence[float] = (), **kwargs: Any
    ) -> None:
        """Bands `distances` px wide, then `shares` of each picture's diagonal."""
        super().__init__(Counts(num_classes, distances, shares), _numbered(num_classes), **kwargs)

    def compute(self) -> Float[Tensor, "bands classes"]:
        """Values in [0, 1]; NaN for a class that is in neither truth nor prediction."""
        return torch.from_numpy(ratio(self.boundary_intersection.cpu().numpy(), self.boundary_union.cpu().numpy()))


class SegmentationScores(TallyMetric):
    """The scores of `segfocus.metrics.Suite` in one pass; by default IoU, accuracy and Boundary IoU alone."""

    def __init__(
        self,
        classes: Classes | Sequence[str],
        distances: Sequence[int] = (1, 3, 5),
        groups: str | Sequence[str] = "basic",
        **kwargs: Any,
    ) -> None:
        """
        Args:
            classes: the classes; names alone do for the basic scores.
            distances: px of the Boundary IoU.
            groups: "basic", or as for `Suite`, which then needs the `Classes`.
            kwargs: probabilities, instances, baseline, importance, instance_sizes of `Suite`; the others of
                `torchmetrics.Metric`.
        """
        if groups == "basic":
            names = classes if isinstance(classes, Sequence) else classes.names
            tally: Tally = Counts(len(names), distances, (DIAGONAL_SHARE,))
        else:
            if not isinstance(classes, Classes):
                raise SegfocusError(
                    "metrics: expected Classes for more than the basic scores, got names; try Classes.of"
                )
            options = ("probabilities", "instances", "baseline", "importance", "instance_sizes")
            own = {name: kwargs.pop(name) for name in options if name in kwargs}
            tally = Suite(classes, groups, distances, **own)  # pyright: ignore
        super().__init__(tally, classes, **kwargs)


def _numbered(num_classes: int) -> list[str]:
    return [str(train_id) for train_id in range(num_classes)]


def _fingerprint(tally: Tally) -> Int[Tensor, "bytes"]:
    """Eight bytes that tell what is counted, one to a number: comparisons of states may round."""
    made = f"{type(tally).__qualname__} {tally.settings}"
    return torch.tensor(list(hashlib.sha256(made.encode()).digest()[:8]))


def _each(name: str, values: Tensor | None, single: bool, count: int) -> list[np.ndarray] | list[None]:
    """The values of each picture of a batch, or of the single picture that came without a batch."""
    if values is None:
        return [None] * count
    values = values.detach()
    if values.is_floating_point():
        values = values.float()  # NumPy has no bfloat16
    batch = values.cpu().numpy()
    batch = batch[None] if single else batch
    _check_count(name, len(batch), count)
    return list(batch)


def _check_count(name: str, found: int, count: int) -> None:
    if found != count:
        raise SegfocusError(f"{name}: expected one for each of {count} pictures, got {found}")


def _labels(name: str, labels: Tensor | None) -> Tensor | None:
    return None if labels is None else torch.from_numpy(_as_uint8(name, labels)).reshape(labels.shape)


def _pairs(preds: Tensor, target: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """(truth, prediction) of each picture as uint8."""
    if preds.shape != target.shape or preds.ndim not in (2, 3):
        raise SegfocusError(
            f"expected train ids batch x height x width of one shape, got predictions {tuple(preds.shape)} and "
            f"target {tuple(target.shape)}; try logits.argmax(1)"
        )
    truth, guess = (_as_uint8(name, labels) for name, labels in (("target", target), ("preds", preds)))
    return list(zip(truth, guess, strict=True))


def _as_uint8(name: str, labels: Tensor) -> np.ndarray:
    if labels.is_floating_point() or labels.is_complex():
        raise SegfocusError(f"{name}: expected integer train ids, got {labels.dtype}; try logits.argmax(1)")
    array = labels.detach().cpu().numpy()
    if array.dtype != np.uint8:
        if array.size and (array.min() < 0 or array.max() > 255):
            raise SegfocusError(f"{name}: expected train ids 0 to 255, got {array.min()} to {array.max()}")
        array = array.astype(np.uint8)
    return array if array.ndim == 3 else array[None]

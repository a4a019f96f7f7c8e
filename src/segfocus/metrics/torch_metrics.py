"""Tallies as torchmetrics: states are sums, so any batching and any number of processes give the same scores.

Thin shells: labels are handed to the NumPy functions on the CPU, which is where they are fastest (a 1024 x 2048
pair costs less there than one `torch.bincount`).
"""

from __future__ import annotations

import copy
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
    higher_is_better = True
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
        names: Sequence[str] | None = None,
    ) -> None:
        """Add pictures.

        Args:
            preds: train ids "batch height width" or "height width", any integer dtype.
            target: the same shape; 255 = void.
            probabilities: "batch classes height width" or "classes height width", for tallies that need them.
            instances: integers of the shape of `target`, for tallies that need them.
            names: of the pictures, for bootstrap intervals.
        """
        pairs = _pairs(preds, target)
        several = preds.ndim == 3
        for index, (truth, guess) in enumerate(pairs):
            found = self._empty.count(
                Comparison(
                    truth,
                    guess,
                    self._empty.num_classes,
                    probabilities=_array(probabilities, index if several else None),
                    instances=_array(instances, index if several else None),
                    name="" if names is None else names[index],
                )
            )
            for name, value in found.items():
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

    higher_is_better = None
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
    """Boundary IoU of each class (see `segfocus.metrics.boundary`); `compute` gives float64 [bands, classes]."""

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
            kwargs: probabilities, instances, instance_sizes of `Suite`; the others of `torchmetrics.Metric`.
        """
        if groups == "basic":
            names = classes if isinstance(classes, Sequence) else classes.names
            tally: Tally = Counts(len(names), distances, (DIAGONAL_SHARE,))
        else:
            if not isinstance(classes, Classes):
                raise SegfocusError(
                    "metrics: expected Classes for more than the basic scores, got names; try Classes.of"
                )
            own = {
                name: kwargs.pop(name) for name in ("probabilities", "instances", "instance_sizes") if name in kwargs
            }
            tally = Suite(classes, groups, distances, **own)  # pyright: ignore
        super().__init__(tally, classes, **kwargs)


def _numbered(num_classes: int) -> list[str]:
    return [str(train_id) for train_id in range(num_classes)]


def _array(values: Tensor | None, index: int | None) -> np.ndarray | None:
    if values is None:
        return None
    return (values if index is None else values[index]).detach().cpu().numpy()


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

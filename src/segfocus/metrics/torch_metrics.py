"""The counts as torchmetrics: states are sums, so any batching and any number of processes give the same scores.

Thin shells: labels are handed to the NumPy functions on the CPU, which is where they are fastest (a 1024 x 2048
pair costs less there than one `torch.bincount`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError
from segfocus.metrics.boundary import boundary_counts, check_distances
from segfocus.metrics.confusion import confusion_matrix, ratio, scores_from_confusion
from segfocus.metrics.scores import Counts


class ConfusionMatrix(Metric):
    """Confusion matrix over all pixels that are not void; `compute` gives int64 [truth, prediction]."""

    is_differentiable = False
    full_state_update = False
    confusion: Tensor

    def __init__(self, num_classes: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.add_state("confusion", torch.zeros(num_classes, num_classes, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add train ids "batch height width" or "height width" (any integer dtype; 255 = void in `target`)."""
        for truth, guess in _pairs(preds, target):
            self.confusion += self._state(confusion_matrix(truth, guess, self.num_classes))

    def compute(self) -> Int[Tensor, "truth prediction"]:
        """The counts so far."""
        return self.confusion.clone()

    def scores(self) -> dict[str, Any]:
        """`segfocus.metrics.scores_from_confusion` of the counts so far (over all processes)."""
        return scores_from_confusion(self.compute().cpu().numpy())

    def _state(self, counts: np.ndarray) -> Tensor:
        return torch.from_numpy(counts).to(self.device)


class BoundaryIoU(Metric):
    """Boundary IoU of each class (see `segfocus.metrics.boundary`); `compute` gives float64 [distances, classes]."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    intersection: Tensor
    union: Tensor

    def __init__(self, num_classes: int, distances: Sequence[int] = (1, 3, 5), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_classes = num_classes
        self.distances = check_distances(distances)
        shape = (len(self.distances), num_classes)
        self.add_state("intersection", torch.zeros(shape, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("union", torch.zeros(shape, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add train ids "batch height width" or "height width" (any integer dtype; 255 = void in `target`)."""
        for truth, guess in _pairs(preds, target):
            intersection, union = boundary_counts(truth, guess, self.num_classes, self.distances)
            self.intersection += torch.from_numpy(intersection).to(self.device)
            self.union += torch.from_numpy(union).to(self.device)

    def compute(self) -> Float[Tensor, "distances classes"]:
        """Values in [0, 1]; NaN for a class that is in neither truth nor prediction."""
        return torch.from_numpy(ratio(self.intersection.cpu().numpy(), self.union.cpu().numpy()))


class SegmentationScores(Metric):
    """All of `segfocus.metrics.Counts` in one pass; `compute` gives the scores dictionary of `Counts.summary`."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    confusion: Tensor
    boundary_intersection: Tensor
    boundary_union: Tensor
    n_pictures: Tensor

    def __init__(self, classes: Classes | Sequence[str], distances: Sequence[int] = (1, 3, 5), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.classes = tuple(classes if isinstance(classes, Sequence) else classes.names)
        self.distances = tuple(distances)
        zero = self._zero()
        for name in ("confusion", "boundary_intersection", "boundary_union"):
            self.add_state(name, torch.from_numpy(getattr(zero, name)), dist_reduce_fx="sum")
        self.add_state("n_pictures", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add train ids "batch height width" or "height width" (any integer dtype; 255 = void in `target`)."""
        counts = self._zero()
        for truth, guess in _pairs(preds, target):
            counts.update(truth, guess)
        for name in ("confusion", "boundary_intersection", "boundary_union"):
            setattr(self, name, getattr(self, name) + torch.from_numpy(getattr(counts, name)).to(self.device))
        self.n_pictures = self.n_pictures + counts.n_pictures

    def counts(self) -> Counts:
        """The state of this process as NumPy counts (inside `compute`: of all processes)."""
        counts = self._zero()
        for name in ("confusion", "boundary_intersection", "boundary_union"):
            setattr(counts, name, getattr(self, name).cpu().numpy().copy())
        counts.n_pictures = int(self.n_pictures)
        return counts

    def compute(self) -> dict[str, Any]:
        """The scores of `Counts.summary`; strict JSON values."""
        return self.counts().summary(self.classes)

    def _zero(self) -> Counts:
        return Counts(len(self.classes), self.distances)


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

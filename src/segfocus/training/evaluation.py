"""Scores of a checkpoint on a split; streams over the pictures, needs no Lightning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

import segfocus
from segfocus.errors import SegfocusError
from segfocus.metrics.borrowing import Borrowing
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.suite import GROUPS, Suite
from segfocus.recipe import DataConfig, EvaluationConfig

if TYPE_CHECKING:
    import numpy as np

    from segfocus.checkpoint import Checkpoint
    from segfocus.data.classes import Classes
    from segfocus.inference.predictor import Prediction

_FINAL_ONLY = {"regions", "headroom", "calibration"}
"""groups that the initial prediction is not scored by: told by what changed, shown nowhere, needs probabilities"""
_TITLES = {"initial": "the network's own initial prediction", "coarse": "the network's own coarse prediction"}
"""kind of baseline -> what it is called; see `segfocus.inference.predictor.FIRST_PREDICTIONS`"""


def evaluate(
    checkpoint: Checkpoint | str | Path,
    data: DataConfig | None = None,
    split: str | None = None,
    evaluation: EvaluationConfig | None = None,
    device: str = "auto",
    metrics: str | Sequence[str] = "basic",
    on_picture: Callable[[str, np.ndarray, np.ndarray, Prediction], None] | None = None,
) -> dict[str, Any]:
    """Dataset-level scores of a checkpoint, in float32, each picture at its own size.

    Args:
        checkpoint: loaded, or its file.
        data: which pictures; default the checkpoint's own recipe.
        split: default the recipe's validation split.
        evaluation: window, scales, flip, boundary distances; default the recipe's.
        device: "auto", "cpu", "cuda", ...
        metrics: "basic", "all", or groups of `segfocus.metrics.suite.GROUPS`.
        on_picture: called with (name, picture uint8 HW3, target uint8 HW with 255 = void, prediction) for each.

    Returns:
        `Suite.summary` with the further key "how": checkpoint, dataset, split, window, stride, scales, flip and the
        segfocus version.  Of a method with a first prediction of its own also "baseline": {"kind": "initial" (before it
        borrowed) or "coarse" (before the context came in), "title", "scores", "difference", "changed"} as in
        `segfocus.report.from_files`; and, of one that borrows, where pictures are seen whole, "borrowing":
        `segfocus.metrics.borrowing.Borrowing.summary`.

    Raises:
        SegfocusError: the dataset has other classes than the checkpoint was trained on, or any bad file.
    """
    from segfocus import checkpoint as checkpoints
    from segfocus.data import open_dataset
    from segfocus.inference.predictor import Predictor

    where = str(checkpoint) if isinstance(checkpoint, str | Path) else "in memory"
    loaded = checkpoints.load(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
    data = data or loaded.recipe.data
    split = split or data.val_split
    evaluation = evaluation or loaded.recipe.evaluation
    # the checkpoint's own classes read its own dataset, also where the classes file has gone or was never needed
    own = data.name == loaded.recipe.data.name and data.classes in (None, loaded.recipe.data.classes)
    dataset = open_dataset(data, split, classes=loaded.classes if own else None)
    _same_classes(loaded.classes, dataset.classes, f"{data.name} {split}")
    predictor = Predictor(
        loaded,
        window=evaluation.window,
        stride=evaluation.stride,
        scales=tuple(evaluation.scales),
        flip=evaluation.flip,
        device=device,
        max_pixels=data.max_pixels,
        initial=True,
    )
    measurement: _Measurement | None = None
    for index in tqdm(range(len(dataset)), "evaluate", unit="picture", disable=None, leave=False):
        picture, target = dataset.read(index)
        prediction = predictor(picture)
        name = dataset.pairs[index].name
        if measurement is None:
            kind = prediction.initial_kind
            measurement = _Measurement(loaded.classes, metrics, evaluation.boundary_distances, kind)
        measurement.add(name, target, prediction)
        if on_picture is not None:
            on_picture(name, picture, target, prediction)
    if measurement is None:
        measurement = _Measurement(loaded.classes, metrics, evaluation.boundary_distances, kind=None)
    how = {
        "checkpoint": where,
        "dataset": data.name,
        "split": split,
        "window": evaluation.window,
        "stride": evaluation.stride,
        "scales": list(evaluation.scales),
        "flip": evaluation.flip,
        "precision": "float32",
        "segfocus": segfocus.__version__,
    }
    return {**measurement.scores(), "how": how}


class _Measurement:
    """The running scores of the predictions, and of the initial ones where the method has them."""

    def __init__(
        self, classes: Classes, metrics: str | Sequence[str], distances: Sequence[int], kind: str | None
    ) -> None:
        self.suite = Suite(classes, metrics, distances, probabilities=True, baseline=kind is not None)
        self.kind = kind
        self.before: Suite | None = None
        self.borrowing: Borrowing | None = None
        if kind is not None:
            shared = [group for group in self.suite.tallies if group in GROUPS and group not in _FINAL_ONLY]
            self.before = Suite(classes, shared, distances)

    def add(self, name: str, target: np.ndarray, prediction: Prediction) -> None:
        classes, initial = self.suite.num_classes, prediction.initial_labels
        self.suite.add(
            Comparison(
                target,
                prediction.labels,
                classes,
                probabilities=prediction.probabilities,
                importance=prediction.importance,
                baseline=initial,
                name=name,
            )
        )
        if self.before is None or initial is None:
            return
        self.before.add(Comparison(target, initial, classes, name=name))
        if prediction.offsets is not None and prediction.confidence is not None:
            self.borrowing = self.borrowing or Borrowing(classes)
            self.borrowing.add(target, initial, prediction.offsets, prediction.confidence)

    def scores(self) -> dict[str, Any]:
        scores = self.suite.summary()
        if self.before is not None and self.kind is not None:
            scores["baseline"] = {
                "kind": self.kind,
                "title": _TITLES[self.kind],
                "scores": self.before.summary(),
                "difference": self.suite.difference(self.before),
                "changed": scores.pop("changed"),
            }
        if self.borrowing is not None:
            scores["borrowing"] = self.borrowing.summary()
        return scores


def _same_classes(trained: Classes, found: Classes, where: str) -> None:
    """Refuse other classes, also as many in another order: their scores would mean nothing."""
    if trained.num_classes != found.num_classes:
        raise SegfocusError(
            f"evaluate: expected a dataset of the checkpoint's {trained.num_classes} classes, got {found.num_classes} "
            f"in {where}; try --data.classes with the classes file of the training"
        )
    for number, (expected, got) in enumerate(zip(trained.names, found.names, strict=True)):
        if expected != got:
            raise SegfocusError(
                f"evaluate: expected the checkpoint's class {number} to be '{expected}', got '{got}' in {where}; "
                "try a classes file with the names and the order of the training"
            )

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
from segfocus.metrics.patch_thresholds import PatchThresholds
from segfocus.metrics.suite import GROUPS, Suite
from segfocus.recipe import DataConfig, EvaluationConfig

if TYPE_CHECKING:
    import numpy as np

    from segfocus.checkpoint import Checkpoint
    from segfocus.data.classes import Classes
    from segfocus.data.dataset import SegmentationDataset
    from segfocus.inference.prediction import Prediction

_FINAL_ONLY = {"regions", "headroom", "calibration", "importance"}
"""groups that the initial prediction is not scored by: told by what changed, shown nowhere, needs probabilities, is no
prediction's"""
_TITLES = {
    "initial": "the network's own initial prediction",
    "coarse": "the network's own coarse prediction",
    "base": "the maps as they were given",
}
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
        evaluation: window, scales, flip, focus, boundary distances; default the recipe's.
        device: "auto", "cpu", "cuda", ...
        metrics: "basic", "all", or groups of `segfocus.metrics.suite.GROUPS`.
        on_picture: called with (name, picture uint8 HW3, target uint8 HW with 255 = void, prediction) for each.

    Returns:
        `Suite.summary` with the further key "how": checkpoint, dataset, split, window, stride, scales, flip, focus,
        adaptive and the segfocus version.  Of a method with a first prediction of its own also "baseline": {"kind":
        "initial" (before it borrowed), "coarse" (before the context came in) or "base" (before a refiner came),
        "title", "scores", "difference", "changed"} as in `segfocus.report.from_files`; and, of one that
        borrows, where pictures are seen whole, "borrowing": `segfocus.metrics.borrowing.Borrowing.summary`; and, of a
        refiner that looks at patches, "thresholds": `segfocus.metrics.patch_thresholds.PatchThresholds.summary`.

    Raises:
        SegfocusError: the dataset has other classes than the checkpoint was trained on, or any bad file.
    """
    from segfocus import checkpoint as checkpoints
    from segfocus.data import open_dataset

    where = str(checkpoint) if isinstance(checkpoint, str | Path) else "in memory"
    loaded = checkpoints.load(checkpoint) if isinstance(checkpoint, str | Path) else checkpoint
    data = data or loaded.recipe.data
    split = split or data.val_split
    evaluation = evaluation or loaded.recipe.evaluation
    # the checkpoint's own classes read its own dataset, also where the classes file has gone or was never needed
    own = data.name == loaded.recipe.data.name and data.classes in (None, loaded.recipe.data.classes)
    dataset = open_dataset(data, split, classes=loaded.classes if own else None)
    _same_classes(loaded.classes, dataset.classes, f"{data.name} {split}")
    predict = _predict_with(loaded, dataset, data, evaluation, device)
    measurement: _Measurement | None = None
    for index in tqdm(range(len(dataset)), "evaluate", unit="picture", disable=None, leave=False):
        picture, target = dataset.read(index)
        prediction = predict(index, picture)
        name = dataset.pairs[index].name
        if measurement is None:
            kind, has_importance = prediction.initial_kind, prediction.importance is not None
            measurement = _Measurement(loaded.classes, metrics, evaluation.boundary_distances, kind, has_importance)
        measurement.add(name, target, prediction)
        if on_picture is not None:
            on_picture(name, picture, target, prediction)
    if measurement is None:
        measurement = _Measurement(loaded.classes, metrics, evaluation.boundary_distances, None, False)
    how = {
        "checkpoint": where,
        "dataset": data.name,
        "split": split,
        "window": evaluation.window,
        "stride": evaluation.stride,
        "scales": list(evaluation.scales),
        "flip": evaluation.flip,
        "focus": evaluation.focus,
        "adaptive": evaluation.adaptive,
        "precision": "float32",
        "segfocus": segfocus.__version__,
    }
    return {**measurement.scores(), "how": how}


def _predict_with(
    loaded: Checkpoint, dataset: SegmentationDataset, data: DataConfig, evaluation: EvaluationConfig, device: str
) -> Callable[[int, np.ndarray], Prediction]:
    """(index, picture) -> prediction: of the picture, or of a refiner of its map."""
    from segfocus.data.maps import MapsDataset
    from segfocus.inference.focus import check_focus
    from segfocus.inference.predictor import Predictor
    from segfocus.inference.refiner import MapRefiner
    from segfocus.methods.base import Refiner

    window, stride = evaluation.window, evaluation.stride
    check_focus(loaded.model, evaluation.focus, evaluation.adaptive)
    if isinstance(loaded.model, Refiner):
        if not isinstance(dataset, MapsDataset):
            raise SegfocusError(
                f"evaluate: expected maps for the refiner {loaded.recipe.model.method}, got the pictures of "
                f"{data.name}; try --data.name maps with --data.maps and --data.masks"
            )
        refiner = MapRefiner(
            loaded, window=window, stride=stride, resize=data.resize, shifts=evaluation.shifts, device=device
        )
        return lambda index, picture: refiner(
            dataset.read_map(index), None if dataset.pictures is None else picture, dataset.pairs[index].name
        )
    predictor = Predictor(
        loaded,
        window=window,
        stride=stride,
        scales=tuple(evaluation.scales),
        flip=evaluation.flip,
        focus=evaluation.focus,
        adaptive=evaluation.adaptive,
        device=device,
        max_pixels=data.max_pixels,
        initial=True,
    )
    return lambda index, picture: predictor(picture)


class _Measurement:
    """The running scores of the predictions, and of the initial ones where the method has them."""

    def __init__(
        self,
        classes: Classes,
        metrics: str | Sequence[str],
        distances: Sequence[int],
        kind: str | None,
        has_importance: bool,
    ) -> None:
        self.suite = Suite(
            classes, metrics, distances, probabilities=True, baseline=kind is not None, importance=has_importance
        )
        self.kind = kind
        self.before: Suite | None = None
        self.borrowing: Borrowing | None = None
        self.thresholds: PatchThresholds | None = None
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
        if prediction.base_probabilities is not None and prediction.patch is not None:
            self.thresholds = self.thresholds or PatchThresholds(classes, prediction.patch)
            self.thresholds.add(target, prediction.base_probabilities, prediction.labels)

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
        if self.thresholds is not None:
            scores["thresholds"] = self.thresholds.summary()
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

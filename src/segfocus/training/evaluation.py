"""Scores of a checkpoint on a split; streams over the pictures, needs no Lightning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

import segfocus
from segfocus.errors import SegfocusError
from segfocus.metrics.comparison import Comparison
from segfocus.metrics.suite import Suite
from segfocus.recipe import DataConfig, EvaluationConfig

if TYPE_CHECKING:
    import numpy as np

    from segfocus.checkpoint import Checkpoint
    from segfocus.data.classes import Classes
    from segfocus.inference.predictor import Prediction


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
        segfocus version.

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
    )
    suite = Suite(loaded.classes, metrics, evaluation.boundary_distances, probabilities=True)
    for index in tqdm(range(len(dataset)), "evaluate", unit="picture", disable=None, leave=False):
        picture, target = dataset.read(index)
        prediction = predictor(picture)
        name = dataset.pairs[index].name
        suite.add(
            Comparison(
                target,
                prediction.labels,
                loaded.classes.num_classes,
                probabilities=prediction.probabilities,
                importance=prediction.importance,
                name=name,
            )
        )
        if on_picture is not None:
            on_picture(name, picture, target, prediction)
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
    return {**suite.summary(), "how": how}


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

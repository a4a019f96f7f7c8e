"""Cityscapes' classes, and the scores of cityscapesScripts: the oracle of IoU and iIoU."""

from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import cv2
import numpy as np
from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
from cityscapesscripts.helpers.labels import labels

from segfocus.data.classes import Classes

LABELS = sorted((label for label in labels if not label.ignoreInEval), key=lambda label: label.trainId)
CLASSES = Classes(
    names=tuple(label.name for label in LABELS),
    colors=tuple(label.color for label in LABELS),
    raw=tuple((label.id,) for label in LABELS),
    thin=tuple(label.name in ("pole", "traffic light", "traffic sign") for label in LABELS),
    category=tuple(label.category for label in LABELS),
    instances=tuple(label.hasInstances for label in LABELS),
    ignore=tuple(label.id for label in labels if label.ignoreInEval and label.id >= 0),
)


def official_scores(pairs: list[tuple[Path, Path]]) -> dict:
    """What cityscapesScripts says of (prediction of raw ids, ..._labelIds.png beside ..._instanceIds.png)."""
    options = SimpleNamespace(**{**vars(official.args), "quiet": True, "JSONOutput": False})
    predictions, truths = ([str(file) for file in files] for files in zip(*pairs, strict=True))
    with mock.patch.object(np, "in1d", np.isin, create=True):  # 2.3.0 still calls it by the name NumPy 2.4 dropped
        return official.evaluateImgLists(predictions, truths, options)


def write_frame(folder: Path, name: str, labels: np.ndarray, instances: np.ndarray, prediction: np.ndarray):
    """Writes one frame's raw maps; returns (prediction, truth) as `official_scores` wants them."""
    truth, guess = folder / f"{name}_gtFine_labelIds.png", folder / f"{name}_prediction.png"
    for file, values in (
        (truth, labels.astype(np.uint8)),
        (folder / f"{name}_gtFine_instanceIds.png", instances.astype(np.uint16)),
        (guess, prediction.astype(np.uint8)),
    ):
        cv2.imwrite(str(file), values)
    return guess, truth

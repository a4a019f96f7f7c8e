"""Thresholds and biases of patches for three classes and more (extends ThreshNet, `segfocus.ops.patches`).  NumPy only.

Each class against all others has thresholds of its own, as two classes have.  Jointly the same is a bias: foreground
where p > t is foreground where log p - log(1 - p) - logit(t) > 0, so a threshold is a constant added to the logit,
and a patch of C classes has C of them (logit adjustment).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from jaxtyping import Float32, Shaped, UInt8

from segfocus.errors import SegfocusError
from segfocus.ops.patch_maps import IGNORE, patch_index
from segfocus.ops.patches import THRESHOLDS, best_thresholds, threshold_target

_TINY = np.float32(1e-30)  # in place of a sum of 0


def one_against_rest(labels: UInt8[np.ndarray, "height width"], train_id: int) -> UInt8[np.ndarray, "height width"]:
    """The truth of one class: 1 where `labels` has it, 0 for every other class, 255 where ignored."""
    table = np.zeros(256, np.uint8)
    table[train_id], table[IGNORE] = 1, IGNORE
    return table[labels]


def best_thresholds_per_class(
    probabilities: Shaped[np.ndarray, "classes height width"],
    labels: np.ndarray,
    patch: int,
    *,
    score: str = "foreground",
    thresholds: Sequence[float] = THRESHOLDS,
    offset: tuple[int, int] = (0, 0),
) -> Float32[np.ndarray, "classes rows columns"]:
    """`best_thresholds` of each class against all others.

    Raises:
        SegfocusError: as `best_thresholds`, or a label that is no class.
    """
    search = partial(best_thresholds, patch=patch, score=score, thresholds=thresholds, offset=offset)
    return _each_against_rest(search, probabilities, labels)


def threshold_targets(
    probabilities: Shaped[np.ndarray, "classes height width"],
    labels: np.ndarray,
    patch: int,
    *,
    score: str = "foreground",
    thresholds: Sequence[float] | None = THRESHOLDS,
    offset: tuple[int, int] = (0, 0),
) -> UInt8[np.ndarray, "classes height width"]:
    """`threshold_target` of each class against all others.

    Raises:
        SegfocusError: as `threshold_target`, or a label that is no class.
    """
    cut = partial(threshold_target, patch=patch, score=score, thresholds=thresholds, offset=offset)
    return _each_against_rest(cut, probabilities, labels)


def _each_against_rest(
    function: Callable[..., np.ndarray], probabilities: Shaped[np.ndarray, "classes height width"], labels: np.ndarray
) -> np.ndarray:
    """function(probability, mask) of every class, stacked."""
    _check_labels(labels, probabilities)
    return np.stack(
        [function(values, one_against_rest(labels, train_id)) for train_id, values in enumerate(probabilities)]
    )


def best_class_bias(
    probabilities: Float32[np.ndarray, "classes height width"],
    labels: np.ndarray,
    patch: int,
    *,
    rounds: int = 2,
    offset: tuple[int, int] = (0, 0),
) -> Float32[np.ndarray, "classes rows columns"]:
    """For each patch the numbers added to log p of its classes that leave most right pixels, found one class at a time.

    In every round each class in turn gets the best of -logit(0.05), ..., -logit(0.95), the others' biases held: the
    threshold of its share p_c / (p_c + the highest other) that gives most right pixels.  No round can lose; the end is
    best for each class alone, not always for all at once.  Patches that gain nothing keep 0 everywhere.
    (`segfocus.metrics.ceilings.best_bias_per_patch` lets one class take pixels, for many patch sizes at once.)

    Args:
        probabilities: in [0, 1], one channel a class.
        labels: uint8, train ids, 255 ignored.

    Raises:
        SegfocusError: labels of another size or type or with a value that is no class; a patch below 1.
    """
    classes = len(probabilities)
    _check_labels(labels, probabilities)
    rows, columns = patch_index(labels.shape, patch, offset)
    shape = rows[-1] + 1, columns[-1] + 1
    bias = np.zeros((classes, *shape), np.float32)
    weighted = probabilities.copy()
    for _ in range(rounds):
        for train_id in range(classes):
            weighted[train_id] = -1
            rival = weighted.argmax(0)
            highest = weighted.max(0)
            own = probabilities[train_id]
            truth = np.full(labels.shape, IGNORE, np.uint8)
            truth[labels == rival] = 0
            truth[labels == train_id] = 1
            share = own / np.maximum(own + highest, _TINY)
            best = best_thresholds(
                share, truth, patch, score="right", thresholds=THRESHOLDS[:-1], offset=offset, ties="middle"
            )
            bias[train_id] = np.log(1 - best) - np.log(best)
            weighted[train_id] = own * np.exp(bias[train_id])[rows][:, columns]

    def right(of_patches: np.ndarray) -> np.ndarray:
        found = apply_class_bias(probabilities, of_patches, patch, offset) == labels
        place = np.add.outer(rows * shape[1], columns)[found]
        return np.bincount(place, minlength=shape[0] * shape[1]).reshape(shape)

    return np.where(right(bias) > right(np.zeros_like(bias)), bias, np.float32(0))


def apply_class_bias(
    probabilities: Float32[np.ndarray, "classes height width"],
    bias: Float32[np.ndarray, "classes rows columns"],
    patch: int,
    offset: tuple[int, int] = (0, 0),
) -> UInt8[np.ndarray, "height width"]:
    """The class of largest log p + bias at each pixel; of equal ones the first.

    Raises:
        SegfocusError: biases for another number of classes or patches; a patch below 1.
    """
    rows, columns = patch_index(probabilities.shape[1:], patch, offset)
    expected = len(probabilities), rows[-1] + 1, columns[-1] + 1
    if bias.shape != expected:
        raise SegfocusError(
            f"bias: expected classes x rows x columns = {' x '.join(map(str, expected))}, got "
            f"{' x '.join(map(str, bias.shape))}; try the patch and offset it was made with"
        )
    return (probabilities * np.exp(bias)[:, rows][:, :, columns]).argmax(0).astype(np.uint8)


def _check_labels(labels: np.ndarray, probabilities: np.ndarray) -> None:
    if labels.shape != probabilities.shape[1:] or labels.dtype != np.uint8:
        raise SegfocusError(
            f"labels: expected uint8 of {' x '.join(map(str, probabilities.shape[1:]))} as the probabilities, got "
            f"{labels.dtype} of {' x '.join(map(str, labels.shape))}; try the mask of the same picture"
        )
    wrong = labels[(labels >= len(probabilities)) & (labels != IGNORE)]
    if wrong.size:
        raise SegfocusError(
            f"labels: expected train ids below {len(probabilities)} or {IGNORE} (ignored), got {wrong[0]}; "
            "try the classes that the probabilities have"
        )

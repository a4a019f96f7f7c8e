"""Thresholds of each class against the others and biases of patches, against loops."""

import numpy as np
import pytest

from segfocus.errors import SegfocusError
from segfocus.ops.patch_classes import (
    apply_class_bias,
    best_class_bias,
    best_thresholds_per_class,
    one_against_rest,
    threshold_targets,
)
from segfocus.ops.patches import apply_thresholds, best_thresholds
from tests.ops.patch_twins import field, grid, thresholds_by_loops

LAYOUTS = [(32, 24, 8, (0, 0)), (29, 21, 8, (3, 6)), (10, 13, 32, (0, 0))]


def scene(seed, height, width, classes, dtype=np.float32):
    """Probabilities of several classes and labels with ignored pixels."""
    rng = np.random.default_rng(seed)
    labels = (np.add.outer(np.arange(height), np.arange(width) + seed) // 7 % classes).astype(np.uint8)
    logits = 1.2 * (labels == np.arange(classes)[:, None, None]) + rng.standard_normal((classes, height, width))
    logits[0] += 1.0
    probabilities = np.exp(logits) / np.exp(logits).sum(0)
    labels[rng.random(labels.shape) < 0.1] = 255
    scale = 1 if dtype == np.float32 else np.iinfo(dtype).max
    return (probabilities * scale).astype(dtype), labels


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("score", ["foreground", "mean"])
@pytest.mark.parametrize(("height", "width", "patch", "offset"), LAYOUTS)
def test_each_class_against_the_rest(height, width, patch, offset, score, dtype):
    probabilities, labels = scene(1, height, width, 4, dtype)
    found = best_thresholds_per_class(probabilities, labels, patch, score=score, offset=offset)
    targets = threshold_targets(probabilities, labels, patch, score=score, offset=offset)
    for train_id in range(4):
        truth = np.array([[255 if label == 255 else int(label == train_id) for label in row] for row in labels], "u1")
        np.testing.assert_array_equal(one_against_rest(labels, train_id), truth)
        expected, mask = thresholds_by_loops(probabilities[train_id], truth, patch, score, offset)
        np.testing.assert_array_equal(found[train_id], expected)
        np.testing.assert_array_equal(targets[train_id], np.where(truth == 255, 255, mask))


def bias_by_loops(probabilities, labels, rounds):
    """One patch: every class in turn tries every threshold of its share, those nearest to a half first."""
    steps = sorted(range(1, 20), key=lambda step: abs(step - 10))
    bias = np.zeros(len(probabilities))
    for _ in range(rounds):
        for own in range(len(probabilities)):
            weights = np.exp(bias.astype(np.float32))
            others = [other for other in range(len(probabilities)) if other != own]
            weighted = probabilities * weights[:, None, None]
            rival = np.array(others)[weighted[others].argmax(0)]
            share = probabilities[own] / (probabilities[own] + weighted[others].max(0))
            right = [
                (np.where(share > np.float32(step / 20), own, rival) == labels)[labels != 255].sum() for step in steps
            ]
            best = np.float32(steps[int(np.argmax(right))] / 20)
            bias[own] = np.log(1 - best) - np.log(best)
    return bias


@pytest.mark.parametrize(("height", "width", "patch", "offset"), LAYOUTS)
@pytest.mark.parametrize(("classes", "rounds"), [(2, 1), (3, 2), (5, 1)])
def test_biases_are_those_of_the_loops(classes, rounds, height, width, patch, offset):
    probabilities, labels = scene(2, height, width, classes)
    found = best_class_bias(probabilities, labels, patch, rounds=rounds, offset=offset)
    applied = apply_class_bias(probabilities, found, patch, offset)
    gained = 0
    for row, column, pixels in grid(labels.shape, patch, offset):
        own = probabilities[:, *pixels]
        expected = bias_by_loops(own, labels[pixels], rounds)
        after = (own * np.exp(expected)[:, None, None]).argmax(0)
        before, now = ((guess == labels[pixels]).sum() for guess in (own.argmax(0), applied[pixels]))
        gained += now - before
        if (after == labels[pixels]).sum() > before:
            np.testing.assert_allclose(found[:, row, column], expected, atol=1e-6)
            np.testing.assert_array_equal(applied[pixels], after)
        else:
            np.testing.assert_array_equal(found[:, row, column], 0)
        assert now >= before
    assert gained > 0


def test_two_classes_reach_the_best_threshold():
    """One class's bias is a threshold: every one of 0.05, ..., 0.95 is among those tried."""
    probability, truth = field(6, 32, 48)
    both = np.stack([1 - probability, probability])
    found = apply_class_bias(both, best_class_bias(both, truth, 16), 16)
    single = best_thresholds(probability, truth, 16, score="right", thresholds=[step / 20 for step in range(1, 20)])
    cut = apply_thresholds(probability, single, 16)
    assert (found == truth).sum() >= (cut == truth).sum() > ((probability > 0.5) == truth).sum()


def test_no_bias_changes_nothing_and_no_probability_is_no_harm():
    probabilities, labels = scene(3, 20, 20, 3)
    probabilities[:, :5] = 0
    none = np.zeros((3, 3, 3), np.float32)
    np.testing.assert_array_equal(apply_class_bias(probabilities, none, 8), probabilities.argmax(0))
    before = probabilities.copy()
    assert np.isfinite(best_class_bias(probabilities, labels, 8)).all()
    np.testing.assert_array_equal(probabilities, before)


def test_refusals():
    probabilities, labels = scene(3, 20, 20, 3)
    for function in (best_class_bias, threshold_targets, best_thresholds_per_class):
        with pytest.raises(SegfocusError, match="expected train ids below 3 or 255"):
            function(probabilities, np.full_like(labels, 3), 8)
        with pytest.raises(SegfocusError, match="expected uint8 of 20 x 20 as the probabilities"):
            function(probabilities, labels[1:], 8)
    with pytest.raises(SegfocusError, match="expected classes x rows x columns = 3 x 3 x 3, got 3 x 2 x 3"):
        apply_class_bias(probabilities, np.zeros((3, 2, 3), np.float32), 8)

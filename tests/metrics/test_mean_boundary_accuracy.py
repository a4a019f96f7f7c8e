import json

import cv2
import numpy as np
import pytest

from segfocus.metrics.comparison import Comparison
from segfocus.metrics.mean_boundary_accuracy import MeanBoundaryAccuracy, band_radii, mean_boundary_accuracy
from tests.metrics import slow_twins


def slow_bands(target):
    """For each of the five radii {class: its band}, by OpenCV's morphological gradient of the class' mask."""
    height, width = target.shape
    for step in range(5):
        radius = 1 + int(((height + width) / 300 - 1) / 5 * step)
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1))
        yield {
            int(index): cv2.morphologyEx((target == index).astype(np.uint8), cv2.MORPH_GRADIENT, kernel) > 0
            for index in np.unique(target[target != 255])
        }


def slow_binary(target, prediction):
    """{class: mean over the radii of the accuracy of "this class or not" in its band}."""
    accuracies = {}
    for bands in slow_bands(target):
        for index, band in bands.items():
            band = band & (target != 255)
            if band.any():
                right = (target == index) == (prediction == index)
                accuracies.setdefault(index, []).append(right[band].mean())
    return {index: np.mean(values) for index, values in accuracies.items()}


def slow_multi_class(target, prediction):
    """Mean over the radii of the accuracy in the bands of all classes together; None without a band."""
    accuracies = []
    for bands in slow_bands(target):
        band = np.any([*bands.values(), np.zeros(target.shape, bool)], axis=0) & (target != 255)
        if band.any():
            accuracies.append((target == prediction)[band].mean())
    return np.mean(accuracies) if accuracies else None


def blobs(seed, height, width, num_classes, cell=9):
    random = np.random.default_rng(seed)
    coarse = random.integers(0, num_classes, (-(-height // cell), -(-width // cell)))
    target = np.kron(coarse, np.ones((cell, cell), int))[:height, :width].astype(np.uint8)
    prediction = np.roll(target, 2, 0)
    noise = random.random(target.shape) < 0.1
    prediction[noise] = random.integers(0, num_classes, noise.sum())
    target[random.random(target.shape) < 0.003] = 255
    target[:, width // 2 : width // 2 + 3] = 255
    return target, prediction


def assert_equals_slow_twins(target, prediction, num_classes):
    names = [str(index) for index in range(num_classes)]
    tally = MeanBoundaryAccuracy(num_classes)
    tally.update(target, prediction)
    scores = tally.summary(names)
    json.dumps(scores, allow_nan=False)
    expected = slow_binary(target, prediction)
    assert scores["mba_per_class"] == pytest.approx(dict.fromkeys(names) | {str(k): v for k, v in expected.items()})
    assert scores["mba"] == pytest.approx(slow_multi_class(target, prediction))
    assert scores["mba_class_mean"] == (pytest.approx(np.mean(list(expected.values()))) if expected else None)


@pytest.mark.parametrize("seed", range(5))
def test_equals_opencv_class_by_class(seed):
    for _, target, prediction in slow_twins.scenes(seed):
        assert_equals_slow_twins(target, prediction, 4)


@pytest.mark.parametrize("shape", [(1500, 90), (90, 1500), (129, 700), (1800, 2), (3, 1200)])
def test_several_radii_and_slabs(shape):
    assert_equals_slow_twins(*blobs(1, *shape, 5), 5)


@pytest.mark.parametrize("num_classes", [2, 7, 8, 15, 16, 31, 32, 63, 64, 150, 254])
def test_any_number_of_classes(num_classes):
    target, prediction = blobs(num_classes, 200, 500, num_classes, cell=10)
    assert_equals_slow_twins(target, prediction, num_classes)


def test_radii():
    assert band_radii(1024, 2048) == (1, 2, 4, 6, 8)
    assert band_radii(360, 480) == (1, 1, 1, 2, 2)
    assert band_radii(20, 30) == (1, 1, 1, 1, 1)


def test_by_hand():
    target = np.zeros((6, 8), np.uint8)
    target[:, 4:] = 1
    prediction = np.zeros_like(target)
    prediction[:, 5:] = 1  # the cross of one pixel gives a band of 2 x 6 pixels, 6 of them wrong
    assert mean_boundary_accuracy(target, prediction, 2) == 0.5
    assert mean_boundary_accuracy(target, target, 2) == 1
    assert np.isnan(mean_boundary_accuracy(np.zeros_like(target), prediction, 2))


def test_both_forms_agree_on_two_classes_without_void():
    target, prediction = blobs(4, 150, 700, 2)
    target[target == 255] = 0
    tally = MeanBoundaryAccuracy(2)
    tally.update(target, prediction)
    scores = tally.summary(["background", "object"])
    assert scores["mba"] == scores["mba_class_mean"] == scores["mba_per_class"]["object"]


def test_means_over_pictures():
    pictures = [pair[1:] for pair in slow_twins.scenes(2)]
    tally, other, rest = (MeanBoundaryAccuracy(4) for _ in range(3))
    for pair in pictures:
        tally.update(*pair)
    for pair in reversed(pictures[4:]):
        other.update(*pair)
    for pair in pictures[:4]:
        rest.update(*pair)
    other.merge(rest)
    for name, value in tally.counts.items():
        assert value.dtype == np.int64
        np.testing.assert_array_equal(other.counts[name], value)
    binary = [slow_binary(*pair) for pair in pictures]
    together = [value for value in (slow_multi_class(*pair) for pair in pictures) if value is not None]
    scores = tally.summary(list("abcd"))
    assert scores["mba"] == pytest.approx(np.mean(together))
    assert scores["mba_class_mean"] == pytest.approx(np.mean([x for values in binary for x in values.values()]))
    expected = [np.mean([values[index] for values in binary if index in values]) for index in range(4)]
    assert list(scores["mba_per_class"].values()) == pytest.approx(expected)


def test_counting_leaves_the_maps_as_they_were():
    target, prediction = blobs(6, 60, 70, 3)
    comparison = Comparison(target, prediction, 3)
    before = comparison.labelled.copy(), comparison.wrong.copy()
    MeanBoundaryAccuracy(3).count(comparison)
    np.testing.assert_array_equal(before, (comparison.labelled, comparison.wrong))


def test_nothing_counted_yet():
    summary = MeanBoundaryAccuracy(2).summary(["a", "b"])
    assert summary == {"mba": None, "mba_per_class": {"a": None, "b": None}, "mba_class_mean": None}

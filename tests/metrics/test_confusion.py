import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from segfocus.errors import SegfocusError
from segfocus.metrics import confusion
from segfocus.metrics.confusion import (
    category_iou,
    confusion_matrix,
    histogram,
    joint_histogram,
    scores_from_confusion,
)
from tests.metrics import slow_twins


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_pixel_loop_and_sklearn(seed):
    for name, target, prediction in slow_twins.scenes(seed):
        found = confusion_matrix(target, prediction, 4)
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, slow_twins.confusion(target, prediction, 4), err_msg=name)
        counted = target != 255
        if counted.any():
            oracle = sklearn_metrics.confusion_matrix(target[counted], prediction[counted], labels=range(4))
            np.testing.assert_array_equal(found, oracle, err_msg=name)


def test_scores_equal_sklearn():
    rng = np.random.default_rng(5)
    target = rng.integers(0, 5, (40, 50)).astype(np.uint8)
    prediction = np.where(rng.random(target.shape) < 0.6, target, rng.integers(0, 5, target.shape)).astype(np.uint8)
    target[:4] = 255
    scores = scores_from_confusion(confusion_matrix(target, prediction, 5))
    truth, guess = target[target != 255], prediction[target != 255]
    np.testing.assert_allclose(scores["iou"], sklearn_metrics.jaccard_score(truth, guess, average=None), rtol=1e-12)
    assert scores["miou"] == pytest.approx(sklearn_metrics.jaccard_score(truth, guess, average="macro"), rel=1e-12)
    assert scores["pixel_accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(truth, guess), rel=1e-12)
    balanced = sklearn_metrics.balanced_accuracy_score(truth, guess)
    assert scores["mean_accuracy"] == pytest.approx(balanced, rel=1e-12)


def test_by_hand_with_absent_and_only_predicted_classes():
    target = np.array([[0, 0, 0, 1], [0, 1, 1, 255]], np.uint8)
    prediction = np.array([[0, 0, 1, 1], [2, 1, 1, 3]], np.uint8)  # class 2 only predicted, 3 only under void
    scores = scores_from_confusion(confusion_matrix(target, prediction, 4))
    np.testing.assert_array_equal(scores["iou"], [2 / 4, 3 / 4, 0, np.nan])
    assert scores["miou"] == pytest.approx((2 / 4 + 3 / 4 + 0) / 3)
    assert scores["pixel_accuracy"] == 5 / 7
    assert scores["mean_accuracy"] == (2 / 4 + 3 / 3) / 2


def test_nothing_labelled_gives_nan():
    void = np.full((3, 3), 255, np.uint8)
    scores = scores_from_confusion(confusion_matrix(void, np.zeros_like(void), 2))
    assert np.isnan([scores["miou"], scores["pixel_accuracy"], scores["mean_accuracy"], *scores["iou"]]).all()


def test_large_pictures_are_counted_exactly(monkeypatch):
    ones = np.ones((5000, 3400), np.uint8)  # 17 million pixels of one class: one float32 counter would stop at 2**24
    assert confusion_matrix(ones, ones, 2)[1, 1] == ones.size
    assert histogram(ones, 2)[1] == ones.size
    monkeypatch.setattr(confusion, "_EXACT", 7)  # parts of less than a row, and of several rows
    for shape in ((3, 10), (10, 3), (1, 1), (1, 8)):
        values = np.arange(shape[0] * shape[1], dtype=np.uint8).reshape(shape) % 3
        np.testing.assert_array_equal(histogram(values, 3), np.bincount(values.ravel(), minlength=3))
        np.testing.assert_array_equal(np.diag(joint_histogram(values, values, 3, 3)), histogram(values, 3))


def test_views_and_254_classes():
    rng = np.random.default_rng(0)
    target, prediction = rng.integers(0, 254, (2, 40, 60)).astype(np.uint8)
    found = confusion_matrix(target[::2, ::-3], prediction.T[:20, ::2].copy(), 254)
    expected = slow_twins.confusion(target[::2, ::-3], prediction.T[:20, ::2], 254)
    np.testing.assert_array_equal(found, expected)


def test_any_prediction_is_accepted_under_void():
    target = np.array([[0, 255]], np.uint8)
    assert confusion_matrix(target, np.array([[0, 255]], np.uint8), 2).sum() == 1
    assert confusion_matrix(target, np.array([[0, 77]], np.uint8), 2).sum() == 1


@pytest.mark.parametrize(
    ("target", "prediction", "classes", "words"),
    [
        (np.zeros((2, 2), np.int64), np.zeros((2, 2), np.uint8), 2, "target: expected uint8 .* got int64"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.float32), 2, "prediction: expected uint8 .* got float32"),
        (np.zeros((2, 2, 3), np.uint8), np.zeros((2, 2), np.uint8), 2, r"got uint8 of shape \(2, 2, 3\)"),
        (np.zeros((0, 2), np.uint8), np.zeros((0, 2), np.uint8), 2, r"target: expected uint8 .*shape \(0, 2\)"),
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2), np.uint8), 2, r"one size, got \(2, 3\) and \(3, 2\)"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 2, np.uint8), 2, "prediction: expected train ids 0 to 1, got 2;"),
        (np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8), 2, "prediction: .* got 255;"),
        (np.full((2, 2), 9, np.uint8), np.zeros((2, 2), np.uint8), 2, r"target: .* or 255 \(void\), got 9;"),
        (np.arange(20, dtype=np.uint8)[None], np.zeros((1, 20), np.uint8), 2, "got 2, 3, 4, 5, 6, ...;"),
        (np.zeros((2, 2), np.uint8), np.zeros((2, 2), np.uint8), 255, "1 to 254 classes, got 255"),
    ],
)
def test_refuses(target, prediction, classes, words):
    with pytest.raises(SegfocusError, match=words):
        confusion_matrix(target, prediction, classes)


def test_frequency_weighted_iou_and_categories_by_hand():
    matrix = np.array([[6, 1, 1], [0, 1, 1], [2, 0, 4]])
    scores = scores_from_confusion(matrix)
    iou = np.array([6 / 10, 1 / 3, 4 / 8])
    assert scores["frequency_weighted_iou"] == pytest.approx((8 * iou[0] + 2 * iou[1] + 6 * iou[2]) / 16)
    # classes 0 and 1 are one category: 8 of its pixels are right, 10 are true, 10 are predicted
    found = category_iou(matrix, ["a", "a", None])
    assert found == {"a": pytest.approx(8 / (10 + 10 - 8))}
    assert np.isnan(category_iou(np.zeros((2, 2)), ["a", "b"])["a"])

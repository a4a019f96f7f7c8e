import json

import numpy as np
import pytest
from scipy import ndimage

from segfocus.errors import SegfocusError
from segfocus.metrics.boundary_f import BoundaryF, boundary_f, boundary_matches
from tests.metrics import slow_twins

TOLERANCES = (1, 3, 5)


def slow_counts(target, prediction, num_classes, tolerance):
    """guess, guess matched, truth, truth matched: class by class, with exact distance transforms."""
    void = target == 255
    counts = np.zeros((4, num_classes), int)
    for index in range(num_classes):
        truth, guess = (slow_twins.eroded_band_scipy((labels == index) & ~void, 1) for labels in (target, prediction))
        for row, (own, other) in ((0, (guess, truth)), (2, (truth, guess))):
            counts[row, index] = own.sum()
            if other.any():
                counts[row + 1, index] = (own & (ndimage.distance_transform_edt(~other) <= tolerance)).sum()
    return counts


def slow_f(counts):
    guess, guess_matched, truth, truth_matched = counts
    if guess + truth == 0:
        return None
    precision = guess_matched / guess if guess else 0.0
    recall = truth_matched / truth if truth else 0.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("seed", range(6))
def test_counts_equal_distance_transforms_class_by_class(seed):
    for name, target, prediction in slow_twins.scenes(seed):
        tally = BoundaryF(4, (5, 1, 2, 3, 5))
        tally.update(target, prediction)
        for row, tolerance in enumerate(tally.tolerances):
            guess, guess_matched, truth, truth_matched = slow_counts(target, prediction, 4, tolerance)
            np.testing.assert_array_equal(tally.counts["guess"], guess, err_msg=name)
            np.testing.assert_array_equal(tally.counts["truth"], truth, err_msg=name)
            np.testing.assert_array_equal(tally.counts["guess_matched"][row], guess_matched, err_msg=name)
            np.testing.assert_array_equal(tally.counts["truth_matched"][row], truth_matched, err_msg=name)


def test_scores_are_those_of_the_summed_counts():
    pictures = [pair[1:] for pair in slow_twins.scenes(3)]
    tally = BoundaryF(5, TOLERANCES)
    for pair in pictures:
        tally.update(*pair)
    names = ["a", "b", "c", "d", "absent"]
    summary = tally.summary(names)
    json.dumps(summary, allow_nan=False)
    for tolerance in TOLERANCES:
        counts = sum(slow_counts(*pair, 5, tolerance) for pair in pictures)
        expected = [slow_f(counts[:, index]) for index in range(5)]
        assert expected[4] is None
        assert list(summary["boundary_f_per_class"][str(tolerance)].values()) == pytest.approx(expected)
        assert summary["boundary_f"][str(tolerance)] == pytest.approx(np.mean(expected[:4]))


def test_distance_is_euclidean():
    target, prediction = np.zeros((12, 12), np.uint8), np.zeros((12, 12), np.uint8)
    target[4, 4] = prediction[6, 6] = 1  # 2.83 px apart
    assert boundary_f(target, prediction, 2, 2)[1] == 0
    assert boundary_f(target, prediction, 2, 3)[1] == 1


def test_precision_and_recall_by_hand():
    target, prediction = np.zeros((20, 20), np.uint8), np.zeros((20, 20), np.uint8)
    target[5, 5:15] = 1  # ten pixels
    prediction[6, 5:10] = prediction[15, 5:10] = 1  # five beside the upper half, five far away
    tally = BoundaryF(2, (1,))
    tally.update(target, prediction)
    scores = tally.scores()
    assert (scores["precision"][0, 1], scores["recall"][0, 1], scores["f"][0, 1]) == (0.5, 0.5, 0.5)


def test_other_classes_do_not_match():
    target, prediction = np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8)
    target[4, 4], prediction[4, 4] = 1, 2
    assert boundary_f(target, prediction, 4, 3)[1:3].tolist() == [0, 0]
    assert np.isnan(boundary_f(target, prediction, 4, 3)[3])


def test_search_does_not_wrap_round_the_frame():
    target, prediction = np.zeros((9, 9), np.uint8), np.zeros((9, 9), np.uint8)
    target[4, 0] = prediction[4, 8] = prediction[3, 8] = 1
    assert boundary_f(target, prediction, 2, 3)[1] == 0


def test_order_and_merging_change_nothing():
    pictures = [pair[1:] for pair in slow_twins.scenes(8)]
    one, other, rest = (BoundaryF(4) for _ in range(3))
    for pair in pictures:
        one.update(*pair)
    for pair in reversed(pictures[2:]):
        other.update(*pair)
    for pair in pictures[:2]:
        rest.update(*pair)
    other.merge(rest)
    for name, value in one.counts.items():
        assert value.dtype == np.int64
        np.testing.assert_array_equal(other.counts[name], value)
    with pytest.raises(SegfocusError, match="BoundaryF"):
        one.merge(BoundaryF(4, (1, 3, 6)))


def test_values_outside_the_classes_are_left_out():
    labels = np.array([[0, 1, 7], [0, 1, 255]], np.uint8)
    total, matched = boundary_matches(labels, labels, 2, (1,))
    assert total.tolist() == [2, 2]
    assert matched.tolist() == [[2, 2]]


def test_nothing_counted_yet():
    assert BoundaryF(2, (2,)).summary(["a", "b"]) == {
        "boundary_f": {"2": None},
        "boundary_f_per_class": {"2": {"a": None, "b": None}},
    }


@pytest.mark.parametrize("tolerances", [(), (0,), (65,)])
def test_refuses_tolerances(tolerances):
    with pytest.raises(SegfocusError, match="expected"):
        BoundaryF(2, tolerances)

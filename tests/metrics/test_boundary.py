import numpy as np
import pytest

from segfocus.errors import SegfocusError
from segfocus.metrics.boundary import boundary_band, boundary_counts, boundary_iou
from tests.metrics import slow_twins

DISTANCES = (1, 2, 3, 5, 11)


@pytest.mark.parametrize("seed", range(8))
def test_all_classes_at_once_equal_erosion_class_by_class(seed):
    for name, target, prediction in slow_twins.scenes(seed):
        intersection, union = boundary_counts(target, prediction, 4, DISTANCES)
        assert intersection.dtype == union.dtype == np.int64
        for row, distance in enumerate(DISTANCES):
            for band in (slow_twins.eroded_band_scipy, slow_twins.eroded_band_opencv):
                expected = slow_twins.boundary_counts(target, prediction, 4, distance, band)
                np.testing.assert_array_equal(intersection[row], expected[0], err_msg=f"{name} at {distance}")
                np.testing.assert_array_equal(union[row], expected[1], err_msg=f"{name} at {distance}")


@pytest.mark.parametrize("num_classes", [1, 2, 60, 100, 127, 128, 200, 254])
def test_any_number_of_classes(num_classes):
    rng = np.random.default_rng(num_classes)
    coarse = rng.integers(0, num_classes, (6, 7))
    target = np.kron(coarse, np.ones((6, 6), int)).astype(np.uint8)
    prediction = np.where(rng.random(target.shape) < 0.9, target, num_classes - 1).astype(np.uint8)
    target[3:8, 10:20] = 255
    intersection, union = boundary_counts(target, prediction, num_classes, (3, 1, 5, 3))
    for row, distance in enumerate((3, 1, 5, 3)):
        expected = slow_twins.boundary_counts(target, prediction, num_classes, distance)
        np.testing.assert_array_equal(intersection[row], expected[0])
        np.testing.assert_array_equal(union[row], expected[1])


def test_one_distance_gives_one_row_and_the_iou():
    _, target, prediction = next(slow_twins.scenes(0))
    intersection, union = boundary_counts(target, prediction, 5, 3)
    assert intersection.shape == union.shape == (5,)
    found = boundary_iou(target, prediction, 5, 3)
    np.testing.assert_array_equal(found[:4], intersection[:4] / union[:4])
    assert np.isnan(found[4])  # a class in neither


def test_by_hand():
    # class 1 in the lower right 3 x 3, touching the frame: eroding it leaves its middle;
    # eroding class 0 leaves the seven pixels of rows and columns 1 to 4 that touch neither the frame nor class 1
    target = np.zeros((6, 6), np.uint8)
    target[3:, 3:] = 1
    inside = np.zeros((6, 6), bool)
    inside[4, 4] = inside[1, 1:5] = inside[2:5, 1] = True
    np.testing.assert_array_equal(boundary_band(target, 1), ~inside)
    assert boundary_band(target, 2).all()
    shifted = np.zeros((6, 6), np.uint8)
    shifted[3:, 2:] = 1
    intersection, union = boundary_counts(target, shifted, 2, 1)
    assert intersection.tolist() == [17, 7]
    assert union.tolist() == [23, 11]


def test_void_is_an_edge_and_is_never_counted():
    target = np.zeros((9, 9), np.uint8)
    target[4, 4] = 255
    intersection, union = boundary_counts(target, np.zeros_like(target), 1, 1)
    assert intersection.tolist() == union.tolist() == [32 + 8]  # frame, and the ring around void


def test_views_are_accepted():
    _, target, prediction = next(slow_twins.scenes(1))
    found = boundary_counts(target.T[::-1], prediction.T[::-1], 4, 3)
    np.testing.assert_array_equal(found, boundary_counts(target, prediction, 4, 3))
    assert boundary_band(target.T, 2).shape == target.T.shape


@pytest.mark.parametrize("distance", [0, -1, [], [1, 0], 5000])
def test_refuses_distances(distance):
    labels = np.zeros((4, 4), np.uint8)
    with pytest.raises(SegfocusError, match="boundary distances: expected whole pixels from 1"):
        boundary_counts(labels, labels, 2, distance)


def test_refuses_labels():
    with pytest.raises(SegfocusError, match="one size"):
        boundary_counts(np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8), 2, 1)
    with pytest.raises(SegfocusError, match="expected uint8"):
        boundary_counts(np.zeros((4, 4), np.int32), np.zeros((4, 4), np.uint8), 2, 1)


@pytest.mark.parametrize(("truth", "guess"), [(3, 0), (254, 0), (0, 3), (0, 254)])
def test_refuses_values_that_are_no_class(truth, guess):
    """They would be counted as a wider band of another class."""
    target, prediction = np.full((2, 4, 4), 1, np.uint8)
    target[0, 0], prediction[0, 0] = truth, guess
    with pytest.raises(SegfocusError, match=f"expected train ids 0 to 2.*got {truth or guess};"):
        boundary_counts(target, prediction, 3, 1)


def test_the_inputs_stay_as_they_were():
    _, target, prediction = list(slow_twins.scenes(0))[6]
    before = target.copy(), prediction.copy()
    boundary_counts(target, prediction, 4, (1, 3))
    np.testing.assert_array_equal(target, before[0])
    np.testing.assert_array_equal(prediction, before[1])

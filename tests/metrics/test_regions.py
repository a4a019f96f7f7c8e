"""Each number against the definition written out pixel by pixel or class by class, by other libraries."""

import json

import numpy as np
import pytest
from scipy import ndimage

from segfocus.errors import SegfocusError
from segfocus.metrics.boundary import boundary_band
from segfocus.metrics.regions import (
    DISTANCE_EDGES,
    SIZE_EDGES,
    THICKNESS_EDGES,
    RegionErrors,
    bin_names,
    component_bins,
    components,
    confusion_per_bin,
    distance_bins,
    thickness_bins,
)
from tests.metrics import slow_twins

NAMES = ["sky", "road", "pole", "car"]
EIGHT = np.ones((3, 3), bool)


def rectangles(seed, height=130, width=170):
    """Pairs with components, distances and thicknesses of every bin: rectangles from 1 to 60 px, void, noise."""
    random = np.random.default_rng(seed)
    target = np.zeros((height, width), np.uint8)
    for _ in range(30):
        top, left = random.integers(0, height), random.integers(0, width)
        down, right = 2 ** random.uniform(0, 6, 2)
        target[top : top + int(down), left : left + int(right)] = random.choice([0, 1, 2, 3, 3, 255])
    prediction = np.roll(target, (1, 2), (0, 1))
    prediction[prediction == 255] = 0
    noise = random.random(target.shape) < 0.1
    prediction[noise] = random.integers(0, 4, noise.sum())
    return target, prediction


def pairs(seed):
    return [rectangles(seed), *((target, prediction) for _, target, prediction in slow_twins.scenes(seed))]


def slow_distance(target):
    """Chessboard distance of each pixel to the nearest pixel of another label or outside, label by label."""
    distance = np.zeros(target.shape, int)
    for value in np.unique(target):
        mask = target == value
        distance[mask] = ndimage.distance_transform_cdt(np.pad(mask, 1), "chessboard")[1:-1, 1:-1][mask]
    return distance


def slow_thickness(target, most=40):
    """Side of the largest square of one label over each pixel (up to `most`), square by square."""
    side = np.ones(target.shape, int)
    windows = np.lib.stride_tricks.sliding_window_view
    for size in range(2, min(most, *target.shape) + 1):
        squares = windows(target, (size, size))
        for top, left in np.argwhere(squares.min((2, 3)) == squares.max((2, 3))):
            side[top : top + size, left : left + size] = size
    return side


def slow_components(target):
    """(class, mask) of every component."""
    for index in np.unique(target[target != 255]):
        numbered, count = ndimage.label(target == index, EIGHT)
        yield from ((index, numbered == number) for number in range(1, count + 1))


def slow_component_sizes(target):
    sizes = np.zeros(target.shape, int)
    for _, mask in slow_components(target):
        sizes[mask] = mask.sum()
    return sizes


def bin_masks(target):
    """For each partition the mask of each bin, from the slow twins and the bins' names."""
    values = {
        "distance": (slow_distance(target), DISTANCE_EDGES),
        "thickness": (slow_thickness(target), THICKNESS_EDGES),
        "component_size": (slow_component_sizes(target), SIZE_EDGES),
    }
    for partition, (value, edges) in values.items():
        lower, upper = (0, *edges), (*edges, 10**9)
        yield partition, [(low < value) & (value <= high) for low, high in zip(lower, upper, strict=True)]


def fraction(part, whole):
    return None if np.sum(whole) == 0 else float(np.sum(part) / np.sum(whole))


def slow_iou(target, prediction, mask, index):
    truth, guess = (target == index) & mask, (prediction == index) & mask
    return fraction(truth & guess, truth | guess)


def slow_miou(target, prediction, mask):
    values = [slow_iou(target, prediction, mask, index) for index in range(4)]
    present = [value for value in values if value is not None]
    return float(np.mean(present)) if present else None


def approximately(values):
    return pytest.approx(values, abs=1e-12, nan_ok=False)


def test_names_of_bins():
    assert bin_names(DISTANCE_EDGES) == ["1", "2", "3-4", "5-8", "9-16", ">16"]
    assert bin_names(THICKNESS_EDGES) == ["1-2", "3-4", "5-8", "9-16", "17-32", ">32"]
    assert bin_names(SIZE_EDGES) == ["1-16", "17-64", "65-256", "257-1024", "1025-9216", ">9216"]


@pytest.mark.parametrize("seed", range(4))
def test_distance_is_chessboard_distance_and_the_boundary_band(seed):
    for target, _ in pairs(seed):
        bins = distance_bins(target)
        np.testing.assert_array_equal(bins, np.searchsorted(DISTANCE_EDGES, slow_distance(target)))
        for index, distance in enumerate(DISTANCE_EDGES):
            np.testing.assert_array_equal(bins <= index, boundary_band(target, distance))


@pytest.mark.parametrize("seed", range(4))
def test_thickness_is_the_largest_square(seed):
    for target, _ in pairs(seed):
        np.testing.assert_array_equal(
            thickness_bins(target), np.searchsorted(THICKNESS_EDGES, slow_thickness(target)), err_msg=str(target.shape)
        )


def test_thickness_is_an_opening_of_each_class():
    target, _ = rectangles(9)
    for index, edge in enumerate(THICKNESS_EDGES):
        for value in range(4):
            opened = ndimage.binary_opening(target == value, np.ones((edge + 1, edge + 1)))
            np.testing.assert_array_equal((thickness_bins(target) > index) & (target == value), opened)


def test_thickness_by_hand():
    target = np.zeros((60, 60), np.uint8)
    target[10:12, 5:50] = 1  # a bar two pixels thick
    target[30:33, 5:50] = 2  # three
    bins = thickness_bins(target)
    assert set(bins[target == 1]) == {0}
    assert set(bins[target == 2]) == {1}
    assert bins[55, 30] == 4  # below the bars: 27 rows
    assert bins[0, 0] == 3  # above them: 10 rows
    assert set(bins[33:, 0]) == {4}


@pytest.mark.parametrize("seed", range(4))
def test_components_are_those_of_each_class(seed):
    for target, _ in pairs(seed):
        numbered, sizes, classes = components(target)
        expected = list(slow_components(target))
        assert sizes.size == classes.size == len(expected) + 1
        assert sizes[0] == (target == 255).sum()
        assert classes[0] == 255
        np.testing.assert_array_equal(numbered == 0, target == 255)
        for index, mask in expected:
            number = numbered[mask][0]
            np.testing.assert_array_equal(numbered == number, mask)
            assert sizes[number] == mask.sum()
            assert classes[number] == index
        labelled = target != 255
        bins = np.searchsorted(SIZE_EDGES, slow_component_sizes(target))
        np.testing.assert_array_equal(component_bins(target)[labelled], bins[labelled])


def test_components_touch_at_corners_within_a_class_only():
    target = np.array([[1, 0, 2], [0, 1, 255], [1, 255, 1]], np.uint8)
    numbered, sizes, classes = components(target)
    assert sorted(zip(classes.tolist(), sizes.tolist(), strict=True)) == [(0, 2), (1, 4), (2, 1), (255, 2)]
    assert numbered[0, 0] == numbered[1, 1] == numbered[2, 0] == numbered[2, 2]


def test_confusion_per_bin_counts_pixel_by_pixel():
    target, prediction = rectangles(3, 40, 50)
    bins = np.random.default_rng(0).integers(0, 6, target.shape).astype(np.uint8)
    found = confusion_per_bin(bins, target, prediction, 6, 4)
    assert found.dtype == np.int64
    for index in range(6):
        only = np.where(bins == index, target, 255).astype(np.uint8)
        np.testing.assert_array_equal(found[index], slow_twins.confusion(only, prediction, 4))


@pytest.mark.parametrize("seed", range(3))
def test_every_score_of_the_regions(seed):
    for target, prediction in pairs(seed):
        tally = RegionErrors(4)
        tally.update(target, prediction)
        regions = tally.summary(NAMES)["regions"]
        json.dumps(regions, allow_nan=False)
        labelled = target != 255
        wrong = labelled & (target != prediction)
        for partition, masks in bin_masks(target):
            found, masks = regions[partition], [mask & labelled for mask in masks]
            assert found["pixels"] == approximately([fraction(mask, labelled) for mask in masks])
            assert found["error_share"] == approximately([fraction(mask & wrong, wrong) for mask in masks])
            assert found["error_rate"] == approximately([fraction(mask & wrong, mask) for mask in masks])
            assert found["miou"] == approximately([slow_miou(target, prediction, mask) for mask in masks])
            for index, name in enumerate(NAMES):
                iou = [slow_iou(target, prediction, mask, index) for mask in masks]
                assert found["iou_per_class"][name] == approximately(iou)
                truth = [mask & (target == index) for mask in masks]
                recall = [fraction(mask & ~wrong, mask) for mask in truth]
                assert found["recall_per_class"][name] == approximately(recall)


@pytest.mark.parametrize("seed", range(3))
def test_components_found(seed):
    for target, prediction in pairs(seed):
        tally = RegionErrors(4)
        tally.update(target, prediction)
        count, found = np.zeros((4, 6), int), np.zeros((4, 6), int)
        for index, mask in slow_components(target):
            place = index, np.searchsorted(SIZE_EDGES, mask.sum())
            count[place] += 1
            found[place] += (prediction[mask] == index).mean() >= 0.5
        np.testing.assert_array_equal(tally.counts["component_count"], count)
        np.testing.assert_array_equal(tally.counts["component_found"], found)
        scores = tally.summary(NAMES)["regions"]["component_size"]
        for index, name in enumerate(NAMES):
            assert scores["count_per_class"][name] == count[index].tolist()
            expected = [fraction(*pair) for pair in zip(found[index], count[index], strict=True)]
            assert scores["found_per_class"][name] == expected


def test_half_of_a_component_is_enough():
    target = np.zeros((8, 8), np.uint8)
    target[1, 1:5] = target[3, 1:6] = 1
    prediction = np.zeros_like(target)
    prediction[1, 1:3] = prediction[3, 1:3] = 1  # 2 of 4 px, and 2 of 5
    tally = RegionErrors(2)
    tally.update(target, prediction)
    assert tally.counts["component_count"][1].tolist() == [2, 0, 0, 0, 0, 0]
    assert tally.counts["component_found"][1].tolist() == [1, 0, 0, 0, 0, 0]


@pytest.mark.parametrize("seed", range(3))
def test_trimap(seed):
    for target, prediction in pairs(seed):
        tally = RegionErrors(4)
        tally.update(target, prediction)
        trimap = tally.summary(NAMES)["trimap"]
        distance = slow_distance(target)
        for edge in DISTANCE_EDGES:
            band = (distance <= edge) & (target != 255)
            assert trimap["miou"][str(edge)] == approximately(slow_miou(target, prediction, band))
            assert trimap["accuracy"][str(edge)] == approximately(fraction(band & (target == prediction), band))
            expected = {name: slow_iou(target, prediction, band, index) for index, name in enumerate(NAMES)}
            assert trimap["iou_per_class"][str(edge)] == approximately(expected)


def test_pictures_add_up_in_any_order():
    pictures = pairs(5)
    one, other, halves = RegionErrors(4), RegionErrors(4), RegionErrors(4)
    for pair in pictures:
        one.update(*pair)
    for pair in reversed(pictures[3:]):
        other.update(*pair)
    for pair in pictures[:3]:
        halves.update(*pair)
    other.merge(halves)
    for name, value in one.counts.items():
        assert value.dtype == np.int64
        np.testing.assert_array_equal(other.counts[name], value)
    assert one.counts["distance"].sum() == one.counts["thickness"].sum() == one.counts["component_size"].sum()


def test_what_void_pixels_are_predicted_as_changes_nothing():
    target, prediction = rectangles(7)
    one, other = RegionErrors(4), RegionErrors(4)
    one.update(target, prediction)
    other.update(target, np.where(target == 255, 3, prediction).astype(np.uint8))
    for name, value in one.counts.items():
        np.testing.assert_array_equal(other.counts[name], value)


def test_nothing_counted_yet():
    summary = RegionErrors(2).summary(["a", "b"])
    json.dumps(summary, allow_nan=False)
    assert summary["regions"]["distance"]["miou"] == [None] * 6
    assert summary["regions"]["component_size"]["count_per_class"]["a"] == [0] * 6
    assert summary["trimap"]["miou"]["16"] is None


@pytest.mark.parametrize("function", [distance_bins, thickness_bins, components, component_bins])
def test_refuses_what_is_no_label_map(function):
    for target in (np.zeros((4, 4), int), np.zeros((1, 4, 4), np.uint8), np.zeros((0, 4), np.uint8)):
        with pytest.raises(SegfocusError, match="target: expected uint8 labels"):
            function(target)


def test_views_are_accepted():
    target, _ = rectangles(2)
    for function in (distance_bins, thickness_bins, component_bins):
        np.testing.assert_array_equal(function(target.T[::-1]), function(target).T[::-1])

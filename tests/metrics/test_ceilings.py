"""Each ceiling against its definition written out pixel by pixel."""

import itertools

import numpy as np
import pytest
from scipy import ndimage

from segfocus.errors import SegfocusError
from segfocus.metrics.ceilings import (
    REGION,
    best_bias_per_patch,
    borrow_nearby,
    entropy_per_region,
    importance_per_region,
    one_vote_per_region,
    perfect_regions,
    wrong_per_region,
)
from segfocus.metrics.regions import components
from tests.metrics import slow_twins

SIDES = (None, 64, 32, 16)


def pairs(seed):
    """Truth and prediction, void in both, of every scene."""
    for name, target, prediction in slow_twins.scenes(seed):
        yield name, target, np.where(target == 255, target, prediction)


def probabilities_of(prediction, num_classes, seed=0, sharpness=2.0):
    """Random probabilities, exact zeros and ties among them, whose highest is mostly the predicted class."""
    rng = np.random.default_rng(seed)
    values = rng.integers(0, 21, (num_classes, *prediction.shape)).astype(np.float64) ** sharpness
    for train_id in range(num_classes):
        values[train_id][(prediction == train_id) & (rng.random(prediction.shape) < 0.8)] = 21**sharpness
    values[0][values.sum(0) == 0] = 1
    return (values / values.sum(0)).astype(np.float32)


def region_grid(shape):
    """(row, column, pixels) of each region."""
    for row, top in enumerate(range(0, shape[0], REGION)):
        for column, left in enumerate(range(0, shape[1], REGION)):
            yield row, column, np.s_[top : top + REGION, left : left + REGION]


# FoR-Net


@pytest.mark.parametrize("seed", range(3))
def test_the_best_ranked_regions_become_right(seed):
    rng = np.random.default_rng(seed)
    percents = (0, 5, 10, 37, 100)
    for name, target, prediction in pairs(seed):
        regions = list(region_grid(target.shape))
        ranking = rng.integers(0, 3, (regions[-1][0] + 1, regions[-1][1] + 1)).astype(float)  # ties
        best_first = sorted(regions, key=lambda region: -ranking[region[0], region[1]])  # stable, as sorted() is
        for percent, found in zip(percents, perfect_regions(target, prediction, ranking, percents), strict=True):
            expected = prediction.copy()
            for _, _, pixels in best_first[: int(np.ceil(percent * len(regions) / 100))]:
                expected[pixels] = target[pixels]
            np.testing.assert_array_equal(found, expected, err_msg=f"{name} {percent} %")


def test_wrong_pixels_of_regions():
    for name, target, prediction in pairs(0):
        found = wrong_per_region(target, prediction)
        for row, column, pixels in region_grid(target.shape):
            assert found[row, column] == (target[pixels] != prediction[pixels]).sum(), name


def test_ranking_by_wrong_pixels_is_the_best_choice_of_regions():
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, (40, 37)).astype(np.uint8)
    prediction = np.where(rng.random(target.shape) < 0.5 * rng.random(37), (target + 1) % 3, target).astype(np.uint8)
    (found,) = perfect_regions(target, prediction, wrong_per_region(target, prediction), [33])
    wrong = [(target[pixels] != prediction[pixels]).sum() for _, _, pixels in region_grid(target.shape)]
    most = max(sum(chosen) for chosen in itertools.combinations(wrong, 3))  # 33 % of 9 regions
    assert (found != target).sum() == sum(wrong) - most


def test_entropy_of_regions():
    rng = np.random.default_rng(0)
    values = rng.random((5, 35, 50)).astype(np.float32)
    values[1, :10] = 0
    values[:, 30:, 30:], values[3, 30:, 30:] = 0, 1
    values /= values.sum(0)
    found = entropy_per_region(values)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(values * np.log(values.astype(np.float64)), axis=0)
    for row, column, pixels in region_grid(entropy.shape):
        assert found[row, column] == pytest.approx(entropy[pixels].mean(), abs=1e-6)
    assert found[2, 2] == pytest.approx(0, abs=1e-20)  # certain in the last corner


def test_importance_on_a_grid_of_any_cells():
    grid = np.arange(12.0).reshape(3, 4) / 11
    np.testing.assert_allclose(importance_per_region(grid, (48, 64)), grid, atol=1e-6)
    finer = grid.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_allclose(importance_per_region(finer, (48, 64)), grid, atol=1e-6)
    coarser = importance_per_region(np.array([[0.0, 1.0]], np.float32), (20, 64))
    np.testing.assert_allclose(coarser, [[0, 0, 1, 1]] * 2)
    assert importance_per_region(grid, (1, 1)).shape == (1, 1)


@pytest.mark.parametrize("side", [8, 16])
def test_importance_cells_that_reach_beyond_the_picture_stay_in_place(side):
    """FoR-Net's cells of 8 px on a picture whose size they do not divide."""
    shape = (131, 77)
    grid = np.random.default_rng(0).random([-(-size // side) for size in shape]).astype(np.float32)
    full = np.kron(grid, np.ones((side, side)))[: shape[0], : shape[1]]
    found = importance_per_region(grid, shape)
    for row, column, pixels in region_grid(shape):
        assert found[row, column] == pytest.approx(full[pixels].mean(), abs=1e-6)


# OVeNet


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("radii", [(0, 1, 2, 4, 8, 16), (0, 3), (5, 6, 100)])
def test_a_pixel_borrows_its_true_class_from_its_window(seed, radii):
    for name, target, prediction in pairs(seed):
        for radius, found in zip(radii, borrow_nearby(target, prediction, 4, radii), strict=True):
            expected = prediction.copy()
            for train_id in range(4):
                near = ndimage.maximum_filter(prediction == train_id, 2 * radius + 1, mode="constant")
                expected[(target == train_id) & near] = train_id
            np.testing.assert_array_equal(found, expected, err_msg=f"{name} at {radius}")


@pytest.mark.parametrize("num_classes", [2, 8, 9, 64, 254])
def test_borrowing_among_many_classes(num_classes):
    rng = np.random.default_rng(num_classes)
    target = rng.integers(0, num_classes, (20, 23)).astype(np.uint8)
    prediction = np.roll(target, 1, 1)
    base, found = borrow_nearby(target, prediction, num_classes, (0, 1))
    np.testing.assert_array_equal(base, prediction)
    np.testing.assert_array_equal(found[:, :-1], target[:, :-1])  # the right neighbour is predicted as it


def test_void_does_not_lend():
    target = np.array([[255, 1, 0]], np.uint8)
    (found,) = borrow_nearby(target, np.array([[255, 0, 0]], np.uint8), 2, (1,))
    assert found.tolist() == [[255, 0, 0]]


# RANet


@pytest.mark.parametrize("seed", range(4))
def test_every_true_region_votes(seed):
    for name, target, prediction in pairs(seed):
        everywhere, where_right = prediction.copy(), prediction.copy()
        for train_id in range(4):
            numbered, regions = ndimage.label(target == train_id, np.ones((3, 3)))
            for number in range(1, regions + 1):
                region = numbered == number
                elected = np.bincount(prediction[region]).argmax()  # the smallest of equals
                everywhere[region] = elected
                before, after = (prediction[region] == train_id).sum(), region.sum() * (elected == train_id)
                if after > before:
                    where_right[region] = elected
        voted, helped = one_vote_per_region(components(target)[0], target, prediction, 4)
        np.testing.assert_array_equal(voted, everywhere, err_msg=name)
        np.testing.assert_array_equal(helped, where_right, err_msg=name)


# ThreshNet


def biased(prediction, probabilities, train_id, step):
    """One class takes the pixels where its probability is at least step / 20 of the highest."""
    share = probabilities[train_id] / probabilities.max(0)
    return np.where((share * 20 >= step) & (prediction != 255), np.uint8(train_id), prediction)


def best_biased(target, prediction, probabilities):
    """Every class and bias tried; no change first, then the smallest class and the highest bias."""
    best, most = prediction, (target == prediction).sum()
    for train_id in range(len(probabilities)):
        for step in range(20, -1, -1):
            found = biased(prediction, probabilities, train_id, step)
            right = (target == found).sum()
            if right > most:
                best, most = found, right
    return best


@pytest.mark.parametrize("seed", range(3))
def test_the_best_class_and_bias_of_each_patch(seed):
    for name, target, prediction in pairs(seed):
        probabilities = probabilities_of(prediction, 4, seed)
        for side, found in zip(SIDES, best_bias_per_patch(target, prediction, probabilities, SIDES), strict=True):
            side = side or max(target.shape)
            expected = prediction.copy()
            for top, left in itertools.product(*(range(0, size, side) for size in target.shape)):
                patch = np.s_[top : top + side, left : left + side]
                expected[patch] = best_biased(target[patch], prediction[patch], probabilities[:, *patch])
            np.testing.assert_array_equal(found, expected, err_msg=f"{name} {side} px")


def test_two_classes_get_the_best_threshold():
    rng = np.random.default_rng(0)
    foreground = rng.random((32, 48))
    probabilities = np.stack([1 - foreground, foreground]).astype(np.float32)
    prediction = (foreground > 0.5).astype(np.uint8)
    target = (foreground > np.array([0.13, 0.41, 0.79]).repeat(16)).astype(np.uint8)
    (found,) = best_bias_per_patch(target, prediction, probabilities, (16,))
    ratios = np.arange(21) / 20
    thresholds = np.concatenate([ratios / (1 + ratios), 1 / (1 + ratios)])
    for patch in (np.s_[:16, :16], np.s_[16:, 16:32], np.s_[:16, 32:]):
        right = [((foreground[patch] >= threshold) == target[patch]).sum() for threshold in thresholds]
        assert (found[patch] == target[patch]).sum() == max(right) > (prediction[patch] == target[patch]).sum()


def test_no_probability_and_no_void_is_taken():
    target = np.zeros((16, 16), np.uint8)
    target[:8] = 255
    prediction = np.where(target == 255, target, 1).astype(np.uint8)
    nothing = np.zeros((2, 16, 16), np.float32)  # as rounding to 8 bits can leave a pixel of many classes
    (found,) = best_bias_per_patch(target, prediction, nothing, (16,))
    np.testing.assert_array_equal(found, target)  # at bias 0 class 0 takes the whole patch


def test_refusals():
    labels, values = np.zeros((20, 20), np.uint8), np.zeros((2, 20, 20), np.float32)
    with pytest.raises(SegfocusError, match="expected 0 to 100 %"):
        perfect_regions(labels, labels, np.zeros((2, 2)), [5, 101])
    for radii in ((1, 0), (-1, 0)):
        with pytest.raises(SegfocusError, match="expected ascending px"):
            borrow_nearby(labels, labels, 2, radii)
    for side in (0, 8, 24):
        with pytest.raises(SegfocusError, match="multiples of 16 px"):
            best_bias_per_patch(labels, labels, values, [side])


def test_the_inputs_stay_as_they_were():
    _, target, prediction = list(pairs(0))[6]
    probabilities = probabilities_of(prediction, 4)
    before = target.copy(), prediction.copy(), probabilities.copy()
    perfect_regions(target, prediction, wrong_per_region(target, prediction), (50,))
    entropy_per_region(probabilities)
    borrow_nearby(target, prediction, 4, (0, 2))
    one_vote_per_region(components(target)[0], target, prediction, 4)
    best_bias_per_patch(target, prediction, probabilities, SIDES)
    for values, copy in zip((target, prediction, probabilities), before, strict=True):
        np.testing.assert_array_equal(values, copy)

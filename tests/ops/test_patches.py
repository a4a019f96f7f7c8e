"""Thresholds of patches, bit for bit against loops over patches and thresholds (`patch_twins`)."""

import itertools
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest

from segfocus.errors import SegfocusError
from segfocus.ops import patches
from segfocus.ops.patches import (
    THRESHOLDS,
    apply_thresholds,
    best_cuts,
    best_single_threshold,
    best_thresholds,
    best_thresholds_of_all,
    count_patches,
    threshold_target,
)
from tests.ops.patch_twins import TWENTY, counts, exceeds, field, grid, score_of, thresholds_by_loops

TYPES = [np.float32, np.uint8, np.uint16]
LAYOUTS = [  # height, width, patch, offset
    (32, 48, 16, (0, 0)),
    (33, 50, 16, (5, 11)),
    (21, 17, 8, (-3, 9)),
    (9, 7, 1, (0, 0)),
    (20, 30, 64, (0, 0)),
    (20, 30, 64, (7, 29)),
    (1, 40, 5, (0, 4)),
]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("score", ["foreground", "mean", "right"])
@pytest.mark.parametrize(("height", "width", "patch", "offset"), LAYOUTS)
def test_thresholds_and_masks_are_those_of_the_loops(height, width, patch, offset, score, dtype):
    probability, truth = field(height, height, width, dtype)
    expected, mask = thresholds_by_loops(probability, truth, patch, score, offset)
    found = best_thresholds(probability, truth, patch, score=score, offset=offset)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(apply_thresholds(probability, found, patch, offset), mask)
    target = threshold_target(probability, truth, patch, score=score, offset=offset)
    np.testing.assert_array_equal(target, np.where(truth == 255, 255, mask))


@pytest.mark.parametrize("most", [1, 100, 170])
@pytest.mark.parametrize(("height", "width", "patch", "offset"), LAYOUTS)
def test_counting_band_by_band_changes_nothing(monkeypatch, height, width, patch, offset, most):
    probability, truth = field(1, height, width)
    whole = count_patches(probability, truth, patch, offset=offset)
    monkeypatch.setattr(patches, "_BAND", most)  # these maps are smaller than a band otherwise
    bands = count_patches(probability, truth, patch, offset=offset)
    for name in ("true_positives", "false_positives", "foreground", "background"):
        np.testing.assert_array_equal(getattr(bands, name), getattr(whole, name))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("steps", [TWENTY[:-1], [Fraction(1, 3), Fraction(1, 2)], [Fraction(k, 7) for k in (1, 3, 6)]])
def test_other_thresholds(steps, dtype):
    probability, truth = field(3, 30, 41, dtype)
    expected, mask = thresholds_by_loops(probability, truth, 16, "foreground", steps=steps)
    found = best_thresholds(probability, truth, 16, thresholds=[float(step) for step in steps])
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(apply_thresholds(probability, found, 16), mask)


@pytest.mark.parametrize("dtype", TYPES)
def test_counts_at_values_next_to_every_threshold(dtype):
    """The nearest neighbours of each threshold on both sides are where a rounded comparison would go wrong."""
    if dtype == np.float32:
        at = np.array(THRESHOLDS, np.float32)
        values = np.concatenate([at, np.nextafter(at, 0), np.nextafter(at, 1), [0, np.nextafter(np.float32(0), 1)]])
    else:
        values = np.arange(np.iinfo(dtype).max + 1)
    probability = values.astype(dtype)[None]
    counted = count_patches(probability, np.ones(probability.shape, np.uint8), values.size)
    expected = [exceeds(probability, step).sum() for step in TWENTY]
    np.testing.assert_array_equal(counted.true_positives[0, 0], expected)
    assert counted.false_positives.sum() == counted.background.sum() == 0
    assert counted.foreground[0, 0] == values.size


def test_middle_ties_choose_an_equally_good_threshold_nearest_to_a_half():
    probability, truth = field(5, 40, 40)
    probability, truth[:16] = probability * np.float32(0.4), 0  # all from 0.4 up are equally good there
    order = sorted(TWENTY, key=lambda step: abs(step - Fraction(1, 2)))  # stable: the lower of two first
    expected, _ = thresholds_by_loops(probability, truth, 16, "foreground", order=order)
    found = best_thresholds(probability, truth, 16, ties="middle")
    np.testing.assert_array_equal(found, expected)
    assert (found != best_thresholds(probability, truth, 16)).any()


def test_a_patch_without_foreground_is_cleared_and_an_ignored_one_changes_nothing():
    probability = np.full((16, 32), 0.97, np.float32)
    truth = np.zeros((16, 32), np.uint8)
    truth[:, 16:] = 255
    np.testing.assert_array_equal(best_thresholds(probability, truth, 16), np.float32([[1.0, 0.05]]))
    target = threshold_target(probability, truth, 16)
    assert (target[:, :16] == 0).all()
    assert (target[:, 16:] == 255).all()


def pooled_ratio(pairs, masks):
    true, false, foreground, _ = np.sum([counts(mask, truth) for (_, truth), mask in zip(pairs, masks, strict=True)], 0)
    return Fraction(int(true), int(foreground + false))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("seed", range(3))
def test_pooled_thresholds_have_the_best_iou_of_all_combinations(seed, dtype):
    steps = [Fraction(1, 4), Fraction(2, 5), Fraction(11, 20), Fraction(4, 5)]
    pairs = [field(seed, 12, 16, dtype), field(seed + 7, 6, 16, dtype)]
    parts = [(which, pixels) for which, pair in enumerate(pairs) for *_, pixels in grid(pair[0].shape, 8, (0, 0))]
    tables = [
        [counts(exceeds(pairs[which][0][pixels], step), pairs[which][1][pixels]) for step in steps]
        for which, pixels in parts
    ]
    best = 0.0
    for chosen in itertools.product(range(4), repeat=len(parts)):
        taken = [table[index] for table, index in zip(tables, chosen, strict=True)]
        best = max(best, sum(row[0] for row in taken) / sum(row[1] + row[2] for row in taken))
    found = best_thresholds_of_all(pairs, 8, thresholds=[float(step) for step in steps])
    masks = [apply_thresholds(pair[0], table, 8) for pair, table in zip(pairs, found, strict=True)]
    masks = [mask & (truth != 255) for mask, (_, truth) in zip(masks, pairs, strict=True)]
    assert float(pooled_ratio(pairs, masks)) == best
    alone = best_thresholds(*pairs[0], 8, score="pooled")
    np.testing.assert_array_equal(alone, best_thresholds_of_all(pairs[:1], 8)[0])


def test_pooled_clears_a_map_without_any_reachable_foreground():
    probability = np.full((8, 8), 0.5, np.float32)
    assert not threshold_target(probability, np.zeros((8, 8), np.uint8), 4, score="pooled").any()
    probability[0, 0], truth = 0, np.zeros((8, 8), np.uint8)
    truth[0, 0] = 1
    assert not threshold_target(probability, truth, 4, score="pooled").any()
    assert best_thresholds_of_all([], 4) == []


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("score", ["foreground", "mean", "right"])
def test_every_cut_is_tried(score, dtype):
    probability, truth = field(2, 19, 23, dtype)
    probability = (probability // (np.iinfo(dtype).max // 40 if dtype != np.float32 else 1 / 40)).astype(dtype)
    if dtype == np.float32:
        probability = (probability / np.float32(40)).clip(0, 1)
    found = best_cuts(probability, truth, 8, score=score, offset=(3, 0))
    mask = apply_thresholds(probability, found, 8, (3, 0))
    for row, column, pixels in grid(probability.shape, 8, (3, 0)):
        own, labels = probability[pixels], truth[pixels]
        cuts = [-1, *np.unique(own[labels != 255]).tolist()]
        values = [score_of(score, *counts(own.astype(np.float64) > cut, labels)) for cut in cuts]
        cut = cuts[values.index(max(values))]  # the lowest of equals
        np.testing.assert_array_equal(mask[pixels], own.astype(np.float64) > cut)
        assert (found[row, column] == -1) == (cut == -1)
    grid_score, cut_score = (
        sum(score_of(score, *counts(taken[pixels], truth[pixels])) for *_, pixels in grid(probability.shape, 8, (3, 0)))
        for taken in (
            apply_thresholds(
                probability, best_thresholds(probability, truth, 8, score=score, offset=(3, 0)), 8, (3, 0)
            ),
            mask,
        )
    )
    assert cut_score >= grid_score


@pytest.mark.parametrize("dtype", TYPES)
def test_pooled_cuts_bound_pooled_thresholds(dtype):
    pair = field(4, 24, 24, dtype)
    at_grid, anywhere = (
        apply_thresholds(pair[0], table, 8) & (pair[1] != 255)
        for table in (best_thresholds(*pair, 8, score="pooled"), best_cuts(*pair, 8, score="pooled"))
    )
    assert pooled_ratio([pair], [anywhere]) > pooled_ratio([pair], [at_grid])
    target = threshold_target(*pair, 8, score="pooled", thresholds=None)
    np.testing.assert_array_equal(target, np.where(pair[1] == 255, 255, anywhere))


def test_one_threshold_for_all_maps():
    pairs = [field(seed, 20 + seed, 31 - seed) for seed in range(3)]
    values = []
    for step in TWENTY:
        total = np.sum([counts(exceeds(probability, step), truth) for probability, truth in pairs], 0)
        values.append(Fraction(int(total[0]) + 1, int(total[1] + total[2]) + 1))
    assert best_single_threshold(pairs) == float(TWENTY[values.index(max(values))])
    with pytest.raises(SegfocusError, match="expected at least one pair"):
        best_single_threshold([])


def test_better_scores_than_the_plain_half():
    probability, truth = field(0, 96, 96)
    before = probability > 0.5
    after = apply_thresholds(probability, best_thresholds(probability, truth, 16, score="pooled"), 16)
    labelled = truth != 255
    pair = [(probability, truth)]
    assert pooled_ratio(pair, [after & labelled]) > pooled_ratio(pair, [before & labelled])


def test_refusals():
    probability, truth = field(0, 20, 20)
    for bad in (probability * 2, probability - 1, np.where(truth == 1, np.float32("nan"), probability)):
        with pytest.raises(SegfocusError, match=r"expected numbers in \[0, 1\], got .*; try the sigmoid"):
            best_thresholds(bad, truth, 8)
    for bad in (probability.astype(np.float64), probability[None], probability[:0], (probability * 9).astype(np.int64)):
        with pytest.raises(SegfocusError, match="expected height x width of float32, uint8 or uint16"):
            best_thresholds(bad, truth, 8)
    for bad in (truth[:, :-1], truth.astype(np.int64)):
        with pytest.raises(SegfocusError, match="expected uint8 of 20 x 20 as the probabilities"):
            best_cuts(probability, bad, 8)
    with pytest.raises(SegfocusError, match=r"expected 0, 1 and 255 \(ignored\), got 7"):
        best_thresholds(probability, np.full_like(truth, 7), 8)
    with pytest.raises(SegfocusError, match="at least 1 px, got 0"):
        best_thresholds(probability, truth, 0)
    for steps in ([], [0.5, 0.5], [0.0, 0.5], [0.5, 1.1]):
        with pytest.raises(SegfocusError, match="expected ascending numbers"):
            best_thresholds(probability, truth, 8, thresholds=steps)
    with pytest.raises(SegfocusError, match="expected one of foreground, mean, pooled, right, got 'iou'"):
        best_thresholds(probability, truth, 8, score="iou")
    with pytest.raises(SegfocusError, match="expected lowest or middle, got 'first'"):
        best_thresholds(probability, truth, 8, ties="first")
    with pytest.raises(SegfocusError, match="expected 3 x 3 for patches of 8 px, got 2 x 3"):
        apply_thresholds(probability, np.zeros((2, 3), np.float32), 8)


def test_the_inputs_stay_as_they_were():
    for dtype in TYPES:
        probability, truth = field(0, 20, 20, dtype)
        before = probability.copy(), truth.copy()
        for value in (probability, truth):
            value.setflags(write=False)
        threshold_target(probability, truth, 8)
        best_cuts(probability, truth, 8)
        np.testing.assert_array_equal(probability, before[0])
        np.testing.assert_array_equal(truth, before[1])


def test_torch_is_not_imported():
    code = "import sys, segfocus.ops.patches, segfocus.ops.patch_classes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

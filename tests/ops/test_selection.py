"""Top-K and adaptive selection against slow twins; straight-through values and gradients."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from segfocus.ops.resample import expand_blocks
from segfocus.ops.selection import (
    adaptive_masks,
    block_means,
    random_scores,
    region_mask,
    selected_count,
    straight_through,
    top_k,
    top_k_masks,
)


def slow_top(scores, ratio):
    """Sort (score, index) pairs in Python."""
    flat = scores.flatten().tolist()
    count = max(math.floor(ratio * len(flat) + 0.5), 1 if ratio > 0 else 0)
    return sorted(range(len(flat)), key=lambda index: (-flat[index], index))[:count]


def slow_mask(scores, ratio):
    mask = torch.zeros(scores.numel(), dtype=torch.bool)
    mask[slow_top(scores, ratio)] = True
    return mask.view(scores.shape)


def slow_adaptive(scores, share):
    """Add the largest score that is left until the share is reached."""
    flat = scores.double().flatten().tolist()
    left = sorted(range(len(flat)), key=lambda index: (-flat[index], index))
    mask, held = torch.zeros(len(flat), dtype=torch.bool), 0.0
    while left and held < share * math.fsum(flat) - 1e-12 and flat[left[0]] > 0:
        mask[left[0]] = True
        held += flat[left.pop(0)]
    return mask.view(scores.shape)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (12, 15)])
def test_the_exact_top_k_best_first(ties, size):
    scores = torch.rand(3, 1, *size)
    if ties:
        scores = (scores * 3).round()
    ratios = [0.0, 1e-5, 0.1, 0.25, 0.4, 1.0]
    masks = top_k_masks(scores, ratios)
    for ratio, chosen, mask in zip(ratios, top_k(scores, ratios), masks, strict=True):
        assert chosen.tolist() == [slow_top(picture, ratio) for picture in scores]
        assert torch.equal(mask, torch.stack([slow_mask(picture, ratio) for picture in scores]))
    for small, large in pairwise(masks):
        assert not (small & ~large).any()  # nested


def test_a_mask_holds_the_regions_it_was_given():
    mask = region_mask(torch.tensor([[5, 0], [2, 3]]), torch.rand(2, 1, 2, 3))
    assert mask.flatten(1).tolist() == [
        [True, False, False, False, False, True],
        [False, False, True, True, False, False],
    ]
    assert not region_mask(torch.zeros(2, 0, dtype=torch.long), torch.rand(2, 1, 2, 3)).any()


def test_count_rounds_half_up_and_is_at_least_one_above_zero():
    assert selected_count(0.5, 5) == 3
    assert [selected_count(0.1, n) for n in (1, 4, 5, 14, 15, 16, 25)] == [1, 1, 1, 1, 2, 2, 3]
    assert [selected_count(0.0, n) for n in (1, 7, 2700)] == [0, 0, 0]
    assert [selected_count(1e-9, n) for n in (1, 7, 2700)] == [1, 1, 1]
    assert [selected_count(1.0, n) for n in (1, 7, 2700)] == [1, 7, 2700]


@pytest.mark.parametrize("share", [0.0, 1e-6, 0.1, 0.5, 0.75, 0.999, 1.0])
@pytest.mark.parametrize("kind", ["continuous", "ties", "with zeros", "tiny", "half"])
def test_adaptive_is_the_smallest_set_that_holds_the_share(kind, share):
    scores = torch.rand(4, 1, 5, 7, generator=torch.Generator().manual_seed(3))
    if kind == "ties":
        scores = (scores * 3).round() + 1
    elif kind == "with zeros":
        scores = (scores - 0.6).clamp(min=0)
    elif kind == "tiny":
        scores = scores * 1e-30
    elif kind == "half":
        scores = (scores * 4).round().bfloat16()
    masks = adaptive_masks(scores, share)
    for picture, mask in zip(scores.double(), masks, strict=True):
        if kind != "tiny":  # whose sums lie below the twin's tolerance
            assert torch.equal(mask, slow_adaptive(picture, share))
        held, total = picture[mask].sum(), picture.sum()
        assert held >= share * total * (1 - 1e-12)
        if mask.any():
            assert held - picture[mask].min() < share * total  # one fewer would not do
    if (kind, share) == ("continuous", 0.75):
        assert len({int(mask.sum()) for mask in masks}) > 1  # every picture its own number


def test_adaptive_with_every_share_of_small_pictures_against_all_subsets():
    """No subset of fewer regions holds the share; of those as large none comes before it."""
    scores = torch.tensor([[3.0, 1, 2, 3, 0, 1]]).view(1, 1, 2, 3)
    flat = scores.flatten().tolist()
    for part in range(11):
        mask = adaptive_masks(scores, part / 10).flatten()
        subsets = [[flat[i] for i in range(6) if number >> i & 1] for number in range(64)]
        fewest = min(len(subset) for subset in subsets if sum(subset) >= part - 1e-9)
        assert int(mask.sum()) == fewest
    assert adaptive_masks(scores, 0.3).flatten().nonzero().flatten().tolist() == [0]  # the first of two equals
    assert adaptive_masks(scores, 0.7).flatten().nonzero().flatten().tolist() == [0, 2, 3]


def test_adaptive_of_a_share_of_one_is_all_that_is_not_zero_and_of_nothing_is_nothing():
    scores = torch.rand(2, 1, 60, 70)
    assert adaptive_masks(scores, 1.0).all()
    scores[:, :, :30] = 0
    assert torch.equal(adaptive_masks(scores, 1.0), scores > 0)
    assert not adaptive_masks(torch.zeros(2, 1, 3, 3), 1.0).any()
    assert adaptive_masks(scores, 1e-12).sum((1, 2, 3)).tolist() == [1, 1]
    assert not adaptive_masks(scores, 0.0).any()


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_adaptive_share_outside_the_unit_interval_is_refused(share):
    with pytest.raises(ValueError, match="adaptive: expected a share of the importance in"):
        adaptive_masks(torch.rand(1, 1, 2, 2), share)


@pytest.mark.parametrize("ratio", [-0.1, 1.1, float("nan")])
def test_ratio_outside_the_unit_interval_is_refused(ratio):
    with pytest.raises(ValueError, match="expected a share"):
        top_k_masks(torch.rand(1, 1, 2, 2), [ratio])


@pytest.mark.parametrize(("size", "block"), [((8, 8), 4), ((7, 10), 3), ((5, 5), 8), ((4, 4), 1)])
def test_block_means_and_expansion_equal_loops(size, block):
    scores = torch.rand(2, 1, *size, dtype=torch.float64)
    means = block_means(scores, block)
    expanded = expand_blocks(means, block, size)
    assert expanded.shape == scores.shape
    for row in range(size[0]):
        for column in range(size[1]):
            top, left = row // block * block, column // block * block
            cells = scores[:, 0, top : top + block, left : left + block]
            torch.testing.assert_close(expanded[:, 0, row, column], cells.flatten(1).mean(1))


def test_straight_through_is_exactly_the_mask_and_passes_the_gradient_everywhere():
    importance = torch.rand(1, 1, 6, 6, requires_grad=True)
    mask = torch.rand(1, 1, 6, 6) > 0.5
    weights = straight_through(mask, importance)
    assert torch.equal(weights, mask.float())
    factor = torch.rand(1, 1, 6, 6)
    (weights * factor).sum().backward()
    assert torch.equal(importance.grad, factor)


def test_random_scores_repeat_outside_training_and_vary_within():
    like = torch.zeros(2, 1, 4, 4)
    assert torch.equal(random_scores(like, training=False), random_scores(like, training=False))
    assert torch.equal(random_scores(like, training=False)[:1], random_scores(like[:1], training=False))
    assert not torch.equal(random_scores(like, training=True), random_scores(like, training=True))


@pytest.mark.parametrize("size", [(45, 60), (64, 128), (33, 7)])
def test_random_scores_look_like_chance(size):
    scores = random_scores(torch.zeros(1, 1, *size), training=False)[0, 0].double().numpy()
    assert kstest(scores.ravel(), "uniform").pvalue > 0.01
    count = scores.size
    for first, second in (
        (scores[1:], scores[:-1]),
        (scores[:, 1:], scores[:, :-1]),
        (scores[1:, 1:], scores[:-1, :-1]),
    ):
        assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 3 / count**0.5

"""Top-K masks against a slow twin; straight-through values and gradients."""

from itertools import pairwise

import pytest
import torch

from segfocus.ops.resample import expand_blocks
from segfocus.ops.selection import block_means, random_scores, selected_count, straight_through, top_k_masks


def slow_mask(scores, ratio):
    """Sort (score, index) pairs in Python."""
    flat = scores.flatten().tolist()
    count = int(ratio * len(flat) + 0.5)
    best = sorted(range(len(flat)), key=lambda index: (-flat[index], index))[:count]
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[best] = True
    return mask.view(scores.shape)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (12, 15)])
def test_masks_are_the_exact_top_k(ties, size):
    scores = torch.rand(3, 1, *size)
    if ties:
        scores = (scores * 3).round()
    ratios = [0.0, 0.1, 0.25, 0.4, 1.0]
    masks = top_k_masks(scores, ratios)
    for ratio, mask in zip(ratios, masks, strict=True):
        expected = torch.stack([slow_mask(picture, ratio) for picture in scores])
        assert torch.equal(mask, expected)
    for small, large in pairwise(masks):
        assert not (small & ~large).any()  # nested


def test_count_rounds_half_up_and_keeps_whole_numbers():
    assert selected_count(0.5, 5) == 3
    assert selected_count(0.1, 4) == 0
    assert [selected_count(1.0, n) for n in (1, 7, 2700)] == [1, 7, 2700]


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
    like = torch.zeros(1, 1, 4, 4)
    assert torch.equal(random_scores(like, training=False), random_scores(like, training=False))
    assert not torch.equal(random_scores(like, training=True), random_scores(like, training=True))

"""Losses against loops in plain Python, scikit-learn and torch's own functions; ignored and empty batches."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from torch.nn import functional

from segfocus.losses import boundary_cross_entropy, cross_entropy, ohem_cross_entropy, soft_dice


def scene(classes, seed=0, ignored=0.2):
    generator = torch.Generator().manual_seed(seed)
    channels = 1 if classes == 2 else classes
    logits = torch.randn(2, channels, 6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, classes, (2, 6, 5), generator=generator)
    target[torch.rand(2, 6, 5, generator=generator) < ignored] = 255
    return logits, target


def class_probabilities(logits):
    if logits.shape[1] == 1:
        foreground = logits.detach().sigmoid()
        return torch.cat([1 - foreground, foreground], 1)
    return logits.detach().softmax(1)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_cross_entropy_equals_scikit_learn(classes):
    logits, target = scene(classes)
    keep = target != 255
    rows = class_probabilities(logits).permute(0, 2, 3, 1)[keep].numpy()
    expected = log_loss(target[keep].numpy(), rows, labels=list(range(classes)))
    assert cross_entropy(logits, target).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("classes", [2, 4])
def test_class_weights_make_a_weighted_mean(classes):
    logits, target = scene(classes)
    weights = torch.linspace(0.5, 2.0, classes)
    keep = target != 255
    rows = class_probabilities(logits).permute(0, 2, 3, 1)[keep].numpy()
    truth = target[keep].numpy()
    expected = log_loss(truth, rows, labels=list(range(classes)), sample_weight=weights.numpy()[truth])
    assert cross_entropy(logits, target, class_weights=weights).item() == pytest.approx(expected, rel=1e-5)


def slow_ohem(logits, target, threshold, min_kept):
    rows = class_probabilities(logits)
    values = []
    for b, y, x in np.ndindex(*target.shape):
        if target[b, y, x] != 255:
            values.append(-math.log(rows[b, target[b, y, x], y, x].item()))
    values.sort(reverse=True)
    least = max(1, round(min_kept * len(values)))
    hard = [v for v in values if v >= -math.log(threshold) - 1e-9]
    kept = hard if len(hard) >= least else values[:least]
    return sum(kept) / len(kept)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize(("threshold", "min_kept"), [(0.7, 1 / 16), (0.05, 0.5), (1.0, 0.1)])
def test_ohem_equals_the_loop(classes, threshold, min_kept):
    logits, target = scene(classes)
    loss = ohem_cross_entropy(logits, target, threshold=threshold, min_kept=min_kept)
    assert loss.item() == pytest.approx(slow_ohem(logits, target, threshold, min_kept), rel=1e-5)


def test_ohem_weights_and_threshold_check():
    logits, target = scene(3)
    plain = ohem_cross_entropy(logits, target, threshold=1.0)
    even = ohem_cross_entropy(logits, target, class_weights=torch.full((3,), 2.0), threshold=1.0)
    assert even.item() == pytest.approx(plain.item(), rel=1e-6)
    with pytest.raises(ValueError, match="probability"):
        ohem_cross_entropy(logits, target, threshold=0.0)


@pytest.mark.parametrize("classes", [2, 4])
def test_dice_equals_the_loop(classes):
    logits, target = scene(classes)
    rows = class_probabilities(logits)
    losses = []
    for c in [1] if classes == 2 else range(classes):
        overlap = sizes = present = 0.0
        for b, y, x in np.ndindex(*target.shape):
            if target[b, y, x] == 255:
                continue
            truth = float(target[b, y, x] == c)
            present += truth
            overlap += rows[b, c, y, x].item() * truth
            sizes += rows[b, c, y, x].item() + truth
        if present:
            losses.append(1 - (2 * overlap + 1) / (sizes + 1))
    assert soft_dice(logits, target).item() == pytest.approx(sum(losses) / len(losses), rel=1e-5)


def test_boundary_cross_entropy_counts_valid_cells_only():
    logits = torch.randn(1, 1, 3, 4)
    target = torch.rand(1, 1, 3, 4)
    valid = torch.rand(1, 1, 3, 4) > 0.3
    expected = functional.binary_cross_entropy(logits.sigmoid()[valid], target[valid])
    torch.testing.assert_close(boundary_cross_entropy(logits, target, valid), expected)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("loss", [cross_entropy, ohem_cross_entropy, soft_dice])
def test_nothing_labelled_gives_zero_with_a_gradient(classes, loss):
    logits, target = scene(classes)
    value = loss(logits, torch.full_like(target, 255))
    assert value.item() == 0
    value.backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("loss", [cross_entropy, soft_dice])
def test_ignored_pixels_get_no_gradient(classes, loss):
    logits, target = scene(classes)
    loss(logits, target).backward()
    ignored = (target == 255)[:, None].expand_as(logits)
    assert logits.grad[ignored].abs().max() == 0
    assert logits.grad[~ignored].abs().min() > 0

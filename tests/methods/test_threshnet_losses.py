"""ThreshNet: losses against slow twins, and several classes."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional

from segfocus.methods.threshnet import boundary_loss, edges, focal_loss
from segfocus.output import Output
from tests.methods.threshnets import build, noisy_map, settle

# --- losses ----------------------------------------------------------------------------------------------------------


def slow_edge(values: np.ndarray, row: int, column: int, edge: str) -> float:
    height, width = values.shape
    total = 8 * values[row, column]
    for i in (-1, 0, 1):
        for j in (-1, 0, 1):
            if i or j:
                total -= values[min(max(row + i, 0), height - 1), min(max(column + j, 0), width - 1)]
    strength = math.tanh(total)
    return min(max(abs(strength) if edge == "abs" else strength, 1e-6), 1 - 1e-6)


@pytest.mark.parametrize("edge", ["abs", "relu"])
def test_losses_written_out(edge):
    logits = 2 * torch.randn(2, 1, 6, 9, dtype=torch.float64)
    target = torch.randint(0, 2, (2, 6, 9))
    target[0, 1, 7:] = 255
    focal, boundary = [], []
    for c, y in zip(logits[:, 0].sigmoid().numpy(), target.numpy(), strict=True):
        mask = (y == 1).astype(float)
        for row in range(6):
            for column in range(9):
                if y[row, column] != 255:
                    share = c[row, column] if y[row, column] else 1 - c[row, column]
                    focal.append(-((1 - share) ** 2) * math.log(share))
                if 255 not in y[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]:
                    found, wanted = slow_edge(c, row, column, edge), slow_edge(mask, row, column, edge)
                    boundary.append(-wanted * math.log(found) - (1 - wanted) * math.log(1 - found))
    assert focal_loss(logits, target).item() == pytest.approx(np.mean(focal))
    assert boundary_loss(logits, target, edge).item() == pytest.approx(np.mean(boundary))


def test_a_flat_map_has_no_edges_not_even_at_the_frame():
    for value in (0.0, 0.3, 1.0):
        assert (edges(torch.full((1, 1, 5, 7), value)) == 1e-6).all()


@pytest.mark.parametrize("value", [-1e4, -20.0, 0.0, 20.0, 1e4])
def test_losses_of_saturated_predictions_have_finite_gradients(value):
    logits = torch.full((1, 1, 8, 8), value)
    logits[..., 4] = -value
    logits.requires_grad_()
    target = (torch.arange(64).view(1, 8, 8) % 3 == 0).long()
    (focal_loss(logits, target) + boundary_loss(logits, target)).backward()
    assert logits.grad.isfinite().all()


def slow_target(probability: np.ndarray, truth: np.ndarray, patch: int) -> np.ndarray:
    cut = truth.copy()
    for top in range(0, len(truth), patch):
        for left in range(0, truth.shape[1], patch):
            p = probability[top : top + patch, left : left + patch]
            y = truth[top : top + patch, left : left + patch]
            best, taken = -1.0, None
            for step in range(1, 21):
                mask = (p > np.float32(step / 20)) & (y != 255)
                score = ((mask & (y == 1)).sum() + 1) / ((mask | (y == 1)).sum() + 1)
                if score > best:
                    best, taken = score, mask
            cut[top : top + patch, left : left + patch] = np.where(y == 255, 255, taken)
    return cut


@pytest.mark.parametrize("classes", [2, 3])
def test_the_terms_compare_with_the_thresholded_map_and_the_truth(classes):
    """8-bit maps: 0.2, 0.4, ... stand exactly on thresholds, and must not move on their way through the output."""
    network = build(classes).train()
    probabilities, target = noisy_map(classes=classes, batch=2)
    probabilities = (probabilities * 255).round() / 255
    output = network(probabilities)
    terms = network.loss(output, target)
    if classes == 2:
        maps, truth = probabilities[:, 1], target
    else:
        maps = probabilities.flatten(0, 1)
        truth = torch.stack([(target == c).long().masked_fill(target == 255, 255) for c in range(3)], 1).flatten(0, 1)
    wanted = [slow_target(p, y, 16) for p, y in zip(maps.numpy(), truth.numpy(), strict=True)]
    cut = torch.from_numpy(np.stack(wanted))
    assert (cut != truth).any()
    for branch in ("global", "local"):
        logits = output.aux_logits[branch].flatten(0, 1)[:, None]
        labelled = truth != 255
        entropy = functional.binary_cross_entropy_with_logits(logits[:, 0][labelled], truth[labelled].float())
        expected = {
            "focal": 0.7 * 0.7 * focal_loss(logits, cut),
            "boundary": 0.7 * 0.3 * boundary_loss(logits, cut),
            "regular": 0.3 * entropy,
        }
        for name, value in expected.items():
            torch.testing.assert_close(terms[f"{branch}_{name}"], value / 2)


@pytest.mark.parametrize("levels", [255, 65535])
@pytest.mark.parametrize("classes", [2, 3])
def test_quantised_maps_come_back_on_the_same_side_of_every_threshold(levels, classes):
    values = torch.arange(levels + 1).float() / levels
    probabilities = torch.stack([1 - values, values] + [torch.zeros_like(values)] * (classes - 2))[None, :, None]
    network = build(classes)
    small = values.clamp(1e-6, 1 - 1e-6)
    initial = small.logit()[None, None, None] if classes == 2 else probabilities.clamp(min=1e-6).log()
    output = Output(initial, aux_logits={"initial": initial})
    maps, _ = network._maps_and_truth(output, torch.zeros(1, 1, levels + 1, dtype=torch.long))
    thresholds = torch.tensor([np.float32(k / 20) for k in range(1, 21)])[:, None]
    assert torch.equal(maps[0 if classes == 2 else 1, 0] > thresholds, values > thresholds)


def test_a_factor_of_zero_switches_a_term_off():
    network = build(region_weight=0.0, regular_weight=1.0).train()
    probabilities, target = noisy_map()
    assert set(network.loss(network(probabilities), target)) == {"global_regular", "local_regular"}


# --- several classes -------------------------------------------------------------------------------------------------


def test_where_the_base_is_sure_it_stays_bit_for_bit():
    network = settle(build(4))
    logits = 6 * torch.randn(2, 4, 37, 51, generator=torch.Generator().manual_seed(3))
    probabilities = logits.softmax(1)
    sure = probabilities.amax(1) >= 0.95
    with torch.no_grad():
        for decoder in (network.global_decoder, network.local_decoder):
            decoder.head.bias.add_(5)  # every pixel is wanted by a class: none falls back to the base
        output = network(probabilities)
        network.keep_above = None
        free = network(probabilities)
    assert 0.1 < sure.float().mean() < 0.9
    initial = output.aux_logits["initial"]
    for result in (output.logits, output.probabilities()):
        base = initial if result is output.logits else Output(initial).probabilities()
        assert torch.equal(result.permute(0, 2, 3, 1)[sure], base.permute(0, 2, 3, 1)[sure])
    assert torch.equal(output.labels()[sure], probabilities.argmax(1)[sure])
    assert (free.logits != output.logits).any()


def test_classes_share_one_network_and_absent_ones_are_not_run(monkeypatch):
    network = settle(build(4, keep_above=None))
    probabilities = noisy_map(classes=3, batch=2)[0]
    probabilities = torch.cat([probabilities, torch.zeros_like(probabilities[:, :1])], 1)
    probabilities[1, 1] = probabilities[1, 1].clamp(max=0.049)
    counts = []
    branches = network.branches
    monkeypatch.setattr(network, "branches", lambda maps: (counts.append(len(maps)), branches(maps))[1])
    with torch.no_grad():
        output = network(probabilities)
        expected = torch.stack([branches(probabilities[:, c : c + 1])[0][:, 0] for c in range(4)], 1)
    assert counts == [5]
    run = torch.tensor([[True, True, True, False], [True, False, True, False]])
    torch.testing.assert_close(output.aux_logits["global"][run], expected[run], rtol=1e-4, atol=1e-5)
    kept = probabilities.clamp(1e-6, 1 - 1e-6).logit()
    assert torch.equal(output.aux_logits["global"][~run], kept[~run])
    nobody = (torch.where(run[..., None, None], output.logits, kept) < 0).all(1)
    assert torch.equal(output.labels()[nobody], probabilities.argmax(1)[nobody])


def test_a_batch_where_every_class_is_absent_trains_without_effect():
    network = build(3).train()
    probabilities, target = torch.full((1, 3, 20, 20), 0.01), torch.zeros(1, 20, 20, dtype=torch.long)
    output = network(probabilities)
    assert torch.equal(output.logits, output.aux_logits["initial"])
    terms = network.loss(output, target)
    sum(terms.values()).backward()
    assert all(value == 0 for value in terms.values())
    assert all(p.grad is not None and not p.grad.any() for p in network.parameters())

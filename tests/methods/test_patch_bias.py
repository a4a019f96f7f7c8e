"""PatchBias: sizes, what a bias does, its targets against slow twins, refusals.  And see `test_refiners`."""

import math
import os

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from segfocus.errors import SegfocusError
from segfocus.methods.base_logits import base_logits, base_probabilities
from segfocus.methods.patch_bias import PatchBias
from segfocus.ops.patch_classes import apply_class_bias, best_class_bias
from segfocus.output import Output
from tests.methods.refiner_contract import noisy_map, total


def build(classes: int = 2, **options) -> PatchBias:
    torch.manual_seed(0)
    return PatchBias(classes, **{"width": 4, "patch": 16, **options})


def awake(network: PatchBias) -> PatchBias:
    """A network that does something, without training."""
    torch.nn.init.normal_(network.head.weight)
    with torch.no_grad():
        for seed in range(8):  # running statistics
            network.train()(noisy_map(classes=network.num_classes, batch=2, seed=seed)[0])
    return network.eval()


def test_parameters_and_multiplications():
    """At 256 x 256; ThreshNet of width 8 has 2.8 GMAC there."""
    with torch.device("meta"):
        network = PatchBias().eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 2, 256, 256))
    assert sum(p.numel() for p in network.parameters()) == 250_497
    assert counter.get_total_flops() / 2e9 == pytest.approx(0.464, abs=0.001)


def slow_bilinear(cells: np.ndarray, patch: int, row: int, column: int) -> float:
    """Between the patches' centres; beyond the outermost ones as there."""
    y, x = ((place + 0.5) / patch - 0.5 for place in (row, column))
    y, x = (min(max(v, 0.0), n - 1.0) for v, n in zip((y, x), cells.shape, strict=True))
    top, left = int(y), int(x)
    bottom, right = min(top + 1, cells.shape[0] - 1), min(left + 1, cells.shape[1] - 1)
    y, x = y - top, x - left
    above = (1 - x) * cells[top, left] + x * cells[top, right]
    below = (1 - x) * cells[bottom, left] + x * cells[bottom, right]
    return (1 - y) * above + y * below


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("spread", ["bilinear", "constant"])
def test_what_is_added_written_out(spread, classes):
    network = awake(build(classes, spread=spread))
    probabilities = noisy_map(37, 51, classes, 2)[0]
    with torch.no_grad():
        output = network(probabilities)
    cells = output.aux_logits["bias"].numpy()
    assert cells.shape == (2, 1 if classes == 2 else 3, 3, 4)
    assert cells.std() > 0.05
    expected = output.aux_logits["initial"].numpy().copy()
    for picture, channel, row, column in np.ndindex(expected.shape):
        of_map = cells[picture, channel]
        if spread == "constant":
            expected[picture, channel, row, column] += of_map[row // 16, column // 16]
        else:
            expected[picture, channel, row, column] += slow_bilinear(of_map, 16, row, column)
    np.testing.assert_allclose(output.logits.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_a_constant_bias_is_a_threshold_of_the_patch():
    network = build(spread="constant").eval()
    torch.nn.init.constant_(network.head.bias, -math.log(0.7 / 0.3))
    probabilities = noisy_map()[0]
    with torch.no_grad():
        labels = network(probabilities).labels()
    assert torch.equal(labels == 1, probabilities[:, 1] > 0.7)


def test_classes_share_one_network_and_are_seen_each_alone():
    network = awake(build(4))
    probabilities = noisy_map(classes=4)[0]
    order = [2, 0, 3, 1]
    with torch.no_grad():
        bias = network(probabilities).aux_logits["bias"]
        moved = network(probabilities[:, order]).aux_logits["bias"]
    torch.testing.assert_close(moved, bias[:, order])
    assert bias.std(1).min() > 0.01


def test_patches_at_the_frame_go_on_mirrored():
    network = awake(build())
    maps = torch.rand(1, 1, 21, 30)
    wide = torch.cat([maps, maps.flip(2)], 2)[:, :, :32]
    wide = torch.cat([wide, wide.flip(3)], 3)[..., :32]
    with torch.no_grad():
        assert torch.equal(network.biases(maps), network.biases(wide))


# --- targets ------------------------------------------------------------------------------------------------------


def slow_thresholds(probability: np.ndarray, truth: np.ndarray, patch: int) -> np.ndarray:
    """Of each patch the threshold of best foreground IoU, of equal ones the nearest to 0.5, of two such the lower."""
    rows, columns = (math.ceil(side / patch) for side in truth.shape)
    best = np.zeros((rows, columns))
    for row, column in np.ndindex(rows, columns):
        inside = np.s_[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        p, y = probability[inside], truth[inside]

        def merit(step: int, p=p, y=y) -> tuple[float, float, float]:
            mask = (p > np.float32(step / 20)) & (y != 255)
            score = ((mask & (y == 1)).sum() + 1) / ((mask | (y == 1)).sum() + 1)
            return score, -abs(step - 10), -step

        best[row, column] = max(range(1, 21), key=merit) / 20
    return best


def test_targets_of_two_classes_are_those_of_a_loop_over_patches():
    network = build(regular_weight=0.2, region_weight=0.3, threshold_weight=0.7).train()
    torch.nn.init.normal_(network.head.weight)
    probabilities, _, target = noisy_map(batch=2)
    probabilities = (probabilities * 255).round() / 255  # 0.2, 0.4, ... stand exactly on thresholds
    target[0, :16, :16] = 255
    target[1, 16:32, 16:32] = 0
    probabilities[1, 1, 20, 20] = 0.98  # only the threshold 1 empties this patch
    output = network(probabilities)
    terms = network.loss(output, target)
    cut, distances = target.clone(), []
    for index, (p, y) in enumerate(zip(probabilities[:, 1].numpy(), target.numpy(), strict=True)):
        thresholds = slow_thresholds(p, y, 16)
        wide = np.kron(thresholds, np.ones((16, 16)))[:41, :53].astype(np.float32)
        cut[index] = torch.from_numpy(np.where(y == 255, 255, p > wide))
        for row, column in np.ndindex(thresholds.shape):
            if (y[row * 16 : (row + 1) * 16, column * 16 : (column + 1) * 16] != 255).any():
                t = min(thresholds[row, column], 0.99)
                step = abs(output.aux_logits["bias"][index, 0, row, column].item() + math.log(t / (1 - t)))
                distances.append(step**2 / 2 if step < 1 else step - 0.5)
        if index == 1:
            assert thresholds[1, 1] == 1
    assert len(distances) == 2 * 3 * 4 - 1
    labelled = target != 255
    assert (cut != target).any()

    def entropy(truth: Tensor) -> float:
        return functional.binary_cross_entropy_with_logits(
            output.logits[:, 0][labelled], truth[labelled].float()
        ).item()

    assert terms["regular"].item() == pytest.approx(0.2 * entropy(target))
    assert terms["region"].item() == pytest.approx(0.3 * entropy(cut))
    assert terms["threshold"].item() == pytest.approx(0.7 * np.mean(distances), rel=1e-5)


def test_targets_of_three_classes_are_the_best_biases_of_each_patch():
    network = build(3, regular_weight=0, region_weight=0.3, threshold_weight=0.7).train()
    torch.nn.init.normal_(network.head.weight)
    probabilities, _, target = noisy_map(classes=3)
    output = network(probabilities)
    terms = network.loss(output, target)
    assert set(terms) == {"region", "threshold"}
    maps, truth = probabilities[0].numpy(), target[0].numpy().astype(np.uint8)
    bias = best_class_bias(maps, truth, 16)
    assert np.abs(bias).max() > 0.1
    cut = np.where(truth == 255, 255, apply_class_bias(maps, bias, 16))
    expected = functional.cross_entropy(output.logits, torch.from_numpy(cut).long()[None], ignore_index=255)
    assert terms["region"].item() == pytest.approx(0.3 * expected.item())
    found = output.aux_logits["bias"][0].detach().numpy()
    step = np.abs((found - found.mean(0)) - (bias - bias.mean(0)))
    huber = np.where(step < 1, step**2 / 2, step - 0.5)
    assert terms["threshold"].item() == pytest.approx(0.7 * huber.mean(), rel=1e-5)


def test_the_regression_alone_finds_the_thresholds():
    network = build(width=8, regular_weight=0, threshold_weight=1.0).train()
    probabilities, _, target = noisy_map(48, 48)
    assert set(network.loss(network(probabilities), target)) == {"threshold"}
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    values = []
    for _ in range(25):
        optimizer.zero_grad()
        values.append(total(network.loss(network(probabilities), target)))
        values[-1].backward()
        optimizer.step()
    assert values[-1] < values[0] / 4


@pytest.mark.parametrize("levels", [255, 65535])
@pytest.mark.parametrize("classes", [2, 3])
def test_quantised_maps_come_back_on_the_same_side_of_every_threshold(levels, classes):
    values = torch.arange(levels + 1).float() / levels
    probabilities = torch.stack([1 - values, values] + [torch.zeros_like(values)] * (classes - 2))[None, :, None]
    back = base_probabilities(base_logits(probabilities, classes))[0, 0 if classes == 2 else 1, 0]
    thresholds = torch.tensor([np.float32(k / 20) for k in range(1, 21)])[:, None]
    assert torch.equal(back > thresholds, values > thresholds)
    torch.testing.assert_close(back, values, rtol=0, atol=3e-6)
    labels = Output(base_logits(probabilities[:, :2], 2)).labels()
    assert torch.equal(labels[0, 0] == 1, values > 0.5)


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 20}, "patch: expected a multiple of 8, got 20; try 24"),
        ({"patch": 0}, "patch: expected a whole number from 1, got 0; try 64"),
        ({"width": 0}, "width: expected a whole number from 1, got 0; try 32"),
        ({"regular_weight": -1}, "regular_weight: expected a number from 0, got -1"),
        ({"regular_weight": 0}, "regular_weight, region_weight, threshold_weight: expected one above 0"),
        ({"classes": 1}, "expected at least two classes"),
        ({"spread": "cubic"}, "spread: expected one of bilinear, constant, got 'cubic'"),
        ({"score": "right"}, "score: expected one of foreground, mean, pooled, got 'right'"),
    ],
)
def test_refusals(options, message):
    if os.environ.get("SEGFOCUS_TYPE_HOOK", "1") != "0" and {"spread", "score"} & set(options):
        pytest.skip("the type checks of the suite refuse it first")
    with pytest.raises(ValueError, match=message):
        build(**{"classes": 2, **options})


def test_the_patch_is_the_grid_of_windows():
    assert PatchBias(patch=24, width=4).grid == 24
    with pytest.raises(SegfocusError, match=r"expected 2 channels.*got 1; try cat\(\[1 - p, p\], 1\)"):
        build()(torch.rand(1, 1, 20, 20))

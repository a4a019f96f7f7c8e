"""OffsetRefiner and FocusRefiner: sizes, what they may change, losses against slow twins, refusals.

(And `tests.methods.test_refiners`.)
"""

import math
import re

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from segfocus.errors import SegfocusError
from segfocus.losses import cross_entropy
from segfocus.methods.base_logits import base_logits
from segfocus.methods.picture_refiners import FocusRefiner, MapAndPicture, OffsetRefiner, wrong_share
from segfocus.ops.selection import selected_count
from segfocus.output import logit_channels
from tests.methods.refiner_contract import biased_map, noisy_map, total


def offset_refiner(classes: int = 2, **options) -> OffsetRefiner:
    torch.manual_seed(0)
    return OffsetRefiner(classes, **{"width": 8, "fine": 4, **options})


def focus_refiner(classes: int = 2, **options) -> FocusRefiner:
    torch.manual_seed(0)
    return FocusRefiner(classes, **{"width": 8, "fine": 4, **options})


def awake(network: nn.Module) -> nn.Module:
    """A network that does something, without training."""
    layer = network.network.head[-1] if isinstance(network, OffsetRefiner) else network.correct
    nn.init.normal_(layer.weight)
    with torch.no_grad():
        for seed in range(8):  # running statistics
            network.train()(*noisy_map(classes=network.num_classes, batch=2, seed=seed)[:2])
    return network.eval()


@pytest.mark.parametrize(
    ("build", "parameters", "gmac"), [(OffsetRefiner, 146_931, 0.412), (FocusRefiner, 227_502, 0.878)]
)
def test_parameters_and_multiplications(build, parameters, gmac):
    """At 256 x 256; ThreshNet of width 8 has 2.8 GMAC there."""
    with torch.device("meta"):
        network = build().eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 2, 256, 256), torch.empty(1, 3, 256, 256))
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=0.001)


@pytest.mark.parametrize("classes", [2, 3])
def test_what_the_trunk_sees_goes_on_as_it_ends(classes):
    trunk = MapAndPicture(classes, fine=4, width=8).eval()
    logits, picture = torch.randn(2, logit_channels(classes), 17, 30), torch.rand(2, 3, 17, 30)
    rows, columns = torch.arange(32).clamp(max=16), torch.arange(32).clamp(max=29)
    with torch.no_grad():
        ragged = trunk.features(logits, picture)
        whole = trunk.features(logits[:, :, rows][..., columns], picture[:, :, rows][..., columns])
        maps = trunk.maps(torch.cat([logits, picture], 1))
    for one, other in zip(ragged, whole, strict=True):
        torch.testing.assert_close(one, other)
    assert torch.equal(maps.logits, logits)
    torch.testing.assert_close(maps.features, ragged[1])
    assert [tuple(part.shape) for part in ragged] == [(2, 4, 32, 32), (2, 8, 8, 8)]


# --- OffsetRefiner ------------------------------------------------------------------------------------------------


def slow_sample(plane: Tensor, x: float, y: float) -> float:
    height, width = plane.shape
    x, y = min(max(x, 0.0), width - 1.0), min(max(y, 0.0), height - 1.0)
    left, top = math.floor(x), math.floor(y)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    x, y = x - left, y - top
    above = (1 - x) * plane[top, left] + x * plane[top, right]
    below = (1 - x) * plane[bottom, left] + x * plane[bottom, right]
    return float((1 - y) * above + y * below)


@pytest.mark.parametrize("classes", [2, 3])
def test_each_pixel_takes_what_the_map_says_where_its_offset_ends(classes):
    network = awake(offset_refiner(classes, max_offset=5.0))
    probabilities, picture, _ = noisy_map(11, 18, classes)
    with torch.no_grad():
        output = network(probabilities, picture)
    initial = base_logits(probabilities, classes)
    offsets, trust = output.offsets[0], output.confidence[0, 0]
    assert output.offsets.shape == (1, 2, 11, 18)
    assert 1 < offsets.abs().max() <= 5
    assert trust.std() > 0.002
    expected = torch.zeros_like(output.logits)
    for row in range(11):
        for column in range(18):
            x, y = column + offsets[0, row, column].item(), row + offsets[1, row, column].item()
            assert -1e-5 <= x <= 17 + 1e-5
            assert -1e-5 <= y <= 10 + 1e-5
            for channel in range(initial.shape[1]):
                seed, share = slow_sample(initial[0, channel], x, y), trust[row, column]
                own = initial[0, channel, row, column]
                expected[0, channel, row, column] = (1 - share) * own + share * seed
    torch.testing.assert_close(output.logits, expected, rtol=1e-4, atol=1e-4)


def test_terms_of_the_offsets_leave_out_the_maps_own():
    network = awake(offset_refiner(fused_weight=0.7, seed_weight=0.2)).train()
    probabilities, picture, target = noisy_map()
    output = network(probabilities, picture)
    terms = network.loss(output, target)
    assert set(terms) == {"fused", "seed", "confidence"}
    torch.testing.assert_close(terms["fused"], 0.7 * cross_entropy(output.logits, target))
    torch.testing.assert_close(terms["seed"], 0.2 * cross_entropy(output.aux_logits["seed"], target))
    alone = offset_refiner(seed_weight=0.0, confidence_weight=0.0).train()
    assert set(alone.loss(alone(probabilities, picture), target)) == {"fused"}


# --- FocusRefiner -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("ratio", [0.25, 0.6, 1.0])
def test_only_the_selected_blocks_change_the_others_are_bit_for_bit_the_map(ratio, classes):
    network = awake(focus_refiner(classes, ratio=ratio))
    probabilities, picture, _ = noisy_map(50, 83, classes, 2)
    with torch.no_grad():
        output = network(probabilities, picture)
    assert output.selected.shape == output.importance.shape == (2, 1, 13, 21)
    blocks = output.selected[:, :, ::4, ::4]
    assert torch.equal(blocks.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :13, :21], output.selected)
    assert blocks.flatten(1).sum(1).tolist() == [selected_count(ratio, 4 * 6)] * 2
    pixels = output.selected.repeat_interleave(4, 2).repeat_interleave(4, 3)[..., :50, :83].expand_as(output.logits)
    same = output.logits == output.aux_logits["initial"]
    assert same[~pixels].all()
    assert (~same[pixels]).float().mean() > 0.5


def test_blocks_are_those_of_highest_mean_importance():
    network = focus_refiner(ratio=0.5, block=8)
    importance = torch.rand(2, 1, 5, 8)
    selected = network.select(importance)
    for picture, found in zip(importance[:, 0], selected[:, 0], strict=True):
        means = {
            (r, c): picture[2 * r : 2 * r + 2, 2 * c : 2 * c + 2].mean().item() for r in range(3) for c in range(4)
        }
        best = sorted(means, key=means.__getitem__, reverse=True)[:6]
        expected = torch.zeros(5, 8, dtype=torch.bool)
        for r, c in best:
            expected[2 * r : 2 * r + 2, 2 * c : 2 * c + 2] = True
        assert torch.equal(found, expected)


@pytest.mark.parametrize("classes", [2, 3])
def test_the_selectors_target_is_the_share_of_wrong_pixels(classes):
    probabilities, _, target = noisy_map(10, 14, classes, 2)
    target[0, 4:8, 4:8] = 255
    logits = base_logits(probabilities, classes)
    share, labelled = wrong_share(logits, target, 4)
    assert share.shape == labelled.shape == (2, 1, 3, 4)
    found = probabilities.argmax(1)
    for picture in range(2):
        for row in range(3):
            for column in range(4):
                inside = picture, slice(4 * row, 4 * row + 4), slice(4 * column, 4 * column + 4)
                known = target[inside] != 255
                wrong = (found[inside] != target[inside]) & known
                assert labelled[picture, 0, row, column] == known.any()
                expected = (wrong.sum() / known.sum().clamp(min=1)).item()
                assert share[picture, 0, row, column].item() == pytest.approx(expected)
    assert 0 < share.mean() < 1
    network = focus_refiner(classes, dice_weight=0.0, selector_weight=0.3).train()
    output = network(probabilities, torch.rand(2, 3, 10, 14))
    terms = network.loss(output, target)
    assert set(terms) == {"cross_entropy", "selector"}
    entropy = functional.binary_cross_entropy(output.importance[labelled], share[labelled])
    torch.testing.assert_close(terms["selector"], 0.3 * entropy)


def test_the_selector_learns_from_the_prediction_too():
    network = awake(focus_refiner(selector_weight=0.0)).train()
    probabilities, picture, target = noisy_map()
    total(network.loss(network(probabilities, picture), target)).backward()
    assert network.selector.score.weight.grad.abs().max() > 0


def test_training_chooses_the_blocks_where_the_map_is_wrong():
    network = focus_refiner(width=16, ratio=0.25, block=8).train()
    probabilities, picture, target = biased_map()
    target[:, :, 32:] = probabilities[:, :, :, 32:].argmax(1)  # there the map is right
    target[:, 56:] = 255
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(30):
        optimizer.zero_grad()
        output = network(probabilities, picture)
        total(network.loss(output, target)).backward()
        optimizer.step()
    wrong = (probabilities.argmax(1) != target) & (target != 255)
    pixels = output.selected.repeat_interleave(4, 2).repeat_interleave(4, 3)[:, 0]
    assert wrong.float().mean() > 0.05
    assert (wrong & pixels).sum() > 0.7 * wrong.sum()


# --- refusals -----------------------------------------------------------------------------------------------------


def test_windows_keep_cells_and_blocks_in_place():
    assert (offset_refiner().grid, focus_refiner().grid, focus_refiner(block=24).grid) == (16, 16, 48)


@pytest.mark.parametrize("build", [offset_refiner, focus_refiner])
@pytest.mark.parametrize("shape", [(3, 41, 52), (1, 41, 53)])
def test_a_picture_of_another_size_is_refused(build, shape):
    """At `inputs`: the type checks of the suite would refuse it before `forward` does."""
    probabilities = noisy_map()[0]
    message = f"image: expected 3 x 41 x 53 as the maps, got {' x '.join(map(str, shape))}; try the pictures"
    with pytest.raises(SegfocusError, match=re.escape(message)):
        build().inputs(probabilities, torch.rand(1, *shape))


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (offset_refiner, {"width": 0}, "width: expected a whole number from 1, got 0; try 48"),
        (offset_refiner, {"max_offset": 0}, "max_offset: expected positive pixels"),
        (offset_refiner, {"seed_weight": -1}, "seed_weight: expected a factor from 0, got -1"),
        (offset_refiner, {"classes": 1}, "expected at least two classes"),
        (focus_refiner, {"fine": 0}, "fine: expected a whole number from 1, got 0; try 16"),
        (focus_refiner, {"ratio": 0}, "ratio: expected a share of the blocks above 0, got 0"),
        (focus_refiner, {"block": 10}, "block: expected a multiple of 4, got 10; try 12"),
        (focus_refiner, {"branches": ((2, 1),)}, "branches: expected odd kernels, got 2"),
        (focus_refiner, {"dice_weight": -1}, "dice_weight: expected a number from 0, got -1"),
        (focus_refiner, {"classes": 1}, "expected at least two classes"),
    ],
)
def test_refusals(build, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build(**options)

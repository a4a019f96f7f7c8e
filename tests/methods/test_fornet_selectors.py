"""FoR-Net's selectors and their training targets against loops over pixels; how much is refined, changed later."""

import copy
import math

import pytest
import torch
from scipy.stats import entropy

from segfocus.backbone import LiteBackbone
from segfocus.errors import SegfocusError
from segfocus.methods.fornet import FoRNet
from segfocus.methods.fornet_selectors import (
    SELECTORS,
    EntropySelector,
    ErrorSelector,
    Evidence,
    GradientSelector,
    LearnedSelector,
    LossSelector,
    RandomSelector,
    TruthSelector,
    true_probability,
)
from segfocus.ops.boundaries import soft_boundary_target
from segfocus.ops.selection import selected_count
from tests.contract import scene
from tests.methods.fornets import build, pictures

USABLE = [name for name in SELECTORS if name != "truth"]
LEARNED = ["boundary", "error", "loss"]


def evidence(height=45, width=70, outputs=4, grid=(6, 9), batch=2, **options) -> Evidence:
    """On a grid that may stand over the picture, like a padded picture's."""
    generator = torch.Generator().manual_seed(4)
    return Evidence(
        torch.rand(batch, options.pop("colours", 3), height, width, generator=generator),
        torch.randn(batch, 8, *grid, generator=generator),
        3 * torch.randn(batch, outputs, *grid, generator=generator),
        scene(height, width, batch=batch)[1],
    )


# --- importance ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SELECTORS))
@pytest.mark.parametrize(("size", "grid"), [((1, 1), (2, 2)), ((45, 70), (6, 9)), ((8, 200), (4, 28))])
def test_importance_is_a_share_on_the_grid(name, size, grid):
    kind = SELECTORS[name]
    selector = kind(8, 4) if issubclass(kind, LearnedSelector) else kind()
    for outputs in (1, 4):
        found = selector(evidence(*size, outputs=outputs, grid=grid))
        assert found.shape == (2, 1, *grid)
        assert 0 <= found.min() <= found.max() <= 1


@pytest.mark.parametrize("name", USABLE)
@pytest.mark.parametrize("size", [(1, 1), (7, 300), (97, 161)])
def test_a_network_with_any_selector_gives_its_fields(name, size):
    network = build(selector=name)
    with torch.no_grad():
        output = network(pictures(*size))
    grid = (math.ceil(size[0] / 8), math.ceil(size[1] / 8))
    assert output.logits.shape == (1, 4, *size)
    assert output.importance.shape == output.selected.shape == (1, 1, *grid)
    assert output.importance.dtype == torch.float32
    assert (output.boundary_logits is not None) == (name == "boundary")
    assert ("selector" in output.aux_logits) == (name in ("error", "loss"))
    logits = output.boundary_logits if name == "boundary" else output.aux_logits.get("selector")
    if logits is not None:
        assert torch.equal(output.importance, logits.sigmoid())


@pytest.mark.parametrize("outputs", [1, 2, 4, 11])
def test_entropy_is_scipys_as_a_share_of_the_largest(outputs):
    given = evidence(outputs=outputs)
    logits = given.base_logits.double()
    logits = torch.cat([torch.zeros_like(logits), logits], 1) if outputs == 1 else logits
    expected = entropy(logits.softmax(1).numpy(), axis=1, base=logits.shape[1])
    torch.testing.assert_close(EntropySelector()(given)[:, 0].double(), torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_entropy_is_one_where_nothing_is_known_and_zero_where_all_is():
    logits = torch.zeros(1, 4, 1, 2)
    logits[0, 2, 0, 1] = 200
    given = Evidence(torch.rand(1, 3, 8, 16), torch.rand(1, 8, 1, 2), logits)
    torch.testing.assert_close(EntropySelector()(given).flatten(), torch.tensor([1.0, 0.0]))


@pytest.mark.parametrize("colours", [1, 3, 5])
def test_gradient_is_the_mean_step_to_the_right_and_down(colours):
    given = evidence(21, 35, grid=(4, 6), colours=colours)  # ragged cells, and a row and a column beyond the picture
    weights = torch.tensor([0.299, 0.587, 0.114]) if colours == 3 else torch.full((colours,), 1 / colours)
    gray = (given.image * weights[:, None, None]).sum(1)
    expected = torch.zeros(2, 4, 6)
    for image in range(2):
        for row in range(3):
            for column in range(5):
                steps = []
                for y in range(8 * row, min(8 * row + 8, 21)):
                    for x in range(8 * column, min(8 * column + 8, 35)):
                        right = abs(gray[image, y, x + 1] - gray[image, y, x]) if x < 34 else 0
                        below = abs(gray[image, y + 1, x] - gray[image, y, x]) if y < 20 else 0
                        steps.append(float(right + below))
                expected[image, row, column] = sum(steps) / len(steps)
        expected[image] /= expected[image].max()
    torch.testing.assert_close(GradientSelector()(given)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_gradient_of_one_colour_is_nothing_and_then_adaptive_refines_nothing():
    network, image = build(selector="gradient", adaptive=0.5), torch.full((1, 3, 40, 56), 0.7)
    network.execution = "sparse"
    with torch.no_grad():
        output = network(image)
        network.focus(0.0)
        without = network(image)
    assert not output.importance.any()
    assert not output.selected.any()
    torch.testing.assert_close(output.logits, without.logits, rtol=1e-5, atol=1e-5)


def test_truth_is_the_boundary_target_and_asks_for_labels():
    network = build()
    network.selector = TruthSelector()
    image, target = scene(97, 161, batch=2)
    with torch.no_grad():
        output = network(image, truth=target)
        with pytest.raises(ValueError, match="selector truth: expected labels, got none; try"):
            network(image)
    assert torch.equal(output.importance, soft_boundary_target(target, (13, 21), 8)[0])
    assert output.boundary_logits is None
    with pytest.raises(ValueError, match=r"selector: expected one of boundary, error.*got 'truth'"):
        build(selector="truth")


# --- targets ------------------------------------------------------------------------------------------------------


def slow_cells(values, target):
    """Mean of a pixel's values over the labelled pixels of each cell, and whether there are any."""
    batch, height, width = target.shape
    rows, columns = math.ceil(height / 8), math.ceil(width / 8)
    means, labelled = torch.zeros(batch, 1, rows, columns), torch.zeros(batch, 1, rows, columns, dtype=torch.bool)
    for image in range(batch):
        for row in range(rows):
            for column in range(columns):
                cell = (image, slice(8 * row, 8 * row + 8), slice(8 * column, 8 * column + 8))
                inside = values[cell][target[cell] != 255]
                if len(inside):
                    means[image, 0, row, column] = inside.mean()
                    labelled[image, 0, row, column] = True
    return means, labelled


def probability_of_the_truth(logits, target):
    """Pixel by pixel; 1 where ignored."""
    found = torch.ones(target.shape)
    for image, row, column in (target != 255).nonzero().tolist():
        label, cell = int(target[image, row, column]), logits[image, :, row // 8, column // 8]
        if len(cell) == 1:
            found[image, row, column] = torch.sigmoid(cell[0] if label else -cell[0])
        else:
            found[image, row, column] = cell.softmax(0)[label]
    return found


@pytest.mark.parametrize("classes", [2, 4])
def test_error_and_loss_targets_equal_loops_over_pixels(classes):
    target = scene(19, 27, classes, batch=2)[1]
    target[0, :9, :11] = 255  # a cell without a label, and cells with some
    logits = 2 * torch.randn(2, 1 if classes == 2 else classes, 3, 4, generator=torch.Generator().manual_seed(5))
    true = probability_of_the_truth(logits, target)
    torch.testing.assert_close(true_probability(target, logits), true)
    wrong, labelled = slow_cells(1 - true, target)
    assert not labelled.all()
    found, known = ErrorSelector(8, 4).target(target, logits)
    torch.testing.assert_close(found, wrong)
    assert torch.equal(known, labelled)
    loss, _ = slow_cells(-true.log(), target)
    found, known = LossSelector(8, 4).target(target, logits)
    torch.testing.assert_close(found[labelled], 1 - (-loss[labelled]).exp())
    assert torch.equal(known, labelled)


def test_targets_stay_shares_however_wrong_the_prediction_and_have_no_gradient():
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    logits = torch.tensor([-300.0, 300, 0]).view(1, 3, 1, 1).requires_grad_()
    for kind in (ErrorSelector, LossSelector):
        found, _ = kind(8, 4).target(target, logits)
        assert found.item() == pytest.approx(1, abs=1e-5)
        assert not found.requires_grad


def test_the_boundary_target_is_the_released_one():
    target = scene(19, 27, batch=2)[1]
    found = SELECTORS["boundary"](8, 4).target(target, None)
    for one, other in zip(found, soft_boundary_target(target, (3, 4), 8), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", LEARNED)
def test_learned_selectors_learn(name):
    network = build(selector=name, gradient="none").train()
    image, target = scene(64, 96, batch=2)
    # the prediction without focus stands still: the target of two of them moves with it
    optimizer = torch.optim.Adam(network.selector.parameters(), 0.02)
    losses = []
    for _ in range(25):
        output = network(image)
        losses.append(network.loss(output, target)["selector"])
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    wanted, labelled = network.selector.target(target, output.aux_logits["base"])
    share = wanted[labelled].clamp(1e-7, 1 - 1e-7)
    assert share.std() > 0
    # what a soft target leaves even to who knows it
    least = 0.5 * -(share * share.log() + (1 - share) * (1 - share).log()).mean()
    assert least < losses[-1] + 1e-6
    assert losses[-1] - least < 0.7 * (losses[0] - least)


@pytest.mark.parametrize("name", ["entropy", "gradient", "random"])
def test_the_others_have_no_loss_and_no_weights(name):
    network = build(selector=name).train()
    image, target = scene(40, 48)
    assert set(network.loss(network(image), target)) == {"cross_entropy", "dice", "auxiliary"}
    assert not list(network.selector.parameters())


# --- after training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("replacement", [EntropySelector(), GradientSelector(), RandomSelector()], ids=str)
def test_a_replaced_selector_changes_what_is_selected_and_no_weight(replacement):
    network, image = build(region="cell"), pictures(97, 161)
    before = copy.deepcopy(network.state_dict())
    with torch.no_grad():
        first = network(image)
        network.selector = replacement
        second = network(image)
    assert first.selected.sum() == second.selected.sum() == selected_count(0.25, 273)
    assert not torch.equal(first.selected, second.selected)
    after = network.state_dict()
    assert set(before) - set(after) == {name for name in before if name.startswith("selector.")}
    assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_focus_changes_how_much_is_refined_and_no_weight():
    network, image = build(region="cell"), pictures(64, 64)
    before = copy.deepcopy(network.state_dict())

    def selected(*arguments, **options) -> int:
        network.focus(*arguments, **options)
        with torch.no_grad():
            return int(network(image).selected.sum())

    assert [selected(ratio) for ratio in (0, 0.001, 0.5, 1)] == [0, 1, 32, 64]
    assert selected([0.1, 0.5, 0.25, 0.0]) == 32  # the widest branch's
    assert network.ratios == [0.1, 0.5, 0.25, 0.0]
    assert selected(adaptive=1e-6) == 1
    assert network.ratios == [0.1, 0.5, 0.25, 0.0]
    assert 1 < selected(adaptive=0.5) <= 32  # the better half holds at least half of it
    assert selected(0.25, adaptive=1.0) == 64
    assert selected() == 16  # adaptive off
    after = network.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in after.items())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((1.5,), "ratio: expected a share of the regions in .0, 1., got 1.5; try 0.25"),
        ((-0.1,), "ratio: expected a share"),
        ((math.nan,), "ratio: expected a share"),
        (([0.1, 0.2, 0.3, 2.0],), "ratio: expected a share .* got 2.0"),
        (([0.1, 0.2],), "ratio: expected one value or one a branch .4., got 2"),
        (([],), "one a branch .4., got 0"),
        ((0.5, 1.1), "adaptive: expected a share of the importance in .0, 1., got 1.1"),
        ((0.5, -0.1), "adaptive: expected a share"),
        ((0.5, math.nan), "adaptive: expected a share"),
    ],
)
def test_a_focus_that_is_refused_changes_nothing(arguments, words):
    network = build()
    network.focus(0.75, adaptive=0.5)
    with pytest.raises(ValueError, match=words):
        network.focus(*arguments)
    assert (network.ratios, network.adaptive) == ([0.75] * 4, 0.5)


@pytest.mark.parametrize("name", ["entropy", "error", "loss"])
def test_selectors_that_look_at_the_prediction_need_it(name):
    with pytest.raises(ValueError, match=r"selector: expected the auxiliary head, which .* looks at, got none; try"):
        build(selector=name, auxiliary_weight=0.0)
    network = build(auxiliary_weight=0.0)
    kind = SELECTORS[name]
    network.selector = kind(8, 4) if issubclass(kind, LearnedSelector) else kind()
    with pytest.raises(ValueError, match=f"expected the auxiliary head, which {kind.__name__} looks at"):
        network(pictures(16, 16))


def test_unknown_selectors_are_refused():
    with pytest.raises(ValueError, match=r"selector: expected one of boundary, error, loss, .*, got 'edge'"):
        build(selector="edge")


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_importance_that_is_no_number_is_refused(value):
    network = build()
    network.selector.score.weight.data.fill_(value)
    with pytest.raises(SegfocusError, match="importance: expected finite numbers, got NaN or infinity; try"):
        network(pictures(16, 16))


def test_entropy_teaches_the_head_that_it_reads_nothing():
    network = build(selector="entropy").train()
    network(pictures(64, 64)).logits.square().mean().backward()
    assert network.auxiliary.weight.grad is None
    assert network.branches[1].spatial.weight.grad.abs().max() > 0


def test_a_backbone_without_coarse_maps_is_refused():
    backbone = LiteBackbone()
    backbone.strides = (4,)
    with pytest.raises(ValueError, match=r"backbone: expected a map of stride 8 or more, got \(4,\); try deeper maps"):
        FoRNet(backbone, 4)

"""FoR-Net: the contract on the lite and the released network, and what the paper and its released model fix."""

import copy
from itertools import pairwise

import pytest
import torch

from segfocus.backbone import LiteBackbone, build_backbone
from segfocus.losses import cross_entropy, soft_dice
from segfocus.methods.fornet import CELL, FoRNet
from segfocus.ops.selection import selected_count
from tests.contract import SegmenterContract, scene
from tests.methods.fornets import build, multiply_adds, parts


def build_lite(classes: int) -> FoRNet:
    network = FoRNet(LiteBackbone(), classes)
    network.execution = "sparse"  # "auto" is timed: two networks alike might take different ways, and round differently
    return network


def build_released(classes: int) -> FoRNet:
    """The released choices on a backbone small enough for a test."""
    backbone = build_backbone("test_resnet", pretrained=False, output_stride=8)
    return FoRNet.released(backbone, classes, channels=32, selector_channels=16, decoder_channels=32)


class TestLite(SegmenterContract):
    builder = "tests.methods.test_fornet:build_lite"


class TestReleased(SegmenterContract):
    builder = "tests.methods.test_fornet:build_released"


def count(network) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def gmac(network, height, width) -> float:
    return multiply_adds(network, torch.empty(1, 3, height, width, device="meta")) / 1e9


def test_default_network_is_light():
    with torch.device("meta"):
        network = FoRNet(LiteBackbone(), 11).eval()
    assert count(network) <= 1_500_000
    assert gmac(network, 360, 480) <= 1.3


def test_released_network_has_the_counted_size():
    """50.17 M parameters, 42.50 of them in the backbone, and 224.6 GMAC at 512x512 at 19 classes (fact sheet B2)."""
    with torch.device("meta"):
        network = FoRNet.released(build_backbone("resnet101", pretrained=False, output_stride=8), 19).eval()
    millions = {
        name: count(part) / 1e6
        for name, part in network.named_children()
        if name in ("backbone", "selector", "context", "branches", "decoder")
    }
    assert count(network) / 1e6 == pytest.approx(50.17, abs=0.01)
    assert millions["backbone"] == pytest.approx(42.50, abs=0.01)
    assert millions["selector"] == pytest.approx(0.30, abs=0.01)
    assert millions["context"] == pytest.approx(0.03, abs=0.01)
    assert millions["branches"] == pytest.approx(5.51, abs=0.01)
    assert millions["decoder"] == pytest.approx(1.31, abs=0.01)
    assert gmac(network, 512, 512) == pytest.approx(224.6, rel=0.01)


NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
NAMES = {
    *(f"project.{index}.weight" for index in range(3)),
    *(f"project_norm.{name}" for name in NORM),
    "selector.spatial.0.weight",
    *(f"selector.spatial.1.{name}" for name in NORM),
    *(f"{layer}.{name}" for layer in ("selector.score", "auxiliary") for name in ("weight", "bias")),
    *(f"context.{layer}.{name}" for layer in ("squeeze", "excite") for name in ("weight", "bias")),
    *(f"branches.{index}.{name}" for index in range(4) for name in ("spatial.weight", "norm.weight", "norm.bias")),
}
"""what released checkpoints hold beside backbone and decoder: changing it would make them useless"""


@pytest.mark.parametrize("selector", ["boundary", "error", "loss"])
def test_names_of_the_weights_stay(selector):
    names = {name for name in build(selector=selector).state_dict() if not name.startswith(("backbone.", "decoder."))}
    assert names == NAMES


def test_weights_fit_another_block_share_and_learned_selector():
    network, other = (
        build(seed=0),
        build(seed=1, selector="error", block=8, ratio=(0.1, 0.2, 0.3, 0.4), gradient="gate"),
    )
    other.load_state_dict(network.state_dict())
    image = torch.rand(1, 3, 40, 56)
    with torch.no_grad():
        assert torch.equal(other(image).importance, network(image).importance)


@pytest.mark.parametrize("ratio", [0.1, 0.25, 0.5])
@pytest.mark.parametrize("region", ["block", "cell"])
def test_selects_exactly_the_top_k_regions_and_leaves_the_others_bit_identical(ratio, region):
    torch.manual_seed(0)
    network = FoRNet(LiteBackbone(), 4, ratio=ratio, region=region).eval()
    image, _ = scene(128, 192)
    features, _, selections = parts(network, image)
    with torch.no_grad():
        selected = network(image).selected
        refined = network.refine(features, selections, False)
    side = 4 if region == "block" else 1
    assert len(selections) == 4
    for selection in selections:
        assert torch.equal(selection.mask, selected)
        assert torch.equal(selection.weight, selected.float())
        assert selection.grid == (16 // side, 24 // side)
        places = selected[0, 0, ::side, ::side].flatten().nonzero().flatten()
        assert torch.equal(selection.chosen.sort().values, places)
    assert len(selections[0].chosen) == selected[:, :, ::side, ::side].sum() == selected_count(ratio, 384 // side**2)
    outside = ~selected.expand_as(features)
    assert torch.equal(refined[outside], features[outside])
    assert not torch.equal(refined[~outside], features[~outside])


def resized(logits, size):
    """From stride 4 to pixels."""
    return torch.nn.functional.interpolate(logits, size=size, mode="bilinear")


def test_ratio_zero_is_the_network_without_focus_and_one_is_dense():
    torch.manual_seed(0)
    network = FoRNet(LiteBackbone(), 4).eval()
    image, _ = scene(96, 128)
    with torch.no_grad():
        network.focus(0.0)
        off = network(image)
        features, fine, _ = parts(network, image)
        base = network.decoder.classify(network.decoder.joined(features, fine, (24, 32)))
        network.focus(1.0)
        dense = network(image)
        context = network.context(features)
        full = features + sum(branch(context) for branch in network.branches)
        joined = network.decoder.joined(full, fine, (24, 32))
        residual = network.decoder.refine_norm(network.decoder.refine(joined)).relu()
        residual = network.decoder.refine_mix(residual)
        expected = network.decoder.classify(joined + residual)
    assert not off.selected.any()
    torch.testing.assert_close(off.logits, resized(base, (96, 128)), rtol=1e-4, atol=1e-4)
    assert dense.selected.all()
    torch.testing.assert_close(dense.logits, resized(expected, (96, 128)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options"),
    [("test_convnext", {}), ("test_efficientnet", {}), ("test_vit", {"dynamic_img_size": True}), ("test_resnet", {})],
)
def test_any_timm_backbone_trains(name, options):
    network = FoRNet(build_backbone(name, pretrained=False, options=options), 4).train()
    image, target = scene(70, 90)
    output = network(image)
    assert output.logits.shape == (1, 4, 70, 90)
    assert output.importance.shape == output.selected.shape == (1, 1, 9, 12)  # cells that touch the picture
    assert output.boundary_logits.shape[-2:] == output.aux_logits["base"].shape[-2:] == (9, 12)
    assert output.selected[:, :, ::4, ::4].sum() == selected_count(0.25, 9)  # 3x3 blocks: padding does not count
    sum(network.loss(output, target).values()).backward()
    assert all(parameter.grad is not None for parameter in network.backbone.parameters() if parameter.requires_grad)


def test_without_focus_what_is_idle_does_not_train():
    network = FoRNet(LiteBackbone(), 4, ratio=0.0).train()
    image, target = scene(64, 64)
    sum(network.loss(network(image), target).values()).backward()
    for name, parameter in network.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name
    assert not any(parameter.requires_grad for parameter in network.branches.parameters())


def test_a_branch_of_ratio_zero_takes_no_part():
    """Its weights neither learn nor matter, in each way of computing, and cannot be switched on later."""
    image, target = scene(70, 90)
    for position in ("output", "input"):
        network = build(ratio=(0.25, 0.0, 0.5, 0.0), mask_position=position).train()
        sum(network.loss(network(image), target).values()).backward()
        for name, parameter in network.named_parameters():
            assert (parameter.grad is not None) == parameter.requires_grad, name
            assert parameter.requires_grad == (not name.startswith(("branches.1", "branches.3"))), name
        other = copy.deepcopy(network.eval())
        for index in (1, 3):
            other.branches[index].spatial.weight.data.normal_()
        for execution in ("dense", "sparse") if position == "output" else ("dense",):
            network.execution = other.execution = execution
            with torch.no_grad():
                assert torch.equal(network(image).logits, other(image).logits)
        with torch.no_grad():
            for each in (network, other):
                each.focus(adaptive=0.5)
            assert torch.equal(network(image).logits, other(image).logits)
        network.focus(0.75)
        assert network.ratios == [0.75, 0.0, 0.75, 0.0]
        with pytest.raises(ValueError, match="ratio: expected 0 of a branch that was built with ratio 0"):
            network.focus((0.25, 0.25, 0.25, 0.25))


def test_a_network_built_without_focus_cannot_be_focused():
    network = build(ratio=0.0)
    network.focus(0)
    for name, arguments in (("ratio", (0.25,)), ("adaptive", (None, 0.5))):
        with pytest.raises(ValueError, match=f"{name}: expected 0 or none of a network that was trained without focus"):
            network.focus(*arguments)


@pytest.mark.parametrize("options", [{"gradient": "none"}, {"ratio": 0.0}], ids=str)
def test_a_selector_that_nothing_teaches_is_frozen(options):
    network = build(selector_weight=0.0, **options).train()
    assert not any(parameter.requires_grad for parameter in network.selector.parameters())
    assert all(parameter.requires_grad for parameter in build(**options).selector.parameters())
    assert all(parameter.requires_grad for parameter in build(selector_weight=0.0).selector.parameters())


def test_nested_ratios_give_nested_masks():
    network = build(ratio=(0.1, 0.2, 0.3, 0.4), region="cell")
    image = torch.rand(2, 3, 70, 81)
    masks = [selection.mask for selection in parts(network, image)[2]]
    assert [int(mask[0].sum()) for mask in masks] == [selected_count(r, 99) for r in (0.1, 0.2, 0.3, 0.4)]
    for small, large in pairwise(masks):
        assert not (small & ~large).any()
    assert torch.equal(network(image).selected, masks[3][..., :9, :11])  # the widest, cut to the picture


@pytest.mark.parametrize(
    ("gradient", "reaches"), [("straight-through", "all"), ("gate", "selected"), ("none", "nothing")]
)
def test_which_cells_the_segmentation_loss_teaches_the_selector(gradient, reaches):
    torch.manual_seed(0)
    network = FoRNet(LiteBackbone(), 4, gradient=gradient, selector_weight=0.0, auxiliary_weight=0.0).train()
    image, target = scene(128, 128)
    kept, logits = [], network.selector.logits

    def spy(features):
        kept.append(logits(features))
        kept[-1].retain_grad()
        return kept[-1]

    network.selector.logits = spy
    output = network(image)
    sum(network.loss(output, target).values()).backward()
    gradient_map = kept[-1].grad
    if reaches == "nothing":
        assert gradient_map is None or not gradient_map.any()
        return
    share = (gradient_map != 0)[~output.selected].float().mean()
    assert (gradient_map != 0)[output.selected].float().mean() > 0.9
    assert share > 0.9 if reaches == "all" else share == 0


def test_random_selection_is_a_control_that_still_counts_exactly():
    network = FoRNet(LiteBackbone(), 4, selector="random")
    image, _ = scene(128, 128)
    first, second = network.train()(image), network(image)
    assert first.selected.sum() == second.selected.sum() == selected_count(0.25, 16) * 16
    assert not torch.equal(first.selected, second.selected)
    network.eval()
    assert torch.equal(network(image).selected, network(image).selected)


def test_loss_terms_are_what_they_are_named():
    network = FoRNet(LiteBackbone(), 4)
    image, target = scene(64, 64)
    output = network(image)
    terms = network.loss(output, target)
    assert set(terms) == {"cross_entropy", "dice", "selector", "auxiliary"}
    torch.testing.assert_close(terms["cross_entropy"], cross_entropy(output.logits, target))
    torch.testing.assert_close(terms["dice"], soft_dice(output.logits, target))
    assert output.boundary_logits.shape[-2:] == (64 // CELL, 64 // CELL)

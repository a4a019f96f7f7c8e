"""ThreshNet's evaluation, which computes convolution and BatchNorm as one, against the modules one after the other."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from segfocus.methods.threshnet import ThreshNet
from segfocus.methods.threshnet_blocks import (
    AttentionGate,
    NormalisedConv,
    RecurrentConv,
    RecurrentResidualUnit,
    convolution,
)


def lively(module: nn.Module) -> nn.Module:
    """For evaluation, with scales, shifts and statistics of which none is the identity's."""
    generator = torch.Generator().manual_seed(1)
    for name, values in [*module.named_parameters(), *module.named_buffers()]:
        if values.dtype == torch.float32 and not name.endswith("spatial.weight"):
            low = 0.5 if name.endswith("running_var") else -0.5
            values.data = low + torch.rand(values.shape, generator=generator)
    return module.eval()


def one_after_the_other(block: nn.Sequential, maps: torch.Tensor) -> torch.Tensor:
    for part in block:
        maps = part(maps)
    return maps


@pytest.mark.parametrize("relu", [True, False])
def test_a_convolution_and_its_norm_are_one(relu):
    block = convolution(3, 5) if relu else NormalisedConv(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5))
    maps = torch.randn(2, 3, 7, 9)
    with torch.no_grad():
        torch.testing.assert_close(lively(block)(maps), one_after_the_other(block, maps))
        expected = one_after_the_other(copy.deepcopy(block).train(), maps)
        assert torch.equal(block.train()(maps), expected)  # the batch's own statistics
    without = NormalisedConv(nn.Conv2d(3, 5, 3, padding=1, stride=2, bias=False), nn.BatchNorm2d(5))
    torch.testing.assert_close(lively(without)(maps), one_after_the_other(without, maps))


def test_every_pass_of_a_recurrent_convolution_has_its_own_statistics_in_evaluation():
    block, maps = lively(RecurrentConv(4)), torch.randn(2, 4, 6, 8)
    kept = maps.clone()
    for statistics in (block.norm.running_mean, block.norm.running_var):
        assert not torch.equal(statistics[0], statistics[1])
    with torch.no_grad():
        expected = block.norm(block.spatial(maps), 0).relu()
        for index in (1, 2):
            expected = block.norm(block.spatial(maps + expected), index).relu()
        torch.testing.assert_close(block(maps), expected)
    assert torch.equal(maps, kept)  # sums are written in place, but not into what came from outside


def test_evaluation_has_the_gradients_of_the_modules_one_after_the_other():
    block, maps = lively(convolution(3, 4)), torch.randn(1, 3, 5, 5)
    found = torch.autograd.grad(block(maps).square().sum(), block.parameters())
    expected = torch.autograd.grad(one_after_the_other(block, maps).square().sum(), block.parameters())
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)
    unit = lively(RecurrentResidualUnit(2, 4))
    with_gradient = unit(maps[:, :2])
    with torch.no_grad():
        assert torch.equal(unit(maps[:, :2]), with_gradient)  # in place or not


def test_the_factor_of_a_gate_is_the_same_in_half_precision():
    gate, (guide, skip) = lively(AttentionGate(8)), torch.randn(2, 3, 8, 10, 12)
    with torch.no_grad():
        evidence = functional.relu(one_after_the_other(gate.guide, guide) + one_after_the_other(gate.skip, skip))
        expected = skip * one_after_the_other(gate.score, evidence).sigmoid()
        torch.testing.assert_close(gate(guide, skip), expected)
        with torch.autocast("cpu", torch.bfloat16):
            found = gate(guide.bfloat16(), skip.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("encoder", ["r2", "resnet34"])
def test_the_layout_in_memory_changes_no_number_and_is_kept_on_the_way(encoder):
    torch.manual_seed(0)
    network = ThreshNet(width=4, patch=16, encoder=encoder).eval()
    foreground = torch.rand(1, 1, 40, 33)
    probabilities = torch.cat([1 - foreground, foreground], 1)
    with torch.no_grad():
        expected = network(probabilities).logits
        network.to(memory_format=torch.channels_last)
        lost = []
        for name, module in network.named_modules():
            small = name.startswith("pyramid.branches")  # means of at most 64 cells, from a matrix product
            if isinstance(module, nn.Conv2d) and module.in_channels > 1 and not small:
                module.register_forward_pre_hook(lambda _, maps, name=name: _note(lost, name, maps[0]))
        torch.testing.assert_close(network(probabilities).logits, expected)
    assert not lost


def _note(lost: list[str], name: str, maps: torch.Tensor) -> None:
    if not maps.is_contiguous(memory_format=torch.channels_last):
        lost.append(name)

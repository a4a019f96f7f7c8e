"""Folded networks give what the originals give; what does not surely belong together stays."""

import copy
from typing import ClassVar

import pytest
import timm
import torch
from torch import nn

from segfocus.backbone import LiteBackbone
from segfocus.inference.fold import fold_batch_norm
from segfocus.layers import ConvNormAct
from segfocus.methods.adapters import SMPBase, TorchvisionBase
from segfocus.methods.fornet import FoRNet
from segfocus.methods.light import LightBase
from segfocus.methods.plain import PlainSegmenter

CLASSES = 4


def lived(network: nn.Module) -> nn.Module:
    """With statistics, scales and shifts as training leaves them: far from 0 and 1, some scales negative."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            size = module.running_mean.shape
            module.running_mean.copy_(torch.randn(size, generator=generator) * 0.2)
            module.running_var.copy_(torch.rand(size, generator=generator) + 0.5)
            module.weight.data.copy_(1 + torch.randn(size, generator=generator) * 0.5)
            module.bias.data.copy_(torch.randn(size, generator=generator) * 0.2)
    return network.eval()


def norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def lite() -> nn.Module:
    return FoRNet(LiteBackbone(), CLASSES)


def released() -> nn.Module:
    return FoRNet.released(LiteBackbone(), CLASSES, channels=16, selector_channels=8, decoder_channels=16)


def smp() -> nn.Module:
    return PlainSegmenter(SMPBase("FPN", "resnet18", CLASSES, pretrained=False, decoder_pyramid_channels=16), CLASSES)


def torchvision() -> nn.Module:
    return PlainSegmenter(TorchvisionBase("lraspp_mobilenet_v3_large", CLASSES, pretrained=False), CLASSES)


def light() -> nn.Module:
    return PlainSegmenter(LightBase(LiteBackbone(), CLASSES, channels=16), CLASSES)


@pytest.mark.parametrize("build", [lite, released, smp, torchvision, light])
def test_folding_changes_nothing_but_rounding(build):
    torch.manual_seed(0)
    network = lived(build())
    folded = fold_batch_norm(network)
    image = torch.rand(2, 3, 97, 120)
    with torch.no_grad():
        expected, found = network(image).logits, folded(image).logits
        exact, again = network.double()(image.double()).logits, fold_batch_norm(network)(image.double()).logits
    assert norms(folded) < norms(network)
    size = expected.abs().max().item()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * size)
    torch.testing.assert_close(again, exact, rtol=0, atol=1e-12 * size)


@pytest.mark.parametrize("build", [lite, light])
def test_all_norms_of_our_own_networks_are_folded(build):
    assert norms(fold_batch_norm(build())) == 0


def test_the_network_itself_stays_as_it_is():
    network = lived(light()).train()
    before = copy.deepcopy(network.state_dict())
    folded = fold_batch_norm(network)
    assert network.training
    assert not folded.training
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not any(p is q for p in network.parameters() for q in folded.parameters())


def test_a_bias_and_a_norm_without_weights_are_counted():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 5, 3, groups=1, bias=True), nn.BatchNorm2d(5, affine=False), nn.ReLU()).eval()
    network[1].running_mean.uniform_(-1, 1)
    network[1].running_var.uniform_(0.5, 2)
    folded = fold_batch_norm(network)
    assert type(folded[1]) is nn.Identity
    x = torch.randn(2, 3, 6, 7)
    torch.testing.assert_close(folded(x), network(x), rtol=0, atol=1e-6)


class Sum(nn.Module):
    """BatchNorm of a sum of convolutions, one of them of a half-size map."""

    sums_before_norm: ClassVar = {"norm": ("fine", "coarse")}

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 1), nn.ModuleList([nn.Conv2d(3, 4, 3, bias=False)])
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        half = nn.functional.interpolate(self.coarse[0](x), size=x.shape[-2:], mode="bilinear")
        return self.norm(self.fine(x) + half)


def test_a_declared_sum_gets_the_shift_once():
    torch.manual_seed(0)
    network = lived(Sum())
    folded = fold_batch_norm(network)
    assert type(folded.norm) is nn.Identity
    x = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(folded(x), network(x), rtol=0, atol=1e-5)


class Twice(nn.Module):
    """One convolution, in a sequence and beside it."""

    def __init__(self):
        super().__init__()
        self.first = ConvNormAct(3, 3)
        self.second = self.first[0]

    def forward(self, x):
        return self.second(self.first(x))


def twice_in_one_sequence() -> nn.Module:
    convolution = nn.Conv2d(3, 3, 1)
    return nn.Sequential(convolution, nn.BatchNorm2d(3), nn.ReLU(), convolution, nn.BatchNorm2d(3))


class Through(nn.Sequential):
    """Hands out more than its last map."""

    def forward(self, x):
        return self[1](self[0](x)) + self[0](x).abs()


def with_hook() -> nn.Module:
    network = ConvNormAct(3, 3)
    network[0].register_forward_hook(lambda module, inputs, output: output + 1)
    return network


def standardised() -> nn.Module:
    return nn.Sequential(timm.layers.StdConv2d(3, 4, 3), nn.BatchNorm2d(4))


def activated() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), timm.layers.BatchNormAct2d(4))


def without_statistics() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False))


def norm_first() -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4))


def not_declared() -> nn.Module:
    network = Sum()
    network.sums_before_norm = {}
    return network


@pytest.mark.parametrize(
    "build",
    [
        Twice,
        twice_in_one_sequence,
        lambda: Through(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)),
        with_hook,
        standardised,
        activated,
        without_statistics,
        norm_first,
        not_declared,
    ],
)
def test_what_is_not_sure_stays(build):
    torch.manual_seed(0)
    network = build().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.5, 2)
    folded = fold_batch_norm(network)
    assert norms(folded) == norms(network) > 0
    x = torch.randn(2, 3, 8, 9)
    assert torch.equal(folded(x), network(x))

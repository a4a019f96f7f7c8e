"""HRNet and OCR: the contract, counted parameters, timm's own forward and slow twins as oracles, the second path."""

import math
from copy import deepcopy

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from segfocus.errors import SegfocusError
from segfocus.losses import cross_entropy
from segfocus.methods.hrnet import OCR, HRNet, gather_regions
from segfocus.methods.ovenet import OVeNet
from segfocus.methods.plain import PlainSegmenter
from segfocus.ops.resample import enlarge
from tests.contract import SegmenterContract, scene

SMALL = "hrnet_w18_small"  # one module a stage, 16 + 32 + 64 + 128 channels


def build_small(kind=HRNet, classes: int = 4, variant: str = SMALL, **options):
    torch.manual_seed(0)
    return kind(variant, classes, pretrained=False, **options)


def build_small_ocr(classes: int = 4, **options) -> OCR:
    return build_small(OCR, classes, channels=32, key_channels=16, **options)


def build_plain_hrnet(classes: int) -> PlainSegmenter:
    return PlainSegmenter(build_small(HRNet, classes), classes)


def build_plain_ocr(classes: int) -> PlainSegmenter:
    return PlainSegmenter(build_small_ocr(classes), classes)


class TestHRNet(SegmenterContract):
    builder = "tests.methods.test_hrnet:build_plain_hrnet"


class TestOCR(SegmenterContract):
    builder = "tests.methods.test_hrnet:build_plain_ocr"


def liven(network: nn.Module) -> nn.Module:
    """Statistics and scales as after training, so that no BatchNorm is the identity."""
    generator = torch.Generator().manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values, low in ((module.weight, 0.5), (module.bias, -0.2), (module.running_mean, -0.2)):
                values.data.copy_(torch.rand(values.shape, generator=generator) * 0.5 + low)
            module.running_var.copy_(torch.rand(module.running_var.shape, generator=generator) + 0.5)
    return network.eval()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(kind, classes: int = 19):
    with torch.device("meta"):
        return kind("hrnet_w48", classes, pretrained=False).eval()


@pytest.mark.parametrize(
    ("kind", "classes", "parameters"),
    [(HRNet, 19, 65_859_379), (HRNet, 150, 65_953_830), (OCR, 19, 70_372_678)],
)
def test_networks_have_exactly_the_published_parameters(kind, classes, parameters):
    assert count(on_meta(kind, classes)) == parameters


def test_every_part_has_exactly_the_published_parameters():
    ocr = on_meta(OCR)
    assert count(ocr.hrnet.backbone) == 65_325_120
    assert count(ocr.hrnet.head) == 534_259
    assert count(ocr.pixels) == 3_319_296
    assert count(ocr.object_context) == 1_184_256
    assert count(ocr.classify) == 9_747
    branch = ocr.branch(3)
    assert [count(part) for part in branch.transitions] == [166_272, 664_320]
    assert [count(part) for part in branch.stages] == [11_501_280, 31_749_504]


@pytest.mark.parametrize(
    ("kind", "stage", "parameters"), [(HRNet, 4, 98_795_926), (HRNet, 3, 110_463_478), (OCR, 4, 103_309_225)]
)
def test_ovenet_on_them_has_exactly_the_published_parameters(kind, stage, parameters):
    base = on_meta(kind)
    with torch.device("meta"):
        ovenet = OVeNet(base, 19, trunk=f"stage{stage}")
    assert count(ovenet) == parameters
    assert count(base) + count(base.branch(stage)) + 522_723 == parameters  # the offset head on 720 channels


@pytest.mark.parametrize(("stage", "expected"), [(None, 186.9), (4, 252.1), (3, 304.7)])
def test_convolutions_cost_what_was_counted(stage, expected):
    """GMAC at 512x1024, 19 classes (fact sheet 8)."""
    base = on_meta(HRNet)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        maps = base.maps(torch.empty(1, 3, 512, 1024, device="meta"), stage)
        if stage is not None:
            features = base.branch(stage).eval()(maps.shared)
            assert features.shape == maps.features.shape == (1, 720, 128, 256)
            with torch.device("meta"):
                nn.Sequential(nn.Conv2d(720, 720, 1), nn.Conv2d(720, 3, 1))(features)
    assert counter.get_total_flops() / 2e9 == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("build", [build_small, build_small_ocr])
@pytest.mark.parametrize("size", [(97, 161), (64, 64), (1, 1), (7, 300)])
def test_any_size_is_padded_to_multiples_of_32(build, size):
    base = build(in_channels=5).eval()
    image = torch.rand(1, 5, *size)
    grid = [max(64, math.ceil(side / 32) * 32) // 4 for side in size]
    with torch.no_grad():
        maps = base.maps(image)
        logits, features = base(image)
    assert torch.equal(maps.logits, logits)
    assert torch.equal(maps.features, features)
    assert (list(logits.shape), list(features.shape)) == ([1, 4, *grid], [1, 240, *grid])
    assert (base.stride, base.feature_stride, base.feature_channels) == (4, 4, 240)
    assert maps.shared == ()
    assert set(maps.auxiliary) == set(base.auxiliary_weights)
    assert all(value.shape == maps.logits.shape for value in maps.auxiliary.values())


def test_features_are_timms_streams_side_by_side():
    base = liven(build_small(variant="hrnet_w18_small_v2"))
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        maps = base.maps(image)
        streams = base.backbone.network(base.backbone.normalize(image))[1:]
    begin = 0
    for stream, channels, factor in zip(streams, (18, 36, 72, 144), (1, 2, 4, 8), strict=True):
        large = functional.interpolate(stream, scale_factor=factor, mode="bilinear") if factor > 1 else stream
        assert torch.equal(maps.features[:, begin : begin + channels], large)
        begin += channels
    assert begin == base.feature_channels


def test_weights_are_timms_by_name_and_only_the_enlargement_differs():
    ours = build_small(variant="hrnet_w18_small_v2").backbone.network
    theirs = timm.create_model("hrnet_w18_small_v2", features_only=True, feature_location="")
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    kinds = [[type(module).__name__ for module in network.modules()] for network in (ours, theirs)]
    assert [name.replace("Enlarge", "Upsample") for name in kinds[0]] == kinds[1]
    assert kinds[0].count("Enlarge") == 1 * 1 + 3 * 3 + 2 * 6  # modules a stage x pairs of streams


def slow_bilinear(maps, factor):
    """By the formula, pixel by pixel: outer edges in place, values beyond the border repeat it."""
    batch, channels, height, width = maps.shape
    large = torch.empty(batch, channels, height * factor, width * factor, dtype=maps.dtype)
    for row in range(height * factor):
        for column in range(width * factor):
            y, x = (row + 0.5) / factor - 0.5, (column + 0.5) / factor - 0.5
            total = 0
            for r in (math.floor(y), math.floor(y) + 1):
                for c in (math.floor(x), math.floor(x) + 1):
                    value = maps[:, :, min(max(r, 0), height - 1), min(max(c, 0), width - 1)]
                    total = total + (1 - abs(y - r)) * (1 - abs(x - c)) * value
            large[:, :, row, column] = total
    return large


def slow_norm(maps, norm):
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    return (maps - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]


def test_a_fused_stage_equals_its_slow_twin():
    """Each stream: the sum of all, coarse ones through 1x1 and enlarged, fine ones through 3x3 with stride 2; ReLU."""
    base = liven(build_small()).double()
    module = base.backbone.network.stage3[0]
    streams = [torch.randn(1, channels, size, size).double() for channels, size in ((16, 8), (32, 4), (64, 2))]
    with torch.no_grad():
        inner = [branch(stream) for branch, stream in zip(module.branches, streams, strict=True)]
        expected = []
        for i in range(3):
            total = 0
            for j in range(3):
                value, steps = inner[j], module.fuse_layers[i][j]
                if j > i:
                    value = functional.conv2d(value, steps[0].weight)
                    value = slow_bilinear(slow_norm(value, steps[1]), 2 ** (j - i))
                for k in range(i - j):
                    value = slow_norm(functional.conv2d(value, steps[k][0].weight, stride=2, padding=1), steps[k][1])
                    value = value.clamp(min=0) if k < i - j - 1 else value
                total = total + value
            expected.append(total.clamp(min=0))
        for got, wanted in zip(module(list(streams)), expected, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def slow_ocr(base: OCR, image):
    """Object context by the paper's sums, cell by cell, from the network's own features."""
    context = base.object_context
    maps = base.hrnet.maps(image)
    pixels, soft = base.pixels(maps.features)[0], maps.logits[0]
    if len(soft) == 1:
        soft = torch.stack([-soft[0], soft[0]])
    rows, columns = -(-image.shape[2] // 4), -(-image.shape[3] // 4)
    regions = []
    for logits in soft:
        weight = logits[:rows, :columns].exp()
        regions.append((pixels[:, :rows, :columns] * weight).sum((1, 2)) / weight.sum())
    as_map = torch.stack(regions, 1)[None, :, :, None]
    keys, values = context.region_key(as_map)[0, :, :, 0], context.region_value(as_map)[0, :, :, 0]
    queries = context.pixel_key(pixels[None])[0]
    mixed = torch.empty(1, len(values), *pixels.shape[1:], dtype=pixels.dtype)
    for r in range(pixels.shape[1]):
        for c in range(pixels.shape[2]):
            likeness = (keys.T @ queries[:, r, c] / len(keys) ** 0.5).exp()
            mixed[0, :, r, c] = (values * likeness).sum(1) / likeness.sum()
    return base.classify(context.merge(torch.cat([context.expand(mixed), pixels[None]], 1)))


@pytest.mark.parametrize("classes", [2, 4])
def test_object_context_equals_its_slow_twin_and_padding_takes_no_part(classes):
    base = liven(build_small_ocr(classes)).double()
    base.hrnet.head[3].weight.data.mul_(500)  # regions that differ, as after training
    image = torch.rand(1, 3, 50, 66, dtype=torch.float64)
    with torch.no_grad():
        maps = base.maps(image)
        torch.testing.assert_close(maps.logits, slow_ocr(base, image), rtol=1e-9, atol=1e-9)
        assert torch.equal(maps.auxiliary["soft_regions"], base.hrnet.maps(image).logits)
    assert maps.logits.shape[1] == (1 if classes == 2 else classes)


def test_regions_of_a_certain_map_are_the_class_means_inside_the_picture():
    pixels = torch.rand(2, 5, 4, 6)
    labels = torch.randint(0, 3, (2, 4, 6))
    labels[:, 3] = 7  # outside the picture
    labels[:, 0, :3] = torch.arange(3)  # every region has a pixel
    certain = functional.one_hot(labels, 8)[..., :3].permute(0, 3, 1, 2) * 100.0
    inside = torch.ones(4, 6, dtype=torch.bool)
    inside[3] = False
    regions = gather_regions(pixels, certain, inside)
    for batch in range(2):
        for label in range(3):
            mean = pixels[batch][:, labels[batch] == label].mean(1)
            torch.testing.assert_close(regions[batch, :, label, 0], mean)


@pytest.mark.parametrize("build", [build_small, build_small_ocr])
@pytest.mark.parametrize("classes", [2, 4])
def test_every_parameter_gets_a_gradient_from_a_batch_of_one(build, classes):
    base = build(classes=classes).train()
    image, target = scene(64, 64, classes=classes)
    maps = base.maps(image, 4)
    branch = base.branch(4).train()
    loss = branch(maps.shared).mean()
    for logits in (maps.logits, *maps.auxiliary.values()):
        loss = loss + cross_entropy(enlarge(logits, 4, 1, (64, 64)), target)
    loss.backward()
    for module in (base, branch):
        without = [name for name, parameter in module.named_parameters() if parameter.grad is None]
        assert not without
        assert all(parameter.grad.isfinite().all() for parameter in module.parameters())


@pytest.mark.parametrize("stage", [3, 4])
def test_branch_is_a_shorter_copy_that_trains_for_itself(stage):
    base = build_small(variant="hrnet_w18_small_v2").requires_grad_(False).eval()
    branch = base.branch(stage)
    network = base.backbone.network
    for place, number in enumerate(range(stage, 5)):
        stage_there, transition_there = getattr(network, f"stage{number}"), getattr(network, f"transition{number - 1}")
        copies = (branch.stages[place], stage_there), (branch.transitions[place], transition_there)
        assert len(branch.stages[place]) == len(stage_there) - 1
        for copy, original in copies:
            for name, value in copy.state_dict().items():
                assert torch.equal(value, original.state_dict()[name])
    assert all(parameter.requires_grad for parameter in branch.parameters())
    storages = {parameter.data_ptr() for parameter in base.parameters()}
    assert not storages & {parameter.data_ptr() for parameter in branch.parameters()}


@pytest.mark.parametrize("build", [build_small, build_small_ocr])
@pytest.mark.parametrize(("stage", "channels"), [(3, [16, 32]), (4, [16, 32, 64])])
def test_branch_begins_where_the_shared_maps_end(build, stage, channels):
    """With one module a stage nothing can be left out: the copy computes the base's features."""
    base = liven(build())
    image = torch.rand(2, 3, 70, 90)
    with torch.no_grad():
        maps = base.maps(image, stage)
        assert [tuple(stream.shape) for stream in maps.shared] == [
            (2, width, 24 >> index, 24 >> index) for index, width in enumerate(channels)
        ]
        assert torch.equal(base.branch(stage)(maps.shared), maps.features)
        assert torch.equal(base.maps(image).features, maps.features)


@pytest.mark.parametrize("build", [build_small, build_small_ocr])
def test_channels_last_and_a_deep_copy_give_the_same_logits(build):
    base = liven(build())
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        expected = base.maps(image).logits
        assert torch.equal(deepcopy(base).maps(image).logits, expected)
        base.to(memory_format=torch.channels_last)
        logits = base.maps(image.to(memory_format=torch.channels_last)).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)


def test_head_starts_small():
    for place in (0, 3):
        assert build_small().head[place].weight.detach().std() == pytest.approx(0.001, rel=0.1)


@pytest.mark.parametrize("kind", [HRNet, OCR])
def test_norm_momentum_reaches_every_norm(kind):
    for options, momentum in (({}, 0.1), ({"norm_momentum": 0.01}, 0.01)):
        base = build_small(kind, **options)
        assert {m.momentum for m in base.modules() if isinstance(m, nn.BatchNorm2d)} == {momentum}
        assert {m.momentum for m in base.branch(3).modules() if isinstance(m, nn.BatchNorm2d)} == {momentum}


def test_options_of_ocr():
    base = build_small_ocr(dropout=0.25, soft_regions_weight=0.7)
    assert base.auxiliary_weights == {"soft_regions": 0.7}
    assert [m.p for m in base.modules() if isinstance(m, nn.Dropout2d)] == [0.25]
    assert build_small_ocr().auxiliary_weights == {"soft_regions": 0.4}
    assert [m.p for m in build_small_ocr().modules() if isinstance(m, nn.Dropout2d)] == [0.05]
    with pytest.raises(ValueError, match="dropout: expected a share"):
        build_small_ocr(dropout=1.5)
    with pytest.raises(ValueError, match="expected 0 or more, got -1"):
        build_small_ocr(soft_regions_weight=-1)


@pytest.mark.parametrize("kind", [HRNet, OCR])
def test_wrong_arguments_are_refused(kind):
    with pytest.raises(SegfocusError, match="'resnet18': expected an HRNet of timm"):
        build_small(kind, variant="resnet18")
    with pytest.raises(SegfocusError, match=r"unknown backbone 'hrnet_w19'.*did you mean hrnet_w18"):
        build_small(kind, variant="hrnet_w19")
    with pytest.raises(ValueError, match="at least two classes"):
        build_small(kind, 1)
    with pytest.raises(ValueError, match=r"norm_momentum: expected a share in \(0, 1\], got 0"):
        build_small(kind, norm_momentum=0)
    base = build_small(kind)
    with pytest.raises(ValueError, match=r"expected a stage to branch at \(3, 4\), got 2"):
        base.branch(2)
    with pytest.raises(ValueError, match=r"expected a stage to branch at \(3, 4\), got 5"):
        base.maps(torch.rand(1, 3, 64, 64), 5)

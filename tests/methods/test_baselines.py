"""Context blocks against slow twins and their published sizes, and the network around them against the contract."""

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from segfocus.backbone import LiteBackbone
from segfocus.layers import CellBatchNorm
from segfocus.losses import cross_entropy, ohem_cross_entropy
from segfocus.methods.attention_blocks import (
    AsymmetricNonLocal,
    ChannelAttention,
    CrissCrossAttention,
    NonLocal,
    PointwiseAttention,
    PositionAttention,
)
from segfocus.methods.baselines import BLOCKS, ContextNetwork, build_block
from segfocus.methods.context_blocks import PyramidPooling, adaptive_mean
from segfocus.ops.resample import enlarge
from tests.contract import SegmenterContract, scene


def build_network(classes: int, block: str, **options) -> ContextNetwork:
    backbone = LiteBackbone((8, 8, 16, 16, 24), (0, 0, 0, 0))
    return ContextNetwork(backbone, classes, block=block, channels=32, neck="sum", map_size=9, **options)


def build_pyramid(classes: int) -> ContextNetwork:
    return build_network(classes, "ppm", dropout=0)  # the contract compares passes of one network in training


def build_dual(classes: int) -> ContextNetwork:
    return build_network(classes, "dual", dropout=0)


class TestPyramidPooling(SegmenterContract):
    builder = "tests.methods.test_baselines:build_pyramid"


class TestDualAttention(SegmenterContract):
    builder = "tests.methods.test_baselines:build_dual"


def double(block: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """In float64 and evaluation mode, nothing at zero: published factors of the context start there."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in block.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return block.double().eval()


def features(*size: int, channels: int = 8, batch: int = 2) -> torch.Tensor:
    return torch.randn(batch, channels, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def assert_equal_with_gradients(block, slow, x):
    """`slow(block, x)` gives the same and so do the gradients to the features and all weights."""
    results = []
    for function in (block, lambda x: slow(block, x)):
        x = x.detach().requires_grad_()
        y = function(x)
        generator = torch.Generator().manual_seed(2)
        wanted = [x, *block.parameters()]
        (y * torch.randn(y.shape, generator=generator, dtype=y.dtype)).sum().backward()
        results.append((y.detach(), [w.grad for w in wanted]))
        block.zero_grad()
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-11)


def projected(convolution, x):
    return torch.einsum("oc,bchw->bohw", convolution.weight[..., 0, 0], x) + convolution.bias[:, None, None]


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize(("batch", "size"), [(2, (1, 1)), (1, (1, 7)), (1, (6, 1)), (1, (5, 6)), (2, (13, 10))])
def test_every_block_keeps_the_grid_and_trains_at_any_size(name, batch, size):
    torch.manual_seed(0)
    block = build_block(name, 16, map_size=(9, 8)).train()
    x = torch.randn(batch, 16, *size, requires_grad=True)
    y = block(x)
    assert y.shape == (batch, block.out_channels, *size)
    assert y.isfinite().all()
    y.sum().backward()
    assert x.grad.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


@pytest.mark.parametrize("name", BLOCKS)
def test_every_network_gives_logits_at_the_size_of_the_picture(name):
    torch.manual_seed(0)
    network = build_network(5, name).eval()
    for size in ((1, 1), (7, 90), (61, 75)):
        with torch.no_grad():
            output = network(torch.rand(1, 3, *size))
        assert output.logits.shape == (1, 5, *size)
        assert output.logits.isfinite().all()
        assert output.aux_logits["auxiliary"].shape == (1, 5, -(-size[0] // 8), -(-size[1] // 8))


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (6, 6), (7, 13), (97, 65)])
@pytest.mark.parametrize("bins", [1, 2, 3, 6, 8])
def test_adaptive_mean_is_adaptive_average_pooling(size, bins):
    x = features(*size)
    torch.testing.assert_close(adaptive_mean(x, bins), functional.adaptive_avg_pool2d(x, bins))


def test_pyramid_pooling_written_out():
    block = double(PyramidPooling(8))
    x = features(7, 10)
    parts = [x]
    for bins, (convolution, norm, _) in zip((1, 2, 3, 6), block.branches, strict=True):
        mean = torch.einsum("oc,bchw->bohw", convolution.weight[..., 0, 0], functional.adaptive_avg_pool2d(x, bins))
        mean = (mean / (1 + norm.eps) ** 0.5) * norm.weight[:, None, None] + norm.bias[:, None, None]
        parts.append(functional.interpolate(mean.relu(), (7, 10), mode="bilinear", align_corners=False))
    torch.testing.assert_close(block(x), block.fuse(torch.cat(parts, 1)))


def test_pooled_norm_is_batch_norm_where_that_exists():
    torch.manual_seed(0)
    ours, theirs = CellBatchNorm(4).train(), torch.nn.BatchNorm2d(4).train()
    x = torch.randn(3, 4, 1, 1)
    assert torch.equal(ours(x), theirs(x))
    assert torch.equal(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours(x[:1]), theirs.eval()(x[:1]))
    assert torch.equal(ours.running_mean, theirs.running_mean)


def test_dropout_is_the_networks_alone():
    network = build_network(4, "aspp", dropout=0.25)
    found = [m.p for m in network.modules() if isinstance(m, torch.nn.Dropout | torch.nn.Dropout2d)]
    assert found == [0.25, 0.25]


def test_non_local_is_attention_between_all_positions():
    block = double(NonLocal(8))
    x = features(3, 4)
    inner = block.attention
    query, key, value = (projected(part, x).flatten(2) for part in (inner.t, inner.p, inner.g))
    weights = (torch.einsum("bci,bcj->bij", query, key) / 8**0.5).softmax(2)
    context = torch.einsum("bij,bcj->bci", weights, value).unflatten(2, (3, 4))
    torch.testing.assert_close(block(x), inner.norm(projected(inner.z, context)) + x)


def slow_criss_cross(block, x):
    query, key, value = (projected(part, x) for part in (block.query, block.key, block.value))
    height, width = x.shape[-2:]
    rows = []
    for r in range(height):
        for c in range(width):
            cross = [(r, other) for other in range(width)] + [(other, c) for other in range(height) if other != r]
            assert len(cross) == height + width - 1
            weights = torch.stack([(query[:, :, r, c] * key[:, :, i, j]).sum(1) for i, j in cross], 1).softmax(1)
            taken = torch.stack([value[:, :, i, j] for i, j in cross], 2)
            rows.append((weights[:, None] * taken).sum(2))
    return block.gamma * torch.stack(rows, 2).unflatten(2, (height, width)) + x


@pytest.mark.parametrize("size", [(3, 5), (1, 4), (4, 1), (1, 1)])
def test_criss_cross_attends_to_row_and_column(size):
    assert_equal_with_gradients(double(CrissCrossAttention(8)), slow_criss_cross, features(*size))


def test_two_criss_crosses_reach_every_position():
    block = double(build_block("criss_cross", 8))
    x = features(4, 5, batch=1).requires_grad_()
    (once,) = torch.autograd.grad(block.attention(x)[0, :, 1, 2].sum(), x)
    (twice,) = torch.autograd.grad(block.attention(block.attention(x))[0, :, 1, 2].sum(), x)
    reached = once.abs().sum(1)[0] > 0
    assert reached[1].sum() + reached[:, 2].sum() == reached.sum() + 1 == 4 + 5
    assert (twice.abs().sum(1) > 0).all()


def slow_asymmetric(block, x):
    def anchors(maps):
        found = [functional.adaptive_avg_pool2d(maps, bins).flatten(2) for bins in (1, 3, 6, 8)]
        return torch.cat(found, 2)

    query, key, value = block.query(x), anchors(block.key(x)), anchors(projected(block.value, x))
    assert key.shape[2] == 110
    positions = []
    for i in range(x.shape[-2] * x.shape[-1]):
        weights = ((query.flatten(2)[:, :, i, None] * key).sum(1) / key.shape[1] ** 0.5).softmax(1)
        positions.append((weights[:, None] * value).sum(2))
    context = torch.stack(positions, 2).unflatten(2, (x.shape[-2], x.shape[-1]))
    return block.fuse(torch.cat([x, projected(block.expand, context)], 1))


@pytest.mark.parametrize("size", [(9, 11), (2, 3)])
def test_asymmetric_non_local_attends_to_pooled_positions(size):
    assert_equal_with_gradients(double(AsymmetricNonLocal(8)), slow_asymmetric, features(*size))


def test_dual_attention_written_out():
    x = features(3, 4)
    block = double(PositionAttention(8))
    query, key, value = (projected(part, x).flatten(2) for part in (block.query, block.key, block.value))
    weights = torch.einsum("bci,bcj->bij", query, key).softmax(2)
    context = torch.einsum("bij,bcj->bci", weights, value).unflatten(2, (3, 4))
    torch.testing.assert_close(block(x), block.alpha * context + x)
    block = double(ChannelAttention())
    energy = torch.einsum("bihw,bjhw->bij", x, x)
    context = torch.einsum("bij,bjhw->bihw", energy.softmax(2), x)
    torch.testing.assert_close(block(x), block.beta * context + x)
    assert (energy.softmax(2).diagonal(dim1=1, dim2=2) > 1 / 8).all()  # a channel attends to what resembles it


def test_channel_attention_survives_half_precision():
    block = ChannelAttention()
    block.beta.data.fill_(1.0)
    x = 30 * features(16, 16).to(torch.bfloat16)  # products sum to some 2e5, more than float16 holds
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(block(x), block(x.float()).to(torch.bfloat16))


def slow_pointwise(block, x):
    """Equations of PSANet: position by position, weights looked up by displacement."""
    reduced = block.reduce(x)
    maps = projected(block.predict, block.adapt(reduced))
    height, width = x.shape[-2:]
    down, right = block.reach
    maps = maps.unflatten(1, (2 * down - 1, 2 * right - 1))
    positions = []
    for r in range(height):
        for c in range(width):
            total = 0
            for i in range(height):
                for j in range(width):
                    (from_r, from_c), (to_r, to_c) = ((i, j), (r, c)) if block.distribute else ((r, c), (i, j))
                    dy, dx = to_r - from_r, to_c - from_c
                    if abs(dy) < down and abs(dx) < right:
                        weight = maps[:, dy + down - 1, dx + right - 1, from_r, from_c]
                        total = total + weight[:, None] * reduced[:, :, i, j]
            positions.append(total / (height * width))
    return torch.stack(positions, 2).unflatten(2, (height, width))


@pytest.mark.parametrize("distribute", [False, True])
@pytest.mark.parametrize("size", [(3, 4), (2, 2), (5, 3), (4, 6), (1, 1)], ids=str)
def test_pointwise_attention_collects_and_distributes(distribute, size):
    """On maps of its own size, smaller ones, and larger ones, which it does not reach across."""
    block = double(PointwiseAttention(8, (3, 4), distribute))
    assert_equal_with_gradients(block, slow_pointwise, features(*size))


def test_the_network_written_out():
    network = build_network(5, "ppm", class_weights=[1, 2, 3, 4, 5], auxiliary_weight=0.3).eval()
    image, target = scene(50, 75)
    output = network(image)
    found, auxiliary = network.features(image)
    logits = network.classify[1](network.block(found))
    torch.testing.assert_close(output.logits, enlarge(logits, 8, 1, (50, 75)))
    torch.testing.assert_close(output.aux_logits["auxiliary"], network.auxiliary(auxiliary))
    weights = torch.tensor([1.0, 2, 3, 4, 5])
    large = enlarge(output.aux_logits["auxiliary"], 8, 1, (50, 75))
    losses = network.loss(output, target)
    assert set(losses) == {"cross_entropy", "auxiliary"}
    torch.testing.assert_close(losses["cross_entropy"], cross_entropy(output.logits, target, class_weights=weights))
    torch.testing.assert_close(losses["auxiliary"], 0.3 * cross_entropy(large, target, class_weights=weights))


def test_without_auxiliary_head_and_with_ohem():
    network = build_network(4, "none", auxiliary_weight=0, ohem=True).train()
    image, target = scene(50, 75)
    output = network(image)
    assert not output.aux_logits
    assert not [name for name, _ in network.named_parameters() if "auxiliary" in name]
    losses = network.loss(output, target)
    assert set(losses) == {"cross_entropy"}
    assert torch.equal(losses["cross_entropy"], ohem_cross_entropy(output.logits, target))


def sizes(name: str, channels: int, side: int) -> tuple[float, float]:
    """(parameters in millions, 1e9 multiply-adds) of a block on a map of side x side."""
    with torch.device("meta"):
        block = build_block(name, channels, map_size=side).eval()
        x = torch.empty(1, channels, side, side)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        block(x)
    return sum(p.numel() for p in block.parameters()) / 1e6, counter.get_total_flops() / 2e9


@pytest.mark.parametrize(
    ("name", "parameters", "operations"),
    [
        ("ppm", 0.2632 + 4.7196, 44.46),
        ("aspp", 4.1318 + 0.5904, 43.16),
        ("non_local", 0.5266, 50.26),
        ("asymmetric_non_local", 1.0514, 10.49),
        ("criss_cross", 0.3287 + 2.3603 + 4.7196, 74.86),
        ("dual", 0.3283 + 2 * 2.3603, 103.4),
        ("psa", 38.2175 + 1.0527 + 0.5253 + 4.7196, 508.74),
    ],
)
def test_sizes_at_table_3s_map(name, parameters, operations):
    """[1 x 512 x 97 x 97].  PSA: of 508.6, 358.9 predict the over-complete maps and 90.7 apply them."""
    assert sizes(name, 512, 97) == (pytest.approx(parameters, abs=2e-3), pytest.approx(operations, rel=2e-3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 20}, r"channels: expected a multiple of 8, got 20; try 512"),
        ({"map_size": 0}, r"map_size: expected a whole number from 1, got 0"),
        ({"map_size": [3, 4, 5]}, r"map_size: expected .* got \[3, 4, 5\]"),
        ({"dropout": 1.0}, r"dropout: expected a number in \[0, 1\), got 1.0"),
        ({"auxiliary_weight": -1}, r"auxiliary_weight: expected a number from 0, got -1"),
        ({"class_weights": [1.0]}, r"class_weights: expected 4 values, got 1"),
    ],
)
def test_wrong_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ContextNetwork(LiteBackbone(), 4, **options)


def test_an_unknown_block_is_refused():
    with pytest.raises(ValueError, match=r"block: expected one of none, ppm, .*, psa, got 'ocr'"):
        build_block("ocr", 32)


@pytest.mark.slow
def test_further_blocks_export_for_other_sizes(unchecked):
    failure = unchecked.failure("tests.exports:assert_context_blocks_export")
    assert not failure, failure

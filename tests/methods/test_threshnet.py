"""ThreshNet: sizes, training, blocks, both branches, how they become one, refusals.

What every trained refiner must do: `tests.methods.refiner_contract`.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from segfocus.methods.threshnet import ThreshNet
from segfocus.methods.threshnet_blocks import PassNorm, Pyramid, RecurrentConv, mirror_to, recomputed
from segfocus.output import Output
from tests.methods.threshnets import build, noisy_map, settle

# --- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoder", "width", "parameters", "gmac"),
    [("r2", 32, 3_887_156, 180.7), ("resnet34", 32, 7_898_036, 149.8), ("resnet34", 16, 1_978_340, 37.5)],
)
def test_parameters_and_multiplications_are_the_published_ones(encoder, width, parameters, gmac):
    """Fact sheet A1; at 512 x 512 with P = 64."""
    with torch.device("meta"):
        network = ThreshNet(encoder=encoder, width=width)
    assert sum(p.numel() for p in network.parameters()) == parameters
    with FakeTensorMode(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        ThreshNet(encoder=encoder, width=width).eval()(torch.zeros(1, 2, 512, 512))
    assert counter.get_total_flops() / 2e9 == pytest.approx(gmac, abs=0.05)


def test_a_quarter_of_the_width_stays_below_the_bound_for_processors():
    with FakeTensorMode(), torch.no_grad(), FlopCounterMode(display=False) as counter:
        ThreshNet(width=8).eval()(torch.zeros(1, 2, 512, 512))
    assert counter.get_total_flops() / 2e9 < 22


# --- training --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("encoder", ["r2", "resnet34"])
def test_a_batch_of_one_trains_and_every_parameter_gets_a_gradient(encoder, classes):
    network = build(classes, encoder=encoder).train()
    probabilities, target = noisy_map(classes=classes)
    terms = network.loss(network(probabilities), target)
    assert set(terms) == {f"{b}_{n}" for b in ("global", "local") for n in ("focal", "boundary", "regular")}
    assert all(value.ndim == 0 and value.isfinite() and value > 0 for value in terms.values())
    sum(terms.values()).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert not [name for name, p in network.named_parameters() if p.ndim > 1 and not p.grad.any()]


def test_recomputing_gives_the_same_gradients_and_running_statistics():
    probabilities, target = noisy_map(batch=2)
    results = []
    for checkpointing in (False, True):
        network = build(checkpointing=checkpointing).train()
        sum(network.loss(network(probabilities), target).values()).backward()
        results.append([*(p.grad for p in network.parameters()), *network.buffers()])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other)


def test_recomputing_keeps_what_is_inside_a_level_out_of_memory():
    unit, maps = RecurrentConv(4).train(), torch.rand(1, 4, 32, 32, requires_grad=True)
    kept = []
    for run in (lambda module, x: module(x), recomputed):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, s=sizes: (s.append(x.numel()), x)[1], lambda x: x):
            run(unit, maps)
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 4


# --- blocks and branches ---------------------------------------------------------------------------------------------


def test_the_recurrent_convolution_written_out():
    block = RecurrentConv(3).train()
    nn.init.uniform_(block.norm.weight)
    x = torch.randn(2, 3, 6, 5)
    found = block(x)

    def f(maps):
        maps = functional.conv2d(maps, block.spatial.weight, block.spatial.bias, padding=1)
        mean, variance = maps.mean((0, 2, 3), keepdim=True), maps.var((0, 2, 3), unbiased=False, keepdim=True)
        scale, shift = block.norm.weight[:, None, None], block.norm.bias[:, None, None]
        return ((maps - mean) / (variance + 1e-5).sqrt() * scale + shift).relu()

    first = f(x)
    torch.testing.assert_close(found, f(x + f(x + first)), rtol=1e-4, atol=1e-5)


def test_each_pass_has_running_statistics_of_its_own():
    block = RecurrentConv(3).train()
    x = torch.randn(2, 3, 6, 5)
    with torch.no_grad():
        for _ in range(150):
            block(x)
        expected = block(x)
        torch.testing.assert_close(block.eval()(x), expected, rtol=0.05, atol=0.05)
    assert not torch.allclose(block.norm.running_var[0], block.norm.running_var[1])
    assert sum(p.numel() for p in PassNorm(3).parameters()) == 6


@pytest.mark.parametrize("size", [(2, 2), (8, 16), (11, 5)])
def test_the_pyramid_is_adaptive_pooling(size):
    block = Pyramid(4)
    x = torch.randn(2, 4, *size)
    parts = [
        functional.interpolate(branch(functional.adaptive_avg_pool2d(x, bins)), size, mode="bilinear")
        for bins, branch in zip((1, 2, 4, 8), block.branches, strict=True)
    ]
    torch.testing.assert_close(block(x), block.fuse(torch.cat([*parts, x], 1)).relu())


@pytest.mark.parametrize("patch", [16, 24, 32, 64])
def test_the_local_branch_is_a_loop_over_patches(patch):
    """Each patch of the bottleneck and of the skips alone through the decoder."""
    network = settle(build(patch=patch))
    maps = torch.rand(2, 1, 2 * patch, patch)
    with torch.no_grad():
        whole, alone = network.branches(maps)
        features, skips = maps, []
        for stage in network.encoder:
            features = stage(features)
            skips.append(features)
        features = network.pyramid(features)

        def run(module, *parts):
            return module(*parts)

        torch.testing.assert_close(whole, network.global_decoder(features, skips[:3], run))
        for row in range(2):
            pieces = [
                maps[:, :, row * side : (row + 1) * side, :side]
                for maps, side in zip([*skips[:3], features], (patch, patch // 2, patch // 4, patch // 8), strict=True)
            ]
            expected = network.local_decoder(pieces[3], pieces[:3], run)
            found = alone[:, :, row * patch : (row + 1) * patch]
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_maps_go_on_mirrored_and_the_patch_grid_begins_in_the_corner():
    maps = torch.arange(6.0).view(1, 1, 2, 3)
    rows, columns = [0, 1, 1, 0, 0], [0, 1, 2, 2, 1, 0, 0, 1]
    assert torch.equal(mirror_to(maps, (5, 8)), maps[:, :, rows][:, :, :, columns])
    network = settle(build())
    maps = torch.rand(1, 1, 21, 30)
    with torch.no_grad():
        small, large = network.branches(maps), network.branches(mirror_to(maps, (32, 32)))
    for one, other in zip(small, large, strict=True):
        assert torch.equal(one, other[..., :21, :30])


# --- one prediction of two branches ----------------------------------------------------------------------------------


@pytest.mark.parametrize("combine", ["mean", "global", "local", "union_dilate"])
def test_how_both_branches_become_one(combine):
    network = settle(build(combine=combine))
    with torch.no_grad():
        output = network(noisy_map(20, 20)[0])
    assert torch.equal(output.logits, network._combined(output.aux_logits["global"], output.aux_logits["local"]))
    logits = torch.randn(2, 1, 1, 24, 30, generator=torch.Generator().manual_seed(1)) - 1.2
    output = Output(network._combined(*logits))
    whole, alone = logits.sigmoid()
    if combine == "union_dilate":
        both = ((whole > 0.5) & (alone > 0.5)).float()
        grown = functional.conv2d(both, torch.ones(1, 1, 3, 3), padding=1) > 0
        expected = (whole > 0.5) | grown
        assert (expected != (whole > 0.5)).any()
        assert torch.equal(output.labels() == 1, expected[:, 0])
    else:
        expected = {"mean": (whole + alone) / 2, "global": whole, "local": alone}[combine]
        torch.testing.assert_close(output.probabilities()[:, 1:], expected)


def test_the_mean_of_saturated_branches_is_finite():
    network = build()
    values = torch.tensor([-200.0, -30.0, 0.0, 30.0, 200.0])
    whole, alone = values.view(1, 1, 1, 5), values.view(1, 1, 5, 1)
    found = network._combined(whole.expand(1, 1, 5, 5), alone.expand(1, 1, 5, 5))
    assert found.isfinite().all()
    expected = (whole.double().sigmoid() + alone.double().sigmoid()) / 2
    torch.testing.assert_close(found.double().sigmoid(), expected, rtol=1e-5, atol=1e-7)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patch": 20}, "patch: expected a multiple of 8, at least 16, got 20"),
        ({"width": 3}, "width: expected a multiple of 2, at least 2, got 3"),
        ({"regular_weight": -1}, "regular_weight: expected a number from 0, got -1"),
        ({"keep_above": 1.5}, "keep_above: expected a probability"),
        ({"classes": 1}, "expected at least two classes"),
    ],
)
def test_refusals(options, message):
    options = {"classes": 2, **options}
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        build(**options)

"""ThreshNet: sizes, both branches, losses against slow twins, what refiners must do, several classes."""

import math
import os

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from segfocus.methods.threshnet import ThreshNet, boundary_loss, edges, focal_loss
from segfocus.methods.threshnet_blocks import PassNorm, Pyramid, RecurrentConv, mirror_to, recomputed
from segfocus.output import Output


def build(classes: int = 2, **options) -> ThreshNet:
    torch.manual_seed(0)
    return ThreshNet(classes, **{"width": 4, "patch": 16, **options})


def noisy_map(height: int = 37, width: int = 51, classes: int = 2, batch: int = 1, seed: int = 0):
    """Probabilities [batch, classes, h, w] that lean to a target with stripes, and that target with a void strip."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.arange(height)[:, None], torch.arange(width)
    target = ((columns + rows // 2) // 7 % classes).expand(batch, height, width).clone()
    truth = functional.one_hot(target, classes).permute(0, 3, 1, 2)
    noise = torch.rand(batch, classes, height, width, generator=generator)
    probabilities = (2.0 * truth + 3 * noise).softmax(1)
    target[:, -2:] = 255
    return probabilities, target


def settle(network: nn.Module) -> nn.Module:
    """Running statistics of a few passes, so that evaluation is not that of a fresh network."""
    classes = network.num_classes
    with torch.no_grad():
        for seed in range(3):
            network.train()(noisy_map(classes=classes, batch=2, seed=seed)[0])
    return network.eval()


# --- sizes --------------------------------------------------------------------------------------------------------


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


# --- what every refiner must do -----------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("size", [(37, 51), (1, 1), (7, 40), (32, 32)])
def test_any_size_gives_logits_at_the_size_of_the_maps(classes, size):
    network = settle(build(classes))
    probabilities = torch.rand(2, classes, *size).softmax(1)
    with torch.no_grad():
        output = network(probabilities)
    channels = 1 if classes == 2 else classes
    assert isinstance(output, Output)
    assert output.logits.shape == (2, channels, *size)
    assert output.logits.isfinite().all()
    assert {name: tuple(value.shape) for name, value in output.aux_logits.items()} == dict.fromkeys(
        ("initial", "global", "local"), (2, channels, *size)
    )
    torch.testing.assert_close(output.probabilities().sum(1), torch.ones(2, *size))


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


@pytest.mark.parametrize("classes", [2, 3])
def test_a_batch_without_labels_gives_a_finite_zero_with_gradient(classes):
    network = build(classes).train()
    probabilities, target = noisy_map(classes=classes)
    terms = network.loss(network(probabilities), torch.full_like(target, 255))
    assert all(value == 0 for value in terms.values())
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("classes", [2, 3])
def test_autocast_keeps_the_losses_and_their_gradients_finite(classes):
    network = build(classes).train()
    probabilities, target = noisy_map(classes=classes)
    exact = network.loss(network(probabilities), target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(probabilities)
        terms = network.loss(output, target)
    assert output.logits.dtype == torch.float32
    for name, value in terms.items():
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact[name].item(), rel=0.1, abs=0.02)
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_same_seed_same_result_and_the_picture_is_not_read():
    probabilities, target = noisy_map()
    results = []
    for image in (None, torch.rand(1, 3, 37, 51)):
        network = build().train()
        output = network(probabilities, image)
        sum(network.loss(output, target).values()).backward()
        results.append([output.logits.detach(), *(p.grad for p in network.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


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


def test_overfits_a_map_whose_best_threshold_differs_from_place_to_place():
    """A disc and a bar; the base's map is blurred, noisy and shifted by a slow wave along the columns."""
    rows, columns = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    target = (((rows - 20) ** 2 + (columns - 24) ** 2 < 150) | ((columns - 50).abs() < 4)).long()[None]
    noise = functional.avg_pool2d(torch.randn(1, 1, 68, 68, generator=torch.Generator().manual_seed(0)), 5, 1)
    blurred = functional.avg_pool2d(functional.pad(target[None].float(), (2, 2, 2, 2), mode="replicate"), 5, 1)
    logit = 5 * blurred - 2.5 + 3 * noise - 1.5 * torch.sin(columns / 20) - 1
    probabilities = torch.cat([-logit / 2, logit / 2], 1).softmax(1)

    def overlap(labels: Tensor) -> float:
        found, truth = labels == 1, target == 1
        return float((found & truth).sum() / (found | truth).sum())

    network = build(width=8, patch=16, boundary_weight=0.05).train()  # as published, edges slow the first steps
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for step in range(60):
        if step == 45:  # the weights settle, so that running statistics can follow
            optimizer.param_groups[0]["lr"] = 1e-3
        total = torch.stack(list(network.loss(network(probabilities), target).values())).sum()
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    with torch.no_grad():
        found = network.eval()(probabilities).labels()
    assert overlap(probabilities.argmax(1)) < 0.5
    assert overlap(found) > 0.8


# --- blocks and branches ------------------------------------------------------------------------------------------


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


# --- one prediction of two branches -------------------------------------------------------------------------------


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


# --- losses -------------------------------------------------------------------------------------------------------


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


# --- several classes ----------------------------------------------------------------------------------------------


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


# --- export and refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder": "r3"}, "encoder: expected one of r2, resnet34, got 'r3'"),
        ({"combine": "max"}, "combine: expected one of mean, global, local, union_dilate"),
        ({"patch": 20}, "patch: expected a multiple of 8, at least 16, got 20"),
        ({"width": 3}, "width: expected a multiple of 2, at least 2, got 3"),
        ({"regular_weight": -1}, "regular_weight: expected a number from 0, got -1"),
        ({"keep_above": 1.5}, "keep_above: expected a probability"),
        ({"classes": 1}, "expected at least two classes"),
    ],
)
def test_refusals(options, message):
    options = {"classes": 2, **options}
    if os.environ.get("SEGFOCUS_TYPE_HOOK", "1") != "0" and {"encoder", "combine"} & set(options):
        pytest.skip("the type checks of the suite refuse it first")
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        build(**options)


def test_a_map_of_the_foreground_alone_is_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"probabilities: expected 2 channels.*got 1; try cat"):
        build()(torch.rand(1, 1, 20, 20))

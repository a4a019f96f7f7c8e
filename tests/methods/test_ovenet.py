"""OVeNet: the contract on two bases, what the paper and its released code fix, and post-hoc training."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from segfocus.backbone import LiteBackbone, build_backbone
from segfocus.losses import cross_entropy, ohem_cross_entropy
from segfocus.methods.base import Base, BaseMaps
from segfocus.methods.bases import FoRNetBase
from segfocus.methods.fornet import FoRNet
from segfocus.methods.light import LightBase
from segfocus.methods.ovenet import OffsetHead, OVeNet
from segfocus.ops.offsets import agreement
from segfocus.ops.resample import enlarge, pad_to_multiple
from segfocus.output import logit_channels
from tests.contract import SegmenterContract, scene


def light_base(classes: int) -> LightBase:
    return LightBase(build_backbone("test_resnet", pretrained=False), classes, channels=16)


def build_light(classes: int) -> OVeNet:
    return OVeNet(light_base(classes), classes)


def build_fornet(classes: int) -> OVeNet:
    return OVeNet(FoRNetBase(FoRNet(LiteBackbone(), classes)), classes, trunk="convs", bound="radial", iterations=1)


def build_frozen(classes: int) -> OVeNet:
    return OVeNet(light_base(classes), classes, trunk="convs", frozen=True)


class TestOnALightHead(SegmenterContract):
    builder = "tests.methods.test_ovenet:build_light"


class TestOnFoRNet(SegmenterContract):
    builder = "tests.methods.test_ovenet:build_fornet"


class TestOnAFrozenBase(SegmenterContract):
    builder = "tests.methods.test_ovenet:build_frozen"
    unused_without_gradient = ("base.",)  # it learns nothing

    test_overfits_one_scene = None  # type: ignore[assignment]  # an untrained base that stays so


class Toy(Base):
    """Cells of `stride` pixels; logits and features are 1x1 convolutions of the cells' colours; can branch."""

    def __init__(
        self, classes: int, *, stride: int = 4, channels: int = 8, feature_stride: int = 0, auxiliary: bool = False
    ):
        super().__init__()
        self.num_classes, self.stride, self.feature_channels = classes, stride, channels
        self.feature_stride = feature_stride or stride
        self.branch_stages = (4,)
        self.features, self.norm = nn.Conv2d(3, channels, 1), nn.BatchNorm2d(channels)
        self.classify = nn.Conv2d(channels, logit_channels(classes), 1)
        self.region = nn.Conv2d(channels, logit_channels(classes), 1) if auxiliary else None
        self.auxiliary_weights = {"region": 0.4} if auxiliary else {}

    def maps(self, image, branch_stage=None) -> BaseMaps:
        image = pad_to_multiple(image, 32, 32)
        features = self.norm(self.features(nn.functional.avg_pool2d(image, self.stride)))
        auxiliary = {} if self.region is None else {"region": self.region(features)}
        fine = nn.functional.avg_pool2d(features, self.feature_stride // self.stride)
        return BaseMaps(self.classify(features), fine, auxiliary, () if branch_stage is None else (features,))

    def branch(self, stage: int) -> nn.Module:
        return Take() if stage == 4 else super().branch(stage)


class Take(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, shared: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return self.scale * shared[0]


def awake(network: OVeNet, spread: float = 1.0) -> OVeNet:
    """The same network with a head that says something."""
    torch.manual_seed(7)
    nn.init.normal_(network.head[-1].weight, std=spread)
    nn.init.normal_(network.head[-1].bias, std=0.1)
    return network


def fixed(network: OVeNet, x: float, y: float, trust: float) -> OVeNet:
    """The same network with one offset (before the bound) and confidence everywhere."""
    nn.init.zeros_(network.head[-1].weight)
    network.head[-1].bias.data = torch.tensor([x, y, trust])
    return network


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# --- what it computes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"units": "normalized"}, {"bound": "radial"}, {"iterations": 2}])
def test_an_untrained_head_changes_nothing_at_all(options):
    torch.manual_seed(0)
    network = OVeNet(light_base(4), 4, **options).eval()
    image, _ = scene()
    with torch.no_grad():
        output = network(image)
        logits = network.base.maps(image).logits
    assert torch.equal(output.aux_logits["initial"], logits[..., :25, :41])
    assert torch.equal(output.aux_logits["seed"], output.aux_logits["initial"])
    dense = output.aux_logits["initial"] + 0  # torch enlarges cut maps with other roundings
    assert torch.equal(output.logits, enlarge(dense, 4, 1, (97, 161)))
    assert not output.offsets.any()
    assert (output.confidence == 0.5).all()


def test_on_whole_multiples_it_is_the_base_bit_for_bit():
    from segfocus.methods.plain import PlainSegmenter

    torch.manual_seed(0)
    base = light_base(4).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(OVeNet(base, 4).eval()(image).logits, PlainSegmenter(base, 4).eval()(image).logits)


def test_shapes_and_ranges():
    network = awake(OVeNet(light_base(4), 4)).train()
    output = network(torch.rand(2, 3, 97, 161))
    assert output.offsets.shape == (2, 2, 25, 41)
    assert output.confidence.shape == (2, 1, 25, 41)
    assert {name: tuple(value.shape) for name, value in output.aux_logits.items()} == {
        "initial": (2, 4, 25, 41),
        "seed": (2, 4, 25, 41),
    }
    assert 0 <= output.confidence.min() < output.confidence.max() <= 1
    x = output.offsets[:, 0] / 4 + torch.arange(41)
    y = output.offsets[:, 1] / 4 + torch.arange(25)[:, None]
    assert -1e-3 <= x.min() <= x.max() <= 40 + 1e-3  # seeds lie in the picture
    assert -1e-3 <= y.min() <= y.max() <= 24 + 1e-3


@pytest.mark.parametrize(("trust", "wins"), [(-40.0, "initial"), (40.0, "seed")])
@pytest.mark.parametrize("fusion", ["logits", "probabilities"])
@pytest.mark.parametrize("classes", [2, 4])
def test_no_confidence_is_the_initial_and_full_confidence_the_seed_s_prediction(trust, wins, fusion, classes):
    network = fixed(OVeNet(Toy(classes), classes, fusion=fusion), 0.3, -0.2, trust).eval()
    with torch.no_grad():
        output = network(torch.rand(1, 3, 64, 64))
    cells = output.probabilities()[..., 0:1, 0:1]
    winner = nn.functional.interpolate(output.aux_logits[wins], scale_factor=4, mode="bilinear")
    assert not torch.equal(output.aux_logits["initial"], output.aux_logits["seed"])
    if fusion == "logits":
        torch.testing.assert_close(output.logits, winner)
    else:
        from segfocus.output import probabilities

        torch.testing.assert_close(cells, probabilities(winner)[..., 0:1, 0:1])


@pytest.mark.parametrize("classes", [2, 5])
def test_fused_probabilities_are_the_mixture_and_not_softmaxed_twice(classes):
    """Equation 4 as written: (1 - F) S_i + F S_s, on a base of stride 1, where nothing is enlarged."""
    from segfocus.output import probabilities

    network = awake(OVeNet(Toy(classes, stride=1), classes, fusion="probabilities")).eval()
    with torch.no_grad():
        output = network(torch.rand(2, 3, 32, 32))
    share = output.confidence
    first, second = (probabilities(output.aux_logits[name]) for name in ("initial", "seed"))
    torch.testing.assert_close(output.probabilities(), (1 - share) * first + share * second)


def test_fused_logits_are_the_weighted_mean():
    network = awake(OVeNet(Toy(4, stride=1), 4)).eval()
    with torch.no_grad():
        output = network(torch.rand(2, 3, 32, 32))
    share = output.confidence
    expected = (1 - share) * output.aux_logits["initial"] + share * output.aux_logits["seed"]
    torch.testing.assert_close(output.logits, expected)


def test_an_offset_of_one_cell_to_the_right_is_a_shift():
    network = fixed(OVeNet(Toy(4), 4, max_offset=[8, 8]), torch.atanh(torch.tensor(0.5)).item(), 0.0, 40.0).eval()
    with torch.no_grad():
        output = network(torch.rand(1, 3, 64, 64))
    initial, seed = output.aux_logits["initial"], output.aux_logits["seed"]
    torch.testing.assert_close(seed[..., :-1], initial[..., 1:])
    assert torch.equal(seed[..., -1], initial[..., -1])
    torch.testing.assert_close(output.offsets[:, 0, :, :-1], torch.full((1, 16, 15), 4.0))


@pytest.mark.parametrize(
    ("options", "height", "width", "expected"),
    [
        ({"max_offset": 16}, 256, 512, (16, 16)),
        ({"max_offset": 16}, 512, 1024, (16, 16)),
        ({"max_offset": [24, 8]}, 256, 512, (24, 8)),
        ({"units": "normalized", "tau": 0.2}, 512, 1024, (102, 51 - 0.2)),  # fact sheet 1.3: x 25.5 cells, y 12.7
        ({"units": "normalized", "tau": 0.5}, 512, 1024, (255, 127)),
    ],
)
def test_the_longest_offset(options, height, width, expected):
    network = OVeNet(Toy(4), 4, **options)
    grid = (1, 2, height // 4, width // 4)
    raw = torch.full(grid, 50.0)
    offsets = 4 * network.offset_cells(raw)
    assert offsets[0, :, 0, 0].tolist() == pytest.approx(expected)
    offsets = 4 * network.offset_cells(-raw)
    assert offsets[0, :, -1, -1].tolist() == pytest.approx([-value for value in expected])


def test_the_radial_bound_limits_the_length_and_keeps_the_direction():
    network = OVeNet(Toy(4), 4, bound="radial", max_offset=20)
    raw = (3 * torch.randn(1, 2, 9, 9)).requires_grad_()
    raw.data[:, :, 4, 4] = 0
    offsets = 4 * network.offset_cells(raw)
    assert offsets.norm(dim=1).max() <= 20 * (1 + 1e-5)
    centre = 4 * network.offset_cells(raw[..., 4:5, 4:5].expand(1, 2, 99, 99))
    assert not centre.any()
    direction = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1).expand(1, 2, 99, 99)
    torch.testing.assert_close(
        4 * network.offset_cells(direction)[0, :, 49, 49], 20 * torch.tensor([0.6, 0.8]) * torch.tensor(5.0).tanh()
    )
    offsets.sum().backward()
    assert raw.grad.isfinite().all()
    assert raw.grad[0, :, 4, 4].tolist() == pytest.approx([20, 20], rel=1e-4)  # tanh's slope at zero


def test_refinement_adds_the_offset_found_at_the_end():
    """One row: 2 cells to the right where the raw field says so, then by what stands there."""
    network = OVeNet(Toy(4), 4, iterations=1, max_offset=8)
    raw = torch.zeros(1, 2, 1, 6)
    raw[0, 0, 0] = torch.atanh(torch.tensor([0.5, 0.0, 0.0, 0.0, -0.5, 0.0]))  # +1 cell at column 0, -1 at column 4
    torch.testing.assert_close(network.offset_cells(raw)[0, 0, 0], torch.tensor([1.0, 0, 0, 0, -1, 0]))
    raw[0, 0, 0, 1] = torch.atanh(torch.tensor(0.25))  # half a cell more from column 1
    torch.testing.assert_close(network.offset_cells(raw)[0, 0, 0], torch.tensor([1.5, 0.75 - 0.0, 0, 0, -1, 0]))


def test_a_mirrored_picture_gives_the_mirrored_prediction():
    torch.manual_seed(0)
    network = awake(OVeNet(Toy(4), 4)).eval()
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        straight, mirrored = network(image), network(image.flip(-1))
        # the toy's head sees no direction: turn its x by hand, as a network that learnt mirrored scenes would
        network.head[-1].weight.data[0] *= -1
        network.head[-1].bias.data[0] *= -1
        turned = network(image.flip(-1))
    torch.testing.assert_close(turned.offsets[:, 0].flip(-1), -straight.offsets[:, 0])
    torch.testing.assert_close(turned.offsets[:, 1].flip(-1), straight.offsets[:, 1])
    torch.testing.assert_close(turned.logits.flip(-1), straight.logits, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mirrored.logits.flip(-1), straight.logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("units", ["pixel", "normalized"])
def test_pixels_mean_the_same_on_a_larger_picture_and_shares_do_not(units):
    """The same scene, alone and as the upper left quarter of a larger picture; a toy without context."""
    network = awake(OVeNet(Toy(4), 4, units=units, max_offset=12), 0.3).eval()
    small = torch.rand(1, 3, 64, 64)
    large = nn.functional.pad(small, (0, 64, 0, 64))
    with torch.no_grad():
        one, other = network(small), network(large)
    inner = (..., slice(0, 10), slice(0, 10))  # whose seeds are inside both
    first, second = one.offsets[inner], other.offsets[inner]
    assert first.abs().max() > 1
    if units == "pixel":
        assert torch.equal(first, second)
        assert torch.equal(one.aux_logits["seed"][inner], other.aux_logits["seed"][inner])
    else:
        inside = (first.abs() < 20) & (first > -1)  # not cut at the upper left border
        torch.testing.assert_close(second[inside], first[inside] * (31 / 15))


def test_features_of_another_stride_than_the_logits():
    network = awake(OVeNet(Toy(4, stride=4, feature_stride=8), 4)).train()
    image, target = scene(70, 90)
    output = network(image)
    assert output.offsets.shape == (1, 2, 18, 23)
    sum(network.loss(output, target).values()).backward()
    assert network.head[0].weight.grad.any()


def test_state_dict_depends_on_neither_batch_nor_crop():
    network = build_light(4).train()
    before = {name: value.shape for name, value in network.state_dict().items()}
    network(torch.rand(2, 3, 64, 96))
    network(torch.rand(1, 3, 40, 48))
    assert {name: value.shape for name, value in network.state_dict().items()} == before
    assert not [name for name in before if not name.startswith(("base.", "head."))]


# --- losses -------------------------------------------------------------------------------------------------------


def test_loss_terms_are_what_they_are_named():
    network = awake(OVeNet(Toy(4), 4, class_weights=[0.5, 1, 2, 1]))
    image, target = scene(64, 64)
    output = network(image)
    terms = network.loss(output, target)
    weights = torch.tensor([0.5, 1, 2, 1])
    assert set(terms) == {"fused", "seed", "initial", "confidence"}
    torch.testing.assert_close(terms["fused"], cross_entropy(output.logits, target, class_weights=weights))
    for name in ("seed", "initial"):
        large = enlarge(output.aux_logits[name], 4, 1, (64, 64))
        torch.testing.assert_close(terms[name], 0.5 * cross_entropy(large, target, class_weights=weights))
    same, valid = agreement(target, output.offsets, cell=4)
    expected = nn.functional.binary_cross_entropy(output.confidence[:, 0][valid], same[valid].float())
    torch.testing.assert_close(terms["confidence"], expected, rtol=1e-4, atol=1e-5)


def test_a_weight_of_zero_switches_a_term_off():
    network = OVeNet(Toy(4), 4, seed_weight=0, initial_weight=0, confidence_weight=0)
    image, target = scene(64, 64)
    assert set(network.loss(network(image), target)) == {"fused"}


def test_the_confidence_loss_trains_the_confidence_alone():
    network = awake(OVeNet(Toy(4), 4))
    image, target = scene(64, 64)
    network.loss(network(image), target)["confidence"].backward()
    gradient = network.head[-1].weight.grad[:, :, 0, 0]
    assert gradient[2].any()
    assert not gradient[:2].any()
    assert network.base.classify.weight.grad is None


def test_confidence_loss_by_hand_on_both_grids():
    """Offsets of one cell (4 px) to the right; the left half is class 0, the right half 1, one void column."""
    image = torch.rand(1, 3, 32, 32)
    target = (torch.arange(32) >= 16).long().expand(1, 32, 32).clone()
    target[..., 0:4] = 255
    trust = 1.2
    for grid, valid_columns, wrong_columns, columns in (("cells", 7, 1, 8), ("labels", 28, 4, 32)):
        for reduction in ("mean", "official"):
            network = OVeNet(
                Toy(2), 2, max_offset=8, confidence_grid=grid, confidence_reduction=reduction, confidence_weight=2.0
            )
            fixed(network, torch.atanh(torch.tensor(0.5)).item(), 0.0, trust).eval()
            loss = network.loss(network(image), target)["confidence"].item()
            share = torch.tensor(trust).sigmoid()
            right, wrong = -share.log().item(), -(1 - share).log().item()
            total = (valid_columns - wrong_columns) * right + wrong_columns * wrong
            expected = total / (valid_columns if reduction == "mean" else columns)
            assert loss == pytest.approx(2 * expected, rel=1e-4)


@pytest.mark.parametrize("grid", ["cells", "labels"])
def test_the_confidence_loss_and_the_batch_size(grid):
    image, target = scene(64, 64)
    target = target.masked_fill(target == 255, 0)
    for reduction, factor in (("mean", 1), ("official", 3)):
        torch.manual_seed(0)
        network = awake(OVeNet(Toy(4), 4, confidence_reduction=reduction, confidence_grid=grid)).eval()
        one = network.loss(network(image), target)["confidence"]
        three = network.loss(network(image.repeat(3, 1, 1, 1)), target.repeat(3, 1, 1))["confidence"]
        torch.testing.assert_close(three, factor * one)
        if reduction == "mean":
            mean = one
        else:
            torch.testing.assert_close(one, mean)  # without void, a batch of one is the mean


def test_void_takes_no_part_in_the_confidence_loss():
    network = awake(OVeNet(Toy(4), 4)).eval()
    image, target = scene(64, 64)
    output = network(image)
    _, valid = agreement(target, output.offsets, cell=4)
    assert not valid.all()
    before = network.loss(output, target)["confidence"]
    changed = type(output)(
        logits=output.logits,
        offsets=output.offsets,
        confidence=torch.where(valid[:, None], output.confidence, torch.full_like(output.confidence, 0.999)),
        aux_logits=output.aux_logits,
    )
    torch.testing.assert_close(network.loss(changed, target)["confidence"], before)


def test_a_wrong_certainty_stays_finite():
    network = fixed(OVeNet(Toy(4), 4), 0.0, 0.0, -200.0)
    image, target = scene(64, 64)
    loss = network.loss(network(image), target)["confidence"]
    assert loss.item() == pytest.approx(16.118, abs=1e-3)  # -log(1e-7)
    loss.backward()
    assert network.head[-1].bias.grad.isfinite().all()


def slow_ohem(probabilities, threshold, min_kept):
    """Hard pixels as released: of p_t ascending, below max(p_t[min_kept], threshold)."""
    ranked = sorted(probabilities)
    bound = max(ranked[min(min_kept, len(ranked) - 1)], threshold)
    return [p for p in ranked if p < bound]


@pytest.mark.parametrize(
    ("probabilities", "released"),
    [
        ([0.1, 0.2, 0.95, 0.5, 0.97, 0.99, 0.3, 0.98], 4),  # 0.9 decides
        ([0.95, 0.91, 0.96, 0.97, 0.98, 0.99, 0.93, 0.94], 1),  # all easy: the share decides
        ([0.95] * 8, 0),  # all easy and equal: the released code is left with nothing, a mean of nothing
        ([0.95], 0),  # fewer pixels than are kept at least
        ([0.9, 0.2, 0.9, 0.95, 0.96, 0.97, 0.98, 0.99], 1),  # on the threshold: out there, in here
    ],
)
def test_hard_examples_by_hand(probabilities, released):
    """Ours keeps what the released rule keeps, and what ties with it: so it always keeps something."""
    truth = torch.tensor(probabilities, dtype=torch.float64)
    logits = torch.stack([truth.log(), (1 - truth).log()])[None, :, None]
    logits = torch.cat([logits, torch.full_like(logits[:, :1], -1e9)], 1)  # three classes: softmax
    kept = slow_ohem(probabilities, 0.9, max(1, len(probabilities) // 8))
    assert len(kept) == released
    bound = max([*kept, min(probabilities), 0.9 if min(probabilities) <= 0.9 else 0])
    values = [-torch.tensor(p, dtype=torch.float64).log().item() for p in probabilities if p <= bound]
    loss = ohem_cross_entropy(logits, torch.zeros(1, 1, len(probabilities), dtype=torch.long), 255, threshold=0.9)
    share = ohem_cross_entropy(
        logits, torch.zeros(1, 1, len(probabilities), dtype=torch.long), 255, threshold=0.9, min_kept=1 / 8
    )
    assert share.item() == pytest.approx(sum(values) / len(values), rel=1e-5)
    assert loss.isfinite()


def test_ohem_mines_each_prediction_s_own_pixels_and_leaves_auxiliary_maps_alone():
    network = awake(OVeNet(Toy(4, auxiliary=True), 4, ohem=True))
    image, target = scene(64, 64)
    output = network(image)
    terms = network.loss(output, target)
    for name, factor in (("fused", 1.0), ("seed", 0.5), ("initial", 0.5)):
        logits = output.logits if name == "fused" else enlarge(output.aux_logits[name], 4, 1, (64, 64))
        expected = ohem_cross_entropy(logits, target, threshold=0.9, min_kept=1 / 8)
        torch.testing.assert_close(terms[name], factor * expected)
    sizes = {"region_fused": 1.0, "region_seed": 0.5, "region": 0.5}
    parts = [f * cross_entropy(enlarge(output.aux_logits[n], 4, 1, (64, 64)), target) for n, f in sizes.items()]
    torch.testing.assert_close(terms["region"], 0.4 * sum(parts))
    void = network.loss(output, torch.full_like(target, 255))
    assert all(value == 0 for value in void.values())
    sum(void.values()).backward()


def test_one_field_and_one_confidence_serve_the_auxiliary_maps_too():
    from segfocus.ops.offsets import sample_at

    network = awake(OVeNet(Toy(4, auxiliary=True), 4))
    output = network(torch.rand(1, 3, 64, 64))
    first, second = output.aux_logits["region"], output.aux_logits["region_seed"]
    torch.testing.assert_close(second, sample_at(first, output.offsets / 4))
    torch.testing.assert_close(output.aux_logits["region_fused"], first + output.confidence * (second - first))


# --- a finished base ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trunk", ["features", "convs", "stage4"])
def test_post_hoc_training_leaves_the_base_as_it_was_bit_for_bit(trunk):
    torch.manual_seed(0)
    base = Toy(4, auxiliary=True)
    network = OVeNet(base, 4, trunk=trunk, frozen=True)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    image, target = scene(64, 64)
    expected = base.eval()(image)[0]
    network.train()
    optimizer = torch.optim.SGD(network.parameters(), 0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        terms = network.loss(network(image), target)
        assert set(terms) == {"fused", "seed", "confidence", "region"}
        sum(terms.values()).backward()
        optimizer.step()
    assert network.training
    assert not base.training
    for name, value in base.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert torch.equal(network(image).aux_logits["initial"], expected)
    assert network.head[-1].weight.any()
    assert all(p.requires_grad for p in [*network.head.parameters(), *network.trunk.parameters()])
    assert network.head.training


def test_joint_training_moves_the_base():
    network = OVeNet(Toy(4), 4).train()
    image, target = scene(64, 64)
    before = network.base.norm.running_mean.clone()
    sum(network.loss(network(image), target).values()).backward()
    assert network.base.classify.weight.grad.any()
    assert not torch.equal(network.base.norm.running_mean, before)


def test_cached_maps_train_like_pictures():
    network = awake(OVeNet(light_base(4), 4, frozen=True)).train()
    image, target = scene(70, 90)
    with torch.no_grad():
        maps = network.base.maps(image)
    one, other = network.fuse(maps, (70, 90)), network(image)
    assert torch.equal(one.logits, other.logits)
    assert network.loss(one, target) == network.loss(other, target)


def test_borrowing_repairs_a_boundary():
    """A base that is wrong beside an edge: a trained head alone gets it right, by pointing away from the edge."""
    torch.manual_seed(0)
    image = torch.zeros(1, 3, 32, 64)
    image[:, 0] = torch.linspace(0, 1, 64)
    target = (torch.arange(64) >= 28).long().expand(1, 32, 64).clone()
    base = Toy(3, stride=1, channels=4)
    base.eval()
    base.features.weight.data.zero_()[0, 0] = 1.0
    base.features.bias.data.zero_()
    base.classify.weight.data.zero_()
    base.classify.weight.data[:2, 0, 0, 0] = torch.tensor([-8.0, 8.0])
    base.classify.bias.data = torch.tensor([4.0, -4.0, -20.0])  # an edge at column 32 instead of 28
    network = OVeNet(base, 3, frozen=True, hidden=16, max_offset=16).train()
    optimizer = torch.optim.AdamW([p for p in network.parameters() if p.requires_grad], 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        sum(network.loss(network(image), target).values()).backward()
        optimizer.step()
    output = network(image)
    labels = output.labels()
    initial = output.aux_logits["initial"].argmax(1)
    assert (initial != target).sum() >= 3 * 32
    assert (labels != target).sum() <= 32
    assert output.offsets[0, 0, :, 29:31].mean() > 2  # to the right, where class 1 is certain


# --- sizes, export, refusals --------------------------------------------------------------------------------------


def test_the_released_head_has_the_counted_size():
    """522,723 parameters on the 720 channels of HRNetV2-W48 (fact sheet 1.2); nothing else is added."""
    with torch.device("meta"):
        network = OVeNet(Toy(19, channels=720), 19, trunk="stage4")
        assert count(OffsetHead(720, 720)) == count(network.head) == 522_723
        assert count(OVeNet(Toy(19, channels=32), 19)) - count(Toy(19, channels=32)) == 32 * 32 + 32 + 64 + 99


def test_the_head_on_a_lite_network_is_light():
    """Parameters and multiplications that the head adds to a lite FoR-Net at 360x480."""
    sums = []
    for wrap in (False, True):
        with torch.device("meta"):
            base = FoRNetBase(FoRNet(LiteBackbone(), 11)).eval()
            network = OVeNet(base, 11).eval() if wrap else base
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network(torch.empty(1, 3, 360, 480, device="meta"))
        sums.append((count(network), counter.get_total_flops() / 2e9))
    assert sums[1][0] - sums[0][0] == 1219
    assert sums[1][1] - sums[0][1] == pytest.approx((32 * 32 + 32 * 3) * 90 * 120 / 1e9, rel=1e-6)


def build_every_other_choice(classes: int) -> OVeNet:
    return OVeNet(
        light_base(classes),
        classes,
        trunk="convs",
        units="normalized",
        bound="radial",
        fusion="probabilities",
        iterations=1,
        frozen=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize("builder", ["build_light", "build_every_other_choice"])
def test_onnx_gives_the_same_labels_at_two_sizes(builder, tmp_path):
    """In a process of its own: the exporter does not trace through the shape checks of the test suite."""
    script = textwrap.dedent(
        f"""
        import sys
        import numpy, onnxruntime, torch
        from tests.methods.test_ovenet import awake, {builder}

        class Exported(torch.nn.Module):
            def __init__(self, network):
                super().__init__()
                self.network = network

            def forward(self, image):
                output = self.network(image)
                return output.logits, output.offsets, output.confidence

        torch.manual_seed(0)
        network = Exported(awake({builder}(4)).eval())
        rows, columns = torch.export.Dim("rows", min=3, max=60), torch.export.Dim("columns", min=3, max=60)
        shapes = ({{0: torch.export.Dim("batch", min=1, max=8), 2: 32 * rows, 3: 32 * columns}},)
        image = torch.rand(2, 3, 96, 160)
        torch.onnx.export(network, (image,), sys.argv[1], dynamo=True, dynamic_shapes=shapes, opset_version=18)
        session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
        for size in ((2, 3, 96, 160), (1, 3, 192, 128)):
            image = torch.rand(*size)
            logits, offsets, confidence = session.run(None, {{session.get_inputs()[0].name: image.numpy()}})
            with torch.no_grad():
                expected = network(image)
            assert expected[1].abs().max() > 1
            for got, value in zip((logits, offsets, confidence), expected):
                numpy.testing.assert_allclose(got, value.numpy(), rtol=1e-3, atol=1e-3)
            assert (logits.argmax(1) == expected[0].argmax(1).numpy()).all()
        """
    )
    environment = {
        **os.environ, "SEGFOCUS_TYPE_HOOK": "0", "PYTHONWARNINGS": "ignore", "JAXTYPING_DISABLE": "1", "PYTHONPATH": "."
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "network.onnx")],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def test_bfloat16_autocast_keeps_coordinates_exact_on_a_wide_picture():
    """A cell at column 500 would move by two cells if positions were rounded to bfloat16."""
    network = fixed(OVeNet(Toy(4), 4, max_offset=8), torch.atanh(torch.tensor(0.5)).item(), 0.0, 0.0).eval()
    image = torch.rand(1, 3, 32, 2048)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = network(image)
    assert output.offsets.dtype == output.confidence.dtype == torch.float32
    initial, seed = output.aux_logits["initial"].float(), output.aux_logits["seed"].float()
    torch.testing.assert_close(seed[..., :-1], initial[..., 1:], rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trunk": "stage3"}, "expected a stage to branch at"),
        ({"max_offset": 0}, "max_offset: expected positive pixels"),
        ({"max_offset": [1, 2, 3]}, "max_offset: expected positive pixels"),
        ({"tau": -1.0}, "tau: expected a positive share"),
        ({"hidden": 0}, "hidden: expected a whole number, at least 1, got 0"),
        ({"depth": 0}, "depth: expected a whole number, at least 1"),
        ({"iterations": -1}, "iterations: expected a whole number, at least 0"),
        ({"class_weights": [1.0]}, "expected 4 values, got 1"),
        ({"seed_weight": -0.5}, "seed_weight: expected a factor from 0, got -0.5"),
    ],
)
def test_wrong_options_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        OVeNet(Toy(4), 4, **options)


def test_a_base_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="base: expected 5 classes, got 4"):
        OVeNet(Toy(4), 5)
    base = Toy(4)
    base.feature_channels = 0
    with pytest.raises(ValueError, match="expected features to read offsets from, got none from Toy"):
        OVeNet(base, 4)
    network = OVeNet(Toy(4), 4)
    network.base.feature_channels = 9
    with pytest.raises(ValueError, match="features of 9 channels, as it says, got 8"):
        network(torch.rand(1, 3, 32, 32))

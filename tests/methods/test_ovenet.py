"""OVeNet: the contract on several bases, and what it computes."""

import pytest
import torch
from torch import nn

from segfocus.methods.ovenet import OVeNet
from segfocus.ops.resample import enlarge
from tests.contract import SegmenterContract, scene
from tests.methods.ovenets import Toy, awake, build_light, fixed, light_base
from tests.methods.test_adapters import deeplab_mobile, lraspp, segformer, smp_fpn, smp_unet


class TestOnALightHead(SegmenterContract):
    builder = "tests.methods.ovenets:build_light"


class TestOnFoRNet(SegmenterContract):
    builder = "tests.methods.ovenets:build_fornet"


class TestBorrowing(SegmenterContract):
    """What holds of a head that starts at zero may hold of its base alone."""

    builder = "tests.methods.ovenets:build_borrowing"

    test_overfits_one_scene = None  # type: ignore[assignment]  # from such offsets it takes longer


class TestOnAFrozenBase(SegmenterContract):
    builder = "tests.methods.ovenets:build_frozen"
    unused_without_gradient = ("base.",)  # it learns nothing

    test_overfits_one_scene = None  # type: ignore[assignment]  # an untrained base that stays so


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


@pytest.mark.parametrize("make", [smp_unet, smp_fpn, lraspp, deeplab_mobile, segformer])
def test_on_networks_of_other_libraries(make):
    """Strides 1 to 16, odd sizes, a batch of one, auxiliary maps, and then the head alone."""
    for frozen in (False, True):
        torch.manual_seed(0)
        base = make(4)
        network = awake(OVeNet(base, 4, trunk="convs", hidden=8, frozen=frozen)).train()
        before = {name: value.clone() for name, value in base.state_dict().items()}
        image, target = scene(70, 90)
        output = network(image)
        assert output.logits.shape == (1, 4, 70, 90)
        assert output.offsets.shape == (1, 2, -(-70 // base.stride), -(-90 // base.stride))
        assert output.offsets.any()
        terms = network.loss(output, target)
        sum(terms.values()).backward()
        learning = {name for name, parameter in network.named_parameters() if parameter.requires_grad}
        assert {name for name, parameter in network.named_parameters() if parameter.grad is not None} == learning
        same = all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
        assert same if frozen else any(name.startswith("base.") for name in learning)
        if frozen:
            assert not any(name.startswith("base.") for name in learning)


def test_state_dict_depends_on_neither_batch_nor_crop():
    network = build_light(4).train()
    before = {name: value.shape for name, value in network.state_dict().items()}
    network(torch.rand(2, 3, 64, 96))
    network(torch.rand(1, 3, 40, 48))
    assert {name: value.shape for name, value in network.state_dict().items()} == before
    assert not [name for name in before if not name.startswith(("base.", "head."))]

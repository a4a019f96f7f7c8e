"""OVeNet: its losses, and training on a finished base."""

import pytest
import torch
from torch import nn

from segfocus.losses import cross_entropy, ohem_cross_entropy
from segfocus.methods.ovenet import OVeNet
from segfocus.ops.offsets import agreement
from segfocus.ops.resample import enlarge
from tests.contract import scene
from tests.methods.ovenets import Toy, awake, fixed, light_base

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

"""FoR-Net in the selected blocks alone is really less work; when it is done so, and when not."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from segfocus.methods.fornet import FoRNet
from segfocus.methods.fornet_cost import UNMEASURED, BreakEven, break_even
from tests.methods.fornets import both, build, multiply_adds, parts, pictures


@pytest.mark.parametrize("region", ["cell", "block"])
def test_work_grows_with_the_chosen_regions_alone_and_dense_work_never_changes(region):
    network, image = build(region=region), pictures(97, 161, batch=2)
    side = network.block
    a_cell = sum(branch.kernel**2 for branch in network.branches) * 8 * 8
    a_fine_cell = 9 * 8 * network.decoder.refine.out_channels + network.decoder.refine.out_channels * 8
    a_region = side**2 * a_cell + (2 * side) ** 2 * a_fine_cell
    work, chosen, dense = [], [], []
    for ratio in (1e-6, 0.1, 0.25, 0.5, 0.75, 1.0):
        network.focus(ratio)
        chosen.append(len(parts(network, image)[2][0].chosen))
        network.execution = "sparse"
        work.append(multiply_adds(network, image))
        network.execution = "dense"
        dense.append(multiply_adds(network, image))
    assert len(set(dense)) == 1
    assert len(set(chosen)) == 6
    for one, regions in zip(work, chosen, strict=True):
        assert one - work[0] == (regions - chosen[0]) * a_region
    network.focus(0.0)
    network.execution = "sparse"
    without_focus = multiply_adds(network, image)
    context = 2 * 2 * 8 * 2  # squeezed and excited, of each picture
    assert work[0] == without_focus + context + chosen[0] * a_region
    assert work[1] - without_focus < 0.2 * (dense[0] - without_focus)


def test_nested_ratios_cost_each_branch_its_own_share():
    network, image = build(ratio=(0.0, 0.1, 0.3, 0.5), region="cell"), pictures(97, 161)
    features, _, selections = parts(network, image)
    work = multiply_adds(network.refine, features, selections, True)
    counts = [len(selection.chosen) for selection in selections]
    assert counts == [0, 27, 82, 137]  # of 273 cells
    assert work == 2 * 2 * 8 + sum(counts) * 9 * 8 * 8


def test_adaptive_costs_what_it_selects():
    network, image = build(adaptive=0.2), pictures(97, 161, batch=3)
    few = multiply_adds(lambda: both(network, image)[0])
    network.focus(adaptive=0.8)
    more = multiply_adds(lambda: both(network, image)[0])
    assert few < more  # the dense half is the same in both


@pytest.fixture
def ways(monkeypatch):
    """Whether each call of `refine` was sparse."""
    used = []
    original = FoRNet.refine

    def spy(self, features, selections, sparse):
        used.append(sparse)
        return original(self, features, selections, sparse)

    monkeypatch.setattr(FoRNet, "refine", spy)
    return used


@pytest.mark.parametrize(("share", "expected"), [(0.2, False), (0.24, False), (0.26, True), (0.9, True)])
def test_auto_is_sparse_below_the_break_even_share(share, expected, ways, monkeypatch):
    monkeypatch.setattr(BreakEven, "share", lambda *arguments: share)
    network = build(ratio=0.25)
    with torch.no_grad():
        network(pictures(128, 128, batch=2))  # 4 of 16 regions
        assert ways == [expected]
        network.focus(1.0)
        network(pictures(128, 128))
        network.focus(adaptive=1e-6)
        network(pictures(128, 128))  # 1 of 16 regions
    assert ways == [expected, False, True]


def test_auto_times_nested_selections_as_nested(monkeypatch):
    """Half of the regions in one branch and less in the others is another program than half in all."""
    asked, timed = [], []

    def share(self, features, dense, sparse, parts):
        asked.append(parts)
        sparse(0.25)
        return 0.6

    original = FoRNet.refine

    def spy(self, features, selections, sparse):
        timed.append([len(selection.chosen) for selection in selections])
        return original(self, features, selections, sparse)

    monkeypatch.setattr(BreakEven, "share", share)
    monkeypatch.setattr(FoRNet, "refine", spy)
    network = build(ratio=(0.125, 0.25, 0.25, 0.5))
    with torch.no_grad():
        network(pictures(128, 128))  # 16 regions
        network.focus(0.5)
        network(pictures(128, 128, batch=2))
    assert asked == [(0.2, 0.5, 0.5, 1.0), (1.0,) * 4]
    assert timed == [[1, 2, 2, 4], [2, 4, 4, 8], [8] * 4, [16] * 4]


def test_where_no_region_is_chosen_nothing_is_timed(ways, monkeypatch):
    monkeypatch.setattr(BreakEven, "share", never)
    network = build(adaptive=0.5)
    network.selector.score.weight.data.zero_()
    network.selector.score.bias.data.fill_(-200.0)  # an importance of 0
    with torch.no_grad():
        assert not network(pictures(64, 64)).selected.any()
    assert ways == [True]


def test_auto_measures_both_ways_as_they_are(ways):
    network = build(ratio=0.25)
    with torch.no_grad():
        network(pictures(64, 64))
        measured = list(ways)
        network.focus(0.5)
        network(pictures(64, 64))
    assert sorted(set(measured[:-1])) == [False, True]
    assert len(ways) == len(measured) + 1  # not timed again
    [share] = network.break_even.shares.values()
    assert 0 <= share <= 1
    assert ways[-1] == (share > 0.5)


def test_training_and_masked_inputs_are_dense(ways):
    image = pictures(64, 64)
    network = build()
    network.execution = "sparse"
    network.train()(image)
    build(mask_position="input")(image)
    assert ways == [False, False]


def test_ways_that_do_not_exist_are_refused():
    network = build()
    network.execution = "fast"
    with pytest.raises(ValueError, match="execution: expected one of auto, sparse, dense, got 'fast'"):
        network(pictures(16, 16))
    network = build(mask_position="input")
    network.execution = "sparse"
    with pytest.raises(ValueError, match="expected auto or dense where the mask is on the input, got sparse"):
        network(pictures(16, 16))


@pytest.mark.parametrize(
    ("dense", "few", "everything", "expected"),
    [
        (10.0, 4.0, 16.0, 0.625),  # 16 a whole more than 0: 0.25 + (10 - 4) / 16
        (4.0, 4.0, 16.0, 0.25),
        (16.0, 4.0, 16.0, 1.0),
        (50.0, 4.0, 16.0, 1.0),
        (1.0, 4.0, 16.0, 0.0625),
        (0.1, 4.0, 5.0, 0.0),
        (5.0, 4.0, 3.0, 1.0),  # noise
        (3.5, 4.0, 4.0, 0.0),
    ],
)
def test_break_even_is_where_the_lines_meet(dense, few, everything, expected):
    assert break_even(dense, few, everything) == pytest.approx(expected)


def test_each_device_precision_and_size_is_timed_once():
    calls = []
    measured = BreakEven()

    def share(cells, dtype=torch.float32, parts=(1.0,)):
        like = torch.zeros(2, 3, 1, cells // 2, dtype=dtype)
        return measured.share(like, lambda: calls.append("dense"), lambda part: calls.append(part), parts)

    with torch.no_grad():
        first = share(1000)
        once = len(calls)
        assert set(calls) == {"dense", 0.25, 1.0}
        assert calls.count("dense") == calls.count(0.25) == calls.count(1.0) > 1
        assert share(1000) == share(1050) == first
        assert len(calls) == once
        share(4000)
        assert len(calls) == 2 * once
        share(1000, torch.bfloat16)
        assert len(calls) == 3 * once
        share(1000, parts=(0.5, 1.0))
        assert len(calls) == 4 * once
    assert len(measured.shares) == 4


def never(*arguments):
    raise AssertionError("timed")


def test_nothing_is_timed_where_it_would_not_repeat_or_would_be_recorded():
    measured, like = BreakEven(), torch.zeros(1, 1, 10, 10)
    assert measured.share(like, never, never, (1.0,)) == UNMEASURED  # gradients are recorded here
    with torch.no_grad():
        assert measured.share(like.to("meta"), never, never, (1.0,)) == UNMEASURED
        with FlopCounterMode(display=False):
            assert measured.share(like, never, never, (1.0,)) == UNMEASURED
        torch.use_deterministic_algorithms(True)
        try:
            assert measured.share(like, never, never, (1.0,)) == UNMEASURED
        finally:
            torch.use_deterministic_algorithms(False)
        with pytest.raises(AssertionError, match="timed"):
            measured.share(like, never, never, (1.0,))


@pytest.mark.parametrize("size", [(96, 160), (24, 24)])
@pytest.mark.parametrize(
    "options",
    [{}, {"ratio": 0.9}, {"ratio": (0.1, 0.2, 0.3, 0.4)}, {"ratio": (0.1, 0.1, 0.1, 0.9)}, {"adaptive": 0.1}],
    ids=str,
)
def test_without_numbers_the_work_is_counted_all_the_same(options, size):
    network, image = build(**options), pictures(*size)
    counted = multiply_adds(network.to("meta"), image.to("meta"))
    network = build(**options)
    network.execution = "dense" if "adaptive" in options else "auto"  # how many regions depends on the picture
    assert counted == multiply_adds(network, image)


@pytest.mark.parametrize("frozen", [(), ("backbone", "project", "project_norm")], ids=str)
def test_the_importance_learns_the_same_in_evaluation_mode(frozen):
    """Layers that are not trained along (frozen BatchNorm) change nothing about the gradient of the selection."""
    found = []
    for execution in ("auto", "sparse", "dense"):
        network = build(ratio=0.25)
        for name in frozen:
            network.get_submodule(name).requires_grad_(False)
        network.execution = execution
        output = network(pictures(64, 64))
        output.logits.square().mean().backward()
        found.append(network.selector.score.weight.grad)
    assert found[2].abs().max() > 0
    assert torch.equal(found[0], found[2])
    assert torch.equal(found[1], found[2])

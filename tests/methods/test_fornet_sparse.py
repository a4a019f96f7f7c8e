"""FoR-Net computed in the selected blocks alone gives the same as computed everywhere."""

import pytest
import torch

from segfocus.methods.fornet import CELL, FoRNet
from segfocus.ops.resample import ceil_div
from tests.methods.fornets import both, build, parts, pictures

RATIOS = [0.0, 1e-6, 0.1, 0.25, 0.5, 1.0]


def assert_same(network: FoRNet, image: torch.Tensor, tolerance: float = 1e-5):
    sparse, dense = both(network, image)
    assert torch.equal(sparse.selected, dense.selected)
    torch.testing.assert_close(sparse.logits, dense.logits, rtol=tolerance, atol=tolerance)
    return sparse


SIZES = [(1, 1), (8, 200), (97, 161)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "options", [{"region": "cell"}, {"block": 3}, {"block": 4}, {"block": 8}, {"block": 50}], ids=str
)
def test_sparse_is_dense_for_every_share_block_and_size(options, size):
    network, image = build(**options), pictures(*size, batch=3)
    counts = []
    for ratio in RATIOS:
        network.focus(ratio)
        counts.append(int(assert_same(network, image).selected.sum()))
    assert counts == sorted(counts)
    assert counts[0] == 0
    assert counts[1] >= 3  # one region of each picture
    assert counts[-1] == 3 * ceil_div(size[0], CELL) * ceil_div(size[1], CELL)


@pytest.mark.parametrize("options", [{"region": "cell"}, {"block": 3}, {"block": 50}], ids=str)
@pytest.mark.parametrize("share", [1e-6, 0.3, 0.9, 1.0])
def test_sparse_is_dense_where_every_picture_has_its_own_count(share, options):
    network = build(**options, adaptive=share, selector="gradient")
    image = pictures(97, 161, batch=4)
    image[3] = 0.5  # flat: nothing in it is important
    output = assert_same(network, image)
    counts = output.selected.sum((1, 2, 3)).tolist()
    if share in (0.3, 0.9) and options.get("block") != 50:
        assert len(set(counts)) == 4
    assert min(counts[:3]) > 0
    assert counts[3] == 0
    if share == 1:
        assert not (output.importance > 0)[~output.selected].any()


BRANCHES = [
    [(1, 1)],
    [(7, 16)],
    [(1, 1), (3, 1), (3, 2), (3, 4)],
    [(1, 1), (3, 1), (5, 1), (7, 1)],
    [(5, 3), (7, 2), (1, 5)],
]


@pytest.mark.parametrize("norm", ["layer", "batch"])
@pytest.mark.parametrize("branches", BRANCHES, ids=str)
def test_sparse_is_dense_for_any_branches(branches, norm):
    image = pictures(72, 120, batch=2)
    for region in ("cell", "block"):
        network = build(branches=branches, branch_norm=norm, region=region)
        assert_same(network, image)
        nested = [0.1 + 0.2 * index for index in range(len(branches))]
        network.focus(nested)
        assert_same(network, image)
        network.focus(nested[::-1])  # the first branch the widest
        assert_same(network, image)


@pytest.mark.parametrize("gradient", ["straight-through", "gate", "none"])
@pytest.mark.parametrize("decoder", ["residual", "concat"])
@pytest.mark.parametrize("region", ["cell", "block"])
def test_sparse_is_dense_for_both_decoders_and_every_gradient(decoder, gradient, region):
    network = build(decoder=decoder, gradient=gradient, region=region, classes=2)
    assert_same(network, pictures(70, 101, batch=2))


@pytest.mark.parametrize("selector", ["random", "entropy", "gradient", "error"])
def test_sparse_is_dense_whatever_selects(selector):
    assert assert_same(build(selector=selector), pictures(70, 101, batch=2)).selected.any()


@pytest.mark.parametrize("region", ["cell", "block"])
@pytest.mark.parametrize("ratio", [0.25, (0.1, 0.2, 0.3, 0.4)])
def test_outside_the_selected_regions_features_are_bit_identical(ratio, region):
    network = build(region=region, ratio=ratio)
    features, fine, selections = parts(network, pictures(97, 161, batch=3))
    widest = torch.stack([selection.mask for selection in selections]).any(0).expand_as(features)
    size = (features.shape[-2] * 2, features.shape[-1] * 2)
    with torch.no_grad():
        joined = network.decoder.joined(features, fine, size)
        for sparse in (True, False):
            refined = network.refine(features, selections, sparse)
            assert torch.equal(refined[~widest], features[~widest])
            assert (refined != features)[widest].float().mean() > 0.5
            decoded = network.decode(features, fine, selections, sparse)
            outside = ~widest[:, :1].repeat_interleave(2, 2).repeat_interleave(2, 3).expand_as(decoded)
            # of stride 4, bilinear: where no selected cell is near
            far = torch.nn.functional.max_pool2d((~outside).float(), 5, 1, 2) == 0
            assert far.any()
            torch.testing.assert_close(decoded[far], joined[far], rtol=1e-6, atol=1e-6)


def test_each_branch_is_refined_in_its_own_regions_alone():
    network = build(ratio=(0.1, 0.2, 0.3, 0.0))
    features, _, selections = parts(network, pictures(97, 161, batch=2))
    with torch.no_grad():
        context = network.context(features)
        expected = features.clone()
        for branch, selection in zip(network.branches, selections, strict=True):
            expected += branch(context) * selection.mask
        found = network.refine(features, selections, True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert [len(selection.chosen) for selection in selections] == [4, 10, 14, 0]  # of 4 x 6 regions in two pictures


def test_double_precision_agrees_to_its_own_rounding():
    for region in ("cell", "block"):
        assert_same(build(region=region).double(), pictures(97, 161, batch=2).double(), 1e-13)


@pytest.mark.parametrize("region", ["cell", "block"])
def test_half_precision_selects_the_same_and_stays_close(region):
    network, image = build(region=region), pictures(97, 161, batch=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        sparse, dense = both(network, image)
    assert torch.equal(sparse.selected, dense.selected)
    assert sparse.logits.dtype == dense.logits.dtype
    assert sparse.logits.isfinite().all()
    difference = (sparse.logits - dense.logits).abs().max()
    assert difference < 0.05 * dense.logits.float().std()


@pytest.mark.parametrize("layout", ["picture", "weights", "strided"])
def test_any_memory_layout_gives_the_same(layout):
    network, image = build(), pictures(97, 161, batch=2)
    expected = assert_same(network, image)
    if layout == "picture":
        image = image.to(memory_format=torch.channels_last)
    elif layout == "weights":
        network = network.to(memory_format=torch.channels_last)
    else:
        image = torch.zeros(2, 6, 97, 322)[:, ::2, :, ::2].copy_(image)
    found = assert_same(network, image)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-5, atol=1e-5)
    assert torch.equal(found.selected, expected.selected)


def test_gradients_flow_through_the_sparse_way_as_through_the_dense_one(monkeypatch):
    found, ways, original = [], [], FoRNet.refine

    def spy(self, features, selections, sparse):
        ways.append(sparse)
        return original(self, features, selections, sparse)

    monkeypatch.setattr(FoRNet, "refine", spy)
    for execution in ("sparse", "dense"):
        # not straight-through, which teaches cells that the sparse way does not look at
        network = build(gradient="gate")
        network.execution = execution
        network(pictures(97, 161, batch=2)).logits.square().mean().backward()
        found.append({name: value.grad for name, value in network.named_parameters() if value.grad is not None})
    assert ways == [True, False]
    assert found[0].keys() == found[1].keys() >= {"selector.score.weight", "branches.3.spatial.weight"}
    for name, value in found[1].items():
        torch.testing.assert_close(found[0][name], value, rtol=1e-3, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{"region": "cell"}, {"block": 3}, {"adaptive": 0.4}], ids=str)
def test_sparse_is_dense_on_a_gpu(options, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    network, image = build(**options).cuda(), pictures(97, 161, batch=3).cuda()
    for ratio in (None, 1e-6, 0.5):
        if ratio is not None:
            network.focus(ratio)
        assert_same(network, image)
    network.execution = "auto"
    with torch.no_grad():
        network(image)
    assert len(network.break_even.shares) == 1

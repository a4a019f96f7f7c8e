"""Blocked attention against the whole table, and the products of region blocks against loops."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from segfocus.ops.regions.attention import attend
from segfocus.ops.regions.blocks import RegionBlocks, collect, match, spread
from segfocus.ops.regions.representatives import choose_representatives
from tests.ops.regions.largest import Largest


def random(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def attend_with_a_table(queries, keys, values, scale=1.0, groups=None):
    logits = scale * (queries @ keys.T)
    if groups is None:
        return logits.softmax(1) @ values
    same = groups[0][:, None] == groups[1][None]
    weights = logits.masked_fill(same, -torch.inf).softmax(1)
    return weights.masked_fill(same.all(1, keepdim=True), 0) @ values


@pytest.mark.parametrize("block", [1, 20, 1 << 21])
@pytest.mark.parametrize("masked", [False, True])
def test_it_equals_the_table_with_gradients(block, masked):
    queries, keys, values = random(13, 5), random(9, 5, seed=1), random(9, 5, seed=2)
    scale = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    groups = (torch.arange(13) % 4, torch.arange(9) % 3) if masked else None
    inputs = (queries, keys, values, scale)
    result, expected = attend(*inputs, groups, block), attend_with_a_table(*inputs, groups)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    weight = random(13, 5, seed=3).detach()
    for one, other in zip(
        torch.autograd.grad(result, inputs, weight), torch.autograd.grad(expected, inputs, weight), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


def test_a_query_that_sees_nothing_gives_zero_and_no_gradient():
    queries, keys = random(3, 4), random(2, 4, seed=1)
    result = attend(queries, keys, keys, 1.0, (torch.tensor([0, 1, 0]), torch.tensor([0, 0])))
    assert torch.equal(result[[0, 2]], torch.zeros(2, 4, dtype=torch.float64))
    gradient = torch.autograd.grad(result.sum(), queries)[0]
    assert torch.equal(gradient[[0, 2]], torch.zeros(2, 4, dtype=torch.float64))
    assert gradient.isfinite().all()
    nothing = attend(queries, keys[:0], keys[:0])
    assert torch.equal(nothing, torch.zeros(3, 4, dtype=torch.float64))
    assert attend(queries[:0], keys, keys).shape == (0, 4)


def test_gradcheck():
    groups = (torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0, 1, 1, 2]))
    assert gradcheck(lambda q, k, v: attend(q, k, v, 0.5, groups, 7), (random(4, 3), random(5, 3), random(5, 3)))


def test_large_products_do_not_overflow():
    queries = 300 * random(6, 8, dtype=torch.float32).detach()
    result = attend(queries, queries, queries)
    torch.testing.assert_close(result, attend_with_a_table(queries, queries, queries))


def test_memory_grows_with_the_block_not_with_the_table():
    vectors = random(900, 4, dtype=torch.float32)
    with Largest() as largest:
        attend(vectors, vectors, vectors, 1.0, (torch.arange(900), torch.arange(900)), 900 * 20).sum().backward()
    assert largest.numbers <= 900 * 20


def test_a_callers_autocast_does_not_lower_the_precision():
    vectors = random(20, 16, dtype=torch.float32)
    expected = attend(vectors, vectors, vectors)
    gradient = torch.autograd.grad(expected.square().sum(), vectors)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = attend(vectors, vectors, vectors)
        assert torch.equal(result, expected)
        assert torch.equal(torch.autograd.grad(result.square().sum(), vectors)[0], gradient)


def test_a_block_of_nothing_is_refused():
    with pytest.raises(ValueError, match="block: expected at least 1 weight at once, got 0; try"):
        attend(random(2, 2), random(2, 2), random(2, 2), block=0)


# regions of 1, 2, 5, 8, 17, 64, 65 and 150 pixels: every width of block, padded and full, one and several
SIZES = (1, 2, 5, 8, 17, 64, 65, 150)


def laid_out(sizes=SIZES, count=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    regions = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    regions = regions[torch.randperm(len(regions), generator=generator)]
    chosen = choose_representatives(torch.rand(len(regions), generator=generator), regions, count)
    return regions, chosen, RegionBlocks.build(regions, chosen)


@pytest.mark.parametrize("count", [1, 6, 200])
def test_the_three_products_equal_loops(count, monkeypatch):
    monkeypatch.setattr("segfocus.ops.regions.blocks._AT_ONCE", 1000)
    regions, chosen, blocks = laid_out(count=count)
    pixels, representatives = random(len(regions), 3).detach(), random(len(blocks.pixels), 3, seed=1).detach()
    weights = random(len(regions), count, seed=2).detach()
    place = {int(pixel): index for index, pixel in enumerate(blocks.pixels)}
    dots, mixture, sums = torch.zeros_like(weights), torch.zeros_like(pixels), torch.zeros_like(representatives)
    for pixel, region in enumerate(regions.tolist()):
        for slot, pixel_of_slot in enumerate(chosen[region].tolist()):
            if pixel_of_slot >= 0:
                index = place[pixel_of_slot]
                assert blocks.table[region, slot] == index
                assert blocks.owners[index] == region
                dots[pixel, slot] = pixels[pixel] @ representatives[index]
                mixture[pixel] += weights[pixel, slot] * representatives[index]
                sums[index] += weights[pixel, slot] * pixels[pixel]
    torch.testing.assert_close(match(pixels, representatives, blocks), dots)
    torch.testing.assert_close(spread(weights, representatives, blocks), mixture)
    torch.testing.assert_close(collect(weights, pixels, blocks), sums)


def test_the_three_products_differentiate_twice():
    regions, _, blocks = laid_out((1, 2, 5, 9), count=3)
    pixels, representatives = random(len(regions), 2), random(len(blocks.pixels), 2, seed=1)
    weights = random(len(regions), 3, seed=2)
    for product, inputs in ((match, (pixels, representatives)), (spread, (weights, representatives))):
        assert gradcheck(product, (*inputs, blocks))
        assert gradgradcheck(product, (*inputs, blocks))
    assert gradcheck(collect, (weights, pixels, blocks))
    assert gradgradcheck(collect, (weights, pixels, blocks))


def test_padding_is_never_read():
    regions, _, blocks = laid_out((3, 5, 1, 70), count=4)
    pixels, representatives = random(len(regions), 2).detach(), random(len(blocks.pixels), 2, seed=1).detach()
    weights = random(len(regions), 4, seed=2).detach()
    missing = (blocks.table < 0)[regions]
    poisoned = regions == 1
    clean = (match(pixels, representatives, blocks), spread(weights, representatives, blocks))
    sums = collect(weights, pixels, blocks)
    pixels[poisoned] = torch.nan
    representatives[blocks.owners == 1] = torch.nan
    weights[poisoned] = torch.nan
    weights[missing] = torch.nan
    assert torch.equal(match(pixels, representatives, blocks)[~poisoned], clean[0][~poisoned])
    assert torch.equal(spread(weights, representatives, blocks)[~poisoned], clean[1][~poisoned])
    others = blocks.owners != 1
    assert torch.equal(collect(weights, pixels, blocks)[others], sums[others])

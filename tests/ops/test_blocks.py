"""Gathering and adding blocks against loops over single cells."""

import pytest
import torch
from torch.nn import functional

from segfocus.ops.blocks import add_blocks, gather_blocks, gather_taps

GRIDS = [
    ((8, 12), 4, (2, 3)),  # covers the map exactly
    ((7, 10), 4, (2, 3)),  # stands over it on both sides
    ((9, 13), 4, (2, 2)),  # covers less than all of it
    ((5, 11), 3, (2, 3)),  # stands over below, covers less on the right
    ((3, 4), 1, (3, 4)),
    ((3, 5), 8, (1, 1)),  # one block larger than the map
    ((1, 1), 2, (1, 1)),
]
"""size of the map, side of a block, blocks (rows, columns)"""


def picture(size, batch=3, channels=5):
    return torch.randn(batch, channels, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def some(grid, batch=3):
    """Chosen blocks, a different number in every picture (none in the second), in no order."""
    blocks = grid[0] * grid[1]
    chosen = [block for block in range(blocks) if block % 2 == 0] + list(range((batch - 1) * blocks, batch * blocks))
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(2))
    return torch.tensor(chosen)[order]


def corner(block, side, grid):
    """Picture, and row and column of the top left cell, of a flat number."""
    image, rest = divmod(block, grid[0] * grid[1])
    row, column = divmod(rest, grid[1])
    return image, row * side, column * side


def cell(maps, image, row, column):
    inside = 0 <= row < maps.shape[2] and 0 <= column < maps.shape[3]
    return maps[image, :, row, column] if inside else torch.zeros_like(maps[0, :, 0, 0])


@pytest.mark.parametrize("halo", [0, 1, 3, 9])
@pytest.mark.parametrize(("size", "block", "grid"), GRIDS)
def test_gathered_blocks_are_the_cells_with_their_halo(size, block, grid, halo):
    maps, chosen = picture(size), some(grid)
    found = gather_blocks(maps, chosen, block, halo, grid)
    side = block + 2 * halo
    assert found.shape == (len(chosen), 5, side, side)
    for index, number in enumerate(chosen.tolist()):
        image, top, left = corner(number, block, grid)
        expected = [
            torch.stack([cell(maps, image, top + row - halo, left + column - halo) for column in range(side)], 1)
            for row in range(side)
        ]
        assert torch.equal(found[index], torch.stack(expected, 1))


@pytest.mark.parametrize(("kernel", "dilation"), [(1, 1), (3, 1), (3, 4), (5, 2), (7, 16)])
@pytest.mark.parametrize(("size", "grid"), [((4, 6), (4, 6)), ((4, 6), (5, 7)), ((4, 6), (3, 2)), ((1, 1), (1, 1))])
def test_gathered_taps_are_what_a_convolution_reads(size, grid, kernel, dilation):
    maps, chosen = picture(size), some(grid)
    found = gather_taps(maps, chosen, kernel, dilation, grid)
    reach = dilation * (kernel // 2)
    for index, number in enumerate(chosen.tolist()):
        image, row, column = corner(number, 1, grid)
        offsets = range(-reach, reach + 1, dilation)
        expected = torch.cat([cell(maps, image, row + down, column + right) for down in offsets for right in offsets])
        assert torch.equal(found[index], expected)


@pytest.mark.parametrize(("size", "block", "grid"), GRIDS)
def test_values_are_added_in_the_chosen_blocks_and_nowhere_else(size, block, grid):
    maps, chosen = picture(size), some(grid)
    values = torch.randn(len(chosen), 5, block, block, dtype=torch.float64)
    before = maps.clone()
    found = add_blocks(maps, chosen, values, grid)
    expected = maps.clone()
    for index, number in enumerate(chosen.tolist()):
        image, top, left = corner(number, block, grid)
        for row in range(block):
            for column in range(block):
                if top + row < size[0] and left + column < size[1]:
                    expected[image, :, top + row, left + column] += values[index, :, row, column]
    assert torch.equal(found, expected)
    assert torch.equal(maps, before)  # a copy


@pytest.mark.parametrize(("kernel", "dilation", "halo"), [(1, 1, 0), (3, 1, 1), (3, 2, 5), (5, 3, 6)])
def test_a_valid_convolution_of_gathered_blocks_is_the_padded_convolution_there(kernel, dilation, halo):
    maps, grid, block = picture((10, 13)), (3, 4), 4
    weight = torch.randn(6, 5, kernel, kernel, dtype=torch.float64)
    reach = dilation * (kernel // 2)
    everywhere = functional.conv2d(maps, weight, padding=reach, dilation=dilation)
    chosen = some(grid)
    gathered = gather_blocks(maps, chosen, block, halo, grid)
    spare = halo - reach
    window = gathered[:, :, spare : gathered.shape[2] - spare, spare : gathered.shape[3] - spare]
    found = functional.conv2d(window, weight, dilation=dilation)
    expected = gather_blocks(everywhere, chosen, block, 0, grid)
    inside = gather_blocks(torch.ones_like(everywhere), chosen, block, 0, grid)  # blocks also stand over the map
    torch.testing.assert_close(found * inside, expected, rtol=1e-12, atol=1e-12)
    taps = gather_taps(maps, torch.arange(130), kernel, dilation, (10, 13))
    product = taps @ weight.permute(2, 3, 1, 0).reshape(taps.shape[1], -1)
    torch.testing.assert_close(product, everywhere[0].flatten(1).T, rtol=1e-12, atol=1e-12)


def test_no_block_chosen_gives_empty_blocks_and_an_unchanged_map():
    maps, none = picture((5, 6)), torch.zeros(0, dtype=torch.long)
    assert gather_blocks(maps, none, 4, 2, (2, 2)).shape == (0, 5, 8, 8)
    assert gather_taps(maps, none, 3, 2, (5, 6)).shape == (0, 45)
    assert torch.equal(add_blocks(maps, none, torch.zeros(0, 5, 4, 4, dtype=torch.float64), (2, 2)), maps)


@pytest.mark.parametrize("layout", ["channels_last", "permuted", "strided"])
def test_any_memory_layout_gives_the_same(layout):
    maps, grid = picture((7, 10)), (2, 3)
    if layout == "channels_last":
        other = maps.to(memory_format=torch.channels_last)
    elif layout == "permuted":
        other = maps.transpose(2, 3).contiguous().transpose(2, 3)
    else:
        other = torch.zeros(3, 10, 14, 20, dtype=torch.float64)[:, ::2, ::2, ::2].copy_(maps)
    assert not other.is_contiguous()
    chosen = some(grid)
    values = torch.randn(len(chosen), 4, 4, 5, dtype=torch.float64).permute(0, 3, 1, 2)
    assert torch.equal(gather_blocks(other, chosen, 4, 2, grid), gather_blocks(maps, chosen, 4, 2, grid))
    assert torch.equal(gather_taps(other, chosen, 3, 2, grid), gather_taps(maps, chosen, 3, 2, grid))
    assert torch.equal(add_blocks(other, chosen, values, grid), add_blocks(maps, chosen, values.contiguous(), grid))


def test_gradients_are_those_of_the_definition():
    maps, chosen = picture((5, 6), batch=2, channels=2).requires_grad_(), some((3, 2), batch=2)
    values = torch.randn(len(chosen), 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: gather_blocks(x, chosen, 2, 1, (3, 2)), (maps,))
    assert torch.autograd.gradcheck(lambda x: gather_taps(x, chosen, 3, 2, (3, 2)), (maps,))
    assert torch.autograd.gradcheck(lambda x, y: add_blocks(x, chosen, y, (3, 2)), (maps, values))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same():
    maps, grid = picture((7, 10)), (2, 3)
    chosen = some(grid)
    values = torch.randn(len(chosen), 5, 4, 4, dtype=torch.float64)
    there = [maps.cuda(), chosen.cuda()]
    assert torch.equal(gather_blocks(*there, 4, 2, grid).cpu(), gather_blocks(maps, chosen, 4, 2, grid))
    assert torch.equal(gather_taps(*there, 3, 2, grid).cpu(), gather_taps(maps, chosen, 3, 2, grid))
    assert torch.equal(add_blocks(*there, values.cuda(), grid).cpu(), add_blocks(maps, chosen, values, grid))

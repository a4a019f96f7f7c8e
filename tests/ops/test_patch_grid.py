"""Splitting into patches and joining them, against loops over slices; a graph of it holds at another size."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from segfocus.ops.patch_grid import join_patches, split_patches

GRIDS = [(1, 1, 1, 1), (2, 3, 2, 4), (3, 1, 5, 2), (1, 2, 1, 7)]


@pytest.mark.parametrize("patch", [1, 2, 7, 16])
@pytest.mark.parametrize(("batch", "channels", "rows", "columns"), GRIDS)
def test_patches_are_slices_in_reading_order(batch, channels, rows, columns, patch):
    maps = torch.arange(batch * channels * rows * columns * patch**2).view(batch, channels, rows * patch, -1)
    patches = split_patches(maps, patch)
    expected = [
        picture[:, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
        for picture in maps
        for row in range(rows)
        for column in range(columns)
    ]
    assert torch.equal(patches, torch.stack(expected))
    assert torch.equal(join_patches(patches, rows, columns), maps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8, torch.bool])
def test_any_type_and_any_layout_in_memory(dtype):
    maps = (torch.rand(2, 3, 12, 20) * 9).to(dtype)
    patches = split_patches(maps, 4)
    assert patches.dtype == dtype
    last = maps.contiguous(memory_format=torch.channels_last)
    assert torch.equal(split_patches(last, 4), patches)
    assert torch.equal(join_patches(patches, 3, 5), maps)


def test_patches_that_were_enlarged_join_to_larger_maps():
    maps = torch.rand(2, 3, 6, 9)
    larger = functional.interpolate(split_patches(maps, 3), scale_factor=2, mode="nearest")
    expected = functional.interpolate(maps, scale_factor=2, mode="nearest")
    assert torch.equal(join_patches(larger, 2, 3), expected)


def test_a_convolution_of_patches_is_one_of_each_patch_alone():
    convolution = nn.Conv2d(3, 5, 3, padding=1)
    maps = torch.rand(2, 3, 8, 12, requires_grad=True)
    joined = join_patches(convolution(split_patches(maps, 4)), 2, 3)
    for row in range(2):
        for column in range(3):
            square = (..., slice(row * 4, row * 4 + 4), slice(column * 4, column * 4 + 4))
            torch.testing.assert_close(joined[square], convolution(maps[square]))
    joined.sum().backward()
    assert maps.grad is not None
    assert (maps.grad != 0).all()


def test_refusals():
    for patch in (3, 8, 0):
        with pytest.raises(ValueError, match=r"expected height and width in multiples of \d+, got 4 x 12; try"):
            split_patches(torch.rand(1, 1, 4, 12), patch)
    for rows, columns in ((2, 2), (4, 1), (0, 3)):
        with pytest.raises(ValueError, match="got 6 patches; try"):
            join_patches(torch.rand(6, 1, 4, 4), rows, columns)

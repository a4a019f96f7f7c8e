"""Sampling at offsets and label agreement against loops over cells."""

import math

import pytest
import torch

from segfocus.ops.offsets import agreement, keep_inside, sample_at
from segfocus.ops.resample import cell_labels


def slow_sample(maps, offsets):
    """Bilinear at the clamped position, one value at a time."""
    batch, channels, rows, columns = maps.shape
    result = torch.zeros_like(maps)
    for b in range(batch):
        for row in range(rows):
            for column in range(columns):
                x = min(max(column + offsets[b, 0, row, column].item(), 0), columns - 1)
                y = min(max(row + offsets[b, 1, row, column].item(), 0), rows - 1)
                left, top = math.floor(x), math.floor(y)
                right, bottom = min(left + 1, columns - 1), min(top + 1, rows - 1)
                for c in range(channels):
                    upper = maps[b, c, top, left] * (1 - x + left) + maps[b, c, top, right] * (x - left)
                    lower = maps[b, c, bottom, left] * (1 - x + left) + maps[b, c, bottom, right] * (x - left)
                    result[b, c, row, column] = upper * (1 - y + top) + lower * (y - top)
    return result


def slow_agreement(labels, offsets, cell, ignore=255):
    batch, _, rows, columns = offsets.shape
    height, width = labels.shape[-2:]
    same, valid = (torch.zeros(batch, rows, columns, dtype=torch.bool) for _ in range(2))
    for b in range(batch):
        for row in range(rows):
            for column in range(columns):
                y, x = row * cell + cell // 2, column * cell + cell // 2
                if y >= height or x >= width:
                    continue
                there_x = min(max(x + round(offsets[b, 0, row, column].item()), 0), width - 1)
                there_y = min(max(y + round(offsets[b, 1, row, column].item()), 0), height - 1)
                here, there = labels[b, y, x], labels[b, there_y, there_x]
                valid[b, row, column] = here != ignore and there != ignore
                same[b, row, column] = here == there
    return same, valid


@pytest.fixture
def field():
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float64)
    return maps, 4 * torch.randn(2, 2, 5, 7, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("method", ["gather", "grid_sample"])
def test_sampling_equals_the_loop(field, method):
    maps, offsets = field
    torch.testing.assert_close(sample_at(maps, offsets, method), slow_sample(maps, offsets))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (8, 1), (4, 6)])
def test_sampling_equals_the_loop_at_any_size(size):
    maps, offsets = torch.randn(1, 2, *size), 3 * torch.randn(1, 2, *size)
    torch.testing.assert_close(sample_at(maps, offsets), slow_sample(maps, offsets))
    torch.testing.assert_close(sample_at(maps, offsets, "grid_sample"), slow_sample(maps, offsets))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [(1, 1), (33, 517), (128, 256)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_zero_offset_is_exactly_the_identity(dtype, size, layout):
    maps = (10 * torch.randn(1, 3, *size)).to(dtype).contiguous(memory_format=layout)
    sampled = sample_at(maps, torch.zeros(1, 2, *size))
    assert sampled.dtype == dtype
    assert torch.equal(sampled, maps)
    assert sampled.is_contiguous(memory_format=layout)
    drift = (sample_at(maps, torch.zeros(1, 2, *size), "grid_sample") - maps).abs().max()
    assert drift <= 5e-4 * maps.abs().max() or dtype == torch.bfloat16  # rounded once more to 8 bits


@pytest.mark.parametrize(("x", "y"), [(1, 0), (0, 1), (-1, 0), (3, -2)])
def test_whole_offsets_copy_and_the_border_repeats(x, y):
    maps = torch.randn(1, 2, 6, 8)
    offsets = torch.tensor([x, y], dtype=torch.float32).view(1, 2, 1, 1).expand(1, 2, 6, 8)
    rows = (torch.arange(6) + y).clamp(0, 5)
    columns = (torch.arange(8) + x).clamp(0, 7)
    assert torch.equal(sample_at(maps, offsets), maps[:, :, rows][..., columns])


def test_points_far_outside_read_the_border():
    maps = torch.randn(1, 2, 4, 5)
    for x, y, corner in ((1e6, 1e6, (3, 4)), (-1e6, -1e6, (0, 0)), (-1e6, 1e6, (3, 0))):
        offsets = torch.tensor([x, y]).view(1, 2, 1, 1).expand(1, 2, 4, 5)
        assert torch.equal(sample_at(maps, offsets), maps[:, :, corner[0], corner[1], None, None].expand_as(maps))


def test_sampling_has_the_gradients_of_its_finite_differences(field):
    maps, offsets = field
    offsets = offsets.floor() + 0.2 + 0.6 * (offsets - offsets.floor())  # away from the kinks at whole offsets
    inputs = maps[:1, :2].clone().requires_grad_(), offsets[:1].clone().requires_grad_()
    assert torch.autograd.gradcheck(sample_at, inputs)


def test_the_gradient_at_a_zero_offset_is_the_next_cell_s_difference():
    maps = torch.randn(1, 1, 4, 6)
    offsets = torch.zeros(1, 2, 4, 6, requires_grad=True)
    sample_at(maps, offsets).sum().backward()
    expected = torch.zeros(1, 2, 4, 6)
    expected[0, 0, :, :-1] = maps[0, 0, :, 1:] - maps[0, 0, :, :-1]
    expected[0, 1, :-1] = maps[0, 0, 1:] - maps[0, 0, :-1]
    torch.testing.assert_close(offsets.grad, expected)


def test_half_precision_maps_are_weighted_in_float32():
    maps = torch.randn(1, 4, 16, 300, dtype=torch.bfloat16)
    offsets = 20 * torch.randn(1, 2, 16, 300)
    assert torch.equal(sample_at(maps, offsets), sample_at(maps.float(), offsets).bfloat16())
    outside = sample_at(maps.float(), offsets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(sample_at(maps.float(), offsets), outside)


def test_unknown_method_is_refused():
    with pytest.raises(ValueError, match="expected gather or grid_sample, got 'nearest'"):
        sample_at(torch.rand(1, 1, 2, 2), torch.zeros(1, 2, 2, 2), "nearest")


def test_offsets_are_kept_inside_and_sample_the_same(field):
    maps, offsets = field
    kept = keep_inside(3 * offsets)
    x, y = kept[:, 0] + torch.arange(7), kept[:, 1] + torch.arange(5)[:, None]
    assert 0 <= x.min() <= x.max() <= 6
    assert 0 <= y.min() <= y.max() <= 4
    torch.testing.assert_close(sample_at(maps, kept), sample_at(maps, 3 * offsets))
    zero = torch.zeros(1, 2, 5, 7)
    assert torch.equal(keep_inside(zero), zero)


@pytest.mark.parametrize(("cell", "size"), [(1, (5, 7)), (4, (18, 25)), (4, (20, 28)), (3, (13, 20))])
def test_agreement_equals_the_loop(field, cell, size):
    _, offsets = field
    labels = torch.randint(0, 3, (2, *size), generator=torch.Generator().manual_seed(1))
    labels[torch.rand(labels.shape, generator=torch.Generator().manual_seed(2)) < 0.2] = 255
    same, valid = agreement(labels, cell * offsets, cell=cell)
    slow_same, slow_valid = slow_agreement(labels, cell * offsets, cell)
    assert torch.equal(valid, slow_valid)
    assert torch.equal(same & valid, slow_same & slow_valid)
    assert not valid[cell_labels(labels, (5, 7), cell, 255) == 255].any()


def test_agreement_on_two_half_planes():
    """Left half 0, right half 1; everything points three pixels to the right."""
    labels = (torch.arange(10) >= 5).long().expand(1, 4, 10)
    offsets = torch.zeros(1, 2, 4, 10)
    offsets[:, 0] = 3
    same, valid = agreement(labels, offsets)
    assert valid.all()
    assert same[0].tolist() == [[column < 2 or column >= 5 for column in range(10)]] * 4


def test_void_is_masked_at_both_ends():
    labels = torch.tensor([[[0, 0, 255, 1, 1, 1]]])
    offsets = torch.zeros(1, 2, 1, 6)
    offsets[0, 0, 0] = torch.tensor([0.0, 1, 1, -1, -3, 0])
    same, valid = agreement(labels, offsets)
    assert valid[0, 0].tolist() == [True, False, False, False, True, True]
    assert (same & valid)[0, 0].tolist() == [True, False, False, False, False, True]
    _, valid = agreement(labels, offsets, ignore=0)
    assert valid[0, 0].tolist() == [False, False, True, True, False, True]


def test_labels_above_256_are_copied_exactly_from_half_precision_offsets():
    labels = torch.arange(1000).view(1, 1, 1000) + 256
    offsets = torch.zeros(1, 2, 1, 1000, dtype=torch.bfloat16)
    same, _ = agreement(labels, offsets)
    assert same.all()
    offsets[:, 0] = 1
    same, _ = agreement(labels, offsets)
    assert same[0, 0].tolist() == [False] * 999 + [True]  # the last one is clamped to itself

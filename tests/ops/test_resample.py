"""Resizing against loops over pixel centres; padding keeps coordinates."""

import pytest
import torch

from segfocus.ops import resample
from segfocus.ops.resample import cell_labels, enlarge, pad_to_multiple, resize


def slow_bilinear(maps, size):
    """Sample at pixel centres, outer edges kept in place, clamped at the border."""
    height, width = maps.shape[-2:]
    result = torch.zeros(*maps.shape[:2], *size, dtype=maps.dtype)
    for row in range(size[0]):
        for column in range(size[1]):
            y = min(max((row + 0.5) * height / size[0] - 0.5, 0), height - 1)
            x = min(max((column + 0.5) * width / size[1] - 0.5, 0), width - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            fy, fx = y - top, x - left
            upper = maps[:, :, top, left] * (1 - fx) + maps[:, :, top, right] * fx
            lower = maps[:, :, bottom, left] * (1 - fx) + maps[:, :, bottom, right] * fx
            result[:, :, row, column] = upper * (1 - fy) + lower * fy
    return result


@pytest.mark.parametrize(("old", "new"), [((3, 4), (6, 8)), ((5, 7), (3, 9)), ((1, 1), (4, 3))])
def test_bilinear_equals_the_loop(old, new):
    maps = torch.rand(2, 3, *old, dtype=torch.float64)
    torch.testing.assert_close(resize(maps, new), slow_bilinear(maps, new))


def test_same_size_is_the_same_tensor():
    maps = torch.rand(1, 2, 5, 6)
    assert resize(maps, (5, 6)) is maps
    assert torch.equal(resize(maps, (10, 12), "nearest")[..., ::2, ::2], maps)
    with pytest.raises(ValueError, match="bilinear or nearest"):
        resize(maps, (2, 2), "cubic")


@pytest.mark.parametrize("size", [(1, 1), (8, 64), (97, 161), (64, 65)])
def test_padding_reaches_multiple_and_minimum_and_never_moves_pixels(size):
    image = torch.rand(1, 3, *size)
    padded = pad_to_multiple(image, 8, 64)
    assert torch.equal(padded[..., : size[0], : size[1]], image)
    assert padded.sum() == pytest.approx(image.sum().item(), rel=1e-5)
    for side, original in zip(padded.shape[-2:], size, strict=True):
        assert side % 8 == 0
        assert side == max(64, -(-original // 8) * 8)


def test_cell_labels_take_the_centre_and_ignore_what_lies_outside():
    labels = torch.arange(12 * 20).view(1, 12, 20)
    cells = cell_labels(labels, (2, 3), 8, 255)
    assert cells[0].tolist() == [[4 * 20 + 4, 4 * 20 + 12, 255], [255, 255, 255]]


def test_enlarging_follows_strides_where_coarse_cells_stand_over():
    """A ramp of x positions keeps its values, although 3 cells of 32 px cover more than 10 cells of 8 px."""
    coarse = (torch.arange(3.0) * 32 + 15.5).view(1, 1, 1, 3)  # x of the cells' centres, in pixels
    fine = enlarge(coarse, 32, 8, (1, 10))
    inside = (torch.arange(10.0) * 8 + 3.5)[2:10]  # between the centres of the first and the last coarse cell
    torch.testing.assert_close(fine[0, 0, 0, 2:10], inside)
    stretched = resize(coarse, (1, 10))
    assert (stretched[0, 0, 0, 2:10] - inside).abs().max() > 2


@pytest.mark.parametrize(
    ("old", "new"), [((6, 4), (24, 16)), ((6, 5), (18, 7)), ((4, 3), (4 * 5, 3)), ((12, 2), (24, 9))]
)
@pytest.mark.parametrize("channels", [1, 3])
def test_one_picture_in_strips_equals_the_loop(monkeypatch, old, new, channels):
    monkeypatch.setattr(resample, "_WORTH_STRIPS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    maps = torch.rand(1, channels, *old, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    strips = resample._strips(maps, new)
    assert strips == (3 if old[0] % 3 == 0 else 2)
    found = resize(maps, new)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, slow_bilinear(maps, new))


def test_strips_only_where_they_are_allowed(monkeypatch):
    """Not for gradients, other layouts, several pictures, shrinking, or factors that are not whole."""
    monkeypatch.setattr(resample, "_WORTH_STRIPS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    maps = torch.rand(1, 3, 6, 4).contiguous(memory_format=torch.channels_last)
    assert resample._strips(maps, (12, 8)) == 2
    assert resample._strips(maps.clone().requires_grad_(), (12, 8)) == 1
    assert resample._strips(maps.contiguous(), (12, 8)) == 1
    assert resample._strips(torch.cat([maps, maps]), (12, 8)) == 1
    assert resample._strips(maps, (3, 2)) == 1
    assert resample._strips(maps, (13, 8)) == 1
    monkeypatch.setattr(resample, "_WORTH_STRIPS", 1 << 18)
    assert resample._strips(maps, (12, 8)) == 1


def test_padding_by_nothing_hands_back_the_picture_itself():
    image = torch.rand(1, 3, 64, 72)
    assert pad_to_multiple(image, 8, 64) is image

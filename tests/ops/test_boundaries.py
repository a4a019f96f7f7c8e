"""Boundary targets against loops over pixels."""

import numpy as np
import pytest
import torch

from segfocus.ops.boundaries import boundary_band, boundary_pixels, soft_boundary_target


def slow_boundary(labels: np.ndarray) -> np.ndarray:
    height, width = labels.shape
    found = np.zeros((height, width), bool)
    for row in range(height):
        for column in range(width):
            if labels[row, column] == 255:
                continue
            near = labels[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
            found[row, column] = np.any((near != labels[row, column]) & (near != 255))
    return found


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (17, 12)])
def test_boundary_pixels_equal_the_loop(size):
    rng = np.random.default_rng(0)
    for _ in range(5):
        labels = rng.choice([0, 1, 2, 255], p=[0.6, 0.2, 0.1, 0.1], size=size)
        found = boundary_pixels(torch.from_numpy(labels)[None])[0].numpy()
        np.testing.assert_array_equal(found, slow_boundary(labels))


def test_soft_target_on_a_hand_made_edge():
    labels = torch.zeros(1, 16, 48, dtype=torch.long)
    labels[:, :, 8:] = 1  # the edge lies between pixel columns 7 and 8: cells 0 and 1 at cell side 8
    target, valid = soft_boundary_target(labels, (2, 6), 8)
    assert target[0, 0].tolist() == [[1.0, 1.0, 0.5, 0.25, 0.0, 0.0]] * 2
    assert valid.all()


def test_soft_target_marks_cells_without_labels_and_pads_ragged_grids():
    labels = torch.full((1, 9, 13), 255)
    labels[:, :8, :8] = 3
    target, valid = soft_boundary_target(labels, (2, 2), 8)
    assert target.sum() == 0
    assert valid[0, 0].tolist() == [[True, False], [False, False]]


def band_slowly(target: torch.Tensor, radius: int) -> torch.Tensor:
    height, width = target.shape
    band = torch.zeros(height, width, dtype=torch.bool)
    for y in range(height):
        for x in range(width):
            for v in range(height):
                for u in range(width):
                    near = (y - v) ** 2 + (x - u) ** 2 <= radius**2
                    labelled = target[y, x] != 255 and target[v, u] != 255
                    band[y, x] |= bool(near and labelled and target[y, x] != target[v, u])
    return band


@pytest.mark.parametrize("radius", [1, 2, 3])
@pytest.mark.parametrize("size", [(9, 12), (1, 7), (5, 2)])
def test_the_band_is_every_pixel_near_another_label(radius, size):
    generator = torch.Generator().manual_seed(radius)
    target = torch.randint(0, 3, size, generator=generator).repeat_interleave(3, 0)[: size[0]]
    target = target.repeat_interleave(4, 1)[:, : size[1]]
    target[target == 2] = 255
    band, labelled = boundary_band(target[None], radius)
    assert torch.equal(band[0, 0], band_slowly(target, radius))
    assert torch.equal(labelled[0, 0], target != 255)


def test_a_step_is_banded_by_two_columns_on_each_side_and_the_frame_is_not():
    target = torch.zeros(1, 8, 12, dtype=torch.long)
    target[..., 5:] = 1
    band, _ = boundary_band(target)
    assert band[0, 0].any(0).nonzero().flatten().tolist() == [3, 4, 5, 6]
    assert band[0, 0, :, 3:7].all()

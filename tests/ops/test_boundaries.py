"""Boundary targets against loops over pixels."""

import numpy as np
import pytest
import torch

from segfocus.ops.boundaries import boundary_pixels, soft_boundary_target


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

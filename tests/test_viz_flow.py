"""Pictures of offsets against torchvision's colour wheel and slow twins."""

import math

import numpy as np
import pytest
import torch
from torchvision.utils import flow_to_image

from segfocus import viz
from segfocus.errors import SegfocusError


@pytest.fixture
def offsets():
    return np.random.default_rng(0).normal(0, 9, (2, 31, 47)).astype(np.float32)


def test_colours_are_those_of_the_optical_flow_wheel(offsets):
    axes = np.array([[1, 0, -1, 0, 0], [0, 1, 0, -1, 0]], np.float32)[:, None]
    for field in (offsets, axes, offsets[:, :1, :1]):
        expected = flow_to_image(torch.from_numpy(field)).permute(1, 2, 0).numpy()
        # torchvision rounds the wheel's colours down before it mixes them
        assert np.abs(viz.offset_colors(field).astype(int) - expected).max() <= 1


def test_directions_have_the_colours_that_one_expects():
    field = np.array([[1, 0, -1, 0, 0], [0, 1, 0, -1, 0]], np.float32)[:, None]
    right, down, left, up, none = viz.offset_colors(field, 1.0)[0].astype(int)
    assert right.tolist() == [255, 0, 0]
    assert down[0] == 255
    assert down[1] > 200
    assert down[2] == 0
    assert left[0] == 0
    assert left.min() == 0
    assert (left[1], left[2]) > (150, 150)
    assert up[2] == 255
    assert up[1] == 0
    assert none.tolist() == [255, 255, 255]


def test_the_scale_is_the_callers_and_longer_offsets_are_darker(offsets):
    half = viz.offset_colors(offsets / 2, 20.0)
    assert (half == viz.offset_colors(offsets, 40.0)).all(), "colours depend on length / longest"
    ray = np.zeros((2, 1, 4), np.float32)
    ray[0] = [[5, 10, 10.01, 1000]]
    drawn = viz.offset_colors(ray, 10.0)[0].tolist()
    assert drawn == [[255, 127, 127], [255, 0, 0], [191, 0, 0], [191, 0, 0]]


def test_values_that_are_no_numbers_are_black_and_do_not_set_the_scale():
    field = np.array([[[np.nan, np.inf, 3.0]], [[0.0, 0.0, 0.0]]], np.float32)
    assert viz.offset_colors(field)[0].tolist() == [[0, 0, 0], [0, 0, 0], [255, 0, 0]]
    assert (viz.offset_colors(np.zeros((2, 3, 4), np.float32)) == 255).all()


def test_cells_are_repeated_over_the_picture(offsets):
    grid = viz.offset_colors(offsets[:, :25, :41], 10.0)
    assert (viz.offset_colors(offsets[:, :25, :41], 10.0, (97, 161)) == viz.enlarge(grid, (97, 161))).all()
    assert (viz.enlarge(grid, (97, 161))[96, 160] == grid[24, 40]).all()


@pytest.mark.parametrize("longest", [0.0, -1.0, math.nan])
def test_refuses_a_scale_without_length(longest):
    with pytest.raises(SegfocusError, match="longest: expected a length above 0 px"):
        viz.offset_colors(np.zeros((2, 2, 2), np.float32), longest)


@pytest.mark.parametrize("side", [40, 41])
def test_every_point_of_the_wheel_has_the_colour_of_its_offset(side):
    drawn = viz.flow_wheel(side)
    middle, radius = (side - 1) / 2, side / 2 - 1
    for (row, column), _ in np.ndenumerate(drawn[..., 0]):
        x, y = column - middle, row - middle
        expected = [255, 255, 255]
        if math.hypot(x, y) <= radius:
            expected = viz.offset_colors(np.array([[[x]], [[y]]]), radius)[0, 0].tolist()
        assert drawn[row, column].tolist() == expected


def test_the_wheel_says_what_its_rim_means():
    plain, told = viz.flow_wheel(96), viz.flow_wheel(96, 16)
    assert (told[:96] == plain).all()
    assert (told[96:].min(axis=(1, 2)) < 100).any(), "dark text below"
    assert (told != viz.flow_wheel(96, 32)).any()
    with pytest.raises(SegfocusError, match="side of at least 8 px, got 3"):
        viz.flow_wheel(3)


def test_round_length_is_round_and_not_below():
    assert [viz.round_length(value) for value in (0, 1, 1.2, 2.4, 6, 8, 11, 64, 0.13)] == [
        1, 1, 1.5, 3, 7, 10, 15, 70, 0.15
    ]  # fmt: skip
    for value in np.geomspace(0.01, 5000, 97):
        assert value <= viz.round_length(value) <= 1.67 * value


def test_arrows_leave_every_lattice_point_whose_cell_looks_away():
    picture = np.full((60, 80, 3), 120, np.uint8)
    offsets = np.zeros((2, 15, 20), np.float32)
    offsets[0, 7, 7] = 9  # the cell of pixel (30, 30), which is on the lattice of step 12
    offsets[0, 7, 12] = 9  # the cell of columns 48 to 51, which hold no lattice point
    drawn = viz.arrows(picture, offsets, step=12)
    rows, columns = np.nonzero((drawn != 120).any(-1))
    assert (picture == 120).all()
    assert (drawn[30, 30:39] != 120).any(-1).all()
    assert columns.min() >= 26
    assert columns.max() < 46
    assert abs(rows - 30).max() <= 7


@pytest.mark.parametrize("value", [0.0, 0.99, np.nan, np.inf])
def test_no_arrow_where_nothing_is_borrowed(value):
    picture = np.full((60, 80, 3), 120, np.uint8)
    offsets = np.stack([np.full((15, 20), value), np.zeros((15, 20))])
    assert (viz.arrows(picture, offsets) == picture).all()


def test_an_arrow_ends_at_the_seed_pixel():
    picture = np.full((64, 64, 3), 120, np.uint8)
    offsets = np.zeros((2, 64, 64), np.float32)
    offsets[:, 32, 32] = 16, 12
    drawn = viz.arrows(picture, offsets, step=64, shortest=2)
    changed = (drawn != 120).any(-1)
    assert changed[32, 32]
    assert changed[44, 48]
    assert not changed[32 + 18, 32 + 24], "half as far again"
    assert (viz.arrows(picture, offsets / 2, step=64, shortest=2, factor=2) == drawn).all()

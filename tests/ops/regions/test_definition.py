"""The tables of all pairs against scalar loops, known values and symmetries."""

import math

import pytest
import torch

from segfocus.ops.regions.definition import (
    _check_size,
    affinity,
    bernoulli,
    group,
    jensen_shannon,
    line_maxima,
    scores_forward,
    top_classes,
)
from segfocus.ops.regions.rules import RegionRules
from tests.ops.regions.scenes import noise, voronoi


def slow_line_maximum(boundary, start, end, end_points):
    """One line, with whole numbers up to the two weights."""
    (y, x), (end_y, end_x) = start, end
    length = max(abs(end_y - y), abs(end_x - x))
    highest = 0.0
    for step in range(length + 1):
        if not end_points and step in (0, length):
            continue
        down, rest_y = divmod(step * (end_y - y), max(length, 1))
        right, rest_x = divmod(step * (end_x - x), max(length, 1))
        value = 0.0
        # one of the two rests is zero, so that at most two of these four count
        for row, weight_y in ((y + down, length - rest_y), (y + down + 1, rest_y)):
            for column, weight_x in ((x + right, length - rest_x), (x + right + 1, rest_x)):
                if length == 0:
                    value = boundary[y][x]
                elif weight_y * weight_x:
                    value += weight_y * weight_x / length**2 * boundary[row][column]
        highest = max(highest, value)
    return highest


@pytest.mark.parametrize("end_points", [True, False])
@pytest.mark.parametrize("size", [(9, 13), (11, 7), (1, 6), (6, 1), (1, 1)])
def test_line_maxima_equal_scalar_loops_for_every_pair(size, end_points):
    boundary = torch.rand(size, dtype=torch.float64)
    pixels = [(y, x) for y in range(size[0]) for x in range(size[1])]
    values = boundary.tolist()
    expected = [[slow_line_maximum(values, start, end, end_points) for end in pixels] for start in pixels]
    torch.testing.assert_close(line_maxima(boundary, end_points), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("end", "high", "expected"),
    [
        ((0, 4), (0, 2), 0.8),  # along a row
        ((4, 0), (2, 0), 0.8),  # along a column
        ((4, 4), (2, 2), 0.8),  # exact diagonal
        ((4, 4), (2, 1), 0.0),  # beside the diagonal
        ((2, 4), (1, 3), 0.4),  # slope 1/2: half-way between two rows at column 3
        ((2, 4), (1, 2), 0.8),
        ((4, 2), (3, 1), 0.4),  # slope 2/1
        ((0, 1), (0, 1), 0.0),  # neighbours: nothing between them
    ],
)
def test_known_lines_without_end_points(end, high, expected):
    boundary = torch.zeros(5, 5)
    boundary[high] = 0.8
    assert line_maxima(boundary, False)[0, end[0] * 5 + end[1]].item() == pytest.approx(expected)


@pytest.mark.parametrize("last", [True, False])
def test_lines_within_the_last_row_and_column_see_boundaries(last):
    boundary = torch.zeros(4, 6)
    boundary[3, 2] = boundary[1, 5] = 0.7
    table = line_maxima(boundary, last)
    assert table[3 * 6, 3 * 6 + 5] == table[5, 3 * 6 + 5] == torch.tensor(0.7)


def test_end_points_count_when_asked_for():
    boundary = torch.tensor([[0.1, 0.2, 0.9]])
    expected = [[0.1, 0.2, 0.9], [0.2, 0.2, 0.9], [0.9, 0.9, 0.9]]
    torch.testing.assert_close(line_maxima(boundary), torch.tensor(expected))
    torch.testing.assert_close(line_maxima(boundary, False)[0], torch.tensor([0.0, 0.0, 0.2]))


def test_the_gradient_of_a_line_goes_to_the_pixels_around_its_maximum():
    boundary = torch.zeros(2, 3)
    boundary[1, 1] = 0.6
    boundary.requires_grad_()
    # from the upper left to the lower right corner the middle sample lies between both rows
    line_maxima(boundary, False)[0, 5].backward()
    torch.testing.assert_close(boundary.grad, torch.tensor([[0.0, 0.5, 0.0], [0.0, 0.5, 0.0]]))


TURNS = {
    "flip across": lambda maps: maps.flip(-1),
    "flip down": lambda maps: maps.flip(-2),
    "transpose": lambda maps: maps.transpose(-1, -2),
    "quarter": lambda maps: maps.rot90(1, (-2, -1)),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("end_points", [True, False])
def test_affinity_is_symmetric_and_turns_with_the_picture(turn, end_points):
    scene = voronoi(8, 11)
    rules = RegionRules(end_points=end_points)
    table = affinity(scene.boundary, scene.semantic, rules)
    torch.testing.assert_close(table, table.T, rtol=0, atol=1e-6)
    turned = affinity(TURNS[turn](scene.boundary), TURNS[turn](scene.semantic), rules)
    order = TURNS[turn](torch.arange(88).view(8, 11)).flatten()
    torch.testing.assert_close(turned, table[order][:, order], rtol=0, atol=1e-6)


def test_divergence_of_equal_and_disjoint_distributions():
    semantic = torch.tensor([[1.0, 0.0, 1.0, 0.5], [0.0, 1.0, 0.0, 0.5]]).view(2, 2, 2)
    table = jensen_shannon(semantic)
    assert table[0, 2] == 0
    assert table[0, 1] == 1
    # half against whole: H(3/4, 1/4) - 1/2
    assert table[0, 3].item() == pytest.approx(0.75 * math.log2(4 / 3) + 0.25 * 2 - 0.5)


def test_divergence_keeps_its_bounds_and_does_not_depend_on_the_order_of_classes():
    semantic = noise(5, 7, classes=6, dtype=torch.float64).semantic
    table = jensen_shannon(semantic)
    flat = semantic.flatten(1)
    variation = (flat[:, :, None] - flat[:, None]).abs().sum(0) / 2
    assert (table <= variation + 1e-12).all()
    assert (table >= variation**2 / (2 * math.log(2)) - 1e-12).all()
    torch.testing.assert_close(jensen_shannon(semantic[torch.randperm(6)]), table)


def test_divergence_has_no_gradient_between_equal_distributions():
    semantic = torch.full((3, 1, 2), 1 / 3, dtype=torch.float64, requires_grad=True)
    jensen_shannon(semantic)[0, 1].backward()
    torch.testing.assert_close(semantic.grad, torch.zeros_like(semantic), atol=1e-12, rtol=0)


@pytest.mark.parametrize("divergence", [jensen_shannon, bernoulli])
def test_divergence_gradients(divergence):
    semantic = (0.05 + 0.9 * torch.rand(3, 2, 3, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(divergence, semantic)


def test_bernoulli_divergence_by_hand():
    semantic = torch.tensor([[0.7, 0.2], [0.3, 0.8]], dtype=torch.float64).view(2, 1, 2)

    def entropy(p):
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    forth = entropy(0.45) - (entropy(0.7) + entropy(0.2)) / 2
    back = entropy(0.55) - (entropy(0.8) + entropy(0.3)) / 2
    expected = torch.tensor([[0, forth], [back, 0]], dtype=torch.float64)
    torch.testing.assert_close(bernoulli(semantic), expected)


def test_bernoulli_divergence_is_clamped_without_gradient():
    semantic = torch.tensor([[1.0, 0.0], [0.0, 1.0]]).view(2, 1, 2).requires_grad_()
    table = bernoulli(semantic)
    table.sum().backward()
    assert table.max() <= 0.662
    assert not semantic.grad.any()


def test_the_lowest_of_equally_probable_classes_is_the_top_one():
    semantic = torch.tensor([[0.2, 0.4], [0.4, 0.4], [0.4, 0.2]]).view(3, 1, 2)
    assert top_classes(semantic).tolist() == [[1, 0]]


def test_scores_by_hand():
    boundary = torch.tensor([[0.1, 0.3, 0.2]], dtype=torch.float64)
    semantic = torch.ones(1, 1, 3, dtype=torch.float64)
    regions = torch.tensor([0, 0, 0])
    expected = torch.tensor([0.9 + 0.7 + 0.7, 0.7 + 0.7 + 0.7, 0.7 + 0.7 + 0.8], dtype=torch.float64) / 3
    torch.testing.assert_close(scores_forward(boundary, semantic, regions, RegionRules()), expected)
    without = torch.tensor([1 + 1 + 0.7, 1 + 1 + 1, 0.7 + 1 + 1], dtype=torch.float64) / 3
    torch.testing.assert_close(scores_forward(boundary, semantic, regions, RegionRules(end_points=False)), without)


def test_only_the_evidence_asked_for_counts():
    scene = voronoi(6, 7)
    only_boundary = affinity(scene.boundary, scene.semantic, RegionRules(evidence="boundary"))
    only_semantic = affinity(scene.boundary, scene.semantic, RegionRules(evidence="semantic"))
    torch.testing.assert_close(only_boundary, 1 - line_maxima(scene.boundary))
    torch.testing.assert_close(only_semantic, 1 - jensen_shannon(scene.semantic))
    both = affinity(scene.boundary, scene.semantic, RegionRules())
    torch.testing.assert_close(both, only_boundary * only_semantic)


def test_large_pictures_are_refused_with_a_remedy():
    with pytest.raises(ValueError, match=r'at most 1500 pixels.*got 40 x 40; try backend="torch"'):
        group(torch.rand(40, 40), torch.ones(1, 40, 40), RegionRules())


def test_maps_of_other_dimensions_are_refused():
    # the annotations, checked in tests only, would complain first
    with pytest.raises(ValueError, match=r"semantic: expected one picture, classes x height x width, got 2 x 3; try"):
        _check_size("semantic", torch.ones(2, 3), 3)

"""Pictures of regions and attention against slow twins."""

import cv2
import numpy as np
import pytest

from segfocus import viz
from segfocus.errors import SegfocusError

INK, PAPER = (24, 26, 30), (255, 255, 255)


def regions_of(seed, size=(17, 23), points=12):
    rng = np.random.default_rng(seed)
    places = rng.uniform(0, 1, (points, 2)) * size
    y, x = np.mgrid[: size[0], : size[1]]
    near = ((y[..., None] - places[:, 0]) ** 2 + (x[..., None] - places[:, 1]) ** 2).argmin(-1)
    return np.unique(near, return_inverse=True)[1].reshape(size)


def neighbours_of(regions):
    """Pairs of regions whose cells touch at an edge or a corner."""
    found = set()
    for (row, column), number in np.ndenumerate(regions):
        for other in np.unique(regions[max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]):
            if other != number:
                found.add((number, int(other)))
    return found


@pytest.mark.parametrize(
    "regions",
    [
        *(regions_of(seed) for seed in range(3)),
        np.random.default_rng(0).integers(0, 40, (9, 13)),  # in pieces, each with up to 39 neighbours
        np.arange(63).reshape(7, 9),
        np.arange(7)[None],
        np.arange(7)[:, None],
    ],
)
def test_regions_that_touch_have_different_colours(regions):
    colors = viz.region_palette(regions)
    assert colors.shape == (regions.max() + 1, 3)
    for one, other in neighbours_of(regions):
        assert np.abs(colors[one].astype(int) - colors[other]).max() >= 24, (one, other)


def test_colours_are_the_same_each_time_and_for_every_integer_type():
    regions = regions_of(0)
    expected = viz.region_palette(regions)
    np.testing.assert_array_equal(viz.region_palette(regions.copy()), expected)
    np.testing.assert_array_equal(viz.region_palette(regions.astype(np.int32)), expected)
    assert len(np.unique(viz.region_palette(np.arange(12)[None]), axis=0)) == 12, "colours are used evenly"


def test_a_number_that_no_cell_has_keeps_the_others_in_place():
    regions = np.array([[0, 0, 5], [0, 5, 5]])
    colors = viz.region_palette(regions)
    assert colors.shape == (6, 3)
    assert (colors[0] != colors[5]).any()


@pytest.mark.parametrize("with_picture", [True, False])
@pytest.mark.parametrize("thickness", [0, 1, 2])
def test_every_pixel_of_a_region_map_has_its_colour_or_is_a_line(with_picture, thickness):
    regions, size = regions_of(1, (3, 4), 4), (21, 30)
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8) if with_picture else None
    drawn = viz.region_colors(regions, picture, size, opacity=0.75, thickness=thickness)
    large, colors = viz.enlarge(regions, size), viz.region_palette(regions)
    lines = 0
    for (row, column), number in np.ndenumerate(large):
        cross = [large[row, column : column + thickness + 1], large[row : row + thickness + 1, column]]
        if any((part != number).any() for part in cross):
            assert tuple(drawn[row, column]) == INK
            lines += 1
            continue
        expected = colors[number].astype(float)
        if picture is not None:
            grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[row, column]
            expected = 0.75 * expected + 0.25 * grey
        assert np.abs(drawn[row, column] - expected).max() <= 0.5 + 1e-6
    assert bool(lines) == bool(thickness)


def test_a_part_can_have_the_colours_of_the_whole():
    regions = regions_of(2)
    colors = viz.region_palette(regions)
    whole = viz.region_colors(regions, thickness=0)
    part = viz.region_colors(regions[4:12, 5:15], colors=colors, thickness=0)
    np.testing.assert_array_equal(part, whole[4:12, 5:15])


def test_region_maps_refuse_what_they_cannot_draw():
    picture = np.zeros((9, 13, 3), np.uint8)
    with pytest.raises(SegfocusError, match="regions: expected numbers from 0 up, got -1"):
        viz.region_palette(np.array([[0, -1]]))
    with pytest.raises(SegfocusError, match="regions: expected numbers from 0 to 1, got 0 to 2"):
        viz.region_colors(np.array([[0, 1, 2]]), colors=np.zeros((2, 3), np.uint8))
    with pytest.raises(SegfocusError, match="expected a picture of 9x12 px"):
        viz.region_colors(np.zeros((3, 4), int), picture, (9, 12))


@pytest.mark.parametrize("size", [(97, 161), (16, 24), (1, 1), (30, 50)])
def test_cell_centres_are_the_means_of_the_cells_pixels(size):
    grid = (-(-size[0] // 8), -(-size[1] // 8)) if size != (30, 50) else (7, 3)  # the last: no square cells
    numbers = viz.enlarge(np.arange(grid[0] * grid[1]).reshape(grid), size)
    chosen = np.random.default_rng(0).random(grid) < 0.6
    chosen[-1, -1] = True
    expected = [np.argwhere(numbers == place).mean(0) for place in np.flatnonzero(chosen)]
    np.testing.assert_allclose(viz.cell_centres(chosen, size), expected)


def test_dots_lie_in_the_middle_of_their_cells():
    representatives = np.zeros((5, 6), bool)
    representatives[1, 2] = representatives[4, 5] = True  # the last reaches beyond the picture
    picture = np.full((37, 45, 3), 120, np.uint8)
    drawn = viz.representative_dots(picture, representatives, radius=2)
    assert (picture == 120).all()
    white = (drawn == 255).all(-1)
    rows, columns = np.nonzero(white)
    assert {(int(r) // 8, int(c) // 8) for r, c in zip(rows, columns, strict=True)} == {(1, 2), (4, 5)}
    first = white[8:16, 16:24]
    assert abs(np.argwhere(first).mean(0) - 3.5).max() <= 0.6
    changed = (drawn != 120).any(-1)
    assert changed.sum() > white.sum(), "a rim around each"
    assert (drawn[changed & ~white] == INK).all()
    assert (viz.representative_dots(picture, np.zeros((5, 6), bool)) == 120).all()


def test_dots_outside_are_left_out():
    picture = np.full((20, 20, 3), 120, np.uint8)
    outside = np.array([[-1.0, 5.0], [5.0, 20.0], [19.6, 3.0], [3.0, -0.6]])
    assert (viz.dots(picture, outside, 3) == 120).all()
    assert (viz.dots(picture, np.array([[0.0, 19.4]]), 1)[0, 19] == PAPER).all()
    assert (viz.dots(picture, np.zeros((0, 2))) == 120).all()


def attention_of(grid=(5, 6)):
    return np.random.default_rng(0).uniform(0, 0.3, grid)


def test_attention_is_scaled_by_the_largest_value_beside_the_own_cell():
    attention = attention_of()
    attention[2, 1], attention[4, 5] = 50.0, 0.36
    drawn = viz.attention_map(attention, 20, 12, size=(40, 48))
    expected = viz.heat_map(np.sqrt(attention / 0.36).clip(0, 1), (40, 48))
    far = np.hypot(*(np.mgrid[:40, :48] - np.array([20, 12])[:, None, None])) > 8
    np.testing.assert_array_equal(drawn[far], expected[far])
    assert (drawn[36, 44] == viz.heat_map(np.ones((1, 1)))[0, 0]).all()
    assert (drawn != expected).any(-1).sum() > 20, "the ring"
    ringed = np.argwhere((drawn != expected).any(-1))
    assert abs(ringed.mean(0) - (20, 12)).max() < 0.5


@pytest.mark.parametrize("values", [0.0, np.nan, np.inf])
def test_attention_without_numbers_is_dark(values):
    drawn = viz.attention_map(np.full((5, 6), values), 0, 47, size=(40, 48))
    assert (drawn[10:, :30] == viz.heat_map(np.zeros((1, 1)))[0, 0]).all()


def test_attention_of_one_cell():
    drawn = viz.attention_map(np.full((1, 1), 3.0), 0, 0, size=(40, 48))
    assert (drawn[30:, 30:] == viz.heat_map(np.ones((1, 1)))[0, 0]).all()


@pytest.mark.parametrize(("row", "column"), [(-1, 0), (40, 0), (0, 48)])
def test_attention_refuses_a_pixel_outside(row, column):
    with pytest.raises(SegfocusError, match=f"pixel inside 40x48 px, got row {row}, column {column}"):
        viz.attention_map(attention_of(), row, column, size=(40, 48))


def test_attention_lies_over_the_grey_picture():
    picture = np.random.default_rng(1).integers(0, 256, (40, 48, 3)).astype(np.uint8)
    attention = attention_of()
    drawn = viz.attention_map(attention, 39, 47, picture)
    largest = np.delete(attention.reshape(-1), -1).max()
    expected = viz.heat_map(np.sqrt(attention / largest).clip(0, 1), picture=picture)
    np.testing.assert_array_equal(drawn[:25], expected[:25])
    with pytest.raises(SegfocusError, match="expected a picture"):
        viz.attention_map(attention, 0, 0, picture, (20, 24))

"""Pictures against slow per-pixel twins."""

import numpy as np
import pytest

from segfocus import viz
from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError

CLASSES = Classes.of(["ground", "wall", "pole"])


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def labels_of(rng, height=9, width=13):
    labels = rng.integers(0, 3, (height, width)).astype(np.uint8)
    labels[0, :3] = 255
    return labels


def test_color_map_gives_each_class_its_colour_and_black_to_void(rng):
    labels = labels_of(rng)
    drawn = viz.color_map(labels, CLASSES)
    for (row, column), label in np.ndenumerate(labels):
        expected = (0, 0, 0) if label == 255 else CLASSES.colors[label]
        assert tuple(drawn[row, column]) == expected


def test_color_map_refuses_a_label_that_is_no_class():
    with pytest.raises(SegfocusError, match=r"expected train ids 0-2 or 255 \(void\), got \[7\]"):
        viz.color_map(np.full((2, 2), 7, np.uint8), CLASSES)


def test_overlay_mixes_colours_and_leaves_void_and_the_input_alone(rng):
    labels, picture = labels_of(rng), rng.integers(0, 256, (9, 13, 3)).astype(np.uint8)
    before = picture.copy()
    drawn = viz.overlay(picture, labels, CLASSES, opacity=0.25)
    expected = 0.25 * viz.color_map(labels, CLASSES) + 0.75 * picture
    assert np.abs(drawn - expected)[labels != 255].max() <= 0.5 + 1e-6
    assert (drawn[labels == 255] == picture[labels == 255]).all()
    assert (picture == before).all()


def test_overlay_refuses_unequal_sizes(rng):
    with pytest.raises(SegfocusError, match="9 x 13 pixels and 4 x 4 pixels"):
        viz.overlay(np.zeros((9, 13, 3), np.uint8), np.zeros((4, 4), np.uint8), CLASSES)


@pytest.mark.parametrize("with_picture", [True, False])
def test_change_map_says_what_became_of_every_pixel(rng, with_picture):
    target, before, after = (labels_of(np.random.default_rng(seed)) for seed in (1, 2, 3))
    picture = rng.integers(0, 256, (9, 13, 3)).astype(np.uint8) if with_picture else None
    drawn = viz.change_map(target, before, after, picture)
    ground = viz.error_map(target, target, picture)
    kinds = set()
    for (row, column), truth in np.ndenumerate(target):
        was, is_ = before[row, column] == truth, after[row, column] == truth
        kind = "void" if truth == 255 else (bool(was), bool(is_))
        expected = {(False, True): viz.FIXED, (True, False): viz.BROKEN, (False, False): viz.STILL_WRONG}.get(
            kind, tuple(ground[row, column])
        )
        assert tuple(drawn[row, column]) == expected
        kinds.add(kind)
    assert len(kinds) == 5


def test_change_map_refuses_unequal_sizes():
    small, large = np.zeros((2, 3), np.uint8), np.zeros((4, 4), np.uint8)
    with pytest.raises(SegfocusError, match="2 x 3 pixels and 4 x 4 pixels"):
        viz.change_map(large, small, small)


def test_error_map_refuses_unequal_sizes():
    with pytest.raises(SegfocusError, match="2 x 3 pixels and 4 x 4 pixels"):
        viz.error_map(np.zeros((4, 4), np.uint8), np.zeros((2, 3), np.uint8))


def test_enlarge_repeats_cells():
    grid = np.arange(6).reshape(2, 3)
    assert (viz.enlarge(grid, (4, 6)) == np.kron(grid, np.ones((2, 2), int))).all()
    assert (viz.enlarge(grid, (2, 3)) == grid).all()
    assert set(viz.enlarge(grid, (5, 7)).flat) == set(range(6))


def test_enlarge_draws_square_cells_from_the_top_left():
    grid = np.arange(13 * 21).reshape(13, 21)  # cells of 8 px over a picture of 97 x 161: the last show 1 px
    assert (viz.enlarge(grid, (97, 161)) == np.kron(grid, np.ones((8, 8), int))[:97, :161]).all()
    assert (viz.enlarge(grid, (104, 168)) == np.kron(grid, np.ones((8, 8), int))).all()
    drawn = viz.outline(np.full((97, 161, 3), 90, np.uint8), grid == 22)  # row 1, column 1: pixels 8 to 15
    lit = np.argwhere((drawn == 255).all(-1))
    assert (lit.min(0).tolist(), lit.max(0).tolist()) == ([8, 8], [15, 15])


def test_enlarge_stretches_a_grid_that_no_square_cells_explain():
    stretched = viz.enlarge(np.arange(3)[None], (4, 7))
    assert stretched.tolist() == [[0, 0, 0, 1, 1, 2, 2]] * 4


def test_heat_map_gets_lighter_with_the_value():
    ramp = np.linspace(0, 1, 64, dtype=np.float32)[None]
    luma = viz.heat_map(ramp) @ np.array([0.299, 0.587, 0.114])
    assert (np.diff(luma[0]) > 0).all()
    assert viz.heat_map(ramp, size=(10, 128)).shape == (10, 128, 3)


def test_heat_map_clips_and_takes_nan_for_zero():
    strange = np.array([[-1.0, np.nan, 2.0]], np.float32)
    assert (viz.heat_map(strange) == viz.heat_map(np.array([[0, 0, 1]], np.float32))).all()


def test_heat_map_on_a_picture_takes_its_size_and_refuses_another():
    picture = np.full((8, 12, 3), 200, np.uint8)
    assert viz.heat_map(np.zeros((2, 3), np.float32), picture=picture).shape == picture.shape
    with pytest.raises(SegfocusError, match="expected a picture of 4 x 4 pixels, got 8 x 12 pixels"):
        viz.heat_map(np.zeros((2, 3), np.float32), size=(4, 4), picture=picture)


@pytest.mark.parametrize("thickness", [1, 2])
def test_outline_draws_inside_the_edge_and_dark_outside(thickness):
    selected = np.zeros((3, 4), bool)
    selected[0, 1] = selected[2, 3] = True
    picture = np.full((30, 40, 3), 100, np.uint8)
    drawn = viz.outline(picture, selected, color=(9, 8, 7), thickness=thickness)
    mask = np.kron(selected, np.ones((10, 10), bool))
    padded = np.pad(mask, thickness)
    for (row, column), inside in np.ndenumerate(mask):
        around = padded[row : row + 2 * thickness + 1, column : column + 2 * thickness + 1]
        expected = (100, 100, 100)
        if inside and not around.all():
            expected = (9, 8, 7)
        elif not inside and around.any():
            expected = (0, 0, 0)
        assert tuple(drawn[row, column]) == expected, (row, column)
    assert (picture == 100).all()


def test_outline_of_nothing_and_of_everything():
    picture = np.full((8, 8, 3), 50, np.uint8)
    assert (viz.outline(picture, np.zeros((2, 2), bool)) == picture).all()
    everything = viz.outline(picture, np.ones((2, 2), bool))
    assert (everything[1:-1, 1:-1] == 50).all()
    assert (everything[0] == 255).all()


def test_error_map_marks_wrong_pixels_and_hatches_void(rng):
    target, prediction = labels_of(rng), labels_of(rng)
    picture = rng.integers(0, 256, (9, 13, 3)).astype(np.uint8)
    for drawn in (viz.error_map(target, prediction), viz.error_map(target, prediction, picture)):
        red = (drawn == viz.WRONG).all(-1)
        assert (red == ((target != prediction) & (target != 255))).all()
        grey = drawn[target == 255]
        assert (grey == grey[:, :1]).all()
    by_class = viz.error_map(target, prediction, picture, CLASSES)
    wrong = (target != prediction) & (target != 255)
    assert (by_class[wrong] == viz.color_map(target, CLASSES)[wrong]).all()


def test_fit_shrinks_and_never_enlarges():
    assert viz.fit(np.zeros((100, 50, 3), np.uint8), 20).shape == (20, 10, 3)
    assert viz.fit(np.zeros((1, 300, 3), np.uint8), 20).shape == (1, 20, 3)
    small = np.zeros((5, 5, 3), np.uint8)
    assert viz.fit(small, 20) is small


def test_panel_places_every_picture_below_its_title():
    colors = [(200, 10, 10), (10, 200, 10), (10, 10, 200)]
    items = [(f"picture {i}", np.full((20, 40, 3), color, np.uint8)) for i, color in enumerate(colors)]
    drawn = viz.panel(items, columns=2, cell_width=80)
    for color in colors:
        assert (drawn == color).all(-1).sum() == 80 * 40
    assert (drawn[:22].min(axis=(1, 2)) < 100).any(), "the title is written in dark ink"


def test_panel_cuts_titles_that_are_too_long_and_takes_one_pixel():
    drawn = viz.panel([("a/very/long/path/that/never/fits/into/this/cell.png", np.zeros((1, 1, 3), np.uint8))])
    assert drawn.shape[1] == 320 + 2 * 8
    assert (drawn[:30, -6:] == 255).all()


def test_panel_refuses_nothing():
    with pytest.raises(SegfocusError, match="at least one"):
        viz.panel([])

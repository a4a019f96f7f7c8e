"""Threshold heat maps, their legend, and probabilities before and after, against slow twins."""

import re
from importlib.resources import files

import numpy as np
import pytest

from segfocus import viz
from segfocus.errors import SegfocusError
from segfocus.ops.patches import best_thresholds
from segfocus.report.tables import hex_color
from segfocus.viz.thresholds import THRESHOLD_COLORS


def slow_color(threshold: float) -> list[int]:
    """Between the two colours of the scale around it, in proportion."""
    parts = len(THRESHOLD_COLORS) - 1
    place = min(max(threshold, 0.0), 1.0) * parts
    low = min(int(place), parts - 1)
    rest = place - low
    pair = zip(THRESHOLD_COLORS[low], THRESHOLD_COLORS[low + 1], strict=True)
    return [round(first + (second - first) * rest) for first, second in pair]


@pytest.mark.parametrize(("size", "patch"), [((37, 51), 16), ((8, 8), 64), ((32, 64), 16)])
def test_every_pixel_has_the_colour_of_its_patch(size, patch):
    rng = np.random.default_rng(0)
    grid = -(-size[0] // patch), -(-size[1] // patch)
    thresholds = rng.integers(0, 21, grid).astype(np.float32) / 20
    drawn = viz.threshold_heat_map(thresholds, patch, size)
    assert drawn.shape == (*size, 3)
    for row in range(size[0]):
        for column in range(size[1]):
            expected = slow_color(float(thresholds[row // patch, column // patch]))
            assert np.abs(drawn[row, column].astype(int) - expected).max() <= 1


def test_the_scale_is_white_at_a_half_and_diverges():
    low, half, high = viz.threshold_colors(np.array([[0.05, 0.5, 1.0]]))[0].astype(int)
    assert (half == 247).all()
    assert low[0] > low[2] + 60, "orange takes more"
    assert high[2] > high[0] + 25, "violet takes less"
    scale = viz.threshold_colors(np.linspace(0, 1, 101)[None])[0].astype(int)
    lightness = scale @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(lightness[:51]) >= 0).all()
    assert (np.diff(lightness[50:]) <= 0).all()
    assert (viz.threshold_colors(np.array([[-1.0, 2.0]])) == scale[[0, -1]]).all(), "ends go on"


def test_over_a_picture_the_colours_are_mixed_with_its_grey():
    picture = np.random.default_rng(1).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    before = picture.copy()
    thresholds = np.array([[0.1, 0.9], [0.5, 0.5]], np.float32)
    plain = viz.threshold_heat_map(thresholds, 16, (20, 20))
    mixed = viz.threshold_heat_map(thresholds, 16, (20, 20), picture, opacity=0.6)
    grey = picture @ [0.299, 0.587, 0.114]
    assert np.abs(mixed - (0.6 * plain + 0.4 * grey[..., None])).max() <= 1.5
    assert (picture == before).all()


def test_thresholds_of_the_library_fit_as_they_are():
    probability = np.random.default_rng(2).random((50, 70), np.float32)
    found = best_thresholds(probability, (probability > 0.3).astype(np.uint8), 16)
    assert viz.threshold_heat_map(found, 16, (50, 70)).shape == (50, 70, 3)


@pytest.mark.parametrize(
    ("thresholds", "patch", "picture", "message"),
    [
        (np.full((2, 2), 0.5), 8, None, "expected 3 x 3 for patches of 8 px in a map of 20 x 20, got 2 x 2; try"),
        (np.full((2, 2), 0.5), 0, None, "patch: expected a side of at least 1 px, got 0; try 64"),
        (np.array([[0.5, np.nan]] * 2), 16, None, "thresholds: expected numbers in [0, 1], got NaN; try"),
        (
            np.full((2, 2), 0.5),
            16,
            np.zeros((20, 21, 3), np.uint8),
            "expected a picture of 20 x 20 pixels, got 20 x 21",
        ),
    ],
)
def test_refusals(thresholds, patch, picture, message):
    with pytest.raises(SegfocusError, match=re.escape(message)):
        viz.threshold_heat_map(thresholds, patch, (20, 20), picture)


def test_the_legend_holds_the_whole_scale_and_words():
    bar = viz.threshold_bar(300, 40)
    assert bar.shape == (40, 300, 3)
    expected = viz.threshold_colors(((np.arange(300) + 0.5) / 300)[None])[0]
    assert (bar[:20] == expected).all()
    assert (bar[20:] < 128).any(), "words"
    with pytest.raises(SegfocusError, match="expected at least 120 x 24 px, got 100 x 40"):
        viz.threshold_bar(100, 40)


def test_the_page_has_the_same_scale():
    style = files("segfocus.report").joinpath("style.css").read_text(encoding="utf-8")
    (gradient,) = re.findall(r"\.diverging \{[^}]*linear-gradient\(90deg, ([^)]*)\)", style)
    assert gradient.split(", ") == [hex_color(color) for color in THRESHOLD_COLORS]


def test_probabilities_before_and_after_share_one_scale():
    before = np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)
    after = 1 - before
    pair = viz.probability_pair(before, after)
    assert (pair[0] == viz.heat_map(before)).all()
    assert (pair[0][::-1, ::-1] == pair[1]).all()
    with pytest.raises(SegfocusError, match="expected both of one size, got 6 x 8 and 6 x 7 px"):
        viz.probability_pair(before, after[:, 1:])

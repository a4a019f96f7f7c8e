"""Pictures of regions: which pixels a network takes together, which of them speak for the rest, where it looks.

Regions and attention come on a method's own grid, which covers the picture as `enlarge` lays it.
"""

from __future__ import annotations

import colorsys

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray

from segfocus.errors import SegfocusError
from segfocus.viz.maps import cells_of_pixels, enlarge, heat_map

_COLORS = (
    (68, 119, 170), (238, 102, 119), (34, 136, 51), (204, 187, 68), (102, 204, 238), (170, 51, 119),
    (238, 136, 50), (120, 94, 190), (0, 158, 145), (214, 168, 190), (136, 98, 60), (176, 205, 120),
)  # fmt: skip
"""the first colours of regions, far from each other; further ones are made by turning the hue"""
_GOLDEN_TURN = 0.6180339887
_INK, _PAPER, _MARK = (24, 26, 30), (255, 255, 255), (64, 224, 255)
"""lines between regions; dots; the ring, whose cyan no heat has"""
_NEIGHBOURS = ((0, 1), (1, 0), (1, 1), (1, -1))
"""(rows, columns) to half of a cell's eight neighbours; the other half comes from the other side"""
_PIXELS_A_LINE = 400
"""px of the picture's longer side for one px of a line"""


def region_palette(regions: Int[ndarray, "rows columns"]) -> UInt8[ndarray, "numbers 3"]:
    """A colour for every region number, so that regions that touch, also at a corner, have different ones.

    The same regions get the same colours in every run.  Larger regions choose first, each the colour that is used
    least so far among those that no neighbour has.

    Raises:
        SegfocusError: a number below 0.
    """
    if regions.size and regions.min() < 0:
        raise SegfocusError(f"regions: expected numbers from 0 up, got {int(regions.min())}")
    numbers = int(regions.max(initial=-1)) + 1
    touching = _touching(regions, numbers)
    chosen = np.full(numbers, -1, np.int64)
    uses = np.zeros(len(_COLORS), np.int64)
    sizes = np.bincount(regions.reshape(-1), minlength=numbers)
    for number in np.argsort(-sizes, kind="stable"):
        taken = chosen[touching[number]]
        free = np.ones(len(uses), bool)
        free[taken[taken >= 0]] = False
        if not free.any():
            uses, free = np.append(uses, 0), np.append(free, True)
        best = int(np.where(free, uses, np.iinfo(np.int64).max).argmin())
        chosen[number] = best
        uses[best] += 1
    return np.array([_color(place) for place in range(len(uses))], np.uint8)[chosen]


def _touching(regions: Int[ndarray, "rows columns"], numbers: int) -> list[Int[ndarray, " neighbours"]]:
    """The neighbours of every region number, each once."""
    rows, columns = regions.shape
    pairs = []
    for down, right in _NEIGHBOURS:
        here = regions[: rows - down, max(0, -right) : columns - max(0, right)]
        there = regions[down:, max(0, right) : columns + min(0, right)]
        differ = here != there
        pairs += [np.stack([here[differ], there[differ]]), np.stack([there[differ], here[differ]])]
    first, second = np.unique(np.concatenate(pairs, 1).astype(np.int64), axis=1)
    return np.split(second, np.searchsorted(first, np.arange(1, numbers)))


def _color(place: int) -> tuple[int, ...]:
    if place < len(_COLORS):
        return _COLORS[place]
    turned = place - len(_COLORS)
    red, green, blue = colorsys.hls_to_rgb(turned * _GOLDEN_TURN % 1, (0.35, 0.5, 0.65, 0.8)[turned % 4], 0.65)
    return round(255 * red), round(255 * green), round(255 * blue)


def region_colors(
    regions: Int[ndarray, "rows columns"],
    picture: UInt8[ndarray, "height width 3"] | None = None,
    size: tuple[int, int] | None = None,
    opacity: float = 0.6,
    colors: UInt8[ndarray, "numbers 3"] | None = None,
    thickness: int | None = None,
) -> UInt8[ndarray, "_ _ 3"]:
    """Regions as areas of colour with dark lines between them.

    Args:
        regions: numbers from 0 up on a grid that covers the picture.
        picture: laid under the colours, grey; None draws the colours alone.
        size: height and width in px; default the picture's, or one px a cell.
        opacity: of the colours over the picture, in [0, 1].
        colors: by region number; default `region_palette(regions)`.  For a part of a picture: the whole picture's.
        thickness: of the lines in px; default 1 for each 400 px of the longer side, 0 draws none.

    Raises:
        SegfocusError: a number below 0, or without a colour; a picture of another size.
    """
    size = size or (regions.shape if picture is None else picture.shape[:2])
    if picture is not None and picture.shape[:2] != tuple(size):
        raise SegfocusError(f"regions: expected a picture of {size[0]}x{size[1]} px, got {picture.shape[:2]}")
    if colors is None:
        colors = region_palette(regions)
    if regions.size and not 0 <= regions.min() <= regions.max() < len(colors):
        raise SegfocusError(
            f"regions: expected numbers from 0 to {len(colors) - 1}, got {int(regions.min())} to {int(regions.max())}"
        )
    large = enlarge(regions, size)
    drawn = colors[large]
    if picture is not None:
        grey = np.asarray(cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))
        drawn = np.asarray(cv2.addWeighted(drawn, opacity, grey, 1 - opacity, 0), np.uint8).reshape(drawn.shape)
    thickness = _line(size) if thickness is None else thickness
    if thickness:
        drawn[_edges(large, thickness)] = _INK
    return drawn


def _edges(regions: Int[ndarray, "height width"], thickness: int) -> Bool[ndarray, "height width"]:
    """Pixels with another region at most `thickness` px to the right or below: lines of that many px."""
    edges = np.zeros(regions.shape, bool)
    for step in range(1, thickness + 1):
        edges[:, :-step] |= regions[:, :-step] != regions[:, step:]
        edges[:-step] |= regions[:-step] != regions[step:]
    return edges


def representative_dots(
    picture: UInt8[ndarray, "height width 3"],
    representatives: Bool[ndarray, "rows columns"],
    radius: int | None = None,
) -> UInt8[ndarray, "height width 3"]:
    """The picture with a white dot in the middle of every cell that speaks for its region; `radius` as for `dots`."""
    return dots(picture, cell_centres(representatives, picture.shape[:2]), radius)


def cell_centres(chosen: Bool[ndarray, "rows columns"], size: tuple[int, int]) -> Float[ndarray, "cells 2"]:
    """(row, column) in px of the middle of every true cell, of its part inside the picture, in raster order."""
    cells = np.argwhere(chosen)
    centres = []
    for places, count, axis in zip(cells_of_pixels(chosen.shape, size), chosen.shape, (0, 1), strict=True):
        pixels = np.bincount(places, minlength=count)
        middles = np.bincount(places, np.arange(len(places)), minlength=count) / np.maximum(pixels, 1)
        centres.append(middles[cells[:, axis]])
    return np.stack(centres, 1)


def dots(
    picture: UInt8[ndarray, "height width 3"],
    places: Float[ndarray, "places 2"],
    radius: int | None = None,
) -> UInt8[ndarray, "height width 3"]:
    """The picture with white dots in dark rims at the (row, column) places; those outside are left out.

    `radius` in px defaults to 1 for each 200 px of the picture's longer side.
    """
    drawn = picture.copy()
    radius = max(1, round(max(picture.shape[:2]) / 200)) if radius is None else radius
    for color, more in ((_INK, max(1, radius // 2)), (_PAPER, 0)):
        for row, column in places:
            if -0.5 <= row < picture.shape[0] - 0.5 and -0.5 <= column < picture.shape[1] - 0.5:
                cv2.circle(drawn, (round(float(column)), round(float(row))), radius + more, color, cv2.FILLED)
    return drawn


def attention_map(
    attention: Float[ndarray, "rows columns"],
    row: int,
    column: int,
    picture: UInt8[ndarray, "height width 3"] | None = None,
    size: tuple[int, int] | None = None,
) -> UInt8[ndarray, "_ _ 3"]:
    """How much every cell enters what is said about one pixel, as heat, with a ring around that pixel.

    The brightest stands for the largest value among all OTHER cells: the pixel's own outshines them by far.  Between
    none and that the square root is shown, so that what is weak but wide can be seen too.

    Args:
        attention: numbers >= 0 on a grid that covers the picture; NaN counts as 0.
        row, column: the pixel looked from, in px.
        picture: laid under the heat, grey.
        size: height and width in px; default the picture's, or one px a cell.

    Raises:
        SegfocusError: a pixel outside, or a picture of another size.
    """
    size = size or (attention.shape if picture is None else picture.shape[:2])
    if not (0 <= row < size[0] and 0 <= column < size[1]):
        raise SegfocusError(
            f"attention: expected a pixel inside {size[0]}x{size[1]} px, got row {row}, column {column}"
        )
    values = np.nan_to_num(attention.astype(np.float64), posinf=0.0).clip(0)
    rows, columns = cells_of_pixels(attention.shape, size)
    others = values.copy()
    others[rows[row], columns[column]] = 0
    largest = others.max(initial=0) or values.max(initial=0) or 1.0
    drawn = heat_map(np.sqrt(values / largest).clip(0, 1), size, picture)
    radius = max(4, round(max(size) / 40))
    for color, thickness in ((_INK, _line(size) + 2), (_MARK, _line(size))):
        cv2.circle(drawn, (column, row), radius, color, thickness, cv2.LINE_AA)
    return drawn


def _line(size: tuple[int, int]) -> int:
    return max(1, round(max(size) / _PIXELS_A_LINE))

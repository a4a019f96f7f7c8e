"""Pictures of label maps, importance and errors.

A label map holds train ids; 255 is void.  Grids (importance, selected) cover the whole picture, however coarse, and
are enlarged by repeating cells (see `enlarge`), so that what is shown is what the method decided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int, UInt8
from numpy import ndarray

from segfocus.data.classes import Classes
from segfocus.errors import SegfocusError

WRONG = (235, 45, 40)
"""colour of a wrong pixel in an error map"""
FIXED, BROKEN, STILL_WRONG = (0, 200, 140), (235, 45, 40), (250, 185, 50)
"""colours of a change map; the green is bluish and the amber light, so that they differ for the colour-blind too"""
_VOID_DARK, _VOID_LIGHT = 92, 150
_INK, _PAPER = (24, 26, 30), (255, 255, 255)


def palette(classes: Classes) -> UInt8[ndarray, "256 3"]:
    """Colour of every value an 8-bit label map can hold: the classes' colours, black (void) elsewhere."""
    table = np.zeros((256, 3), np.uint8)
    table[: classes.num_classes] = np.asarray(classes.colors, np.uint8)
    return table


def color_map(labels: UInt8[ndarray, "height width"], classes: Classes) -> UInt8[ndarray, "height width 3"]:
    """Label map -> its classes' colours; void is black.

    Raises:
        SegfocusError: a label that is neither a class nor void.
    """
    present = np.flatnonzero(np.bincount(labels.reshape(-1), minlength=256))
    foreign = [int(value) for value in present if classes.num_classes <= value < 255]
    if foreign:
        raise SegfocusError(
            f"label map: expected train ids 0-{classes.num_classes - 1} or 255 (void), got {foreign[:5]}; "
            "try the classes the labels were made with"
        )
    return palette(classes)[labels]


def overlay(
    picture: UInt8[ndarray, "height width 3"],
    labels: UInt8[ndarray, "rows columns"],
    classes: Classes,
    opacity: float = 0.55,
) -> UInt8[ndarray, "height width 3"]:
    """Class colours laid over the picture with `opacity` in [0, 1]; void shows the picture as it is.

    Raises:
        SegfocusError: picture and labels of different sizes.
    """
    _same_size(picture, labels)
    mixed = _blend(color_map(labels, classes), picture, opacity)
    return np.where((labels == 255)[..., None], picture, mixed)


def enlarge(grid: ndarray, size: tuple[int, int]) -> ndarray:
    """Repeat the cells of a grid (rows, columns, ...) so that it covers `size` = (height, width) in pixels.

    Values are untouched.

    Methods' grids start at the top left, in square cells of 1, 2, 4, 8, ... px, and the last row and column may reach
    beyond the picture: where cells of one such side cover `size` in exactly this many rows and columns, they are
    drawn so.  Any other grid is stretched evenly over the picture.
    """
    rows, columns = cells_of_pixels((grid.shape[0], grid.shape[1]), size)
    return grid[rows[:, None], columns]


def cells_of_pixels(
    grid: tuple[int, int], size: tuple[int, int]
) -> tuple[Int[ndarray, " height"], Int[ndarray, " width"]]:
    """The cell's row of each row of pixels, and the cell's column of each column, as `enlarge` lays them."""
    ratio = max(side / cells for side, cells in zip(size, grid, strict=True))
    cell = 2 ** max(0, math.ceil(math.log2(ratio)))
    if all(-(-side // cell) == cells for side, cells in zip(size, grid, strict=True)):
        return np.arange(size[0]) // cell, np.arange(size[1]) // cell
    return (np.arange(size[0]) * grid[0]) // size[0], (np.arange(size[1]) * grid[1]) // size[1]


def heat_map(
    importance: Float[ndarray, "grid_height grid_width"],
    size: tuple[int, int] | None = None,
    picture: UInt8[ndarray, "height width 3"] | None = None,
    opacity: float = 0.7,
) -> UInt8[ndarray, "_ _ 3"]:
    """Values in [0, 1] -> dark violet (0) to pale yellow (1): 'inferno', whose lightness rises evenly.

    `size` = (height, width) in pixels defaults to the picture's or the grid's own; with `picture` the colours are
    laid over its grey version.  Values outside [0, 1] are clipped; NaN counts as 0.
    """
    size = size or (picture.shape[:2] if picture is not None else importance.shape)
    bytes_ = (np.nan_to_num(importance).clip(0, 1) * 255).round().astype(np.uint8)
    table = np.asarray(cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_INFERNO))
    colors = np.ascontiguousarray(table.reshape(256, 3)[:, ::-1])[enlarge(bytes_, size)]
    return colors if picture is None else lay_over_grey(colors, picture, opacity)


def lay_over_grey(
    colors: UInt8[ndarray, "height width 3"], picture: UInt8[ndarray, "_ _ 3"], opacity: float
) -> UInt8[ndarray, "height width 3"]:
    """Colours laid over the grey version of a picture with `opacity` in [0, 1].

    Raises:
        SegfocusError: a picture of another size.
    """
    if picture.shape[:2] != colors.shape[:2]:
        raise SegfocusError(f"heat map: expected a picture of {_words(colors.shape)}, got {_words(picture.shape)}")
    return _blend(colors, _grey(picture), opacity)


def outline(
    picture: UInt8[ndarray, "height width 3"],
    selected: Bool[ndarray, "grid_height grid_width"],
    color: tuple[int, int, int] = (255, 255, 255),
    thickness: int | None = None,
) -> UInt8[ndarray, "height width 3"]:
    """Draw the outlines of the selected cells: a line inside each region's edge, a dark line just outside it.

    `thickness` in pixels defaults to 1 for each 400 pixels of the picture's longer side.  The picture's frame counts
    as an edge.
    """
    height, width = picture.shape[:2]
    thickness = thickness or max(1, round(max(height, width) / 400))
    mask = enlarge(selected, (height, width)).astype(np.uint8)
    kernel = np.ones((2 * thickness + 1, 2 * thickness + 1), np.uint8)
    framed = cv2.copyMakeBorder(mask, thickness, thickness, thickness, thickness, cv2.BORDER_CONSTANT, value=0)
    inner = np.asarray(cv2.erode(framed, kernel))[thickness:-thickness, thickness:-thickness]
    outer = np.asarray(cv2.dilate(mask, kernel))
    drawn = picture.copy()
    drawn[(outer > 0) & (mask == 0)] = 0
    drawn[(mask > 0) & (inner == 0)] = color
    return drawn


def error_map(
    target: UInt8[ndarray, "height width"],
    prediction: UInt8[ndarray, "rows columns"],
    picture: UInt8[ndarray, "picture_height picture_width 3"] | None = None,
    classes: Classes | None = None,
) -> UInt8[ndarray, "height width 3"]:
    """Where a prediction is wrong.

    Correct pixels are a dimmed grey picture (or plain dark grey); wrong ones are red, or, with `classes`, the colour
    of the class that is true there; void pixels are hatched.

    Raises:
        SegfocusError: maps or picture of different sizes.
    """
    _same_size(prediction, target)
    wrong = (prediction != target) & (target != 255)
    drawn = _dimmed(target, picture)
    drawn[wrong] = WRONG if classes is None else color_map(target, classes)[wrong]
    return drawn


def change_map(
    target: UInt8[ndarray, "height width"],
    before: UInt8[ndarray, "rows columns"],
    after: UInt8[ndarray, "rows columns"],
    picture: UInt8[ndarray, "picture_height picture_width 3"] | None = None,
) -> UInt8[ndarray, "height width 3"]:
    """What a second prediction changes: pixels it fixes are green, pixels it breaks red, those that both have wrong
    amber.

    Pixels that both have right are a dimmed grey picture (or plain dark grey); void pixels are hatched.

    Raises:
        SegfocusError: maps or picture of different sizes.
    """
    for labels in (before, after):
        _same_size(labels, target)
    labelled = target != 255
    was_wrong, is_wrong = (before != target) & labelled, (after != target) & labelled
    drawn = _dimmed(target, picture)
    drawn[was_wrong & ~is_wrong] = FIXED
    drawn[is_wrong & ~was_wrong] = BROKEN
    drawn[is_wrong & was_wrong] = STILL_WRONG
    return drawn


def _dimmed(target: ndarray, picture: ndarray | None) -> ndarray:
    """A new dimmed grey picture, or plain dark grey, with void hatched: the ground of error maps."""
    if picture is None:
        drawn = np.full((*target.shape, 3), 40, np.uint8)
    else:
        _same_size(picture, target)
        drawn = (_grey(picture) * 0.45).astype(np.uint8)
    void = target == 255
    rows, columns = np.ogrid[: target.shape[0], : target.shape[1]]
    hatch = np.where((rows + columns) // 2 % 4 == 0, _VOID_LIGHT, _VOID_DARK).astype(np.uint8)
    drawn[void] = hatch[void][:, None]
    return drawn


def fit(image: UInt8[ndarray, "height width 3"], longest: int) -> UInt8[ndarray, "_ _ 3"]:
    """Shrink so that the longer side is at most `longest` pixels (area average); smaller ones stay as they are."""
    height, width = image.shape[:2]
    factor = longest / max(height, width)
    if factor >= 1:
        return image
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def panel(
    items: Sequence[tuple[str, UInt8[ndarray, "_ _ 3"]]], columns: int | None = None, cell_width: int = 320
) -> UInt8[ndarray, "_ _ 3"]:
    """Titled pictures side by side on white, `columns` in a row (default: all, at most 5).

    Each picture is scaled to `cell_width` pixels (label maps stay crisp: enlarging repeats pixels).

    Raises:
        SegfocusError: no items.
    """
    if not items:
        raise SegfocusError("panel: expected at least one (title, picture), got none")
    from PIL import Image, ImageDraw, ImageFont

    columns = columns or min(5, len(items))
    gap, title_height = max(4, cell_width // 40), max(18, cell_width // 14)
    font = ImageFont.load_default(title_height * 0.68)
    cells = [_to_width(image, cell_width) for _, image in items]
    row_heights = [
        max(cell.shape[0] for cell in cells[start : start + columns]) for start in range(0, len(cells), columns)
    ]
    rows = math.ceil(len(cells) / columns)
    canvas = Image.new(
        "RGB",
        (columns * cell_width + (columns + 1) * gap, sum(row_heights) + rows * (title_height + gap) + gap),
        _PAPER,
    )
    pen = ImageDraw.Draw(canvas)
    for index, ((title, _), cell) in enumerate(zip(items, cells, strict=True)):
        row, column = divmod(index, columns)
        left = gap + column * (cell_width + gap)
        top = gap + sum(row_heights[:row]) + row * (title_height + gap)
        pen.text((left, top + title_height / 2), _shorten(title, font, cell_width), _INK, font=font, anchor="lm")
        canvas.paste(Image.fromarray(cell), (left, top + title_height))
    return np.array(canvas)


def _shorten(title: str, font, width: int) -> str:
    """Cut a title at the front, where file names differ least, until it fits."""
    title = " ".join(title.split())
    if font.getlength(title) <= width:
        return title
    while len(title) > 1 and font.getlength("…" + title) > width:
        title = title[1:]
    return "…" + title


def _to_width(image: ndarray, width: int) -> ndarray:
    height = max(1, round(image.shape[0] * width / image.shape[1]))
    method = cv2.INTER_AREA if width < image.shape[1] else cv2.INTER_NEAREST
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), np.uint8)


def _grey(picture: ndarray) -> ndarray:
    grey = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)).reshape(picture.shape[:2])
    return np.repeat(grey[..., None], 3, axis=2)


def _blend(top: ndarray, bottom: ndarray, opacity: float) -> ndarray:
    return np.asarray(cv2.addWeighted(top, opacity, bottom, 1 - opacity, 0), np.uint8).reshape(top.shape)


def _words(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} x {shape[1]} pixels"


def _same_size(first: ndarray, second: ndarray) -> None:
    if first.shape[:2] != second.shape[:2]:
        raise SegfocusError(f"expected maps of one size, got {_words(first.shape)} and {_words(second.shape)}")

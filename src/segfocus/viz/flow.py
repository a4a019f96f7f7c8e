"""Pictures of offsets: where each pixel borrows from, by the colour wheel of optical flow.

The hue is the direction and the saturation the length, white where there is no offset (Baker et al., "A database and
evaluation methodology for optical flow", IJCV 2011, section 4.2; the 55 hues and their order are theirs).

Where this differs: lengths are pixels of the picture on a scale that the caller can fix, so that pictures can be
compared and a legend can say what a colour means; usually each picture is scaled by its own longest vector.
"""

from __future__ import annotations

import cv2
import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from segfocus.errors import SegfocusError
from segfocus.viz.maps import enlarge

_CORNERS = ((255, 0, 0), (255, 255, 0), (0, 255, 0), (0, 255, 255), (0, 0, 255), (255, 0, 255))
_STEPS = (15, 6, 4, 11, 13, 6)
"""hues from each corner to the next: red, yellow, green, cyan, blue, magenta"""
_BEYOND = 0.75
"""brightness of what is longer than the scale"""
_ROUND = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0, 10.0)
_INK, _PAPER = (24, 26, 30), (255, 255, 255)


def _hues() -> Float[ndarray, "55 3"]:
    """The wheel's colours, 0 to 255, from the one that stands for rightwards on, clockwise."""
    corners = np.array([*_CORNERS, _CORNERS[0]], np.float64)
    parts = [
        start + (end - start) * np.arange(steps)[:, None] / steps
        for start, end, steps in zip(corners[:-1], corners[1:], _STEPS, strict=True)
    ]
    return np.concatenate(parts)


def offset_colors(
    offsets: Float[ndarray, "2 rows columns"],
    longest: float | None = None,
    size: tuple[int, int] | None = None,
) -> UInt8[ndarray, "_ _ 3"]:
    """Offsets (x to the right, y down, in px) -> hue by direction, saturation by length; white is no offset.

    Args:
        offsets: on a grid that covers the picture, or part of it.
        longest: px at which the colour is full; longer ones are darkened, NaN is black.  Default the longest of these.
        size: height and width in px that the cells are repeated to (see `enlarge`); default one px a cell.

    Raises:
        SegfocusError: `longest` is not above 0.
    """
    if longest is not None and not longest > 0:
        raise SegfocusError(f"longest: expected a length above 0 px, got {longest}; try 16")
    x, y = offsets.astype(np.float64)
    length = np.hypot(x, y)
    known = np.isfinite(length)
    if longest is None:
        longest = float(length[known].max(initial=0)) or 1.0
    share = np.where(known, length, 0) / longest
    hues = _hues()
    # -x, -y: rightwards is where the wheel begins and ends
    place = (np.arctan2(-np.where(known, y, 0), -np.where(known, x, 0)) / np.pi + 1) / 2 * (len(hues) - 1)
    first = np.floor(place).astype(np.int64)
    rest = (place - first)[..., None]
    full = (1 - rest) * hues[first] + rest * hues[(first + 1) % len(hues)]
    colors = np.where((share <= 1)[..., None], 255 - share[..., None] * (255 - full), _BEYOND * full)
    drawn = np.where(known[..., None], np.floor(colors), 0).astype(np.uint8)
    if size is None:
        return drawn
    return enlarge(drawn, size)


def flow_wheel(side: int = 96, longest: float | None = None) -> UInt8[ndarray, "_ side 3"]:
    """The legend of `offset_colors`: a disc whose every point has the colour of the offset from the centre to it.

    With `longest` a line below the disc says how many px its rim stands for.

    Raises:
        SegfocusError: a side of less than 8 px.
    """
    if side < 8:
        raise SegfocusError(f"flow wheel: expected a side of at least 8 px, got {side}; try 96")
    middle, radius = (side - 1) / 2, side / 2 - 1
    y, x = np.mgrid[:side, :side] - middle
    drawn = offset_colors(np.stack([x, y]), radius)
    drawn[np.hypot(x, y) > radius] = _PAPER
    if longest is None:
        return drawn
    from PIL import Image, ImageDraw, ImageFont

    height = max(12, side // 5)
    canvas = Image.new("RGB", (side, side + height), _PAPER)
    canvas.paste(Image.fromarray(drawn), (0, 0))
    font = ImageFont.load_default(height * 0.72)
    ImageDraw.Draw(canvas).text((side / 2, side + height / 2), f"rim: {longest:g} px", _INK, font=font, anchor="mm")
    return np.array(canvas)


def round_length(length: float) -> float:
    """The next round number of px from `length` on (1, 1.5, 2, 3, 5, 7, 10, 15, ...): a scale for legends."""
    if not length > 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(length))
    return round(float(next(power * step for step in _ROUND if length <= power * step * (1 + 1e-9))), 9)


def arrows(
    picture: UInt8[ndarray, "height width 3"],
    offsets: Float[ndarray, "2 rows columns"],
    step: int = 24,
    shortest: float = 1.0,
    factor: float = 1.0,
) -> UInt8[ndarray, "height width 3"]:
    """The picture with an arrow from every `step`-th pixel to the pixel it borrows from.

    Args:
        picture: what is drawn upon; not changed.
        offsets: (x, y) in px on a grid that covers the picture.
        step: px between arrows.
        shortest: px below which an offset is not drawn.
        factor: px drawn for one px of an offset: that of a picture that was enlarged.
    """
    height, width = picture.shape[:2]
    drawn = picture.copy()
    x, y = (enlarge(part, (height, width)) for part in offsets)
    line = max(1, round(step / 24))
    for row in range(step // 2, height, step):
        for column in range(step // 2, width, step):
            across, down = float(x[row, column]), float(y[row, column])
            length = np.hypot(across, down)
            if not shortest <= length < np.inf:
                continue
            end = (round(column + factor * across), round(row + factor * down))
            tip = min(0.5, 6 * line / (factor * length))
            for color, thickness in ((_INK, line + 2), (_PAPER, line)):
                cv2.arrowedLine(drawn, (column, row), end, color, thickness, cv2.LINE_AA, tipLength=tip)
    return drawn

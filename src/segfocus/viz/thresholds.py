"""Pictures of probability maps before and after refining, and of the threshold of each patch.

A threshold below 0.5 takes more than the map itself would (orange), one above takes less (violet), 0.5 is white.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from segfocus.errors import SegfocusError
from segfocus.ops.patch_maps import patch_index
from segfocus.viz.maps import heat_map, lay_over_grey

THRESHOLD_COLORS = ((127, 59, 8), (224, 130, 20), (253, 184, 99), (247, 247, 247))
THRESHOLD_COLORS += ((178, 171, 210), (128, 115, 172), (45, 0, 75))
"""of thresholds 0, 1/6, ... 1; the diverging scale PuOr of Harrower & Brewer (ColorBrewer, 2003), which the
colour-blind can read"""
_INK, _PAPER = (24, 26, 30), (255, 255, 255)


def threshold_colors(thresholds: Float[ndarray, "rows columns"]) -> UInt8[ndarray, "rows columns 3"]:
    """One colour a threshold; those outside [0, 1] have the colours of the ends.

    Raises:
        SegfocusError: a threshold is NaN.
    """
    if np.isnan(thresholds).any():
        raise SegfocusError("thresholds: expected numbers in [0, 1], got NaN; try 0.5 for a patch without one")
    places = np.linspace(0, 1, len(THRESHOLD_COLORS))
    channels = [np.interp(thresholds, places, [color[axis] for color in THRESHOLD_COLORS]) for axis in range(3)]
    return np.stack(channels, -1).round().astype(np.uint8)


def threshold_heat_map(
    thresholds: Float[ndarray, "rows columns"],
    patch: int,
    size: tuple[int, int],
    picture: UInt8[ndarray, "height width 3"] | None = None,
    opacity: float = 0.75,
) -> UInt8[ndarray, "_ _ 3"]:
    """Each patch of a map in the colour of its threshold.

    Args:
        thresholds: of the patches, as `segfocus.ops.patches.best_thresholds` gives them.
        patch: side in px; the grid begins in the upper left corner, and the frame may cut the last patches.
        size: height and width of the map in px.
        picture: laid below, in grey.
        opacity: of the colours over it, in [0, 1].

    Raises:
        SegfocusError: thresholds of another number of patches, a patch below 1, NaN, a picture of another size.
    """
    rows, columns = patch_index(size, patch)
    if thresholds.shape != (rows[-1] + 1, columns[-1] + 1):
        raise SegfocusError(
            f"thresholds: expected {rows[-1] + 1} x {columns[-1] + 1} for patches of {patch} px in a map of "
            f"{size[0]} x {size[1]}, got {thresholds.shape[0]} x {thresholds.shape[1]}; try the patch they were made "
            "with"
        )
    colors = threshold_colors(thresholds)[rows[:, None], columns]
    return colors if picture is None else lay_over_grey(colors, picture, opacity)


def threshold_bar(width: int = 320, height: int = 44) -> UInt8[ndarray, "height width 3"]:
    """The legend of `threshold_heat_map`: the scale from 0 to 1, with what its ends mean below.

    Raises:
        SegfocusError: smaller than 120 x 24 px.
    """
    if width < 120 or height < 24:
        raise SegfocusError(f"threshold bar: expected at least 120 x 24 px, got {width} x {height}; try 320 44")
    from PIL import Image, ImageDraw, ImageFont

    scale = height // 2
    canvas = np.full((height, width, 3), _PAPER, np.uint8)
    canvas[:scale] = threshold_colors(((np.arange(width) + 0.5) / width)[None])
    drawn = Image.fromarray(canvas)
    pen, font = ImageDraw.Draw(drawn), ImageFont.load_default(min(height * 0.34, width / 22))
    middle = (scale + height) / 2
    ends = ((2, "0: takes more", "lm"), (width / 2, "0.5", "mm"), (width - 2, "takes less: 1", "rm"))
    for place, text, anchor in ends:
        pen.text((place, middle), text, _INK, font=font, anchor=anchor)
    return np.array(drawn)


def probability_pair(
    before: Float[ndarray, "height width"], after: Float[ndarray, "rows columns"]
) -> tuple[UInt8[ndarray, "height width 3"], UInt8[ndarray, "height width 3"]]:
    """Probability of one class before and after, in [0, 1], on the one scale of `heat_map`: dark is 0, yellow is 1.

    Raises:
        SegfocusError: maps of different sizes.
    """
    if before.shape != after.shape:
        raise SegfocusError(
            f"probability maps: expected both of one size, got {before.shape[0]} x {before.shape[1]} and "
            f"{after.shape[0]} x {after.shape[1]} px; try the map that was refined"
        )
    return heat_map(before), heat_map(after)

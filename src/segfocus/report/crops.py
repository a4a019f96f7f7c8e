"""Windows of pictures in which most is wrong, enlarged."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
from jaxtyping import Bool, UInt8

from segfocus.data.classes import Classes
from segfocus.report.context import draw_part_of_regions
from segfocus.report.images import Entry, Image, draw, embed
from segfocus.report.offsets import Pending, place_of_offsets
from segfocus.report.thresholds import draw_part_of_maps
from segfocus.viz import enlarge

_LEAST, _MOST = 96, 256
_SHOWN = 256
"""px that a window is enlarged to, at least"""
PER_PICTURE = 2
"""windows of one picture, at most: one bad picture must not hide the others"""


@dataclass(frozen=True)
class Window:
    """A square part of a picture."""

    top: int
    left: int
    side: int
    hits: int
    """pixels of the kind one looks for"""

    @property
    def share(self) -> float:
        """of the window's pixels"""
        return self.hits / self.side**2

    @property
    def inside(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)


@dataclass(frozen=True)
class Mistake:
    """One class taken for another."""

    truth: int
    guess: int

    @property
    def group(self) -> str:
        return f"{self.truth} {self.guess}"


@dataclass(frozen=True)
class Crop:
    """A window as it is shown."""

    name: str
    window: Window
    images: list[Image]
    mistake: str
    """the commonest in it, in words"""
    offsets: Pending | None = None
    """its offsets, to be drawn"""


def window_side(height: int, width: int) -> int:
    """A third of the picture's shorter side in steps of 32, 96 to 256 px; 0 where that is most of the picture."""
    side = min(max(min(height, width) // 3 // 32 * 32, _LEAST), _MOST)
    return side if 2 * side * side <= height * width and side <= min(height, width) else 0


def densest_windows(mask: Bool[np.ndarray, "height width"], side: int, most: int = PER_PICTURE) -> list[Window]:
    """The square windows of `side` px with the most true pixels, most first; they do not overlap.

    Greedy: the best window, then the best that does not touch it, and so on; among equals the first from the top
    left.  Windows without a true pixel are left out.
    """
    if not side:
        return []
    sums = np.asarray(cv2.integral(mask.view(np.uint8)))
    hits = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    found = []
    for _ in range(most):
        top, left = (int(place) for place in np.unravel_index(hits.argmax(), hits.shape))
        if hits[top, left] <= 0:
            break
        found.append(Window(top, left, side, int(hits[top, left])))
        hits[max(0, top - side + 1) : top + side, max(0, left - side + 1) : left + side] = -1
    return found


def draw_crop(entry: Entry, window: Window, classes: Classes, mistake: Mistake) -> Crop:
    """The window of every map of the entry, enlarged by a whole number so that pixels stay visible."""
    inside = window.inside
    factor = -(-_SHOWN // window.side)

    def part(image: np.ndarray, smooth: bool = False) -> np.ndarray:
        how = cv2.INTER_CUBIC if smooth else cv2.INTER_NEAREST
        return np.asarray(cv2.resize(image[inside], None, fx=factor, fy=factor, interpolation=how))

    enlarged = replace(
        entry,
        picture=None if entry.picture is None else part(entry.picture, smooth=True),
        target=part(entry.target),
        prediction=part(entry.prediction),
        baseline=None if entry.baseline is None else part(entry.baseline),
        importance=None,
        selected=None,
        offsets=None,
        confidence=None if entry.confidence is None else part(enlarge(entry.confidence, entry.target.shape)),
        base_probabilities=None,
        probabilities=None,
    )
    drawn = [*draw(enlarged, classes), *draw_part_of_regions(entry, inside, factor, enlarged.picture)]
    offsets = None
    if entry.offsets is not None:
        cut = np.stack([enlarge(axis, entry.target.shape)[inside] for axis in entry.offsets])
        offsets = Pending(cut, place_of_offsets(drawn), (window.side, window.side), factor=factor)
    images = [*(embed(*each) for each in drawn), *draw_part_of_maps(entry, classes, inside, factor)]
    words = f"{classes.names[mistake.truth]} taken for {classes.names[mistake.guess]}"
    return Crop(entry.name, window, images, words, offsets)


def commonest_mistake(
    target: UInt8[np.ndarray, "height width"],
    guess: UInt8[np.ndarray, "height width"],
    mask: Bool[np.ndarray, "height width"],
    window: Window,
) -> Mistake:
    """The pair of classes with the most pixels of the mask inside the window, which must hold one."""
    chosen = mask[window.inside]
    truth, other = target[window.inside][chosen], guess[window.inside][chosen]
    pairs, counts = np.unique(truth.astype(np.int64) * 256 + other, return_counts=True)
    return Mistake(*divmod(int(pairs[counts.argmax()]), 256))

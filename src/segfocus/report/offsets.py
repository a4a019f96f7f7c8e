"""Offsets on the page: one colour scale for all pictures, which is known only after the last one."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float

from segfocus import viz
from segfocus.report.images import Drawn, Image, embed

_STEP, _STEPS = 0.25, 8192
"""px of a bin of lengths, and bins"""
_INSIDE = 0.98
"""share of the cells whose offsets lie on the scale; longer ones are darkened"""
_ARROWS = 32
"""px between the arrows of a window as it is shown"""


class OffsetScale:
    """The lengths of all offsets so far, counted."""

    def __init__(self) -> None:
        self._counts = np.zeros(_STEPS, np.int64)

    def add(self, offsets: Float[np.ndarray, "2 rows columns"]) -> None:
        length = np.hypot(*offsets.astype(np.float64))
        bins = np.minimum(length[np.isfinite(length)] / _STEP, _STEPS - 1).astype(np.int64)
        self._counts += np.bincount(bins, minlength=_STEPS)

    @property
    def longest(self) -> float | None:
        """A round number of px, at least 1, that nearly all offsets stay below; None where there are none."""
        total = int(self._counts.sum())
        if not total:
            return None
        longest = float(np.searchsorted(self._counts.cumsum(), _INSIDE * total) + 1) * _STEP
        return viz.round_length(max(1.0, longest))


@dataclass(frozen=True)
class Pending:
    """An offset picture that waits for its scale."""

    offsets: Float[np.ndarray, "2 rows columns"]
    place: int
    """among the images"""
    size: tuple[int, int]
    """height and width in px that the grid covers"""
    longest_side: int | None = None
    """px that it is shrunk to"""
    factor: int = 1
    """that it is enlarged by; arrows are drawn then"""

    def into(self, images: list[Image], longest: float) -> list[Image]:
        """The images with this one in its place."""
        drawn = viz.offset_colors(self.offsets, longest, self.size)
        if self.longest_side is not None:
            drawn = viz.fit(drawn, self.longest_side)
        if self.factor > 1:
            drawn = np.asarray(
                cv2.resize(drawn, None, fx=self.factor, fy=self.factor, interpolation=cv2.INTER_NEAREST), np.uint8
            )
            drawn = viz.arrows(drawn, self.offsets, _ARROWS, factor=self.factor)
        return [*images[: self.place], embed("offsets", drawn, flat=True), *images[self.place :]]


def place_of_offsets(drawn: Drawn) -> int:
    """Before the confidence, else last."""
    return next((place for place, item in enumerate(drawn) if item[0] == "confidence"), len(drawn))


def wheel(longest: float) -> Image:
    """The legend."""
    drawn = viz.flow_wheel(160)
    return embed(f"colours of offsets up to {longest:g} px", drawn, flat=True)

"""Probability maps of any model in files, and the pictures beside them, read by window.

`.npy` and TIFF are read by window, however large; `.npz`, PNG and others whole.  A map holds a channel a class, or
of two classes the foreground alone, as [channels, height, width], [height, width, channels] or [height, width]; 8-bit
values stand for value / 255, 16-bit values for value / 65535, floats for themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Float32, UInt8

from segfocus.data.pictures import MAX_PIXELS, read_picture
from segfocus.data.probabilities import as_fractions, check_sums, of_logits
from segfocus.data.windows import TIFF_EXTENSIONS, Windows, open_tiff, open_windows
from segfocus.errors import SegfocusError

Layout = Literal["HW", "CHW", "HWC"]

_DTYPES = (np.bool_, np.uint8, np.uint16)
"""besides floats"""


@dataclass(frozen=True)
class MapFile:
    """A probability map on disk."""

    path: Path
    size: tuple[int, int]
    """height and width, px"""
    classes: int
    channels: int
    """as stored: one for each class, or 1, the foreground of two classes"""
    layout: Layout
    """order of the stored axes"""
    logits: bool
    stored: Windows = field(repr=False)

    @property
    def dtype(self) -> np.dtype:
        return self.stored.dtype

    @property
    def streamed(self) -> bool:
        """Whether windows are read from disk one by one."""
        return self.stored.streamed

    def read(self, rows: slice, columns: slice) -> Float32[np.ndarray, "classes height width"]:
        """Probabilities in [0, 1] of a part of the map, both of two classes.

        Raises:
            SegfocusError: damaged, NaN, infinity, values outside [0, 1], sums far from 1, inside that part.
        """
        every = slice(0, self.channels)
        if self.layout == "HW":
            values = self.stored.part((rows, columns))[None]
        elif self.layout == "CHW":
            values = self.stored.part((every, rows, columns))
        else:
            values = np.moveaxis(self.stored.part((rows, columns, every)), 2, 0)
        corner = (rows.start, columns.start)
        if self.logits:
            return of_logits(values, self.path, corner)
        remedy = "--logits, or softmax (sigmoid for one channel)"
        fractions = as_fractions(values, self.path, corner, remedy)
        if self.channels == 1:
            return np.concatenate([1 - fractions, fractions])
        check_sums(fractions, self.dtype, self.path, corner)
        return fractions


@dataclass(frozen=True)
class PictureFile:
    """A picture on disk."""

    path: Path
    size: tuple[int, int]
    """height and width, px"""
    stored: Windows | None = field(repr=False)
    picture: UInt8[np.ndarray, "height width 3"] | None = field(repr=False)

    def read(self, rows: slice, columns: slice) -> UInt8[np.ndarray, "_ _ 3"]:
        """RGB of a part of the picture.

        Raises:
            SegfocusError: damaged.
        """
        if self.picture is not None:
            return self.picture[rows, columns]
        assert self.stored is not None
        if len(self.stored.shape) == 2:
            return np.repeat(self.stored.part((rows, columns))[:, :, None], 3, axis=2)
        if self.stored.axes == "CHW":
            return np.ascontiguousarray(np.moveaxis(self.stored.part((slice(0, 3), rows, columns)), 0, 2))
        return np.ascontiguousarray(self.stored.part((rows, columns, slice(0, 3))))


def open_map(path: str | Path, classes: int, *, logits: bool = False, max_pixels: int = MAX_PIXELS) -> MapFile:
    """A map to be read by window; nothing stays open.

    Args:
        classes: how many it is to have; of three axes the first that has as many entries is the channels.
        logits: floats are logits: softmax over channels, sigmoid of a single one.
        max_pixels: of a picture file that is read whole; there is no limit where windows are read.

    Raises:
        SegfocusError: unreadable, damaged, a colour picture, other numbers than named above, other channels than
            classes; names the file.
    """
    path = Path(path)
    stored = open_windows(path, max_pixels)
    layout, channels = _layout(stored, classes, path)
    if stored.dtype.kind != "f" and stored.dtype.type not in _DTYPES:
        raise SegfocusError(
            f"{path}: expected probabilities as floats, 8-bit or 16-bit values, got {stored.dtype}, which may be "
            "labels; try the folder of probability maps"
        )
    if logits and stored.dtype.kind != "f":
        raise SegfocusError(f"{path}: expected logits as floats, got {stored.dtype}; try without --logits")
    rows = layout.index("H")
    return MapFile(path, (stored.shape[rows], stored.shape[rows + 1]), classes, channels, layout, logits, stored)


def open_picture(path: str | Path, max_pixels: int = MAX_PIXELS) -> PictureFile:
    """A picture to be read by window where it is an 8-bit TIFF that can be, without limit; others are read here.

    Raises:
        SegfocusError: as `segfocus.data.pictures.read_picture`.
    """
    path = Path(path)
    if path.suffix.lower() in TIFF_EXTENSIONS and path.is_file() and path.stat().st_size:
        stored = open_tiff(path)
        if stored is not None and stored.dtype == np.uint8:
            colors = {"HW": None, "HWC": 2, "CHW": 0}.get(stored.axes, -1)
            if colors is None or (colors >= 0 and stored.shape[colors] in (3, 4)):
                rows = 1 if colors == 0 else 0
                return PictureFile(path, (stored.shape[rows], stored.shape[rows + 1]), stored, None)
    picture = np.ascontiguousarray(read_picture(path, max_pixels))
    return PictureFile(path, (picture.shape[0], picture.shape[1]), None, picture)


def _layout(stored: Windows, classes: int, path: Path) -> tuple[Layout, int]:
    """Order of the axes, and how many channels there are."""
    shape, axes = stored.shape, stored.axes
    if axes == "colors":
        raise SegfocusError(
            f"{path}: expected a probability map, one value a pixel and class, got a colour picture; "
            "try the folder of probability maps"
        )
    fitting = (1, 2) if classes == 2 else (classes,)
    if axes == "HW":
        if classes == 2:
            return "HW", 1
    elif shape[0] in fitting and axes != "HWC":
        return "CHW", shape[0]
    elif shape[2] in fitting and axes != "CHW":
        return "HWC", shape[2]
    elif stored.dtype == np.uint8 and shape[2] in (3, 4):
        raise SegfocusError(
            f"{path}: expected a map of {classes} classes, got an array {list(shape)} of 8-bit values, which looks "
            "like a colour picture; try the folder of probability maps"
        )
    raise SegfocusError(
        f"{path}: expected a map of {classes} classes as [{classes}, height, width]"
        f"{' or [height, width]' if classes == 2 else ''}, got an array {list(shape)}; "
        "try the maps of the model the refiner was trained for"
    )

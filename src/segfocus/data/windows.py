"""Arrays in files of which a part is read without the rest: .npy, and TIFF by strips or tiles; other files whole.

No file stays open, and no page of a mapped file in memory, between two reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from segfocus.data.arrays import BROKEN, Axes, damaged, numbers, read_array, tiff_axes
from segfocus.data.pictures import mask_kind
from segfocus.errors import SegfocusError

TIFF_EXTENSIONS = (".tif", ".tiff")
_GRAY, _RGB = 1, 2
"""photometric interpretations of TIFF; others (white is zero, palette, ...) are left to Pillow"""
_ORIENTATION = 274


@dataclass(frozen=True)
class Windows:
    """An array in a file."""

    shape: tuple[int, ...]
    """two or three axes"""
    dtype: np.dtype
    """in the machine's byte order"""
    axes: Axes
    """what is known of their order"""
    called: str
    """the array's name inside an npz file"""
    part: Callable[[tuple[slice, ...]], np.ndarray]
    """slices of each axis (from, to; step 1) -> values"""
    streamed: bool
    """whether parts are read from disk; otherwise the array was read whole"""


def open_windows(path: str | Path, max_pixels: int) -> Windows:
    """The array of a file as `segfocus.data.arrays.read_array` finds it; colours are never taken for channels unless
    it is a TIFF of three or four samples.

    TIFF is read by window where tifffile decodes it and gray or RGB values stand upright; a part takes the memory of
    the strips or tiles that it touches.  `max_pixels` limits what is read whole.

    Raises:
        SegfocusError: as `read_array`.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    found = None
    if path.is_file() and path.stat().st_size:
        if suffix == ".npy":
            found = _open_numpy(path)
        elif suffix in TIFF_EXTENSIONS:
            found = open_tiff(path)
    return found or _read_whole(path, max_pixels)


def _read_whole(path: Path, max_pixels: int) -> Windows:
    stored = read_array(path, colors=True, stack=True, max_pixels=max_pixels)
    values = stored.values.astype(stored.values.dtype.newbyteorder("="), copy=False)
    if stored.axes == "HW" and values.dtype == np.uint8 and values.max() <= 1 and path.suffix.lower() != ".npz":
        values = values.astype(bool) if mask_kind(path) == "1-bit" else values
    return Windows(values.shape, values.dtype, stored.axes, stored.called, values.__getitem__, streamed=False)


def _open_numpy(path: Path) -> Windows | None:
    try:
        mapped: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except BROKEN as error:
        raise damaged(path, "NumPy", error) from error
    if not isinstance(mapped, np.memmap):  # an npz file under another name
        return None
    found, native = numbers(path, mapped), mapped.dtype.newbyteorder("=")
    place = (mapped.dtype, "r", mapped.offset, mapped.shape, "C" if mapped.flags.c_contiguous else "F")

    def part(index: tuple[slice, ...]) -> np.ndarray:
        try:  # mapped anew: pages of an earlier part would count as memory in use
            return np.array(numbers(path, np.memmap(path, *place))[index], native)
        except BROKEN as error:
            raise damaged(path, "NumPy", error) from error

    axes: Axes = "HW" if found.ndim == 2 else "unknown"
    return Windows(found.shape, native, axes, "", part, streamed=True)


def open_tiff(path: Path) -> Windows | None:
    """The first series of a TIFF file; None where it cannot be read in parts, or not as its values are stored.

    Raises:
        SegfocusError: tifffile is not installed; later, reading a part: damaged.
    """
    try:
        import tifffile
    except ImportError as error:
        raise SegfocusError(f"{path}: reading TIFF needs the package tifffile; try pip install tifffile") from error
    broken = (*BROKEN, tifffile.TiffFileError)
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            if not _plain(series):
                return None
            shape, dtype, axes = series.shape, np.dtype(series.dtype).newbyteorder("="), tiff_axes(series.axes)
            offset, stored = series.dataoffset, np.dtype(file.byteorder + np.dtype(series.dtype).char)
            pages = _Pages(series)
        if offset is None:
            pages.part(path, tuple(slice(0, 1) for _ in shape))  # can it be decoded?
    except broken:
        return None

    def part(index: tuple[slice, ...]) -> np.ndarray:
        try:
            if offset is not None:
                return np.array(np.memmap(path, stored, "r", offset, shape)[index], dtype)
            return pages.part(path, index).astype(dtype, copy=False)
        except broken as error:
            raise damaged(path, "TIFF", error) from error

    return Windows(shape, dtype, axes, "", part, streamed=True)


def _plain(series: Any) -> bool:
    """Whether values are as stored, one or several whole bytes each, upright, in an order that is known here."""
    page = series.keyframe
    turned = page.tags.get(_ORIENTATION)
    return (
        series.ndim in (2, 3)
        and series.size > 0
        and series.dtype is not None
        and series.dtype.kind in "uif"
        and page.bitspersample == series.dtype.itemsize * 8
        and int(page.photometric) in (_GRAY, _RGB)
        and (turned is None or turned.value == 1)
        and page.imagedepth == 1
        and (len(series.pages) == 1 or (series.ndim == 3 and len(series.pages) == series.shape[0]))
    )


class _Pages:
    """Where the strips or tiles of a TIFF series lie, and how they are decoded."""

    def __init__(self, series: Any) -> None:
        self.key = series.keyframe
        self.segments = [(page.dataoffsets, page.databytecounts) for page in series.pages]
        self.stacked = series.ndim == 3 and (len(self.segments) > 1 or self.key.samplesperpixel == 1)
        self.planes = int(self.key.planarconfig) == 2 and not self.stacked and series.ndim == 3

    def part(self, path: Path, index: tuple[slice, ...]) -> np.ndarray:
        with path.open("rb") as file:
            if len(index) == 2:
                return self._rectangle(file, 0, 0, *index)[:, :, 0]
            first, second, third = index
            if not self.stacked and not self.planes:
                return self._rectangle(file, 0, 0, first, second)[:, :, third]
            numbers = [(number, 0) if self.stacked else (0, number) for number in range(first.start, first.stop)]
            return np.stack([self._rectangle(file, *number, second, third)[:, :, 0] for number in numbers])

    def _rectangle(self, file: BinaryIO, page: int, plane: int, rows: slice, columns: slice) -> np.ndarray:
        """[rows, columns, samples] from the strips or tiles it touches; those left out in the file are 0."""
        key, (offsets, lengths) = self.key, self.segments[page]
        height, width = key.imagelength, key.imagewidth
        tall, wide = (key.tilelength, key.tilewidth) if key.is_tiled else (min(key.rowsperstrip, height), width)
        down, across = math.ceil(height / tall), math.ceil(width / wide)
        samples = 1 if self.planes else key.samplesperpixel
        values = np.zeros((rows.stop - rows.start, columns.stop - columns.start, samples), key.dtype)
        for row in range(rows.start // tall, (rows.stop - 1) // tall + 1):
            for column in range(columns.start // wide, (columns.stop - 1) // wide + 1):
                number = (plane * down + row) * across + column
                if not lengths[number]:
                    continue
                file.seek(offsets[number])
                segment = key.decode(file.read(lengths[number]), number)[0][0]
                top, left = row * tall, column * wide
                bottom, right = min(top + tall, rows.stop, height), min(left + wide, columns.stop, width)
                begin, start = max(top, rows.start), max(left, columns.start)
                to_rows = slice(begin - rows.start, bottom - rows.start)
                to_columns = slice(start - columns.start, right - columns.start)
                values[to_rows, to_columns] = segment[begin - top : bottom - top, start - left : right - left]
        return values

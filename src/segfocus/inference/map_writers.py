"""Refined maps and labels written row by row, in the format of the map they were made from; whole files or none."""

from __future__ import annotations

import contextlib
import shutil
import struct
import tempfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from jaxtyping import Float32, UInt8

from segfocus.data.map_files import MapFile
from segfocus.data.pictures import MAX_PIXELS
from segfocus.data.windows import TIFF_EXTENSIONS
from segfocus.errors import SegfocusError
from segfocus.files import write_atomically

_FULL_SCALE = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}
_COMPRESSION = 3
"""of zlib: half the time of its default for little more space"""
_STRIP_BYTES = 1 << 18
_CLASSIC_BYTES = 4_000_000_000
"""values that a TIFF with 32-bit offsets is sure to hold"""


def map_suffix(path: str | Path) -> str:
    """Ending of the file that a refined map is written to: .npy, .npz and TIFF stay what they are, others are PNG."""
    suffix = Path(path).suffix.lower()
    return suffix if suffix in (".npy", ".npz") else ".tif" if suffix in TIFF_EXTENSIONS else ".png"


def labels_suffix(size: tuple[int, int]) -> str:
    """Ending of the file for labels of (height, width): PNG while `segfocus` and others read it back whole."""
    return ".png" if size[0] * size[1] <= MAX_PIXELS else ".tif"


@contextlib.contextmanager
def write_map(path: str | Path, like: MapFile) -> Iterator[Callable[[slice, np.ndarray], None]]:
    """Yield a function (rows, float32 [classes, rows, width]) that takes a refined map from its first row to its last.

    The file has the type of numbers, the order of axes and the channels of `like` (of two classes the foreground alone
    where that has no more), with these exceptions: PNG has 16 bits, booleans become 8 bits, TIFF has one page a channel
    and is compressed, and what was logits is probabilities.  It gets its name when the block ends well.

    Raises:
        SegfocusError: the disk is full, ...; rows out of order or too few.
    """
    suffix = map_suffix(path)
    dtype = np.dtype(np.uint16) if suffix == ".png" else np.dtype(np.uint8) if like.dtype == np.bool_ else like.dtype
    size, channels = like.size, like.channels
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        spool = tempfile.TemporaryFile(dir=temporary.parent) if suffix == ".npz" else contextlib.nullcontext(file)  # noqa: SIM115
        with spool as target:
            if suffix in (".npy", ".npz"):
                rows: _Rows = _NumpyRows(target, size, channels, dtype, like.stored.shape, like.layout)
            else:
                rows = _TiffRows(target, size, channels, dtype) if suffix == ".tif" else _PngRows(target, size, dtype)
            with _in_order(rows, size, path) as write:
                yield lambda part, values: write(part, _stored(values[-channels:], dtype))
            if suffix == ".npz":
                _zip(target, file, like.stored.called or "probabilities")


@contextlib.contextmanager
def write_labels(
    path: str | Path, size: tuple[int, int]
) -> Iterator[Callable[[slice, UInt8[np.ndarray, "rows width"]], None]]:
    """Yield a function (rows, labels) that takes the labels of a map of `size` from its first row to its last, for an
    8-bit PNG or TIFF; it gets its name when the block ends well.

    Raises:
        SegfocusError: the disk is full, ...; rows out of order or too few.
    """
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        dtype = np.dtype(np.uint8)
        rows: _Rows = _PngRows(file, size, dtype) if Path(path).suffix == ".png" else _TiffRows(file, size, 1, dtype)
        with _in_order(rows, size, path) as write:
            yield lambda part, labels: write(part, labels[None])


class _Rows(ABC):
    """A file format."""

    @abstractmethod
    def add(self, first: int, values: np.ndarray) -> None:
        """[channels, rows, width] of the file's type of numbers, from row `first` on."""

    @abstractmethod
    def end(self) -> None:
        """Write what follows the last row."""


@contextlib.contextmanager
def _in_order(rows: _Rows, size: tuple[int, int], path: str | Path) -> Iterator[Callable[[slice, np.ndarray], None]]:
    done = 0

    def write(part: slice, values: np.ndarray) -> None:
        nonlocal done
        if part.start != done or values.shape[1:] != (part.stop - part.start, size[1]) or part.stop > size[0]:
            raise SegfocusError(
                f"{path}: expected rows of {size[1]} px from {done} to at most {size[0]}, got {part.start} to "
                f"{part.stop} of {values.shape[-1]} px; try to write every row once, from the top"
            )
        rows.add(done, values)
        done = part.stop

    yield write
    if done != size[0]:
        raise SegfocusError(f"{path}: expected {size[0]} rows, got {done}; try to write every row once")
    rows.end()


def _stored(values: Float32[np.ndarray, "channels rows width"], dtype: np.dtype) -> np.ndarray:
    if dtype not in _FULL_SCALE:
        return values.astype(dtype)
    scaled = values * np.float32(_FULL_SCALE[dtype])
    return np.clip(np.rint(scaled, out=scaled), 0, _FULL_SCALE[dtype], out=scaled).astype(dtype)


class _NumpyRows(_Rows):
    """.npy, in C order."""

    def __init__(
        self,
        file: BinaryIO,
        size: tuple[int, int],
        channels: int,
        dtype: np.dtype,
        shape: tuple[int, ...],
        layout: str,
    ) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        self.file, self.begin = file, file.tell()
        self.height, self.row_bytes = size[0], size[1] * dtype.itemsize
        self.interleaved = layout == "HWC"

    def add(self, first: int, values: np.ndarray) -> None:
        if self.interleaved:
            self.file.write(np.ascontiguousarray(np.moveaxis(values, 0, 2)).data)
            return
        for number, channel in enumerate(values):
            self.file.seek(self.begin + (number * self.height + first) * self.row_bytes)
            self.file.write(np.ascontiguousarray(channel).data)

    def end(self) -> None:
        self.file.flush()


class _PngRows(_Rows):
    """Gray PNG of 8 or 16 bits; every row is stored as its difference to the one above."""

    def __init__(self, file: BinaryIO, size: tuple[int, int], dtype: np.dtype) -> None:
        self.file, self.dtype = file, dtype.newbyteorder(">")
        self.above = np.zeros((1, size[1] * dtype.itemsize), np.uint8)
        self.pack = zlib.compressobj(_COMPRESSION)
        file.write(b"\x89PNG\r\n\x1a\n")
        self._chunk(b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], dtype.itemsize * 8, 0, 0, 0, 0))

    def add(self, first: int, values: np.ndarray) -> None:
        rows = values[0].astype(self.dtype).view(np.uint8).reshape(values.shape[1], -1)
        lines = np.full((len(rows), rows.shape[1] + 1), 2, np.uint8)  # 2: the filter "up"
        np.subtract(rows, np.concatenate([self.above, rows[:-1]]), out=lines[:, 1:])
        self.above = rows[-1:].copy()
        self._chunk(b"IDAT", self.pack.compress(lines.data))

    def end(self) -> None:
        self._chunk(b"IDAT", self.pack.flush())
        self._chunk(b"IEND", b"", always=True)

    def _chunk(self, kind: bytes, content: bytes, always: bool = False) -> None:
        if content or always:
            self.file.write(struct.pack(">I", len(content)) + kind + content)
            self.file.write(struct.pack(">I", zlib.crc32(content, zlib.crc32(kind))))


class _TiffRows(_Rows):
    """TIFF, or BigTIFF where it may grow beyond 4 GB: a gray page a channel, in deflated strips."""

    def __init__(self, file: BinaryIO, size: tuple[int, int], channels: int, dtype: np.dtype) -> None:
        self.file, self.size, self.dtype = file, size, dtype.newbyteorder("<")
        self.rows = max(1, min(size[0], _STRIP_BYTES // (size[1] * dtype.itemsize)))
        self.big = size[0] * size[1] * dtype.itemsize * channels > _CLASSIC_BYTES
        self.strips: list[list[tuple[int, int]]] = [[] for _ in range(channels)]  # (offset, bytes)
        self.waiting = np.empty((channels, 0, size[1]), self.dtype)
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 0) if self.big else struct.pack("<2sHI", b"II", 42, 0))

    def add(self, first: int, values: np.ndarray) -> None:
        self.waiting = np.concatenate([self.waiting, values.astype(self.dtype)], 1)
        whole = self.waiting.shape[1] // self.rows * self.rows
        for begin in range(0, whole, self.rows):
            self._strip(self.waiting[:, begin : begin + self.rows])
        self.waiting = self.waiting[:, whole:].copy()

    def _strip(self, values: np.ndarray) -> None:
        for channel, strips in zip(values, self.strips, strict=True):
            packed = zlib.compress(np.ascontiguousarray(channel).data, _COMPRESSION)
            strips.append((self.file.tell(), len(packed)))
            self.file.write(packed)

    def end(self) -> None:
        if self.waiting.shape[1]:
            self._strip(self.waiting)
        link = 8 if self.big else 4  # where the offset of the next directory is to be written
        for strips in self.strips:
            tags = [
                (256, [self.size[1]]),
                (257, [self.size[0]]),
                (258, [self.dtype.itemsize * 8]),
                (259, [8]),  # deflate
                (262, [1]),  # 0 is black
                (273, [offset for offset, _ in strips]),
                (277, [1]),
                (278, [self.rows]),
                (279, [length for _, length in strips]),
                (339, [3 if self.dtype.kind == "f" else 1]),
            ]
            link = self._directory(tags, link)

    def _directory(self, tags: list[tuple[int, list[int]]], link: int) -> int:
        """Write a page's tags, all of them as the file's widest integers, and the link to them; where the next goes."""
        word, kind, size = ("Q", 16, 8) if self.big else ("I", 4, 4)
        entries = []
        for tag, values in tags:
            short = tag in (258, 259, 262, 277, 339)  # some readers want these as 16-bit values
            value = struct.pack(f"<{len(values)}{'H' if short else word}", *values)
            if len(value) > size:
                offset = self._aligned()
                self.file.write(value)
                value = struct.pack(f"<{word}", offset)
            entries.append(struct.pack(f"<HH{word}", tag, 3 if short else kind, len(values)) + value.ljust(size, b"\0"))
        begin = self._aligned()
        self.file.write(struct.pack("<Q" if self.big else "<H", len(entries)) + b"".join(entries))
        following = self.file.tell()
        self.file.write(struct.pack(f"<{word}", 0))
        self.file.seek(link)
        self.file.write(struct.pack(f"<{word}", begin))
        self.file.seek(0, 2)
        return following

    def _aligned(self) -> int:
        """The file's end, brought to a multiple of 8 bytes."""
        self.file.write(b"\0" * (-self.file.tell() % 8))
        return self.file.tell()


def _zip(array: BinaryIO, file: BinaryIO, called: str) -> None:
    """A .npy file as the only array of an .npz file."""
    array.seek(0)
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open(f"{called}.npy", "w", force_zip64=True) as member,
    ):
        shutil.copyfileobj(array, member, 1 << 20)

"""Arrays as other tools leave them on disk: NumPy files, TIFF stacks and pictures, as stored, with what is known of
their axes."""

from __future__ import annotations

import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segfocus.data.pictures import MAX_PIXELS, PICTURE_EXTENSIONS, read_mask
from segfocus.errors import SegfocusError

ARRAY_EXTENSIONS = (PICTURE_EXTENSIONS - {".jpeg", ".jpg"}) | {".npy", ".npz"}
"""file name endings (any case) that are read; JPEG is left out, since it changes values"""

Axes = Literal["HW", "CHW", "HWC", "unknown", "colors"]
"""unknown: three axes of which the file does not say the order; colors: height x width x (red, green, blue)"""

BROKEN = (
    OSError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    SyntaxError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""what NumPy, zipfile and tifffile raise on damaged files"""
_TIFF_AXES: dict[str, Axes] = {"YX": "HW", "YXS": "HWC", "SYX": "CHW", "YXC": "HWC"}
_TIFF_PAGES = "CITZ"
"""tifffile's letters for a stack of pages; it writes any array [a, b, c] as pages called Q, which says nothing"""
_PICTURE_DTYPES = (np.bool_, np.uint8, np.uint16)
_COLORED = (2, 3)
"""photometric interpretations RGB and palette"""


@dataclass(frozen=True)
class Stored:
    """An array as a file holds it."""

    values: np.ndarray
    """integers, booleans or floats; two or three axes"""
    axes: Axes
    called: str = ""
    """the array's name inside an npz file"""


def read_array(path: str | Path, *, colors: bool = False, stack: bool = False, max_pixels: int = MAX_PIXELS) -> Stored:
    """The array of a file, its values as stored.

    npz: the array called probabilities or labels, else the only one.  npy: the array.  TIFF: the first series, pages
    or samples as channels.  Other pictures: as `read_mask`.  Axes of length 1 before the last three are dropped.

    Args:
        path: a file with one of `ARRAY_EXTENSIONS`.
        colors: read palette pictures as their colours, not as their indices.
        stack: read a TIFF of three or four 8-bit samples as channels, not as colours.
        max_pixels: larger pictures are refused.

    Raises:
        SegfocusError: missing, empty, damaged, another kind of file, or no numbers; names the file.
    """
    path = Path(path)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise SegfocusError(f"{path}: expected a file of labels or probabilities, got {got}")
    if path.stat().st_size == 0:
        raise SegfocusError(f"{path}: expected labels or probabilities, got a file of 0 bytes; try to make it again")
    suffix = path.suffix.lower()
    if suffix in (".npy", ".npz"):
        return _read_numpy(path)
    if suffix in (".tif", ".tiff"):
        return _read_tiff(path, colors, stack, max_pixels)
    return _read_picture(path, colors, max_pixels)


def _read_picture(path: Path, colors: bool, max_pixels: int) -> Stored:
    values = read_mask(path, max_pixels, colors)
    return Stored(values, "HW" if values.ndim == 2 else "colors")


def _read_numpy(path: Path) -> Stored:
    called = ""
    try:
        with path.open("rb") as file:
            loaded: Any = np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.ndarray):
                called = _chosen(path, loaded.files)
                loaded = np.asarray(loaded[called])
    except SegfocusError:
        raise
    except BROKEN as error:
        raise damaged(path, "NumPy", error) from error
    values = numbers(path, loaded)
    return Stored(values, "HW" if values.ndim == 2 else "unknown", called)


def _chosen(path: Path, names: list[str]) -> str:
    """Which array of an npz file is meant."""
    for name in ("probabilities", "labels"):
        if name in names:
            return name
    if len(names) != 1:
        raise SegfocusError(
            f"{path}: expected one array or one called 'probabilities', got {', '.join(names[:8]) or 'none'}; "
            "try np.savez_compressed(path, probabilities=array)"
        )
    return names[0]


def _read_tiff(path: Path, colors: bool, stack: bool, max_pixels: int) -> Stored:
    try:
        import tifffile
    except ImportError as error:
        raise SegfocusError(f"{path}: reading TIFF needs the package tifffile; try pip install tifffile") from error
    try:
        with tifffile.TiffFile(path) as file:
            series = file.series[0]
            # what Pillow reads as well is left to it: it knows palettes, and compression that tifffile alone does not
            if series.dtype in _PICTURE_DTYPES and (series.ndim == 2 or (_is_colored(series) and not stack)):
                return _read_picture(path, colors, max_pixels)
            if series.size > max_pixels * 256:
                raise SegfocusError(f"{path}: expected at most {max_pixels} pixels, got an array {series.shape}")
            values, axes = series.asarray(), series.axes
    except SegfocusError:
        raise
    except (*BROKEN, tifffile.TiffFileError) as error:  # in older versions no ValueError
        raise damaged(path, "TIFF", error) from error
    return Stored(numbers(path, values), tiff_axes(axes))


def tiff_axes(axes: str) -> Axes:
    """What tifffile's letters for the axes of a series say of their order."""
    if len(axes) == 3 and axes.endswith("YX") and axes[0] in _TIFF_PAGES:
        return "CHW"
    return _TIFF_AXES.get(axes, "unknown")


def _is_colored(series: Any) -> bool:
    return int(series.keyframe.photometric) in _COLORED and series.dtype == np.uint8 and series.shape[-1] in (3, 4)


def numbers(path: Path, values: np.ndarray) -> np.ndarray:
    """The array with superfluous leading axes dropped; refuses what holds no numbers or no picture."""
    if values.dtype.kind not in "buif":
        raise SegfocusError(f"{path}: expected numbers, got an array of {values.dtype}; try integers or float32")
    shape = values.shape
    while values.ndim > 3 and values.shape[0] == 1:  # the batch axis that networks leave
        values = values[0]
    if values.ndim not in (2, 3) or values.size == 0:
        raise SegfocusError(
            f"{path}: expected an array [height, width] or [classes, height, width], got {list(shape)}; "
            "try one file a picture"
        )
    return values


def damaged(path: Path, kind: str, error: BaseException) -> SegfocusError:
    """One line about a file that NumPy or tifffile cannot read."""
    reason = " ".join(str(error).split()) or type(error).__name__
    return SegfocusError(f"{path}: expected a complete {kind} file, got: {reason[:200]}; try to make it again")

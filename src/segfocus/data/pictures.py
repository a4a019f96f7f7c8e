"""Reading pictures and masks of any common kind, with one-line errors that name the file."""

from __future__ import annotations

import contextlib
import struct
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Integer, UInt8
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile

from segfocus.errors import SegfocusError

PICTURE_EXTENSIONS = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})
"""file name endings (any case) that count as pictures"""
MAX_PIXELS = 180_000_000
"""larger pictures are refused unless `max_pixels` is raised"""

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, KeyError, TypeError, struct.error)
_limit_lock = threading.Lock()


def read_picture(path: str | Path, max_pixels: int = MAX_PIXELS) -> UInt8[np.ndarray, "height width 3"]:
    """A picture as RGB, 0 to 255, turned upright where its EXIF data ask for it.

    Gray becomes three equal channels, transparency is dropped, palette and CMYK are converted, 16-bit values
    are divided by 257 and rounded.

    Raises:
        SegfocusError: missing, empty, truncated, not a picture, floating point, more than `max_pixels` pixels.
    """
    with _open(path, max_pixels) as image:
        if _bits(image) == 16 and image.mode in ("RGB", "RGBA", "RGBX"):
            return _upright(_read_deep_colors(Path(path)), image)
        if image.mode == "F":
            raise SegfocusError(f"{path}: expected an 8- or 16-bit picture, got floating point; try to save it as PNG")
        if image.mode.startswith("I"):
            deep = np.asarray(image)
            if deep.max(initial=0) > 65535 or deep.min(initial=0) < 0:
                raise SegfocusError(
                    f"{path}: expected an 8- or 16-bit picture, got 32-bit values; try to save it as PNG"
                )
            gray = _to_bytes(deep)
            return _upright(np.repeat(gray[..., None], 3, axis=2), image)
        if image.mode == "P" and "transparency" in image.info:
            return _upright(np.array(image.convert("RGBA").convert("RGB")), image)
        return _upright(np.array(image.convert("RGB")), image)


def read_mask(
    path: str | Path, max_pixels: int = MAX_PIXELS, colors: bool = False
) -> Integer[np.ndarray, "height width"] | UInt8[np.ndarray, "height width 3"]:
    """A mask's values as stored: integers (8-, 16- or 32-bit; palette indices; 1-bit as 0 and 1) or RGB colours.

    A colour picture of which all channels are equal is returned as integers.
    With `colors`, a palette mask gives the colours of its palette instead of its indices.

    Raises:
        SegfocusError: as for `read_picture`.
    """
    with _open(path, max_pixels) as image:
        if image.mode == "1":
            return _upright(np.array(image).astype(np.uint8), image)
        if image.mode == "P" and not colors:
            return _upright(np.array(image), image)
        if image.mode in ("L", "LA", "La"):
            return _upright(np.array(image.getchannel(0)), image)
        if image.mode.startswith("I"):
            deep = np.array(image)
            return _upright(deep.astype(np.uint16) if image.mode.startswith("I;16") else deep, image)
        if image.mode in ("RGB", "RGBA", "RGBX", "P", "PA"):
            plain = image.convert("RGBA") if image.mode in ("P", "PA") else image
            values = np.ascontiguousarray(np.array(plain)[..., :3])
            red, green, blue = values[..., 0], values[..., 1], values[..., 2]
            same = image.mode != "P" and bool((red == green).all() and (red == blue).all())
            return _upright(np.ascontiguousarray(red) if same else values, image)
        raise SegfocusError(
            f"{path}: expected an 8-bit, 16-bit, palette or RGB mask, got mode {image.mode}; try to save it as PNG"
        )


def mask_kind(path: str | Path) -> str:
    """'8-bit', '1-bit', '16-bit', 'palette' or 'RGB', from the head of the file."""
    with _open(path, None) as image:
        kinds = {"1": "1-bit", "L": "8-bit", "LA": "8-bit", "P": "palette", "PA": "palette"}
        return kinds.get(image.mode, "16-bit" if image.mode.startswith("I") else "RGB")


def picture_size(path: str | Path) -> tuple[int, int]:
    """Height and width in pixels as `read_picture` gives them, from the head of the file."""
    with _open(path, None) as image:
        if isinstance(image, PngImageFile) and not ("exif" in image.info or _has_exif_chunk(Path(path))):
            return image.height, image.width  # asking Pillow would decode the whole picture
        if image.format == "TIFF" and _orientation(image) != 1:
            image.load()  # Pillow turns this format itself, some versions already at opening
        turned = _orientation(image) >= 5
        return (image.width, image.height) if turned else (image.height, image.width)


def list_pictures(folder: str | Path) -> list[Path]:
    """All pictures below a folder, by file name ending, sorted; hidden files and folders are left out.

    Raises:
        SegfocusError: no such folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        got = "a file" if folder.exists() else "nothing there"
        raise SegfocusError(f"{folder}: expected a folder of pictures, got {got}; try its full path")
    return list_files(folder, PICTURE_EXTENSIONS)


def list_files(folder: Path, extensions: Collection[str] | None = None) -> list[Path]:
    """All files below a folder, or those whose names end so (lower case, with the dot), sorted; hidden files and
    folders are left out."""
    found = (path for path in folder.rglob("*") if extensions is None or path.suffix.lower() in extensions)
    shown = (path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(path for path in shown if path.is_file())


@contextlib.contextmanager
def _open(path: str | Path, max_pixels: int | None) -> Iterator[Image.Image]:
    """The opened picture; whatever goes wrong in the block while decoding becomes one line naming the file."""
    path = Path(path)
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no such file"
        raise SegfocusError(f"{path}: expected a picture file, got {got}")
    if path.stat().st_size == 0:
        raise SegfocusError(f"{path}: expected a picture file, got a file of 0 bytes; try to fetch it again")
    try:
        with _without_pillow_limit():
            image = Image.open(path)
    except UnidentifiedImageError as error:
        raise SegfocusError(f"{path}: expected a picture file, got another or a damaged kind of file") from error
    except _BROKEN as error:
        raise SegfocusError(f"{path}: expected a readable picture file, got: {_one_line(error)}") from error
    with image:
        pixels = image.width * image.height
        if max_pixels is not None and pixels > max_pixels:
            raise SegfocusError(
                f"{path}: expected at most {max_pixels} pixels, got {pixels} ({image.height}x{image.width}); "
                "--max-pixels raises it"
            )
        try:
            yield image
        except SegfocusError:
            raise
        except _BROKEN as error:
            raise SegfocusError(
                f"{path}: expected a complete picture, got a truncated or damaged file ({_one_line(error)}); "
                "try to fetch it again"
            ) from error


@contextlib.contextmanager
def _without_pillow_limit() -> Iterator[None]:
    """Pillow's own limit on pixels is a module variable; ours, which names the remedy, stands in for it."""
    with _limit_lock:
        limit = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _orientation(image: Image.Image) -> int:
    value = image.getexif().get(_ORIENTATION, 1)
    return value if isinstance(value, int) else 1


def _has_exif_chunk(path: Path) -> bool:
    """Whether a PNG file has EXIF data behind its pixels, from the heads of its chunks."""
    with path.open("rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            length, kind = struct.unpack(">I4s", head)
            if kind in (b"eXIf", b"IEND"):
                return kind == b"eXIf"
            file.seek(length + 4, 1)
    return False


def _upright(values: np.ndarray, image: Image.Image) -> np.ndarray:
    """Undo the EXIF orientation (1 to 8) of a height x width (x channels) array."""
    orientation = _orientation(image)
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return np.ascontiguousarray(values)


def _bits(image: Image.Image) -> int:
    """Bits a channel: Pillow keeps only the upper eight of deep colour pictures and does not say so."""
    if isinstance(image, PngImageFile) and image.tile:
        return 16 if "16" in str(image.tile[0][3]) else 8
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(_BITS_PER_SAMPLE, (8,))
        return max(bits) if isinstance(bits, tuple) else int(bits)
    return 8


def _read_deep_colors(path: Path) -> np.ndarray:
    decoded = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION)
    if decoded is None or decoded.ndim != 3:
        raise OSError("the 16-bit picture cannot be decoded")
    return _to_bytes(decoded[..., 2::-1])


def _to_bytes(deep: np.ndarray) -> np.ndarray:
    if deep.dtype == np.uint8:
        return np.ascontiguousarray(deep)
    return ((deep.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__

"""One look at a picture and its mask: each file is decoded once, and only a few numbers are kept."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import Bool, Int64, Integer, UInt8

from segfocus.data.classes import IGNORE, Classes, Raw
from segfocus.data.doctor.listing import Item
from segfocus.data.pictures import mask_kind, read_mask, read_picture
from segfocus.data.similarity import Fingerprint, fingerprint
from segfocus.errors import SegfocusError
from segfocus.metrics.boundary import boundary_band

EDGE = 3
"""pixels this near (chessboard distance) to another label count as edge pixels"""
UNMAPPED = -1
_MOST_CODES = 256


@dataclass(frozen=True)
class Values:
    """The different values of a mask, ascending as stored, and how often each occurs."""

    raw: tuple[Raw, ...]
    """integers, or (red, green, blue); a grey colour is its integer"""
    pixels: Int64[np.ndarray, "n"]
    edge: Int64[np.ndarray, "n"]
    """its pixels within `EDGE` px of another label (of a class, where there are classes); zeros for over 256 values"""
    train_ids: Int64[np.ndarray, "n"]
    """255 ignored, -1 in no class; without classes: -1, or 255 where the value is 255"""


@dataclass(frozen=True)
class Look:
    """What is kept of one pair.  A field is None (or empty) where its file could not be read."""

    item: Item
    broken: tuple[tuple[str, str], ...] = ()
    """(code of the problem, why) of each file that cannot be used"""
    size: tuple[int, int] | None = None
    mask_size: tuple[int, int] | None = None
    picture_kind: str = ""
    """such as 'RGB JPEG', 'grey 16-bit PNG', 'RGBA PNG'"""
    mask_kind: str = ""
    lossy: bool = False
    """whether the mask's file has lossy compression"""
    digest: bytes = b""
    """of the picture's pixels"""
    mask_digest: bytes = b""
    print: Fingerprint | None = None
    values: Values | None = None


def look_at(item: Item, classes: Classes | None, max_pixels: int) -> Look:
    """Decode both files of a pair.  Whatever is wrong with them is in the result, never raised."""
    broken: list[tuple[str, str]] = []
    found: dict = {}
    try:
        found |= _look_at_picture(item.picture, max_pixels)
    except SegfocusError as error:
        broken.append(_complaint("picture", item.picture, error))
    try:
        found |= _look_at_mask(item.mask, classes, max_pixels)
    except SegfocusError as error:
        broken.append(_complaint("mask", item.mask, error))
    return Look(item, tuple(broken), **found)


def count_values(
    mask: Integer[np.ndarray, "height width"] | UInt8[np.ndarray, "height width 3"], classes: Classes | None
) -> Values:
    """The values of a mask as `read_mask` gives it."""
    codes, raw = _coded(mask)
    ids = np.array([_train_id(value, classes) for value in raw], np.int64)
    if len(raw) > _MOST_CODES:
        pixels = np.bincount(codes.ravel(), minlength=len(raw))
        return Values(raw, pixels, np.zeros_like(pixels), ids)
    codes = codes.astype(np.uint8)
    # values of one class have no edge between them; each value without a class is a label of its own
    labels = codes if classes is None else _labels(ids)[codes]
    near = _edges(labels) if labels.size else np.zeros(labels.shape, bool)
    pixels = np.bincount(codes.ravel(), minlength=len(raw))
    return Values(raw, pixels, np.bincount(codes[near], minlength=len(raw)), ids)


def _coded(mask: np.ndarray) -> tuple[Integer[np.ndarray, "height width"], tuple[Raw, ...]]:
    """Each pixel's position among the different values of the mask, and those values."""
    if mask.ndim == 3:
        wide = mask.astype(np.int32)
        packed = wide[..., 0] << 16 | wide[..., 1] << 8 | wide[..., 2]
        found, codes = np.unique(packed, return_inverse=True)
        return codes.reshape(mask.shape[:2]), tuple(_color(int(code)) for code in found)
    if mask.dtype in (np.uint8, np.uint16):  # counting is ten times as fast as sorting
        found = np.flatnonzero(np.bincount(mask.ravel(), minlength=1))
        table = np.zeros(int(found[-1]) + 1 if len(found) else 1, np.uint16)
        table[found] = np.arange(len(found))
        return table[mask], tuple(int(value) for value in found)
    found, codes = np.unique(mask, return_inverse=True)
    return codes.reshape(mask.shape), tuple(int(value) for value in found)


def _color(code: int) -> Raw:
    red, green, blue = code >> 16, code >> 8 & 255, code & 255
    return red if red == green == blue else (red, green, blue)


def _train_id(value: Raw, classes: Classes | None) -> int:
    """255 where ignored, -1 where no class has it.  Integer v and colour (v, v, v) are the same, as in `encode`."""
    if classes is None:
        return IGNORE if value == IGNORE else UNMAPPED
    same = {value, (value, value, value)} if isinstance(value, int) else {value}
    for train_id, raw in enumerate(classes.raw):
        if not same.isdisjoint(raw):
            return train_id
    return UNMAPPED if same.isdisjoint(classes.ignore) else IGNORE


def _labels(train_ids: np.ndarray) -> UInt8[np.ndarray, "n"]:
    """A label for each value: its train id, or one of those left over."""
    used = set(train_ids.tolist())
    free = iter([label for label in range(256) if label not in used])
    # with 254 classes and many unmapped values labels run out; then the rest share the last one
    return np.array([next(free, 254) if one == UNMAPPED else one for one in train_ids.tolist()], np.uint8)


def _edges(labels: UInt8[np.ndarray, "height width"]) -> Bool[np.ndarray, "height width"]:
    """Pixels within `EDGE` of another label; the frame of the picture is none (the padding repeats it)."""
    padded = cv2.copyMakeBorder(labels, EDGE, EDGE, EDGE, EDGE, cv2.BORDER_REPLICATE)
    return boundary_band(padded, EDGE)[EDGE:-EDGE, EDGE:-EDGE]


def _look_at_picture(path: Path, max_pixels: int) -> dict:
    kind = mask_kind(path)  # from the head, so that it also says what read_picture refuses
    picture = read_picture(path, max_pixels)
    grey = bool((picture[..., 0] == picture[..., 1]).all() and (picture[..., 0] == picture[..., 2]).all())
    return {
        "size": picture.shape[:2],
        "picture_kind": _describe(path, kind, grey),
        "digest": _digest(picture),
        "print": fingerprint(picture),
    }


def _look_at_mask(path: Path, classes: Classes | None, max_pixels: int) -> dict:
    kind = mask_kind(path)
    mask = read_mask(path, max_pixels, colors=classes is not None and classes.reads_colors)
    container = _container(_head(path))
    return {
        "mask_size": mask.shape[:2],
        "mask_kind": f"{kind} {container}".strip(),
        "lossy": container in ("JPEG", "lossy WebP"),
        "mask_digest": _digest(mask),
        "values": count_values(mask, classes),
    }


def _complaint(which: str, path: Path, error: SegfocusError) -> tuple[str, str]:
    why = str(error).removeprefix(f"{path}: ")
    code = "too-large" if "--max-pixels" in why else f"unreadable-{which}"
    return code, why.removesuffix("; --max-pixels raises it").removesuffix("; try to fetch it again")


def _describe(path: Path, kind: str, grey: bool) -> str:
    head = _head(path)
    container = _container(head)
    colors = {"palette": "palette", "1-bit": "1-bit"}.get(kind, "grey" if grey else "RGB")
    if container == "PNG" and head[25] in (4, 6):
        colors += "A" if colors == "RGB" else " with alpha"
    deep = kind == "16-bit" or (container == "PNG" and head[24] == 16)
    return " ".join([colors, *(["16-bit"] if deep else []), container]).strip()


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(32).ljust(32, b"\0")


def _container(head: bytes) -> str:
    """Kind of file from its first bytes, whatever its name ends in."""
    if head.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "lossy WebP" if head[12:16] == b"VP8 " else "WebP"
    kinds = {b"\x89PNG": "PNG", b"II*\0": "TIFF", b"MM\0*": "TIFF", b"GIF8": "GIF"}
    return kinds.get(head[:4], "BMP" if head[:2] == b"BM" else "")


def _digest(values: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(values).data, digest_size=12, key=repr(values.shape).encode()).digest()

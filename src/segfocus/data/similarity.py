"""Pictures that show the same: a 64-bit perceptual hash finds candidates, a look at small copies confirms them.

The hash is the usual one of the discrete cosine transform (Zauner, "Implementation and benchmarking of perceptual
image hash functions", 2010): the sign of the 8 x 8 lowest frequencies of the 32 x 32 grey picture against their
median.  Alone it takes all pictures of one make for the same (retinas, faces, scans: each is the same disc).  So
candidates are compared once more, block by block, after what all pictures have in common is taken away.

Measured on street scenes, cracks, retinas and nuclei with the limits below: copies that were compressed again,
halved, brightened, turned to grey or got noise are all found, cuts of 2 % mostly; no two different pictures were
taken for the same.  Video frames count as the same up to about a tenth of a second apart; `data.doctor` finds
recordings that lie in two splits by their names.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from jaxtyping import Float32, Int64, UInt8, UInt64

CLOSE = 10
"""bits in which the hashes of two candidates may differ"""
ALIKE = 0.85
"""smallest `likeness` of two pictures that show the same"""

_SIDE = 32
_BLOCK = 8
_FLAT = 2.0  # grey levels: a picture with a smaller deviation shows nothing that could be compared
_TEXTURE = 0.02  # smallest deviation of a block that is compared, in deviations of its picture
_MOST_CANDIDATES = 32  # looked at for one picture, closest hashes first
_CELLS = 2**22  # hashes compared at a time, so that memory stays small


@dataclass(frozen=True)
class Fingerprint:
    """What is kept of a picture to find others like it: about 1 kB."""

    code: int
    """64-bit perceptual hash"""
    small: UInt8[np.ndarray, "32 32"]
    """the grey picture, 32 x 32"""


def fingerprint(picture: UInt8[np.ndarray, "height width 3"]) -> Fingerprint | None:
    """Fingerprint of an RGB picture; None for one that is flat, which resembles every other flat one."""
    small = cv2.resize(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    return None if small.std() < _FLAT else Fingerprint(perceptual_hash(small), small)


def perceptual_hash(small: UInt8[np.ndarray, "32 32"]) -> int:
    """64 bits, first row first: is a low frequency above the median of all but the mean?"""
    frequencies = cv2.dct(small.astype(np.float32))[:8, :8].ravel()
    bits = frequencies > np.median(frequencies[1:])
    bits[0] = False  # the mean says nothing of what the picture shows
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def same_views(first: Sequence[Fingerprint], second: Sequence[Fingerprint]) -> list[tuple[int, int, float]]:
    """(index in first, index in second, likeness) of the best match of each of `second` that has one, in order.

    Every hash is compared with every other (some 10^8 a second); at most 32 candidates of a picture are looked at.
    """
    if not first or not second:
        return []
    rows, columns = close_codes(_codes(first), _codes(second), CLOSE, _MOST_CANDIDATES)
    common = _common(first, second)
    best: dict[int, tuple[int, int, float]] = {}
    for start in range(0, len(rows), 4096):
        part = slice(start, start + 4096)
        one = np.stack([first[row].small for row in rows[part]])
        other = np.stack([second[column].small for column in columns[part]])
        for row, column, value in zip(rows[part], columns[part], likeness(one, other, common), strict=True):
            if value >= ALIKE and value > best.get(int(column), (0, 0, 0.0))[2]:
                best[int(column)] = (int(row), int(column), float(value))
    return [best[column] for column in sorted(best)]


def close_codes(
    first: UInt64[np.ndarray, "n"], second: UInt64[np.ndarray, "m"], distance: int, most: int
) -> tuple[Int64[np.ndarray, "pairs"], Int64[np.ndarray, "pairs"]]:
    """Indices in first and in second of the codes that differ in at most `distance` bits.

    For each of `second` the `most` closest are given (the earlier one where two are as close).
    """
    rows, columns = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    step = max(1, _CELLS // max(1, len(first)))
    for start in range(0, len(second), step):
        bits = _bits_set(second[start : start + step, None] ^ first[None])
        column, row = np.nonzero(bits <= distance)
        order = np.lexsort((row, bits[column, row], column))
        column, row = column[order], row[order]
        place = np.arange(len(column)) - np.searchsorted(column, column)  # 0, 1, ... within each column
        rows.append(row[place < most].astype(np.int64))
        columns.append(column[place < most].astype(np.int64) + start)
    return np.concatenate(rows), np.concatenate(columns)


def likeness(
    first: UInt8[np.ndarray, "pairs 32 32"],
    second: UInt8[np.ndarray, "pairs 32 32"],
    common: Float32[np.ndarray, "32 32"],
) -> Float32[np.ndarray, "pairs"]:
    """How far two small pictures show the same, -1 to 1: the median correlation of their 16 blocks of 8 x 8.

    Brightness and contrast are taken out first, then `common`, the mean of all pictures.  Blocks that are flat in
    both do not count; with fewer than three others the likeness is 0.
    """
    one, other = _blocks(_normalised(first) - common), _blocks(_normalised(second) - common)
    power, other_power = (one**2).mean(-1), (other**2).mean(-1)
    textured = np.maximum(power, other_power) > _TEXTURE**2
    correlation = (one * other).mean(-1) / np.sqrt(power * other_power + np.float32(1e-9))
    enough = textured.sum(1) >= 3
    found = np.zeros(len(first), np.float32)
    found[enough] = np.nanmedian(np.where(textured, correlation, np.nan)[enough], axis=1)
    return found


def _common(first: Sequence[Fingerprint], second: Sequence[Fingerprint]) -> Float32[np.ndarray, "32 32"]:
    """Mean of all normalised pictures; zeros for fewer than eight, of which each would weigh too much."""
    total = np.zeros((_SIDE, _SIDE), np.float64)
    if (count := len(first) + len(second)) >= 8:
        for prints in (first, second):
            for start in range(0, len(prints), 4096):
                part = np.stack([each.small for each in prints[start : start + 4096]])
                total += _normalised(part).sum(0, dtype=np.float64)
    return (total / count).astype(np.float32)


def _normalised(small: UInt8[np.ndarray, "pictures 32 32"]) -> Float32[np.ndarray, "pictures 32 32"]:
    values = small.astype(np.float32)
    values -= values.mean((1, 2), keepdims=True)
    return values / (values.std((1, 2), keepdims=True) + np.float32(1))


def _blocks(values: Float32[np.ndarray, "pairs 32 32"]) -> Float32[np.ndarray, "pairs 16 64"]:
    """The 4 x 4 blocks of each picture, each with its mean taken out."""
    count = _SIDE // _BLOCK
    parts = values.reshape(-1, count, _BLOCK, count, _BLOCK).swapaxes(2, 3).reshape(-1, count**2, _BLOCK**2)
    return parts - parts.mean(-1, keepdims=True)


def _codes(prints: Sequence[Fingerprint]) -> UInt64[np.ndarray, "n"]:
    return np.array([each.code for each in prints], np.uint64)


def _bits_set(values: UInt64[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "rows columns"]:
    if hasattr(np, "bitwise_count"):  # from NumPy 2.0 on
        return np.bitwise_count(values)
    in_byte = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)
    return in_byte[np.ascontiguousarray(values).view(np.uint8)].reshape(*values.shape, 8).sum(-1, dtype=np.uint8)

"""Grouping, compiled: pairs of pixels one by one, each given up as early as may be.  See `numba_cpu`.

Everything runs without Python's lock and writes only to arrays, or cells of arrays, of its own part of the work.
"""

from typing import Any, NamedTuple, no_type_check

import numpy as np

from segfocus.ops.regions.definition import TINY
from segfocus.ops.regions.numba_math import (
    BERNOULLI,
    JENSEN_SHANNON,
    NO_LINES,
    WHOLE_LINES,
    bernoulli,
    compiled,
    inlined,
    like,
    log2,
)

_FIXED = 40
_BELOW = 2**_FIXED - 1


@no_type_check
class Pairs(NamedTuple):
    """Pixels that may have a partner, and what decides whether two of them join."""

    boundary: Any  # [pixels + width + 1]: row by row, then padding
    width: int
    by_class: Any  # [classes, candidates]: probabilities, clamped for Bernoulli
    by_pixel: Any  # [candidates, classes]: the same
    entropy: Any  # [candidates]: of the distributions, in bits
    top: Any  # [candidates]: most probable class
    pixels: Any  # [candidates]: which pixel, ascending
    rows: Any  # [candidates]: and where it lies
    columns: Any  # [candidates]
    threshold: Any
    reach: Any  # no pair joins whose probabilities of the top class differ by more
    lines: int
    kind: int


@inlined
@no_type_check
def _line_maximum(boundary, width, first, down, right, lines, stop):
    """Highest sample on the way from pixel `first`, or the first that reaches `stop`."""
    highest = like(stop, 0)
    if lines == NO_LINES:
        return highest
    if lines == WHOLE_LINES:
        highest = max(boundary[first], boundary[np.uintp(first + down * width + right)])
    if abs(right) >= abs(down):
        length, minor, forward, aside = abs(right), down, (1 if right > 0 else -1), width
    else:
        length, minor, forward, aside = abs(down), right, (width if down > 0 else -width), 1
    # the place along the minor axis in fixed point: no branch, and no drift that float32 would show
    slope, place = (minor << _FIXED) // max(length, 1), 0
    for _ in range(1, length):
        if highest >= stop:
            break
        first += forward
        place += slope
        cell = np.uintp(first + (place >> _FIXED) * aside)
        here = boundary[cell]
        # beyond the last row or column it reads padding, with a weight of 0
        fraction = like(stop, place & _BELOW) * like(stop, 1 / (_BELOW + 1))
        highest = max(highest, here + fraction * (boundary[cell + np.uintp(aside)] - here))
    return highest


@inlined
@no_type_check
def _divergence(by_pixel, entropy, top, kind, a, b, reach):
    """Mean of E both ways, or 2 where the distributions are too far apart to look closer."""
    zero, half = like(reach, 0), like(reach, 0.5)
    divergence = zero
    if kind == BERNOULLI:
        divergence += half * bernoulli(by_pixel[a, top[a]], by_pixel[b, top[a]])
        divergence += half * bernoulli(by_pixel[b, top[b]], by_pixel[a, top[b]])
    elif kind == JENSEN_SHANNON:
        variation = zero
        for k in range(by_pixel.shape[1]):
            variation += abs(by_pixel[a, k] - by_pixel[b, k])
        if half * variation > reach:
            return like(reach, 2)
        for k in range(by_pixel.shape[1]):
            middle = half * (by_pixel[a, k] + by_pixel[b, k])
            divergence -= middle * log2(max(middle, like(middle, TINY)))
        divergence = min(max(divergence - half * (entropy[a] + entropy[b]), zero), like(reach, 1))
    return divergence


# In what follows the arrays are taken out of `pairs` before the loops: inside, each use would count a reference.


@compiled
@no_type_check
def follow_first(leaders, pairs, part, parts):
    """Every `parts`-th candidate follows the first one before it that it may join."""
    boundary, pixels, rows, columns = pairs.boundary, pairs.pixels, pairs.rows, pairs.columns
    by_class, by_pixel, entropy, top = pairs.by_class, pairs.by_pixel, pairs.entropy, pairs.top
    width, lines, kind, threshold, reach = pairs.width, pairs.lines, pairs.kind, pairs.threshold, pairs.reach
    one = like(threshold, 1)
    for a in range(part, pixels.size, parts):
        k = top[a]
        for b in range(a):
            if abs(by_class[k, b] - by_class[k, a]) > reach:
                continue
            down, right = rows[b] - rows[a], columns[b] - columns[a]
            highest = _line_maximum(boundary, width, pixels[a], down, right, lines, one - threshold)
            if highest >= one - threshold:
                continue
            if (one - highest) * (one - _divergence(by_pixel, entropy, top, kind, a, b, reach)) > threshold:
                leaders[pixels[a]] = pixels[b]
                break


@compiled
@no_type_check
def _root(leaders, pixel):
    while leaders[pixel] != pixel:
        leaders[pixel] = leaders[leaders[pixel]]
        pixel = leaders[pixel]
    return pixel


@compiled
@no_type_check
def _unite(leaders, first, second):
    first, second = _root(leaders, first), _root(leaders, second)
    leaders[max(first, second)] = min(first, second)
    return min(first, second)


@compiled
@no_type_check
def join_all(leaders, pairs, near, part, parts):
    """Unite every `parts`-th candidate with all before it that it may join and is not yet united with.

    With `near` only with its eight neighbours: few pairs are then left to look at.
    """
    boundary, pixels, rows, columns = pairs.boundary, pairs.pixels, pairs.rows, pairs.columns
    by_class, by_pixel, entropy, top = pairs.by_class, pairs.by_pixel, pairs.entropy, pairs.top
    width, lines, kind, threshold, reach = pairs.width, pairs.lines, pairs.kind, pairs.threshold, pairs.reach
    one = like(threshold, 1)
    for a in range(part, pixels.size, parts):
        k = top[a]
        root = _root(leaders, pixels[a])
        for b in range(a - 1, -1, -1):
            down, right = rows[b] - rows[a], columns[b] - columns[a]
            if near and abs(right) > 1:
                continue
            if near and down < -1:
                break
            if abs(by_class[k, b] - by_class[k, a]) > reach or _root(leaders, pixels[b]) == root:
                continue
            highest = _line_maximum(boundary, width, pixels[a], down, right, lines, one - threshold)
            if highest >= one - threshold:
                continue
            if (one - highest) * (one - _divergence(by_pixel, entropy, top, kind, a, b, reach)) > threshold:
                root = _unite(leaders, pixels[a], pixels[b])


@compiled
@no_type_check
def join_forests(leaders, forests):
    """Components of all parts together; each pixel leads to the lowest of its component."""
    for part in range(len(forests)):
        for pixel in range(leaders.size):
            _unite(leaders, pixel, forests[part, pixel])
    for pixel in range(leaders.size):
        leaders[pixel] = _root(leaders, pixel)

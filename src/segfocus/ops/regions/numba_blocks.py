"""Scores and their gradients, compiled: blocks of neighbouring pairs of one displacement.  See `numba_cpu`.

Everything runs without Python's lock and writes only to arrays of its own part of the work.  Offsets into the flat
arrays are unsigned: signed ones are checked for counting from the end, which keeps loops out of vector registers.
"""

from typing import Any, NamedTuple, no_type_check

import numpy as np

from segfocus.ops.regions.definition import HIGHEST, LOWEST, TINY
from segfocus.ops.regions.numba_math import (
    BERNOULLI,
    JENSEN_SHANNON,
    NO_LINES,
    WHOLE_LINES,
    bernoulli,
    compiled,
    like,
    log2,
)

# pairs computed at once; blocks this long fill vector registers, and shorter ones skip more pairs of different regions
LANES = 32


@no_type_check
class Layout(NamedTuple):
    """A picture whose rows are padded by LANES cells, and by one more row; every array flat.

    For lines closer to horizontal; the transposed picture has those closer to vertical.
    """

    boundary: Any  # rows, cells
    classes: Any  # rows, classes, cells
    logs: Any  # log2 of classes
    entropy: Any  # rows, cells: in bits
    top: Any  # rows, cells: most probable class
    regions: Any  # rows, cells: -1 where padded
    height: int
    width: int
    count: int  # classes
    diagonal: bool  # whether exact diagonals are among the lines
    lines: int
    kind: int


@compiled
@no_type_check
def _block(kind):
    return np.zeros(LANES, kind.dtype)


@compiled
@no_type_check
def _find_same(regions, left, right, same):
    """Mark the block's pairs of one region; whether there is any."""
    found = np.int32(0)
    for x in range(np.uintp(LANES)):
        together = np.int32((regions[left + x] == regions[right + x]) & (regions[left + x] >= np.int32(0)))
        same[x] = together
        found |= together
    return found != 0


@compiled
@no_type_check
def _find_highest(boundary, cells, lines, left, right, length, whole, fraction, highest):
    """Highest sample of each line of the block."""
    for x in range(np.uintp(LANES)):
        ends = max(boundary[left + x], boundary[right + x])
        highest[x] = ends if lines == WHOLE_LINES else like(ends, 0)
    for t in range(1, length):
        here = left + np.uintp(whole[t] * cells + t)
        beyond = here + np.uintp(cells)
        weight = fraction[t]
        for x in range(np.uintp(LANES)):
            sample = boundary[here + x] + weight * (boundary[beyond + x] - boundary[here + x])
            highest[x] = sample if sample > highest[x] else highest[x]


@compiled
@no_type_check
def _find_highest_where(boundary, cells, lines, left, right, length, whole, fraction, highest, where):
    """The same, and at which column from the left it lies; -1 where the line has no sample."""
    for x in range(np.uintp(LANES)):
        first, last = boundary[left + x], boundary[right + x]
        if lines == WHOLE_LINES:
            highest[x] = max(first, last)
            where[x] = length if last > first else 0
        else:
            highest[x] = like(first, -1)
            where[x] = -1
    for t in range(1, length):
        here = left + np.uintp(whole[t] * cells + t)
        beyond = here + np.uintp(cells)
        weight, now = fraction[t], np.int32(t)
        for x in range(np.uintp(LANES)):
            sample = boundary[here + x] + weight * (boundary[beyond + x] - boundary[here + x])
            better = sample > highest[x]
            highest[x] = sample if better else highest[x]
            where[x] = now if better else where[x]
    for x in range(np.uintp(LANES)):
        highest[x] = max(highest[x], like(highest[x], 0))


@compiled
@no_type_check
def _finish_divergence(entropy, left, right, ahead, back):
    """From the entropy of the mean distribution to E in [0, 1], the same both ways."""
    for x in range(np.uintp(LANES)):
        value = ahead[x] - like(ahead[x], 0.5) * (entropy[left + x] + entropy[right + x])
        ahead[x] = min(max(value, like(value, 0)), like(value, 1))
        back[x] = ahead[x]


@compiled
@no_type_check
def _find_jensen_shannon(classes, entropy, count, cells, left, right, left_classes, right_classes, ahead, back):
    """E of each pair of the block."""
    ahead[:] = 0
    for k in range(np.uintp(count)):
        one, other = left_classes + k * np.uintp(cells), right_classes + k * np.uintp(cells)
        for x in range(np.uintp(LANES)):
            middle = like(ahead[x], 0.5) * (classes[one + x] + classes[other + x])
            ahead[x] -= middle * log2(max(middle, like(middle, TINY)))
    _finish_divergence(entropy, left, right, ahead, back)


@compiled
@no_type_check
def _find_bernoulli(classes, top, cells, left, right, left_classes, right_classes, same, ahead, back):
    """E of each pair of the block, from left to right and from right to left."""
    for x in range(np.uintp(LANES)):
        if same[x] > 0:
            one, other = left_classes + x, right_classes + x
            k = top[left + x] * np.uintp(cells)
            ahead[x] = bernoulli(_clamped(classes[one + k]), _clamped(classes[other + k]))
            k = top[right + x] * np.uintp(cells)
            back[x] = bernoulli(_clamped(classes[other + k]), _clamped(classes[one + k]))


@compiled
@no_type_check
def _clamped(p):
    return min(max(p, like(p, LOWEST)), like(p, HIGHEST))


@compiled
@no_type_check
def _steps(down, right, whole, fraction):
    for t in range(right + 1):
        whole[t] = down * t // right
        fraction[t] = (down * t - whole[t] * right) / right


# In what follows the arrays are taken out of `layout` before the loops: inside, each use would count a reference.


@compiled
@no_type_check
def add_scores(sums, layout, part, parts):
    """Add F_ij and F_ji to the pixels' sums, for every `parts`-th displacement."""
    boundary, classes, regions = layout.boundary, layout.classes, layout.regions
    entropy, top, count, lines, kind = layout.entropy, layout.top, layout.count, layout.lines, layout.kind
    height, width, cells = layout.height, layout.width, layout.width + LANES
    whole, fraction = np.zeros(width, np.int64), np.zeros(width, boundary.dtype)
    same, affinity, highest = _block(boundary), _block(boundary), _block(boundary)
    ahead, back = _block(boundary), _block(boundary)
    one = like(boundary[0], 1)
    for right in range(1, width):
        most = min(height - 1, right if layout.diagonal else right - 1)
        for down in range(-most + (part + right) % parts, most + 1, parts):
            _steps(down, right, whole, fraction)
            for row in range(max(0, -down), height - max(0, down)):
                for column in range(0, width - right, LANES):
                    here = np.uintp(row * cells + column)
                    there = np.uintp((row + down) * cells + column + right)
                    if not _find_same(regions, here, there, same):
                        continue
                    near = np.uintp(row * count * cells + column)
                    far = np.uintp((row + down) * count * cells + column + right)
                    if lines != NO_LINES:
                        _find_highest(boundary, cells, lines, here, there, right, whole, fraction, highest)
                    if kind == JENSEN_SHANNON:
                        _find_jensen_shannon(classes, entropy, count, cells, here, there, near, far, ahead, back)
                    elif kind == BERNOULLI:
                        _find_bernoulli(classes, top, cells, here, there, near, far, same, ahead, back)
                    for x in range(np.uintp(LANES)):
                        affinity[x] = same[x] * (one - highest[x])
                    for x in range(np.uintp(LANES)):
                        sums[here + x] += affinity[x] * (one - ahead[x])
                    for x in range(np.uintp(LANES)):
                        sums[there + x] += affinity[x] * (one - back[x])


@compiled
@no_type_check
def _add_to_lines(sums, boundary, cells, lines, left, right, whole, fraction, where, gradients, returning):
    """Give the gradient of each line's maximum to the two cells that it was read from.

    Where both ends are the maximum, the part of the way back, `returning`, goes to the end that it starts from.
    """
    for x in range(LANES):
        t = where[x]
        if t == 0 and lines == WHOLE_LINES and boundary[left + np.uintp(x)] == boundary[right + np.uintp(x)]:
            sums[np.int64(right) + x] += returning[x]
            gradients[x] -= returning[x]
        if t >= 0 and gradients[x] != 0:
            place = np.int64(left) + x + t + whole[t] * cells
            share = gradients[x] * fraction[t]
            sums[place] += gradients[x] - share
            sums[place + cells] += share


@compiled
@no_type_check
def _add_jensen_shannon(
    sums, classes, logs, entropy, count, cells, left, right, left_classes, right_classes, weights, ahead, back
):
    """Gradient to the distributions, 1/2 log2(C / U) each way, and E itself."""
    ahead[:] = 0
    for k in range(np.uintp(count)):
        one, other = left_classes + k * np.uintp(cells), right_classes + k * np.uintp(cells)
        for x in range(np.uintp(LANES)):
            middle = like(ahead[x], 0.5) * (classes[one + x] + classes[other + x])
            back[x] = log2(max(middle, like(middle, TINY)))
            ahead[x] -= middle * back[x]
        for x in range(np.uintp(LANES)):
            sums[one + x] += weights[x] * (logs[one + x] - back[x])
        for x in range(np.uintp(LANES)):
            sums[other + x] += weights[x] * (logs[other + x] - back[x])
    _finish_divergence(entropy, left, right, ahead, back)


@compiled
@no_type_check
def _add_one_bernoulli(sums, classes, place, other, weight):
    """Gradient of one divergence of the class at `place`: 1/2 ln(p (1 - m) / (m (1 - p))), none where clamped."""
    p, q = _clamped(classes[place]), _clamped(classes[other])
    one, half = like(p, 1), like(p, 0.5)
    middle = half * (p + q)
    joint = np.log(middle / (one - middle))
    if classes[place] == p:
        sums[place] += weight * half * (np.log(p / (one - p)) - joint)
    if classes[other] == q:
        sums[other] += weight * half * (np.log(q / (one - q)) - joint)


@compiled
@no_type_check
def _add_bernoulli(sums, classes, top, cells, left, right, left_classes, right_classes, shares, same, highest):
    for x in range(np.uintp(LANES)):
        if same[x] > 0:
            weight = highest[x] - like(highest[x], 1)
            one, other = left_classes + x, right_classes + x
            k = top[left + x] * np.uintp(cells)
            _add_one_bernoulli(sums, classes, one + k, other + k, weight * shares[left + x])
            k = top[right + x] * np.uintp(cells)
            _add_one_bernoulli(sums, classes, other + k, one + k, weight * shares[right + x])


@compiled
@no_type_check
def add_gradients(line_sums, class_sums, shares, layout, part, parts):
    """Add the gradients to boundary and classes of sum_i shares_i sum_j F_ij, for every `parts`-th displacement."""
    boundary, classes, logs, regions = layout.boundary, layout.classes, layout.logs, layout.regions
    entropy, top, count, lines, kind = layout.entropy, layout.top, layout.count, layout.lines, layout.kind
    height, width, cells = layout.height, layout.width, layout.width + LANES
    whole, fraction = np.zeros(width, np.int64), np.zeros(width, boundary.dtype)
    same, weights, highest = _block(boundary), _block(boundary), _block(boundary)
    ahead, back, returning = _block(boundary), _block(boundary), _block(boundary)
    where = np.zeros(LANES, np.int32)
    one, half = like(boundary[0], 1), like(boundary[0], 0.5)
    for right in range(1, width):
        most = min(height - 1, right if layout.diagonal else right - 1)
        for down in range(-most + (part + right) % parts, most + 1, parts):
            _steps(down, right, whole, fraction)
            for row in range(max(0, -down), height - max(0, down)):
                for column in range(0, width - right, LANES):
                    here = np.uintp(row * cells + column)
                    there = np.uintp((row + down) * cells + column + right)
                    if not _find_same(regions, here, there, same):
                        continue
                    near = np.uintp(row * count * cells + column)
                    far = np.uintp((row + down) * count * cells + column + right)
                    if lines != NO_LINES:
                        _find_highest_where(boundary, cells, lines, here, there, right, whole, fraction, highest, where)
                    if kind == JENSEN_SHANNON:
                        for x in range(np.uintp(LANES)):
                            weights[x] = -half * same[x] * (one - highest[x]) * (shares[here + x] + shares[there + x])
                        _add_jensen_shannon(
                            class_sums,
                            classes,
                            logs,
                            entropy,
                            count,
                            cells,
                            here,
                            there,
                            near,
                            far,
                            weights,
                            ahead,
                            back,
                        )
                    elif kind == BERNOULLI:
                        _find_bernoulli(classes, top, cells, here, there, near, far, same, ahead, back)
                        _add_bernoulli(class_sums, classes, top, cells, here, there, near, far, shares, same, highest)
                    if lines != NO_LINES:
                        for x in range(np.uintp(LANES)):
                            returning[x] = -same[x] * shares[there + x] * (one - back[x])
                            weights[x] = returning[x] - same[x] * shares[here + x] * (one - ahead[x])
                        _add_to_lines(
                            line_sums, boundary, cells, lines, here, there, whole, fraction, where, weights, returning
                        )

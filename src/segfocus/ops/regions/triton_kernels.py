"""Kernels of region construction on CUDA devices, launched by `triton_gpu`, which says what they do and differ in.

One program owns a strip of row pixels and walks over tiles of column pixels.  Pixels are numbered row by row;
`semantic` is [classes, pixels]; `entropy` (bits) and `top` (most probable class) are per pixel.  Values are float32 or
float64 as the boundary is.
"""

from typing import no_type_check  # Triton compiles a kernel from its source: the tests' shape checks must not wrap it

import triton
import triton.language as tl

from segfocus.ops.regions import definition

_LOWEST, _HIGHEST = tl.constexpr(definition.LOWEST), tl.constexpr(definition.HIGHEST)
_TINY = tl.constexpr(definition.TINY)


@triton.jit
@no_type_check
def _bernoulli(first, second):
    """Jensen-Shannon divergence of two coins, in nats; probabilities away from 0 and 1."""
    middle = 0.5 * (first + second)
    gain = first * tl.log(first) + (1 - first) * tl.log(1 - first)
    gain += second * tl.log(second) + (1 - second) * tl.log(1 - second)
    return tl.maximum(0.5 * gain - middle * tl.log(middle) - (1 - middle) * tl.log(1 - middle), 0.0)


@triton.jit
@no_type_check
def _slope(changed, other):
    """Derivative of `_bernoulli` by its argument `changed`, which was clamped: zero where the clamp acted."""
    value = tl.minimum(tl.maximum(changed, _LOWEST), _HIGHEST)
    middle = 0.5 * (value + tl.minimum(tl.maximum(other, _LOWEST), _HIGHEST))
    return tl.where(value == changed, 0.5 * tl.log(value * (1 - middle) / (middle * (1 - value))), 0.0)


@triton.jit
@no_type_check
def _coins(semantic, top, row, column, pixels):
    """Probabilities of the row's and of the column's most probable class: row's in row, column; column's in both."""
    row_class, column_class = tl.load(top + row)[:, None], tl.load(top + column)[None, :]
    row_own = tl.load(semantic + row_class * pixels + row[:, None])
    column_of_row = tl.load(semantic + row_class * pixels + column[None, :])
    row_of_column = tl.load(semantic + column_class * pixels + row[:, None])
    column_own = tl.load(semantic + column_class * pixels + column[None, :])
    return row_own, column_of_row, row_of_column, column_own


@triton.jit
@no_type_check
def _clamped_bernoulli(first, second):
    first = tl.minimum(tl.maximum(first, _LOWEST), _HIGHEST)
    return _bernoulli(first, tl.minimum(tl.maximum(second, _LOWEST), _HIGHEST))


@triton.jit
@no_type_check
def _variation(semantic, row, column, pixels, classes):
    """Total variation of the class distributions: a bound of their divergence without logarithms."""
    total = tl.zeros([row.shape[0], column.shape[0]], semantic.dtype.element_ty)
    for label in range(classes):
        total += tl.abs(tl.load(semantic + label * pixels + row)[:, None] - tl.load(semantic + label * pixels + column))
    return 0.5 * total


@triton.jit
@no_type_check
def _jensen_shannon(semantic, entropy, row, column, pixels, classes):
    """H(U) - (H(C_i) + H(C_j)) / 2 in bits, U the mean of the two distributions (eq 2)."""
    bits = -0.5 * (tl.load(entropy + row)[:, None] + tl.load(entropy + column)[None, :])
    for label in range(classes):
        here, there = tl.load(semantic + label * pixels + row), tl.load(semantic + label * pixels + column)
        mean = 0.5 * (here[:, None] + there[None, :])
        bits -= mean * tl.log2(tl.maximum(mean, _TINY))
    return tl.minimum(tl.maximum(bits, 0.0), 1.0)


@triton.jit
@no_type_check
def _closeness(semantic, entropy, top, row, column, pixels, classes, BERNOULLI: tl.constexpr, SEMANTIC: tl.constexpr):
    """1 - E of (row, column) and of (column, row)."""
    if not SEMANTIC:
        forward = tl.full([row.shape[0], column.shape[0]], 1.0, semantic.dtype.element_ty)
        return forward, forward
    elif BERNOULLI:
        row_own, column_of_row, row_of_column, column_own = _coins(semantic, top, row, column, pixels)
        forward = 1 - _clamped_bernoulli(row_own, column_of_row)
        return forward, 1 - _clamped_bernoulli(column_own, row_of_column)
    else:
        forward = 1 - _jensen_shannon(semantic, entropy, row, column, pixels, classes)
        return forward, forward


@triton.jit
@no_type_check
def _course(row, column, width):
    """How lines run: steps along the major axis (x in a tie), pixels along the minor axis, and their strides."""
    down = (column // width)[None, :] - (row // width)[:, None]
    right = (column % width)[None, :] - (row % width)[:, None]
    along_x = tl.abs(right) >= tl.abs(down)
    stride_x = tl.where(right > 0, 1, -1)
    stride_y = tl.where(down > 0, width, -width)
    steps = tl.maximum(tl.abs(right), tl.abs(down))
    minor = tl.minimum(tl.abs(right), tl.abs(down))
    return steps, minor, tl.where(along_x, stride_x, stride_y), tl.where(along_x, stride_y, stride_x)


@triton.jit
@no_type_check
def _line_maximum(
    boundary, row, column, width, live, closeness, threshold, END_POINTS: tl.constexpr, PRUNE: tl.constexpr
):
    """Largest boundary probability between row and column (eq 1), and the step where it stands (-1: nowhere).

    With PRUNE a line ends as soon as (1 - maximum) * closeness can no longer exceed the threshold.
    """
    steps, minor, major_stride, minor_stride = _course(row, column, width)
    maximum = tl.zeros([row.shape[0], column.shape[0]], boundary.dtype.element_ty)
    where = tl.full([row.shape[0], column.shape[0]], -1, tl.int32)
    if END_POINTS:
        start, end = tl.load(boundary + row)[:, None], tl.load(boundary + column)[None, :]
        maximum += tl.maximum(start, end)
        where = tl.where(end > start, steps, 0)
    if PRUNE:
        live = live & ((1 - maximum) * closeness > threshold)
    share = 1.0 / tl.maximum(steps, 1).to(boundary.dtype.element_ty)
    place = row[:, None] + tl.zeros_like(steps)
    rest = tl.zeros_like(steps)
    last = tl.max(tl.where(live, steps, 0))
    step = 1
    while step < last:
        rest += minor
        carry = rest >= steps
        rest = tl.where(carry, rest - steps, rest)
        place += major_stride + tl.where(carry, minor_stride, 0)
        active = live & (step < steps)
        near = tl.load(boundary + place, mask=active, other=0.0)
        far = tl.load(boundary + place + minor_stride, mask=active & (rest > 0), other=0.0)
        value = near + rest.to(boundary.dtype.element_ty) * share * (far - near)
        higher = active & (value > maximum)
        maximum = tl.where(higher, value, maximum)
        where = tl.where(higher, step, where)
        if PRUNE:
            live = live & ((1 - maximum) * closeness > threshold)
            last = tl.max(tl.where(live, steps, 0))
        step += 1
    return maximum, where


@triton.jit
@no_type_check
def smallest_label_kernel(
    boundary, semantic, entropy, top, labels, smallest, pixels, width, classes, threshold, variation_bound,
    END_POINTS: tl.constexpr, BOUNDARY: tl.constexpr, SEMANTIC: tl.constexpr, BERNOULLI: tl.constexpr,
    FIRST: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """smallest[i] = lowest label of the pixels that i may join, and of i itself.

    FIRST: labels are the pixels' own indices, so that columns after the row cannot matter.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = row < pixels
    row = tl.minimum(row, pixels - 1)
    best = tl.load(labels + row)
    undecided = inside
    if BOUNDARY and END_POINTS:
        undecided = undecided & (1 - tl.load(boundary + row) > threshold)
    stop = pixels
    if FIRST:
        stop = tl.minimum(pixels, (tl.program_id(0) + 1) * ROWS)
    begin = 0
    going = tl.max(undecided.to(tl.int32))
    while (begin < stop) & (going > 0):
        column = begin + tl.arange(0, COLUMNS)
        label = tl.load(labels + tl.minimum(column, pixels - 1))
        live = undecided[:, None] & (label[None, :] < best[:, None]) & (column < pixels)[None, :]
        column = tl.minimum(column, pixels - 1)
        if SEMANTIC and not BERNOULLI:  # noqa: SIM102  (this condition is the compiler's, the next one the device's)
            if tl.max(live.to(tl.int32)) > 0:
                live = live & (_variation(semantic, row, column, pixels, classes) <= variation_bound)
        if tl.max(live.to(tl.int32)) > 0:
            forward, back = _closeness(
                semantic, entropy, top, row, column, pixels, classes, BERNOULLI=BERNOULLI, SEMANTIC=SEMANTIC
            )
            affinity = 0.5 * (forward + back)
            if BOUNDARY:
                live = live & (affinity > threshold)
                maximum, _ = _line_maximum(
                    boundary, row, column, width, live, affinity, threshold, END_POINTS=END_POINTS, PRUNE=True
                )
                affinity = (1 - maximum) * affinity
            found = tl.where(live & (affinity > threshold), label[None, :], best[:, None])
            best = tl.minimum(best, tl.min(found, 1))
            if FIRST:
                going = tl.max((undecided & (best == row)).to(tl.int32))
        begin += COLUMNS
    tl.store(smallest + row, best, mask=inside)


@triton.jit
@no_type_check
def scores_kernel(
    boundary, semantic, entropy, top, order, tile_start, tile_region, region_start, scores, pixels, width, classes,
    END_POINTS: tl.constexpr, BOUNDARY: tl.constexpr, SEMANTIC: tl.constexpr, BERNOULLI: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Mean affinity of each pixel of a tile to the pixels of its region; `order` lists the pixels region by region."""
    region = tl.load(tile_region + tl.program_id(0))
    first, end = tl.load(region_start + region), tl.load(region_start + region + 1)
    position = tl.load(tile_start + tl.program_id(0)) + tl.arange(0, ROWS)
    inside = position < end
    row = tl.load(order + tl.minimum(position, end - 1))
    total = tl.zeros([ROWS], boundary.dtype.element_ty)
    begin = first
    while begin < end:
        partner = begin + tl.arange(0, COLUMNS)
        column = tl.load(order + tl.minimum(partner, end - 1))
        live = inside[:, None] & (partner < end)[None, :]
        affinity, _ = _closeness(
            semantic, entropy, top, row, column, pixels, classes, BERNOULLI=BERNOULLI, SEMANTIC=SEMANTIC
        )
        if BOUNDARY:
            maximum, _ = _line_maximum(
                boundary, row, column, width, live, affinity, 0.0, END_POINTS=END_POINTS, PRUNE=False
            )
            affinity = (1 - maximum) * affinity
        total += tl.sum(tl.where(live, affinity, 0.0), 1)
        begin += COLUMNS
    tl.store(scores + row, total / (end - first).to(total.dtype), mask=inside)


@triton.jit
@no_type_check
def gradients_kernel(
    boundary, semantic, entropy, top, order, tile_start, tile_region, region_start, weight, boundary_gradient,
    semantic_gradient, pixels, width, classes, FIXED_POINT: tl.constexpr,
    END_POINTS: tl.constexpr, BOUNDARY: tl.constexpr, SEMANTIC: tl.constexpr, BERNOULLI: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Adds the gradients of sum_i weight_i sum_j F_ij: of the rows' class probabilities, and of boundary pixels.

    A pair is met twice, once from each end; its line is differentiated by the end with the lower index.
    """
    region = tl.load(tile_region + tl.program_id(0))
    begin, end = tl.load(region_start + region), tl.load(region_start + region + 1)
    position = tl.load(tile_start + tl.program_id(0)) + tl.arange(0, ROWS)
    inside = position < end
    row = tl.load(order + tl.minimum(position, end - 1))
    row_weight = tl.load(weight + row)[:, None]
    while begin < end:
        partner = begin + tl.arange(0, COLUMNS)
        column = tl.load(order + tl.minimum(partner, end - 1))
        live = inside[:, None] & (partner < end)[None, :]
        column_weight = tl.load(weight + column)[None, :]
        openness = tl.full([ROWS, COLUMNS], 1.0, boundary.dtype.element_ty)
        if BOUNDARY:
            forward, back = _closeness(
                semantic, entropy, top, row, column, pixels, classes, BERNOULLI=BERNOULLI, SEMANTIC=SEMANTIC
            )
            maximum, where = _line_maximum(
                boundary, row, column, width, live, forward, 0.0, END_POINTS=END_POINTS, PRUNE=False
            )
            openness -= maximum
            steps, minor, major_stride, minor_stride = _course(row, column, width)
            lower = live & (row[:, None] <= column[None, :]) & (where >= 0)
            slope = -row_weight * forward
            returning = tl.where(row[:, None] < column[None, :], -column_weight * back, 0.0)
            if END_POINTS:
                # both ends are the maximum: the way back starts from the other one
                tied = lower & (where == 0) & (tl.load(boundary + row)[:, None] == tl.load(boundary + column)[None, :])
                apart = (tl.where(tied, returning, 0.0) * FIXED_POINT).to(tl.int64)
                ends = boundary_gradient + column[None, :] + tl.zeros_like(steps)
                tl.atomic_add(ends, apart, mask=tied & (row[:, None] < column[None, :]), sem="relaxed")
                returning = tl.where(tied, 0.0, returning)
            slope += returning
            whole = where * minor // tl.maximum(steps, 1)
            rest = where * minor - whole * steps
            place = row[:, None] + where * major_stride + whole * minor_stride
            share = rest.to(slope.dtype) / tl.maximum(steps, 1).to(slope.dtype)
            near, far = slope * (1 - share) * FIXED_POINT, slope * share * FIXED_POINT
            tl.atomic_add(boundary_gradient + place, near.to(tl.int64), mask=lower, sem="relaxed")
            tl.atomic_add(
                boundary_gradient + place + minor_stride, far.to(tl.int64), mask=lower & (rest > 0), sem="relaxed"
            )
        if SEMANTIC and BERNOULLI:
            row_own, column_of_row, row_of_column, column_own = _coins(semantic, top, row, column, pixels)
            mine = tl.where(live, -row_weight * openness * _slope(row_own, column_of_row), 0.0)
            theirs = tl.where(live, -column_weight * openness * _slope(row_of_column, column_own), 0.0)
            tl.atomic_add(
                semantic_gradient + tl.load(top + row) * pixels + row, tl.sum(mine, 1), mask=inside, sem="relaxed"
            )
            column_class = tl.load(top + column)[None, :]
            for label in range(classes):
                part = tl.sum(tl.where(column_class == label, theirs, 0.0), 1)
                tl.atomic_add(semantic_gradient + label * pixels + row, part, mask=inside, sem="relaxed")
        elif SEMANTIC:
            factor = tl.where(live, -0.5 * (row_weight + column_weight) * openness, 0.0)
            for label in range(classes):
                here, there = tl.load(semantic + label * pixels + row), tl.load(semantic + label * pixels + column)
                mean = tl.log2(tl.maximum(0.5 * (here[:, None] + there[None, :]), _TINY))
                part = tl.sum(factor * (tl.log2(tl.maximum(here, _TINY))[:, None] - mean), 1)
                # only this program adds to its rows: an addition that nobody waits for, in the order of the tiles
                tl.atomic_add(semantic_gradient + label * pixels + row, part, mask=inside, sem="relaxed")
        begin += COLUMNS

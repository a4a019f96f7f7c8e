"""Region construction on CUDA devices; the backend "triton".

Source: Shen et al., "RANet: Region Attention Network for Semantic Segmentation", NeurIPS 2020, equations 1 to 5.

Nothing of the size of all pairs of pixels is kept.  Grouping looks first at what is cheap: a wall at the pixel itself,
the total variation of the classes (E in bits is at least TV^2 / (2 ln 2)), the divergence, and walks a line last, with
integer (Bresenham) places and only until no pair of a tile can still join.  Components repeat the search for the
lowest label within reach, starting from the first-neighbour regions, until nothing changes.  Scores look at pairs of
one region only; their backward pass walks the lines again and remembers where their maxima stand.

The results are the same every time.  One program owns a row, its score and its semantic gradient; boundary gradients,
which many programs add to, are added as 64-bit integers, whose sum does not depend on the order.

Where this differs from `definition`: rounding; a boundary gradient is rounded to 2^-60 of the sum of all |gradients|; a
maximum that lies at several places of a line gives its gradient, both ways, to the first of them as seen from the
pixel that comes first, unless these are the two end points.
"""

import math
from typing import NamedTuple

import torch
import triton
from jaxtyping import Float, Int
from torch import Tensor

from segfocus.errors import SegfocusError
from segfocus.ops.regions import triton_kernels as kernels
from segfocus.ops.regions.definition import TINY, top_classes
from segfocus.ops.regions.rules import RegionRules

_FIXED_POINT = 2.0**60


class _Maps(NamedTuple):
    """What every kernel reads, in this order."""

    boundary: Tensor
    semantic: Tensor
    entropy: Tensor
    top: Tensor


class _Tiles(NamedTuple):
    """Pixels region by region, cut into strips that lie in one region each."""

    order: Tensor
    start: Tensor
    region: Tensor
    region_start: Tensor


def group(
    boundary: Float[Tensor, "height width"], semantic: Float[Tensor, "classes height width"], rules: RegionRules
) -> Int[Tensor, " pixels"]:
    """Leader of each pixel: the first pixel it may join, or the lowest pixel of its component.

    Args:
        boundary: probability that a pixel lies on a boundary, in [0, 1], on a CUDA device.
        semantic: probability of each class, in [0, 1], on the same device.
        rules: see `RegionRules`.

    Returns:
        Index of a pixel (row * width + column) for every pixel, at most its own.  It has no gradient.

    Raises:
        SegfocusError: the maps are not on a CUDA device.
    """
    maps = _maps(boundary, semantic)
    own = torch.arange(boundary.numel(), device=boundary.device, dtype=torch.int32)
    found = _smallest_labels(maps, own, rules, first=True)
    if rules.grouping == "first":
        return found.long()
    labels = _follow(found)
    while True:
        found = _smallest_labels(maps, labels, rules, first=False)
        # each component hangs itself on the lowest one within reach of any of its pixels
        lower = labels.scatter_reduce(0, labels.long(), found, "amin")
        if torch.equal(lower, labels):
            return labels.long()
        labels = _follow(lower)


def scores_forward(
    boundary: Float[Tensor, "height width"],
    semantic: Float[Tensor, "classes height width"],
    regions: Int[Tensor, " pixels"],
    rules: RegionRules,
) -> Float[Tensor, " pixels"]:
    """J: mean affinity of each pixel to its region, itself included, in [0, 1] (equation 5).

    `regions` are consecutive numbers from 0; the maps are those of `group`.

    Raises:
        SegfocusError: the maps are not on a CUDA device.
    """
    maps = _maps(boundary, semantic)
    rows, columns = _tile_size(boundary)
    tiles = _tiles(regions, rows)
    scores = maps.boundary.new_empty(boundary.numel())
    with torch.cuda.device_of(boundary):
        kernels.scores_kernel[(len(tiles.start),)](
            *maps, *tiles, scores, *_sizes(boundary, semantic), **_options(rules), ROWS=rows, COLUMNS=columns
        )
    return scores


def scores_backward(
    gradient: Float[Tensor, " pixels"],
    boundary: Float[Tensor, "height width"],
    semantic: Float[Tensor, "classes height width"],
    regions: Int[Tensor, " pixels"],
    rules: RegionRules,
) -> tuple[Float[Tensor, "height width"], Float[Tensor, "classes height width"]]:
    """Gradients of the boundary and class probabilities for a gradient of the scores; regions count as constant.

    Raises:
        SegfocusError: the maps are not on a CUDA device.
    """
    maps = _maps(boundary, semantic)
    rows, columns = _tile_size(boundary)
    tiles = _tiles(regions, rows)
    # in shares of the whole, so that the integer sums keep their precision and cannot overflow
    whole = gradient.detach().abs().sum().clamp_min(torch.finfo(gradient.dtype).tiny)
    weight = (gradient.detach() / whole / torch.bincount(regions)[regions]).contiguous()
    steps = torch.zeros_like(maps.boundary, dtype=torch.int64)
    semantic_gradient = torch.zeros_like(maps.semantic)
    with torch.cuda.device_of(boundary):
        kernels.gradients_kernel[(len(tiles.start),)](
            *maps,
            *tiles,
            weight,
            steps,
            semantic_gradient,
            *_sizes(boundary, semantic),
            FIXED_POINT=_FIXED_POINT,
            **_options(rules),
            ROWS=rows,
            COLUMNS=columns,
        )
    boundary_gradient = (steps.double() / _FIXED_POINT).to(whole.dtype) * whole
    return boundary_gradient.view_as(boundary), (semantic_gradient * whole).view_as(semantic)


def _smallest_labels(maps: _Maps, labels: Tensor, rules: RegionRules, *, first: bool) -> Tensor:
    rows, columns = _tile_size(maps.boundary)
    smallest = torch.empty_like(labels)
    width, classes = maps.boundary.shape[1], len(maps.semantic)
    # E >= TV^2 / (2 ln 2) for normalised probabilities; the slack is for rounding
    variation_bound = math.sqrt(2 * math.log(2) * (1 - rules.threshold)) + 1e-4
    with torch.cuda.device_of(maps.boundary):
        kernels.smallest_label_kernel[(triton.cdiv(labels.numel(), rows),)](
            *maps,
            labels,
            smallest,
            labels.numel(),
            width,
            classes,
            rules.threshold,
            variation_bound,
            **_options(rules),
            FIRST=first,
            ROWS=rows,
            COLUMNS=columns,
        )
    return smallest


def _follow(labels: Tensor) -> Tensor:
    """Chains of leaders, followed to their ends."""
    while True:
        further = labels[labels.long()]
        if torch.equal(further, labels):
            return labels
        labels = further


def _maps(boundary: Tensor, semantic: Tensor) -> _Maps:
    compiled = isinstance(kernels.scores_kernel, triton.JITFunction)
    if compiled and not (boundary.is_cuda and semantic.is_cuda):
        raise SegfocusError(
            f"boundary, semantic: expected maps on a CUDA device, got {boundary.device} and {semantic.device}; "
            'try backend="torch"'
        )
    boundary, semantic = boundary.detach().contiguous(), semantic.detach().contiguous()
    entropy = -(semantic * semantic.clamp_min(TINY).log2()).sum(0)
    return _Maps(boundary, semantic, entropy, top_classes(semantic).int())


def _tiles(regions: Tensor, rows: int) -> _Tiles:
    order = regions.argsort(stable=True).int()
    sizes = torch.bincount(regions)
    region_start = torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])
    tiles = (sizes + rows - 1) // rows
    region = torch.arange(len(sizes), device=regions.device).repeat_interleave(tiles)
    before = (tiles.cumsum(0) - tiles)[region]
    start = region_start[region] + rows * (torch.arange(len(region), device=regions.device) - before)
    return _Tiles(order, start.int(), region.int(), region_start.int())


def _tile_size(boundary: Tensor) -> tuple[int, int]:
    """Rows and columns of a tile: short strips on small maps, so that there are programs for all processors."""
    return (8, 32) if boundary.numel() < 4096 else (16, 32)


def _sizes(boundary: Tensor, semantic: Tensor) -> tuple[int, int, int]:
    return boundary.numel(), boundary.shape[1], len(semantic)


def _options(rules: RegionRules) -> dict[str, bool]:
    return {
        "END_POINTS": rules.end_points,
        "BOUNDARY": rules.evidence != "semantic",
        "SEMANTIC": rules.evidence != "boundary",
        "BERNOULLI": rules.divergence == "bernoulli",
        # said aloud, since Triton's default changes with its version
        "enable_fp_fusion": True,
    }

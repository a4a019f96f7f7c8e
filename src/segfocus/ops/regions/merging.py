"""From leaders to regions that are few and large enough to be worth an exchange.

Where this differs: the paper knows no smallest region.  With end points on the line, every pixel of a strong boundary
is a region of its own; these are absorbed by the regions around them.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from torch.nn import functional

from segfocus.ops.regions.rules import RegionRules

_WHOLE_NUMBERS = 2**24
"""float32 holds every whole number up to this"""


def merge(leaders: Int[Tensor, " pixels"], height: int, width: int, rules: RegionRules) -> Int[Tensor, "height width"]:
    """Region of each pixel, numbered from 0 in the order of the regions' first pixels.

    Leaders are followed to their end; then small regions, then those beyond the `max_regions` largest are absorbed.

    Raises:
        ValueError: not one leader for each pixel.
    """
    if leaders.numel() != height * width:
        raise ValueError(
            f"leaders: expected {height} x {width} pixels, got {leaders.numel()}; "
            "try the height and width of the map that was grouped"
        )
    labels = resolve_leaders(leaders).view(height, width)
    labels = absorb_small(labels, rules.min_region)
    if rules.max_regions is not None:
        labels = keep_largest(labels, rules.max_regions)
    return labels


def resolve_leaders(leaders: Int[Tensor, " pixels"]) -> Int[Tensor, " pixels"]:
    """Regions of pixels whose chains of leaders end at the same pixel, numbered in the order of these pixels.

    Chains of any length are followed, in a number of steps that grows with the logarithm of the longest.
    """
    while not torch.equal(leaders, onward := leaders[leaders]):
        leaders = onward
    # a leader is never behind its followers, so that it is the first pixel of its region
    return (leaders == torch.arange(len(leaders), device=leaders.device)).cumsum(0)[leaders] - 1


def absorb_small(labels: Int[Tensor, "height width"], min_region: int) -> Int[Tensor, "height width"]:
    """Regions below `min_region` pixels go to the nearest larger one; kept where no region is large enough.

    Nearest: by growing the larger regions to their eight neighbours at a time; among regions that reach a pixel at
    the same time, the one numbered lowest.  Labels are numbered from 0 in the order of the regions' first pixels.
    """
    kept = torch.bincount(labels.flatten()) >= min_region
    return _absorb(labels, kept) if kept.any() else labels


def keep_largest(labels: Int[Tensor, "height width"], max_regions: int) -> Int[Tensor, "height width"]:
    """All but the largest regions (among equals, those numbered lowest) are absorbed as by `absorb_small`."""
    sizes = torch.bincount(labels.flatten())
    kept = torch.zeros_like(sizes, dtype=torch.bool)
    kept[sizes.argsort(descending=True, stable=True)[:max_regions]] = True
    return _absorb(labels, kept)


def _absorb(labels: Int[Tensor, "height width"], kept: Bool[Tensor, " regions"]) -> Int[Tensor, "height width"]:
    if kept.all():
        return labels
    # max-pooling of negated labels is the lowest label around; not float64 at once, which Apple's GPUs lack
    exact = torch.float32 if len(kept) < _WHOLE_NUMBERS else torch.float64
    open_pixel = -float(len(kept))
    grown = torch.where(kept[labels], -labels.to(exact), open_pixel)
    while (missing := grown == open_pixel).any():
        around = functional.max_pool2d(grown[None, None], 3, stride=1, padding=1)[0, 0]
        grown = torch.where(missing, around, grown)
    return _number_by_first_pixel(-grown.long(), len(kept))


def _number_by_first_pixel(labels: Int[Tensor, "height width"], bound: int) -> Int[Tensor, "height width"]:
    """Labels below `bound`, some of them unused, replaced by consecutive ones."""
    flat = labels.flatten()
    pixels = torch.arange(len(flat), device=flat.device)
    first = torch.full((bound,), len(flat), device=flat.device)
    leaders = first.scatter_reduce_(0, flat, pixels, "amin")[flat]
    return resolve_leaders(leaders).view_as(labels)

"""Representatives of regions: the pixels that speak for the others of their region (RANet, section 3.2)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def choose_representatives(
    scores: Float[Tensor, " pixels"], regions: Int[Tensor, " pixels"], count: int
) -> Int[Tensor, "regions count"]:
    """The min(count, size) pixels of each region with the highest representative score, best first.

    Args:
        scores: representative score J of each pixel (eq. 5).
        regions: region of each pixel, from 0.
        count: most representatives a region may have (K).

    Returns:
        Pixel indices, one row a region; -1 where a region has fewer than `count` pixels.  Of equal scores the lower
        index comes first.  No gradient.

    Where this differs from the authors' released code: there a region with fewer pixels than K is filled up with
    pixels of other regions.

    Raises:
        ValueError: a count below 1, or a negative region.
    """
    if count < 1:
        raise ValueError(f"representatives: expected at least 1 a region, got {count}; try 8")
    if regions.numel() == 0:
        return regions.new_zeros((0, count), dtype=torch.long)
    regions = regions.long()
    lowest, highest = (int(value) for value in torch.stack(regions.aminmax()).tolist())
    if lowest < 0:
        raise ValueError(f"regions: expected ids from 0, got {lowest}; try ids that number the regions of a picture")
    # two stable sorts: by falling score, then by region; what stays in order inside a region is score, then index
    order = scores.detach().argsort(descending=True, stable=True)
    order = order[regions[order].argsort(stable=True)]
    sizes = torch.bincount(regions, minlength=highest + 1)
    owner = regions[order]
    rank = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[owner]
    # pixels of too low a rank land in a column that is cut off: no selection whose size the device has to report
    table = order.new_full((highest + 1, count + 1), -1)
    table[owner, rank.clamp(max=count)] = order
    return table[:, :count].contiguous()


def representative_mask(
    scores: Float[Tensor, "batch height width"], regions: Int[Tensor, "batch height width"], count: int = 8
) -> Bool[Tensor, "batch height width"]:
    """Which pixels represent their region: `choose_representatives` of every picture, as a mask.

    Raises:
        ValueError: as `choose_representatives`.
    """
    masks = []
    for picture_scores, picture_regions in zip(scores.flatten(1), regions.flatten(1), strict=True):
        chosen = choose_representatives(picture_scores, picture_regions, count)
        mask = torch.zeros(len(picture_scores) + 1, dtype=torch.bool, device=scores.device)
        mask[chosen.flatten()] = True  # -1 is the spare last place
        masks.append(mask[:-1])
    if not masks:
        return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    return torch.stack(masks).view(scores.shape)

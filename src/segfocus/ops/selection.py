"""Exact Top-K selection of regions (FoR-Net)."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

# ratios are turned into counts with integers, so that the count is exact and a symbolic size survives export
_PARTS = 1_000_000


def selected_count(ratio: float, regions: int) -> int:
    """Regions that a ratio in [0, 1] selects: ratio * regions, rounded half up."""
    return (round(ratio * _PARTS) * regions + _PARTS // 2) // _PARTS


def top_k_masks(
    scores: Float[Tensor, "batch 1 rows columns"], ratios: Sequence[float]
) -> list[Bool[Tensor, "batch 1 rows columns"]]:
    """One mask a ratio: in every picture exactly `selected_count(ratio, rows * columns)` best-scored regions.

    Masks of smaller ratios lie inside those of larger ones (one ranking serves all); ties go to the lower index
    (row by row), so the result is the same on every device.  No gradient flows into the masks.

    Raises:
        ValueError: a ratio outside [0, 1].
    """
    for ratio in ratios:
        if not 0.0 <= ratio <= 1.0:
            raise ValueError(f"ratio: expected a share of regions in [0, 1], got {ratio}")
    batch, _, rows, columns = scores.shape
    order = scores.detach().float().flatten(1).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    return [(rank < selected_count(ratio, rows * columns)).view(batch, 1, rows, columns) for ratio in ratios]


def block_means(scores: Float[Tensor, "batch 1 height width"], block: int) -> Float[Tensor, "batch 1 rows columns"]:
    """Mean score of each `block` x `block` group of cells; ragged blocks average the cells they have."""
    if block == 1:
        return scores
    height, width = scores.shape[-2:]
    room = (0, -width % block, 0, -height % block)
    # explicit padding and counting, not pooling in ceil mode: its symbolic size does not survive export
    total = functional.avg_pool2d(functional.pad(scores, room), block)
    share = functional.avg_pool2d(functional.pad(torch.ones_like(scores[:1]), room), block)
    return total / share


def straight_through(
    mask: Bool[Tensor, "batch 1 height width"], importance: Float[Tensor, "batch 1 height width"]
) -> Float[Tensor, "batch 1 height width"]:
    """The mask as 0 and 1 exactly in the forward pass, with the gradient of `importance` in the backward pass."""
    return mask.to(importance.dtype) + (importance - importance.detach())


def random_scores(like: Float[Tensor, "batch 1 height width"], training: bool) -> Float[Tensor, "batch 1 height width"]:
    """Uniform scores from torch's generator in training, the same ones every time otherwise."""
    if training:
        return torch.rand_like(like)
    generator = torch.Generator().manual_seed(0)
    return torch.rand(like.shape, generator=generator).to(like)

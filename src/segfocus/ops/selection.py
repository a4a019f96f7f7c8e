"""Exact Top-K selection of regions (FoR-Net)."""

import numbers
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

# ratios are turned into counts with integers, so that the count is exact and a symbolic size survives export
_PARTS = 1_000_000


def selected_count(ratio: float, regions: int) -> int:
    """Regions that a ratio in [0, 1] selects: ratio * regions, rounded half up; of a ratio above 0 at least one."""
    count: Any = (round(ratio * _PARTS) * regions + _PARTS // 2) // _PARTS
    return torch.sym_max(count, 1) if ratio > 0 else count


def top_k(scores: Float[Tensor, "batch 1 rows columns"], ratios: Sequence[float]) -> list[Int[Tensor, "batch _"]]:
    """For each ratio the `selected_count` best-scored regions of every picture: row * columns + column, best first.

    Regions of smaller ratios are among those of larger ones (one ranking serves all); ties go to the lower number, so
    the result is the same on every device and in graphs.  It has no gradient.  For an ONNX file give
    `torch.onnx.export` the module itself: an exported program already holds a stable sort, which ONNX does not know.

    Raises:
        ValueError: a ratio outside [0, 1].
    """
    for ratio in ratios:
        check_share("ratio", ratio, "of the regions")
    flat = scores.detach().float().flatten(1)
    order = _best_first(flat)[1]
    return [order[:, : selected_count(ratio, flat.shape[1])] for ratio in ratios]


def _best_first(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Scores and numbers in descending order of each row's scores; ties in ascending order of the numbers."""
    if torch.compiler.is_exporting() and torch.onnx.is_in_onnx_export():
        # ONNX has no stable sort; its TopK gives ties to the lower number as well
        best, order = torch.topk(flat, flat.shape[1], dim=1)
    else:
        best, order = flat.sort(dim=1, descending=True, stable=True)
    return best, order


def top_k_masks(
    scores: Float[Tensor, "batch 1 rows columns"], ratios: Sequence[float]
) -> list[Bool[Tensor, "batch 1 rows columns"]]:
    """The regions of `top_k` as masks, one a ratio."""
    return [region_mask(chosen, scores) for chosen in top_k(scores, ratios)]


def region_mask(
    chosen: Int[Tensor, "batch _"], like: Float[Tensor, "batch 1 rows columns"]
) -> Bool[Tensor, "batch 1 rows columns"]:
    """Regions given by number as a mask on the grid of `like`."""
    empty = torch.zeros_like(like, dtype=torch.bool).flatten(1)
    return empty.scatter(1, chosen, True).view(like.shape)


def adaptive_masks(scores: Float[Tensor, "batch 1 rows columns"], share: float) -> Bool[Tensor, "batch 1 rows columns"]:
    """In every picture the fewest regions whose scores (none negative) sum up to at least `share` of all scores.

    Ties go to the lower number; a picture whose scores are all 0 has no such region.

    Raises:
        ValueError: a share outside [0, 1].
    """
    check_share("adaptive", share, "of the importance")
    # float64: sums of many float32 would miss a share of exactly 1; MPS has none of it
    device = "cpu" if scores.device.type == "mps" else scores.device
    best, order = _best_first(scores.detach().to(device, torch.float64).flatten(1))
    before = functional.pad(best.cumsum(1)[:, :-1], (1, 0))
    needed = (before < share * best.sum(1, keepdim=True)) & (best > 0)
    return torch.zeros_like(needed).scatter(1, order, needed).view(scores.shape).to(scores.device)


def check_share(name: str, value: float, what: str) -> None:
    """Raise a ValueError unless it is a number in [0, 1]."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (number and 0.0 <= value <= 1.0):
        raise ValueError(f"{name}: expected a share {what} in [0, 1], got {value!r}; try 0.25")


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
    """Uniform scores from torch's generator in training; otherwise the same ones for every picture of a size, on every
    device."""
    if training:
        return torch.rand_like(like)
    height, width = like.shape[-2:]
    # whole-number arithmetic on the number of the cell: exact everywhere, also in graphs; the multipliers are those of
    # Wellons' 32-bit hash "lowbias32" (2018)
    mixed = torch.arange(1, height * width + 1, device=like.device)
    for factor in (0x7FEB352D, 0x846CA68B, 1):
        mixed = (mixed ^ mixed // 2**16) * factor % 2**32
    return (mixed / 2**32).to(like.dtype).view(1, 1, height, width).expand(like.shape[0], -1, -1, -1)

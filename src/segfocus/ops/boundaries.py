"""Label map -> boundary map on the GPU side of training (differentiable parts never enter here)."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from segfocus.data.classes import IGNORE


def boundary_pixels(
    target: Int[Tensor, "batch height width"], ignore: int = IGNORE
) -> Bool[Tensor, "batch height width"]:
    """Labelled pixels that have another label among their 3x3 neighbours; ignored neighbours do not count."""
    labels = target[:, None].float()
    labelled = target[:, None] != ignore
    largest = functional.max_pool2d(labels.masked_fill(~labelled, -1.0), 3, 1, 1)
    smallest = -functional.max_pool2d((-labels).masked_fill(~labelled, -1e6), 3, 1, 1)
    return ((largest != smallest) & labelled)[:, 0]


def soft_boundary_target(
    target: Int[Tensor, "batch height width"],
    size: tuple[int, int],
    cell: int,
    reach: int = 2,
    decay: float = 0.5,
    ignore: int = IGNORE,
) -> tuple[Float[Tensor, "batch 1 rows columns"], Bool[Tensor, "batch 1 rows columns"]]:
    """How near each cell of a coarse grid is to a class boundary (FoR-Net's selector target).

    Boundary pixels are max-pooled to the grid of `size` (rows, columns) whose cells cover `cell` x `cell` input
    pixels; a cell `n` steps (chessboard distance, n <= `reach`) from a boundary cell gets `decay` ** n.

    Returns:
        target in [0, 1], and which cells hold at least one labelled pixel.
    """
    height, width = target.shape[-2:]
    room = (0, max(size[1] * cell - width, 0), 0, max(size[0] * cell - height, 0))

    def pool(values: Tensor) -> Tensor:
        padded = functional.pad(values[:, None].float(), room)
        return functional.max_pool2d(padded[..., : size[0] * cell, : size[1] * cell], cell)

    near = pool(boundary_pixels(target, ignore))
    soft = near
    for step in range(1, reach + 1):
        soft = torch.maximum(soft, decay**step * functional.max_pool2d(near, 2 * step + 1, 1, step))
    return soft, pool(target != ignore) > 0


def boundary_band(
    target: Int[Tensor, "batch height width"], radius: int = 2, ignore: int = IGNORE
) -> tuple[Bool[Tensor, "batch 1 height width"], Bool[Tensor, "batch 1 height width"]]:
    """Pixels within `radius` px (Euclidean) of a pixel with another label, on both sides of the boundary.

    RANet's boundary target (Shen et al. 2020, section 4).  The picture's frame is no boundary, and neither are the
    edges of ignored areas.

    Returns:
        whether each pixel lies in the band, and whether it is labelled.
    """
    labelled = target != ignore
    band = torch.zeros_like(labelled)
    height, width = target.shape[-2:]
    for down in range(min(radius, height - 1) + 1):
        for right in range(-min(radius, width - 1), min(radius, width - 1) + 1):
            if down * down + right * right > radius * radius or (down == 0 and right <= 0):
                continue
            here = (..., slice(0, height - down), slice(max(-right, 0), width - max(right, 0)))
            there = (..., slice(down, height), slice(max(right, 0), width + min(right, 0)))
            differs = (target[here] != target[there]) & labelled[here] & labelled[there]
            band[here] |= differs
            band[there] |= differs
    return band[:, None], labelled[:, None]

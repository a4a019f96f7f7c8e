"""From importance to the regions that FoR-Net refines; see `segfocus.methods.fornet`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch._subclasses.fake_tensor import is_fake
from torch.nn import functional

from segfocus.ops.blocks import gather_blocks
from segfocus.ops.resample import expand_blocks
from segfocus.ops.selection import adaptive_masks, block_means, region_mask, straight_through, top_k


@dataclass(frozen=True)
class Selection:
    """Which regions are refined."""

    mask: Bool[Tensor, "batch 1 rows columns"]
    """on the cells of the padded picture's grid"""
    importance: Float[Tensor, "batch 1 rows columns"]
    """on the same grid"""
    gradient: str
    """how the selection learns: "straight-through", "gate" or "none" """
    chosen: Int[Tensor, " n"]
    """flat block numbers, see `segfocus.ops.blocks`"""
    grid: tuple[int, int]
    """rows and columns of blocks, which cover the cells that touch the picture"""
    block: int
    """side of a block in cells"""
    fills: bool
    """whether those are all cells of the grid: blocks then stand over nothing but its edge"""

    @property
    def weight(self) -> Float[Tensor, "batch 1 rows columns"]:
        """What multiplies a refinement: exactly 0 outside the mask; gradients reach the importance through it."""
        if self.gradient == "straight-through":
            return straight_through(self.mask, self.importance)
        hard = self.mask.to(self.importance.dtype)
        return hard * self.importance if self.gradient == "gate" else hard

    def weighted(self, found: Float[Tensor, "n channels side side"]) -> Float[Tensor, "n channels side side"]:
        """What was computed in the chosen blocks, on this grid or a finer one, times the weight of its cells."""
        if self.fills and self.gradient != "gate":
            return found  # what stands over the edge is dropped in any case
        weights = gather_blocks(self.weight, self.chosen, self.block, 0, self.grid).to(found.dtype)
        factor = found.shape[-1] // self.block
        return found * (weights if factor == 1 else weights.repeat_interleave(factor, 2).repeat_interleave(factor, 3))


def select_regions(
    importance: Float[Tensor, "batch 1 rows columns"],
    cells: tuple[int, int],
    block: int,
    ratios: Sequence[float],
    adaptive: float | None,
    gradient: str,
) -> list[Selection]:
    """One selection a ratio; equal ratios share one.

    Args:
        importance: on the grid of the padded picture.
        cells: rows and columns that touch the picture itself.  The others are nobody's business: not selected.
        block: side of a region in cells.
        ratios: shares of the regions, in [0, 1].
        adaptive: None, or the share of the importance that the fewest regions must hold; then ratios do not matter.
        gradient: "straight-through", "gate" (mask times importance) or "none".
    """
    regions = block_means(importance[..., : cells[0], : cells[1]].detach(), block)
    room = (0, importance.shape[-1] - cells[1], 0, importance.shape[-2] - cells[0])
    grid = (regions.shape[-2], regions.shape[-1])
    # sizes of an exported graph are not compared: the answer would be fixed in it
    fills = not torch.compiler.is_compiling() and tuple(importance.shape[-2:]) == tuple(cells)

    def selection(found: Tensor, chosen: Tensor) -> Selection:
        mask = functional.pad(expand_blocks(found, block, cells), room)
        return Selection(mask, importance, gradient, chosen, grid, block, fills)

    if adaptive is not None:
        found = adaptive_masks(regions, adaptive)
        # a graph of fixed sizes holds no number that depends on the picture: there everything is computed
        chosen = found.flatten()[:0].long() if shape_alone(found) else found.flatten().nonzero()[:, 0]
        return [selection(found, chosen)] * len(ratios)
    different = sorted(set(ratios))
    first = torch.arange(regions.shape[0], device=regions.device)[:, None] * (grid[0] * grid[1])
    selections = {
        ratio: selection(region_mask(chosen, regions), (chosen + first).flatten())
        for ratio, chosen in zip(different, top_k(regions, different), strict=True)
    }
    return [selections[ratio] for ratio in ratios]


def first_regions(selections: Sequence[Selection], share: float) -> list[Selection]:
    """Selections as large as these would be, were `share` the share of the largest: their blocks are the first ones.

    They cost what true selections of that size cost.
    """
    largest = max(len(selection.chosen) for selection in selections)
    made: dict[int, Selection] = {}
    for selection in selections:
        regions = len(selection.mask) * selection.grid[0] * selection.grid[1]
        count = round(share * regions * len(selection.chosen) / largest)
        made[id(selection)] = replace(selection, chosen=torch.arange(count, device=selection.chosen.device))
    return [made[id(selection)] for selection in selections]  # what was shared stays shared


def shape_alone(tensor: Tensor) -> bool:
    """Whether nothing can depend on its numbers: in a traced graph, or where it has none (`segfocus describe`)."""
    return torch.compiler.is_compiling() or tensor.is_meta or is_fake(tensor)

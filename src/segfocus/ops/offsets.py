"""Reading a map, or a label map, at positions that an offset field points to (OVeNet, equations 2 and 6).

Offsets are (x, y) vectors in cells of the grid they belong to: o(p) = q - p in the pixel coordinates of
`ops.resample`.  What points outside the grid reads its border.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from segfocus.data.classes import IGNORE
from segfocus.ops.resample import cell_labels


def sample_at(
    maps: Float[Tensor, "batch channels rows columns"],
    offsets: Float[Tensor, "batch 2 rows columns"],
    method: str = "gather",
) -> Float[Tensor, "batch channels rows columns"]:
    """C_s(p) = C(p + o(p)), bilinear between cells (equation 2).

    An offset is split into whole cells, which move an integer index, and a rest in [0, 1), which weighs the four
    cells around the point.  So a zero offset returns the very same numbers and whole offsets copy, at any size and
    precision; normalised coordinates drift by up to 2e-4 of a cell's contrast.  Differentiable in both arguments;
    where a point lies on a cell, the gradient of the offset is the difference towards larger coordinates.

    Args:
        maps: of any precision, which the result shares; the weights are float32 at least.
        offsets: (x, y) in cells.
        method: "gather", or "grid_sample": torch's operator for deployments that prefer one, not the exact identity
            (within 5e-4 of the largest value).

    Raises:
        ValueError: an unknown method.
    """
    offsets = offsets.to(torch.promote_types(offsets.dtype, torch.float32))
    if method == "gather":
        return _gather(maps, offsets)
    if method == "grid_sample":
        return _grid_sample(maps, offsets)
    raise ValueError(f"method: expected gather or grid_sample, got {method!r}")


def _gather(maps: Tensor, offsets: Tensor) -> Tensor:
    rows, columns = maps.shape[-2:]
    whole = offsets.detach().floor()
    rest_x, rest_y = (offsets - whole).split(1, 1)
    left, top = _positions(whole.long())
    flat = maps.flatten(2)

    def corner(row: Tensor, column: Tensor) -> Tensor:
        index = row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
        # expanded, not repeated: one index a cell serves all channels
        value = flat.gather(2, index.flatten(1)[:, None].expand(flat.shape)).view(maps.shape)
        return value.to(offsets.dtype)

    # a + w * (b - a): exactly a where w is 0
    upper = torch.lerp(corner(top, left), corner(top, left + 1), rest_x)
    lower = torch.lerp(corner(top + 1, left), corner(top + 1, left + 1), rest_x)
    sampled = torch.lerp(upper, lower, rest_y).to(maps.dtype)
    # in the layout of `maps`: sums of both, and enlarging, are several times slower where layouts are mixed
    layout = torch.channels_last if maps.stride(1) == 1 else torch.contiguous_format
    return sampled.contiguous(memory_format=layout)


def _grid_sample(maps: Tensor, offsets: Tensor) -> Tensor:
    rows, columns = maps.shape[-2:]
    x, y = _positions(offsets)
    # align_corners=False: the outer edges are -1 and 1, so that a side of one cell needs no case of its own
    grid = torch.stack([(2 * x + 1) / columns - 1, (2 * y + 1) / rows - 1], -1)
    sampled = functional.grid_sample(maps.to(grid.dtype), grid, padding_mode="border", align_corners=False)
    return sampled.to(maps.dtype)


def _positions(offsets: Tensor) -> tuple[Tensor, Tensor]:
    """p + o(p) as (x, y), each "batch rows columns", not yet kept inside."""
    rows, columns = offsets.shape[-2:]
    x = offsets[:, 0] + torch.arange(columns, device=offsets.device)
    y = offsets[:, 1] + torch.arange(rows, device=offsets.device)[:, None]
    return x, y


def keep_inside(offsets: Float[Tensor, "batch 2 rows columns"]) -> Float[Tensor, "batch 2 rows columns"]:
    """The same offsets, cut where p + o(p) would lie outside the outermost cells' centres."""
    rows, columns = offsets.shape[-2:]
    x = torch.arange(columns, device=offsets.device)
    y = torch.arange(rows, device=offsets.device)[:, None]
    return torch.stack([offsets[:, 0].clamp(-x, columns - 1 - x), offsets[:, 1].clamp(-y, rows - 1 - y)], 1)


def agreement(
    labels: Int[Tensor, "batch height width"],
    offsets: Float[Tensor, "batch 2 rows columns"],
    ignore: int = IGNORE,
    *,
    cell: int = 1,
) -> tuple[Bool[Tensor, "batch rows columns"], Bool[Tensor, "batch rows columns"]]:
    """Whether p and p + o(p) have the same label: the confidence's target, [H(p) = H(p + o(p))] of equation 6.

    Labels are copied by integer index (no label is ever made up between two), at the rounded position.

    Args:
        labels: train ids.
        offsets: (x, y) in pixels of `labels`, one a pixel, or one a `cell` x `cell` pixels; a cell stands for the
            pixel that `ops.resample.cell_labels` reads.
        ignore: the label of void.
        cell: pixels of `labels` a cell of `offsets`.

    Returns:
        same, and valid: both ends are labelled, and the cell's pixel lies inside the picture.
    """
    height, width = labels.shape[-2:]
    rows, columns = offsets.shape[-2:]
    x = torch.arange(columns, device=labels.device) * cell + cell // 2
    y = (torch.arange(rows, device=labels.device) * cell + cell // 2)[:, None]
    shift = offsets.detach().float().round().long()
    here = cell_labels(labels, (rows, columns), cell, ignore)
    index = (y + shift[:, 1]).clamp(0, height - 1) * width + (x + shift[:, 0]).clamp(0, width - 1)
    there = labels.flatten(1).gather(1, index.flatten(1)).view(index.shape)
    return here == there, (here != ignore) & (there != ignore)

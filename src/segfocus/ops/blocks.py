"""Computing in chosen blocks of a map only: gather with a halo, work, add back (FoR-Net's sparse inference).

A map is divided into blocks of `block` x `block` cells from its top left corner on, `grid` = (rows, columns) of them,
which may stand over the map or cover less than all of it.  Chosen blocks are flat numbers
image * rows * columns + row * columns + column, so that the pictures of a batch may have different counts.

Gathering tiles for dense convolutions and scattering their results: Ren et al., SBNet, CVPR 2018.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from segfocus.ops.resample import cut


def gather_blocks(
    maps: Float[Tensor, "batch channels height width"],
    chosen: Int[Tensor, " n"],
    block: int,
    halo: int,
    grid: tuple[int, int],
) -> Float[Tensor, "n channels side side"]:
    """The chosen blocks with `halo` cells more on every side (side = block + 2 * halo); zeros outside the map.

    Convolving them without padding gives what a convolution padded with zeros gives there.
    """
    cells, rows, columns = _as_rows(maps, block, halo, grid)
    place = _places(chosen, block, block + 2 * halo, 1, grid, (rows, columns))
    gathered = cells.index_select(0, place.flatten())
    return gathered.view(-1, block + 2 * halo, block + 2 * halo, maps.shape[1]).permute(0, 3, 1, 2)


def gather_taps(
    maps: Float[Tensor, "batch channels height width"],
    chosen: Int[Tensor, " n"],
    kernel: int,
    dilation: int,
    grid: tuple[int, int],
) -> Float[Tensor, "n taps"]:
    """All that a convolution reads at single chosen cells (blocks of one): kernel * kernel cells of all channels each.

    Times the kernel as [kernel * kernel * inputs, outputs] it is the convolution; a kernel of wide dilation reads
    little of the halo that `gather_blocks` would fetch.
    """
    cells, rows, columns = _as_rows(maps, 1, dilation * (kernel // 2), grid)
    place = _places(chosen, 1, kernel, dilation, grid, (rows, columns))
    return cells.index_select(0, place.flatten()).view(-1, kernel * kernel * maps.shape[1])


def add_blocks(
    maps: Float[Tensor, "batch channels height width"],
    chosen: Int[Tensor, " n"],
    values: Float[Tensor, "n channels block block"],
    grid: tuple[int, int],
) -> Float[Tensor, "batch channels height width"]:
    """A copy of the map with `values` added in the chosen blocks, each chosen once; what stands over it is dropped.

    Of two precisions the result has the wider one, as a sum has.
    """
    batch, channels, height, width = maps.shape
    block = values.shape[-1]
    values = values.to(torch.promote_types(maps.dtype, values.dtype))
    cells, rows, columns = _as_rows(maps.to(values.dtype), block, 0, grid)
    place = _places(chosen, block, block, 1, grid, (rows, columns))
    # in place: padding has made a copy
    added = cells.index_add_(0, place.flatten(), values.permute(0, 2, 3, 1).reshape(-1, channels))
    return cut(added.view(batch, rows, columns, channels).permute(0, 3, 1, 2), (height, width))


def _as_rows(
    maps: Tensor, block: int, halo: int, grid: tuple[int, int]
) -> tuple[Float[Tensor, "cells channels"], Any, Any]:
    """The cells as rows of channels, with a halo of zeros and room for blocks that stand over; its height and width."""
    height, width = maps.shape[-2:]
    # sym_max: sizes may be symbols of an exported graph
    below: Any = torch.sym_max(block * grid[0] - height, 0) + halo
    right: Any = torch.sym_max(block * grid[1] - width, 0) + halo
    padded = functional.pad(maps.permute(0, 2, 3, 1), (0, 0, halo, right, halo, below))
    return padded.reshape(-1, maps.shape[1]), height + halo + below, width + halo + right


def _places(
    chosen: Tensor, block: int, taps: int, step: int, grid: tuple[int, int], size: tuple[int, int]
) -> Int[Tensor, "n cells"]:
    """Rows of `_as_rows` that hold `taps` x `taps` cells, `step` apart, from each chosen block's corner on."""
    rows, columns = grid
    line, image = chosen // columns, chosen // (rows * columns)
    row, column = line - image * rows, chosen - line * columns  # no remainder: ONNX has none of a symbolic size
    corner = (image * size[0] + row * block) * size[1] + column * block
    reach = torch.arange(taps, device=chosen.device) * step
    return corner[:, None] + (reach[:, None] * size[1] + reach).flatten()

"""Maps cut into a grid of square patches that lie in the batch, and put together again (ThreshNet's local branch).

What a network does to patches in the batch it does to each alone: its padding begins at the patch's border, and its
weights are shared.  The patches of a picture follow one another in reading order, the pictures in theirs.
"""

from __future__ import annotations

import torch
from jaxtyping import Shaped
from torch import Tensor


def split_patches(
    maps: Shaped[Tensor, "batch channels height width"], patch: int
) -> Shaped[Tensor, "patches channels {patch} {patch}"]:
    """Every `patch` x `patch` px square of the maps as a map of its own: batch * rows * columns of them.

    Raises:
        ValueError: sides that are no multiples of `patch` (not checked while a graph is traced).
    """
    batch, channels, height, width = maps.shape
    if not torch.compiler.is_compiling() and (patch < 1 or height % patch or width % patch):
        raise ValueError(
            f"split_patches: expected height and width in multiples of {patch}, got {height} x {width}; "
            "try padding the maps first"
        )
    rows, columns = height // patch, width // patch
    if torch.compiler.is_compiling():  # by index: reshaping would hold for sizes like the traced one alone
        number = torch.arange(batch * rows * columns, device=maps.device)[:, None, None]
        inside = torch.arange(patch, device=maps.device)
        # tensors: ONNX divides by no size
        down, across = (torch.full_like(number[:1], value) for value in (rows, columns))
        row = number // across % down * patch + inside[:, None]
        column = number % across * patch + inside
        return maps[number // (across * down), :, row, column].permute(0, 3, 1, 2)
    if maps.stride(1) == 1:  # channels last in memory: so are the patches
        grid = maps.permute(0, 2, 3, 1).reshape(batch, rows, patch, columns, patch, channels)
        pieces = grid.permute(0, 1, 3, 2, 4, 5).reshape(batch * rows * columns, patch, patch, channels)
        return pieces.permute(0, 3, 1, 2)
    grid = maps.reshape(batch, channels, rows, patch, columns, patch)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(batch * rows * columns, channels, patch, patch)


def join_patches(
    patches: Shaped[Tensor, "patches channels side side"], rows: int, columns: int
) -> Shaped[Tensor, "batch channels height width"]:
    """The inverse of `split_patches` for maps of `rows` x `columns` patches; the patches may have any other side and
    other channels by now.

    Raises:
        ValueError: patches that do not fill whole pictures (not checked while a graph is traced).
    """
    count, channels, side, _ = patches.shape
    if not torch.compiler.is_compiling() and (min(rows, columns) < 1 or count % (rows * columns)):
        raise ValueError(
            f"join_patches: expected pictures of {rows} x {columns} patches, got {count} patches; "
            "try the rows and columns of the maps that were split"
        )
    batch = count // (rows * columns)
    if torch.compiler.is_compiling():
        picture, row, column = (
            torch.arange(number, device=patches.device) for number in (batch, rows * side, columns * side)
        )
        row = row[:, None]
        number = (picture[:, None, None] * rows + row // side) * columns + column // side
        return patches[number, :, row % side, column % side].permute(0, 3, 1, 2)
    grid = patches.reshape(batch, rows, columns, channels, side, side)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, rows * side, columns * side)

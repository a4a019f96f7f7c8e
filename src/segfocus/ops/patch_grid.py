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
    grid = patches.reshape(batch, rows, columns, channels, side, side)
    return grid.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, rows * side, columns * side)

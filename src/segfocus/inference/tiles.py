"""Maps of any size refined in tiles, a band of rows at a time: memory follows the map's width, never its height."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, UInt8
from torch import Tensor

from segfocus.errors import SegfocusError

Refine = Callable[[Tensor, Tensor | None], Tensor]
"""probabilities [1, classes, h, w] in [0, 1], picture [1, 3, h, w] in [0, 1] or None -> refined [1, outputs, h, w]"""
Read = Callable[[slice, slice], tuple[np.ndarray, np.ndarray | None]]
"""rows, columns -> float32 probabilities [classes, h, w], uint8 picture [h, w, 3] or None"""
Write = Callable[[slice, np.ndarray], None]
"""rows, float32 values [outputs, rows, width]: rows follow one another from the top"""


class _Axis(NamedTuple):
    """Tiles along one direction of the map, in one pass."""

    starts: list[int]
    """first pixel of each tile; below 0 where the grid is moved"""
    length: int
    """of every tile, px"""
    shares: np.ndarray
    """[tiles, length], float64: what a tile contributes to each pixel; 1 in sum over the tiles at a pixel"""


def refine_tiled(
    refine: Refine,
    read: Read,
    size: tuple[int, int],
    write: Write,
    *,
    window: Sequence[int] | None,
    stride: Sequence[int] | None = None,
    grid: int = 1,
    shifts: bool = False,
    device: str | torch.device = "cpu",
) -> None:
    """Refine a map tile by tile and hand the result out in rows, from the top.

    Every corner of a tile lies on a multiple of `grid`, so that patches of that side are the same whatever the window.
    The last tiles reach over the frame by less than `grid`, a map smaller than the window lies in one tile of its own
    size rounded up to `grid`; there the map goes on mirrored (the frame's pixels repeated), as often as needed.
    Overlapping tiles are weighted by a raised cosine that is nowhere 0.  Where all that cover a pixel agree, their
    value comes out bit for bit.

    Memory: bands of the window's height and the map's width, and one number a row.

    Args:
        refine: gets each tile, on `device`.
        read: gets rows and columns inside the map; called once for each row of tiles.
        size: height and width of the map, px.
        write: gets rows that are finished; together the whole map, once.
        window: height and width of a tile, px; None: the whole map in one tile, not mirrored.
        stride: vertical and horizontal step, px; see `check_tiles`.
        grid: side of the refiner's patches, px.
        shifts: average, evenly, four passes with tiles and grid moved up and left by 0 or grid // 2 px each.

    Raises:
        SegfocusError: what `check_tiles` refuses; a map without pixels; a `refine` that changes the size.
    """
    window, stride = check_tiles(window, stride, grid)
    height, width = size
    if min(size) < 1:
        raise SegfocusError(f"expected a map of at least 1x1 px, got {height}x{width}; try to make it again")
    moved = (0, grid // 2) if shifts and grid > 1 else (0,)
    sides = [(None, None)] * 2 if window is None or stride is None else list(zip(window, stride, strict=True))
    down, across = ([_axis(length, *side, grid, by) for by in moved] for length, side in zip(size, sides, strict=True))
    bands = [(start, axis, number) for axis in down for number, start in enumerate(axis.starts)]
    blend = _Blend(size, max(axis.length for axis in down), write, device)
    for top, axis_down, number in sorted(bands, key=lambda band: band[0]):
        blend.finish(max(top, 0))
        rows = _mirrored(top, top + axis_down.length, height)
        band, picture = _read_band(read, rows, width, device)
        for axis in across:
            for left, share in zip(axis.starts, axis.shares, strict=True):
                columns = _mirrored(left, left + axis.length, width)
                tile, look = _cut(band, columns, 2), None if picture is None else _cut(picture, columns, 1)
                with torch.inference_mode():
                    result = refine(tile[None], None if look is None else look.permute(2, 0, 1)[None].float().div(255))
                if result.shape[0] != 1 or result.shape[-2:] != tile.shape[-2:]:
                    raise SegfocusError(
                        f"expected a refined map of the tile's size {tile.shape[-2]}x{tile.shape[-1]}, got "
                        f"{tuple(result.shape)}; try to resize inside the callable"
                    )
                blend.add(result[0], top, left, axis_down.shares[number], share)
    blend.finish(height)


def refine_array(
    refine: Refine,
    probabilities: Float32[np.ndarray, "classes height width"],
    picture: UInt8[np.ndarray, "picture_height picture_width 3"] | None = None,
    *,
    window: Sequence[int] | None,
    stride: Sequence[int] | None = None,
    grid: int = 1,
    shifts: bool = False,
    device: str | torch.device = "cpu",
) -> Float32[np.ndarray, "outputs height width"]:
    """`refine_tiled` on a map that is in memory.

    Raises:
        SegfocusError: what `refine_tiled` refuses; a picture of another size.
    """
    height, width = probabilities.shape[1:]
    if picture is not None and picture.shape[:2] != (height, width):
        raise SegfocusError(
            f"expected a picture of the map's size {height}x{width}, got {picture.shape[0]}x{picture.shape[1]}; "
            "try the picture that was predicted"
        )
    parts: list[np.ndarray] = []

    def read(rows: slice, columns: slice) -> tuple[np.ndarray, np.ndarray | None]:
        return probabilities[:, rows, columns], None if picture is None else picture[rows, columns]

    refine_tiled(
        refine,
        read,
        (height, width),
        lambda rows, values: parts.append(values),
        window=window,
        stride=stride,
        grid=grid,
        shifts=shifts,
        device=device,
    )
    return np.concatenate(parts, axis=1)


def check_tiles(
    window: Sequence[int] | None, stride: Sequence[int] | None = None, grid: int = 1
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Window and stride as (height, width) pairs; a stride that is not given is three quarters of the window, rounded
    down to the grid.  None and None for a whole map.

    Raises:
        SegfocusError: sides that are no multiples of `grid` from 1 px, a stride above the window or without one.
    """
    if grid < 1:
        raise SegfocusError(f"grid: expected a side of at least 1 px, got {grid}; try the refiner's patch")
    if window is None:
        if stride is not None:
            raise SegfocusError(f"stride: expected a window with it, got stride {list(stride)} alone; try --window")
        return None, None
    wanted = f"multiples of {grid} px (the refiner's patch)" if grid > 1 else "whole numbers from 1 px"
    if len(window) != 2 or not all(_on_grid(side, grid) for side in window):
        sides = window if len(window) == 2 else (512, 512)
        nearby = "x".join(str(max(round(side / grid), 1) * grid) for side in sides)
        raise SegfocusError(f"window: expected height and width in {wanted}, got {list(window)}; try {nearby}")
    if stride is None:
        stride = [max(side * 3 // 4 // grid, 1) * grid for side in window]
    if (
        len(stride) != 2
        or not all(_on_grid(step, grid) for step in stride)
        or any(step > side for step, side in zip(stride, window, strict=True))
    ):
        nearby = "x".join(str(max(side * 3 // 4 // grid, 1) * grid) for side in window)
        raise SegfocusError(
            f"stride: expected two steps in {wanted}, up to the window {window[0]}x{window[1]}, got {list(stride)}; "
            f"try {nearby}"
        )
    return (int(window[0]), int(window[1])), (int(stride[0]), int(stride[1]))


class _Blend:
    """Weighted running mean of tiles over the rows that are not finished yet."""

    def __init__(self, size: tuple[int, int], rows: int, write: Write, device: str | torch.device) -> None:
        self.size = size
        self.write = write
        self.first = 0  # row of the map that the buffer begins with
        self.weight = torch.zeros(rows, size[1], device=device)
        self.mean: Tensor | None = None

    def add(
        self,
        result: Float[Tensor, "outputs tile_rows tile_columns"],
        top: int,
        left: int,
        down: Float64[np.ndarray, "tile_rows"],
        across: Float64[np.ndarray, "tile_columns"],
    ) -> None:
        """Take in a tile that begins at row `top`, column `left` of the map, with its shares in both directions; what
        lies outside the map is left out."""
        if self.mean is None:
            self.mean = torch.zeros(len(result), *self.weight.shape, device=self.weight.device)
        bottom, right = min(top + result.shape[1], self.size[0]), min(left + result.shape[2], self.size[1])
        rows, columns = slice(max(-top, 0), bottom - top), slice(max(-left, 0), right - left)
        place = (..., slice(max(top, 0) - self.first, bottom - self.first), slice(max(left, 0), right))
        with torch.inference_mode():
            # a running mean, not sum / weight: equal values stay as they are, bit for bit
            shares = (torch.from_numpy(share.astype(np.float32)) for share in (down[rows], across[columns]))
            part = torch.outer(*(share.to(self.weight.device) for share in shares))
            weight = self.weight[place].add_(part)
            mean = self.mean[place]
            mean.add_((result[:, rows, columns].to(mean) - mean).mul_(part / weight))

    def finish(self, until: int) -> None:
        """Hand out the rows before row `until`, which no further tile covers."""
        done = until - self.first
        if done < 1 or self.mean is None:
            return
        self.write(slice(self.first, until), self.mean[:, :done].cpu().numpy())
        self.first = until
        # new memory: whoever got the rows may keep them
        self.mean = torch.cat([self.mean[:, done:], torch.zeros_like(self.mean[:, :done])], 1)
        self.weight = torch.cat([self.weight[done:], torch.zeros_like(self.weight[:done])])


def _axis(length: int, window: int | None, stride: int | None, grid: int, moved: int) -> _Axis:
    reach = length + moved
    if window is None or stride is None:
        return _Axis([-moved], reach, np.ones((1, reach)))
    window = min(window, math.ceil(reach / grid) * grid)
    last = math.ceil(max(reach - window, 0) / grid) * grid
    starts = [start - moved for start in (*range(0, last, stride), last)]
    weights = 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(window) + 0.5) / window)
    total = np.zeros(last + window)
    for start in starts:
        total[start + moved :][:window] += weights
    return _Axis(starts, window, np.stack([weights / total[start + moved :][:window] for start in starts]))


def _mirrored(start: int, stop: int, length: int) -> np.ndarray:
    """Indices that go on mirrored outside 0 .. length - 1, the last one repeated."""
    index = np.arange(start, stop) % (2 * length)
    return np.minimum(index, 2 * length - 1 - index)


def _read_band(
    read: Read, rows: np.ndarray, width: int, device: str | torch.device
) -> tuple[Float32[Tensor, "classes rows width"], UInt8[Tensor, "rows width 3"] | None]:
    """All columns of some (mirrored) rows, on the device."""
    first, last = int(rows.min()), int(rows.max())
    values, picture = read(slice(first, last + 1), slice(0, width))
    expected = (last + 1 - first, width)
    for found in (values.shape[1:], expected if picture is None else picture.shape[:2]):
        if found != expected:
            raise SegfocusError(
                f"expected {expected[0]}x{expected[1]} px from read, got {found[0]}x{found[1]}; "
                "try a map and a picture of one size"
            )
    band = _cut(torch.from_numpy(np.require(values, np.float32, ["C", "W"])).to(device), rows - first, 1)
    if picture is None:
        return band, None
    return band, _cut(torch.from_numpy(np.require(picture, np.uint8, ["C", "W"])).to(device), rows - first, 0)


def _cut(values: Tensor, index: np.ndarray, axis: int) -> Tensor:
    """The entries of an axis at `index`; a view where they follow one another."""
    if index[-1] - index[0] == len(index) - 1 and (np.diff(index) == 1).all():
        return values.narrow(axis, int(index[0]), len(index))
    return values.index_select(axis, torch.from_numpy(index).to(values.device))


def _on_grid(side: object, grid: int) -> bool:
    return isinstance(side, int) and not isinstance(side, bool) and side >= 1 and side % grid == 0

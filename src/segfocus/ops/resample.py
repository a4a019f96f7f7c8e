"""Resizing and pixel grids: the only place where align_corners, padding and coordinate conventions are chosen.

Conventions: a pixel is a unit square and its value sits in its centre; the centre of pixel (row 0, column 0) has
the coordinates (x, y) = (0, 0) in "pixel coordinates".  Resizing keeps the outer edges of the picture in place
(align_corners=False).  Padding goes to the right and to the bottom only, so pixel coordinates never move.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


def resize(
    maps: Float[Tensor, "batch channels _ _"], size: tuple[int, int], mode: str = "bilinear", *, compare: bool = True
) -> Float[Tensor, "batch channels _ _"]:
    """Resize to `size` (height, width); returns the very same tensor when it has that size already.

    `mode` is "bilinear" (no antialiasing, as segmentation networks use it) or "nearest".  Without `compare` it resizes
    whatever the size: a graph that is traced once for all sizes cannot hold the comparison with a size that is fixed.
    """
    if compare and tuple(maps.shape[-2:]) == tuple(size):
        return maps
    if mode == "bilinear":
        strips = 1 if torch.compiler.is_compiling() else _strips(maps, size)
        if strips > 1:
            return _enlarge_strips(maps, size, strips)
        return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
    if mode == "nearest":
        return functional.interpolate(maps, size=size, mode="nearest-exact")
    raise ValueError(f"expected mode bilinear or nearest, got {mode!r}")


_WORTH_STRIPS = 1 << 18
"""results of fewer values take less time than the further calls"""


def _strips(maps: Tensor, size: tuple[int, int]) -> int:
    """How many strips of rows to enlarge side by side; 1: the whole at once.

    On a CPU PyTorch gives each picture of a channels_last batch to one thread, so that one picture keeps one busy.
    """
    batch, channels, height, _ = maps.shape
    worth = (
        maps.device.type == "cpu"
        and batch == 1
        and channels * size[0] * size[1] >= _WORTH_STRIPS
        and size[0] % height == 0
        and size[0] > height
        and not (torch.is_grad_enabled() and maps.requires_grad)
        and maps.is_contiguous(memory_format=torch.channels_last)
    )
    return next((n for n in range(torch.get_num_threads(), 1, -1) if height % n == 0), 1) if worth else 1


def _enlarge_strips(maps: Tensor, size: tuple[int, int], strips: int) -> Tensor:
    """One channels_last picture, enlarged by a whole factor of rows, in strips that lie in memory one after another.

    Each strip is right except near its seams, where it cannot see the next one's first row: those rows again.
    """
    _, channels, height, width = maps.shape
    factor, rows = size[0] // height, height // strips
    batch = maps.permute(0, 2, 3, 1).view(strips, rows, width, channels).permute(0, 3, 1, 2)
    parts = functional.interpolate(batch, size=(rows * factor, size[1]), mode="bilinear", align_corners=False)
    parts = parts.contiguous(memory_format=torch.channels_last)  # as it is already: the view below depends on it
    whole = parts.permute(0, 2, 3, 1).view(1, *size, channels).permute(0, 3, 1, 2)
    for seam in range(rows, height, rows):
        pair = maps[:, :, seam - 1 : seam + 1]
        around = functional.interpolate(pair, size=(2 * factor, size[1]), mode="bilinear", align_corners=False)
        # what lies between the centres of the two rows
        first, last = factor // 2, 2 * factor - factor // 2
        whole[:, :, (seam - 1) * factor + first : (seam - 1) * factor + last] = around[:, :, first:last]
    return whole


def enlarge(
    maps: Float[Tensor, "batch channels _ _"], stride: int, new_stride: int, size: tuple[int, int]
) -> Float[Tensor, "batch channels _ _"]:
    """From a grid of cells of `stride` pixels to one of `new_stride` (bilinear), cut to `size` cells.

    Positions follow the strides, not the sizes: where a coarse map's last cells stand over the picture (a map of
    ceil(height / stride) rows), stretching it to the fine grid's size would move everything by up to a cell.
    """
    height, width = maps.shape[-2:]
    exact = resize(maps, (height * stride // new_stride, width * stride // new_stride))
    return cut(exact, size)


def cut(maps: Float[Tensor, "batch channels _ _"], size: tuple[int, int]) -> Float[Tensor, "batch channels _ _"]:
    """The first `size` (rows, columns) cells."""
    if torch.compiler.is_compiling():
        # by index: a slice that cuts nothing at the traced size would be fixed in the graph as cutting nothing
        rows, columns = (torch.arange(side, device=maps.device) for side in size)
        return maps[:, :, rows][:, :, :, columns]
    return maps[..., : size[0], : size[1]]


def ceil_div(size: int, cell: int) -> int:
    """Cells of `cell` pixels that cover `size` pixels; of numbers above 0.

    Not -(-size // cell): an exported graph would divide the negative size towards zero.
    """
    return (size + cell - 1) // cell


def pad_to_multiple(
    image: Float[Tensor, "batch channels height width"], multiple: int, minimum: int
) -> Float[Tensor, "batch channels _ _"]:
    """Zero-pad right and bottom until both sides are multiples of `multiple` and at least `minimum` pixels.

    A picture that needs none comes back itself.
    """
    height, width = image.shape[-2:]
    # written without max() so that a symbolic size survives export
    padded_height = ceil_div(height, multiple) * multiple
    padded_width = ceil_div(width, multiple) * multiple
    if height < minimum:
        padded_height = ceil_div(minimum, multiple) * multiple
    if width < minimum:
        padded_width = ceil_div(minimum, multiple) * multiple
    if not torch.compiler.is_compiling() and (padded_height, padded_width) == (height, width):
        return image  # padding by nothing copies
    return functional.pad(image, (0, padded_width - width, 0, padded_height - height))


def expand_blocks(
    blocks: Bool[Tensor, "batch 1 rows columns"] | Float[Tensor, "batch 1 rows columns"],
    block: int,
    size: tuple[int, int],
) -> Bool[Tensor, "batch 1 _ _"] | Float[Tensor, "batch 1 _ _"]:
    """Repeat each value over its `block` x `block` cells, cut to `size` (height, width) where blocks stand over."""
    # by index, not by repeating and cutting: that would fix "nothing to cut" when a graph is exported
    rows = torch.arange(size[0], device=blocks.device) // block
    columns = torch.arange(size[1], device=blocks.device) // block
    return blocks[:, :, rows][:, :, :, columns]


def cell_labels(
    target: Int[Tensor, "batch height width"], grid: tuple[int, int], cell: int, ignore: int
) -> Int[Tensor, "batch rows columns"]:
    """The label at the centre of each cell of a grid; cells whose centre lies outside the picture get `ignore`."""
    height, width = target.shape[-2:]
    room = (0, max(grid[1] * cell - width, 0), 0, max(grid[0] * cell - height, 0))
    padded = functional.pad(target, room, value=ignore)
    return padded[:, cell // 2 : grid[0] * cell : cell, cell // 2 : grid[1] * cell : cell]


def cell_means(
    values: Float[Tensor, "batch height width"], counted: Bool[Tensor, "batch height width"], cell: int
) -> tuple[Float[Tensor, "batch 1 rows columns"], Bool[Tensor, "batch 1 rows columns"]]:
    """Mean of the counted pixels in each `cell` x `cell` pixels, 0 where there is none; and whether there is any."""
    room = (0, -values.shape[-1] % cell, 0, -values.shape[-2] % cell)

    def share(pixels: Tensor) -> Tensor:
        return functional.avg_pool2d(functional.pad(pixels[:, None], room), cell)

    counts = share(counted.float())
    return share(values * counted) / counts.clamp(min=1 / cell**2), counts > 0

"""Products between the pixels of regions and the few vectors of their representatives, laid out in blocks.

Every region has up to K *slots*, one a representative.  Three bilinear products are all that intra-region collection
and distribution (RANet, eqs 6 and 8) need; each one's gradients are the other two:

    match    dots[i, k]     = pixel_i . representative[region(i), k]
    spread   mixture[i]     = sum over k of weights[i, k] representative[region(i), k]
    collect  sums[q, k]     = sum over the pixels i of region q of weights[i, k] pixel_i

Pixels are taken in blocks of one region, as wide as regions of that size need (`WIDTHS`), so that a batched matrix
product does the work, cost follows the number of pixels, and no loop runs over regions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from segfocus.ops.regions.attention import full_precision

WIDTHS = (1, 4, 8, 16, 32, 64)
"""pixels of a block; a region takes the narrowest that holds it, or as many of the widest as it needs"""
_AT_ONCE = 1 << 21
"""most numbers of pixel vectors copied into blocks at once"""


@dataclass(frozen=True)
class _Bucket:
    """Blocks of one width.  A padded place reads its region's own last pixel or slot and writes to a spare row."""

    read: Tensor  # [blocks, width] pixel
    write: Tensor  # [blocks, width] pixel, or the number of pixels where padded
    slots: Tensor  # [blocks, slots] representative
    slots_write: Tensor  # [blocks, slots] representative, or the number of representatives where padded
    empty: Tensor  # [blocks, slots] whether the slot is padding


@dataclass(frozen=True)
class RegionBlocks:
    """Layout of one picture: its regions' pixels in blocks, its representatives in one list, by region and rank."""

    regions: Tensor
    """[pixels] region of each pixel"""
    pixels: Tensor
    """[representatives] pixel of each representative"""
    owners: Tensor
    """[representatives] region of each representative"""
    table: Tensor
    """[regions, count] place of each representative in that list; -1 where missing"""
    buckets: tuple[_Bucket, ...]

    @staticmethod
    def build(regions: Int[Tensor, " pixels"], representatives: Int[Tensor, "regions count"]) -> RegionBlocks:
        """Lay out a picture.

        Args:
            regions: region of each pixel, from 0.
            representatives: pixel indices, -1 where missing (`choose_representatives`).
        """
        regions = regions.long()
        device = regions.device
        present = representatives >= 0
        filled = present.sum(1)
        first = filled.cumsum(0) - filled
        ranks = torch.arange(representatives.shape[1], device=device)
        owners = torch.repeat_interleave(torch.arange(len(filled), device=device), filled)
        sizes = torch.bincount(regions, minlength=len(filled))
        starts = sizes.cumsum(0) - sizes
        order = regions.argsort(stable=True)
        buckets = []
        for narrower, width in zip((0, *WIDTHS), WIDTHS, strict=False):
            inside, most = sizes > narrower, len(ranks)
            if width != WIDTHS[-1]:
                inside, most = inside & (sizes <= width), min(most, width)
            members = inside.nonzero()[:, 0]
            if not len(members):
                continue
            blocks = (sizes[members] + width - 1) // width
            owner = torch.repeat_interleave(members, blocks)
            number = torch.arange(len(owner), device=device) - torch.repeat_interleave(
                blocks.cumsum(0) - blocks, blocks
            )
            place = number[:, None] * width + torch.arange(width, device=device)
            size = sizes[owner, None]
            read = order[starts[owner, None] + torch.minimum(place, size - 1)]
            slot = ranks[:most].expand(len(owner), -1)
            slots = first[owner, None] + torch.minimum(slot, filled[owner, None] - 1)
            empty = slot >= filled[owner, None]
            buckets.append(
                _Bucket(
                    read=read,
                    write=torch.where(place < size, read, len(regions)),
                    slots=slots,
                    slots_write=torch.where(empty, len(owners), slots),
                    empty=empty,
                )
            )
        table = torch.where(present, first[:, None] + ranks, -1)
        return RegionBlocks(regions, representatives[present], owners, table, tuple(buckets))

    @property
    def slots(self) -> int:
        """Most representatives a region may have (K)."""
        return self.table.shape[1]

    def parts(self, channels: int) -> Iterator[_Bucket]:
        """The blocks, a bounded number of pixel vectors at a time."""
        for bucket in self.buckets:
            blocks, width = bucket.read.shape
            step = max(1, _AT_ONCE // (width * max(1, channels)))
            for start in range(0, blocks, step):
                part = slice(start, start + step)
                yield _Bucket(
                    bucket.read[part],
                    bucket.write[part],
                    bucket.slots[part],
                    bucket.slots_write[part],
                    bucket.empty[part],
                )


def match(
    pixels: Float[Tensor, "pixels channels"],
    representatives: Float[Tensor, "representatives channels"],
    blocks: RegionBlocks,
) -> Float[Tensor, "pixels count"]:
    """Dot products of each pixel with the representatives of its region; 0 in missing slots."""
    return _Match.apply(pixels, representatives, blocks)


def spread(
    weights: Float[Tensor, "pixels count"],
    representatives: Float[Tensor, "representatives channels"],
    blocks: RegionBlocks,
) -> Float[Tensor, "pixels channels"]:
    """For each pixel the weighted sum of its region's representatives; weights of missing slots do not count."""
    return _Spread.apply(weights, representatives, blocks)


def collect(
    weights: Float[Tensor, "pixels count"], pixels: Float[Tensor, "pixels channels"], blocks: RegionBlocks
) -> Float[Tensor, "representatives channels"]:
    """For each representative the weighted sum of its region's pixels."""
    return _Collect.apply(weights, pixels, blocks)


class _Match(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, pixels: Tensor, representatives: Tensor, blocks: RegionBlocks) -> Tensor:
        context.save_for_backward(pixels, representatives)
        context.blocks = blocks
        result = pixels.new_zeros(len(pixels) + 1, blocks.slots)
        for part in blocks.parts(pixels.shape[1]):
            dots = torch.bmm(pixels[part.read], representatives[part.slots].transpose(1, 2))
            dots.masked_fill_(part.empty[:, None], 0)
            result[:, : dots.shape[2]][part.write.flatten()] = dots.flatten(0, 1)
        return result[:-1]

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        pixels, representatives = context.saved_tensors
        with full_precision(pixels):
            to_pixels = spread(gradients[0], representatives, context.blocks) if context.needs_input_grad[0] else None
            to_representatives = collect(gradients[0], pixels, context.blocks) if context.needs_input_grad[1] else None
        return to_pixels, to_representatives, None


class _Spread(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, weights: Tensor, representatives: Tensor, blocks: RegionBlocks) -> Tensor:
        context.save_for_backward(weights, representatives)
        context.blocks = blocks
        result = representatives.new_zeros(len(weights) + 1, representatives.shape[1])
        for part in blocks.parts(representatives.shape[1]):
            chosen = weights[part.read][..., : part.slots.shape[1]].masked_fill(part.empty[:, None], 0)
            result[part.write.flatten()] = torch.bmm(chosen, representatives[part.slots]).flatten(0, 1)
        return result[:-1]

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weights, representatives = context.saved_tensors
        with full_precision(weights):
            to_weights = match(gradients[0], representatives, context.blocks) if context.needs_input_grad[0] else None
            to_representatives = collect(weights, gradients[0], context.blocks) if context.needs_input_grad[1] else None
        return to_weights, to_representatives, None


class _Collect(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, weights: Tensor, pixels: Tensor, blocks: RegionBlocks) -> Tensor:
        context.save_for_backward(weights, pixels)
        context.blocks = blocks
        result = pixels.new_zeros(len(blocks.pixels) + 1, pixels.shape[1])
        for part in blocks.parts(pixels.shape[1]):
            padded = part.write == len(pixels)
            chosen = weights[part.read][..., : part.slots.shape[1]].masked_fill(padded[..., None], 0)
            sums = torch.bmm(chosen.transpose(1, 2), pixels[part.read])
            result.index_add_(0, part.slots_write.flatten(), sums.flatten(0, 1))
        return result[:-1]

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weights, pixels = context.saved_tensors
        with full_precision(pixels):
            to_weights = match(pixels, gradients[0], context.blocks) if context.needs_input_grad[0] else None
            to_pixels = spread(weights, gradients[0], context.blocks) if context.needs_input_grad[1] else None
        return to_weights, to_pixels, None

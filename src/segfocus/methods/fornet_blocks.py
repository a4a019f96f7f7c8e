"""The parts of FoR-Net: context, branches, decoders; see `segfocus.methods.fornet`.

Branches and the residual decoder's expensive part can compute on gathered blocks, for the same result there.
"""

from __future__ import annotations

from functools import reduce
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from segfocus.layers import ChannelLayerNorm, ConvNormAct
from segfocus.methods.fornet_selection import Selection
from segfocus.ops.blocks import add_blocks, gather_blocks, gather_taps
from segfocus.ops.resample import resize


class Context(nn.Module):
    """F + MLP(global average of F): what the whole picture is about, added at every cell."""

    def __init__(self, channels: int, reduction: int = 4):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1)
        self.excite = nn.Conv2d(channels // reduction, channels, 1)

    def forward(
        self, features: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        average = features.mean((2, 3), keepdim=True)
        return features + self.excite(functional.relu(self.squeeze(average)))


class Branch(nn.Module):
    """One receptive field: convolution, normalisation, ReLU."""

    def __init__(self, channels: int, kernel: int, dilation: int, norm: str):
        super().__init__()
        self.kernel, self.dilation = kernel, dilation
        self.reach = dilation * (kernel // 2)
        """cells that it sees on every side"""
        self.spatial = nn.Conv2d(channels, channels, kernel, padding=self.reach, dilation=dilation, bias=False)
        self.norm = ChannelLayerNorm(channels) if norm == "layer" else nn.BatchNorm2d(channels)

    def forward(
        self, context: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        return functional.relu(self.norm(self.spatial(context)), inplace=True)

    def on_blocks(self, gathered: Float[Tensor, "n channels side side"], halo: int) -> Tensor:
        """Its result in gathered blocks: [n, channels, side - 2 * halo, side - 2 * halo]; halo >= reach."""
        spare = halo - self.reach
        end = gathered.shape[-1] - spare
        window = gathered[:, :, spare:end, spare:end]
        found = functional.conv2d(window, self.spatial.weight, dilation=self.dilation)
        return functional.relu(self.norm(found), inplace=True)

    def on_cells(
        self, context: Float[Tensor, "batch channels rows columns"], selection: Selection
    ) -> Float[Tensor, "n channels 1 1"]:
        """Its result in single cells (blocks of one)."""
        taps = gather_taps(context, selection.chosen, self.kernel, self.dilation, selection.grid)
        kernels = self.spatial.weight.permute(2, 3, 1, 0).reshape(taps.shape[1], -1)
        return functional.relu(self.norm((taps @ kernels)[:, :, None, None]), inplace=True)


def dense_branches(
    features: Float[Tensor, "batch channels rows columns"],
    context: Float[Tensor, "batch channels rows columns"],
    branches: list[tuple[Branch, Selection]],
    mask_input: bool = False,
) -> Float[Tensor, "batch channels rows columns"]:
    """F plus the branches, computed everywhere; the mask on their output, or (released) on their input."""
    for branch, selection in branches:
        weight = selection.weight.to(context.dtype)
        features = features + (branch(context * weight) if mask_input else branch(context) * weight)
    return features


def sparse_branches(
    features: Float[Tensor, "batch channels rows columns"],
    context: Float[Tensor, "batch channels rows columns"],
    branches: list[tuple[Branch, Selection]],
) -> Float[Tensor, "batch channels rows columns"]:
    """F plus the branches (mask on the output), computed in the chosen blocks alone; equal to `dense_branches`."""
    # branches of one ratio share a selection, and what is gathered for it
    for selection in {id(selection): selection for _, selection in branches}.values():
        own = [branch for branch, used in branches if used is selection]
        if selection.block == 1:
            found = reduce(torch.add, [branch.on_cells(context, selection) for branch in own])
        else:
            halo = max(branch.reach for branch in own)
            gathered = gather_blocks(context, selection.chosen, selection.block, halo, selection.grid)
            found = reduce(torch.add, [branch.on_blocks(gathered, halo) for branch in own])
        features = add_blocks(features, selection.chosen, selection.weighted(found), selection.grid)
    return features


class ResidualDecoder(nn.Module):
    """Stride 8 -> 4 by 1x1 convolutions everywhere, plus a 3x3 residual inside the selected regions.

    The residual is as wide as `refine` says: where few regions pay for it, it may cost more than the rest.
    Gives the features that `classify` turns into logits.
    """

    sums_before_norm: ClassVar = {"join.0": ("coarse", "fine")}  # see `segfocus.inference.fold`

    def __init__(self, channels: int, fine_channels: int, hidden: int, outputs: int, refine: int):
        super().__init__()
        self.coarse = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fine = nn.Conv2d(fine_channels, hidden, 1, bias=False)
        self.join = nn.Sequential(nn.BatchNorm2d(hidden), nn.ReLU(inplace=True))
        self.refine = nn.Conv2d(hidden, refine, 3, padding=1, bias=False)
        self.refine_norm = ChannelLayerNorm(refine)
        self.refine_mix = nn.Conv2d(refine, hidden, 1, bias=False)
        self.classify = nn.Conv2d(hidden, outputs, 1)

    def joined(self, refined: Tensor, fine: Tensor, size: tuple[int, int]) -> Float[Tensor, "batch hidden _ _"]:
        """The cheap part, everywhere."""
        return self.join(resize(self.coarse(refined), size) + resize(self.fine(fine), size))

    def forward(self, refined: Tensor, fine: Tensor, selection: Selection | None, size: tuple[int, int]) -> Tensor:
        joined = self.joined(refined, fine, size)
        if selection is None:
            return joined
        residual = self._finish(self.refine(joined))
        return joined + residual * resize(selection.weight.to(joined.dtype), size, "nearest")

    def on_blocks(self, refined: Tensor, fine: Tensor, selection: Selection, size: tuple[int, int]) -> Tensor:
        """The same with the residual computed in the chosen blocks alone."""
        joined = self.joined(refined, fine, size)
        factor = size[0] // selection.mask.shape[-2]
        gathered = gather_blocks(joined, selection.chosen, factor * selection.block, 1, selection.grid)
        residual = self._finish(functional.conv2d(gathered, self.refine.weight))
        return add_blocks(joined, selection.chosen, selection.weighted(residual), selection.grid)

    def _finish(self, found: Tensor) -> Tensor:
        return self.refine_mix(functional.relu(self.refine_norm(found), inplace=True))


class ConcatDecoder(nn.Module):
    """The released decoder: stride 8 -> 4, beside a projection of the finest map, two 3x3 convolutions; always dense.

    Gives the features that `classify` turns into logits.
    """

    def __init__(self, channels: int, fine_channels: int, hidden: int, outputs: int):
        super().__init__()
        self.fine = ConvNormAct(fine_channels, 48, 1)
        self.mix = nn.Sequential(ConvNormAct(channels + 48, hidden, 3), ConvNormAct(hidden, hidden, 3))
        self.classify = nn.Conv2d(hidden, outputs, 1)

    def forward(self, refined: Tensor, fine: Tensor, selection: Selection | None, size: tuple[int, int]) -> Tensor:
        return self.mix(torch.cat([resize(refined, size), resize(self.fine(fine), size)], 1))

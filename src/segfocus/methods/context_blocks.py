"""Context blocks that pool or dilate, and what every context block is: features [batch, channels, h, w] -> [batch,
out_channels, h, w].

| name | from | what |
|---|---|---|
| none | Long, Shelhamer, Darrell 2015 (FCN) | no context: the features as they are |
| ppm | Zhao et al. 2017 (PSPNet) | means over 1, 4, 9 and 36 cells beside the features |
| aspp | Chen et al. 2017 (DeepLabv3) | dilated convolutions side by side (torchvision's module) |

Where these differ from the published heads:
* All begin from features of `channels` (512 there); the convolution that makes them from the backbone's 2048 belongs
  to the features (`Stride8Features`) and is one for all.
* Pooling is a matrix product (`adaptive_mean`): adaptive pooling exports to ONNX with the traced size fixed inside.
* BatchNorm of a pooled branch with one value a channel (one picture, one cell) takes its running statistics; there it
  fails.
* ASPP has no dropout of its own (0.5 there): the network around a block has one for all.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segfocus.layers import CellBatchNorm, ConvNormAct
from segfocus.ops.resample import resize

DILATIONS = (12, 24, 36)
"""of ASPP at stride 8"""


class ContextBlock(nn.Module, ABC):
    """Features -> features that know their surroundings, on the same grid."""

    out_channels: int

    @abstractmethod
    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch outputs height width"]: ...


class NoContext(ContextBlock):
    def __init__(self, channels: int):
        super().__init__()
        self.out_channels = channels

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        return features


def adaptive_mean(
    maps: Float[Tensor, "batch channels height width"], bins: int
) -> Float[Tensor, "batch channels bins bins"]:
    """Mean over each of `bins` x `bins` cells; cell i of n covers floor(i n / bins) to ceil((i + 1) n / bins).

    Equal to torch's adaptive_avg_pool2d, as two matrix products that hold at any size in an exported graph.
    """
    rows, columns = (_bin_weights(size, bins, maps) for size in (maps.shape[-2], maps.shape[-1]))
    return rows @ maps @ columns.T


def _bin_weights(size: int, bins: int, like: Tensor) -> Float[Tensor, "bins size"]:
    """Share of each of `size` cells in the mean of each bin."""
    cells, index = torch.arange(size, device=like.device), torch.arange(bins, device=like.device)[:, None]
    inside = (cells >= index * size // bins) & (cells < ((index + 1) * size + bins - 1) // bins)
    return inside.to(like.dtype) / inside.sum(1, keepdim=True).to(like.dtype)


class PyramidPooling(ContextBlock):
    """Means over bins of 1, 2, 3 and 6 a side, each to channels / 4 and enlarged, beside the features -> 3x3."""

    bins = (1, 2, 3, 6)

    def __init__(self, channels: int):
        super().__init__()
        part = channels // len(self.bins)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, part, 1, bias=False), CellBatchNorm(part), nn.ReLU(inplace=True))
            for _ in self.bins
        )
        self.fuse = ConvNormAct(channels + part * len(self.bins), channels, 3)
        self.out_channels = channels

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        size = (features.shape[-2], features.shape[-1])
        means = [
            resize(branch(adaptive_mean(features, bins)), size)
            for bins, branch in zip(self.bins, self.branches, strict=True)
        ]
        return self.fuse(torch.cat([features, *means], 1))


class AtrousPyramid(ContextBlock):
    """1x1, three dilated 3x3 and the mean of the picture, each channels / 2 -> 1x1 -> 3x3."""

    def __init__(self, channels: int):
        super().__init__()
        from torchvision.models.segmentation.deeplabv3 import ASPP

        self.out_channels = channels // 2
        self.pyramid = ASPP(channels, DILATIONS, self.out_channels)
        self.pyramid.convs[-1][2] = CellBatchNorm(self.out_channels)  # pyright: ignore[reportIndexIssue]
        self.pyramid.project[3] = nn.Identity()
        self.fuse = ConvNormAct(self.out_channels, self.out_channels, 3)

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch outputs height width"]:
        return self.fuse(self.pyramid(features))

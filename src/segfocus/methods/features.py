"""The map that context is exchanged on: a backbone's features at stride 8, cut to the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from segfocus.backbone import Backbone
from segfocus.layers import ConvNormAct
from segfocus.methods.base import check_choice, check_count
from segfocus.ops.resample import ceil_div, enlarge

STRIDE = 8
"""px of the picture a cell"""


class Stride8Features(nn.Module):
    """Picture -> features on a grid of 8 px, for RANet and the context blocks that it is compared with.

    Args:
        backbone: its deepest map should have stride 8 (`output_stride=8`); coarser maps are enlarged.
        channels: of the features, 512 in the papers.
        neck: "deepest": 3x3 convolution of the last map, as published; "sum": projections of every map of stride 8
            and coarser are summed first, for backbones that go down to stride 32.
        multi_grid: factors of the dilations in the blocks of a ResNet's last stage (as released by DANet: 1, 2, 4).

    Raises:
        ValueError: unknown neck, channels below 1, or `multi_grid` for a backbone without such blocks.
    """

    def __init__(
        self,
        backbone: Backbone,
        channels: int,
        neck: Literal["deepest", "sum"] = "deepest",
        multi_grid: Sequence[int] | None = None,
    ):
        super().__init__()
        check_choice("neck", neck, ("deepest", "sum"))
        check_count("channels", channels, "512, or 128")
        if multi_grid is not None:
            _dilate(backbone, multi_grid)
        self.backbone = backbone
        coarse = [index for index, stride in enumerate(backbone.strides) if stride >= STRIDE]
        self.taken = coarse if neck == "sum" and coarse else [len(backbone.strides) - 1]
        self.channels = channels
        self.auxiliary_index = max(len(backbone.strides) - 2, 0)
        self.project: nn.ModuleList | None = None
        inputs = backbone.channels[self.taken[-1]]
        if neck == "sum":
            self.project = nn.ModuleList(ConvNormAct(backbone.channels[i], channels, 1, act=False) for i in self.taken)
            inputs = channels
        self.reduce = ConvNormAct(inputs, channels, 3)

    @property
    def auxiliary_channels(self) -> int:
        """Channels of the auxiliary map: the last but one of the backbone (a ResNet's third stage)."""
        return self.backbone.channels[self.auxiliary_index]

    def forward(
        self, image: Float[Tensor, "batch colors height width"]
    ) -> tuple[Float[Tensor, "batch channels rows columns"], Float[Tensor, "batch auxiliary rows columns"]]:
        """(features, the backbone's last map but one), both of ceil(height / 8) x ceil(width / 8) cells."""
        height, width = image.shape[-2:]
        normalized = self.backbone.normalize(image)
        maps = self.backbone.maps(normalized)
        padded = (normalized.shape[-2] // STRIDE, normalized.shape[-1] // STRIDE)

        def at_stride_8(index: int, projected: Tensor) -> Tensor:
            return enlarge(projected, self.backbone.strides[index], STRIDE, padded)

        total = None
        for position, index in enumerate(self.taken):
            projected = maps[index] if self.project is None else self.project[position](maps[index])
            projected = at_stride_8(index, projected)
            total = projected if total is None else total + projected
        rows, columns = ceil_div(height, STRIDE), ceil_div(width, STRIDE)
        auxiliary = at_stride_8(self.auxiliary_index, maps[self.auxiliary_index])
        return self.reduce(total)[..., :rows, :columns], auxiliary[..., :rows, :columns]


def _dilate(backbone: Backbone, factors: Sequence[int]) -> None:
    """Multiply the dilations of the 3x3 convolutions in the blocks of a timm ResNet's last stage."""
    stage = getattr(getattr(backbone, "network", None), "layer4", None)
    blocks = list(stage.children()) if isinstance(stage, nn.Module) else []
    if len(blocks) != len(factors) or any(not isinstance(f, int) or f < 1 for f in factors):
        raise ValueError(
            f"multi_grid: expected one factor from 1 for each block of a ResNet's last stage ({len(blocks) or 'none'} "
            f"here), got {list(factors)}; try none"
        )
    # the stage's own dilation is its last block's: the first one has that of the stage before
    usual = max(m.dilation[0] for m in blocks[-1].modules() if isinstance(m, nn.Conv2d))
    for block, factor in zip(blocks, factors, strict=True):
        for convolution in block.modules():
            if isinstance(convolution, nn.Conv2d) and convolution.kernel_size == (3, 3):
                dilation = usual * factor
                convolution.dilation = (dilation, dilation)
                convolution.padding = (dilation, dilation)

"""Blocks that two or more methods share."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional


class CellBatchNorm(nn.BatchNorm2d):
    """BatchNorm that takes its running statistics where a batch has one value a channel: one picture of one cell."""

    def forward(
        self, input: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        if self.training and input[:, 0].numel() == 1:
            return functional.batch_norm(
                input, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(input)


class ConvNormAct(nn.Sequential):
    """Convolution (same padding) -> BatchNorm -> ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, dilation: int = 1, act: bool = True
    ):
        convolution = nn.Conv2d(
            inputs, outputs, kernel, stride, padding=dilation * (kernel // 2), dilation=dilation, bias=False
        )
        super().__init__(convolution, CellBatchNorm(outputs), *([nn.ReLU(inplace=True)] if act else []))


class ChannelLayerNorm(nn.LayerNorm):
    """LayerNorm over the channels of each position: what it gives at a position depends on that position alone."""

    def forward(
        self, input: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        moved = functional.layer_norm(
            input.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps
        )
        return moved.permute(0, 3, 1, 2)

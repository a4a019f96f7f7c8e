"""What ThreshNet's network is made of: two encoders, pyramid pooling, attention gates, a decoder for both branches.

Parts from: recurrent residual units of R2U-Net (Alom et al. 2018), basic blocks of ResNet (He et al. 2016), attention
gates of Attention U-Net (Oktay et al. 2018), pyramid pooling of PSPNet (Zhao et al. 2017).

Where this differs:
* A recurrent convolution keeps running statistics for each of its passes (`PassNorm`); its weights, scale and shift
  are one for all.  There: one set that each pass overwrites, and a network never put into evaluation mode.
* Pooling is a matrix product (`adaptive_mean`): adaptive pooling exports to ONNX with the traced size fixed inside.
* In evaluation a convolution and the BatchNorm behind it are computed as one convolution: a processor spends as long
  reading and writing a map of few channels as it spends on the sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from segfocus.methods.context_blocks import adaptive_mean
from segfocus.ops.resample import resize

LEVELS = 4
"""of the encoder, each of half the resolution of the one before"""
PASSES = 3
"""of a recurrent convolution"""


class PassNorm(nn.Module):
    """BatchNorm whose scale and shift serve every pass of a recurrent convolution, with statistics for each pass.

    The activations of y = f(x) and y = f(x + y) are distributed differently: one running mean for all passes would be
    right for none of them in evaluation.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, passes: int = PASSES, momentum: float = 0.1, eps: float = 1e-5):
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(passes, channels))
        self.register_buffer("running_var", torch.ones(passes, channels))

    def forward(
        self, maps: Float[Tensor, "batch channels height width"], index: int
    ) -> Float[Tensor, "batch channels height width"]:
        """`index`: the pass, from 0."""
        mean, variance = self.running_mean[index], self.running_var[index]
        return functional.batch_norm(
            maps, mean, variance, self.weight, self.bias, self.training, self.momentum, self.eps
        )


def normalised(
    maps: Float[Tensor, "batch inputs height width"],
    convolution: nn.Conv2d,
    norm: nn.BatchNorm2d | PassNorm,
    index: int | None = None,
    copies: int = 1,
) -> Float[Tensor, "batch outputs _ _"]:
    """`convolution`, then `norm` (pass `index` of a `PassNorm`); in evaluation one convolution does both.

    `copies`: how often a single output channel is repeated.
    """
    if norm.training or norm.running_mean is None or norm.running_var is None:
        maps = convolution(maps)
        maps = norm(maps) if index is None else norm(maps, index)
        return maps.repeat(1, copies, 1, 1) if copies > 1 else maps
    mean, variance = norm.running_mean, norm.running_var
    if index is not None:
        mean, variance = mean[index], variance[index]
    scale = norm.weight * (variance + norm.eps).rsqrt()
    shift = norm.bias - mean * scale if convolution.bias is None else norm.bias + (convolution.bias - mean) * scale
    weight = convolution.weight * scale[:, None, None, None]
    if copies > 1:
        weight, shift = weight.repeat(copies, 1, 1, 1), shift.repeat(copies)
    return functional.conv2d(maps, weight, shift, convolution.stride, convolution.padding)


def added(maps: Tensor, more: Tensor) -> Tensor:
    """maps + more, for `maps` that nobody else reads: written into them where no gradient needs them."""
    return maps + more if torch.is_grad_enabled() else maps.add_(more)


class NormalisedConv(nn.Sequential):
    """A convolution and its BatchNorm, and ReLU if there is a third part."""

    def forward(
        self, maps: Float[Tensor, "batch inputs height width"], copies: int = 1
    ) -> Float[Tensor, "batch outputs _ _"]:
        """`copies`: how often a single output channel is repeated."""
        convolution, norm, *rest = self
        assert isinstance(convolution, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        maps = normalised(maps, convolution, norm, copies=copies)
        return functional.relu_(maps) if rest else maps


class RecurrentConv(nn.Module):
    """One 3x3 convolution, BatchNorm and ReLU f, applied `PASSES` times: y = f(x), then y = f(x + y)."""

    def __init__(self, channels: int):
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = PassNorm(channels)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        y = functional.relu_(normalised(x, self.spatial, self.norm, 0))
        for index in range(1, PASSES):
            y = functional.relu_(normalised(added(y, x), self.spatial, self.norm, index))
        return y


class RecurrentResidualUnit(nn.Module):
    """1x1 convolution to `outputs` channels, two recurrent convolutions, and a shortcut around both."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.project = nn.Conv2d(inputs, outputs, 1)
        self.recurrent = nn.Sequential(RecurrentConv(outputs), RecurrentConv(outputs))

    def forward(self, maps: Float[Tensor, "batch inputs height width"]) -> Float[Tensor, "batch outputs height width"]:
        projected = self.project(maps)
        if self.channels_last:  # a convolution of one channel, which has no layout, may have lost it
            projected = projected.contiguous(memory_format=torch.channels_last)
        return added(self.recurrent(projected), projected)

    @property
    def channels_last(self) -> bool:
        """Whether the weights lie channels last in memory: other layouts of the maps would be copied every time."""
        weight = next(weight for weight in self.recurrent.parameters() if weight.ndim == 4)
        return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def convolution(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution with bias, BatchNorm, ReLU."""
    return NormalisedConv(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def double_convolution(inputs: int, outputs: int) -> nn.Sequential:
    """Twice 3x3 convolution, BatchNorm, ReLU: the decoders' unit beside the residual encoder."""
    return nn.Sequential(convolution(inputs, outputs), convolution(outputs, outputs))


def recurrent_stages(width: int) -> list[nn.Module]:
    """The released encoder: a recurrent residual unit a level, 2x2 maximum between the levels."""
    stages: list[nn.Module] = [RecurrentResidualUnit(1, width)]
    for level in range(1, LEVELS):
        unit = RecurrentResidualUnit(width << level - 1, width << level)
        stages.append(nn.Sequential(nn.MaxPool2d(2), unit))
    return stages


def residual_stages(width: int) -> list[nn.Module]:
    """The encoder of the paper's text: ResNet-34's 3, 4, 6 and 3 basic blocks, beginning at full resolution."""
    from torchvision.models.resnet import BasicBlock

    stages: list[nn.Module] = []
    for level, depth in enumerate((3, 4, 6, 3)):
        inputs, outputs, stride = width << max(level - 1, 0), width << level, 1 if level == 0 else 2
        # every second pixel, then a 1x1 convolution: one with a stride of 2 ends the process in oneDNN's backward pass
        # where 8 channels lie channels last (torch 2.15 on CPUs)
        shortcut = nn.Sequential(
            nn.MaxPool2d(1, stride), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        )
        blocks = [BasicBlock(inputs, outputs, stride, shortcut if stride > 1 else None)]
        blocks += [BasicBlock(outputs, outputs) for _ in range(depth - 1)]
        stages.append(nn.Sequential(convolution(1, width), *blocks) if level == 0 else nn.Sequential(*blocks))
    return stages


class Pyramid(nn.Module):
    """Means over 1, 4, 16 and 64 cells, each through a 1x1 convolution and enlarged, beside the features -> 1x1, ReLU.

    Neither bias nor BatchNorm before the last convolution; every branch keeps all channels.
    """

    bins = (1, 2, 4, 8)

    def __init__(self, channels: int):
        super().__init__()
        self.branches = nn.ModuleList(nn.Conv2d(channels, channels, 1, bias=False) for _ in self.bins)
        self.fuse = nn.Conv2d(channels * (1 + len(self.bins)), channels, 1)

    def forward(
        self, features: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        size = (features.shape[-2], features.shape[-1])
        means = [
            resize(branch(_mean(features, bins)), size, compare=not torch.compiler.is_compiling())
            for bins, branch in zip(self.bins, self.branches, strict=True)
        ]
        return functional.relu_(self.fuse(torch.cat([*means, features], 1)))


def _mean(features: Tensor, bins: int) -> Tensor:
    # a matrix product with one row cannot be traced for all sizes
    return features.mean((2, 3), keepdim=True) if bins == 1 else adaptive_mean(features, bins)


class AttentionGate(nn.Module):
    """skip * sigmoid(BN(W_s ReLU(BN(W_g guide) + BN(W_x skip)))): additive attention, one factor a pixel.

    The paper calls it self-attention, which it is not.
    """

    def __init__(self, channels: int):
        super().__init__()
        inner = channels // 2
        self.guide = NormalisedConv(nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner))
        self.skip = NormalisedConv(nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner))
        self.score = NormalisedConv(nn.Conv2d(inner, 1, 1), nn.BatchNorm2d(1))

    def forward(
        self, guide: Float[Tensor, "batch channels height width"], skip: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        evidence = functional.relu_(added(self.guide(guide), self.skip(skip)))
        if evidence.dtype == torch.bfloat16 and not self.training:
            # a processor multiplies by one factor a pixel three times slower than by one a number
            return self.score(evidence, copies=skip.shape[1]).sigmoid() * skip
        return skip * self.score(evidence).sigmoid()


class DecoderLevel(nn.Module):
    """Twice the resolution and half the channels: enlarge (nearest), 3x3, beside the gated skip, one unit."""

    def __init__(self, channels: int, unit: Callable[[int, int], nn.Module]):
        super().__init__()
        self.narrow = convolution(2 * channels, channels)
        self.gate = AttentionGate(channels)
        self.unit = unit(2 * channels, channels)

    def forward(
        self,
        deeper: Float[Tensor, "batch inputs rows columns"],
        skip: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, "batch channels height width"]:
        guide = self.narrow(resize(deeper, (skip.shape[-2], skip.shape[-1]), "nearest"))
        both = torch.cat([self.gate(guide, skip), guide], 1)
        del guide  # not held while the unit needs most
        return self.unit(both)


class Decoder(nn.Module):
    """Features of stride 8 and the encoder's skips -> one logit a pixel."""

    def __init__(self, width: int, unit: Callable[[int, int], nn.Module]):
        super().__init__()
        self.levels = nn.ModuleList(DecoderLevel(width << level, unit) for level in reversed(range(LEVELS - 1)))
        self.head = nn.Conv2d(width, 1, 3, padding=1)

    def forward(
        self,
        features: Float[Tensor, "batch channels rows columns"],
        skips: list[Tensor],
        run: Callable[..., Tensor],
    ) -> Float[Tensor, "batch 1 height width"]:
        """`skips`: finest first, without the deepest level; `run(module, *maps)` applies a level."""
        for level, skip in zip(self.levels, reversed(skips), strict=True):
            features = run(level, features, skip)
        return self.head(features)


def recomputed(module: nn.Module, *maps: Tensor) -> Tensor:
    """module(*maps), whose activations are not kept but computed again for the backward pass.

    BatchNorm's running statistics take part once, as without it.
    """

    def contexts() -> tuple[AbstractContextManager, AbstractContextManager]:
        return nullcontext(), _statistics_kept(module)

    result = checkpoint(module, *maps, use_reentrant=False, context_fn=contexts)
    assert isinstance(result, Tensor)
    return result


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """A momentum of 0: the pass saves the same tensors for its gradient and moves no running statistic."""
    norms = [part for part in module.modules() if isinstance(part, (nn.BatchNorm2d, PassNorm))]
    momenta = [norm.momentum for norm in norms]
    counters = [norm.num_batches_tracked for norm in norms if isinstance(norm, nn.BatchNorm2d)]
    counts = [(counter, counter.clone()) for counter in counters if counter is not None]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum  # pyright: ignore[reportAttributeAccessIssue]
        for count, before in counts:
            count.copy_(before)


def mirror_to(maps: Float[Tensor, "maps 1 height width"], size: tuple[int, int]) -> Float[Tensor, "maps 1 _ _"]:
    """Go on mirrored at the right and lower frame, as often as needed, up to `size` (rows, columns)."""
    for axis in (2, 3):
        side, wanted = maps.shape[axis], size[axis - 2]
        if torch.compiler.is_compiling() or wanted != side:
            index = torch.arange(wanted, device=maps.device)
            period = torch.full_like(index[:1], 2 * side)  # a tensor: ONNX divides by no size
            index = index % period
            maps = maps.index_select(axis, torch.minimum(index, period - 1 - index))
    return maps


def cut_to(maps: Float[Tensor, "maps 1 height width"], size: tuple[int, int]) -> Float[Tensor, "maps 1 _ _"]:
    """The upper left `size` (rows, columns) of the maps."""
    if torch.compiler.is_compiling():
        # by index: a slice that cuts nothing at the traced size would be fixed in the graph as cutting nothing
        rows, columns = (torch.arange(side, device=maps.device) for side in size)
        return maps.index_select(2, rows).index_select(3, columns)
    return maps[..., : size[0], : size[1]]

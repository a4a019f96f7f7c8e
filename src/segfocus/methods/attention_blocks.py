"""Context blocks that attend: features [batch, channels, h, w] -> [batch, out_channels, h, w].

| name | from | what |
|---|---|---|
| non_local | Wang et al. 2018 | every position attends to every position (timm's module) |
| asymmetric_non_local | Zhu et al. 2019 (APNB) | every position attends to 110 pooled positions |
| criss_cross | Huang et al. 2019 (CCNet) | attention along row and column, twice |
| dual | Fu et al. 2019 (DANet) | attention between positions plus attention between channels |
| psa | Zhao et al. 2018 (PSANet) | attention predicted from the displacement, collected and distributed |

Where these differ from the published heads:
* All begin from the same features of `channels` (512 there); DANet makes them twice, once a branch.
* Channel attention is softmax of A A^T as the paper writes it; the released code takes the lowest products for the
  highest.  No scale, as in paper and code; in float32 also under autocast, as sums over all positions overflow half.
* The asymmetric block keeps W_phi apart from W_theta as the paper writes it, and is APNB alone: AFNB fuses two stages.
* PSA's attention is divided by the number of positions, as its equations say, without softmax.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from segfocus.layers import ConvNormAct
from segfocus.methods.context_blocks import ContextBlock, adaptive_mean
from segfocus.ops.regions.attention import full_precision


class NonLocal(ContextBlock):
    """x + BN(W_z softmax(theta(x)^T phi(x) / sqrt(channels)) g(x)), embedded in channels / 2; starts as the identity.

    Holds a table of (h w)^2 values.
    """

    def __init__(self, channels: int):
        super().__init__()
        from timm.layers.non_local_attn import NonLocalAttn

        self.attention = NonLocalAttn(channels, rd_channels=channels // 2)
        self.out_channels = channels

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        return self.attention(features.contiguous())  # timm's module takes a view of its projections


class AsymmetricNonLocal(ContextBlock):
    """Queries of every position; keys and values are means over 1, 3, 6 and 8 bins a side: 110 in all.

    1x1 of (features, W_o softmax(theta(x)^T P(phi(x))) P(g(x))), embedded in channels / 2.
    """

    bins = (1, 3, 6, 8)

    def __init__(self, channels: int):
        super().__init__()
        inner = channels // 2
        self.query = ConvNormAct(channels, inner, 1)
        self.key = ConvNormAct(channels, inner, 1)
        self.value = nn.Conv2d(channels, inner, 1)
        self.expand = nn.Conv2d(inner, channels, 1)
        self.fuse = ConvNormAct(2 * channels, channels, 1)
        self.scale = inner**-0.5
        self.out_channels = channels

    def sampled(self, maps: Float[Tensor, "batch inner height width"]) -> Float[Tensor, "batch inner anchors"]:
        return torch.cat([adaptive_mean(maps, bins).flatten(2) for bins in self.bins], 2)

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        query = self.query(features)
        key, value = self.sampled(self.key(features)), self.sampled(self.value(features))
        weights = (query.flatten(2).mT @ key * self.scale).softmax(2)
        context = (value @ weights.mT).unflatten(2, (query.shape[-2], query.shape[-1]))
        return self.fuse(torch.cat([features, self.expand(context)], 1))


class CrissCrossAttention(nn.Module):
    """gamma * (sum over the position's row and column of softmax(q . k) v) + x; each of h + w - 1 positions once."""

    def __init__(self, channels: int):
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(()))

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        query, key, value = self.query(features), self.key(features), self.value(features)
        height = features.shape[-2]
        column = torch.einsum("bchw,bcgw->bhwg", query, key)
        row = torch.einsum("bchw,bchg->bhwg", query, key)
        position = torch.arange(height, device=features.device)
        itself = (position[:, None] == position)[:, None]  # is in its row already
        weights = torch.cat([column.masked_fill(itself, -torch.inf), row], 3).softmax(3).to(value.dtype)
        vertical = torch.einsum("bhwg,bcgw->bchw", weights[..., :height], value)
        horizontal = torch.einsum("bhwg,bchg->bchw", weights[..., height:], value)
        return self.gamma * (vertical + horizontal) + features


class CrissCross(ContextBlock):
    """Criss-cross attention twice with the same weights: every position reaches every other -> 3x3, fused by 3x3."""

    recurrences = 2

    def __init__(self, channels: int):
        super().__init__()
        self.attention = CrissCrossAttention(channels)
        self.mix = ConvNormAct(channels, channels, 3)
        self.fuse = ConvNormAct(2 * channels, channels, 3)
        self.out_channels = channels

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        context = features
        for _ in range(self.recurrences):
            context = self.attention(context)
        return self.fuse(torch.cat([features, self.mix(context)], 1))


class PositionAttention(nn.Module):
    """alpha * (softmax(q^T k) v) + x over all positions; holds a table of (h w)^2 values."""

    def __init__(self, channels: int):
        super().__init__()
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.alpha = nn.Parameter(torch.zeros(()))

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        weights = (self.query(features).flatten(2).mT @ self.key(features).flatten(2)).softmax(2)
        value = self.value(features).flatten(2)
        context = (value @ weights.mT.to(value.dtype)).unflatten(2, (features.shape[-2], features.shape[-1]))
        return self.alpha * context + features


class ChannelAttention(nn.Module):
    """beta * (softmax(A A^T) A) + A, A = the features as a channels x (h w) matrix; no projections."""

    def __init__(self) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(()))

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        with full_precision(features):
            flat = features.flatten(2).to(torch.promote_types(features.dtype, torch.float32))
            context = (flat @ flat.mT).softmax(2) @ flat
            context = context.unflatten(2, (features.shape[-2], features.shape[-1])).to(features.dtype)
        return self.beta * context + features


class DualAttention(ContextBlock):
    """Position and channel attention side by side, each followed by 3x3, summed."""

    def __init__(self, channels: int):
        super().__init__()
        self.positions = nn.Sequential(PositionAttention(channels), ConvNormAct(channels, channels, 3))
        self.channels = nn.Sequential(ChannelAttention(), ConvNormAct(channels, channels, 3))
        self.out_channels = channels

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        return self.positions(features) + self.channels(features)


class PointwiseAttention(nn.Module):
    """One branch of PSA: each position predicts a weight for every displacement, an "over-complete map".

    map_i[d] is what position i predicts for the displacement d (rows, columns) of less than `reach` each way.
    collect: z_i = 1/N sum_j map_i[j - i] x_j; distribute: z_i = 1/N sum_j map_j[i - j] x_j.  N = h w.
    """

    def __init__(self, channels: int, reach: tuple[int, int], distribute: bool):
        super().__init__()
        self.reach, self.distribute = reach, distribute
        self.reduce = ConvNormAct(channels, channels, 1)
        self.adapt = ConvNormAct(channels, channels, 1)
        self.predict = nn.Conv2d(channels, (2 * reach[0] - 1) * (2 * reach[1] - 1), 1)

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        reduced = self.reduce(features)
        # [other, predicting] position
        weights = self.cut(self.predict(self.adapt(reduced))).flatten(3, 4).flatten(1, 2)
        pixels = reduced.flatten(2)
        context = pixels @ (weights.mT if self.distribute else weights)
        size = (features.shape[-2], features.shape[-1])
        return context.unflatten(2, size) / (size[0] * size[1])

    def cut(
        self, maps: Float[Tensor, "batch displacements height width"]
    ) -> Float[Tensor, "batch height width height width"]:
        """What position (3rd, 4th index) predicts for position (1st, 2nd index); 0 beyond the reach."""
        batch, _, height, width = maps.shape
        down, right = self.reach
        rows, columns = (torch.arange(size, device=maps.device) for size in (height, width))
        row_distance, column_distance = rows[:, None] - rows, columns[:, None] - columns
        found = maps.unflatten(1, (2 * down - 1, 2 * right - 1))
        index = (row_distance + down - 1).clamp(0, 2 * down - 2)[None, :, None, :, None]
        found = found.gather(1, index.expand(batch, height, 2 * right - 1, height, width))
        index = (column_distance + right - 1).clamp(0, 2 * right - 2)[None, None, :, None, :]
        found = found.gather(2, index.expand(batch, height, width, height, width))
        if torch.compiler.is_compiling() or height > down or width > right:
            beyond = (row_distance.abs() >= down)[:, None, :, None] | (column_distance.abs() >= right)[None, :, None]
            found = found.masked_fill(beyond, 0.0)
        return found


class PointwiseSpatialAttention(ContextBlock):
    """PSA: collecting and distributing branch -> 1x1, beside the features -> 3x3.

    Args:
        channels: of features and output.
        map_size: rows and columns that a position's prediction can reach, in cells, itself counted.  On a map of at
            most this size every position reaches every other (a smaller map uses the middle of the over-complete
            one); on a larger map only those nearer than this.  Weights grow with (2 rows - 1)(2 columns - 1).
    """

    def __init__(self, channels: int, map_size: tuple[int, int]):
        super().__init__()
        self.collect = PointwiseAttention(channels, map_size, False)
        self.distribute = PointwiseAttention(channels, map_size, True)
        self.project = ConvNormAct(2 * channels, channels, 1)
        self.fuse = ConvNormAct(2 * channels, channels, 3)
        self.out_channels = channels

    def forward(
        self, features: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        context = self.project(torch.cat([self.collect(features), self.distribute(features)], 1))
        return self.fuse(torch.cat([features, context], 1))

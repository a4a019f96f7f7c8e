"""RANet's blocks: scores, exchange between regions, and `RegionContext`, which joins them to a map."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from segfocus.layers import CellBatchNorm, ConvNormAct
from segfocus.ops.regions import (
    RegionRules,
    attend,
    attention_from,
    choose_representatives,
    construct_regions,
    exchange,
)
from segfocus.ops.regions.attention import full_precision
from segfocus.output import probabilities


def without_values(tensor: Tensor) -> bool:
    """Whether a tensor has a shape alone (`segfocus describe`): there is one region then, and nothing to exchange."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)


class Scores(nn.Module):
    """Boundary and semantic scores of a map: what regions are made of.

    From the auxiliary map (released) a 3x3 convolution, BatchNorm and dropout come first.
    """

    def __init__(self, inputs: int, outputs: int, hidden: int | None, boundary_prior: float):
        super().__init__()
        self.reduce: nn.Module = nn.Identity()
        if hidden is not None:
            self.reduce = nn.Sequential(
                nn.Conv2d(inputs, hidden, 3, padding=1), CellBatchNorm(hidden), nn.Dropout2d(0.1)
            )
            inputs = hidden
        self.semantic = nn.Conv2d(inputs, outputs, 1)
        self.boundary = nn.Conv2d(inputs, 1, 1)
        assert self.boundary.bias is not None
        nn.init.constant_(self.boundary.bias, math.log(boundary_prior / (1 - boundary_prior)))

    def forward(
        self, maps: Float[Tensor, "batch channels rows columns"]
    ) -> tuple[Float[Tensor, "batch outputs rows columns"], Float[Tensor, "batch 1 rows columns"]]:
        """(semantic logits, boundary logits)."""
        reduced = self.reduce(maps)
        return self.semantic(reduced), self.boundary(reduced)


class RegionExchange(nn.Module):
    """Eqs 6 to 8; without weights, but for a learned attention scale."""

    def __init__(
        self, representatives: int, scale: float | Literal["sqrt", "learned"], channels: int, **switches: bool
    ):
        super().__init__()
        self.representatives, self.switches = representatives, switches
        self.scale: nn.Parameter | float
        if scale == "learned":
            self.scale = nn.Parameter(torch.tensor(channels**-0.5))
        else:
            self.scale = channels**-0.5 if scale == "sqrt" else float(scale)

    def forward(
        self,
        features: Float[Tensor, "batch channels rows columns"],
        scores: Float[Tensor, "batch rows columns"],
        regions: Int[Tensor, "batch rows columns"],
    ) -> Float[Tensor, "batch channels rows columns"]:
        if without_values(features):
            return scores[:, None] * features
        count, scale = self.representatives, self.scale
        return exchange(features, scores, regions, representatives=count, scale=scale, **self.switches)

    def attention(
        self,
        features: Float[Tensor, "channels rows columns"],
        scores: Float[Tensor, "rows columns"],
        regions: Int[Tensor, "rows columns"],
        row: int,
        column: int,
    ) -> Float[Tensor, "rows columns"]:
        """How much each cell's J A enters O at one cell, see `ops.regions.attention_from`."""
        count, scale = self.representatives, float(self.scale)
        return attention_from(
            features, scores, regions, row, column, representatives=count, scale=scale, **self.switches
        )


class ListLinear(nn.Sequential):
    """Linear, LayerNorm, leaky ReLU on a list of vectors."""

    def __init__(self, channels: int):
        super().__init__(nn.Linear(channels, channels), nn.LayerNorm(channels), nn.LeakyReLU(0.01))


class GlobalExchange(nn.Module):
    """The released exchange: representatives attend to all pixels, then to one another, then all pixels to them.

    J multiplies the keys only.
    """

    def __init__(self, representatives: int, scale: float, channels: int):
        super().__init__()
        self.representatives, self.scale = representatives, scale
        self.query, self.value = _leaky_convolution(channels), _leaky_convolution(channels)
        self.collected, self.interacted = ListLinear(channels), ListLinear(channels)
        self.distributed = _leaky_convolution(channels)

    def forward(
        self,
        features: Float[Tensor, "batch channels rows columns"],
        scores: Float[Tensor, "batch rows columns"],
        regions: Int[Tensor, "batch rows columns"],
    ) -> Float[Tensor, "batch channels rows columns"]:
        query, value = self.query(features), self.value(features)
        spread = torch.stack([self._exchange(*parts) for parts in zip(query, value, scores, regions, strict=True)])
        return self.distributed(spread.to(query.dtype))

    def _exchange(self, query: Tensor, value: Tensor, scores: Tensor, regions: Tensor) -> Tensor:
        queries, values = query.flatten(1).T.float(), value.flatten(1).T.float()
        weights = scores.flatten().float()
        if without_values(weights):
            chosen = torch.arange(min(self.representatives, len(weights)), device=weights.device)
        else:
            found = choose_representatives(weights.detach(), regions.flatten(), self.representatives)
            chosen = found[found >= 0].sort().values
        trust = weights[chosen, None]
        with full_precision(query):
            now = values[chosen]
            now = self.collected(now + attend(now, weights[:, None] * values, values, self.scale))
            now = self.interacted(now + attend(now, trust * now, now, self.scale))
            spread = queries + attend(queries, trust * now, now, self.scale)
        return spread.T.reshape(query.shape)


def _leaky_convolution(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels, channels, 3, padding=1, bias=False), CellBatchNorm(channels), nn.LeakyReLU(0.01)
    )


class Context(NamedTuple):
    """What `RegionContext` gives for a batch."""

    fused: Float[Tensor, "batch channels rows columns"]
    """A beside O, through a 3x3 convolution"""
    semantic_logits: Float[Tensor, "batch outputs rows columns"]
    boundary_logits: Float[Tensor, "batch 1 rows columns"]
    regions: Int[Tensor, "batch rows columns"]
    scores: Float[Tensor, "batch rows columns"]
    """J, in [0, 1]"""


class RegionContext(nn.Module):
    """The block: score convolutions, regions, exchange, fusion.

    Args:
        channels: of the features A.
        score_channels: of the map that scores come from; None: A itself.
        outputs: channels of the semantic scores.
        exchange: eqs 6 to 8, or another module of (features, scores, regions).
        rules: of the regions.
        boundary_prior: P(boundary) at the start.
        dropout: share of fused channels that training drops.
        backend: of the region construction, see `ops.regions.construct_regions`.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        exchange: nn.Module,
        rules: RegionRules,
        *,
        score_channels: int | None = None,
        boundary_prior: float = 0.02,
        dropout: float = 0.1,
        backend: str = "auto",
    ):
        super().__init__()
        hidden = None if score_channels is None else channels
        self.scores = Scores(score_channels or channels, outputs, hidden, boundary_prior)
        self.exchange, self.rules, self.backend = exchange, rules, backend
        self.fuse = nn.Sequential(ConvNormAct(2 * channels, channels, 3), nn.Dropout2d(dropout))

    def construct(self, semantic: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor]:
        """(regions, J) of semantic and boundary logits."""
        if without_values(semantic):
            return boundary.new_zeros(boundary[:, 0].shape, dtype=torch.long), boundary[:, 0].sigmoid()
        return construct_regions(boundary.float().sigmoid()[:, 0], probabilities(semantic), self.rules, self.backend)

    def forward(
        self,
        features: Float[Tensor, "batch channels rows columns"],
        score_map: Float[Tensor, "batch score_channels rows columns"] | None = None,
    ) -> Context:
        semantic, boundary = self.scores(features if score_map is None else score_map)
        regions, scores = self.construct(semantic, boundary)
        context = self.exchange(features, scores, regions)
        fused = self.fuse(torch.cat([features, context.to(features.dtype)], 1))
        return Context(fused, semantic, boundary, regions, scores)

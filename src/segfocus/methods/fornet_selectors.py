"""What tells FoR-Net which regions are hard.

A selector gives every cell of the stride-8 grid an importance in [0, 1].  `SELECTORS` names them:

| name | importance | learned from |
|---|---|---|
| boundary | S of the released model | nearness of a class boundary, pixels pooled to cells |
| error | the same head | 1 - probability of the true class, of the prediction without focus |
| loss | the same head | 1 - exp(-cross-entropy), of the prediction without focus |
| entropy | entropy of the prediction without focus, as a share of the largest | nothing |
| gradient | mean brightness step between neighbouring pixels, as a share of the picture's largest | nothing |
| random | chance | nothing |
| truth | nearness of a true class boundary: the ceiling of "boundary", for measurements alone | nothing |

Released is "boundary"; the others are the rivals that a claim about it must be held against.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from segfocus.data.classes import IGNORE
from segfocus.layers import ConvNormAct
from segfocus.ops.boundaries import soft_boundary_target
from segfocus.ops.resample import ceil_div, cell_means
from segfocus.ops.selection import random_scores
from segfocus.output import probabilities

CELL = 8
"""side of a grid cell in input pixels"""
_LUMINANCE = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Evidence:
    """What a selector may look at."""

    image: Float[Tensor, "batch colors height width"]
    """in [0, 1], not padded"""
    features: Float[Tensor, "batch channels rows columns"]
    """F, on the grid of the padded picture"""
    base_logits: Float[Tensor, "batch outputs rows columns"] | None
    """of the auxiliary head: the prediction without focus; None where the network has no such head"""
    truth: Int[Tensor, "batch height width"] | None = None
    """train ids, for the selector "truth" alone"""

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return self.features.shape[-2], self.features.shape[-1]


Target = tuple[Float[Tensor, "batch 1 rows columns"], Bool[Tensor, "batch 1 rows columns"]]
"""what a learned selector should say of each cell, in [0, 1], and which cells hold a labelled pixel"""


class Selector(nn.Module, ABC):
    """Importance of the cells of a grid."""

    reads_base: ClassVar[bool] = False
    """whether it needs the prediction without focus"""
    reads_truth: ClassVar[bool] = False
    """whether it needs labels: never the case in a network for use"""

    @abstractmethod
    def forward(self, evidence: Evidence) -> Float[Tensor, "batch 1 rows columns"]:
        """Importance in [0, 1]."""


class ScoreHead(nn.Module):
    """3x3 convolution, then one logit a cell."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.spatial = ConvNormAct(channels, hidden, 3)
        self.score = nn.Conv2d(hidden, 1, 1)

    def logits(self, features: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch 1 rows columns"]:
        """The logit of the importance, float32."""
        # float32 even under autocast: half precision makes ties, and ties make the selection arbitrary;
        # written as a product and a sum because autocast would lower the precision of a convolution
        hidden = self.spatial(features).float()
        assert self.score.bias is not None
        return (hidden * self.score.weight.float()).sum(1, keepdim=True) + self.score.bias.float()


class LearnedSelector(ScoreHead, Selector):
    """How hard the network will find a cell, learned from a target."""

    def forward(self, evidence: Evidence) -> Float[Tensor, "batch 1 rows columns"]:
        return self.logits(evidence.features).sigmoid()

    @abstractmethod
    def target(
        self,
        truth: Int[Tensor, "batch height width"],
        base_logits: Float[Tensor, "batch outputs rows columns"] | None,
    ) -> Target:
        """What it is trained to say; without gradient.

        Args:
            truth: train ids, 255 = ignore.
            base_logits: of the prediction without focus, on the cells that touch the picture.
        """


class BoundarySelector(LearnedSelector):
    """Where classes meet (the released model's choice)."""

    def target(
        self,
        truth: Int[Tensor, "batch height width"],
        base_logits: Float[Tensor, "batch outputs rows columns"] | None,
    ) -> Target:
        grid = (ceil_div(truth.shape[-2], CELL), ceil_div(truth.shape[-1], CELL))
        return soft_boundary_target(truth, grid, CELL)


class ErrorSelector(LearnedSelector):
    """Where the prediction without focus gives the truth little probability."""

    reads_base = True

    def target(
        self,
        truth: Int[Tensor, "batch height width"],
        base_logits: Float[Tensor, "batch outputs rows columns"] | None,
    ) -> Target:
        return cell_means(1 - true_probability(truth, base_logits), truth != IGNORE, CELL)


class LossSelector(LearnedSelector):
    """Where the prediction without focus has a high cross-entropy, squeezed into [0, 1)."""

    reads_base = True

    def target(
        self,
        truth: Int[Tensor, "batch height width"],
        base_logits: Float[Tensor, "batch outputs rows columns"] | None,
    ) -> Target:
        entropy = -true_probability(truth, base_logits).clamp(min=1e-6).log()
        mean, labelled = cell_means(entropy, truth != IGNORE, CELL)
        return 1 - (-mean).exp(), labelled


class EntropySelector(Selector):
    """Where the prediction without focus is undecided."""

    reads_base = True

    def forward(self, evidence: Evidence) -> Float[Tensor, "batch 1 rows columns"]:
        assert evidence.base_logits is not None
        found = probabilities(evidence.base_logits.detach())  # learns nothing, and teaches the auxiliary head nothing
        entropy = -(found * found.clamp(min=1e-9).log()).sum(1, keepdim=True)
        return (entropy / math.log(found.shape[1])).clamp(0, 1)


class GradientSelector(Selector):
    """Where the picture's brightness changes; knows nothing of classes."""

    def forward(self, evidence: Evidence) -> Float[Tensor, "batch 1 rows columns"]:
        image = evidence.image.detach().float()
        if image.shape[1] == len(_LUMINANCE):
            gray = (image * image.new_tensor(_LUMINANCE).view(1, -1, 1, 1)).sum(1, keepdim=True)
        else:
            gray = image.mean(1, keepdim=True)
        right = functional.pad(gray.diff(dim=-1).abs(), (0, 1))
        below = functional.pad(gray.diff(dim=-2).abs(), (0, 0, 0, 1))
        rows, columns = evidence.grid
        everywhere = torch.ones_like(gray[:, 0], dtype=torch.bool)
        steps = cell_means((right + below)[:, 0], everywhere, CELL)[0]
        steps = functional.pad(steps, (0, columns - steps.shape[-1], 0, rows - steps.shape[-2]))
        return steps / steps.amax((2, 3), keepdim=True).clamp(min=1e-6)


class RandomSelector(Selector):
    """Chance: every time another in training, the same ones otherwise."""

    def forward(self, evidence: Evidence) -> Float[Tensor, "batch 1 rows columns"]:
        return random_scores(evidence.features[:, :1].float(), self.training)


class TruthSelector(Selector):
    """Where classes truly meet."""

    reads_truth = True

    def forward(self, evidence: Evidence) -> Float[Tensor, "batch 1 rows columns"]:
        if evidence.truth is None:
            raise ValueError(
                "selector truth: expected labels, got none; try net(image, truth=target), or another selector"
            )
        return soft_boundary_target(evidence.truth, evidence.grid, CELL)[0]


SELECTORS: dict[str, type[Selector]] = {
    "boundary": BoundarySelector,
    "error": ErrorSelector,
    "loss": LossSelector,
    "entropy": EntropySelector,
    "gradient": GradientSelector,
    "random": RandomSelector,
    "truth": TruthSelector,
}
"""name (FoR-Net's option `selector`) -> class"""


def true_probability(
    truth: Int[Tensor, "batch height width"], base_logits: Float[Tensor, "batch outputs rows columns"] | None
) -> Float[Tensor, "batch height width"]:
    """Probability that the prediction without focus gives each pixel's true class, 1 where ignored; no gradient."""
    assert base_logits is not None
    found = probabilities(base_logits.detach())
    height, width = truth.shape[-2:]
    rows = torch.arange(height, device=truth.device) // CELL
    columns = torch.arange(width, device=truth.device) // CELL
    labelled = truth != IGNORE
    batch = torch.arange(truth.shape[0], device=truth.device)[:, None, None]
    true = found[batch, truth.masked_fill(~labelled, 0), rows[:, None], columns]
    return true.masked_fill(~labelled, 1.0)

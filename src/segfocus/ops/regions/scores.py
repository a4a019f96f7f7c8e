"""J, how much each pixel represents its region, with exact gradients (Shen et al. 2020, equation 5)."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from segfocus.ops.regions.backends import load_backend
from segfocus.ops.regions.rules import RegionRules


def representative_scores(
    boundary: Float[Tensor, "height width"],
    semantic: Float[Tensor, "classes height width"],
    regions: Int[Tensor, " pixels"],
    rules: RegionRules,
    backend: str = "torch",
) -> Float[Tensor, " pixels"]:
    """Mean affinity F_ij of each pixel to all pixels of its region, itself included, in [0, 1].

    Differentiable once with respect to both probabilities; the regions are constants.  Nothing is kept for the
    backward pass but the inputs.

    Args:
        boundary: P(boundary).
        semantic: class probabilities.
        regions: consecutive ids from 0.
        rules: how affinity is measured.
        backend: a name that `choose_backend` returns.
    """
    return _RepresentativeScores.apply(boundary, semantic, regions, rules, backend)


class _RepresentativeScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, boundary: Tensor, semantic: Tensor, regions: Tensor, rules: RegionRules, backend: str
    ) -> Tensor:
        ctx.save_for_backward(boundary, semantic, regions)
        ctx.rules, ctx.backend = rules, backend
        return load_backend(backend).scores_forward(boundary, semantic, regions, rules)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_boundary, of_semantic = load_backend(ctx.backend).scores_backward(
            gradients[0].contiguous(), *ctx.saved_tensors, ctx.rules
        )
        return of_boundary, of_semantic, None, None, None

"""Exact softmax attention that never holds the whole table of weights, with pairs of one group left out."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 1 << 21
"""weights held at once by default: 8 MB in float32"""


def full_precision(tensor: Tensor) -> AbstractContextManager[object]:
    """A context without autocast on the tensor's device; backward passes may run inside a caller's autocast."""
    if tensor.is_meta:  # which has no autocast
        return nullcontext()
    return torch.autocast(tensor.device.type, enabled=False)


def attend(
    queries: Float[Tensor, "queries channels"],
    keys: Float[Tensor, "keys channels"],
    values: Float[Tensor, "keys channels"],
    scale: float | Float[Tensor, ""] = 1.0,
    groups: tuple[Int[Tensor, " queries"], Int[Tensor, " keys"]] | None = None,
    block: int = BLOCK,
) -> Float[Tensor, "queries channels"]:
    """softmax(scale * queries keysᵀ) values, computed by rows of queries and again in the backward pass.

    Fused attention of PyTorch stops at 256 channels and takes no such mask without writing it out; here memory grows
    with `queries + keys`, not with their product.

    Args:
        queries, keys, values: vectors of M channels; float32 or float64.
        scale: factor of the dot products; a tensor of no dimensions gets a gradient.
        groups: group of each query and of each key; a query does not see the keys of its own group.
        block: most weights held at once; at least one row of them is.

    Returns:
        One vector a query; 0 for a query that sees no key.  Differentiable once.

    Raises:
        ValueError: a block below 1.
    """
    if block < 1:
        raise ValueError(f"block: expected at least 1 weight at once, got {block}; try {BLOCK}")
    with full_precision(queries):
        if isinstance(scale, Tensor) or scale != 1.0:
            queries = queries * scale
        query_groups, key_groups = groups or (None, None)
        return _Attention.apply(queries, keys, values, query_groups, key_groups, max(1, block // max(1, len(keys))))


def _logits(queries: Tensor, keys: Tensor, query_groups: Tensor | None, key_groups: Tensor | None) -> Tensor:
    logits = queries @ keys.T
    if query_groups is not None and key_groups is not None:
        logits.masked_fill_(query_groups[:, None] == key_groups[None], -torch.inf)
    return logits


class _Attention(torch.autograd.Function):
    """Rows of queries at a time; only the logarithm of each row's normaliser is kept for the backward pass."""

    @staticmethod
    def forward(
        context: Any,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        query_groups: Tensor | None,
        key_groups: Tensor | None,
        rows: int,
    ) -> Tensor:
        result = torch.zeros_like(queries)
        # a row that sees nothing keeps +inf: exp(-inf - inf) is 0, in both passes
        normaliser = queries.new_full((len(queries),), torch.inf)
        for start in range(0, len(queries) if len(keys) else 0, rows):
            part = slice(start, start + rows)
            logits = _logits(queries[part], keys, None if query_groups is None else query_groups[part], key_groups)
            total = logits.logsumexp(1)
            total.masked_fill_(total == -torch.inf, torch.inf)
            normaliser[part] = total
            weights = logits.sub_(total[:, None]).exp_()
            torch.mm(weights, values, out=result[part])
        context.save_for_backward(queries, keys, values, query_groups, key_groups, result, normaliser)
        context.rows = rows
        return result

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        queries, keys, values, query_groups, key_groups, result, normaliser = context.saved_tensors
        gradient = gradients[0].contiguous()
        to_queries, to_keys, to_values = (torch.zeros_like(tensor) for tensor in (queries, keys, values))
        with full_precision(queries):
            along = (gradient * result).sum(1, keepdim=True)
            for start in range(0, len(queries) if len(keys) else 0, context.rows):
                part = slice(start, start + context.rows)
                logits = _logits(queries[part], keys, None if query_groups is None else query_groups[part], key_groups)
                weights = logits.sub_(normaliser[part, None]).exp_()
                to_values.addmm_(weights.T, gradient[part])
                to_logits = (gradient[part] @ values.T).sub_(along[part]).mul_(weights)
                torch.mm(to_logits, keys, out=to_queries[part])
                to_keys.addmm_(to_logits.T, queries[part])
        return to_queries, to_keys, to_values, None, None, None

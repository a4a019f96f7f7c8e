"""Output: what every method returns and everything downstream reads."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

import torch
import torch.utils._pytree
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Output:
    """A method's result for a batch of pictures.

    Two classes of which the first is background are a binary task: `logits` then has ONE channel (the
    second class against the first), trained with binary cross-entropy and cut at 0.5.
    With three or more classes the channels are classes, and softmax applies.
    """

    logits: Float[Tensor, "batch channels height width"]
    """at the input's resolution, always present"""
    importance: Float[Tensor, "batch 1 importance_height importance_width"] | None = None
    """how hard a region is expected to be, in [0, 1], on the method's own grid"""
    selected: Bool[Tensor, "batch 1 importance_height importance_width"] | None = None
    """regions that were refined, on the same grid as `importance`"""
    boundary_logits: Float[Tensor, "batch 1 boundary_height boundary_width"] | None = None
    """logit of a cell lying on a class boundary"""
    offsets: Float[Tensor, "batch 2 offset_height offset_width"] | None = None
    """(x, y) offset to the seed pixel, in input pixels"""
    confidence: Float[Tensor, "batch 1 offset_height offset_width"] | None = None
    """trust in the seed pixel's prediction, in [0, 1]"""
    regions: Int[Tensor, "batch region_height region_width"] | None = None
    """region number of each cell, from 0 up in each picture"""
    representatives: Bool[Tensor, "batch region_height region_width"] | None = None
    """cells that speak for their region, on the grid of `regions`"""
    aux_logits: dict[str, Float[Tensor, "batch _ _ _"]] = field(default_factory=dict)
    """further predictions with a loss or a score of their own, at their native stride, by name; "initial" (before
    anything was borrowed, on the grid of `offsets`) and "coarse" (before context came in, on that of `regions`) are
    what the final prediction is compared with"""

    def probabilities(self) -> Float[Tensor, "batch classes height width"]:
        """Class probabilities in [0, 1] that sum to 1 over classes, float32; a binary task gives two classes."""
        return probabilities(self.logits)

    def labels(self) -> Int[Tensor, "batch height width"]:
        """Train ids, long: the most probable class (binary: foreground where its probability exceeds 0.5)."""
        if self.logits.shape[1] == 1:
            return (self.logits[:, 0] > 0).long()
        return self.logits.max(1).indices  # the first of equals, as argmax; several times faster on a CPU


def probabilities(logits: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch classes height width"]:
    """Sigmoid (one channel: background and foreground) or softmax (three and more), in float32."""
    logits = logits.float()
    if logits.shape[1] == 1:
        return torch.cat([(-logits).sigmoid(), logits.sigmoid()], 1)
    return logits.softmax(1)


def logit_channels(num_classes: int) -> int:
    """Channels of `logits` for a task of so many classes: 1 for two classes, else one a class."""
    if num_classes < 2:
        raise ValueError(f"expected at least two classes, got {num_classes}; name the background as a class")
    return 1 if num_classes == 2 else num_classes


def _flatten(output: Output) -> tuple[list, tuple]:
    names = [item.name for item in fields(output) if getattr(output, item.name) is not None]
    return [getattr(output, name) for name in names], tuple(names)


def _unflatten(values, names: tuple) -> Output:
    return Output(**dict(zip(names, values, strict=True)))


def _flatten_with_keys(output: Output) -> tuple[list[tuple[Any, Any]], tuple]:
    values, names = _flatten(output)
    keys = [torch.utils._pytree.GetAttrKey(name) for name in names]
    return list(zip(keys, values, strict=True)), names


torch.utils._pytree.register_pytree_node(
    Output,
    _flatten,
    _unflatten,
    serialized_type_name="segfocus.output.Output",
    to_dumpable_context=list,
    from_dumpable_context=tuple,
    flatten_with_keys_fn=_flatten_with_keys,
)

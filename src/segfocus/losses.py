"""Losses as functions.  Each takes logits (one channel: binary task, else one channel a class), train ids and
`ignore_index`; a batch without any labelled pixel gives an exact zero that still has a gradient."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from segfocus.data.classes import IGNORE


def pixel_cross_entropy(
    logits: Float[Tensor, "batch channels height width"],
    target: Int[Tensor, "batch height width"],
    ignore_index: int = IGNORE,
    class_weights: Float[Tensor, " classes"] | None = None,
) -> tuple[Float[Tensor, "batch height width"], Float[Tensor, "batch height width"]]:
    """Cross-entropy of each pixel in nats, times its class weight, and that weight; both 0 where ignored."""
    labelled = target != ignore_index
    safe = target.masked_fill(~labelled, 0)
    logits = logits.float()
    if logits.shape[1] == 1:
        entropy = functional.binary_cross_entropy_with_logits(logits[:, 0], safe.to(logits.dtype), reduction="none")
    else:
        entropy = functional.cross_entropy(logits, safe, reduction="none")
    weight = labelled.to(logits.dtype)
    if class_weights is not None:
        weight = weight * class_weights.to(logits)[safe]
    return entropy * weight, weight


def cross_entropy(
    logits: Float[Tensor, "batch channels height width"],
    target: Int[Tensor, "batch height width"],
    ignore_index: int = IGNORE,
    class_weights: Float[Tensor, " classes"] | None = None,
) -> Float[Tensor, ""]:
    """Weighted mean cross-entropy of the labelled pixels, in nats (binary cross-entropy for one channel)."""
    if logits.shape[1] > 1:
        # the fused kernel needs a third of the memory of a loss a pixel; the divisor of an all-ignored batch is not 0
        labelled = target != ignore_index
        weights = None if class_weights is None else class_weights.to(logits.device).float()
        total = functional.cross_entropy(logits.float(), target, weights, ignore_index=ignore_index, reduction="sum")
        share = labelled.sum() if weights is None else weights[target[labelled]].sum()
        return total / share.clamp(min=1e-6)
    entropy, weight = pixel_cross_entropy(logits, target, ignore_index, class_weights)
    return entropy.sum() / weight.sum().clamp(min=1e-6)


def ohem_cross_entropy(
    logits: Float[Tensor, "batch channels height width"],
    target: Int[Tensor, "batch height width"],
    ignore_index: int = IGNORE,
    class_weights: Float[Tensor, " classes"] | None = None,
    *,
    threshold: float = 0.7,
    min_kept: float = 1 / 16,
) -> Float[Tensor, ""]:
    """Online hard example mining: mean cross-entropy of the hard pixels.

    Hard are pixels whose true class has a probability of at most `threshold`; when fewer than the share
    `min_kept` of the batch's labelled pixels are hard, the share with the highest cross-entropy is taken.
    """
    entropy, weight = pixel_cross_entropy(logits, target, ignore_index)
    labelled = weight > 0
    count = int(labelled.sum())
    if count == 0:
        return entropy.sum()
    values = entropy[labelled]
    hardest = values.detach().topk(max(1, round(min_kept * count))).values[-1]
    bound = hardest.clamp(max=-_log(threshold))
    kept = values.detach() >= bound
    if class_weights is None:
        return values[kept].mean()
    scale = class_weights.to(values)[target[labelled]][kept]
    return (values[kept] * scale).sum() / scale.sum().clamp(min=1e-6)


def _log(probability: float) -> float:
    from math import log

    if not 0.0 < probability <= 1.0:
        raise ValueError(f"threshold: expected a probability in (0, 1], got {probability}")
    return log(probability)


def soft_dice(
    logits: Float[Tensor, "batch channels height width"],
    target: Int[Tensor, "batch height width"],
    ignore_index: int = IGNORE,
    smoothing: float = 1.0,
) -> Float[Tensor, ""]:
    """1 - Dice of probabilities and truth, over the batch's labelled pixels, averaged over the classes present.

    Binary tasks (one channel) score the foreground only.  Dice = (2 * overlap + s) / (sizes + s), s = `smoothing`.
    """
    labelled = (target != ignore_index).flatten()
    safe = target.masked_fill(target == ignore_index, 0).flatten()
    if logits.shape[1] == 1:
        shares = logits.float().sigmoid().flatten()[:, None]
        truth = (safe == 1).to(shares.dtype)[:, None]
    else:
        shares = logits.float().softmax(1).permute(0, 2, 3, 1).flatten(0, 2)
        truth = functional.one_hot(safe, logits.shape[1]).to(shares.dtype)
    keep = labelled.to(shares.dtype)[:, None]
    shares, truth = shares * keep, truth * keep
    overlap, sizes = (shares * truth).sum(0), shares.sum(0) + truth.sum(0)
    loss = 1 - (2 * overlap + smoothing) / (sizes + smoothing)
    present = (truth.sum(0) > 0).to(loss.dtype)
    return (loss * present).sum() / present.sum().clamp(min=1)


def boundary_cross_entropy(
    logits: Float[Tensor, "batch 1 rows columns"],
    target: Float[Tensor, "batch 1 rows columns"],
    valid: Bool[Tensor, "batch 1 rows columns"],
) -> Float[Tensor, ""]:
    """Mean binary cross-entropy to a soft target in [0, 1] over the valid cells, in nats."""
    entropy = functional.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    weight = valid.to(entropy.dtype)
    return (entropy * weight).sum() / weight.sum().clamp(min=1)

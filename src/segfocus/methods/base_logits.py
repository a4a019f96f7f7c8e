"""What refiners of another network's maps begin from: its probabilities as logits, and back."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from segfocus.errors import SegfocusError

LEAST = 1e-6
"""probabilities become logits in [1e-6, 1 - 1e-6]"""
STEPS = 20
"""thresholds of patches are k / 20 (`segfocus.ops.patches`)"""


def base_logits(
    probabilities: Float[Tensor, "batch classes height width"], num_classes: int
) -> Float[Tensor, "batch channels height width"]:
    """The base's prediction as `Output.logits`, float32 at least.

    Args:
        probabilities: in [0, 1], one channel a class; of two classes only the second is read.

    Returns:
        One channel, the logit of the foreground, for two classes; else log-probabilities.

    Raises:
        SegfocusError: another number of channels.
    """
    if probabilities.shape[1] != num_classes:
        raise SegfocusError(
            f"probabilities: expected {num_classes} channels, one a class, got {probabilities.shape[1]}; "
            + (
                "try cat([1 - p, p], 1) for a map p of the foreground"
                if num_classes == 2
                else "try maps of all classes"
            )
        )
    exact = probabilities.to(torch.promote_types(probabilities.dtype, torch.float32))
    return exact[:, 1:].clamp(LEAST, 1 - LEAST).logit() if num_classes == 2 else exact.clamp(min=LEAST).log()


def base_probabilities(
    logits: Float[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """The inverse of `base_logits`, channel by channel; within 2e-6, and exactly k / 20 next to it.

    Strict thresholds would tell 0.2 of an 8-bit map from what 0.2 becomes on its way through the logarithm.
    """
    recovered = logits.sigmoid() if logits.shape[1] == 1 else logits.exp()
    steps = (recovered * STEPS).round() / STEPS
    return torch.where((recovered - steps).abs() <= 2 * LEAST, steps, recovered)

"""Refiners that change the base's probabilities pixel by pixel, all in the same way: what ThreshNet has to beat.

| here | what | numbers |
|---|---|---|
| `Fixed` | the base as it is: foreground where p > 0.5, of three classes and more the most probable | none |
| `GlobalThreshold` | foreground where p > t, with the t of best IoU; of more classes a bias each | 1, or C |
| `Temperature` | softmax(z / T) (Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2) | 1 |
| `Platt` | sigmoid(a z + b) (Platt, "Probabilistic Outputs for Support Vector Machines", 1999) | 2 |
| | of three classes and more vector scaling, softmax(a_c z_c + b_c) (Guo et al., section 4.2) | 2 C |

z: the base's logits, `segfocus.methods.base_logits.base_logits`.  Temperature and Platt are found by maximum likelihood
over the labelled pixels (the negative log-likelihood is convex in 1 / T, and in a and b): Newton's method, on the CPU
in float64.  Of pictures with more than two million numbers (pixels x classes) an even sample of the pixels is taken,
always the same.

Where this differs: the likelihood has a normal prior (deviation 1) around "nothing changes", which weighs as much as
about one pixel and keeps the numbers finite where the base makes no mistake (Platt softens the truth for that).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, UInt8
from torch import Tensor

from segfocus.methods.base import Pairs, check_count
from segfocus.methods.base_logits import LEAST
from segfocus.methods.counted import CountedRefiner, checked_pairs, sample_pixels
from segfocus.ops.patch_classes import best_class_bias
from segfocus.ops.patches import best_single_threshold

_COLDEST = 0.01
"""1 / T is at least this: a base that is wrong more often than not would ask for a negative one"""
_ROUNDS = 100
_ENOUGH = 1e-9


class Fixed(CountedRefiner):
    """The base's probabilities as they are."""

    fitting = "none"

    def refined_logits(
        self, logits: Float[Tensor, "batch channels height width"], probabilities: Tensor, image: Tensor | None
    ) -> Float[Tensor, "batch channels height width"]:
        return logits


class GlobalThreshold(CountedRefiner):
    """One threshold for the whole data set; of three classes and more one bias each.

    The threshold t becomes 0.5: logit(p) - logit(t) is the new logit, so it is exact that p = t is background.  Biases
    are added to log p, as in `segfocus.ops.patch_classes`, whose search leaves most right pixels, not the best IoU.

    Args:
        num_classes: two or more.
        steps: thresholds 1 / steps, 2 / steps, ..., 1 are tried (two classes), 2 to 100.

    Raises:
        ValueError: steps outside that range.
    """

    threshold: Tensor
    bias: Tensor

    def __init__(self, num_classes: int = 2, *, steps: int = 100):
        super().__init__(num_classes)
        check_count("steps", steps, 100)
        if not 2 <= steps <= 100:
            raise ValueError(f"steps: expected 2 to 100, got {steps}; try 100, or 20 as ThreshNet has")
        self.steps = steps
        if num_classes == 2:
            self.register_buffer("threshold", torch.tensor(0.5))
        else:
            self.register_buffer("bias", torch.zeros(num_classes))

    def refined_logits(
        self, logits: Float[Tensor, "batch channels height width"], probabilities: Tensor, image: Tensor | None
    ) -> Float[Tensor, "batch channels height width"]:
        if self.num_classes > 2:
            return logits + self.bias[:, None, None]
        shifted = logits - self.threshold.clamp(LEAST, 1 - LEAST).logit()
        # whatever the logarithm rounds, a pixel stays on its side of the threshold
        return torch.where(probabilities[:, 1:] > self.threshold, shifted.clamp(min=LEAST), shifted.clamp(max=0))

    def fit(self, pairs: Pairs) -> None:
        """The threshold of best pooled IoU (of equal ones the nearest to 0.5), or the biases of most right pixels.

        Raises:
            SegfocusError: maps, truths or classes that do not fit one another, or no labelled pixel.
        """
        if self.num_classes == 2:
            foreground = ((maps[1], truth) for maps, truth, _ in checked_pairs(pairs, 2))
            steps = tuple(step / self.steps for step in range(1, self.steps + 1))
            self.threshold.fill_(best_single_threshold(foreground, thresholds=steps, ties="middle"))
            return
        maps, truth = sample_pixels(pairs, self.num_classes)
        bias = best_class_bias(maps[:, None], truth[None], max(truth.size, 1))
        self.bias.copy_(torch.from_numpy(bias[:, 0, 0]))


class Temperature(CountedRefiner):
    """z / T: probabilities become less sure (T > 1) or surer (T < 1), labels stay as they are.

    T is found in (0, 100].
    """

    temperature: Tensor

    def __init__(self, num_classes: int = 2):
        super().__init__(num_classes)
        self.register_buffer("temperature", torch.tensor(1.0))

    def refined_logits(
        self, logits: Float[Tensor, "batch channels height width"], probabilities: Tensor, image: Tensor | None
    ) -> Float[Tensor, "batch channels height width"]:
        return logits / self.temperature

    def fit(self, pairs: Pairs) -> None:
        """The most likely T.

        Raises:
            SegfocusError: maps, truths or classes that do not fit one another, or no labelled pixel.
        """
        logits, truth = _sampled_logits(pairs, self.num_classes)
        together = np.zeros((1, 2 * self.num_classes))
        together[0, : self.num_classes] = 1
        scale = most_likely(logits, truth, together)[0]
        self.temperature.fill_(1 / max(scale, _COLDEST))


class Platt(CountedRefiner):
    """a z + b; of three classes and more each class has its own a and b."""

    scale: Tensor
    shift: Tensor

    def __init__(self, num_classes: int = 2):
        super().__init__(num_classes)
        channels = 1 if num_classes == 2 else num_classes
        self.register_buffer("scale", torch.ones(channels))
        self.register_buffer("shift", torch.zeros(channels))

    def refined_logits(
        self, logits: Float[Tensor, "batch channels height width"], probabilities: Tensor, image: Tensor | None
    ) -> Float[Tensor, "batch channels height width"]:
        return logits * self.scale[:, None, None] + self.shift[:, None, None]

    def fit(self, pairs: Pairs) -> None:
        """The most likely scales and shifts.

        Raises:
            SegfocusError: maps, truths or classes that do not fit one another, or no labelled pixel.
        """
        logits, truth = _sampled_logits(pairs, self.num_classes)
        free = np.eye(2 * self.num_classes)
        if self.num_classes == 2:  # the background's logit is 0, and stays so
            free = free[[1, 3]]
        found = most_likely(logits, truth, free)
        scale, shift = found.reshape(2, -1)
        self.scale.copy_(torch.from_numpy(scale).float())
        self.shift.copy_(torch.from_numpy(shift).float())


def _sampled_logits(
    pairs: Pairs, num_classes: int
) -> tuple[Float64[np.ndarray, "pixels classes"], UInt8[np.ndarray, " pixels"]]:
    """The base's logits, one a class (of two classes 0 and the foreground's), and train ids of sampled pixels."""
    maps, truth = sample_pixels(pairs, num_classes)
    exact = maps.T.astype(np.float64)
    if num_classes > 2:
        return np.log(exact.clip(LEAST)), truth
    foreground = exact[:, 1].clip(LEAST, 1 - LEAST)
    return np.stack([np.zeros_like(foreground), np.log(foreground / (1 - foreground))], 1), truth


def most_likely(
    logits: Float64[np.ndarray, "pixels classes"],
    truth: UInt8[np.ndarray, " pixels"],
    free: Float64[np.ndarray, "numbers twice_classes"],
) -> Float64[np.ndarray, " numbers"]:
    """The numbers theta that minimise sum -log softmax(a z + b)[truth] + |theta - start|^2 / 2, by Newton's method.

    Args:
        logits: z.
        truth: train ids, no 255.
        free: (a, b) = (1, ..., 1, 0, ..., 0) + (theta - start) @ free: which scales and shifts move, and which
            together.

    Returns:
        theta, where start is 1 for what moves scales and 0 for what moves shifts.
    """
    classes = logits.shape[1]
    start = (free[:, :classes].any(1)).astype(np.float64)
    at = np.arange(len(truth)), truth.astype(np.int64)

    def cost_and_shares(change: np.ndarray) -> tuple[float, np.ndarray]:
        scale, shift = (np.repeat([1.0, 0.0], classes) + change @ free).reshape(2, classes)
        moved = logits * scale + shift
        moved -= moved.max(1, keepdims=True)
        log_sum = np.log(np.exp(moved).sum(1))
        cost = float((log_sum - moved[at]).sum() + change @ change / 2)
        return cost, np.exp(moved - log_sum[:, None])

    change = np.zeros(len(free))
    cost, shares = cost_and_shares(change)
    for _ in range(_ROUNDS):
        gradient, curvature = _derivatives(logits, at, shares)
        gradient = free @ gradient + change
        curvature = free @ curvature @ free.T + np.eye(len(free))
        step = np.linalg.solve(curvature, gradient)
        length = 1.0
        while True:  # a full step may go too far where all pixels are sure
            attempt = cost_and_shares(change - length * step)
            if attempt[0] <= cost or length < _ENOUGH:
                break
            length /= 2
        if attempt[0] > cost:
            break
        change, (cost, shares) = change - length * step, attempt
        if np.abs(length * step).max() < _ENOUGH:
            break
    return start + change


def _derivatives(
    logits: Float64[np.ndarray, "pixels classes"],
    at: tuple[Int64[np.ndarray, " pixels"], Int64[np.ndarray, " pixels"]],
    shares: Float64[np.ndarray, "pixels classes"],
) -> tuple[Float64[np.ndarray, " twice_classes"], Float64[np.ndarray, "twice_classes twice_classes"]]:
    """Gradient and Hessian of the summed negative log-likelihood by all scales, then all shifts."""
    error = shares.copy()
    error[at] -= 1
    gradient = np.concatenate([(error * logits).sum(0), error.sum(0)])
    weighted = np.concatenate([shares * logits, shares], 1)
    curvature = -weighted.T @ weighted
    own = np.arange(logits.shape[1])
    other = own + logits.shape[1]
    curvature[own, own] += (weighted[:, own] * logits).sum(0)
    curvature[other, other] += shares.sum(0)
    mixed = weighted[:, own].sum(0)
    curvature[own, other] += mixed
    curvature[other, own] += mixed
    return gradient, curvature

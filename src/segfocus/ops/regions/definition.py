"""Region construction as the paper writes it, with tables of all pairs of pixels (Shen et al. 2020, section 3.1).

The other backends are tested against this one: it is for pictures of at most 1500 pixels.

| here                              | the paper                                                                   |
|-----------------------------------|-----------------------------------------------------------------------------|
| `line_maxima`                     | D_ij, the boundary between i and j (equation 1)                             |
| `jensen_shannon`, `bernoulli`     | E_ij, how different their classes are (equation 2)                          |
| `affinity`                        | F_ij = (1 - D_ij)(1 - E_ij) (equation 3)                                    |
| `group`                           | G_ij, who belongs together (equation 4)                                     |
| `scores_forward`                  | J_i = mean of F_ij over the region of i (equation 5)                        |

Where this differs: see `rules.RegionRules` and docs/methods/ranet.md.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

from segfocus.errors import SegfocusError
from segfocus.ops.regions.rules import RegionRules

MOST_PIXELS = 1500
# keeps logarithms, and so gradients, finite where a probability is zero; float32 still holds it
TINY = 1e-30
# the released Bernoulli divergence keeps probabilities in this range
LOWEST, HIGHEST = 0.001, 0.99


def line_maxima(boundary: Float[Tensor, "height width"], end_points: bool = True) -> Float[Tensor, "pixels pixels"]:
    """D: highest boundary probability on the line between every two pixels (numbered row by row), in [0, 1].

    A line is sampled at every whole step along its longer axis (the horizontal one for exact diagonals), linearly
    between the two nearest pixels along the other axis.  Without end points, neighbours see no boundary: D = 0.
    The gradient goes to the first maximum as seen from the row pixel.

    Raises:
        SegfocusError: more than 1500 pixels, or a map of other dimensions.
    """
    _check_size("boundary", boundary, 2)
    height, width = boundary.shape
    y = torch.arange(height, device=boundary.device).repeat_interleave(width)
    x = torch.arange(width, device=boundary.device).repeat(height)
    down, right = y - y[:, None], x - x[:, None]
    along_x = right.abs() >= down.abs()
    length = torch.maximum(right.abs(), down.abs())
    minor = torch.where(along_x, down, right)
    direction = torch.where(along_x, right, down).sign()

    def sample(step: Tensor) -> Tensor:
        # whole numbers up to the fraction, so that both ends of a line see the same points exactly
        whole = torch.div(step * minor, length.clamp_min(1), rounding_mode="floor")
        fraction = (step * minor - whole * length).to(boundary.dtype) / length.clamp_min(1)
        row = y[:, None] + torch.where(along_x, whole, step * direction)
        column = x[:, None] + torch.where(along_x, step * direction, whole)
        next_row = torch.where(along_x, row + 1, row).clamp_max(height - 1)
        next_column = torch.where(along_x, column, column + 1).clamp_max(width - 1)
        here, beyond = boundary[row, column], boundary[next_row, next_column]
        return here + fraction * (beyond - here)

    first = 0 if end_points else 1
    last = length if end_points else length - 1
    with torch.no_grad():
        highest = torch.full_like(length, -1, dtype=boundary.dtype)
        where = torch.zeros_like(length)
        for step in range(first, int(length.max()) + 1):
            now = torch.full_like(length, step)
            values = sample(now.minimum(length))
            better = (values > highest) & (now <= last)
            highest, where = highest.where(~better, values), where.where(~better, now)
    # read once more at the maximum: autograd then keeps one table instead of one a step
    return torch.where(highest >= 0, sample(where), torch.zeros_like(highest))


def _entropy(probability: Tensor) -> Tensor:
    probability = _within(probability, TINY, math.inf)
    return -probability * probability.log()


def _within(values: Tensor, lowest: float, highest: float) -> Tensor:
    """Clamped values with the gradient of those that were not: for bounds that only rounding, or a 0, exceeds."""
    return values.detach().clamp(lowest, highest) + (values - values.detach())


def jensen_shannon(semantic: Float[Tensor, "classes height width"]) -> Float[Tensor, "pixels pixels"]:
    """E: Jensen-Shannon divergence of every two pixels' class distributions in bits, in [0, 1] (equation 2).

    H(U) - (H(C_i) + H(C_j)) / 2 with U = (C_i + C_j) / 2; 0 for equal distributions, 1 for disjoint ones.
    The gradient is log2(C_i / U) / 2, with a probability of 0 taken for 1e-30: finite, and not cut off at the ends.
    Where this differs: equation 2 as printed lacks the logarithms' quotient by U.

    Raises:
        SegfocusError: more than 1500 pixels, or a map of other dimensions.
    """
    _check_size("semantic", semantic, 3)
    flat = semantic.flatten(1)
    own = _entropy(flat).sum(0)
    joint = torch.zeros(flat.shape[1], flat.shape[1], dtype=flat.dtype, device=flat.device)
    for probability in flat:
        joint = joint + _entropy((probability[:, None] + probability) / 2)
    return _within((joint - (own[:, None] + own) / 2) / math.log(2), 0, 1)


def top_classes(semantic: Float[Tensor, "classes height width"]) -> Int[Tensor, "height width"]:
    """Most probable class of each pixel, the lowest among equals on every device."""
    classes = torch.arange(len(semantic), device=semantic.device)[:, None, None]
    return torch.where(semantic == semantic.amax(0), classes, len(semantic)).amin(0)


def bernoulli(semantic: Float[Tensor, "classes height width"]) -> Float[Tensor, "pixels pixels"]:
    """E as released: divergence in nats of "the row pixel's most probable class, or not", in [0, 0.662], not symmetric.

    Probabilities are clamped to [0.001, 0.99], with no gradient where the clamp holds.
    Where this differs: the released gradient has a wrong logarithm, and passes through the clamps.

    Raises:
        SegfocusError: more than 1500 pixels, or a map of other dimensions.
    """
    _check_size("semantic", semantic, 3)
    flat = semantic.flatten(1)
    column = flat[top_classes(semantic).flatten()].clamp(LOWEST, HIGHEST)
    row = column.diagonal()[:, None]
    middle = (row + column) / 2

    def both(probability: Tensor) -> Tensor:
        return _entropy(probability) + _entropy(1 - probability)

    return (both(middle) - (both(row) + both(column)) / 2).clamp_min(0)


def affinity(
    boundary: Float[Tensor, "height width"], semantic: Float[Tensor, "classes height width"], rules: RegionRules
) -> Float[Tensor, "pixels pixels"]:
    """F = (1 - D)(1 - E), in [0, 1]; evidence "boundary" leaves E out, "semantic" leaves D out.

    Raises:
        SegfocusError: more than 1500 pixels, or a map of other dimensions.
    """
    pixels = boundary.numel()
    result = torch.ones(pixels, pixels, dtype=boundary.dtype, device=boundary.device)
    if rules.evidence != "semantic":
        result = result * (1 - line_maxima(boundary, rules.end_points))
    if rules.evidence != "boundary":
        divergence = jensen_shannon if rules.divergence == "jensen_shannon" else bernoulli
        result = result * (1 - divergence(semantic))
    return result


@torch.no_grad()
def group(
    boundary: Float[Tensor, "height width"], semantic: Float[Tensor, "classes height width"], rules: RegionRules
) -> Int[Tensor, " pixels"]:
    """Leader of each pixel, never behind it in raster order.

    "first": the first pixel that it may join, or itself (chains of leaders are left as they are); "components": the
    first pixel of its connected component.

    Raises:
        SegfocusError: more than 1500 pixels, or a map of other dimensions.
    """
    table = affinity(boundary, semantic, rules)
    joined = (table + table.T) / 2 > rules.threshold
    joined.fill_diagonal_(True)
    own = torch.arange(len(joined), device=joined.device)
    if rules.grouping == "first":
        return torch.where(joined, own, len(joined)).amin(1)
    while True:
        lower = torch.where(joined, own, len(joined)).amin(1)
        if torch.equal(lower, own):
            return own
        own = lower


def scores_forward(
    boundary: Float[Tensor, "height width"],
    semantic: Float[Tensor, "classes height width"],
    regions: Int[Tensor, " pixels"],
    rules: RegionRules,
) -> Float[Tensor, " pixels"]:
    """J: mean affinity of each pixel to its region, itself included, in [0, 1].

    Raises:
        SegfocusError: more than 1500 pixels, or a map of other dimensions.
    """
    same = (regions[:, None] == regions).to(boundary.dtype)
    return (affinity(boundary, semantic, rules) * same).sum(1) / same.sum(1)


def scores_backward(
    gradient: Float[Tensor, " pixels"],
    boundary: Float[Tensor, "height width"],
    semantic: Float[Tensor, "classes height width"],
    regions: Int[Tensor, " pixels"],
    rules: RegionRules,
) -> tuple[Float[Tensor, "height width"], Float[Tensor, "classes height width"]]:
    """Gradients of the boundary and class probabilities for a gradient of the scores, by autograd.

    Raises:
        SegfocusError: more than 1500 pixels, or a map of other dimensions.
    """
    with torch.enable_grad():
        inputs = boundary.detach().requires_grad_(), semantic.detach().requires_grad_()
        scores = scores_forward(*inputs, regions, rules)
        found = torch.autograd.grad(scores, inputs, gradient, allow_unused=True, materialize_grads=True)
    return found[0], found[1]


def _check_size(name: str, maps: Tensor, dimensions: int) -> None:
    if maps.ndim != dimensions:
        wanted = ("height x width", "classes x height x width")[dimensions - 2]
        raise SegfocusError(
            f"{name}: expected one picture, {wanted}, got {' x '.join(map(str, maps.shape))}; "
            "try the pictures of a batch one by one"
        )
    height, width = maps.shape[-2:]
    if height * width > MOST_PIXELS:
        raise SegfocusError(
            f"{name}: expected at most {MOST_PIXELS} pixels for tables of all pairs, got {height} x {width}; "
            'try backend="torch"'
        )

"""RANet's block written with N x N tables, compiled: what `context_blocks.py` compares the package's block with.

The tables are those of the released code (line maximum and where it lies, divergence, their complements, affinity, mean
affinity), filled by plain compiled loops over all pairs as its CUDA kernels do; everything else is PyTorch.  The rules
are the package's (end points, Jensen-Shannon divergence), so that both blocks give the same.  Interaction is written
with masks over all pixels and all representatives.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor, nn

from segfocus.methods.region_context import RegionContext
from segfocus.ops.regions import choose_representatives, merge
from segfocus.output import probabilities

PARTS = 8
"""of the rows in the backward pass of the lines, each with a sum of its own"""
OUT = -1e30
"""logit of a pair that is left out"""


@numba.njit(inline="always")
def sample(boundary, y, x, dy, dx, length, step):
    """Two pixels between which the line passes at `step`, and the share of the second."""
    height, width = boundary.shape
    if length == 0:
        return y, x, y, x, np.float32(0)
    if abs(dx) >= abs(dy):
        column = x + (step if dx > 0 else -step)
        whole, rest = divmod(step * dy, length)
        return y + whole, column, min(y + whole + 1, height - 1), column, np.float32(rest / length)
    row = y + (step if dy > 0 else -step)
    whole, rest = divmod(step * dx, length)
    return row, x + whole, row, min(x + whole + 1, width - 1), np.float32(rest / length)


@numba.njit(parallel=True)
def fill_lines(boundary, maximum, where):
    width = boundary.shape[1]
    for pixel in numba.prange(boundary.size):
        i = np.int64(pixel)  # unsigned as it comes, and then mixed into floats
        y, x = i // width, i % width
        for j in range(boundary.size):
            dy, dx = j // width - y, j % width - x
            length = max(abs(dy), abs(dx))
            best, at = np.float32(-1), 0
            for step in range(length + 1):
                a, b, c, d, share = sample(boundary, y, x, dy, dx, length, step)
                value = boundary[a, b] + share * (boundary[c, d] - boundary[a, b])
                if value > best:
                    best, at = value, step
            maximum[i, j], where[i, j] = best, at


@numba.njit(parallel=True)
def lines_backward(boundary, where, gradient, sums):
    width, pixels = boundary.shape[1], boundary.size
    for index in numba.prange(len(sums)):
        part = np.int64(index)
        for i in range(part, pixels, len(sums)):
            y, x = i // width, i % width
            for j in range(pixels):
                dy, dx = j // width - y, j % width - x
                length = max(abs(dy), abs(dx))
                a, b, c, d, share = sample(boundary, y, x, dy, dx, length, where[i, j])
                sums[part, a, b] += (1 - share) * gradient[i, j]
                sums[part, c, d] += share * gradient[i, j]


@numba.njit(parallel=True)
def fill_divergence(semantic, table):
    pixels, classes = semantic.shape
    half = np.zeros(pixels, np.float32)
    for i in range(pixels):
        for k in range(classes):
            half[i] -= np.float32(0.5) * semantic[i, k] * np.log2(max(semantic[i, k], np.float32(1e-30)))
    for i in numba.prange(pixels):
        for j in range(pixels):
            entropy = np.float32(0)
            for k in range(classes):
                mean = np.float32(0.5) * (semantic[i, k] + semantic[j, k])
                entropy -= mean * np.log2(max(mean, np.float32(1e-30)))
            table[i, j] = min(max(entropy - half[i] - half[j], np.float32(0)), np.float32(1))


@numba.njit(parallel=True)
def divergence_backward(semantic, gradient, result):
    pixels, classes = semantic.shape
    for i in numba.prange(pixels):
        for j in range(pixels):
            both = gradient[i, j] + gradient[j, i]
            if both != 0:
                for k in range(classes):
                    mine = max(semantic[i, k], np.float32(1e-30))
                    mean = max(np.float32(0.5) * (semantic[i, k] + semantic[j, k]), np.float32(1e-30))
                    result[i, k] += both * np.float32(0.5) * np.log2(mine / mean)


@numba.njit(parallel=True)
def first_neighbours(table, threshold, leaders):
    for i in numba.prange(len(table)):
        leaders[i] = i
        for j in range(i):
            if table[i, j] > threshold:
                leaders[i] = j
                break


class Lines(torch.autograd.Function):
    """[height, width] -> D [pixels, pixels]."""

    @staticmethod
    def forward(ctx: Any, boundary: Tensor) -> Tensor:
        maximum = torch.empty(boundary.numel(), boundary.numel())
        where = torch.empty(boundary.numel(), boundary.numel(), dtype=torch.int32)
        fill_lines(boundary.numpy(), maximum.numpy(), where.numpy())
        ctx.save_for_backward(boundary, where)
        return maximum

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        boundary, where = ctx.saved_tensors
        sums = torch.zeros(PARTS, *boundary.shape)
        lines_backward(boundary.numpy(), where.numpy(), gradients[0].contiguous().numpy(), sums.numpy())
        return sums.sum(0)


class Divergence(torch.autograd.Function):
    """[pixels, classes] -> E [pixels, pixels]."""

    @staticmethod
    def forward(ctx: Any, semantic: Tensor) -> Tensor:
        ctx.save_for_backward(semantic)
        table = torch.empty(len(semantic), len(semantic))
        fill_divergence(semantic.numpy(), table.numpy())
        return table

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (semantic,) = ctx.saved_tensors
        result = torch.zeros_like(semantic)
        divergence_backward(semantic.numpy(), gradients[0].contiguous().numpy(), result.numpy())
        return result


class DenseExchange(nn.Module):
    """Equations 6 to 8 with masks: every representative against every pixel and every representative."""

    def __init__(self, representatives: int):
        super().__init__()
        self.representatives = representatives

    def forward(self, features: Tensor, scores: Tensor, regions: Tensor) -> Tensor:
        """[1, channels, h, w], [1, h, w], [1, h, w] -> [1, channels, h, w]."""
        pixels, trust, of = features[0].flatten(1).T, scores[0].flatten()[:, None], regions[0].flatten()
        table = choose_representatives(trust[:, 0].detach(), of, self.representatives)
        chosen = table[table >= 0]
        others = torch.ones(len(of), dtype=torch.bool).index_fill(0, chosen, False)
        same = of[chosen][:, None] == of
        weighted = pixels * trust
        local = weighted[chosen] + masked_attention(pixels[chosen], weighted, same & others)
        said = trust[chosen] * local
        common = said + masked_attention(local, said, ~same[:, chosen])
        result = weighted + masked_attention(pixels, trust[chosen] * common, same.T)
        return result.T.view_as(features)


def masked_attention(queries: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
    logits = (queries @ values.T).masked_fill(~allowed, OUT)
    return (logits.softmax(1) * allowed) @ values


class DenseRegionContext(RegionContext):
    """The package's block with its regions and scores from tables; `exchange` should be `DenseExchange`."""

    def construct(self, semantic: Tensor, boundary: Tensor) -> tuple[Tensor, Tensor]:
        shares, edges = probabilities(semantic)[0].flatten(1).T.contiguous(), boundary.sigmoid()[0, 0].contiguous()
        affinity = (1 - Lines.apply(edges)) * (1 - Divergence.apply(shares))
        with torch.no_grad():
            leaders = torch.empty(len(affinity), dtype=torch.long)
            first_neighbours(((affinity + affinity.T) / 2).numpy(), self.rules.threshold, leaders.numpy())
            regions = merge(leaders, edges.shape[0], edges.shape[1], self.rules)
        flat = regions.flatten()
        together = flat[:, None] == flat
        sizes = torch.bincount(flat)[flat]
        scores = torch.where(together, affinity, affinity.new_zeros(())).sum(1) / sizes
        return regions[None], scores.view(1, *edges.shape)


def line_samples(height: int, width: int, rows: np.ndarray, columns: np.ndarray) -> float:
    """Points sampled on the lines between pixels `rows` and `columns` (pixel numbers), end points included."""
    distance = np.maximum(abs(rows // width - columns // width), abs(rows % width - columns % width))
    return float(distance.sum() + len(distance))


def region_arithmetic(regions: Tensor, leaders: Tensor, classes: int) -> dict[str, float]:
    """Floating-point operations of region construction by formula, in 1e9: not counted by FlopCounterMode.

    A pair costs 4 operations a line sample (difference, product, sum, maximum) and 6 a class (mean, logarithm, product
    and sums, a logarithm as 2).  Grouping: pixel i against every pixel up to its leader, an upper bound as exact
    pruning spares most; scores: unordered pairs inside a region.
    """
    height, width = regions.shape
    flat, own = regions.flatten().numpy(), leaders.numpy()
    grouping, scores = [0.0, 0.0], [0.0, 0.0]
    for pixel in range(len(own)):
        examined = np.arange(own[pixel] + 1 if own[pixel] < pixel else pixel)
        inside = pixel + 1 + np.flatnonzero(flat[pixel + 1 :] == flat[pixel])
        for totals, others in ((grouping, examined), (scores, inside)):
            totals[0] += line_samples(height, width, np.full(len(others), pixel), others)
            totals[1] += len(others)
    found = {
        name: (4 * samples + 6 * classes * pairs) / 1e9
        for name, (samples, pairs) in (("grouping_at_most", grouping), ("scores", scores))
    }
    return {name: float(f"{value:.3g}") for name, value in found.items()} | {
        "table_mb": round(math.prod((height * width,) * 2) * 4 / 1e6, 1)
    }

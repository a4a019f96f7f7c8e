"""Regions of whole batches: grouping, merging and scores, by the backend that fits (Shen et al. 2020, section 3.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from segfocus.errors import SegfocusError
from segfocus.ops.regions.backends import choose_backend, load_backend
from segfocus.ops.regions.merging import merge
from segfocus.ops.regions.rules import RegionRules
from segfocus.ops.regions.scores import representative_scores

_MOST_OFF = 0.01
"""how far probabilities may sum from 1; a softmax in half precision is off by 0.004 at most"""


class Regions(NamedTuple):
    """Which pixels belong together, and how well each stands for its region."""

    labels: Int[Tensor, "batch height width"]
    """region of each pixel, in every picture numbered from 0 in the order of the regions' first pixels"""
    scores: Float[Tensor, "batch height width"]
    """J in [0, 1]: mean affinity to the region, differentiable with respect to both probabilities"""


def construct_regions(
    boundary: Float[Tensor, "batch height width"],
    semantic: Float[Tensor, "batch classes height width"],
    rules: RegionRules | None = None,
    backend: str = "auto",
) -> Regions:
    """Group pixels that no boundary separates and whose classes agree, and score them.

    Works in float32 (float64 for float64), whatever the precision of the inputs and of autocast.

    Args:
        boundary: P(boundary) in [0, 1].
        semantic: class probabilities in [0, 1] that sum to 1 at every pixel, within 0.01; what a softmax in half
            precision is off by is divided out for the grouping, whose bounds rely on the sum, not for the scores.
        rules: thresholds and options; the paper's by default.
        backend: "auto", "torch", "numba", "triton" or, for at most 1500 pixels, "dense": all return the same.

    Raises:
        SegfocusError: maps of different size or without pixels, values that are no probabilities or do not sum to 1, or
            a backend that is unknown or not installed.
    """
    rules = RegionRules() if rules is None else rules
    _check_maps(boundary, semantic)
    with torch.autocast(boundary.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(boundary.dtype, semantic.dtype), torch.float32)
        boundary, semantic = boundary.to(dtype).contiguous(), semantic.to(dtype).contiguous()
        _check_probabilities("boundary", boundary)
        _check_probabilities("semantic", semantic)
        sums = semantic.detach().sum(1)
        _check_sums(sums)
        name = choose_backend(backend, boundary.device)
        labels, scores = [], []
        for picture, classes, total in zip(boundary, semantic, sums, strict=True):
            leaders = load_backend(name).group(picture.detach(), classes.detach() / total, rules)
            label = merge(leaders, picture.shape[0], picture.shape[1], rules)
            labels.append(label)
            scores.append(representative_scores(picture, classes, label.flatten(), rules, name).view_as(picture))
        return Regions(torch.stack(labels), torch.stack(scores))


def _check_maps(boundary: Tensor, semantic: Tensor) -> None:
    if semantic.ndim != 4:
        raise SegfocusError(
            f"semantic: expected a batch of pictures, batch x classes x height x width, got {_sizes(semantic)}; "
            "try semantic[None] for one picture"
        )
    if boundary.shape != (len(semantic), *semantic.shape[2:]):
        raise SegfocusError(
            f"boundary: expected the batch, height and width of semantic, {len(semantic)} x {semantic.shape[2]} x "
            f"{semantic.shape[3]}, got {_sizes(boundary)}; try boundary[:, 0] where it has a channel, or interpolate it"
        )
    if boundary.device != semantic.device:
        raise SegfocusError(
            f"boundary: expected the device of semantic, {semantic.device}, got {boundary.device}; "
            f'try boundary.to("{semantic.device}")'
        )
    if not semantic.numel():
        raise SegfocusError(
            f"semantic: expected at least one picture, class and pixel, got {_sizes(semantic)}; "
            "try without the empty batch"
        )


def _sizes(tensor: Tensor) -> str:
    return " x ".join(map(str, tensor.shape))


def _check_probabilities(name: str, values: Tensor) -> None:
    lowest, highest = values.detach().aminmax()
    if lowest >= 0 and highest <= 1:  # false for NaN, which both extremes pass on
        return
    for number, picture in enumerate(values.detach()):
        low, high = (float(value) for value in picture.aminmax())
        if not (low >= 0 and high <= 1):
            found = "NaN" if low != low else f"{low:.4g} to {high:.4g}"
            remedy = "a lower learning rate" if low != low else "sigmoid or softmax of the scores"
            raise SegfocusError(
                f"{name}: expected probabilities in [0, 1], got {found} in picture {number}; try {remedy}"
            )


def _check_sums(sums: Tensor) -> None:
    off = (sums - 1).abs().flatten(1).amax(1)
    if off.max() > _MOST_OFF:
        picture = int(off.argmax())
        found = sums[picture].flatten()
        worst = float(found[(found - 1).abs().argmax()])
        raise SegfocusError(
            f"semantic: expected probabilities that sum to 1 over the classes at every pixel, got {worst:.4g} in "
            f"picture {picture}; try softmax of the scores over dimension 1, or p and 1 - p for one class"
        )

"""Regions of whole batches: grouping, merging and scores, by the backend that fits (Shen et al. 2020, section 3.1)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from segfocus.ops.regions.backends import choose_backend, load_backend
from segfocus.ops.regions.merging import merge
from segfocus.ops.regions.rules import RegionRules
from segfocus.ops.regions.scores import representative_scores


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
        semantic: class probabilities in [0, 1].
        rules: thresholds and options; the paper's by default.
        backend: "auto", "torch", "numba", "triton" or, for at most 1500 pixels, "dense": all return the same.

    Raises:
        ValueError: maps of different size or without pixels, values that are no probabilities, or a backend that is
            unknown or not installed.
    """
    rules = RegionRules() if rules is None else rules
    _check_maps(boundary, semantic)
    with torch.autocast(boundary.device.type, enabled=False):
        dtype = torch.promote_types(torch.promote_types(boundary.dtype, semantic.dtype), torch.float32)
        boundary, semantic = boundary.to(dtype).contiguous(), semantic.to(dtype).contiguous()
        _check_probabilities("boundary", boundary)
        _check_probabilities("semantic", semantic)
        name = choose_backend(backend, boundary.device)
        labels, scores = [], []
        for picture, classes in zip(boundary, semantic, strict=True):
            leaders = load_backend(name).group(picture.detach(), classes.detach(), rules)
            label = merge(leaders, picture.shape[0], picture.shape[1], rules)
            labels.append(label)
            scores.append(representative_scores(picture, classes, label.flatten(), rules, name).view_as(picture))
        return Regions(torch.stack(labels), torch.stack(scores))


def _check_maps(boundary: Tensor, semantic: Tensor) -> None:
    if boundary.shape != (len(semantic), *semantic.shape[2:]):
        raise ValueError(
            f"boundary: expected the batch, height and width of semantic, {len(semantic)} x {semantic.shape[2]} x "
            f"{semantic.shape[3]}, got {' x '.join(map(str, boundary.shape))}"
        )
    if boundary.device != semantic.device:
        raise ValueError(f"boundary: expected the device of semantic, {semantic.device}, got {boundary.device}")
    if not semantic.numel():
        raise ValueError(f"semantic: expected at least one picture, class and pixel, got {tuple(semantic.shape)}")


def _check_probabilities(name: str, values: Tensor) -> None:
    lowest, highest = values.detach().aminmax()
    if lowest >= 0 and highest <= 1:  # false for NaN, which both extremes pass on
        return
    for number, picture in enumerate(values.detach()):
        low, high = (float(value) for value in picture.aminmax())
        if not (low >= 0 and high <= 1):
            found = "NaN" if low != low else f"{low:.4g} to {high:.4g}"
            remedy = "a lower learning rate" if low != low else "sigmoid or softmax of the scores"
            raise ValueError(f"{name}: expected probabilities in [0, 1], got {found} in picture {number}; try {remedy}")

"""Prediction while training: one pass over a batch, and what a validation does and a budget of minutes times."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from segfocus.inference.focus import focused
from segfocus.methods.base import Refiner
from segfocus.output import Output
from segfocus.recipe import EvaluationConfig, Recipe

if TYPE_CHECKING:
    from segfocus.methods.base import Method

PICTURES = ("image", "probabilities")
"""what a network may see of a batch"""


def forward(model: Method, batch: Mapping[str, Any]) -> Output:
    """One pass: a segmenter sees "image", a refiner "probabilities" and "image"."""
    return model(batch["probabilities"], batch["image"]) if isinstance(model, Refiner) else model(batch["image"])


def in_layout(batch: Mapping[str, Any], channels_last: bool) -> dict[str, Any]:
    """The batch with its pictures in that memory layout, where it is asked for."""
    if not channels_last:
        return dict(batch)
    return {
        key: value.contiguous(memory_format=torch.channels_last) if key in PICTURES else value
        for key, value in batch.items()
    }


def predict(
    model: Method, batch: Mapping[str, Any], recipe: Recipe
) -> tuple[Int64[Tensor, "batch height width"], Output | None]:
    """Labels at the pictures' own size; the Output too when it is made from whole pictures in one go."""
    evaluation = recipe.evaluation
    if isinstance(model, Refiner):
        from segfocus.inference.refiner import refined

        how = {"window": evaluation.window, "stride": evaluation.stride, "shifts": evaluation.shifts}
        found = refined(model, batch["probabilities"], batch["image"], resize=recipe.data.resize, **how)
        return (found[:, 1] > 0.5).long() if found.shape[1] == 2 else found.argmax(1), None
    with focused(model, evaluation.focus, evaluation.adaptive):
        return _predict_pictures(model, batch["image"], evaluation)


def _predict_pictures(
    model: nn.Module, image: Tensor, evaluation: EvaluationConfig
) -> tuple[Int64[Tensor, "batch height width"], Output | None]:
    if evaluation.window is None and list(evaluation.scales) == [1.0] and not evaluation.flip:
        output = model(image)
        return output.labels(), output
    from segfocus.inference.augment import test_time_augmentation
    from segfocus.inference.sliding import sliding_window

    def whole(part: Tensor) -> Tensor:
        return model(part).probabilities()

    def windowed(part: Tensor) -> Tensor:
        if evaluation.window is None:
            return whole(part)
        return sliding_window(whole, part, evaluation.window, evaluation.stride)

    return test_time_augmentation(windowed, image, evaluation.scales, evaluation.flip).argmax(1), None

"""Prediction while training: what a validation does, and what is timed for a budget of minutes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Float, Int64
from torch import Tensor

from segfocus.output import Output
from segfocus.recipe import EvaluationConfig

if TYPE_CHECKING:
    from segfocus.methods.base import Segmenter


def predict(
    model: Segmenter, image: Float[Tensor, "batch 3 height width"], evaluation: EvaluationConfig
) -> tuple[Int64[Tensor, "batch height width"], Output | None]:
    """Labels at the pictures' own size; the Output too when it is made from whole pictures in one go."""
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

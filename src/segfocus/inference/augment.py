"""Test-time augmentation: one picture seen at several scales and mirrored, the probabilities averaged."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from jaxtyping import Float
from torch import Tensor

from segfocus.errors import SegfocusError
from segfocus.ops.resample import resize


def test_time_augmentation(
    predict: Callable[[Tensor], Tensor],
    image: Float[Tensor, "batch channels height width"],
    scales: Sequence[float] = (1.0,),  # noqa: PT028 - not a test
    flip: bool = False,  # noqa: PT028
) -> Float[Tensor, "batch classes height width"]:
    """Mean of `predict` over scales, and over the picture and its left-right mirror image when `flip`.

    Every view counts alike.  What each view gives is brought back to the picture's own size before averaging; views
    that agree come out bit for bit (so the identity is exact at scale 1, mirrored or not).  Averages of probabilities
    are probabilities; averages of logits are not what this is for.

    Args:
        predict: maps "batch channels h w" to probabilities "batch classes h w", at any size.
        scales: factors of height and width, above 0; a scaled side is rounded to at least 1 px.

    Raises:
        SegfocusError: no scale, or one that is not above 0.
    """
    height, width = image.shape[-2:]
    mean = None
    views = 0
    for scale in check_scales(scales):
        scaled = resize(image, (max(1, round(height * scale)), max(1, round(width * scale))))
        for mirrored in (False, True) if flip else (False,):
            result = predict(scaled.flip(-1)).flip(-1) if mirrored else predict(scaled)
            result = resize(result, (height, width))
            views += 1
            mean = result if mean is None else mean + (result - mean) / views
    assert mean is not None
    return mean


test_time_augmentation.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]  # its name makes pytest collect it


def check_scales(scales: Sequence[float]) -> tuple[float, ...]:
    """The scales as a tuple; refuses none at all and what is not a number above 0."""
    if not scales or any(not math.isfinite(scale) or scale <= 0 for scale in scales):
        raise SegfocusError(f"scales: expected numbers above 0, got {list(scales)}; try 0.75 1 1.25")
    return tuple(float(scale) for scale in scales)

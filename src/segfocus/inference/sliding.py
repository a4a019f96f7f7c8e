"""A network seen through a sliding window, for pictures larger than it should see at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from segfocus.errors import SegfocusError


def sliding_window(
    predict: Callable[[Tensor], Tensor],
    image: Float[Tensor, "batch channels height width"],
    window: Sequence[int],
    stride: Sequence[int] | None = None,
    blend: Literal["linear", "constant"] = "linear",
) -> Float[Tensor, "batch outputs height width"]:
    """Weighted mean of `predict` over overlapping windows, at the picture's size.

    Where the windows that cover a pixel agree, their value comes out bit for bit (so the identity is exact): the mean
    is kept as a running one.  Memory: the result and one weight a pixel, however many windows there are.

    Args:
        predict: maps "batch channels h w" to "batch outputs h w" (same h and w); gets each window in turn.
        image: any picture; one smaller than the window is seen whole.
        window: height and width in px.
        stride: vertical and horizontal step in px, at most the window; two thirds of the window when None.  The last
            window in each direction lies flush with the border, so all windows have one size.
        blend: "linear" weights a window by a tent that falls towards its border (never to 0); "constant" evenly.

    Raises:
        SegfocusError: window or stride not positive, stride above the window (pixels would be left out), unknown blend,
            or a `predict` that changes the size.
    """
    height, width = image.shape[-2:]
    window, stride = check_window(window, stride)
    tall, wide = min(window[0], height), min(window[1], width)
    if blend == "linear":
        weight = _tent(tall, image.device)[:, None] * _tent(wide, image.device)
    elif blend == "constant":
        weight = torch.ones(tall, wide, device=image.device)
    else:
        raise SegfocusError(f"blend: expected linear or constant, got {blend!r}")
    total = torch.zeros(height, width, device=image.device)
    mean = None
    for top in _starts(height, tall, stride[0]):
        for left in _starts(width, wide, stride[1]):
            place = (..., slice(top, top + tall), slice(left, left + wide))
            result = predict(image[place])
            if result.shape[-2:] != (tall, wide):
                raise SegfocusError(
                    f"expected a prediction of the window's size {tall}x{wide}, got {tuple(result.shape)}; "
                    "try to resize inside the callable"
                )
            if mean is None:
                dtype = torch.promote_types(result.dtype, torch.float32)
                mean = torch.zeros(*result.shape[:2], height, width, dtype=dtype, device=result.device)
            total[place] += weight
            share = (weight / total[place]).to(mean)
            mean[place] += (result - mean[place]) * share
    assert mean is not None
    return mean


def check_window(window: Sequence[int], stride: Sequence[int] | None) -> tuple[tuple[int, int], tuple[int, int]]:
    """Window and stride as (height, width) pairs, the stride filled in; see `sliding_window` for what is refused."""
    if len(window) != 2 or min(window) < 1:
        raise SegfocusError(f"window: expected height and width of at least 1 px, got {list(window)}; try 360x480")
    if stride is None:
        stride = [max(1, side * 2 // 3) for side in window]
    if len(stride) != 2 or min(stride) < 1 or stride[0] > window[0] or stride[1] > window[1]:
        raise SegfocusError(
            f"stride: expected two steps from 1 px up to the window {window[0]}x{window[1]}, got {list(stride)}; "
            "try two thirds of the window"
        )
    return (int(window[0]), int(window[1])), (int(stride[0]), int(stride[1]))


def _starts(length: int, window: int, stride: int) -> list[int]:
    """First pixels of the windows along one direction; the last window ends at the border."""
    starts = list(range(0, length - window + 1, stride))
    if starts[-1] + window < length:
        starts.append(length - window)
    return starts


def _tent(length: int, device: torch.device) -> Float[Tensor, "length"]:
    """Weights that rise from the border to the middle, in (0, 1]."""
    rise = torch.arange(1, length + 1, dtype=torch.float32, device=device)
    tent = torch.minimum(rise, rise.flip(0))
    return tent / tent.max()

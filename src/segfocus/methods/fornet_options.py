"""The options of FoR-Net: what the released network chose, and which values make sense."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from segfocus.methods.base import check_choice, check_count, check_number
from segfocus.methods.fornet_selectors import SELECTORS
from segfocus.ops.selection import check_share

RELEASED: dict[str, Any] = {
    "channels": 256,
    "neck": "deepest",
    "ratio": (0.1, 0.2, 0.3, 0.4),
    "region": "cell",
    "branches": ((1, 1), (3, 1), (5, 1), (7, 16)),
    "branch_norm": "batch",
    "mask_position": "input",
    "selector_channels": 128,
    "decoder": "concat",
    "decoder_channels": 256,
    "auxiliary_weight": 0.0,
}
"""options of the released network, on `build_backbone("resnet101", output_stride=8)`"""

CHOICES: dict[str, tuple[str, ...]] = {
    "neck": ("sum", "deepest"),
    "region": ("block", "cell"),
    "branch_norm": ("layer", "batch"),
    "mask_position": ("output", "input"),
    "gradient": ("straight-through", "gate", "none"),
    "selector": tuple(name for name, kind in SELECTORS.items() if not kind.reads_truth),
    "decoder": ("residual", "concat"),
}
"""the options that are one of several words"""


def check_choices(**options: str) -> None:
    """Raise a ValueError unless each is among its `CHOICES`."""
    for name, value in options.items():
        check_choice(name, value, CHOICES[name])


def check_sizes(channels: int, block: int, selector_channels: int, decoder_channels: int, decoder_refine: int) -> None:
    """Raise a ValueError unless they are whole numbers from 1, and `channels` enough for the context to squeeze."""
    check_count("channels", channels, 64)
    if channels < 4:
        raise ValueError(f"channels: expected 4 or more, got {channels}; try 64")
    check_count("block", block, 4)
    check_count("selector_channels", selector_channels, 32)
    check_count("decoder_channels", decoder_channels, 32)
    check_count("decoder_refine", decoder_refine, 64)


def check_branches(branches: Sequence[Sequence[int]]) -> None:
    """Raise a ValueError unless there is a branch, and each an odd kernel and a dilation from 1."""
    remedy = "try [[1, 1], [3, 1], [3, 2]]"
    if isinstance(branches, str) or not isinstance(branches, Sequence) or len(branches) == 0:
        raise ValueError(f"branches: expected one (kernel, dilation) or more, got {branches!r}; {remedy}")
    for branch in branches:
        if isinstance(branch, str) or not isinstance(branch, Sequence) or len(branch) != 2:
            raise ValueError(f"branches: expected (kernel, dilation) of each, got {branch!r}; {remedy}")
        for name, value in zip(("kernel", "dilation"), branch, strict=True):
            check_count(f"branches: {name}", value, remedy.removeprefix("try "))
        if branch[0] % 2 == 0:
            raise ValueError(f"branches: expected odd kernels, got {branch[0]}; {remedy}")


def check_weights(dice_weight: float, selector_weight: float, auxiliary_weight: float) -> None:
    """Raise a ValueError unless the factors of the loss terms are numbers from 0."""
    check_number("dice_weight", dice_weight, 1.0)
    check_number("selector_weight", selector_weight, 0.5)
    check_number("auxiliary_weight", auxiliary_weight, 0.4)


def check_adaptive(share: float | None, trained: Sequence[bool]) -> None:
    """Raise a ValueError unless it is None, or above 0 and at most 1 where a branch is trained."""
    if share is None:
        return
    check_share("adaptive", share, "of the importance")
    if share == 0:
        raise ValueError("adaptive: expected a share of the importance above 0, got 0; try 0.9, or ratio 0")
    if not any(trained):
        raise ValueError(
            f"adaptive: expected a network that was trained with a ratio above 0, got {share} where no branch has "
            "learned anything; try another network"
        )


def branch_ratios(ratio: float | Sequence[float], trained: Sequence[bool]) -> list[float]:
    """One ratio a branch, of one for all or of a sequence; those that are not trained keep 0.

    Raises:
        ValueError: a ratio outside [0, 1], a wrong number of them, one above 0 of a branch that is not trained.
    """
    several = isinstance(ratio, Iterable) and not isinstance(ratio, str)
    given: list[Any] = list(ratio) if several else [ratio] * len(trained)
    if len(given) != len(trained):
        raise ValueError(f"ratio: expected one value or one a branch ({len(trained)}), got {len(given)}; try 0.25")
    for value in given:
        check_share("ratio", value, "of the regions")
    ratios = [float(value) if used else 0.0 for value, used in zip(given, trained, strict=True)]
    if ratios != given if several else max(ratios) < max(given):
        raise ValueError(
            f"ratio: expected 0 of branches that were built with ratio 0 and have learned nothing, got {ratio}; "
            "try a network that was trained with a ratio above 0"
        )
    return ratios

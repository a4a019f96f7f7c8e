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


def check_options(**options: Any) -> None:
    """Raise a ValueError unless words are among their `CHOICES`, weights numbers from 0, sizes whole numbers from 1."""
    for name, value in options.items():
        if name in CHOICES:
            check_choice(name, value, CHOICES[name])
        elif name.endswith("_weight"):
            check_number(name, value, "leaving it out")
        else:
            check_count(name, value, "leaving it out")
    if options.get("channels", 4) < 4:
        raise ValueError(f"channels: expected 4 or more, got {options['channels']}; try leaving it out")


def check_branches(branches: Sequence[Sequence[int]]) -> None:
    """Raise a ValueError unless there is a branch, and each an odd kernel and a dilation from 1."""
    remedy = "[[1, 1], [3, 1], [3, 2]]"
    if isinstance(branches, str) or not isinstance(branches, Sequence) or len(branches) == 0:
        raise ValueError(f"branches: expected one (kernel, dilation) or more, got {branches!r}; try {remedy}")
    for branch in branches:
        if isinstance(branch, str) or not isinstance(branch, Sequence) or len(branch) != 2:
            raise ValueError(f"branches: expected (kernel, dilation) of each, got {branch!r}; try {remedy}")
        for name, value in zip(("kernel", "dilation"), branch, strict=True):
            check_count(f"branches: {name}", value, remedy)
        if branch[0] % 2 == 0:
            raise ValueError(f"branches: expected odd kernels, got {branch[0]}; try {remedy}")


def branch_ratios(ratio: float | Sequence[float], trained: Sequence[bool]) -> list[float]:
    """One ratio a branch, of one for all that are trained or of a sequence.

    Raises:
        ValueError: a ratio outside [0, 1], a wrong number of them, one above 0 of a branch that is not trained.
    """
    if isinstance(ratio, str) or not isinstance(ratio, Iterable):
        one: Any = ratio
        check_share("ratio", one, "of the regions")
        check_trained("ratio", one, trained)
        return [float(one) if used else 0.0 for used in trained]
    ratios = list(ratio)
    if len(ratios) != len(trained):
        raise ValueError(f"ratio: expected one value or one a branch ({len(trained)}), got {len(ratios)}; try 0.25")
    for value, used in zip(ratios, trained, strict=True):
        check_share("ratio", value, "of the regions")
        if value > 0 and not used:
            raise ValueError(
                f"ratio: expected 0 of a branch that was built with ratio 0 and has learned nothing, got {ratios}; "
                "try one ratio for all that have"
            )
    return [float(value) for value in ratios]


def check_adaptive(share: float | None, trained: Sequence[bool]) -> None:
    """Raise a ValueError unless it is None, or above 0 and at most 1 where a branch is trained."""
    if share is None:
        return
    check_share("adaptive", share, "of the importance")
    if share == 0:
        raise ValueError("adaptive: expected a share of the importance above 0, got 0; try 0.9, or ratio 0")
    check_trained("adaptive", share, trained)


def check_trained(name: str, share: float, trained: Sequence[bool]) -> None:
    """Raise a ValueError where something is to be refined and no branch has learned to."""
    if share > 0 and not any(trained):
        raise ValueError(
            f"{name}: expected 0 or none of a network that was trained without focus (ratio 0), whose branches have "
            f"learned nothing, got {share}; try a network that was trained with a ratio above 0"
        )

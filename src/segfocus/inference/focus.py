"""How much of a picture the FoR-Nets in a network refine: set for good, or for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import nn

from segfocus.errors import SegfocusError
from segfocus.methods.fornet import FoRNet
from segfocus.methods.fornet_options import check_adaptive, check_trained
from segfocus.ops.selection import check_share


def check_focus(model: nn.Module | None, focus: float | None, adaptive: float | None) -> None:
    """Refuse what `set_focus` could not do.

    Args:
        model: None where it is not built yet; then the numbers alone are looked at.

    Raises:
        SegfocusError: shares outside their ranges, both given, a network without FoR-Net in it or with one that was
            trained without focus.
    """
    if focus is not None and adaptive is not None:
        raise SegfocusError(f"expected one of focus and adaptive, got both ({focus}, {adaptive}); try one of them")
    if focus is None and adaptive is None:
        return
    networks = [] if model is None else _networks(model)
    if model is not None and not networks:
        raise SegfocusError(
            f"focus, adaptive: expected a network with FoR-Net in it, got {type(model).__name__}; try neither of them"
        )
    try:
        for trained in [network.trained for network in networks] or [[True]]:
            if focus is not None:
                check_share("focus", focus, "of the regions")
                check_trained("focus", focus, trained)
            check_adaptive(adaptive, trained)
    except ValueError as error:
        raise SegfocusError(str(error)) from None


def set_focus(model: nn.Module, focus: float | None, adaptive: float | None) -> None:
    """Every FoR-Net in `model` refines the share `focus` of the regions, or the fewest that hold the share `adaptive`
    of a picture's importance; with neither, nothing changes.

    Raises:
        SegfocusError: see `check_focus`.
    """
    check_focus(model, focus, adaptive)
    if (focus, adaptive) != (None, None):
        for network in _networks(model):
            network.focus(ratio=focus, adaptive=adaptive)


def focus_settings(model: nn.Module) -> list[dict[str, Any]]:
    """What decides a refinement besides the weights, JSON safe: one dictionary a FoR-Net in `model`."""
    return [
        {
            "ratios": network.ratios,
            "adaptive": network.adaptive,
            "trained": network.trained,
            "block": network.block,
            "branches": [[branch.kernel, branch.dilation] for branch in network.branches],
            "mask_position": network.mask_position,
            "gradient": network.gradient,
            "selector": type(network.selector).__name__,
        }
        for network in _networks(model)
    ]


@contextlib.contextmanager
def focused(model: nn.Module, focus: float | None = None, adaptive: float | None = None) -> Iterator[None]:
    """`set_focus`; at the end of the block everything is as before."""
    before = [(network, list(network.ratios), network.adaptive) for network in _networks(model)]
    try:
        set_focus(model, focus, adaptive)
        yield
    finally:
        for network, ratios, share in before:
            network.ratios, network.adaptive = ratios, share


def _networks(model: nn.Module) -> list[FoRNet]:
    return [module for module in model.modules() if isinstance(module, FoRNet)]

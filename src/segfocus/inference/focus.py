"""How much of a picture FoR-Net refines: changed for a prediction, put back afterwards."""

from __future__ import annotations

import contextlib
import numbers
from collections.abc import Iterator

from torch import nn

from segfocus.errors import SegfocusError
from segfocus.methods.fornet import FoRNet


def check_focus(model: nn.Module | None, focus: float | None, adaptive: float | None) -> None:
    """Refuse what `focused` could not do.

    Args:
        model: None where it is not built yet; then the numbers alone are looked at.

    Raises:
        SegfocusError: shares outside their ranges, both given, a network without FoR-Net in it or with one that was
            trained without focus.
    """
    if focus is not None and not (_number(focus) and 0 <= focus <= 1):
        raise SegfocusError(f"evaluation.focus: expected a share of the regions in [0, 1], got {focus!r}; try 0.25")
    if adaptive is not None and not (_number(adaptive) and 0 < adaptive <= 1):
        raise SegfocusError(
            f"evaluation.adaptive: expected a share of the importance above 0, at most 1, got {adaptive!r}; try 0.9"
        )
    if focus is not None and adaptive is not None:
        raise SegfocusError(f"expected one of focus and adaptive, got both ({focus}, {adaptive}); try one of them")
    if model is None or (focus, adaptive) == (None, None):
        return
    networks = _networks(model)
    if not networks:
        raise SegfocusError(
            f"focus, adaptive: expected a network with FoR-Net in it, got {type(model).__name__}; try neither of them"
        )
    if focus != 0 and not all(any(network.trained) for network in networks):
        raise SegfocusError(
            "focus, adaptive: expected a FoR-Net that was trained with a ratio above 0, got one of ratio 0, whose "
            "branches have learned nothing; try neither of them, or another network"
        )


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


def focus_settings(model: nn.Module) -> list[str]:
    """What decides the refined regions besides the weights, in words: one a FoR-Net in `model`."""
    return [f"{network.extra_repr()}, {type(network.selector).__name__}" for network in _networks(model)]


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


def _number(value: object) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _networks(model: nn.Module) -> list[FoRNet]:
    return [module for module in model.modules() if isinstance(module, FoRNet)]

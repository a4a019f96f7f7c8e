"""How much of a picture FoR-Net refines: changed for a prediction, put back afterwards."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

from torch import nn

from segfocus.errors import SegfocusError
from segfocus.methods.fornet import FoRNet


def check_focus(model: nn.Module | None, focus: float | None, adaptive: float | None) -> None:
    """Refuse what `focused` could not do.

    Args:
        model: None where it is not built yet; then the numbers alone are looked at.

    Raises:
        SegfocusError: shares outside their ranges, both given, or a network without FoR-Net in it.
    """
    if focus is not None and not (math.isfinite(focus) and 0 <= focus <= 1):
        raise SegfocusError(f"evaluation.focus: expected a share of the regions in [0, 1], got {focus}; try 0.25")
    if adaptive is not None and not (math.isfinite(adaptive) and 0 < adaptive <= 1):
        raise SegfocusError(
            f"evaluation.adaptive: expected a share of the importance above 0, at most 1, got {adaptive}; try 0.9"
        )
    if focus is not None and adaptive is not None:
        raise SegfocusError(f"expected one of focus and adaptive, got both ({focus}, {adaptive}); try one of them")
    if model is not None and (focus, adaptive) != (None, None) and not _networks(model):
        raise SegfocusError(
            f"focus, adaptive: expected a network with FoR-Net in it, got {type(model).__name__}; try neither of them"
        )


@contextlib.contextmanager
def focused(model: nn.Module, focus: float | None = None, adaptive: float | None = None) -> Iterator[None]:
    """Every FoR-Net in `model` refines the share `focus` of the regions, or the fewest that hold the share `adaptive`
    of a picture's importance; at the end of the block as before.

    Raises:
        SegfocusError: see `check_focus`.
    """
    check_focus(model, focus, adaptive)
    networks = _networks(model) if (focus, adaptive) != (None, None) else []
    before = [(network, list(network.ratios), network.adaptive) for network in networks]
    try:
        for network in networks:
            network.focus(ratio=focus, adaptive=adaptive)
        yield
    finally:
        for network, ratios, share in before:
            network.ratios, network.adaptive = ratios, share


def _networks(model: nn.Module) -> list[FoRNet]:
    return [module for module in model.modules() if isinstance(module, FoRNet)]

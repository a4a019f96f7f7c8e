"""The methods by name, and `build`, which turns a recipe's model section into a network."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from segfocus.errors import SegfocusError, nearest

if TYPE_CHECKING:
    from segfocus.methods.base import Segmenter
    from segfocus.recipe import ModelConfig

METHODS: dict[str, str] = {"fornet": "segfocus.methods.fornet:FoRNet"}
"""name -> where the class lives; classes are imported when asked for"""

SUMMARIES: dict[str, str] = {
    "fornet": "FoR-Net (Pan et al. 2026): a selector finds hard regions; multi-scale convolutions refine the Top-K",
}


def method_class(name: str) -> type[Segmenter]:
    """The class of a method.

    Raises:
        SegfocusError: unknown name (nearest names offered).
    """
    if name not in METHODS:
        raise SegfocusError(f"unknown method '{name}'; {nearest(name, METHODS)}")
    module, _, attribute = METHODS[name].partition(":")
    return getattr(import_module(module), attribute)


def method_options(name: str) -> list[str]:
    """Keyword arguments a recipe may give in model.options."""
    parameters = inspect.signature(method_class(name).__init__).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "class_weights"]


def build(
    config: ModelConfig,
    num_classes: int,
    *,
    class_weights: Sequence[float] | None = None,
    pretrained: bool | None = None,
) -> Segmenter:
    """Build the network of a recipe.

    Args:
        config: the recipe's `model` section; `backbone_options` may hold `output_stride` beside timm's own options.
        num_classes: two or more.
        class_weights: resolved weights, one a class (`config.class_weights` itself is not read here).
        pretrained: overrides the recipe's; loading a checkpoint and `describe` pass False.

    Raises:
        SegfocusError: unknown method, backbone or option (nearest names offered), or values a method refuses.
    """
    from segfocus.backbone import build_backbone

    cls = method_class(config.method)
    valid = method_options(config.method)
    for key in config.options:
        if key not in valid:
            raise SegfocusError(f"method {config.method}: unknown option '{key}'; {nearest(key, valid)}")
    options = dict(config.backbone_options)
    backbone = build_backbone(
        config.backbone,
        pretrained=config.pretrained if pretrained is None else pretrained,
        output_stride=options.pop("output_stride", None),
        options=options,
    )
    try:
        return cls(backbone, num_classes, class_weights=class_weights, **config.options)  # type: ignore[call-arg]
    except (TypeError, ValueError) as error:  # of the wrong kind, or refused
        raise SegfocusError(f"method {config.method}: {' '.join(str(error).split())}") from error

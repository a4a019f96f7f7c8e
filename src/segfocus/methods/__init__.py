"""The methods by name, and `build`, which turns a recipe's model section into a network."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING

from segfocus.errors import SegfocusError, nearest

if TYPE_CHECKING:
    from torch import nn

    from segfocus.backbone import Backbone
    from segfocus.methods.base import Method
    from segfocus.recipe import ModelConfig

METHODS: dict[str, str] = {
    "context": "segfocus.methods.baselines:ContextNetwork",
    "fornet": "segfocus.methods.fornet:FoRNet",
    "ovenet": "segfocus.methods.ovenet:OVeNet",
    "plain": "segfocus.methods.plain:PlainSegmenter",
    "ranet": "segfocus.methods.ranet:RANet",
    "threshnet": "segfocus.methods.threshnet:ThreshNet",
    "patch_bias": "segfocus.methods.patch_bias:PatchBias",
    "offset_refiner": "segfocus.methods.picture_refiners:OffsetRefiner",
    "focus_refiner": "segfocus.methods.picture_refiners:FocusRefiner",
    "fixed": "segfocus.methods.calibrators:Fixed",
    "global_threshold": "segfocus.methods.calibrators:GlobalThreshold",
    "temperature": "segfocus.methods.calibrators:Temperature",
    "platt": "segfocus.methods.calibrators:Platt",
    "crf": "segfocus.methods.crf:MeanFieldCRF",
    "guided_filter": "segfocus.methods.guided_filter:GuidedFilter",
    "cascadepsp": "segfocus.methods.cascadepsp:CascadePSP",
}
"""name -> where the class lives; classes are imported when asked for"""

SUMMARIES: dict[str, str] = {
    "context": "a context block (PPM, ASPP, non-local, criss-cross, ...) on any backbone, to compare RANet with",
    "fornet": "FoR-Net (Pan et al. 2026): a selector finds hard regions; multi-scale convolutions refine the Top-K",
    "ovenet": "OVeNet (Alexandropoulos et al. 2023): each pixel borrows the prediction of a better one; on any base",
    "plain": "a base alone (light head, HRNet, OCR, SMP, torchvision, SegFormer), to compare with",
    "ranet": "RANet (Shen et al. 2020): pixels form object regions, whose representatives exchange context",
    "threshnet": "ThreshNet (Nagendra et al. 2022, 2024): refines maps of any network, learns per-patch thresholds",
    "patch_bias": "refiner: a small network shifts each patch's logits, to compare ThreshNet with",
    "offset_refiner": "refiner with the picture: OVeNet's offsets on the maps of any network",
    "focus_refiner": "refiner with the picture: FoR-Net's Top-K blocks on the maps of any network",
    "fixed": "refiner: none, cuts the maps at 0.5",
    "global_threshold": "refiner: the one best threshold (or bias of each class)",
    "temperature": "refiner: temperature scaling",
    "platt": "refiner: Platt (of three or more classes vector) scaling",
    "crf": "refiner with the picture: mean-field CRF in a window",
    "guided_filter": "refiner with the picture: guided filter",
    "cascadepsp": "refiner with the picture: CascadePSP of the package segmentation-refinement",
}

BASES: dict[str, str] = {
    "light": "any timm backbone, or 'lite', with a light head",
    "fornet": "FoR-Net on any backbone",
    "hrnet": "HRNetV2 (hrnet_w18, hrnet_w48, ...) as published for segmentation",
    "ocr": "HRNetV2 with object-contextual representations",
    "smp": "segmentation_models_pytorch: architecture, encoder",
    "torchvision": "torchvision's segmentation networks: name",
    "segformer": "SegFormer of transformers: size",
}
"""kind of base (`model.options.base`) -> what it is; see `segfocus.methods.bases`"""


def method_class(name: str) -> type[Method]:
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
    names = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name != "class_weights"]
    return [*names, "base"] if method_class(name).takes == "base" else names


def build(
    config: ModelConfig,
    num_classes: int,
    *,
    class_weights: Sequence[float] | None = None,
    fetch: bool = True,
) -> Method:
    """Build the network of a recipe.

    Args:
        config: the recipe's `model` section; `backbone_options` may hold `output_stride` beside timm's own options.
        num_classes: two or more.
        class_weights: resolved weights, one a class (`config.class_weights` itself is not read here).
        fetch: whether starting weights are read: published ones, or a base's checkpoint.  Loading a checkpoint,
            resuming and `describe` pass False.

    Raises:
        SegfocusError: unknown method, backbone or option (nearest names offered), or values a method refuses.
    """
    cls = method_class(config.method)
    valid = method_options(config.method)
    for key in config.options:
        if key not in valid:
            raise SegfocusError(f"method {config.method}: unknown option '{key}'; {nearest(key, valid)}")
    options = {key: value for key, value in config.options.items() if key != "base"}
    try:
        if cls.takes == "maps":
            if class_weights is not None:
                raise SegfocusError(f"method {config.method}: expected no class weights, got some; try none")
            return cls(num_classes, **options)  # type: ignore[call-arg]
        if cls.takes == "base":
            from segfocus.methods.bases import build_base

            first: nn.Module = build_base(config, num_classes, fetch=fetch)
        else:
            first = configured_backbone(config, fetch and config.pretrained)
        return cls(first, num_classes, class_weights=class_weights, **options)  # type: ignore[call-arg]
    except SegfocusError:
        raise
    except (TypeError, ValueError) as error:  # of the wrong kind, or refused
        raise SegfocusError(f"method {config.method}: {' '.join(str(error).split())}") from error


def configured_backbone(config: ModelConfig, pretrained: bool) -> Backbone:
    """The backbone of a recipe's model section; `pretrained` stands for the section's own."""
    from segfocus.backbone import build_backbone

    options = dict(config.backbone_options)
    stride = options.pop("output_stride", None)
    return build_backbone(config.backbone, pretrained=pretrained, output_stride=stride, options=options)

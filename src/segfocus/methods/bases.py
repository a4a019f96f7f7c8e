"""The bases by kind, and `build_base`, which makes the one that a recipe's `model.options.base` names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor

from segfocus.errors import SegfocusError, nearest
from segfocus.methods import BASES, configured_backbone
from segfocus.methods.base import Base, BaseMaps
from segfocus.methods.fornet import FINE, FoRNet
from segfocus.output import Output

if TYPE_CHECKING:
    from segfocus.recipe import ModelConfig

_GIVEN = {"num_classes": "the data's classes", "pretrained": "model.pretrained"}
"""arguments of the adapters that no recipe gives as an option, and where they come from"""
_MAIN_TERMS = ("ohem", "dice_weight")
"""options of FoR-Net that concern what its logits are trained by"""


class FoRNetBase(Base):
    """FoR-Net as a base: logits and features at stride 4, its selection included.

    Of its losses the selector's and the auxiliary head's (without class weights); what trains the logits is up to
    whoever takes the base.
    """

    stride = feature_stride = FINE

    def __init__(self, net: FoRNet):
        super().__init__()
        self.net = net
        self.num_classes = net.num_classes
        self.feature_channels = net.decoder.classify.in_channels

    def maps(self, image: Float[Tensor, "batch colors height width"], branch_stage: int | None = None) -> BaseMaps:
        return self.net.maps(image)

    def terms(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        return self.net.focus_terms(output, target)


def build_base(config: ModelConfig, num_classes: int, *, fetch: bool) -> Base:
    """The base of a recipe: `model.options.base` {"kind": one of BASES, "checkpoint": file, further options}.

    Args:
        config: the recipe's model section; `backbone`, `pretrained` and `backbone_options` as everywhere.
        num_classes: two or more.
        fetch: whether starting weights (published ones, `checkpoint`) are read; False when all weights follow anyway.

    Raises:
        SegfocusError: unknown kind or option (nearest names offered), or a checkpoint of another network.
    """
    options = config.options.get("base") or {}
    if not isinstance(options, Mapping):
        meant = options if isinstance(options, str) and options in BASES else "light"
        raise SegfocusError(f"model.options.base: expected a mapping, got {options!r}; try '{{kind: {meant}}}'")
    options = dict(options)
    kind, checkpoint = options.pop("kind", "light"), options.pop("checkpoint", None)
    if not isinstance(kind, str) or kind not in BASES:
        raise SegfocusError(f"model.options.base: unknown kind '{kind}'; {nearest(str(kind), BASES)}")
    if config.backbone_options and kind not in ("light", "fornet"):
        raise SegfocusError(
            f"model.backbone_options: expected none with the base {kind}, got {config.backbone_options}; "
            "try model.options.base"
        )
    base = _MAKERS[kind](config, num_classes, options, fetch and config.pretrained and checkpoint is None)
    if checkpoint is not None and fetch:
        _start_from(base, Path(checkpoint), config)
    return base


def _light(config: ModelConfig, num_classes: int, options: dict[str, Any], pretrained: bool) -> Base:
    from segfocus.methods.light import LightBase

    _check_options("light", options, LightBase.__init__, ("backbone", "num_classes"))
    return LightBase(configured_backbone(config, pretrained), num_classes, **options)


def _fornet(config: ModelConfig, num_classes: int, options: dict[str, Any], pretrained: bool) -> Base:
    # whoever takes the base trains its logits: FoR-Net's own main terms would be ignored in silence
    _check_options("fornet", options, FoRNet.__init__, ("backbone", "num_classes", "class_weights", *_MAIN_TERMS))
    return FoRNetBase(FoRNet(configured_backbone(config, pretrained), num_classes, **options))


def _published(name: str) -> Callable[[ModelConfig, int, dict[str, Any], bool], Base]:
    def make(config: ModelConfig, num_classes: int, options: dict[str, Any], pretrained: bool) -> Base:
        cls = getattr(import_module("segfocus.methods.hrnet"), name)
        _check_options(name.lower(), options, cls.__init__, ("variant", "num_classes", "pretrained"))
        return cls(config.backbone, num_classes, pretrained=pretrained, **options)

    return make


def _adapter(name: str, kind: str, example: str) -> Callable[[ModelConfig, int, dict[str, Any], bool], Base]:
    def make(config: ModelConfig, num_classes: int, options: dict[str, Any], pretrained: bool) -> Base:
        cls = getattr(import_module("segfocus.methods.adapters"), name)
        parameters = inspect.signature(cls.__init__).parameters.values()
        needed = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in ("self", *_GIVEN)]
        if missing := [name for name in needed if name not in options]:
            raise SegfocusError(
                f"model.options.base ({kind}): expected {' and '.join(missing)}, got none; "
                f"try '{{kind: {kind}, {example}}}'"
            )
        for key, place in _GIVEN.items():
            if key in options:
                raise SegfocusError(f"model.options.base ({kind}): unknown option '{key}': it comes from {place}")
        return cls(num_classes=num_classes, pretrained=pretrained, **options)

    return make


_MAKERS: Mapping[str, Callable[[ModelConfig, int, dict[str, Any], bool], Base]] = {
    "light": _light,
    "fornet": _fornet,
    "hrnet": _published("HRNet"),
    "ocr": _published("OCR"),
    "smp": _adapter("SMPBase", "smp", "architecture: unet, encoder: resnet34"),
    "torchvision": _adapter("TorchvisionBase", "torchvision", "name: deeplabv3_resnet50"),
    "segformer": _adapter("SegformerBase", "segformer", "size: b0"),
}


def _check_options(kind: str, options: Mapping[str, Any], constructor: Any, taken: tuple[str, ...]) -> None:
    valid = [name for name in inspect.signature(constructor).parameters if name not in (*taken, "self")]
    for key in options:
        if key not in valid:
            raise SegfocusError(f"model.options.base ({kind}): unknown option '{key}'; {nearest(key, valid)}")


def _start_from(base: Base, path: Path, config: ModelConfig) -> None:
    """Weights of a finished run: of the base alone (method plain, or FoR-Net itself), or of a method on such a base."""
    from segfocus.checkpoint import read_metadata, read_tensors

    metadata = read_metadata(path)
    trained, tensors = metadata.recipe.model, read_tensors(path, metadata)
    prefix = "base." if any(name.startswith("base.") for name in tensors) else ""
    if isinstance(base, FoRNetBase) and trained.method == "fornet":
        found = {f"net.{name}": value for name, value in tensors.items()}
    else:
        found = {name.removeprefix("base."): value for name, value in tensors.items() if name.startswith(prefix)}
    expected = base.state_dict()
    if found.keys() != expected.keys() or any(found[name].shape != expected[name].shape for name in expected):
        raise SegfocusError(
            f"model.options.base.checkpoint: expected weights of this base ({config.backbone}), got {path}: a "
            f"{trained.method} on {trained.backbone} with other layers; try the recipe's own base options"
        )
    base.load_state_dict({name: value.to(expected[name].dtype) for name, value in found.items()})

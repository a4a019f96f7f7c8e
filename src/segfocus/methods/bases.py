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
from segfocus.methods import configured_backbone
from segfocus.methods.base import Base, BaseMaps
from segfocus.methods.fornet import FINE, FoRNet
from segfocus.output import Output

if TYPE_CHECKING:
    from segfocus.recipe import ModelConfig

BASES: dict[str, str] = {
    "light": "any timm backbone, or 'lite', with a light head",
    "fornet": "FoR-Net on any backbone",
    "hrnet": "HRNetV2 (hrnet_w18, hrnet_w48, ...) as published for segmentation",
    "ocr": "HRNetV2 with object-contextual representations",
    "smp": "segmentation_models_pytorch: architecture, encoder",
    "torchvision": "torchvision's segmentation networks: name",
    "segformer": "SegFormer of transformers: size",
}
"""kind -> what it is"""


class FoRNetBase(Base):
    """FoR-Net as a base: logits and features at stride 4, its selection and its own losses included."""

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
    options = dict(config.options.get("base") or {})
    kind, checkpoint = options.pop("kind", "light"), options.pop("checkpoint", None)
    if kind not in BASES:
        raise SegfocusError(f"model.options.base: unknown kind '{kind}'; {nearest(str(kind), BASES)}")
    base = _MAKERS[kind](config, num_classes, options, fetch and config.pretrained and checkpoint is None)
    if checkpoint is not None and fetch:
        _start_from(base, Path(checkpoint), config)
    return base


def _light(config: ModelConfig, num_classes: int, options: dict[str, Any], pretrained: bool) -> Base:
    from segfocus.methods.light import LightBase

    _check_options("light", options, LightBase.__init__, ("backbone", "num_classes"))
    return LightBase(configured_backbone(config, pretrained), num_classes, **options)


def _fornet(config: ModelConfig, num_classes: int, options: dict[str, Any], pretrained: bool) -> Base:
    _check_options("fornet", options, FoRNet.__init__, ("backbone", "num_classes", "class_weights"))
    return FoRNetBase(FoRNet(configured_backbone(config, pretrained), num_classes, **options))


def _published(name: str) -> Callable[[ModelConfig, int, dict[str, Any], bool], Base]:
    def make(config: ModelConfig, num_classes: int, options: dict[str, Any], pretrained: bool) -> Base:
        cls = getattr(import_module("segfocus.methods.hrnet"), name)
        _check_options(name.lower(), options, cls.__init__, ("variant", "num_classes", "pretrained"))
        return cls(config.backbone, num_classes, pretrained=pretrained, **options)

    return make


def _adapter(name: str) -> Callable[[ModelConfig, int, dict[str, Any], bool], Base]:
    def make(config: ModelConfig, num_classes: int, options: dict[str, Any], pretrained: bool) -> Base:
        cls = getattr(import_module("segfocus.methods.adapters"), name)
        return cls(num_classes=num_classes, pretrained=pretrained, **options)

    return make


_MAKERS: Mapping[str, Callable[[ModelConfig, int, dict[str, Any], bool], Base]] = {
    "light": _light,
    "fornet": _fornet,
    "hrnet": _published("HRNet"),
    "ocr": _published("OCR"),
    "smp": _adapter("SMPBase"),
    "torchvision": _adapter("TorchvisionBase"),
    "segformer": _adapter("SegformerBase"),
}


def _check_options(kind: str, options: Mapping[str, Any], constructor: Any, taken: tuple[str, ...]) -> None:
    valid = [name for name in inspect.signature(constructor).parameters if name not in (*taken, "self")]
    for key in options:
        if key not in valid:
            raise SegfocusError(f"model.options.base ({kind}): unknown option '{key}'; {nearest(key, valid)}")


def _start_from(base: Base, path: Path, config: ModelConfig) -> None:
    """Weights of a finished run: of the base alone (method plain, or FoR-Net itself), or of a method on such a base."""
    from safetensors.torch import load_file

    from segfocus.checkpoint import read_metadata

    trained = read_metadata(path).recipe.model
    tensors = load_file(path, device="cpu")
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

"""Networks of other libraries as bases: segmentation_models_pytorch, torchvision, and SegFormer of transformers.

Of each network: logits = what its last convolution gives, before the library enlarges them; features = what that
convolution reads.  So `logits == last_convolution(features)` cell by cell, and a further head can read what the
network itself decides by.  The libraries are imported when a base is built, not when this file is.

Where this differs from calling the libraries:
* Pictures are in [0, 1] and of any size: normalisation and padding (right and bottom) happen inside.
* Logits are enlarged by whoever takes them, with the outer edges in place.  segmentation_models_pytorch aligns the
  corner cells' centres instead: its finished networks lose at most half a cell of position.
* A batch of one trains: behind global pooling, BatchNorm then uses its running statistics (PyTorch refuses).
* Parameters that no output depends on (encoder stages below the used depth) are frozen: processes that train together
  would wait for their gradients.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from segfocus.backbone import IMAGENET_MEAN, IMAGENET_STD, standardized
from segfocus.errors import SegfocusError, nearest
from segfocus.methods.base import Base, BaseMaps
from segfocus.ops.resample import pad_to_multiple, resize
from segfocus.output import logit_channels

_SMP_OWN = {"encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params", "upsampling"}
"""arguments that `SMPBase` gives itself, or that concern what comes after the last convolution"""

_SMALL, _LARGE = [32, 64, 160, 256], [64, 128, 320, 512]
SEGFORMER_SIZES: dict[str, dict[str, Any]] = {
    "b0": {"hidden_sizes": _SMALL, "depths": [2, 2, 2, 2], "decoder_hidden_size": 256},
    "b1": {"hidden_sizes": _LARGE, "depths": [2, 2, 2, 2], "decoder_hidden_size": 256},
    "b2": {"hidden_sizes": _LARGE, "depths": [3, 4, 6, 3], "decoder_hidden_size": 768},
    "b3": {"hidden_sizes": _LARGE, "depths": [3, 4, 18, 3], "decoder_hidden_size": 768},
    "b4": {"hidden_sizes": _LARGE, "depths": [3, 8, 27, 3], "decoder_hidden_size": 768},
    "b5": {"hidden_sizes": _LARGE, "depths": [3, 6, 40, 3], "decoder_hidden_size": 768},
}
"""fields of `SegformerConfig` of the published sizes (the paper's Table 6)"""


class SingleValueBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm2d that takes its running statistics when a training batch holds one value a channel.

    So it is behind global pooling with a batch of one; a variance of one value does not exist.
    """

    def forward(self, input: Float[Tensor, "batch channels _ _"]) -> Float[Tensor, "batch channels _ _"]:
        if self.training and input.numel() == input.shape[1]:
            mean, variance = self.running_mean, self.running_var
            return functional.batch_norm(input, mean, variance, self.weight, self.bias, eps=self.eps)
        return super().forward(input)


class Adapter(Base):
    """What the adapters share: normalisation, padding, and strides that are measured, not tabulated.

    Args:
        network: the library's network; gives logits of `logit_channels(num_classes)` channels.
        num_classes: two or more; two classes are one logit.
        multiple, minimum: pixels; pictures are padded to multiples of the one and to at least the other.
        mean, std: of each picture channel, in [0, 1].
    """

    network: Any
    """the library's own, with its parts' names"""

    def __init__(
        self,
        network: nn.Module,
        num_classes: int,
        *,
        multiple: int,
        minimum: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):
        super().__init__()
        self.network, self.num_classes = network, num_classes
        self.multiple, self.minimum = multiple, minimum
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))
        for module in network.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = SingleValueBatchNorm2d  # the same state, another forward

    @abstractmethod
    def _read(self, normalized: Float[Tensor, "batch channels _ _"]) -> BaseMaps:
        """Logits and features of a normalised and padded picture."""

    def maps(self, image: Float[Tensor, "batch channels height width"], branch_stage: int | None = None) -> BaseMaps:
        """Logits and features, both at `stride`, padded picture included.

        Raises:
            ValueError: a `branch_stage`: these networks are taken whole.
        """
        if branch_stage is not None:
            self.branch(branch_stage)  # refuses
        normalized = standardized(image, self.mean, self.std)
        return self._read(pad_to_multiple(normalized, self.multiple, self.minimum))

    def _measure(self) -> None:
        """Read strides and channels off one blank picture; freeze the parameters that its outputs do not depend on."""
        self.eval()
        parameters = [parameter for parameter in self.parameters() if parameter.requires_grad]
        with torch.enable_grad():
            maps = self._read(self.mean.new_zeros(1, self.mean.shape[1], self.minimum, self.minimum))
            outputs = [maps.logits.sum(), *(extra.sum() for extra in maps.auxiliary.values())]
            gradients = torch.autograd.grad(sum(outputs[1:], outputs[0]), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None)
        self.train()
        self.stride = self.minimum // maps.logits.shape[-2]
        self.feature_stride = self.minimum // maps.features.shape[-2]
        self.feature_channels = maps.features.shape[1]


class SMPBase(Adapter):
    """Any architecture of segmentation_models_pytorch on any of its encoders ("tu-..." for timm's).

    Features: what the decoder gives (stride 1: Unet, Unet++, MAnet, Linknet; 4: FPN, DeepLabV3Plus, UPerNet, PAN,
    Segformer; 8: DeepLabV3, PSPNet).  PSPNet and UPerNet export to ONNX for one picture size only: they pool to a
    fixed number of cells.

    Args:
        architecture: "unet", "fpn", "deeplabv3plus", ... in any case; not "dpt" (takes pictures of one size only).
        encoder: "resnet34", "mit_b0", "tu-convnext_tiny", ...
        num_classes: two or more.
        pretrained: fetch the encoder's published weights, and normalise as they expect (otherwise as for ImageNet).
        weights: which ones, where there is a choice.
        in_channels: of the picture.
        options: the architecture's own (`encoder_depth`, `decoder_channels`, ...), and timm's for "tu-" encoders.

    Raises:
        SegfocusError: the library is absent, unknown names or options (nearest offered), or what the library refuses.
    """

    def __init__(
        self,
        architecture: str,
        encoder: str,
        num_classes: int,
        *,
        pretrained: bool = True,
        weights: str = "imagenet",
        in_channels: int = 3,
        **options: Any,
    ):
        library = _library("segmentation_models_pytorch", "segmentation-models-pytorch")
        what, architecture = f"smp {architecture} on {encoder}", architecture.lower()
        architectures = {name: cls for name, cls in library.MODEL_ARCHITECTURES_MAPPING.items() if name != "dpt"}
        _check_known("smp: unknown architecture", [architecture], architectures)
        make = architectures[architecture]
        from_timm = encoder.startswith("tu-")
        if not from_timm:
            _check_known("smp: unknown encoder", [encoder], library.encoders.get_encoder_names())
        # timm refuses what it does not know; for its own encoders the library drops unknown options in silence
        checked = [name for name in options if name in _SMP_OWN or not from_timm]
        known = set(inspect.signature(make.__init__).parameters) - _SMP_OWN - {"self", "kwargs"}
        _check_known(f"{what}: unknown option", checked, known)
        with torch.device("cpu"):  # some encoders read numbers off tensors as they are built: the meta device has none
            network = _build(
                what,
                make,
                encoder_name=encoder,
                encoder_weights=(True if from_timm else weights) if pretrained else None,
                in_channels=in_channels,
                classes=logit_channels(num_classes),
                **options,
            )
        network.to(torch.get_default_device())
        mean, std = _constants(in_channels)
        if pretrained and in_channels == 3:
            expected = _build(what, library.encoders.get_preprocessing_params, encoder_name=encoder, pretrained=weights)
            mean, std = expected["mean"], expected["std"]
        coarsest = network.encoder.output_stride
        cells = 8 if architecture == "pan" else 2  # PAN halves the coarsest map three times more
        super().__init__(network, num_classes, multiple=coarsest, minimum=max(cells * coarsest, 32), mean=mean, std=std)
        self._measure()

    def _read(self, normalized: Float[Tensor, "batch channels _ _"]) -> BaseMaps:
        features = self.network.decoder(self.network.encoder(normalized))
        return BaseMaps(self.network.segmentation_head[0](features), features)


class TorchvisionBase(Adapter):
    """A segmentation network of torchvision: "lraspp_mobilenet_v3_large", "deeplabv3_...", "fcn_...".

    Features: the input of the last 1x1 convolution (stride 8, but 16 for DeepLabV3 on MobileNet; after dropout in
    FCN).  LR-ASPP sums 1x1 convolutions of two maps, which is one of both maps side by side: those are its features.

    Args:
        name: of the network.
        num_classes: two or more.
        pretrained: fetch published weights: of the backbone, or of the whole network where `weights` names them.
        weights: "COCO_WITH_VOC_LABELS_V1" (21 classes) or none; read only if `pretrained`.
        auxiliary: train the second head (not LR-ASPP), with factor 0.5 as in torchvision's reference training.
        options: further ones of the network's builder.

    Raises:
        SegfocusError: unknown name (nearest offered), or what the library refuses.
    """

    def __init__(
        self,
        name: str,
        num_classes: int,
        *,
        pretrained: bool = True,
        weights: str | None = None,
        auxiliary: bool = False,
        **options: Any,
    ):
        library = _library("torchvision.models", "torchvision")
        _check_known("torchvision: unknown network", [name], library.list_models(module=library.segmentation))
        whole = weights if pretrained else None
        chosen: dict[str, Any] = {"weights": whole} if pretrained else {"weights": None, "weights_backbone": None}
        if auxiliary or whole is None:  # published networks have the second head anyway
            chosen["aux_loss"] = auxiliary
        given = {**options, **chosen, "num_classes": logit_channels(num_classes)}
        network = _build(f"torchvision {name}", library.get_model_builder(name), **given)
        if not auxiliary and hasattr(network, "aux_classifier"):
            network.aux_classifier = None
        super().__init__(network, num_classes, multiple=16, minimum=64)
        if auxiliary:
            self.auxiliary_weights = {"auxiliary": 0.5}
        self._measure()

    def _read(self, normalized: Float[Tensor, "batch channels _ _"]) -> BaseMaps:
        found, head = self.network.backbone(normalized), self.network.classifier
        if "low" in found:
            low, high = found["low"], found["high"]
            high = resize(head.cbr(high) * head.scale(high), (low.shape[-2], low.shape[-1]))
            return BaseMaps(head.low_classifier(low) + head.high_classifier(high), torch.cat([low, high], 1))
        features = found["out"]
        for module in list(head)[:-1]:
            features = module(features)
        logits = head[-1](features)
        auxiliary = {}
        if self.network.aux_classifier is not None:  # at stride 8 also where the logits are at 16
            size = (logits.shape[-2], logits.shape[-1])
            auxiliary["auxiliary"] = resize(self.network.aux_classifier(found["aux"]), size)
        return BaseMaps(logits, features, auxiliary)


class SegformerBase(Adapter):
    """SegFormer (Xie et al. 2021, arXiv 2105.15203) of transformers; stride 4.

    Features: the input of the decoder's last 1x1 convolution (256 channels for b0 and b1, 768 above; after dropout).

    Args:
        size: "b0" to "b5", or the fields of a `SegformerConfig` (or one itself).
        num_classes: two or more.
        pretrained: fetch published weights: the ImageNet encoder's, or the whole network's where `weights` names one.
        weights: a finished network on the Hugging Face hub, or its folder; read only if `pretrained`.
        options: fields of `SegformerConfig` (`drop_path_rate`, ...) that replace those of `size`.

    Raises:
        SegfocusError: the library is absent, unknown size or field (nearest offered), or what the library refuses.
    """

    def __init__(
        self,
        size: str | Mapping[str, Any] | Any,
        num_classes: int,
        *,
        pretrained: bool = True,
        weights: str | None = None,
        **options: Any,
    ):
        library = _library("transformers", "transformers")
        if isinstance(size, str):
            _check_known("segformer: unknown size", [size], SEGFORMER_SIZES)
            fields = SEGFORMER_SIZES[size]
        else:
            fields = size if isinstance(size, Mapping) else size.to_diff_dict()
        fields = {name: value for name, value in {**fields, **options}.items() if name not in ("id2label", "label2id")}
        _check_known("segformer: unknown option", fields, library.SegformerConfig().to_dict())
        fields["num_labels"] = logit_channels(num_classes)
        config = _build("segformer", library.SegformerConfig, **fields)
        make = library.SegformerForSemanticSegmentation
        if not pretrained:
            network = _build("segformer", make, config)
        elif weights is None and not isinstance(size, str):
            raise SegfocusError("segformer: expected a size or weights, got a configuration; try pretrained false")
        else:
            source = weights or f"nvidia/mit-{size}"  # the ImageNet encoder
            network = _build(f"segformer {source}", make.from_pretrained, source, config=config)
        mean, std = _constants(config.num_channels)
        # the last convolution moves out of the network, whose public forward then gives the features:
        # the parts inside are named differently from version to version
        classify, network.decode_head.classifier = network.decode_head.classifier, nn.Identity()
        super().__init__(network, num_classes, multiple=32, minimum=64, mean=mean, std=std)
        self.classify = classify
        self._measure()

    def _read(self, normalized: Float[Tensor, "batch channels _ _"]) -> BaseMaps:
        features = self.network(normalized).logits
        return BaseMaps(self.classify(features), features)


def _library(module: str, package: str) -> Any:
    """The library, or one line that says how to install it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # it is there, and misses something of its own
        raise SegfocusError(f"expected the package {package}, got none installed; try pip install {package}") from error


def _check_known(what: str, names: Iterable[str], valid: Iterable[str]) -> None:
    known = set(valid)
    for name in names:
        if name not in known:
            raise SegfocusError(f"{what} '{name}'; {nearest(name, known)}")


def _constants(in_channels: int) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation where no published weights prescribe them."""
    if in_channels == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (0.5,) * in_channels, (0.25,) * in_channels


def _build(what: str, make: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Call the library; whatever it refuses becomes one line."""
    try:
        return make(*arguments, **options)
    except OSError as error:
        raise SegfocusError(
            f"{what}: expected to fetch its published weights, got {type(error).__name__}; "
            "try --model.pretrained false to start from random weights"
        ) from error
    except (TypeError, ValueError, KeyError, RuntimeError, NotImplementedError, AssertionError) as error:
        reason = " ".join(str(error).split())
        raise SegfocusError(f"{what}: the library refused it: {reason}; try other options") from error

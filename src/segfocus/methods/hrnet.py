"""HRNet for segmentation (HRNetV2), plain and with object-contextual representations (OCR): bases to build on.

Wang, Sun, Cheng, Jiang, Deng, Zhao, Liu, Mu, Tan, Wang, Liu, Xiao, "Deep High-Resolution Representation Learning for
Visual Recognition", TPAMI 2020 (arXiv 1908.07919).
Yuan, Chen, Wang, "Object-Contextual Representations for Semantic Segmentation", ECCV 2020 (arXiv 1909.11065).

| here | there | what |
|---|---|---|
| streams | high-to-low resolution streams | up to four maps, at strides 4, 8, 16 and 32, that fuse again and again |
| features | HRNetV2 representation | all streams enlarged to stride 4, side by side (720 channels in W48) |
| soft regions | M_k, auxiliary prediction | one logit a class and cell, supervised by the labels |
| pixels | x_i | 3x3 convolution of the features |
| regions | f_k = sum_i m_ki x_i | mean pixel of each class, m_k = softmax of M_k over the picture |
| context | y_i = rho(sum_k w_ik delta(f_k)) | attention w_ik = softmax_k(phi(x_i) . psi(f_k) / sqrt(d)) |
| augmented | z_i = g([y_i, x_i]) | what the classifier of OCR reads |

The modules are timm's, with its ImageNet weights; the forward pass, the heads and OCR are written here.

Where this differs:
* timm's fusion enlarges coarse streams by nearest neighbour (its classification code); here it is bilinear, as in the
  segmentation networks, with align_corners=False (the released OCR code: True).
* Padding (to multiples of 32) takes no part in the regions of OCR.
* A binary task has one logit z; OCR then gathers the two regions of -z and z.
* BatchNorm keeps PyTorch's momentum 0.1 (as released with OCR); released without OCR: 0.01, which takes some hundred
  steps to forget how the running statistics began.
* The classification head starts from N(0, 0.001), as released without OCR; the released OCR code leaves the head of
  its soft regions at PyTorch's default.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from segfocus.backbone import TimmBackbone
from segfocus.errors import SegfocusError
from segfocus.layers import ConvNormAct
from segfocus.methods.base import Base, BaseMaps
from segfocus.ops.resample import resize
from segfocus.output import logit_channels

STRIDE = 4
"""side of a cell of the finest stream, and of logits and features, in input pixels"""

LAST_STAGE = 4
"""stages are numbered from 1, as in the paper; stage n fuses n streams"""


class Enlarge(nn.Module):
    """Bilinear, by a whole factor."""

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels _ _"]:
        return resize(x, (x.shape[-2] * self.factor, x.shape[-1] * self.factor))

    def extra_repr(self) -> str:
        return str(self.factor)


def fuse_bilinear(network: nn.Module) -> None:
    """Replace every nearest-neighbour enlargement inside `network`; the state dict stays what it was."""
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Upsample):
                setattr(parent, name, Enlarge(int(child.scale_factor)))  # type: ignore[arg-type]


def advance(transition: nn.ModuleList, stage: nn.Module, streams: Sequence[Tensor]) -> list[Tensor]:
    """One stage: streams that exist go on, new ones begin from the coarsest; then the stage's modules, which fuse."""
    entering = [
        streams[index] if isinstance(begin, nn.Identity) else begin(streams[-1])
        for index, begin in enumerate(transition)
    ]
    return stage(entering)


def concatenate(streams: Sequence[Tensor]) -> Float[Tensor, "batch features rows columns"]:
    """All streams on the grid of the finest."""
    size = (streams[0].shape[-2], streams[0].shape[-1])
    return torch.cat([resize(stream, size) for stream in streams], 1)


def classification_head(channels: int, outputs: int) -> nn.Sequential:
    """1x1 convolution, BatchNorm, ReLU, 1x1 convolution to logits; both convolutions have a bias."""
    head = nn.Sequential(
        nn.Conv2d(channels, channels, 1),
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, outputs, 1),
    )
    for module in head:
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.001)
    return head


def set_norm_momentum(network: nn.Module, momentum: float) -> None:
    """Of every BatchNorm: the share of a batch in the running statistics.

    Raises:
        ValueError: outside (0, 1].
    """
    if not isinstance(momentum, (int, float)) or not 0 < momentum <= 1:
        raise ValueError(f"norm_momentum: expected a share in (0, 1], got {momentum!r}; try 0.1, or 0.01 as released")
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = momentum


class HRNetBranch(nn.Module):
    """A second path through the last stages: streams before the first of them -> features at stride 4."""

    def __init__(self, transitions: Sequence[nn.ModuleList], stages: Sequence[nn.Module]):
        super().__init__()
        self.transitions = nn.ModuleList(transitions)
        self.stages = nn.ModuleList(stages)

    def forward(self, shared: tuple[Tensor, ...]) -> Float[Tensor, "batch features rows columns"]:
        streams: Sequence[Tensor] = shared
        for transition, stage in zip(self.transitions, self.stages, strict=True):
            assert isinstance(transition, nn.ModuleList)
            streams = advance(transition, stage, streams)
        return concatenate(streams)


class HRNet(Base):
    """HRNetV2 for segmentation: W48 has 65,859,379 parameters at 19 classes.

    Logits and features are at stride 4 of the picture, padded to multiples of 32 (at least 64 px).

    Args:
        variant: an HRNet of timm ("hrnet_w48", "hrnet_w18_small", "hrnet_w48_ssld.paddle_in1k", ...).
        num_classes: two or more; two are one logit.
        pretrained: fetch timm's ImageNet weights.
        in_channels: of the picture.
        norm_momentum: share of a batch in BatchNorm's running statistics, in (0, 1].

    Raises:
        SegfocusError: no HRNet of timm, or weights that cannot be fetched.
        ValueError: fewer than two classes, a momentum outside (0, 1].
    """

    stride = STRIDE
    feature_stride = STRIDE
    branch_stages = (3, 4)

    def __init__(
        self,
        variant: str,
        num_classes: int,
        *,
        pretrained: bool = True,
        in_channels: int = 3,
        norm_momentum: float = 0.1,
    ):
        super().__init__()
        if not variant.startswith("hrnet_"):
            raise SegfocusError(f"backbone '{variant}': expected an HRNet of timm for this base; try hrnet_w48")
        outputs = logit_channels(num_classes)
        self.num_classes = num_classes
        self.backbone = TimmBackbone(
            variant, pretrained=pretrained, in_channels=in_channels, options={"feature_location": ""}
        )
        fuse_bilinear(self.backbone)
        self.feature_channels = sum(self.backbone.channels)
        self.head = classification_head(self.feature_channels, outputs)
        set_norm_momentum(self, norm_momentum)

    def maps(self, image: Float[Tensor, "batch channels height width"], branch_stage: int | None = None) -> BaseMaps:
        if branch_stage is not None:
            self._check_stage(branch_stage)
        network = self.backbone.network
        stem = network.act1(network.bn1(network.conv1(self.backbone.normalize(image))))
        stem = network.act2(network.bn2(network.conv2(stem)))
        streams: list[Tensor] = [network.layer1(stem)]
        shared: tuple[Tensor, ...] = ()
        for number in range(2, LAST_STAGE + 1):
            if number == branch_stage:
                shared = tuple(streams)
            streams = advance(*self._stage(number), streams)
        features = concatenate(streams)
        return BaseMaps(self.head(features), features, shared=shared)

    def branch(self, stage: int) -> HRNetBranch:
        """A copy of everything from `stage` (3 or 4) on, each stage one module shorter (OVeNet's offset branch).

        Called with the `shared` maps of `maps(image, branch_stage=stage)`; gives `feature_channels` at stride 4.
        The copy trains, also where this network is frozen.

        Raises:
            ValueError: no stage 3 or 4.
        """
        self._check_stage(stage)
        parts = [self._stage(number) for number in range(stage, LAST_STAGE + 1)]
        copy = HRNetBranch(
            [deepcopy(transition) for transition, _ in parts],
            [deepcopy(modules[: max(1, len(modules) - 1)]) for _, modules in parts],
        )
        return copy.requires_grad_(True)

    def _check_stage(self, number: int) -> None:
        if number not in self.branch_stages:
            super().branch(number)  # raises, naming the stages there are

    def _stage(self, number: int) -> tuple[nn.ModuleList, nn.Sequential]:
        network = self.backbone.network
        return getattr(network, f"transition{number - 1}"), getattr(network, f"stage{number}")


class ObjectContext(nn.Module):
    """From pixels and soft regions to pixels that know the regions they belong to (OCR's attention).

    Args:
        channels: of the pixels, in and out.
        key_channels: in which pixels and regions are compared.
        dropout: share of the channels dropped while training, in [0, 1].
    """

    def __init__(self, channels: int, key_channels: int, dropout: float):
        super().__init__()
        self.pixel_key = _two_convolutions(channels, key_channels)  # phi
        self.region_key = _two_convolutions(channels, key_channels)  # psi
        self.region_value = ConvNormAct(channels, key_channels, 1)  # delta
        self.expand = ConvNormAct(key_channels, channels, 1)  # rho
        self.merge = nn.Sequential(ConvNormAct(2 * channels, channels, 1), nn.Dropout2d(dropout))  # g

    def forward(
        self,
        pixels: Float[Tensor, "batch channels rows columns"],
        regions: Float[Tensor, "batch channels regions 1"],
    ) -> Float[Tensor, "batch channels rows columns"]:
        attended = functional.scaled_dot_product_attention(
            _as_sequence(self.pixel_key(pixels)),
            _as_sequence(self.region_key(regions)),
            _as_sequence(self.region_value(regions)),
        )
        context = self.expand(attended[:, 0].transpose(1, 2).unflatten(2, (pixels.shape[-2], pixels.shape[-1])))
        return self.merge(torch.cat([context, pixels], 1))


def gather_regions(
    pixels: Float[Tensor, "batch channels rows columns"],
    soft_regions: Float[Tensor, "batch regions rows columns"],
    inside: Bool[Tensor, "rows columns"],
) -> Float[Tensor, "batch channels regions 1"]:
    """The mean pixel of each region, weighted by the softmax of its logits over the cells inside the picture."""
    weights = soft_regions.masked_fill(~inside, -torch.inf).flatten(2).softmax(2)
    return (pixels.flatten(2) @ weights.transpose(1, 2)).unsqueeze(3)


class OCR(Base):
    """HRNet with object-contextual representations: W48 has 70,372,678 parameters at 19 classes.

    Its features are HRNet's: OVeNet's offset branch does not see the object context.
    The soft regions are an auxiliary prediction of their own ("soft_regions").

    Args:
        variant, num_classes, pretrained, in_channels, norm_momentum: see `HRNet`.
        channels: of the pixels that the classifier reads.
        key_channels: in which pixels and regions are compared.
        dropout: share of the augmented pixels' channels that is dropped while training, in [0, 1].
        soft_regions_weight: factor of the loss of the soft regions.

    Raises:
        SegfocusError, ValueError: as `HRNet`; ValueError also for a dropout outside [0, 1] or a negative weight.
    """

    stride = STRIDE
    feature_stride = STRIDE
    branch_stages = HRNet.branch_stages

    def __init__(
        self,
        variant: str,
        num_classes: int,
        *,
        pretrained: bool = True,
        in_channels: int = 3,
        norm_momentum: float = 0.1,
        channels: int = 512,
        key_channels: int = 256,
        dropout: float = 0.05,
        soft_regions_weight: float = 0.4,
    ):
        super().__init__()
        if not 0 <= dropout <= 1:
            raise ValueError(f"dropout: expected a share in [0, 1], got {dropout}; try 0.05")
        if soft_regions_weight < 0:
            raise ValueError(f"soft_regions_weight: expected 0 or more, got {soft_regions_weight}; try 0.4")
        self.hrnet = HRNet(variant, num_classes, pretrained=pretrained, in_channels=in_channels)
        self.num_classes = num_classes
        self.feature_channels = self.hrnet.feature_channels
        self.auxiliary_weights = {"soft_regions": soft_regions_weight}
        self.pixels = nn.Sequential(
            nn.Conv2d(self.feature_channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)
        )
        self.object_context = ObjectContext(channels, key_channels, dropout)
        self.classify = nn.Conv2d(channels, logit_channels(num_classes), 1)
        set_norm_momentum(self, norm_momentum)

    def maps(self, image: Float[Tensor, "batch channels height width"], branch_stage: int | None = None) -> BaseMaps:
        hrnet = self.hrnet.maps(image, branch_stage)
        pixels = self.pixels(hrnet.features)
        soft_regions = hrnet.logits if self.num_classes > 2 else torch.cat([-hrnet.logits, hrnet.logits], 1)
        # by comparison, not by cutting: a graph is exported once for all sizes, with and without padding
        rows, columns = (
            STRIDE * torch.arange(cells, device=image.device) < length
            for cells, length in zip(pixels.shape[-2:], image.shape[-2:], strict=True)
        )
        regions = gather_regions(pixels, soft_regions, rows[:, None] & columns)
        logits = self.classify(self.object_context(pixels, regions))
        return BaseMaps(logits, hrnet.features, auxiliary={"soft_regions": hrnet.logits}, shared=hrnet.shared)

    def branch(self, stage: int) -> HRNetBranch:
        """The branch of `HRNet`."""
        return self.hrnet.branch(stage)


def _two_convolutions(channels: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(ConvNormAct(channels, outputs, 1), ConvNormAct(outputs, outputs, 1))


def _as_sequence(
    maps: Float[Tensor, "batch channels rows columns"],
) -> Float[Tensor, "batch 1 positions channels"]:
    return maps.flatten(2).transpose(1, 2).unsqueeze(1)

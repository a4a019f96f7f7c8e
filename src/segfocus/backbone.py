"""Backbones: picture -> feature maps, finest first, none finer than stride 4.

Any timm model with `features_only` works; `lite` is our own trunk for networks trained from scratch on small budgets.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from segfocus.errors import SegfocusError
from segfocus.layers import ConvNormAct
from segfocus.ops.resample import pad_to_multiple

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def standardized(
    image: Float[Tensor, "batch channels height width"],
    mean: Float[Tensor, "1 channels 1 1"],
    std: Float[Tensor, "1 channels 1 1"],
) -> Float[Tensor, "batch channels height width"]:
    """(image - mean) / std."""
    interleaved = image.is_contiguous(memory_format=torch.channels_last) and not image.is_contiguous()
    if torch.compiler.is_compiling() or not interleaved:
        return (image - mean) / std
    # the same numbers by whole rows of pixels: three channels at a time leave a processor's vectors empty
    _, channels, _, width = image.shape
    rows = image.permute(0, 2, 3, 1).flatten(2) - mean.flatten().repeat(width)
    return rows.div_(std.flatten().repeat(width)).unflatten(2, (width, channels)).permute(0, 3, 1, 2)


class Backbone(nn.Module, ABC):
    """Picture in [0, 1] -> list of feature maps "batch channels h w", finest first.

    `channels` and `strides` describe the maps; `multiple` and `minimum` (pixels) the sizes that `normalize` pads to, so
    that the coarsest map has at least 2x2 cells.  A map has ceil(padded size / stride) cells; its cell (r, c) begins at
    pixel (r * stride, c * stride): go from one map to another by strides (`ops.resample.enlarge`), not by sizes.
    """

    def __init__(
        self,
        channels: Sequence[int],
        strides: Sequence[int],
        multiple: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ):
        super().__init__()
        self.channels, self.strides = tuple(channels), tuple(strides)
        self.multiple, self.minimum = multiple, 2 * max(strides)
        self.mean: Tensor
        self.std: Tensor
        # in the state dict, so that a checkpoint cannot be used with other constants
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def normalize(self, image: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels _ _"]:
        """Normalise, then pad right and bottom with the mean colour (zeros)."""
        return pad_to_multiple(standardized(image, self.mean, self.std), self.multiple, self.minimum)

    @abstractmethod
    def maps(self, normalized: Float[Tensor, "batch channels _ _"]) -> list[Tensor]:
        """Feature maps of a normalised and padded picture."""

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> list[Tensor]:
        return self.maps(self.normalize(image))


class TimmBackbone(Backbone):
    """Any timm model as a backbone.

    `options` go to timm as they are (`img_size`, `feature_location`, ...); `output_stride` 8 or 16 where the model
    family supports it.

    Raises:
        SegfocusError: unknown model (nearest names), options the model refuses, weights that cannot be fetched.
    """

    def __init__(
        self,
        name: str,
        *,
        pretrained: bool = True,
        in_channels: int = 3,
        output_stride: int | None = None,
        options: dict[str, Any] | None = None,
    ):
        network = _create(name, pretrained, in_channels, output_stride, options or {})
        strides, channels = network.feature_info.reduction(), network.feature_info.channels()
        if output_stride is not None and max(strides) != output_stride:  # some families ignore what they do not know
            raise SegfocusError(
                f"backbone '{name}': expected maps down to stride {output_stride}, got {max(strides)}: this family "
                "does not support output_stride; try without it, or a resnet"
            )
        kept = [index for index, stride in enumerate(strides) if stride >= 4]
        configuration = getattr(network, "pretrained_cfg", None) or {}
        mean = configuration.get("mean", IMAGENET_MEAN) if in_channels == 3 else (0.5,) * in_channels
        std = configuration.get("std", IMAGENET_STD) if in_channels == 3 else (0.25,) * in_channels
        super().__init__(
            [channels[index] for index in kept],
            [strides[index] for index in kept],
            math.lcm(max(strides), 8),  # networks here work on grids of stride 4 and 8 beside the backbone's own
            mean,
            std,
        )
        self.network = network
        self.kept = kept
        self.channels_last_maps = str(getattr(network, "output_fmt", None) or "NCHW").endswith("NHWC")

    def maps(self, normalized: Float[Tensor, "batch channels _ _"]) -> list[Tensor]:
        height, width = normalized.shape[-2:]
        if torch.compiler.is_compiling():
            maps = self.network(normalized)
        else:
            try:
                maps = self.network(normalized)
            except AssertionError as error:  # how timm refuses a size it was not built for
                raise SegfocusError(
                    f"backbone {type(self.network).__name__}: it takes no pictures of {height}x{width} px: {error}; "
                    "try --model.backbone_options.dynamic_img_size true, or backbone_options.img_size"
                ) from error
        # the finer maps are dropped after the forward: `out_indices` would renumber stages in some families
        maps = [maps[index] for index in self.kept]
        return [m.permute(0, 3, 1, 2) if self.channels_last_maps else m for m in maps]


def _create(name: str, pretrained: bool, in_channels: int, output_stride: int | None, options: dict[str, Any]) -> Any:
    import timm

    bare = name.split(".")[0]
    if not timm.is_model(bare):
        close = difflib.get_close_matches(bare, ["lite", *timm.list_models()], n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(close)}?" if close else "see timm.list_models()"
        raise SegfocusError(f"unknown backbone '{name}': expected 'lite' or a timm model; {hint}")
    extra = dict(options) if output_stride is None else {"output_stride": output_stride, **options}
    try:
        return timm.create_model(name, features_only=True, pretrained=pretrained, in_chans=in_channels, **extra)
    except OSError as error:
        raise SegfocusError(
            f"backbone '{name}': expected to fetch its published weights, got {type(error).__name__}; "
            "try --model.pretrained false to start from random weights"
        ) from error
    except (TypeError, ValueError, NotImplementedError, AssertionError, RuntimeError) as error:
        raise SegfocusError(
            f"backbone '{name}': timm refused it (pretrained {str(pretrained).lower()}, options {extra}): {error}; "
            "try --model.pretrained false, or other model.backbone_options"
        ) from error


class LiteBlock(nn.Module):
    """x + BN(1x1(ReLU(BN(3x3(x))))), then ReLU."""

    def __init__(self, channels: int):
        super().__init__()
        self.spatial = ConvNormAct(channels, channels, 3)
        self.mix = ConvNormAct(channels, channels, 1, act=False)

    def forward(self, x: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
        return functional.relu(x + self.mix(self.spatial(x)), inplace=True)


class LiteBackbone(Backbone):
    """Our trunk for lite networks: plain 3x3 and 1x1 convolutions, maps at strides 4, 8, 16 and 32.

    Plain convolutions with channels in multiples of 16 run at 60 to 87 % of a CPU's peak where depthwise, dilated
    or shuffled ones reach 20 to 50 %, so equal MACs cost less time.  No published weights.
    """

    def __init__(
        self,
        widths: Sequence[int] = (32, 32, 64, 128, 160),
        depths: Sequence[int] = (0, 2, 2, 2),
        in_channels: int = 3,
    ):
        numbers = [*widths, *depths]
        if len(widths) != 5 or len(depths) != 4 or not all(isinstance(n, int) and n >= 0 for n in numbers):
            raise SegfocusError(f"lite backbone: expected 5 widths and 4 depths, got {list(widths)} and {list(depths)}")
        colours = in_channels == 3
        super().__init__(
            widths[1:],
            (4, 8, 16, 32),
            8,
            IMAGENET_MEAN if colours else (0.5,) * in_channels,
            IMAGENET_STD if colours else (0.25,) * in_channels,
        )
        self.stem = ConvNormAct(in_channels, widths[0], 3, stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(
                ConvNormAct(widths[i], widths[i + 1], 3, stride=2), *(LiteBlock(widths[i + 1]) for _ in range(depth))
            )
            for i, depth in enumerate(depths)
        )

    def maps(self, normalized: Float[Tensor, "batch channels _ _"]) -> list[Tensor]:
        maps = [self.stem(normalized)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


def build_backbone(
    name: str,
    *,
    pretrained: bool = True,
    in_channels: int = 3,
    output_stride: int | None = None,
    options: dict[str, Any] | None = None,
) -> Backbone:
    """'lite' or any timm model; see `LiteBackbone` and `TimmBackbone` for the options and errors."""
    if name != "lite":
        return TimmBackbone(
            name, pretrained=pretrained, in_channels=in_channels, output_stride=output_stride, options=options
        )
    if output_stride not in (None, 32):
        raise SegfocusError(f"backbone 'lite': expected output_stride 32 or none, got {output_stride}")
    unknown = set(options or {}) - {"widths", "depths"}
    if unknown:
        raise SegfocusError(
            f"backbone 'lite': expected the options widths and depths, got {', '.join(sorted(unknown))}"
        )
    for key, value in (options or {}).items():
        if not isinstance(value, list | tuple):
            raise SegfocusError(f"backbone 'lite': expected a list for {key}, got {value!r}")
    return LiteBackbone(in_channels=in_channels, **(options or {}))

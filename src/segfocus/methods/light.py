"""A light head that makes a Base of any backbone: every map projected, enlarged to the finest grid, summed."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from segfocus.backbone import Backbone
from segfocus.layers import ConvNormAct
from segfocus.methods.base import Base, BaseMaps
from segfocus.ops.resample import enlarge
from segfocus.output import logit_channels


class LightBase(Base):
    """Any backbone with a light head.

    features = ConvNormAct3x3(ReLU(BN(sum over maps of enlarge(1x1(map)))));  logits = 1x1(features).

    Both lie on the grid of the backbone's finest map: stride 4 for pyramids, the patch size for vision transformers,
    whose maps all have the same stride and are simply summed.

    Args:
        backbone: gives the maps, and normalises and pads the picture.
        num_classes: two or more; two classes are one logit.
        channels: of the features, at least 1.

    Raises:
        ValueError: fewer than two classes, or no channels.
    """

    sums_before_norm: ClassVar[dict[str, tuple[str, ...]]] = {"join.0": ("project",)}

    def __init__(self, backbone: Backbone, num_classes: int, *, channels: int = 128):
        super().__init__()
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels: expected a whole number from 1, got {channels!r}; try 128")
        outputs = logit_channels(num_classes)
        self.num_classes = num_classes
        self.stride = self.feature_stride = backbone.strides[0]
        self.feature_channels = channels
        self.backbone = backbone
        self.project = nn.ModuleList(nn.Conv2d(inputs, channels, 1, bias=False) for inputs in backbone.channels)
        self.join = nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.mix = ConvNormAct(channels, channels, 3)
        self.classify = nn.Conv2d(channels, outputs, 1)

    def maps(self, image: Float[Tensor, "batch channels height width"], branch_stage: int | None = None) -> BaseMaps:
        """Logits and features, both at `stride`, padded picture included.

        Raises:
            ValueError: a `branch_stage`: a light head has no stages to branch at.
        """
        if branch_stage is not None:
            self.branch(branch_stage)  # refuses
        maps = self.backbone(image)
        grid = (maps[0].shape[-2], maps[0].shape[-1])
        total = self.project[0](maps[0])
        for project, coarse, stride in zip(self.project[1:], maps[1:], self.backbone.strides[1:], strict=True):
            total = total + enlarge(project(coarse), stride, self.stride, grid)
        features = self.mix(self.join(total))
        return BaseMaps(self.classify(features), features)

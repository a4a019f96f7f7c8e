"""Networks to compare RANet with: stride-8 features, one context block, one classifier (Shen et al. 2020, Tables 1, 3).

RANet makes its features in the same way: such a network and RANet differ in the block alone.  The blocks and their
sources are in `context_blocks` and `attention_blocks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from segfocus.backbone import Backbone
from segfocus.layers import ConvNormAct
from segfocus.losses import cross_entropy, ohem_cross_entropy
from segfocus.methods.attention_blocks import (
    AsymmetricNonLocal,
    CrissCross,
    DualAttention,
    NonLocal,
    PointwiseSpatialAttention,
)
from segfocus.methods.base import Segmenter, check_choice, check_class_weights, check_count, check_number
from segfocus.methods.context_blocks import AtrousPyramid, ContextBlock, NoContext, PyramidPooling
from segfocus.methods.features import STRIDE, Stride8Features
from segfocus.ops.resample import enlarge
from segfocus.output import Output, logit_channels

BLOCKS: dict[str, type[ContextBlock]] = {
    "none": NoContext,
    "ppm": PyramidPooling,
    "aspp": AtrousPyramid,
    "non_local": NonLocal,
    "asymmetric_non_local": AsymmetricNonLocal,
    "criss_cross": CrissCross,
    "dual": DualAttention,
    "psa": PointwiseSpatialAttention,
}


def build_block(name: str, channels: int, map_size: int | Sequence[int] = 49) -> ContextBlock:
    """A context block by name.

    Args:
        name: one of `BLOCKS`.
        channels: of the features, a multiple of 8.
        map_size: of "psa" alone: rows and columns (one number: both) that its predictions reach, in cells.

    Raises:
        ValueError: an unknown name, channels or map sizes outside what is named above.
    """
    check_choice("block", name, tuple(BLOCKS))
    check_count("channels", channels, "512, or 128")
    if channels % 8:
        raise ValueError(f"channels: expected a multiple of 8, got {channels!r}; try 512, or 128")
    size = list(map_size) if isinstance(map_size, Sequence) else [map_size, map_size]
    for value in size:
        check_count("map_size", value, 49)
    if len(size) != 2:
        raise ValueError(f"map_size: expected cells from 1, one number or [rows, columns], got {map_size!r}; try 49")
    if name == "psa":
        return PointwiseSpatialAttention(channels, (size[0], size[1]))
    return BLOCKS[name](channels)


class ContextNetwork(Segmenter):
    """features at stride 8 -> context block -> 1x1 -> enlarged; a second, plain head helps training (as PSPNet).

    Args:
        backbone: gives the maps, and normalises and pads the picture.
        num_classes: two or more; two classes are one logit.
        block: a name of `BLOCKS`; "none" is a plain FCN.
        channels: of the features, a multiple of 8.
        neck: how the features are made from the backbone's maps, see `Stride8Features`.
        map_size: of the block "psa": rows and columns that its predictions reach, in cells of 8 px.
        auxiliary_weight: factor of the loss of a plain head on the last but one map; 0: no such head.
        dropout: share of channels before a classifier, [0, 1).
        ohem: online hard example mining instead of the plain cross-entropy, for the main logits.
        class_weights: of the cross-entropies, one a class.

    Raises:
        ValueError: choices and numbers outside what is named above.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        block: Literal[
            "none", "ppm", "aspp", "non_local", "asymmetric_non_local", "criss_cross", "dual", "psa"
        ] = "ppm",
        channels: int = 512,
        neck: Literal["deepest", "sum"] = "deepest",
        map_size: int | Sequence[int] = 49,
        auxiliary_weight: float = 0.4,
        dropout: float = 0.1,
        ohem: bool = False,
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__()
        outputs = logit_channels(num_classes)
        check_number("auxiliary_weight", auxiliary_weight, 0.4)
        check_number("dropout", dropout, 0.1, below=1)
        if not isinstance(ohem, bool):
            raise ValueError(f"ohem: expected true or false, got {ohem!r}; try false")
        check_class_weights(class_weights, num_classes)
        self.num_classes, self.auxiliary_weight, self.ohem = num_classes, auxiliary_weight, ohem
        self.block = build_block(block, channels, map_size)  # first: it refuses what the features would trip over
        self.features = Stride8Features(backbone, channels, neck)
        self.classify = nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(self.block.out_channels, outputs, 1))
        self.auxiliary: nn.Module | None = None
        if auxiliary_weight > 0:
            inner = max(channels // 2, 8)
            self.auxiliary = nn.Sequential(
                ConvNormAct(self.features.auxiliary_channels, inner, 3),
                nn.Dropout2d(dropout),
                nn.Conv2d(inner, outputs, 1),
            )
        self.class_weights: Tensor | None
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Output:
        size = (image.shape[-2], image.shape[-1])
        features, auxiliary = self.features(image)
        logits = enlarge(self.classify(self.block(features)), STRIDE, 1, size)
        if self.auxiliary is None:
            return Output(logits=logits)
        return Output(logits=logits, aux_logits={"auxiliary": self.auxiliary(auxiliary)})

    def loss(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        """Cross-entropy (or OHEM) of the logits; `auxiliary_weight` times that of the second head."""
        main = ohem_cross_entropy if self.ohem else cross_entropy
        terms = {"cross_entropy": main(output.logits, target, class_weights=self.class_weights)}
        if self.auxiliary is not None:
            size = (target.shape[-2], target.shape[-1])
            large = enlarge(output.aux_logits["auxiliary"], STRIDE, 1, size)
            loss = cross_entropy(large, target, class_weights=self.class_weights)
            terms["auxiliary"] = self.auxiliary_weight * loss
        return terms

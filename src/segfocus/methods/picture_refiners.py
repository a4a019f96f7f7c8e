"""Refiners that read the picture beside another network's probability map: a small trunk of shared design, then the
idea of OVeNet or that of FoR-Net.

* `OffsetRefiner`: each pixel may take what the map says at another pixel (Alexandropoulos et al., WACV 2024; see
  `segfocus.methods.ovenet`, whose head, fusion and losses these are).
* `FocusRefiner`: a selector finds the blocks where the map is likely wrong, convolutions of several reaches correct the
  Top-K of them, the others stay bit for bit (Pan et al. 2026; see `segfocus.methods.fornet`, whose parts these are).

Designs of this package's own: both papers have a network that sees the picture alone.

Where they differ from those methods:
* The base is anyone's map, which cannot be trained; logits are at the resolution of the picture, as is the map.
* OffsetRefiner has no loss on the map's own prediction (a constant), and reaches 16 pixels (there: 64).
* FocusRefiner's selector learns where the map is wrong.  There: where boundaries of classes are.

Untrained networks change nothing: their last layers start at zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from segfocus.data.classes import IGNORE
from segfocus.errors import SegfocusError
from segfocus.layers import ConvNormAct
from segfocus.losses import boundary_cross_entropy, cross_entropy, soft_dice
from segfocus.methods.base import Base, BaseMaps, Refiner, check_count, check_number
from segfocus.methods.base_logits import LEAST, base_logits
from segfocus.methods.fornet_blocks import Branch, Context
from segfocus.methods.fornet_options import check_branches
from segfocus.methods.fornet_selectors import ScoreHead
from segfocus.methods.ovenet import OVeNet
from segfocus.ops.resample import ceil_div, cell_means, enlarge, expand_blocks, resize
from segfocus.ops.selection import block_means, check_share, straight_through, top_k_masks
from segfocus.output import Output, logit_channels

CELL = 4
"""stride of the trunk's features, pixels"""
COARSEST = 16
"""of the trunk's maps: what it sees goes on as it ends, up to a multiple of so many pixels"""
COLORS = 3


class MapAndPicture(Base):
    """The trunk: the map's logits beside the picture -> the same logits, and features of stride 4.

    One convolution at full resolution, strides 2 to 16, summed again at stride 4.
    """

    stride = 1
    feature_stride = CELL

    def __init__(self, num_classes: int, *, fine: int, width: int):
        super().__init__()
        self.num_classes, self.feature_channels = num_classes, width
        self.channels = logit_channels(num_classes)
        self.fine = ConvNormAct(2 * self.channels + COLORS, fine)
        self.down = nn.Sequential(ConvNormAct(fine, 2 * fine, 3, 2), ConvNormAct(2 * fine, width, 3, 2))
        self.stride4 = ConvNormAct(width, width)
        self.stride8 = nn.Sequential(ConvNormAct(width, width, 3, 2), ConvNormAct(width, width))
        self.stride16 = nn.Sequential(ConvNormAct(width, width, 3, 2), ConvNormAct(width, width))
        self.join = ConvNormAct(width, width)

    def maps(self, image: Float[Tensor, "batch colors height width"], branch_stage: int | None = None) -> BaseMaps:
        """`image`: the map's logits (`base_logits`), then the picture in [0, 1], along the channels."""
        logits, picture = image[:, : self.channels], image[:, self.channels :]
        return BaseMaps(logits, self.features(logits, picture)[1])

    def features(
        self, logits: Float[Tensor, "batch channels height width"], picture: Float[Tensor, "batch 3 height width"]
    ) -> tuple[Float[Tensor, "batch fine _ _"], Float[Tensor, "batch features _ _"]]:
        """Of stride 1 and 4, of the picture continued to a multiple of 16 pixels."""
        height, width = picture.shape[-2:]
        shares = logits.sigmoid() if self.channels == 1 else logits.exp()
        seen = torch.cat([shares, logits / 4, (picture - 0.5) * 4], 1)
        room = (0, ceil_div(width, COARSEST) * COARSEST - width, 0, ceil_div(height, COARSEST) * COARSEST - height)
        fine = self.fine(functional.pad(seen, room, mode="replicate"))
        first = self.stride4(self.down(fine))
        second = self.stride8(first)
        size = (first.shape[-2], first.shape[-1])
        return fine, self.join(first + resize(second, size) + resize(self.stride16(second), size))


class _PictureRefiner(Refiner):
    reads_picture: ClassVar[bool] = True

    def inputs(self, probabilities: Tensor, image: Tensor | None) -> tuple[Tensor, Tensor]:
        """The map's logits, and the picture in their precision."""
        if image is None:
            raise SegfocusError(f"{type(self).__name__}: expected pictures beside the maps, got none; try --images DIR")
        initial = base_logits(probabilities, self.num_classes)
        if image.shape[1] != COLORS or image.shape[-2:] != probabilities.shape[-2:]:
            expected, got = ((COLORS, *probabilities.shape[-2:]), tuple(image.shape[1:]))
            raise SegfocusError(
                f"image: expected {' x '.join(map(str, expected))} as the maps, got {' x '.join(map(str, got))}; "
                "try the pictures that the maps were made of"
            )
        return initial, image.to(initial.dtype)


class OffsetRefiner(_PictureRefiner):
    """OVeNet's offsets on anyone's map: each pixel may take the prediction of a better one.

    Args:
        num_classes: two (background and foreground) or more.
        width: channels of the trunk at stride 4.
        fine: channels at full resolution, twice as many at stride 2.
        max_offset: how far an offset may reach along an axis, pixels.
        fused_weight, seed_weight, confidence_weight: factors of the losses of the fused prediction, the prediction at
            the offsets' ends, and the confidence; 0 switches one off.

    Raises:
        ValueError: numbers outside what is named above.
    """

    grid = COARSEST

    def __init__(
        self,
        num_classes: int = 2,
        *,
        width: int = 48,
        fine: int = 16,
        max_offset: float = 16.0,
        fused_weight: float = 1.0,
        seed_weight: float = 0.5,
        confidence_weight: float = 1.0,
    ):
        super().__init__()
        check_count("width", width, 48)
        check_count("fine", fine, 16)
        self.num_classes = num_classes
        self.network = OVeNet(
            MapAndPicture(num_classes, fine=fine, width=width),
            num_classes,
            max_offset=max_offset,
            fused_weight=fused_weight,
            seed_weight=seed_weight,
            initial_weight=0.0,
            confidence_weight=confidence_weight,
        )

    def forward(
        self,
        probabilities: Float[Tensor, "batch classes height width"],
        image: Float[Tensor, "batch channels height width"] | None = None,
    ) -> Output:
        """Probabilities in [0, 1], one channel a class, and the picture in [0, 1], three channels -> refined logits.

        Returns:
            `logits`, `offsets` and `confidence` at full resolution; `aux_logits`: "initial", the base's logits, and
            "seed", those at the offsets' ends.

        Raises:
            SegfocusError: no picture, one of another size, another number of channels.
        """
        return self.network(torch.cat(self.inputs(probabilities, image), 1))

    def loss(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        """Equation 7 of OVeNet without the base's own term: fused and seed cross-entropy, confidence."""
        return self.network.loss(output, target)


class FocusRefiner(_PictureRefiner):
    """FoR-Net's Top-K blocks on anyone's map: corrections where the map is likely wrong, bit for bit the map elsewhere.

    Args:
        num_classes: two (background and foreground) or more.
        width: channels of the trunk at stride 4.
        fine: channels at full resolution, twice as many at stride 2.
        ratio: share K of the blocks that are corrected, in (0, 1].  May be changed after training.
        block: side of a block, pixels: a multiple of 4.
        branches: (kernel, dilation) of each convolution, in cells of 4 pixels.
        dice_weight: factor of the soft Dice loss beside the cross-entropy; 0 switches it off.
        selector_weight: factor of the selector's loss.

    Raises:
        ValueError: numbers outside what is named above.
    """

    def __init__(
        self,
        num_classes: int = 2,
        *,
        width: int = 48,
        fine: int = 16,
        ratio: float = 0.25,
        block: int = 16,
        branches: Sequence[Sequence[int]] = ((1, 1), (3, 1), (3, 2), (3, 4)),
        dice_weight: float = 1.0,
        selector_weight: float = 0.5,
    ):
        super().__init__()
        for name, value, remedy in (("width", width, 48), ("fine", fine, 16), ("block", block, 16)):
            check_count(name, value, remedy)
        if block % CELL:
            raise ValueError(f"block: expected a multiple of {CELL}, got {block}; try {ceil_div(block, CELL) * CELL}")
        check_share("ratio", ratio, "of the blocks")
        if ratio == 0:
            raise ValueError("ratio: expected a share of the blocks above 0, got 0; try 0.25")
        check_branches(branches)
        check_number("dice_weight", dice_weight, 1.0)
        check_number("selector_weight", selector_weight, 0.5)
        self.num_classes, self.ratio, self.block, self.grid = num_classes, float(ratio), block, lcm(COARSEST, block)
        self.dice_weight, self.selector_weight = dice_weight, selector_weight
        self.trunk = MapAndPicture(num_classes, fine=fine, width=width)
        self.selector = ScoreHead(width, 32)
        self.context = Context(width)
        self.branches = nn.ModuleList(Branch(width, kernel, dilation, "layer") for kernel, dilation in branches)
        self.narrow = nn.Conv2d(width, fine, 1)
        self.detail = ConvNormAct(fine, fine)
        self.correct = nn.Conv2d(fine, logit_channels(num_classes), 1)
        nn.init.zeros_(self.correct.weight)
        assert self.correct.bias is not None
        nn.init.zeros_(self.correct.bias)

    def forward(
        self,
        probabilities: Float[Tensor, "batch classes height width"],
        image: Float[Tensor, "batch channels height width"] | None = None,
    ) -> Output:
        """Probabilities in [0, 1], one channel a class, and the picture in [0, 1], three channels -> refined logits.

        Returns:
            `logits`; `importance`, how likely the map is wrong, and `selected`, the Top-K of its blocks, both at
            stride 4; `aux_logits["initial"]`: the base's logits, which `logits` equal outside the selected blocks.

        Raises:
            SegfocusError: no picture, one of another size, another number of channels.
        """
        initial, picture = self.inputs(probabilities, image)
        size = (initial.shape[-2], initial.shape[-1])
        fine, features = self.trunk.features(initial, picture)
        importance = self.selector.logits(features).sigmoid()
        # cells beyond the frame are not chosen from
        inside = enlarge(importance, CELL, CELL, (ceil_div(size[0], CELL), ceil_div(size[1], CELL)))
        selected = self.select(inside)
        correction = enlarge(self.correction(fine, features), 1, 1, size)
        focus = expand_blocks(straight_through(selected, inside), CELL, size)
        logits = initial + correction.to(initial.dtype) * focus
        return Output(logits, importance=inside, selected=selected, aux_logits={"initial": initial})

    def select(self, importance: Float[Tensor, "batch 1 rows columns"]) -> Bool[Tensor, "batch 1 rows columns"]:
        """Exactly the share `ratio` of the blocks, those of highest mean importance."""
        cells = self.block // CELL
        mask = top_k_masks(block_means(importance.detach(), cells), [self.ratio])[0]
        return expand_blocks(mask, cells, (importance.shape[-2], importance.shape[-1]))

    def correction(
        self, fine: Float[Tensor, "batch fine height width"], features: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch classes height width"]:
        """What would be added to the logits, at full resolution."""
        context = self.context(features)
        for branch in self.branches:
            features = features + branch(context)
        wide = resize(self.narrow(features), (fine.shape[-2], fine.shape[-1]))
        return self.correct(self.detail(wide + fine))

    def loss(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        """Cross-entropy, soft Dice, and the selector's cross-entropy to the share of a cell where the map is wrong."""
        terms = {"cross_entropy": cross_entropy(output.logits, target)}
        if self.dice_weight > 0:
            terms["dice"] = self.dice_weight * soft_dice(output.logits, target)
        if self.selector_weight > 0:
            terms["selector"] = self.selector_weight * self._selector_loss(output, target)
        return terms

    def _selector_loss(self, output: Output, target: Tensor) -> Tensor:
        importance = output.importance
        assert importance is not None
        wrong, labelled = wrong_share(output.aux_logits["initial"], target, CELL)
        return boundary_cross_entropy(importance.clamp(LEAST, 1 - LEAST).logit(), wrong, labelled)


def wrong_share(
    logits: Float[Tensor, "batch channels height width"], target: Int[Tensor, "batch height width"], cell: int
) -> tuple[Float[Tensor, "batch 1 rows columns"], Bool[Tensor, "batch 1 rows columns"]]:
    """Of each `cell` x `cell` pixels the share of the labelled ones where the prediction is wrong, and if any is."""
    known = target != IGNORE
    return cell_means((Output(logits).labels() != target).float(), known, cell)

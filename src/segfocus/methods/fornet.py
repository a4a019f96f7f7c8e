"""FoR-Net: learning to focus on hard regions.

Pan, Chan, Li, Shen, "FoR-Net: Learning to Focus on Hard Regions for Efficient Semantic Segmentation", 2026.
The text states no equations; the symbols below are those of its released model description.

| here | there | what |
|---|---|---|
| features | F | 1x1 projection of the backbone onto the stride-8 grid |
| importance | S | sigmoid of the selector's logit, in [0, 1] |
| selected | M | exact Top-K mask of S |
| context | F_ctx | F + MLP(global average of F) |
| branches | B_i | one convolution of a kernel size and dilation of its own |
| refined | F_agg | F + sum of the branches |

Where this differs (`FoRNet()` is our lite network; `FoRNet.released(...)` keeps the released choices):
* The mask is on the branches' OUTPUT, F + M * sum B_i(F_ctx): outside the selected regions features stay
  bit-identical and the branches need computing only inside.  Released: B_i(F_ctx * M_i), which leaks by the
  kernel's reach and saves nothing.
* A region is a block of cells (released: one cell), so that skipping it is worth something.
* Branches end in a LayerNorm over channels (released: BatchNorm), the same function in training and evaluation.
* The decoder is cheap and dense (1x1 convolutions), plus a 3x3 residual in the selected regions only.
* An auxiliary head on F gives the prediction without focus.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from segfocus.backbone import Backbone
from segfocus.data.classes import IGNORE
from segfocus.layers import ChannelLayerNorm, ConvNormAct
from segfocus.losses import boundary_cross_entropy, cross_entropy, ohem_cross_entropy, soft_dice
from segfocus.methods.base import BaseMaps, Segmenter, check_choice
from segfocus.ops.boundaries import soft_boundary_target
from segfocus.ops.resample import ceil_div, cell_labels, enlarge, expand_blocks, resize
from segfocus.ops.selection import block_means, random_scores, straight_through, top_k_masks
from segfocus.output import Output, logit_channels

CELL = 8
"""side of a grid cell in input pixels"""
FINE = 4
"""stride of the decoder; stride 4 also where the backbone's finest map is coarser (vision transformers)"""

RELEASED: dict[str, Any] = {
    "channels": 256,
    "neck": "deepest",
    "ratio": (0.1, 0.2, 0.3, 0.4),
    "region": "cell",
    "branches": ((1, 1), (3, 1), (5, 1), (7, 16)),
    "branch_norm": "batch",
    "mask_position": "input",
    "selector_channels": 128,
    "decoder": "concat",
    "decoder_channels": 256,
    "auxiliary_weight": 0.0,
}
"""options of the released network, on `build_backbone("resnet101", output_stride=8)`"""


class Selector(nn.Module):
    """3x3 convolution, then one logit a cell: how hard the network will find it."""

    def __init__(self, channels: int, hidden: int):
        super().__init__()
        self.spatial = ConvNormAct(channels, hidden, 3)
        self.score = nn.Conv2d(hidden, 1, 1)

    def forward(self, features: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch 1 rows columns"]:
        # float32 even under autocast: half precision makes ties, and ties make the selection arbitrary;
        # written as a product and a sum because autocast would lower the precision of a convolution
        hidden = self.spatial(features).float()
        assert self.score.bias is not None
        return (hidden * self.score.weight.float()).sum(1, keepdim=True) + self.score.bias.float()


class Context(nn.Module):
    """F + MLP(global average of F): what the whole picture is about, added at every cell."""

    def __init__(self, channels: int, reduction: int = 4):
        super().__init__()
        self.squeeze = nn.Conv2d(channels, channels // reduction, 1)
        self.excite = nn.Conv2d(channels // reduction, channels, 1)

    def forward(
        self, features: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        average = features.mean((2, 3), keepdim=True)
        return features + self.excite(functional.relu(self.squeeze(average)))


class Branch(nn.Module):
    """One receptive field: convolution, normalisation, ReLU."""

    def __init__(self, channels: int, kernel: int, dilation: int, norm: str):
        super().__init__()
        padding = dilation * (kernel // 2)
        self.spatial = nn.Conv2d(channels, channels, kernel, padding=padding, dilation=dilation, bias=False)
        self.norm = ChannelLayerNorm(channels) if norm == "layer" else nn.BatchNorm2d(channels)

    def forward(
        self, context: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        return functional.relu(self.norm(self.spatial(context)))


class ResidualDecoder(nn.Module):
    """Stride 8 -> 4 by 1x1 convolutions everywhere, plus a 3x3 residual inside the selected regions.

    Gives the features that `classify` turns into logits.
    """

    def __init__(self, channels: int, fine_channels: int, hidden: int, outputs: int):
        super().__init__()
        self.coarse = nn.Conv2d(channels, hidden, 1, bias=False)
        self.fine = nn.Conv2d(fine_channels, hidden, 1, bias=False)
        self.join = nn.Sequential(nn.BatchNorm2d(hidden), nn.ReLU(inplace=True))
        self.refine = nn.Conv2d(hidden, hidden, 3, padding=1, bias=False)
        self.refine_norm = ChannelLayerNorm(hidden)
        self.classify = nn.Conv2d(hidden, outputs, 1)

    def forward(self, refined: Tensor, fine: Tensor, mask: Tensor | None, size: tuple[int, int]) -> Tensor:
        joined = self.join(resize(self.coarse(refined), size) + resize(self.fine(fine), size))
        if mask is not None:
            residual = functional.relu(self.refine_norm(self.refine(joined)))
            joined = joined + residual * resize(mask, size, "nearest")
        return joined


class ConcatDecoder(nn.Module):
    """The released decoder: stride 8 -> 4, beside a projection of the finest map, two 3x3 convolutions.

    Gives the features that `classify` turns into logits.
    """

    def __init__(self, channels: int, fine_channels: int, hidden: int, outputs: int):
        super().__init__()
        self.fine = ConvNormAct(fine_channels, 48, 1)
        self.mix = nn.Sequential(ConvNormAct(channels + 48, hidden, 3), ConvNormAct(hidden, hidden, 3))
        self.classify = nn.Conv2d(hidden, outputs, 1)

    def forward(self, refined: Tensor, fine: Tensor, mask: Tensor | None, size: tuple[int, int]) -> Tensor:
        return self.mix(torch.cat([resize(refined, size), resize(self.fine(fine), size)], 1))


class FoRNet(Segmenter):
    """FoR-Net on any backbone.

    Args:
        backbone: gives the maps; those of stride 8 and coarser feed the grid, the finest feeds the decoder.
        num_classes: two or more.
        channels: of the stride-8 features F.
        neck: "sum": F sums a projection of every map of stride 8 and coarser; "deepest": of the last map only.
        ratio: share K of the regions that is refined, in [0, 1]; or one ratio a branch (nested masks).
            0 switches focus off, 1 refines everything.  May be changed after training: `net.ratios`.
        region: "block" of `block` x `block` cells, or "cell".
        branches: (kernel, dilation) of each branch.
        branch_norm: "layer" (over channels) or "batch".
        mask_position: "output" or "input" (released; dense only).
        gradient: how the selection learns from the segmentation loss: "straight-through", "gate" (M * S) or "none".
        selector: "learned", or "random" (a control: regions by chance, the selector is still trained).
        decoder: "residual" (ours) or "concat" (released).
        class_weights: of the cross-entropy, one a class.
        ohem: use online hard example mining instead of the plain cross-entropy.
        dice_weight, selector_weight, auxiliary_weight: factors of the further loss terms, 0 switches one off.

    Raises:
        ValueError: a ratio outside [0, 1], a wrong number of ratios or class weights, fewer than two classes.
    """

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        channels: int = 64,
        neck: Literal["sum", "deepest"] = "sum",
        ratio: float | Sequence[float] = 0.25,
        region: Literal["block", "cell"] = "block",
        block: int = 4,
        branches: Sequence[Sequence[int]] = ((1, 1), (3, 1), (3, 2), (3, 4)),
        branch_norm: Literal["layer", "batch"] = "layer",
        mask_position: Literal["output", "input"] = "output",
        gradient: Literal["straight-through", "gate", "none"] = "straight-through",
        selector: Literal["learned", "random"] = "learned",
        selector_channels: int = 32,
        decoder: Literal["residual", "concat"] = "residual",
        decoder_channels: int = 32,
        class_weights: Sequence[float] | None = None,
        ohem: bool = False,
        dice_weight: float = 1.0,
        selector_weight: float = 0.5,
        auxiliary_weight: float = 0.4,
    ):
        super().__init__()
        check_choice("neck", neck, ("sum", "deepest"))
        check_choice("region", region, ("block", "cell"))
        check_choice("branch_norm", branch_norm, ("layer", "batch"))
        check_choice("mask_position", mask_position, ("output", "input"))
        check_choice("gradient", gradient, ("straight-through", "gate", "none"))
        check_choice("selector", selector, ("learned", "random"))
        check_choice("decoder", decoder, ("residual", "concat"))
        if class_weights is not None and len(class_weights) != num_classes:
            raise ValueError(f"class_weights: expected {num_classes} values, got {len(class_weights)}")
        if not isinstance(block, int) or block < 1:
            raise ValueError(f"block: expected a whole number of cells, at least 1, got {block}")
        for kernel, dilation in branches:
            if kernel < 1 or kernel % 2 == 0 or dilation < 1:
                raise ValueError(f"branches: expected odd kernels and dilations from 1, got ({kernel}, {dilation})")
        self.num_classes = num_classes
        self.ratios = [float(ratio)] * len(branches) if isinstance(ratio, (int, float)) else [float(r) for r in ratio]
        if len(self.ratios) != len(branches):
            raise ValueError(f"ratio: expected one value or one a branch ({len(branches)}), got {len(self.ratios)}")
        if not all(0.0 <= value <= 1.0 for value in self.ratios):
            raise ValueError(f"ratio: expected shares of the regions in [0, 1], got {self.ratios}")
        self.block = block if region == "block" else 1
        self.mask_position, self.gradient, self.selection = mask_position, gradient, selector
        self.ohem, self.dice_weight = ohem, dice_weight
        self.selector_weight, self.auxiliary_weight = selector_weight, auxiliary_weight
        outputs = logit_channels(num_classes)

        self.backbone = backbone
        coarse = [index for index, stride in enumerate(backbone.strides) if stride >= CELL]
        self.coarse = coarse if neck == "sum" else coarse[-1:]
        self.project = nn.ModuleList(nn.Conv2d(backbone.channels[i], channels, 1, bias=False) for i in self.coarse)
        self.project_norm = nn.BatchNorm2d(channels)
        self.selector = Selector(channels, selector_channels)
        self.context = Context(channels)
        self.branches = nn.ModuleList(Branch(channels, kernel, dilation, branch_norm) for kernel, dilation in branches)
        build_decoder = ResidualDecoder if decoder == "residual" else ConcatDecoder
        self.decoder = build_decoder(channels, backbone.channels[0], decoder_channels, outputs)
        self.auxiliary = nn.Conv2d(channels, outputs, 1) if auxiliary_weight > 0 else None
        self.class_weights: Tensor | None
        if max(self.ratios) == 0:
            # never used: without this, processes that train together would wait for gradients that never come
            idle = [self.context, *self.branches]
            if isinstance(self.decoder, ResidualDecoder):
                idle += [self.decoder.refine, self.decoder.refine_norm]
            for module in idle:
                module.requires_grad_(False)
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    @classmethod
    def released(cls, backbone: Backbone, num_classes: int, **options: Any) -> FoRNet:
        """The released architecture (paper: ResNet-101 at output stride 8; 50.17 M parameters at 19 classes)."""
        return cls(backbone, num_classes, **{**RELEASED, **options})

    def features(self, maps: Sequence[Tensor], grid: tuple[int, int]) -> Float[Tensor, "batch channels rows columns"]:
        """F: the coarse maps, projected, resized to the grid and summed."""
        total = None
        for index, project in zip(self.coarse, self.project, strict=True):
            projected = enlarge(project(maps[index]), self.backbone.strides[index], CELL, grid)
            total = projected if total is None else total + projected
        return functional.relu(self.project_norm(total))

    def select(self, importance: Float[Tensor, "batch 1 rows columns"]) -> list[Bool[Tensor, "batch 1 rows columns"]]:
        """M_i: one mask a branch on the cell grid, exact Top-K over regions."""
        regions = block_means(importance.detach(), self.block)
        if self.selection == "random":
            regions = random_scores(regions, self.training)
        size = (importance.shape[-2], importance.shape[-1])
        ratios = sorted(set(self.ratios))
        masks = dict(zip(ratios, top_k_masks(regions, ratios), strict=True))
        return [expand_blocks(masks[ratio], self.block, size) for ratio in self.ratios]

    def _weights(self, mask: Tensor, importance: Tensor) -> Tensor:
        """What multiplies a branch: exactly 0 outside the mask, with the chosen gradient."""
        if self.gradient == "straight-through":
            return straight_through(mask, importance)
        hard = mask.to(importance.dtype)
        return hard * importance if self.gradient == "gate" else hard

    def refine(
        self, features: Float[Tensor, "batch channels rows columns"], weights: Sequence[Tensor]
    ) -> Float[Tensor, "batch channels rows columns"]:
        """F_agg: F plus the branches, in the selected regions (mask on the output) or around them (on the input)."""
        context = self.context(features)
        refined = features
        for branch, weight in zip(self.branches, weights, strict=True):
            scale = weight.to(context.dtype)
            refined = refined + (branch(context * scale) if self.mask_position == "input" else branch(context) * scale)
        return refined

    def maps(self, image: Float[Tensor, "batch channels height width"]) -> BaseMaps:
        """Logits of the padded picture at stride 4, the features they come from, and the further fields of `Output`."""
        height, width = image.shape[-2:]
        normalized = self.backbone.normalize(image)
        padded = (normalized.shape[-2], normalized.shape[-1])
        maps = self.backbone.maps(normalized)
        grid = (padded[0] // CELL, padded[1] // CELL)
        features = self.features(maps, grid)
        selector_logits = self.selector(features)
        importance = selector_logits.sigmoid()
        # cells that lie in the padding alone are nobody's business: not selected, not counted, not handed out
        rows, columns = ceil_div(height, CELL), ceil_div(width, CELL)
        room = (0, grid[1] - columns, 0, grid[0] - rows)
        masks = [functional.pad(mask, room) for mask in self.select(importance[..., :rows, :columns])]
        selected = masks[self.ratios.index(max(self.ratios))]
        aux_logits = {} if self.auxiliary is None else {"base": self.auxiliary(features)}
        if max(self.ratios) > 0:
            weights = [self._weights(mask, importance) for mask in masks]
            refined = self.refine(features, weights)
            focus = self._weights(selected, importance).to(refined.dtype)
        else:
            refined, focus = features, None
        # stride 4 also where the backbone's finest map is coarser (vision transformers)
        decoded = self.decoder(refined, maps[0], focus, (padded[0] // FINE, padded[1] // FINE))
        extras = {
            "importance": importance[..., :rows, :columns],
            "selected": selected[..., :rows, :columns],
            "boundary_logits": selector_logits[..., :rows, :columns],
            "aux_logits": {name: value[..., :rows, :columns] for name, value in aux_logits.items()},
        }
        return BaseMaps(self.decoder.classify(decoded), decoded, extras=extras)

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Output:
        maps = self.maps(image)
        size = (image.shape[-2], image.shape[-1])
        return Output(logits=enlarge(maps.logits, FINE, 1, size), **maps.extras)

    def loss(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        """Cross-entropy (or OHEM), soft Dice, selector against the soft boundary target, auxiliary cross-entropy."""
        main = ohem_cross_entropy if self.ohem else cross_entropy
        terms = {"cross_entropy": main(output.logits, target, class_weights=self.class_weights)}
        if self.dice_weight > 0:
            terms["dice"] = self.dice_weight * soft_dice(output.logits, target)
        return terms | self.focus_terms(output, target)

    def focus_terms(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        """The terms that are FoR-Net's own: selector and auxiliary head."""
        terms: dict[str, Tensor] = {}
        logits = output.boundary_logits
        if self.selector_weight > 0 and logits is not None:
            near, valid = soft_boundary_target(target, (logits.shape[-2], logits.shape[-1]), CELL)
            terms["selector"] = self.selector_weight * boundary_cross_entropy(logits, near, valid)
        if self.auxiliary is not None:
            base = output.aux_logits["base"]
            # at the grid's own stride: the auxiliary term needs no full-size logits
            small = cell_labels(target, (base.shape[-2], base.shape[-1]), CELL, IGNORE)
            terms["auxiliary"] = self.auxiliary_weight * cross_entropy(base, small, class_weights=self.class_weights)
        return terms

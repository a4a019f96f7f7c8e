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
* A region is a block of cells (released: one cell), so that skipping it is worth something.  In evaluation mode it is
  skipped (gather with a halo, convolve, add back), for the same result, where that is faster; see `execution`.
* At least one region is refined where K > 0; K may also follow the importance (`adaptive`).
* Branches end in a LayerNorm over channels (released: BatchNorm), the same function in training and evaluation.
* The decoder is cheap and dense (1x1 convolutions), plus a 3x3 residual in the selected regions only.
* An auxiliary head on F gives the prediction without focus.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from segfocus.backbone import Backbone
from segfocus.data.classes import IGNORE
from segfocus.errors import SegfocusError
from segfocus.losses import boundary_cross_entropy, cross_entropy, ohem_cross_entropy, soft_dice
from segfocus.methods.base import BaseMaps, Segmenter, check_choice, check_class_weights
from segfocus.methods.fornet_blocks import (
    Branch,
    ConcatDecoder,
    Context,
    ResidualDecoder,
    dense_branches,
    sparse_branches,
)
from segfocus.methods.fornet_cost import BreakEven
from segfocus.methods.fornet_options import RELEASED, branch_ratios, check_adaptive, check_branches, check_options
from segfocus.methods.fornet_selection import Selection, select_regions, shape_alone
from segfocus.methods.fornet_selectors import CELL, SELECTORS, BoundarySelector, Evidence, LearnedSelector
from segfocus.ops.resample import ceil_div, cell_labels, enlarge
from segfocus.output import Output, logit_channels

FINE = 4
"""stride of the decoder; stride 4 also where the backbone's finest map is coarser (vision transformers)"""


class FoRNet(Segmenter):
    """FoR-Net on any backbone.

    Args:
        backbone: gives the maps; those of stride 8 and coarser feed the grid, the finest feeds the decoder.
        num_classes: two or more.
        channels: of the stride-8 features F.
        neck: "sum": F sums a projection of every map of stride 8 and coarser; "deepest": of the last map only.
        ratio: share K of the regions that is refined, in [0, 1]; or one ratio a branch (nested masks).
            0 switches focus off, 1 refines everything, what lies between refines at least one region.
            A branch of ratio 0 takes no part: it learns nothing, and `focus` cannot switch it on later.
        adaptive: None, or the share in (0, 1] of a picture's importance that the refined regions must hold: the fewest
            that do are refined, and `ratio` does not matter.
        region: "block" of `block` x `block` cells, or "cell".
        branches: (kernel, dilation) of each branch.
        branch_norm: "layer" (over channels) or "batch".
        mask_position: "output" or "input" (released; dense only).
        gradient: how the selection learns from the segmentation loss: "straight-through", "gate" (M * S) or "none".
        selector: which regions count as hard, a name in `segfocus.methods.fornet_selectors.SELECTORS` (not "truth").
        decoder: "residual" (ours; its 3x3 convolution has `decoder_refine` channels) or "concat" (released).
        class_weights: of the cross-entropy, one a class.
        ohem: use online hard example mining instead of the plain cross-entropy.
        dice_weight, selector_weight, auxiliary_weight: factors of the further loss terms, 0 switches one off.

    Of a trained network `focus` sets another K, and `selector` may be replaced by one that learns nothing.  In
    evaluation mode `execution` decides: "auto" (the selected blocks alone where a timing shows that to be faster; in
    graphs all), "sparse" or "dense".  Where the importance is to learn straight through, everything is computed in
    that mode too, whatever it says: that gradient needs all regions (`torch.no_grad()` saves it).

    Raises:
        ValueError: an option out of its range, a wrong number of ratios or class weights, fewer than two classes, a
            selector that needs the auxiliary head where there is none.
    """

    sums_before_norm: ClassVar = {"project_norm": ("project",)}  # see `segfocus.inference.fold`

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        channels: int = 64,
        neck: Literal["sum", "deepest"] = "sum",
        ratio: float | Sequence[float] = 0.25,
        adaptive: float | None = None,
        region: Literal["block", "cell"] = "block",
        block: int = 4,
        branches: Sequence[Sequence[int]] = ((1, 1), (3, 1), (3, 2), (3, 4)),
        branch_norm: Literal["layer", "batch"] = "layer",
        mask_position: Literal["output", "input"] = "output",
        gradient: Literal["straight-through", "gate", "none"] = "straight-through",
        selector: str = "boundary",
        selector_channels: int = 32,
        decoder: Literal["residual", "concat"] = "residual",
        decoder_channels: int = 32,
        decoder_refine: int = 64,
        class_weights: Sequence[float] | None = None,
        ohem: bool = False,
        dice_weight: float = 1.0,
        selector_weight: float = 0.5,
        auxiliary_weight: float = 0.4,
    ):
        super().__init__()
        check_options(neck=neck, region=region, branch_norm=branch_norm, decoder=decoder, selector=selector)
        check_options(mask_position=mask_position, gradient=gradient, channels=channels, block=block)
        check_options(selector_channels=selector_channels, decoder_channels=decoder_channels)
        check_options(decoder_refine=decoder_refine, dice_weight=dice_weight)
        check_options(selector_weight=selector_weight, auxiliary_weight=auxiliary_weight)
        check_branches(branches)
        check_class_weights(class_weights, num_classes)
        self.num_classes = num_classes
        self.block = block if region == "block" else 1
        self.mask_position, self.gradient = mask_position, gradient
        self.ohem, self.dice_weight = ohem, dice_weight
        self.selector_weight, self.auxiliary_weight = selector_weight, auxiliary_weight
        self.execution: Literal["auto", "sparse", "dense"] = "auto"
        self.break_even = BreakEven()
        outputs = logit_channels(num_classes)
        self.backbone = backbone
        coarse = [index for index, stride in enumerate(backbone.strides) if stride >= CELL]
        if not coarse:
            raise ValueError(
                f"backbone: expected a map of stride {CELL} or more, got {backbone.strides}; try deeper maps"
            )
        self.coarse = coarse if neck == "sum" else coarse[-1:]
        self.project = nn.ModuleList(nn.Conv2d(backbone.channels[i], channels, 1, bias=False) for i in self.coarse)
        self.project_norm = nn.BatchNorm2d(channels)
        kind = SELECTORS[selector]
        self.selector = kind(channels, selector_channels) if issubclass(kind, LearnedSelector) else kind()
        self.context = Context(channels)
        self.branches = nn.ModuleList(Branch(channels, kernel, dilation, branch_norm) for kernel, dilation in branches)
        if decoder == "residual":
            self.decoder = ResidualDecoder(channels, backbone.channels[0], decoder_channels, outputs, decoder_refine)
        else:
            self.decoder = ConcatDecoder(channels, backbone.channels[0], decoder_channels, outputs)
        self.auxiliary = nn.Conv2d(channels, outputs, 1) if auxiliary_weight > 0 else None
        self._check_selector()
        self.ratios = branch_ratios(ratio, [True] * len(branches))
        """share of the regions that each branch refines"""
        self.trained = [adaptive is not None or value > 0 for value in self.ratios]
        """of each branch, whether it takes part in training"""
        check_adaptive(adaptive, self.trained)
        self.adaptive = adaptive
        """share of the importance that the refined regions hold, or None"""
        self._freeze_what_is_idle()
        self.class_weights: Tensor | None
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def _freeze_what_is_idle(self) -> None:
        # processes that train together would wait for its gradients, which never come
        idle: list[nn.Module] = [branch for branch, used in zip(self.branches, self.trained, strict=True) if not used]
        if not any(self.trained):
            idle.append(self.context)
            if isinstance(self.decoder, ResidualDecoder):
                idle += [self.decoder.refine, self.decoder.refine_norm, self.decoder.refine_mix]
        if self.selector_weight == 0 and (self.gradient == "none" or not any(self.trained)):
            idle.append(self.selector)
        for module in idle:
            module.requires_grad_(False)

    @classmethod
    def released(cls, backbone: Backbone, num_classes: int, **options: Any) -> FoRNet:
        """The released architecture (paper: ResNet-101 at output stride 8; 50.17 M parameters at 19 classes)."""
        return cls(backbone, num_classes, **{**RELEASED, **options})

    def focus(self, ratio: float | Sequence[float] | None = None, adaptive: float | None = None) -> None:
        """Set how much is refined, also of a trained network; see `ratio` and `adaptive` of the constructor.

        Without `ratio` the ratios stay; without `adaptive` it is switched off.  One ratio is that of all branches which
        took part in training, also where they were trained with different ones.

        Raises:
            ValueError: shares outside their ranges, a wrong number of them, or a branch that was built with ratio 0
                and so has learned nothing.
        """
        ratios = self.ratios if ratio is None else branch_ratios(ratio, self.trained)
        check_adaptive(adaptive, self.trained)
        self.ratios, self.adaptive = ratios, adaptive

    def extra_repr(self) -> str:
        how = f"ratios={self.ratios}" if self.adaptive is None else f"adaptive={self.adaptive}"
        return f"{how}, block={self.block}, mask_position={self.mask_position}, gradient={self.gradient}"

    def features(
        self, image: Float[Tensor, "batch colors height width"]
    ) -> tuple[Float[Tensor, "batch channels rows columns"], Tensor]:
        """F (the coarse maps, projected, resized to the grid of the padded picture and summed), and the finest map."""
        normalized = self.backbone.normalize(image)
        maps = self.backbone.maps(normalized)
        grid = (normalized.shape[-2] // CELL, normalized.shape[-1] // CELL)
        total = None
        for index, project in zip(self.coarse, self.project, strict=True):
            projected = enlarge(project(maps[index]), self.backbone.strides[index], CELL, grid)
            total = projected if total is None else total + projected
        return functional.relu(self.project_norm(total), inplace=True), maps[0]

    def select(self, importance: Float[Tensor, "batch 1 rows columns"], cells: tuple[int, int]) -> list[Selection]:
        """M_i: the Top-K regions for each branch; see `select_regions`."""
        if not (self.training or shape_alone(importance) or bool(importance.isfinite().all())):
            raise SegfocusError(
                "importance: expected finite numbers, got NaN or infinity; try other pictures or another checkpoint: "
                "the pixels of this one or the weights of the network are no numbers"
            )
        return select_regions(importance, cells, self.block, self.ratios, self.adaptive, self.gradient)

    def refine(
        self, features: Float[Tensor, "batch channels rows columns"], selections: list[Selection], sparse: bool
    ) -> Float[Tensor, "batch channels rows columns"]:
        """F_agg: F plus the branches, in the selected regions (mask on the output) or around them (on the input)."""
        context = self.context(features)
        used = zip(self.branches, selections, self.ratios, self.trained, strict=True)
        # a branch of ratio 0 is left out: with the mask on the input it would still add what it makes of zeros
        pairs: Any = [
            (branch, own) for branch, own, ratio, on in used if on and (ratio > 0 or self.adaptive is not None)
        ]
        if sparse:
            return sparse_branches(features, context, pairs)
        return dense_branches(features, context, pairs, self.mask_position == "input")

    def decode(
        self, features: Tensor, fine: Tensor, selections: list[Selection] | None, sparse: bool = False
    ) -> Float[Tensor, "batch hidden _ _"]:
        """The features of stride 4 that are classified; `selections` None: without focus."""
        size = (features.shape[-2] * CELL // FINE, features.shape[-1] * CELL // FINE)
        if selections is None:
            return self.decoder(features, fine, None, size)
        refined = self.refine(features, selections, sparse)
        if sparse and isinstance(self.decoder, ResidualDecoder):
            return self.decoder.on_blocks(refined, fine, self._widest(selections), size)
        return self.decoder(refined, fine, self._widest(selections), size)

    def _widest(self, selections: list[Selection]) -> Selection:
        """The decoder's: of the branch that refines the most."""
        return selections[self.ratios.index(max(self.ratios))]

    def _sparse(self, features: Tensor, fine: Tensor, selections: list[Selection]) -> bool:
        # whether to compute in the selected blocks alone; see `execution`
        check_choice("execution", self.execution, ("auto", "sparse", "dense"))
        if self.mask_position == "input" and self.execution == "sparse":
            raise ValueError("execution: expected auto or dense where the mask is on the input, got sparse; try dense")
        if self.training or self.mask_position == "input" or self.execution == "dense":
            return False
        learns = self.gradient == "straight-through" and selections[0].importance.requires_grad
        if learns and not torch.compiler.is_exporting():
            return False  # what is not selected has its share in the gradient of the importance
        if self.adaptive is not None and shape_alone(features):
            return False  # how many regions it takes is not known
        if self.execution == "sparse":
            return True
        if torch.compiler.is_compiling():
            return False  # in ONNX Runtime gathering is hardly worth it (fornet_speed.json)
        return self.break_even.favours_sparse(
            features, selections, lambda chosen, sparse: self.decode(features, fine, chosen, sparse)
        )

    def maps(
        self,
        image: Float[Tensor, "batch channels height width"],
        truth: Int[Tensor, "batch height width"] | None = None,
    ) -> BaseMaps:
        """Logits of the padded picture at stride 4, the features they come from, and the further fields of `Output`."""
        height, width = image.shape[-2:]
        features, fine = self.features(image)
        aux_logits = {} if self.auxiliary is None else {"base": self.auxiliary(features)}
        self._check_selector()
        evidence = Evidence(image, features, aux_logits.get("base"), truth)
        learned = self.selector.logits(features) if isinstance(self.selector, LearnedSelector) else None
        importance = self.selector(evidence) if learned is None else learned.sigmoid()
        rows, columns = ceil_div(height, CELL), ceil_div(width, CELL)
        selections = self.select(importance, (rows, columns))
        selected = self._widest(selections).mask
        if max(self.ratios) > 0 or self.adaptive is not None:
            decoded = self.decode(features, fine, selections, self._sparse(features, fine, selections))
        else:
            decoded = self.decode(features, fine, None)
        boundary = isinstance(self.selector, BoundarySelector)
        if learned is not None and not boundary:
            aux_logits["selector"] = learned
        extras = {
            "importance": importance[..., :rows, :columns],
            "selected": selected[..., :rows, :columns],
            "boundary_logits": learned[..., :rows, :columns] if learned is not None and boundary else None,
            "aux_logits": {name: value[..., :rows, :columns] for name, value in aux_logits.items()},
        }
        return BaseMaps(self.decoder.classify(decoded), decoded, extras=extras)

    def _check_selector(self) -> None:
        if getattr(self.selector, "reads_base", False) and self.auxiliary is None:
            raise ValueError(
                f"selector: expected the auxiliary head, which {type(self.selector).__name__} looks at, got none; "
                "try auxiliary_weight 0.4, or the selector boundary"
            )

    def forward(
        self,
        image: Float[Tensor, "batch channels height width"],
        truth: Int[Tensor, "batch height width"] | None = None,
    ) -> Output:
        """See `Segmenter.forward`; `truth` is for measurements with the selector "truth" alone."""
        maps = self.maps(image, truth)
        size = (image.shape[-2], image.shape[-1])
        return Output(logits=enlarge(maps.logits, FINE, 1, size), **maps.extras)

    def loss(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        """Cross-entropy (or OHEM), soft Dice, the selector against its target, auxiliary cross-entropy."""
        main = ohem_cross_entropy if self.ohem else cross_entropy
        terms = {"cross_entropy": main(output.logits, target, class_weights=self.class_weights)}
        if self.dice_weight > 0:
            terms["dice"] = self.dice_weight * soft_dice(output.logits, target)
        return terms | self.focus_terms(output, target)

    def focus_terms(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        """The terms that are FoR-Net's own: selector and auxiliary head."""
        terms: dict[str, Tensor] = {}
        base = output.aux_logits.get("base")
        if self.selector_weight > 0 and isinstance(self.selector, LearnedSelector):
            logits = output.aux_logits.get("selector", output.boundary_logits)
            assert logits is not None
            wanted, labelled = self.selector.target(target, base)
            terms["selector"] = self.selector_weight * boundary_cross_entropy(logits, wanted, labelled)
        if base is not None:
            # at the grid's own stride: the auxiliary term needs no full-size logits
            small = cell_labels(target, (base.shape[-2], base.shape[-1]), CELL, IGNORE)
            terms["auxiliary"] = self.auxiliary_weight * cross_entropy(base, small, class_weights=self.class_weights)
        return terms

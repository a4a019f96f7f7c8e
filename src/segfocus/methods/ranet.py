"""RANet: Region Attention Network.

Shen, Ji, Li, Wang, Lin, "RANet: Region Attention Network for Semantic Segmentation", NeurIPS 2020.

| here | there | what |
|---|---|---|
| features | A | 3x3 convolution of the backbone's last map, stride 8 |
| boundary, semantic | B, C | probabilities from two 1x1 convolutions (region construction block, RCB) |
| `ops.regions` | D, E, F, G, J | eqs 1 to 5: line maximum, divergence, affinity, grouping, representative score |
| regions, representatives | R_q, phi(R_q) | pixels that belong together; the K of highest J in each |
| exchange | A^l, A^g, O | eqs 6 to 8: collection, interaction, distribution (region interaction block, RIB) |
| fuse | - | 3x3 convolution of A beside O |

Where `mode="paper"` differs from the text, which leaves these open or cannot be taken by the letter:
* Grouping: F^g = F and pixels join above 0.8, as released (the sign of a value in [0, 1] separates nothing).  A pixel
  follows the first one that it may join; regions under 8 px are absorbed and at most 256 kept, or else every
  boundary pixel would be a region of its own.
* Eq. 2 lost its logarithm's argument in print; E is the Jensen-Shannon divergence in bits.
* Eq. 7 as printed divides by one source region's sum only, so that A^g grows with the number of regions; here one
  softmax runs over the representatives of all other regions.
* O is joined with A by a convolution, losses weigh 1, 0.4, 0.2 and 0.08, and the boundary target is a band of 2 px, all
  as released.  The boundary bias starts at a probability of 0.02: from 0.5 every pixel would be a region.

`mode="official"` is the released network: scores from an auxiliary head on the third stage, lines without their end
points, the divergence of one class in nats, and attention over ALL pixels and representatives with convolutions in
between.  Its faults are mended: the gradient of the divergence, lines in the last row and column, representatives of
other regions in regions smaller than K, and 3x3 convolutions along the LIST of representatives (here a linear layer
and a LayerNorm).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from segfocus.backbone import Backbone
from segfocus.losses import boundary_cross_entropy, cross_entropy, ohem_cross_entropy
from segfocus.methods.base import Segmenter, check_choice, check_class_weights, check_count, check_number
from segfocus.methods.features import STRIDE, Stride8Features
from segfocus.methods.region_context import GlobalExchange, RegionContext, RegionExchange, without_values
from segfocus.ops.boundaries import boundary_band
from segfocus.ops.regions import RegionRules, representative_mask
from segfocus.ops.resample import enlarge
from segfocus.output import Output, logit_channels

MODES: Mapping[str, Mapping[str, Any]] = {
    "paper": {
        "scores_from": "features",
        "end_points": True,
        "divergence": "jensen_shannon",
        "min_region": 8,
        "max_regions": 256,
    },
    "official": {
        "scores_from": "auxiliary",
        "end_points": False,
        "divergence": "bernoulli",
        "min_region": 1,
        "max_regions": 256,
    },
}
"""what the options stand at when they are None"""


class RANet(Segmenter):
    """RANet on any backbone.

    Args:
        backbone: with `output_stride=8` where its family has that; the paper's is a ResNet-101.
        num_classes: two or more.
        mode: "paper" or "official"; decides the options below that are None (see `MODES`) and the exchange.
        channels: M of the features A.
        neck: "deepest" map or "sum" of all coarse ones, see `Stride8Features`.
        multi_grid: factors of the dilations in a ResNet's last stage; [1, 2, 4] gives 4, 8, 16.
        scores_from: "features": B and C from A (paper); "auxiliary": from a head on the last map but one (released).
        representatives: K, pixels that represent a region.
        threshold, end_points, grouping, divergence, evidence, min_region, max_regions: see `RegionRules`.
            `evidence` "boundary" and "semantic" are rows of the paper's Table 1.
        intra, inter: switch off collection and distribution, or interaction (section 5.1); paper mode only.
        attention_scale: factor of the dot products before each softmax; 1 as published, "sqrt": 1 / sqrt(channels),
            "learned": starts there.  Unscaled products of 512 channels leave a softmax about two keys.
        boundary_prior: P(boundary) at the start, in (0, 1).
        boundary_radius: px on each side of a class boundary that count as boundary in the target.
        fine_boundary: also predict the boundary from the fused features (released).
        dropout: share of fused channels that training drops.
        backend: of the region construction: "auto", "torch", "numba", "triton", "dense".
        class_weights: of the semantic cross-entropies, one a class.
        ohem: online hard example mining instead of the plain cross-entropy of the final logits.
        coarse_weight, fine_boundary_weight, coarse_boundary_weight: factors of the further loss terms.

    `Output.boundary_logits` are those that regions are made of; `aux_logits` holds "coarse" (C) and "fine_boundary".

    Raises:
        ValueError: an option out of its range, or one that its mode has no use for.
    """

    exportable = False
    export_refusal = (
        "RANet's regions depend on the picture: their number and sizes are data, which a fixed graph cannot hold"
    )

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        mode: Literal["paper", "official"] = "paper",
        channels: int = 512,
        neck: Literal["deepest", "sum"] = "deepest",
        multi_grid: Sequence[int] | None = None,
        scores_from: Literal["features", "auxiliary"] | None = None,
        representatives: int = 8,
        threshold: float = 0.8,
        end_points: bool | None = None,
        grouping: Literal["first", "components"] = "first",
        divergence: Literal["jensen_shannon", "bernoulli"] | None = None,
        evidence: Literal["both", "boundary", "semantic"] = "both",
        min_region: int | None = None,
        max_regions: int | None = None,
        intra: bool = True,
        inter: bool = True,
        attention_scale: float | Literal["sqrt", "learned"] = 1.0,
        boundary_prior: float = 0.02,
        boundary_radius: int = 2,
        fine_boundary: bool = True,
        dropout: float = 0.1,
        backend: str = "auto",
        class_weights: Sequence[float] | None = None,
        ohem: bool = False,
        coarse_weight: float = 0.4,
        fine_boundary_weight: float = 0.2,
        coarse_boundary_weight: float = 0.08,
    ):
        super().__init__()
        check_choice("mode", mode, tuple(MODES))
        check_choice("scores_from", "features" if scores_from is None else scores_from, ("features", "auxiliary"))
        check_choice("backend", backend, ("auto", "torch", "numba", "triton", "dense"))
        check_class_weights(class_weights, num_classes)
        check_count("representatives", representatives, 8)
        check_count("boundary_radius", boundary_radius, 2)
        check_number("dropout", dropout, 0.1, below=1)
        check_number("boundary_prior", boundary_prior, 0.02, below=1)
        if boundary_prior == 0:
            raise ValueError("boundary_prior: expected a probability in (0, 1), got 0; try 0.02")
        for name, weight in (
            ("coarse_weight", coarse_weight),
            ("fine_boundary_weight", fine_boundary_weight),
            ("coarse_boundary_weight", coarse_boundary_weight),
        ):
            check_number(name, weight, 0.2)
        for name, switch in (("intra", intra), ("inter", inter), ("fine_boundary", fine_boundary), ("ohem", ohem)):
            if not isinstance(switch, bool):
                raise ValueError(f"{name}: expected true or false, got {switch!r}; try true")
        if isinstance(attention_scale, str):
            check_choice("attention_scale", attention_scale, ("sqrt", "learned"))
        else:
            check_number("attention_scale", attention_scale, "sqrt")
        if attention_scale == "learned" and not (intra or inter):
            raise ValueError("attention_scale: expected a number or sqrt where nothing attends, got learned; try 1.0")
        if mode == "official" and not (intra and inter):
            raise ValueError("mode: expected paper with intra or inter switched off, got official; try mode paper")
        if mode == "official" and attention_scale == "learned":
            raise ValueError("attention_scale: expected a number or sqrt in mode official, got learned; try sqrt")

        def stands(name: str, value: Any) -> Any:
            return MODES[mode][name] if value is None else value

        rules = RegionRules(
            threshold,
            stands("end_points", end_points),
            grouping,
            stands("divergence", divergence),
            evidence,
            stands("min_region", min_region),
            stands("max_regions", max_regions),
        )
        self.num_classes, self.mode = num_classes, mode
        self.boundary_radius, self.ohem = boundary_radius, ohem
        self.coarse_weight, self.coarse_boundary_weight = coarse_weight, coarse_boundary_weight
        self.fine_boundary_weight = fine_boundary_weight
        outputs = logit_channels(num_classes)
        self.features = Stride8Features(backbone, channels, neck, multi_grid)
        from_features = stands("scores_from", scores_from) == "features"
        exchange: nn.Module
        if mode == "paper":
            exchange = RegionExchange(representatives, attention_scale, channels, intra=intra, inter=inter)
        else:
            scale = channels**-0.5 if attention_scale == "sqrt" else float(attention_scale)
            exchange = GlobalExchange(representatives, scale, channels)
        self.context = RegionContext(
            channels,
            outputs,
            exchange,
            rules,
            score_channels=None if from_features else self.features.auxiliary_channels,
            boundary_prior=boundary_prior,
            dropout=dropout,
            backend=backend,
        )
        self.from_features = from_features
        self.classify = nn.Conv2d(channels, outputs, 1)
        self.fine_boundary = nn.Conv2d(channels, 1, 1) if fine_boundary else None
        self.representatives = representatives
        self.class_weights: Tensor | None
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, image: Float[Tensor, "batch colors height width"]) -> Output:
        features, auxiliary = self.features(image)
        context = self.context(features, None if self.from_features else auxiliary)
        size = (image.shape[-2], image.shape[-1])
        if without_values(image):
            representatives = context.regions.bool()
        else:
            representatives = representative_mask(context.scores.detach(), context.regions, self.representatives)
        aux_logits = {"coarse": context.semantic_logits}
        if self.fine_boundary is not None:
            aux_logits["fine_boundary"] = self.fine_boundary(context.fused)
        return Output(
            logits=enlarge(self.classify(context.fused), STRIDE, 1, size),
            boundary_logits=context.boundary_logits,
            regions=context.regions,
            representatives=representatives,
            aux_logits=aux_logits,
        )

    @torch.no_grad()
    def attention(
        self, image: Float[Tensor, "batch colors height width"], row: int, column: int
    ) -> Float[Tensor, "rows columns"] | None:
        """How much each cell of the stride-8 grid enters the context O of the cell that pixel (row, column) lies in.

        None in mode "official", whose convolutions between the steps mix cells.

        Raises:
            ValueError: several pictures, or a pixel outside the picture.
        """
        if len(image) != 1:
            raise ValueError(f"attention: expected one picture, got {len(image)}; try image[:1]")
        height, width = image.shape[-2:]
        if not (0 <= row < height and 0 <= column < width):
            raise ValueError(
                f"attention: expected a pixel of the {height}x{width} picture, got ({row}, {column}); try the middle"
            )
        exchange = self.context.exchange
        if not isinstance(exchange, RegionExchange):
            return None
        training = self.training
        self.eval()  # looking must not move running statistics
        features, auxiliary = self.features(image)
        semantic, boundary = self.context.scores(features if self.from_features else auxiliary)
        regions, scores = self.context.construct(semantic, boundary)
        self.train(training)
        return exchange.attention(features[0], scores[0], regions[0], row // STRIDE, column // STRIDE)

    def loss(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        """Cross-entropy of the fine and the coarse logits, binary cross-entropy of both boundary maps."""
        main = ohem_cross_entropy if self.ohem else cross_entropy
        size = (target.shape[-2], target.shape[-1])
        band, labelled = boundary_band(target, self.boundary_radius)

        def boundary(logits: Tensor) -> Tensor:
            return boundary_cross_entropy(enlarge(logits, STRIDE, 1, size), band.float(), labelled)

        coarse = enlarge(output.aux_logits["coarse"], STRIDE, 1, size)
        assert output.boundary_logits is not None
        terms = {
            "cross_entropy": main(output.logits, target, class_weights=self.class_weights),
            "coarse": self.coarse_weight * cross_entropy(coarse, target, class_weights=self.class_weights),
            "coarse_boundary": self.coarse_boundary_weight * boundary(output.boundary_logits),
        }
        if "fine_boundary" in output.aux_logits:
            terms["fine_boundary"] = self.fine_boundary_weight * boundary(output.aux_logits["fine_boundary"])
        return terms

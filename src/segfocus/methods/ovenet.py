"""OVeNet: borrow the prediction of a better pixel.

Alexandropoulos, Sakaridis, Maragos, "OVeNet: Offset Vector Network for Semantic Segmentation", WACV 2024
(arXiv 2303.14516).

| here | there | what |
|---|---|---|
| initial | C, S_i | logits of the base, and the prediction they make |
| offsets | o(p) = q - p | (x, y) from each cell to its seed |
| seed | C_s, S_s | the logits at the seed, C(p + o(p)) (equations 2, 3) |
| confidence | F | how much of the seed's prediction is taken, in [0, 1] |
| logits | C_f, S_f | (1 - F) * initial + F * seed (equation 4) |
| seed_weight, initial_weight | κ, λ | factors of the losses of S_s and S_i (equation 5) |
| max_offset, tau | τ | how far an offset may reach: in pixels, or of half the picture's side |

Where this differs (`units="normalized"`, `confidence_grid="labels"`, `confidence_reduction="official"` give back what
the released code does):
* Offsets are in pixels.  There: tau * tanh in coordinates of [-1, 1] over the picture, so that a network trained on
  crops reaches twice as far on pictures of twice the crop's size.
* A zero offset is exactly the identity, and the last layer starts at zero: an untrained head changes nothing.
* Void takes no part in the confidence loss, neither at p nor at p + o(p).  There: void counts as class 0.
* The confidence loss is taken at the cells of the offsets, where they were used, and averaged over all labelled ones.
  There: on F and o enlarged to the labels, summed over the batch and divided by the pixels of one picture.
* OHEM keeps a share of the labelled pixels and what ties with it, and weighs its mean by class (`losses`).  There: a
  number of pixels, and the mean of the weighted losses.
* Fused probabilities come out as log-probabilities.  There: they go through a second softmax.
* A seed lies in the picture, never in its padding; refinement reads the border outside, not zeros.
* A frozen base is also in evaluation mode.  There: its BatchNorms go on adapting.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from segfocus.layers import ConvNormAct
from segfocus.losses import cross_entropy, ohem_cross_entropy
from segfocus.methods.base import Base, BaseMaps, Segmenter, check_choice
from segfocus.ops.offsets import agreement, keep_inside, sample_at
from segfocus.ops.resample import ceil_div, enlarge
from segfocus.output import Output, logit_channels

_STAGES = {"stage3": 3, "stage4": 4}
_OHEM_THRESHOLD, _OHEM_SHARE = 0.9, 1 / 8
"""of OHEM: as released, where the share is written as 131,072 pixels of two crops of 512x1024"""
_TINY = 1e-7
"""keeps the logarithm of a confidence finite, as released"""


class OffsetHead(nn.Sequential):
    """1x1 convolution, BatchNorm, ReLU, 1x1 convolution to (x, y, confidence), not yet bounded.

    The last layer starts at zero: offsets 0, confidence 0.5.
    """

    def __init__(self, channels: int, hidden: int):
        last = nn.Conv2d(hidden, 3, 1)
        nn.init.zeros_(last.weight)
        assert last.bias is not None
        nn.init.zeros_(last.bias)
        super().__init__(nn.Conv2d(channels, hidden, 1), nn.BatchNorm2d(hidden), nn.ReLU(inplace=True), last)


class OVeNet(Segmenter):
    """OVeNet on any base.

    Args:
        base: gives the logits C and the features that the offset head reads.
        num_classes: two or more; those of the base.
        trunk: what stands between the base and the head: "features" nothing, "convs" `depth` 3x3 convolutions,
            "stage4" (the paper's) or "stage3" a second path that leaves the base before that stage (`Base.branch`).
        hidden: channels inside the head; None: as many as the base's features.
        depth: 3x3 convolutions of the trunk "convs".
        units: "pixel": an axis reaches `max_offset`; "normalized" (released): `tau` of half the picture's side.
        max_offset: pixels of the picture, one number or [x, y].
        tau: share of half the picture's side (from the first cell's centre to the last one's).
        bound: "axis": tanh of each component; "radial": the vector's length is bounded (an ellipse for [x, y]).
        fusion: of "logits", or of "probabilities" (as equation 4 is written).
        iterations: times that an offset goes on by the one found at its end, o(p) + o(p + o(p)); may then reach
            further than its bound.
        frozen: train the head alone on a finished base: that one stays in evaluation mode and learns nothing.
        confidence_reduction: "mean" over the labelled cells; "official": sum over the batch / cells of one picture.
        confidence_grid: "cells" of the offsets, or the "labels"' pixels (released).
        fused_weight, seed_weight, initial_weight, confidence_weight: factors of the loss terms, 0 switches one off.
        ohem: online hard example mining for S_f, S_s and S_i, each its own; auxiliary maps keep the cross-entropy.
        class_weights: of the cross-entropies, one a class.

    Raises:
        ValueError: a base of another number of classes, without features or without the wanted stage; choices and
            numbers outside what is named above.
    """

    takes = "base"

    def __init__(
        self,
        base: Base,
        num_classes: int,
        *,
        trunk: Literal["features", "convs", "stage4", "stage3"] = "features",
        hidden: int | None = None,
        depth: int = 2,
        units: Literal["pixel", "normalized"] = "pixel",
        max_offset: float | Sequence[float] = 64.0,
        tau: float = 0.5,
        bound: Literal["axis", "radial"] = "axis",
        fusion: Literal["logits", "probabilities"] = "logits",
        iterations: int = 0,
        frozen: bool = False,
        confidence_reduction: Literal["mean", "official"] = "mean",
        confidence_grid: Literal["cells", "labels"] = "cells",
        fused_weight: float = 1.0,
        seed_weight: float = 0.5,
        initial_weight: float = 0.5,
        confidence_weight: float = 1.0,
        ohem: bool = False,
        class_weights: Sequence[float] | None = None,
    ):
        super().__init__()
        check_choice("trunk", trunk, ("features", "convs", *_STAGES))
        check_choice("units", units, ("pixel", "normalized"))
        check_choice("bound", bound, ("axis", "radial"))
        check_choice("fusion", fusion, ("logits", "probabilities"))
        check_choice("confidence_reduction", confidence_reduction, ("mean", "official"))
        check_choice("confidence_grid", confidence_grid, ("cells", "labels"))
        logit_channels(num_classes)
        if base.num_classes != num_classes:
            raise ValueError(f"base: expected {num_classes} classes, got {base.num_classes}")
        if not getattr(base, "feature_channels", 0):
            raise ValueError(f"base: expected features to read offsets from, got none from {type(base).__name__}")
        if class_weights is not None and len(class_weights) != num_classes:
            raise ValueError(f"class_weights: expected {num_classes} values, got {len(class_weights)}")
        reach = list(max_offset) if isinstance(max_offset, Sequence) else [max_offset, max_offset]
        if len(reach) != 2 or not all(_is_number(value) and value > 0 for value in reach):
            raise ValueError(f"max_offset: expected positive pixels, one number or [x, y], got {max_offset!r}")
        if not _is_number(tau) or tau <= 0:
            raise ValueError(f"tau: expected a positive share of half the picture's side, got {tau!r}")
        hidden = base.feature_channels if hidden is None else hidden
        for name, value, least in (("hidden", hidden, 1), ("depth", depth, 1), ("iterations", iterations, 0)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name}: expected a whole number, at least {least}, got {value!r}")
        for name, value in (("frozen", frozen), ("ohem", ohem)):
            if not isinstance(value, bool):
                raise ValueError(f"{name}: expected true or false, got {value!r}")
        self.weights = {"fused": fused_weight, "seed": seed_weight, "initial": initial_weight}
        for name, weight in {**self.weights, "confidence": confidence_weight}.items():
            if not _is_number(weight) or weight < 0:
                raise ValueError(f"{name}_weight: expected a factor from 0, got {weight!r}")
        self.num_classes, self.frozen = num_classes, frozen
        self.units, self.max_offset, self.tau, self.bound = units, (float(reach[0]), float(reach[1])), tau, bound
        self.fusion, self.iterations, self.ohem = fusion, iterations, ohem
        self.confidence_reduction, self.confidence_grid = confidence_reduction, confidence_grid
        self.confidence_weight = confidence_weight
        self.base = base.requires_grad_(False) if frozen else base
        self.branch_stage = _STAGES.get(trunk)
        self.trunk = self._build_trunk(trunk, hidden, depth)
        self.head = OffsetHead(hidden if trunk == "convs" else base.feature_channels, hidden)
        self.class_weights: Tensor | None
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.train(self.training)

    def _build_trunk(self, trunk: str, hidden: int, depth: int) -> nn.Module:
        if self.branch_stage is not None:
            return self.base.branch(self.branch_stage).requires_grad_(True)
        if trunk == "features":
            return nn.Identity()
        widths = [self.base.feature_channels] + [hidden] * depth
        return nn.Sequential(*(ConvNormAct(widths[i], widths[i + 1], 3) for i in range(depth)))

    def train(self, mode: bool = True) -> OVeNet:
        super().train(mode)
        if self.frozen:
            self.base.eval()
        return self

    def forward(self, image: Float[Tensor, "batch channels height width"]) -> Output:
        size = (image.shape[-2], image.shape[-1])
        if not self.frozen:
            return self.fuse(self.base.maps(image, self.branch_stage), size)
        with torch.no_grad():
            maps = self.base.maps(image, self.branch_stage)
        return self.fuse(maps, size)

    def fuse(self, maps: BaseMaps, size: tuple[int, int]) -> Output:
        """What follows the base: offsets and confidence, seeds, fusion.

        Training on cached maps of a frozen base enters here.

        Args:
            maps: what `base.maps` gave.
            size: (height, width) of the picture, pixels.
        """
        if maps.features.shape[1] != self.base.feature_channels:
            expected, got = self.base.feature_channels, maps.features.shape[1]
            raise ValueError(f"base: expected features of {expected} channels, as it says, got {got}")
        stride = self.base.stride
        grid = (ceil_div(size[0], stride), ceil_div(size[1], stride))
        raw = self.head(self.trunk(maps.shared if self.branch_stage else maps.features))
        raw = enlarge(raw.to(torch.promote_types(raw.dtype, torch.float32)), self.base.feature_stride, stride, grid)
        offsets, trust = self.offset_cells(raw[:, :2]), raw[:, 2:]
        initial = enlarge(maps.logits, stride, stride, grid)  # cut: a seed in the padding would be nobody's
        seed = sample_at(initial, offsets)
        aux_logits = {"initial": initial, "seed": seed}
        for name in self.base.auxiliary_weights:
            first = enlarge(maps.auxiliary[name], stride, stride, grid)
            second = sample_at(first, offsets)
            aux_logits |= {name: first, f"{name}_seed": second, f"{name}_fused": self._fused(first, second, trust)}
        extras = dict(maps.extras)
        return Output(
            logits=enlarge(self._fused(initial, seed, trust), stride, 1, size),
            offsets=offsets * stride,
            confidence=trust.sigmoid(),
            aux_logits=extras.pop("aux_logits", {}) | aux_logits,
            **extras,
        )

    def offset_cells(self, raw: Float[Tensor, "batch 2 rows columns"]) -> Float[Tensor, "batch 2 rows columns"]:
        """o in cells, bounded and inside the picture, from the head's first two channels."""
        if self.bound == "axis":
            unit = raw.tanh()
        else:
            length = (raw.square().sum(1, keepdim=True) + 1e-12).sqrt()  # has a gradient at zero
            unit = raw * (length.tanh() / length)
        if self.units == "pixel":
            reach_x, reach_y = (value / self.base.stride for value in self.max_offset)
        else:
            rows, columns = raw.shape[-2:]
            reach_x, reach_y = (columns - 1) * (self.tau / 2), (rows - 1) * (self.tau / 2)
        offsets = keep_inside(torch.cat([unit[:, :1] * reach_x, unit[:, 1:] * reach_y], 1))
        for _ in range(self.iterations):
            offsets = keep_inside(offsets + sample_at(offsets, offsets))
        return offsets

    def _fused(self, initial: Tensor, seed: Tensor, trust: Tensor) -> Tensor:
        """C_f of `trust`, the logit of F: logits, or log-probabilities (their log-odds for one channel)."""
        if self.fusion == "logits":
            return initial + trust.sigmoid() * (seed - initial)  # exactly `initial` where the seed says the same
        keep, take = functional.logsigmoid(-trust), functional.logsigmoid(trust)

        def mixed(first: Tensor, second: Tensor) -> Tensor:
            return torch.logaddexp(keep + first, take + second)

        initial, seed = initial.to(trust.dtype), seed.to(trust.dtype)
        if initial.shape[1] > 1:
            return mixed(initial.log_softmax(1), seed.log_softmax(1))
        foreground = mixed(functional.logsigmoid(initial), functional.logsigmoid(seed))
        return foreground - mixed(functional.logsigmoid(-initial), functional.logsigmoid(-seed))

    def loss(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        """Equation 7: fused, seed and initial cross-entropy (or OHEM), confidence, and what the base adds.

        A frozen base gets no terms: what it alone says is a constant.
        """
        size, stride = (target.shape[-2], target.shape[-1]), self.base.stride
        weights = {name: w for name, w in self.weights.items() if w > 0 and not (self.frozen and name == "initial")}
        terms = {}
        for name, weight in weights.items():
            logits = output.logits if name == "fused" else enlarge(output.aux_logits[name], stride, 1, size)
            terms[name] = weight * self._main_loss(logits, target)
        if self.confidence_weight > 0:
            terms["confidence"] = self.confidence_weight * self._confidence_loss(output, target)
        for name, factor in self.base.auxiliary_weights.items():
            parts = []
            for kind, weight in weights.items():
                logits = output.aux_logits[name if kind == "initial" else f"{name}_{kind}"]
                large = enlarge(logits, stride, 1, size)
                parts.append(factor * weight * cross_entropy(large, target, class_weights=self.class_weights))
            if parts:
                terms[name] = torch.stack(parts).sum()
        return terms if self.frozen else terms | self.base.terms(output, target)

    def _main_loss(self, logits: Tensor, target: Tensor) -> Tensor:
        if self.ohem:
            return ohem_cross_entropy(
                logits, target, class_weights=self.class_weights, threshold=_OHEM_THRESHOLD, min_kept=_OHEM_SHARE
            )
        return cross_entropy(logits, target, class_weights=self.class_weights)

    def _confidence_loss(self, output: Output, target: Tensor) -> Tensor:
        """Equation 6: binary cross-entropy of F to whether p and p + o(p) have the same label."""
        offsets, confidence, cell = output.offsets, output.confidence, self.base.stride
        assert offsets is not None
        assert confidence is not None
        if self.confidence_grid == "labels":
            size = (target.shape[-2], target.shape[-1])
            offsets, confidence, cell = enlarge(offsets, cell, 1, size), enlarge(confidence, cell, 1, size), 1
        same, valid = agreement(target, offsets, cell=cell)
        confidence = confidence[:, 0]
        entropy = -(torch.where(same, confidence, 1 - confidence) + _TINY).log() * valid
        count = valid.sum().clamp(min=1) if self.confidence_reduction == "mean" else valid[0].numel()
        return entropy.sum() / count


def _is_number(value: object) -> bool:
    """Recipes may hold anything; a yes or no is no number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and isfinite(value)

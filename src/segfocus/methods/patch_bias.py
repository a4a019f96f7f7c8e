"""PatchBias: a small network that says for each patch of a probability map how far its logits are to be moved.

The plain form of what ThreshNet (`segfocus.methods.threshnet`) wants: to cut a patch at the threshold t is to add
-logit(t) to its logits and cut at 0.5 (logit adjustment: Menon et al., "Long-tail learning via logit adjustment", ICLR
2021).  The ThreshNet paper says that predicting thresholds directly "does not work well", without numbers; here it is,
to compare with.  A design of this package's own.

| here | what |
|---|---|
| probabilities | the base's map |
| initial | the same as logits |
| bias | one number a patch, and a class where there are three or more |
| logits | initial + bias, bilinear between the patches' centres or constant in each |

An untrained network changes nothing: the last layer starts at zero.  The classes of a map go through one network of
shared weights, each for itself.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional

from segfocus.data.classes import IGNORE
from segfocus.layers import ChannelLayerNorm, ConvNormAct
from segfocus.losses import cross_entropy
from segfocus.methods.base import Refiner, check_choice, check_count, check_number
from segfocus.methods.base_logits import base_logits, base_probabilities
from segfocus.methods.threshnet_blocks import mirror_to
from segfocus.ops.patch_classes import apply_class_bias, best_class_bias
from segfocus.ops.patches import apply_thresholds, best_thresholds
from segfocus.ops.resample import ceil_div, enlarge, expand_blocks
from segfocus.output import Output, logit_channels

CELL = 8
"""stride of the convolutions, pixels"""
HIGHEST = 0.99
"""stands for the threshold 1, which empties a patch and has no finite logit"""


class PatchSummary(nn.Module):
    """Features of stride 8 -> one vector a patch: mean and maximum of its cells, mixed with the eight patches around.

    LayerNorm over channels, not BatchNorm: a batch of crops has few patches.
    """

    def __init__(self, channels: int, cells: int):
        super().__init__()
        self.cells = cells
        self.near = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.far = nn.Conv2d(channels, channels, 3, padding=1)
        self.near_norm, self.far_norm = ChannelLayerNorm(channels), ChannelLayerNorm(channels)

    def forward(
        self, features: Float[Tensor, "maps channels height width"]
    ) -> Float[Tensor, "maps channels rows columns"]:
        mean, highest = functional.avg_pool2d(features, self.cells), functional.max_pool2d(features, self.cells)
        patches = functional.relu(self.near_norm(self.near(torch.cat([mean, highest], 1))))
        return patches + functional.relu(self.far_norm(self.far(patches)))


class PatchBias(Refiner):
    """A bias for each patch of a map, from the map alone.

    Args:
        num_classes: two (background and foreground) or more.
        patch: P, pixels: a multiple of 8.
        width: channels at stride 2; twice as many from stride 4 on.
        spread: how a bias reaches its pixels: "bilinear" between the patches' centres, or "constant" in the patch.
        score: what the best threshold of a patch maximises (two classes; `segfocus.ops.patches`).
        regular_weight: factor of the cross-entropy to the true mask.
        region_weight: factor of the cross-entropy to the map cut at the best threshold of each patch; of three or
            more classes, to the classes after the best biases of each patch (`segfocus.ops.patch_classes`).
        threshold_weight: factor of the regression of those biases, -logit of the best threshold.

    Raises:
        ValueError: choices and numbers outside what is named above, or all three factors 0.
    """

    def __init__(
        self,
        num_classes: int = 2,
        *,
        patch: int = 64,
        width: int = 32,
        spread: Literal["bilinear", "constant"] = "bilinear",
        score: Literal["foreground", "mean", "pooled"] = "foreground",
        regular_weight: float = 1.0,
        region_weight: float = 0.0,
        threshold_weight: float = 0.0,
    ):
        super().__init__()
        check_choice("spread", spread, ("bilinear", "constant"))
        check_choice("score", score, ("foreground", "mean", "pooled"))
        check_count("width", width, 32)
        check_count("patch", patch, 64)
        if patch % CELL:
            raise ValueError(f"patch: expected a multiple of {CELL}, got {patch}; try {ceil_div(patch, CELL) * CELL}")
        weights = {"regular": regular_weight, "region": region_weight, "threshold": threshold_weight}
        for name, value in weights.items():
            check_number(f"{name}_weight", value, 1.0)
        if not any(weights.values()):
            raise ValueError("regular_weight, region_weight, threshold_weight: expected one above 0; try 1 0 0")
        logit_channels(num_classes)
        self.num_classes, self.patch, self.grid = num_classes, patch, patch
        self.spread, self.score, self.weights = spread, score, weights
        wide = 2 * width
        self.trunk = nn.Sequential(
            ConvNormAct(2, width, 3, 2),
            ConvNormAct(width, width),
            ConvNormAct(width, wide, 3, 2),
            ConvNormAct(wide, wide),
            ConvNormAct(wide, wide, 3, 2),
            ConvNormAct(wide, wide),
        )
        self.summary = PatchSummary(wide, patch // CELL)
        self.head = nn.Conv2d(wide, 1, 1)
        nn.init.zeros_(self.head.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        probabilities: Float[Tensor, "batch classes height width"],
        image: Float[Tensor, "batch channels height width"] | None = None,
    ) -> Output:
        """Probabilities in [0, 1], one channel a class -> refined logits.

        Args:
            probabilities: of two classes only the second channel is read.
            image: not used.

        Returns:
            `logits`; `aux_logits`: "initial", the base's logits, and "bias", what was added, one cell a patch.

        Raises:
            SegfocusError: another number of channels.
        """
        initial = base_logits(probabilities, self.num_classes)
        _, channels, height, width = initial.shape
        # one map a class; of several classes each against all others
        bias = self.biases(probabilities[:, -channels:].to(initial.dtype).flatten(0, 1)[:, None])
        if self.spread == "bilinear":
            added = enlarge(bias, self.patch, 1, (height, width))
        else:
            added = expand_blocks(bias, self.patch, (height, width))
        # not reshaped: an exported graph would be held to the traced size
        cells, added = (part[:, 0].unflatten(0, (-1, channels)) for part in (bias, added))
        return Output(initial + added, aux_logits={"initial": initial, "bias": cells})

    def biases(self, maps: Float[Tensor, "maps 1 height width"]) -> Float[Tensor, "maps 1 rows columns"]:
        """One number a patch, float32 at least; the last ones go on mirrored where the map ends inside them."""
        rows, columns = ceil_div(maps.shape[-2], self.patch), ceil_div(maps.shape[-1], self.patch)
        whole = mirror_to(maps, (rows * self.patch, columns * self.patch))
        logits = base_logits(torch.cat([1 - whole, whole], 1), 2)
        bias = self.head(self.summary(self.trunk(torch.cat([whole, logits / 4], 1))))
        return bias.to(torch.promote_types(bias.dtype, torch.float32))

    def loss(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        """Cross-entropy to the mask, to the map after the best biases, and distance to those biases, as weighted.

        The distance is Huber's, of logits, over the patches that hold a labelled pixel.  Of three or more classes
        only the differences between their biases count.
        """
        wanted = {name: weight for name, weight in self.weights.items() if weight > 0}
        terms = {}
        if "regular" in wanted:
            terms["regular"] = wanted["regular"] * cross_entropy(output.logits, target)
        if len(wanted) == len(terms):
            return terms
        cut, best, known = self.best(output.aux_logits["initial"], target)
        if "region" in wanted:
            terms["region"] = wanted["region"] * cross_entropy(output.logits, cut)
        if "threshold" in wanted:
            found = output.aux_logits["bias"]
            if self.num_classes > 2:
                found, best = (bias - bias.mean(1, keepdim=True) for bias in (found, best))
            distance = functional.smooth_l1_loss(found, best, reduction="none") * known
            terms["threshold"] = wanted["threshold"] * distance.sum() / known.expand_as(distance).sum().clamp(min=1)
        return terms

    def best(
        self, initial: Float[Tensor, "batch channels height width"], target: Int[Tensor, "batch height width"]
    ) -> tuple[
        Int[Tensor, "batch height width"],
        Float[Tensor, "batch channels rows columns"],
        Float[Tensor, "batch 1 rows columns"],
    ]:
        """What the best biases of each patch make of the map (255 where the truth is), they, and 1 where labels are."""
        maps = base_probabilities(initial.detach().float()).cpu().numpy()
        truth = target.cpu().numpy().astype(np.uint8)
        pairs = [self._best_of_one(*pair) for pair in zip(maps, truth, strict=True)]
        cut, bias = (np.stack(parts) for parts in zip(*pairs, strict=True))
        cut[truth == IGNORE] = IGNORE
        size = bias.shape[-2] * self.patch, bias.shape[-1] * self.patch
        labelled = (target != IGNORE)[:, None].float()
        room = (0, size[1] - target.shape[-1], 0, size[0] - target.shape[-2])
        known = functional.max_pool2d(functional.pad(labelled, room), self.patch)
        return torch.from_numpy(cut).to(target), torch.from_numpy(bias).to(initial), known

    def _best_of_one(
        self, maps: Float32[np.ndarray, "channels height width"], truth: UInt8[np.ndarray, "height width"]
    ) -> tuple[UInt8[np.ndarray, "height width"], Float32[np.ndarray, "channels rows columns"]]:
        """Of one picture.  Of equally good thresholds the one nearest to 0.5: what need not be moved is not."""
        if self.num_classes > 2:
            bias = best_class_bias(maps, truth, self.patch)
            return apply_class_bias(maps, bias, self.patch), bias
        thresholds = best_thresholds(maps[0], truth, self.patch, score=self.score, ties="middle")
        cut = apply_thresholds(maps[0], thresholds, self.patch).view(np.uint8)
        limited = np.minimum(thresholds, np.float32(HIGHEST))
        return cut, (np.log1p(-limited) - np.log(limited))[None]

"""ThreshNet: another network's probability map in, a better one out, as if every patch had a threshold of its own.

Nagendra, Shen, Kifer, "ThreshNet: Segmentation Refinement Inspired by Region-Specific Thresholding", arXiv 2211.06560;
as PatchRefineNet: Nagendra, Kifer, "PatchRefineNet: Improving Binary Segmentation by Incorporating Signals from
Optimal Patch-wise Binarization", WACV 2024.  (Not the classification network ThreshNet of IEEE Access 2022.)

| here | there | what |
|---|---|---|
| probabilities | X | the base's map of the foreground |
| initial | - | X as a logit, to compare with |
| global, local | Y_G, Y_L | predictions of two decoders: one sees the whole map, one single patches |
| logits | y* | their mean (section 3.3), as a logit |
| patch | P | side of the patches, pixels |
| target | Y | the true mask |
| `threshold_target` | Y_th | X cut in each patch at the threshold that fits Y best (section 3.2) |
| focal, boundary | L_focal, L_boundary | losses to Y_th (equations 9, 11) |
| regular | L_reg | cross-entropy to Y (equation 13) |
| region_weight, regular_weight | α, 1 - α | factors of L_rs and L_reg (equation 14) |

Where this differs (paper or released code; they disagree with one another in most of these):
* Score of a threshold: foreground IoU with one pixel added above and below (released).  Without it patches that hold no
  foreground fall to the lowest threshold.  Twenty thresholds, 0.05 to 1.00, strict: 1.00 empties a patch.
* L_rs is 0.7 focal + 0.3 boundary (released); the paper adds them.  No factor 0.75 on the focal loss (released).
* L_reg is plain cross-entropy to Y: equation 13 as printed repeats equation 11, the text and the code do not.
* Edges: the absolute value as in the paper (`edge="relu"`, released: their inner side alone).  The frame of the picture
  is no edge: the map goes on there as it ends.  Eight neighbours.
* Losses are computed from logits and means of the labelled pixels; an edge is compared where its nine pixels are.
* Prediction is the mean of both branches in evaluation mode; `combine="union_dilate"` is the released rule, which can
  remove nothing that the global branch found.
* A map of any size: mirrored at the right and lower frame up to whole patches, cut again.  There: resized to 512.
* More than two classes: one map a class, all through the same network (there: binary alone).
* Blocks: see `segfocus.methods.threshnet_blocks`.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn
from torch._subclasses.fake_tensor import is_fake
from torch.nn import functional

from segfocus.data.classes import IGNORE
from segfocus.losses import cross_entropy
from segfocus.methods.base import Refiner, check_choice, check_number
from segfocus.methods.base_logits import LEAST, base_logits, base_probabilities
from segfocus.methods.threshnet_blocks import (
    LEVELS,
    Decoder,
    Pyramid,
    RecurrentResidualUnit,
    cut_to,
    double_convolution,
    mirror_to,
    recomputed,
    recurrent_stages,
    residual_stages,
)
from segfocus.ops.patch_grid import join_patches, split_patches
from segfocus.ops.patches import threshold_target
from segfocus.ops.resample import ceil_div
from segfocus.output import Output, logit_channels

BRANCHES = ("global", "local")
SKIP_BELOW = 0.05
"""of three or more classes, one whose probability is nowhere as high keeps its map"""
_GAMMA = 2.0
"""of the focal loss"""


class ThreshNet(Refiner):
    """ThreshNet on the maps of any network.

    Args:
        num_classes: two (background and foreground) or more.
        encoder: "r2", recurrent residual units (released), or "resnet34", basic blocks (the paper's text).
        width: channels at full resolution, even; doubled on each of the three coarser levels.
        patch: P, pixels: a multiple of 8, at least 16.
        combine: how both branches become one prediction: their "mean" (paper), "global" or "local" alone,
            "union_dilate": global, or next to a pixel where both agree (released).  May be changed after training.
        score: what the best threshold of a patch maximises: IoU of the "foreground", "mean" of foreground and
            background, or "pooled": the picture's foreground IoU (`segfocus.ops.patches`).
        region_weight, regular_weight: factors of the losses to the thresholded map and to the true mask; 0 switches
            one off.
        focal_weight, boundary_weight: of the two losses to the thresholded map.
        edge: of a prediction: "abs" or "relu" of tanh of its Laplacian.
        keep_above: for three or more classes: where the base's largest probability is at least this, its prediction
            stays as it is, bit for bit; None: nowhere.
        checkpointing: in training keep no activations inside a level, but compute them again.

    Raises:
        ValueError: choices and numbers outside what is named above.
    """

    def __init__(
        self,
        num_classes: int = 2,
        *,
        encoder: Literal["r2", "resnet34"] = "r2",
        width: int = 32,
        patch: int = 64,
        combine: Literal["mean", "global", "local", "union_dilate"] = "mean",
        score: Literal["foreground", "mean", "pooled"] = "foreground",
        region_weight: float = 0.7,
        regular_weight: float = 0.3,
        focal_weight: float = 0.7,
        boundary_weight: float = 0.3,
        edge: Literal["abs", "relu"] = "abs",
        keep_above: float | None = 0.95,
        checkpointing: bool = False,
    ):
        super().__init__()
        check_choice("encoder", encoder, ("r2", "resnet34"))
        check_choice("combine", combine, ("mean", *BRANCHES, "union_dilate"))
        check_choice("score", score, ("foreground", "mean", "pooled"))
        check_choice("edge", edge, ("abs", "relu"))
        logit_channels(num_classes)
        for name, value, least, step in (("width", width, 2, 2), ("patch", patch, 16, 8)):
            if not isinstance(value, int) or isinstance(value, bool) or value < least or value % step:
                raise ValueError(
                    f"{name}: expected a multiple of {step}, at least {least}, got {value!r}; try "
                    f"{32 if name == 'width' else 64}"
                )
        weights = {"region": region_weight, "regular": regular_weight, "focal": focal_weight}
        for name, value in {**weights, "boundary": boundary_weight}.items():
            check_number(f"{name}_weight", value, 0.3)
        if keep_above is not None:
            check_number("keep_above", keep_above, "0.95, or null")
            if not 0 < keep_above <= 1:
                raise ValueError(f"keep_above: expected a probability in (0, 1], got {keep_above!r}; try 0.95, or null")
        if not isinstance(checkpointing, bool):
            raise ValueError(f"checkpointing: expected true or false, got {checkpointing!r}; try false")
        self.num_classes, self.patch, self.combine, self.score = num_classes, patch, combine, score
        self.grid = patch
        self.weights = {
            "focal": region_weight * focal_weight,
            "boundary": region_weight * boundary_weight,
            "regular": regular_weight,
        }
        self.edge, self.keep_above, self.checkpointing = edge, keep_above, checkpointing
        recurrent = encoder == "r2"
        unit = RecurrentResidualUnit if recurrent else double_convolution
        self.encoder = nn.ModuleList(recurrent_stages(width) if recurrent else residual_stages(width))
        self.pyramid = Pyramid(width << LEVELS - 1)
        self.global_decoder, self.local_decoder = Decoder(width, unit), Decoder(width, unit)

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
            `logits` of the prediction; `aux_logits` at full resolution: "initial" (the base's prediction; of three or
            more classes log-probabilities), "global" and "local" (of three or more classes the log-odds of each class
            against all others).

        Raises:
            SegfocusError: another number of channels.
        """
        initial = base_logits(probabilities, self.num_classes)
        exact = probabilities.to(initial.dtype)
        maps = exact[:, 1:] if self.num_classes == 2 else exact
        batch, channels, height, width = maps.shape
        maps = maps.reshape(batch * channels, 1, height, width)
        if self.num_classes == 2:
            branches = self.branches(maps)
            return Output(self._combined(*branches), aux_logits=_named(initial, *branches))
        own = maps.clamp(LEAST, 1 - LEAST).logit()
        active = _active(maps)
        branches = self._active_branches(maps, own, active)
        refined = torch.where(active, self._combined(*branches), own)
        refined, *parts = (part.reshape(batch, channels, height, width) for part in (refined, *branches))
        keep = (refined < 0).all(1, keepdim=True)  # no class wants the pixel
        if self.keep_above is not None:
            keep = keep | (exact.amax(1, keepdim=True) >= self.keep_above)
        return Output(torch.where(keep, initial, refined), aux_logits=_named(initial, *parts))

    def branches(
        self, maps: Float[Tensor, "maps 1 height width"]
    ) -> tuple[Float[Tensor, "maps 1 height width"], Float[Tensor, "maps 1 height width"]]:
        """Logits of the global and of the local branch, in float32 at least, for maps of one class each."""
        size = (maps.shape[-2], maps.shape[-1])
        rows, columns = (ceil_div(side, self.patch) for side in size)
        run = recomputed if self.checkpointing and self.training and torch.is_grad_enabled() else _run
        features, skips = mirror_to(maps, (rows * self.patch, columns * self.patch)), []
        for stage in self.encoder:
            features = run(stage, features)
            skips.append(features)
        features, skips = self.pyramid(features), skips[:-1]
        whole = self.global_decoder(features, skips, run)
        side = self.patch >> LEVELS - 1
        pieces = [split_patches(skip, self.patch >> level) for level, skip in enumerate(skips)]
        alone = join_patches(self.local_decoder(split_patches(features, side), pieces, run), rows, columns)
        dtype = torch.promote_types(whole.dtype, torch.float32)
        return cut_to(whole.to(dtype), size), cut_to(alone.to(dtype), size)

    def _active_branches(self, maps: Tensor, own: Tensor, active: Tensor) -> tuple[Tensor, Tensor]:
        """`branches` of the active maps, `own` of the others."""
        # a traced graph computes all, whatever they hold, and maps without values (`describe`) hold nothing
        if torch.compiler.is_compiling() or is_fake(active) or bool(active.all()):
            whole, alone = self.branches(maps)
        else:
            chosen = active.flatten().nonzero()[:, 0]
            chosen = chosen if len(chosen) else chosen.new_zeros(1)  # its zero share keeps the gradient's path
            whole, alone = (own.index_copy(0, chosen, part) for part in self.branches(maps[chosen]))
        return torch.where(active, whole, own), torch.where(active, alone, own)

    def _combined(self, whole: Tensor, alone: Tensor) -> Tensor:
        """One logit of both branches'."""
        if self.combine == "global":
            return whole
        if self.combine == "local":
            return alone
        if self.combine == "mean":  # of the probabilities
            foreground = torch.logaddexp(functional.logsigmoid(whole), functional.logsigmoid(alone))
            return foreground - torch.logaddexp(functional.logsigmoid(-whole), functional.logsigmoid(-alone))
        agreed = functional.max_pool2d(torch.minimum(whole, alone), 3, 1, 1)
        return torch.maximum(whole, agreed)

    def loss(self, output: Output, target: Int[Tensor, "batch height width"]) -> dict[str, Tensor]:
        """Equation 14, half of it for each branch: focal and boundary loss to the thresholded map, cross-entropy.

        The thresholded map is made here from the target and `output.aux_logits["initial"]`.  Of three or more classes
        each is compared with all others, and the mean is over the pixels of those that were refined.
        """
        maps, truth = self._maps_and_truth(output, target)
        wanted = {name: weight for name, weight in self.weights.items() if weight > 0}
        cut = self.region_target(maps, truth) if {"focal", "boundary"} & set(wanted) else truth
        terms = {}
        for branch in BRANCHES:
            logits = output.aux_logits[branch].flatten(0, 1)[:, None]
            for name, weight in wanted.items():
                if name == "focal":
                    value = focal_loss(logits, cut)
                elif name == "boundary":
                    value = boundary_loss(logits, cut, self.edge)
                else:
                    value = cross_entropy(logits, truth)
                terms[f"{branch}_{name}"] = weight / len(BRANCHES) * value
        return terms

    def _maps_and_truth(self, output: Output, target: Tensor) -> tuple[Tensor, Tensor]:
        """Probability maps of single classes, and each one's mask: 0, 1, 255."""
        initial = output.aux_logits["initial"].detach()
        if self.num_classes == 2:
            return base_probabilities(initial)[:, 0], target
        maps = base_probabilities(initial).flatten(0, 1)
        classes = torch.arange(self.num_classes, device=target.device)[:, None, None]
        truth = (target[:, None] == classes).to(target.dtype)
        truth = truth.masked_fill(target[:, None] == IGNORE, IGNORE).flatten(0, 1)
        return maps, truth.masked_fill(~_active(maps), IGNORE)

    def region_target(
        self, maps: Float[Tensor, "maps height width"], truth: Int[Tensor, "maps height width"]
    ) -> Int[Tensor, "maps height width"]:
        """Y_th of each map: 0, 1, and 255 where the truth is void."""
        cut = [
            threshold_target(p, y, self.patch, score=self.score)
            for p, y in zip(maps.float().cpu().numpy(), truth.cpu().numpy().astype(np.uint8), strict=True)
        ]
        return torch.from_numpy(np.stack(cut)).to(truth)


def focal_loss(
    logits: Float[Tensor, "maps 1 height width"],
    target: Int[Tensor, "maps height width"],
    gamma: float = _GAMMA,
    ignore_index: int = IGNORE,
) -> Float[Tensor, ""]:
    """Equation 9: mean of -(1 - c)^gamma log(c) over the labelled pixels, in nats; c: probability of the truth."""
    labelled = target != ignore_index
    logits = logits[:, 0].to(torch.promote_types(logits.dtype, torch.float32))
    signed = torch.where(target == 1, logits, -logits)
    value = -(gamma * functional.logsigmoid(-signed)).exp() * functional.logsigmoid(signed)
    return (value * labelled).sum() / labelled.sum().clamp(min=1)


def boundary_loss(
    logits: Float[Tensor, "maps 1 height width"],
    target: Int[Tensor, "maps height width"],
    edge: str = "abs",
    ignore_index: int = IGNORE,
) -> Float[Tensor, ""]:
    """Equation 11: mean binary cross-entropy between the edges of prediction and target, in nats.

    Over the pixels whose eight neighbours have labels too.
    """
    labelled = target != ignore_index
    void = (~labelled)[:, None].float()
    valid = functional.max_pool2d(void, 3, 1, 1)[:, 0] == 0
    dtype = torch.promote_types(logits.dtype, torch.float32)
    found = edges(logits.to(dtype).sigmoid(), edge)[:, 0]
    wanted = edges((target == 1)[:, None].to(dtype), edge)[:, 0]
    value = -(wanted * found.log() + (1 - wanted) * (1 - found).log())
    return (value * valid).sum() / valid.sum().clamp(min=1)


def edges(maps: Float[Tensor, "maps 1 height width"], edge: str = "abs") -> Float[Tensor, "maps 1 height width"]:
    """abs(tanh(L)) or relu(tanh(L)) (section 3.5), in [1e-6, 1 - 1e-6]; L = 8 times a pixel less its eight neighbours.

    Sums instead of a convolution: autocast would lower the precision of one, and tanh(8) is 1 in half precision.
    """
    padded = functional.pad(maps, (1, 1, 1, 1), mode="replicate")
    rows = padded[..., :-2, :] + padded[..., 1:-1, :] + padded[..., 2:, :]
    laplacian = 9 * maps - (rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:])
    strength = laplacian.tanh()
    return (strength.abs() if edge == "abs" else strength.relu()).clamp(LEAST, 1 - LEAST)


def _run(module: nn.Module, *maps: Tensor) -> Tensor:
    return module(*maps)


def _named(*logits: Tensor) -> dict[str, Tensor]:
    return dict(zip(("initial", *BRANCHES), logits, strict=True))


def _active(maps: Shaped[Tensor, "maps *size"]) -> Bool[Tensor, "maps *ones"]:
    """Whether a map reaches `SKIP_BELOW` anywhere."""
    return maps.amax(tuple(range(1, maps.ndim)), keepdim=True) >= SKIP_BELOW

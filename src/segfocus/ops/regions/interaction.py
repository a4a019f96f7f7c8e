"""Region interaction: context between the representatives of regions (Shen et al. 2020, section 3.2, eqs 6-8).

    name            paper                       what it is
    features        A                           visual feature of each pixel
    scores          J                           representative score of each pixel, in [0, 1]
    representatives p_{q,1..K}, φ(R_q)          pixels that speak for region q
    local           A^l                         representatives after intra-region collection (eq. 6)
    common          A^g                         representatives after inter-region interaction (eq. 7)
    result          O                           every pixel after intra-region distribution (eq. 8)

    (6)  A^l_p = J_p A_p + sum over pixels i of R_q that represent nothing of    softmax_i(A_p   . J_i A_i)   J_i A_i
    (7)  A^g_p = J_p A^l_p + sum over representatives r of the other regions of  softmax_r(A^l_p . J_r A^l_r) J_r A^l_r
    (8)  O_i   = J_i A_i + sum over representatives p of R_q of                  softmax_p(A_i   . J_p A^g_p) J_p A^g_p

Where this differs:
- eq. 7 as printed normalises within one source region, so that the sum over regions grows with their number; here one
  softmax runs over all other regions' representatives.  (The released code lets a representative see its own region.)
- A region with fewer than K pixels has as many representatives as pixels (released: filled up from other regions).
- `scale` multiplies the dot products; the paper's is 1.
- The paper's rows without intra-region communication "only update the representative pixels": here O_p = A^g_p for
  them and O_i = J_i A_i for the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from segfocus.ops.regions.attention import attend, full_precision
from segfocus.ops.regions.blocks import RegionBlocks, collect, match, spread
from segfocus.ops.regions.representatives import choose_representatives


def exchange(
    features: Float[Tensor, "batch channels height width"],
    scores: Float[Tensor, "batch height width"],
    regions: Int[Tensor, "batch height width"],
    *,
    representatives: int = 8,
    scale: float | Float[Tensor, ""] = 1.0,
    intra: bool = True,
    inter: bool = True,
) -> Float[Tensor, "batch channels height width"]:
    """The contextual representation O of every pixel (eqs 6-8).

    Args:
        features: visual features A.
        scores: representative scores J, in [0, 1].
        regions: region of each pixel, numbered from 0 in each picture.
        representatives: most representatives a region has (K).
        scale: factor of the dot products of all three softmaxes; a tensor of no dimensions is learned.
        intra: off, nothing is collected or distributed: O_p = A^g_p at representatives with A^l_p = J_p A_p, and
            O_i = J_i A_i elsewhere.
        inter: off, A^g_p = J_p A^l_p.  With both off, O = J A.

    Returns:
        O, in float32 (float64 for float64 features), under autocast too.  Gradients go to features, scores and a
        learned scale, once; regions and the choice of representatives are constants.

    Raises:
        ValueError: fewer than 1 representative, scores or regions of another size, scores that are NaN or infinite,
            or negative regions.
    """
    _check_maps(features, scores, regions, "batch", "channels", "height", "width")
    batch, channels, height, width = features.shape
    with full_precision(features):
        features = features if features.dtype == torch.float64 else features.float()
        scores = scores.to(features.dtype)
        results = [
            _exchange_in_picture(
                picture.flatten(1).T.contiguous(),
                importance.flatten(),
                labels.flatten(),
                representatives,
                scale,
                intra,
                inter,
            ).T
            for picture, importance, labels in zip(features, scores, regions, strict=True)
        ]
        if not results:
            return features * scores[:, None]
        return torch.stack(results).view(batch, channels, height, width)


def attention_from(
    features: Float[Tensor, "channels height width"],
    scores: Float[Tensor, "height width"],
    regions: Int[Tensor, "height width"],
    row: int,
    column: int,
    *,
    representatives: int = 8,
    scale: float | Float[Tensor, ""] = 1.0,
    intra: bool = True,
    inter: bool = True,
) -> Float[Tensor, "height width"]:
    """How much each pixel j's J_j A_j enters O at the pixel (row, column): the three softmaxes and residuals composed.

    With the softmax weights of eqs 6-8 held fixed, O is linear in the vectors J_j A_j, and O at the pixel is exactly
    sum over j of map_j J_j A_j.  Arguments as `exchange`, of one picture.

    Returns:
        The map: no value is negative; it does not sum to 1 (residuals count as well, scores scale later steps).

    Raises:
        ValueError: a pixel outside the picture; as `exchange`.
    """
    _check_maps(features, scores, regions, "channels", "height", "width")
    height, width = scores.shape
    if not (0 <= row < height and 0 <= column < width):
        raise ValueError(f"pixel: expected a place in {height} x {width} cells, got ({row}, {column}); try the middle")
    chosen = row * width + column
    with torch.no_grad(), full_precision(features):
        features = features if features.dtype == torch.float64 else features.float()
        pixels, importance = features.flatten(1).T.contiguous(), scores.to(features.dtype).flatten()
        labels = regions.flatten().long()
        blocks = RegionBlocks.build(labels, choose_representatives(importance, labels, representatives))
        entering = torch.zeros_like(importance)
        spoken = importance[blocks.pixels]
        if not intra and (not inter or not bool((blocks.pixels == chosen).any())):
            entering[chosen] = 1
            return entering.view(height, width)
        steps = _update_representatives(pixels, importance, blocks, scale, intra, inter)
        if intra:
            # eq. 8: the pixel's residual, and its weights of its own region's representatives
            entering[chosen] = 1
            own = blocks.table[labels[chosen]]
            own = own[own >= 0]
            logits = (pixels[chosen] * (spoken[own, None] * steps.common[own])).sum(1) * scale
            through = logits.softmax(0) * spoken[own]
        else:
            own = (blocks.pixels == chosen).nonzero()[:, 0]
            through = torch.ones_like(spoken[own])
        # eq. 7, one row of weights for each of the (at most K) representatives that the pixel draws on
        of_local = torch.zeros_like(spoken).index_add(0, own, through * spoken[own])
        if inter:
            said = spoken[:, None] * steps.local
            logits = steps.local[own] @ said.T * scale
            same = blocks.owners[own, None] == blocks.owners[None]
            logits = logits.masked_fill(same, -torch.inf)
            of_local += through @ logits.softmax(1).masked_fill(same, 0) * spoken
        # eq. 6: a representative is itself and what it collected
        entering.index_add_(0, blocks.pixels, of_local)
        if steps.collected is not None:
            weights = of_local[blocks.table.clamp(min=0)].masked_fill(blocks.table < 0, 0)
            entering += (steps.collected * weights[labels]).sum(1)
        return entering.view(height, width)


class _Updated(NamedTuple):
    """Representatives after eqs 6 and 7, in the order of `RegionBlocks.pixels`."""

    local: Float[Tensor, "representatives channels"]
    common: Float[Tensor, "representatives channels"]
    collected: Float[Tensor, "pixels count"] | None
    """eq. 6's softmax weights; None where nothing was collected"""


def _exchange_in_picture(
    pixels: Float[Tensor, "pixels channels"],
    scores: Float[Tensor, " pixels"],
    regions: Int[Tensor, " pixels"],
    representatives: int,
    scale: float | Float[Tensor, ""],
    intra: bool,
    inter: bool,
) -> Float[Tensor, "pixels channels"]:
    if len(pixels) == 0 or not (intra or inter):
        return pixels * scores[:, None]
    blocks = RegionBlocks.build(regions, choose_representatives(scores, regions, representatives))
    common = _update_representatives(pixels, scores, blocks, scale, intra, inter).common
    if not intra:
        return (pixels * scores[:, None]).index_copy(0, blocks.pixels, common)
    # eq. 8; J_p is taken out of the dot products and into the weights, so that no J A is ever held
    spoken = _of_slots(scores, blocks)
    missing = _of_slots(torch.ones_like(scores), blocks) == 0
    logits = match(pixels, common, blocks) * spoken * scale
    weights = logits.masked_fill(missing, -torch.inf).softmax(1)
    result = torch.addcmul(spread(weights * spoken, common, blocks), pixels, scores[:, None])
    if result.requires_grad:  # its gradient arrives transposed; one copy makes all that follows a third faster
        result.register_hook(lambda gradient: None if gradient is None else gradient.contiguous())
    return result


def _update_representatives(
    pixels: Float[Tensor, "pixels channels"],
    scores: Float[Tensor, " pixels"],
    blocks: RegionBlocks,
    scale: float | Float[Tensor, ""],
    intra: bool,
    inter: bool,
) -> _Updated:
    """Eqs 6 and 7."""
    own = pixels[blocks.pixels]
    spoken = scores[blocks.pixels, None]
    local, weights = own * spoken, None
    if intra and len(blocks.pixels) < len(pixels):
        seen = torch.ones(len(pixels), dtype=torch.bool, device=pixels.device).index_fill(0, blocks.pixels, False)
        logits = match(pixels, own, blocks) * scores[:, None] * scale
        weights = _softmax_in_regions(logits, seen, blocks)
        local = local + collect(weights * scores[:, None], pixels, blocks)
    said = local * spoken
    if inter:
        return _Updated(local, said + attend(local, said, said, scale, (blocks.owners, blocks.owners)), weights)
    return _Updated(local, said, weights)


def _of_slots(scores: Float[Tensor, " pixels"], blocks: RegionBlocks) -> Float[Tensor, "pixels count"]:
    """For each pixel its region's representatives' scores; 0 in missing slots."""
    of_representatives = torch.cat([scores[blocks.pixels], scores.new_zeros(1)])
    return of_representatives[blocks.table][blocks.regions]


def _softmax_in_regions(
    logits: Float[Tensor, "pixels count"], seen: Bool[Tensor, " pixels"], blocks: RegionBlocks
) -> Float[Tensor, "pixels count"]:
    """Softmax over the seen pixels of each region, for each slot; 0 elsewhere."""
    logits = logits.masked_fill(~seen[:, None], -torch.inf)
    regions = blocks.regions
    table = logits.new_full(blocks.table.shape, -torch.inf)
    highest = table.scatter_reduce(0, regions[:, None].expand_as(logits), logits.detach(), "amax")
    weights = (logits - highest.masked_fill(highest == -torch.inf, 0)[regions]).exp()
    totals = torch.zeros_like(table).index_add(0, regions, weights)
    return weights / totals.masked_fill(totals == 0, 1)[regions]


def _check_maps(features: Tensor, scores: Tensor, regions: Tensor, *form: str) -> None:
    def sizes(shape: Sequence[object]) -> str:
        return " x ".join(map(str, shape))

    if features.ndim != len(form):
        remedy = "features[None]" if features.ndim < len(form) else "one picture at a time"
        raise ValueError(f"features: expected {sizes(form)}, got {sizes(features.shape)}; try {remedy}")
    wanted = features.shape[:-3] + features.shape[-2:]
    for name, values in (("scores", scores), ("regions", regions)):
        if values.shape != wanted:
            raise ValueError(
                f"{name}: expected the size of the features without channels, {sizes(wanted)}, got "
                f"{sizes(values.shape)}; try {name} of `construct_regions` on maps of that size"
            )
    # NaN orders before and after nothing: representatives would be chosen at random, and the result be NaN
    if not scores.isfinite().all():
        found = "NaN" if scores.isnan().any() else "infinity"
        raise ValueError(f"scores: expected finite values in [0, 1], got {found}; try scores of `construct_regions`")

"""Ceilings: what the idea behind each method would predict if the truth made its decisions.

Every function takes the truth and a prediction as `Comparison` holds them (uint8 height x width, train ids; 255 = void,
in both where the truth is void) and gives predictions of the same kind, one for each budget.  None of them is a
method: they bound what one can do.  `segfocus.metrics.headroom` scores them.

    FoR-Net    Pan et al., 2026: refine the hardest regions                         -> `perfect_regions`
    OVeNet     Alexandropoulos et al., 2023: borrow a better pixel's prediction     -> `borrow_nearby`
    RANet      Shen et al., NeurIPS 2020: pixels of one object region agree         -> `one_vote_per_region`
    ThreshNet  Nagendra et al., WACV 2024: a threshold of its own for each patch    -> `best_bias_per_patch`
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from jaxtyping import Float, Float32, Float64, Int32, Real, Shaped, UInt8

from segfocus.errors import SegfocusError
from segfocus.metrics.confusion import VOID

REGION = 16
"""px; the side of FoR-Net's regions, and of the cells that patches are made of"""
STEPS = 20
"""bias is tried in steps of 1 / 20"""
_TINY = np.float32(1e-30)  # in place of a probability of 0, where that would give infinity or NaN


# FoR-Net


def perfect_regions(
    target: np.ndarray,
    prediction: np.ndarray,
    ranking: Real[np.ndarray, "rows columns"],
    percents: Sequence[int],
) -> list[UInt8[np.ndarray, "height width"]]:
    """The best-ranked regions become right: in each picture `percent` % of its 16 px squares, rounded up.

    Ranked by the squares' wrong pixels (`wrong_per_region`), this has the most right pixels that any choice of as many
    regions can have.  Regions at the right and lower edge are cut off by the picture's frame.

    Args:
        ranking: a value for each region, the highest first; of equal ones the first in reading order.
        percents: 0 to 100.

    Raises:
        SegfocusError: other percents.
    """
    if any(not 0 <= percent <= 100 for percent in percents):
        raise SegfocusError(f"regions: expected 0 to 100 %, got {list(percents)}; try 5 10 25")
    order = np.argsort(-ranking, axis=None, kind="stable")
    rank = np.empty(ranking.size, np.int64)
    rank[order] = np.arange(ranking.size)
    rank = rank.reshape(ranking.shape)
    counts = [-(-percent * ranking.size // 100) for percent in percents]
    return [np.where(_spread(rank < count, target.shape), target, prediction) for count in counts]


def wrong_per_region(target: np.ndarray, prediction: np.ndarray) -> Float64[np.ndarray, "rows columns"]:
    """Wrong labelled pixels in each region."""
    return _region_sums(target != prediction)


def entropy_per_region(
    probabilities: Float32[np.ndarray, "classes height width"],
) -> Float64[np.ndarray, "rows columns"]:
    """Mean entropy in nats of each region's pixels, void ones too: a network does not know where the truth is void."""
    entropy = np.empty(probabilities.shape[1:], np.float32)
    for start in range(0, len(entropy), REGION):  # few rows at a time stay in the processor's cache
        rows = slice(start, start + REGION)
        values = np.maximum(probabilities[:, rows], _TINY)  # 0 ln 0 = 0
        np.einsum("chw,chw->hw", values, np.log(values), out=entropy[rows])
    return -_region_means(entropy)


def importance_per_region(
    importance: Float[np.ndarray, "rows columns"], shape: tuple[int, int]
) -> Float64[np.ndarray, "_ _"]:
    """Mean in each region of an importance map that covers a picture of `shape` with a grid of its own.

    Where the grid is that of square cells of 1, 2, 4, ... px, the last of which may reach beyond the picture (as
    FoR-Net's), the cells lie there; any other grid is stretched over the picture.
    """
    importance = np.asarray(importance, np.float32)
    for side in (1, 2, 4, 8, 16, 32, 64):
        if importance.shape == tuple(-(-size // side) for size in shape):
            full = importance.repeat(side, axis=0)[: shape[0]].repeat(side, axis=1)[:, : shape[1]]
            return _region_means(np.ascontiguousarray(full))
    return _region_means(cv2.resize(importance, shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT))


def _region_sums(values: Shaped[np.ndarray, "height width"]) -> Float64[np.ndarray, "rows columns"]:
    rows, columns = (np.arange(0, size, REGION) for size in values.shape)
    return np.add.reduceat(np.add.reduceat(values, rows, axis=0, dtype=np.float64), columns, axis=1)


def _region_means(values: Float32[np.ndarray, "height width"]) -> Float64[np.ndarray, "rows columns"]:
    heights, widths = (np.diff(np.append(np.arange(0, size, REGION), size)) for size in values.shape)
    return _region_sums(values) / np.multiply.outer(heights, widths)


def _spread(regions: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Each region's value at its pixels."""
    return regions.repeat(REGION, axis=0)[: shape[0]].repeat(REGION, axis=1)[:, : shape[1]]


# OVeNet


def borrow_nearby(
    target: np.ndarray, prediction: np.ndarray, num_classes: int, radii: Sequence[int]
) -> list[UInt8[np.ndarray, "height width"]]:
    """A pixel becomes right when any pixel within `radius` px (chessboard, so (2 radius + 1)² pixels) is predicted as
    its true class.  Void pixels have no prediction to lend.

    Eight classes at a time, one bit each: `lent` holds at every pixel the classes predicted within the radius so far.

    Args:
        radii: px, ascending, from 0 (the prediction as it is).

    Raises:
        SegfocusError: radii that descend or are negative.
    """
    if list(radii) != sorted(radii) or any(radius < 0 for radius in radii):
        raise SegfocusError(f"radii: expected ascending px from 0, got {list(radii)}; try 0 1 2 4")
    found = np.zeros((len(radii), *target.shape), bool)
    for start in range(0, num_classes, 8):
        bits = np.zeros(256, np.uint8)
        bits[start : min(start + 8, num_classes)] = 1 << np.arange(min(8, num_classes - start))
        wanted, lent = cv2.LUT(target, bits), cv2.LUT(prediction, bits)
        reached = 0
        for index, radius in enumerate(radii):
            while reached < radius:
                # windows of radius `reached` leave no gap at this distance, nor at the picture's frame
                step = min(radius - reached, reached + 1)
                lent = _join(lent, step)
                reached += step
            found[index] |= np.bitwise_and(lent, wanted) != 0
    return [np.where(right, target, prediction) for right in found]


def _join(bits: UInt8[np.ndarray, "height width"], step: int) -> UInt8[np.ndarray, "height width"]:
    """Every pixel's bits with those `step` px above, below and beside it, and of its diagonals."""
    for axis in (0, 1):
        joined = bits.copy()
        here, there = (values.swapaxes(0, axis) for values in (joined, bits))
        here[step:] |= there[:-step]
        here[:-step] |= there[step:]
        bits = joined
    return bits


# RANet


def one_vote_per_region(
    numbered: Int32[np.ndarray, "height width"], target: np.ndarray, prediction: np.ndarray, num_classes: int
) -> tuple[UInt8[np.ndarray, "height width"], UInt8[np.ndarray, "height width"]]:
    """Every true region (8-connected component of one class) votes, and all its pixels take the class that most of
    them are predicted as; of equally many the smallest train id.

    Args:
        numbered: number of each pixel's component in the truth, 0 for void: `segfocus.metrics.regions.components`.

    Returns:
        The prediction after all votes, and the one after those votes only that elect the true class: every other
        region keeps its own prediction, so that this has at least as many right pixels as both.
    """
    count = int(numbered.max()) + 1
    most, elected = np.zeros(count, np.int64), np.zeros(count, np.uint8)
    for train_id in range(num_classes):
        votes = np.bincount(numbered[prediction == train_id], minlength=count)
        more = votes > most
        most[more], elected[more] = votes[more], train_id
    elected[0] = VOID
    voted = elected.take(numbered)
    return voted, np.where(voted == target, target, prediction)


# ThreshNet


def best_bias_per_patch(
    target: np.ndarray,
    prediction: np.ndarray,
    probabilities: Float32[np.ndarray, "classes height width"],
    sides: Sequence[int | None],
) -> list[UInt8[np.ndarray, "height width"]]:
    """In each patch one class c takes the pixels where p_c >= bias x (the pixel's highest probability), with the c and
    the bias (0, 0.05, ..., 1) that give most right pixels; nothing changes in a patch that cannot gain.

    For two classes this is the best threshold for each patch, as in ThreshNet: p_1 >= bias p_0 is p_1 >= t with
    t = bias / (1 + bias), at most 0.5, and c = 0 gives those above.  There right pixels are counted, not the IoU, which
    no single patch has.  For more classes it is the best bias for one class; several at once could gain more.
    Of equal gains the smallest train id and the highest bias, which changes fewest pixels.

    Args:
        probabilities: in [0, 1], one channel a class.
        sides: px of the patches, multiples of 16; None is the whole picture.

    Raises:
        SegfocusError: other sides.
    """
    if any(side is not None and (side < REGION or side % REGION) for side in sides):
        raise SegfocusError(f"patches: expected multiples of {REGION} px, got {list(sides)}; try 16 32 64")
    levels = _bias_levels(probabilities)
    gains = _gains_per_cell(target, prediction, levels)
    cells = levels.reshape(len(levels), len(gains), REGION, -1, REGION)
    rows, columns = np.ogrid[: gains.shape[0], : gains.shape[1]]
    labelled = target != VOID
    patched = []
    for side in sides:
        train_id, least = _best_choice(gains, side)
        takes = cells[train_id, rows, :, columns] >= least[..., None, None]  # rows x columns x 16 x 16
        takes = takes.swapaxes(1, 2).reshape(levels.shape[1:])[: target.shape[0], : target.shape[1]]
        patched.append(np.where(takes & labelled, _spread(train_id, target.shape), prediction))
    return patched


def _bias_levels(probabilities: Float32[np.ndarray, "classes height width"]) -> UInt8[np.ndarray, "classes _ _"]:
    """floor(20 p_c / highest p) of every class and pixel: the largest bias, in steps, with which the class takes it.

    Padded with zeros to whole cells.  One byte each: a quarter of the probabilities' memory.
    """
    classes, height, width = probabilities.shape
    levels = np.zeros((classes, height + -height % REGION, width + -width % REGION), np.uint8)
    for start in range(0, height, REGION):  # few rows at a time stay in the processor's cache
        rows = slice(start, min(start + REGION, height))
        highest = np.maximum(probabilities[:, rows].max(0), _TINY)
        levels[:, rows, :width] = np.maximum(probabilities[:, rows], 0) / highest * STEPS
    return levels


def _gains_per_cell(
    target: np.ndarray, prediction: np.ndarray, levels: UInt8[np.ndarray, "classes _ _"]
) -> Int32[np.ndarray, "rows columns classes levels"]:
    """Right pixels that each 16 px cell gains when a class takes all its pixels of a level or above; the levels run
    from 20 down to 0."""
    height, width = target.shape
    rows, columns = (size // REGION for size in levels.shape[1:])
    cell = np.add.outer(np.arange(height) // REGION * columns, np.arange(width) // REGION)
    right, labelled = target == prediction, target != VOID
    gains = np.empty((rows * columns, len(levels), STEPS + 1), np.int32)
    for train_id, level in enumerate(levels[:, :height, :width]):
        # only where the class is not predicted yet and has a probability can a level change anything
        pixels = np.flatnonzero((level > 0) & (prediction != train_id) & labelled)
        place = cell.take(pixels) * (STEPS + 1) + STEPS - level.take(pixels)
        won, lost = (
            np.bincount(place[which], minlength=gains[:, 0].size).reshape(-1, STEPS + 1)
            for which in (target.take(pixels) == train_id, right.take(pixels))
        )
        gains[:, train_id] = (won - lost).cumsum(1)
    # at level 0 the class takes the whole cell, whatever the probabilities
    true = np.bincount((cell * len(levels) + target)[labelled], minlength=gains[..., -1].size)
    gains[..., -1] = true.reshape(-1, len(levels)) - _region_sums(right & labelled).reshape(-1, 1)
    return gains.reshape(rows, columns, len(levels), STEPS + 1)


def _best_choice(
    gains: Int32[np.ndarray, "rows columns classes levels"], side: int | None
) -> tuple[UInt8[np.ndarray, "rows columns"], UInt8[np.ndarray, "rows columns"]]:
    """For every cell the class that its patch lets take pixels, and the least level of those (above 20: none)."""
    rows, columns, classes, levels = gains.shape
    high, wide = (side // REGION, side // REGION) if side else (rows, columns)
    padded = np.pad(gains, ((0, -rows % high), (0, -columns % wide), (0, 0), (0, 0)))
    of_patch = padded.reshape(-(-rows // high), high, -1, wide, classes * levels).sum((1, 3), dtype=np.int32)
    best = of_patch.argmax(-1)
    train_id, index = np.divmod(best, levels)
    least = np.where(of_patch.max(-1) > 0, STEPS - index, STEPS + 1)
    train_id, least = (
        values.astype(np.uint8).repeat(high, axis=0)[:rows].repeat(wide, axis=1)[:, :columns]
        for values in (train_id, least)
    )
    return train_id, least

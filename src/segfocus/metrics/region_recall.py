"""Recall of ranked regions: how much of what matters lies in the K % of a picture's regions that are put first.

A method that works only where it is worth while (FoR-Net, Pan et al., 2026) ranks square regions of the picture by a
score of any origin: a learned map, entropy, chance.  What matters is counted in each region, pixels of boundaries or
of errors for example.

    recall(K) = counted in the chosen regions of all pictures / counted in all pictures

Each picture chooses for itself, K is rounded to whole regions half up, at least one where K > 0, and equal regions
come in reading order.  Beside a recall stand the best one possible (regions ranked by their own counts) and what
chance gives on average, which is K but for the rounding.  The gain is (recall - chance) / (best - chance): 1 is
perfect, 0 is chance.  The area is that under the curve from K = 0 to 100 %, straight between whole regions: 0.5 for
chance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from jaxtyping import Float, Float64, Int64, Real, Shaped

from segfocus.errors import SegfocusError
from segfocus.metrics.bootstrap import interval, pictures_needed, poisson_weights
from segfocus.metrics.confusion import ratio
from segfocus.metrics.tally import SUM_UNIT, as_sum_units, number, numbers

RATIOS = (0.05, 0.1, 0.2, 0.25, 0.3, 0.5)
"""shares K of the regions"""
REGION = 32
"""px; FoR-Net's blocks of 4 x 4 cells at stride 8"""
_CELLS = (1, 2, 4, 8, 16, 32, 64)
_PARTS = 1_000_000
"""ratios become integers of this unit, as in `segfocus.ops.selection`, so that both choose the same count"""


def cell_side(grid: tuple[int, ...], size: tuple[int, ...]) -> int | None:
    """px of the square cells of a grid (rows, columns) over a picture (height, width), the last of which may reach
    beyond it; None where the grid is not made of cells of 1, 2, 4, ... 64 px."""
    return next((side for side in _CELLS if grid == tuple(-(-pixels // side) for pixels in size)), None)


def region_side(grid: tuple[int, ...], size: tuple[int, ...], region: int = REGION) -> int:
    """px of the square regions: as many whole cells as fit into `region`, at least one; `region` without cells."""
    side = cell_side(grid, size)
    return region if side is None else side * max(1, region // side)


def region_scores(
    importance: Float[np.ndarray, "rows columns"], size: tuple[int, int], region: int = REGION
) -> Float64[np.ndarray, "_ _"]:
    """Mean importance of each region's cells.

    Cells count alike, also those that reach beyond the picture, as where FoR-Net chooses.  A grid of other than square
    cells (see `cell_side`) is stretched over the picture first.

    Args:
        importance: on a grid that covers the picture.
        size: height and width of the picture in px.
        region: px, see `region_side`.
    """
    cell = cell_side(importance.shape, size)
    if cell is None:
        stretched = cv2.resize(importance.astype(np.float32), size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
        importance, cell = np.asarray(stretched), 1
    side = max(1, region // cell)
    return region_sums(importance, side) / region_sums(np.ones(importance.shape, bool), side)


def region_sums(values: Shaped[np.ndarray, "height width"], side: int) -> Real[np.ndarray, "rows columns"]:
    """Sum in each square of `side` x `side`; those at the right and lower edge hold what is there.  Booleans are
    counted; float64 of floats, int64 of all others."""
    rows, columns = (np.arange(0, length, side) for length in values.shape)
    kind = np.float64 if values.dtype.kind == "f" else np.int64
    return np.add.reduceat(np.add.reduceat(values, rows, axis=0, dtype=kind), columns, axis=1)


def selected_counts(ratios: Sequence[float], regions: int) -> Int64[np.ndarray, "ratios"]:
    """Regions that each ratio chooses of so many: rounded half up, at least 1 where the ratio is above 0.

    Raises:
        SegfocusError: ratios outside [0, 1], or none at all.
    """
    if not len(ratios) or not all(0 <= ratio <= 1 for ratio in ratios):
        raise SegfocusError(f"ratios: expected shares of the regions in [0, 1], got {list(ratios)}; try 0.1 0.25")
    parts = np.array([round(ratio * _PARTS) for ratio in ratios], np.int64)
    least = np.array([ratio > 0 for ratio in ratios], np.int64)
    return np.minimum(np.maximum((parts * regions + _PARTS // 2) // _PARTS, least), regions)


def recall_counts(
    scores: np.ndarray,
    amounts: Mapping[str, np.ndarray],
    ratios: Sequence[float] = RATIOS,
) -> dict[str, np.ndarray]:
    """What one picture's ranking of regions adds to the recalls of a data set, for a score map of any origin.

    Args:
        scores: of each region, rows x columns, any real numbers; the highest first, of equal ones the first in reading
            order.
        amounts: by name, how much of what matters each region holds, rows x columns, whole numbers from 0.
        ratios: shares K of the regions in [0, 1].

    Returns:
        int64 counts, which add up over pictures and go to `recall_scores`; rows in the order of `amounts`:
        `inside` and `best` [amounts, ratios]: how much the first K hold, ranked by score and by the amount itself;
        `chance` [amounts, ratios]: what a random choice holds on average, in units of 2**-20; `total` [amounts];
        `area`, `best_area` [amounts]: `total` times the area under the curve of recall, in units of 2**-20.

    Raises:
        SegfocusError: scores that are not finite, sizes that differ, amounts that are no counts, or bad ratios.
    """
    if scores.ndim != 2 or not scores.size or not np.isfinite(scores).all():
        what = f"shape {scores.shape}" if scores.ndim != 2 or not scores.size else "NaN or infinity"
        raise SegfocusError(f"importance: expected finite scores rows x columns, got {what}; try a trained network")
    for name, amount in amounts.items():
        if (
            amount.shape != scores.shape
            or amount.dtype.kind not in "biu"
            or (amount.dtype.kind == "i" and amount.min() < 0)
        ):
            raise SegfocusError(
                f"{name}: expected counts from 0 in {scores.shape} regions, got {amount.dtype} {amount.shape}; "
                "try region_sums of a mask with the scores' own regions"
            )
    regions, chosen = scores.size, selected_counts(ratios, scores.size)
    values = np.array([amount.ravel() for amount in amounts.values()], np.int64).reshape(len(amounts), regions)
    by_score = values[:, np.argsort(-scores.ravel().astype(np.float64), kind="stable")]
    by_amount = -np.sort(-values, axis=1)
    total = values.sum(1)
    # a region's amount lies under the curve from the middle of its own step on: so many half steps
    under = 2 * np.arange(regions, 0, -1) - 1
    return {
        "inside": _first(by_score, chosen),
        "best": _first(by_amount, chosen),
        "chance": as_sum_units(np.multiply.outer(total, chosen) / regions),
        "total": total,
        "area": as_sum_units(by_score @ under / (2 * regions)),
        "best_area": as_sum_units(by_amount @ under / (2 * regions)),
    }


def _first(ordered: Int64[np.ndarray, "amounts regions"], counts: np.ndarray) -> Int64[np.ndarray, "amounts ratios"]:
    return np.pad(ordered.cumsum(1), ((0, 0), (1, 0)))[:, counts]


def recall_scores(counts: Mapping[str, np.ndarray], amounts: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Scores of `recall_counts` or of their sum, by the name of each amount, as strict JSON values.

    Returns:
        {name: {"total": in all regions, "recall", "best", "chance", "gain": [one for each ratio], "area",
        "best_area"}}; fractions in [0, 1] (a gain is below 0 where chance does better), None where there is nothing
        to find, and for the gain where chance is as good as it gets.
    """
    total = counts["total"]
    whole = np.broadcast_to(total[:, None], counts["inside"].shape)
    found, best, chance = (
        ratio(part, whole) for part in (counts["inside"], counts["best"], counts["chance"] / SUM_UNIT)
    )
    room = best - chance  # exactly 0 where every choice is as good: both are whole numbers then
    gain = np.divide(found - chance, room, out=np.full(room.shape, np.nan), where=room > 0)
    area, best_area = (ratio(counts[name] / SUM_UNIT, total) for name in ("area", "best_area"))
    return {
        name: {
            "total": int(total[row]),
            "recall": numbers(found[row]),
            "best": numbers(best[row]),
            "chance": numbers(chance[row]),
            "gain": numbers(gain[row]),
            "area": number(area[row]),
            "best_area": number(best_area[row]),
        }
        for row, name in enumerate(amounts)
    }


def paired_recall_intervals(
    first: Mapping[str, Mapping[str, np.ndarray]],
    second: Mapping[str, Mapping[str, np.ndarray]],
    amounts: Sequence[str],
    *,
    level: float = 0.95,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """How much better the second ranking finds what matters: second - first, with intervals of the bootstrap over
    pictures that `segfocus.metrics.bootstrap` explains; both are resampled together.

    Args:
        first, second: by the picture's name, `recall_counts` of one ranking each, with the same amounts and ratios.
        amounts: names of their rows.
        level: of the intervals, in (0, 1).
        replicates: of the bootstrap.
        seed: another one draws other weights.

    Returns:
        {name: {"recall": [for each ratio {"value", "interval"}], "area": {"value", "interval"}}}; intervals are [low,
        high], None where too few pictures hold any of it (`pictures_needed`).

    Raises:
        SegfocusError: no pictures, or other names, totals or ratios in the two.
    """
    names = sorted(first)
    same = names == sorted(second) and all(
        np.array_equal(first[name]["total"], second[name]["total"])
        and first[name]["inside"].shape == second[name]["inside"].shape
        for name in names
    )
    if not names or not same:
        raise SegfocusError(
            f"paired recall: expected two rankings of the same pictures, got {len(first)} and {len(second)} pictures "
            "that are none or not the same; try the same names, truth, prediction, regions and ratios for both"
        )
    weights = np.stack([poisson_weights(name, replicates, seed) for name in names], 1)
    weights = np.concatenate([np.ones((1, len(names)), np.int64), weights])  # the first row is the data set itself
    totals = np.stack([first[name]["total"] for name in names])
    whole = weights @ totals
    change = [np.stack([second[name][key] - first[name][key] for name in names]) for key in ("inside", "area")]
    inside, area = (np.tensordot(weights, values, 1) for values in change)
    recall = ratio(inside + 0.0, np.broadcast_to(whole[:, :, None], inside.shape))
    areas = ratio(area / SUM_UNIT, whole)
    needed = pictures_needed(level)

    def described(values: Float64[np.ndarray, "replicates"], row: int) -> dict[str, Any]:
        enough = np.count_nonzero(totals[:, row]) >= needed
        return {"value": number(values[0]), "interval": interval(values[1:], level) if enough else None}

    return {
        name: {
            "recall": [described(values, row) for values in recall[:, row].T],
            "area": described(areas[:, row], row),
        }
        for row, name in enumerate(amounts)
    }

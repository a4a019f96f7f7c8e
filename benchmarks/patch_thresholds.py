"""Thresholds of patches against the loop over patches and thresholds that they are equal to.

python benchmarks/patch_thresholds.py          -> results/patch_thresholds.json
python benchmarks/patch_thresholds.py --quick  fewer patch sizes and repeats, prints only

One process, one core, a generated 512 x 512 map of curved lines with smooth errors.  The loop is written as one
would: float32 masks of each patch at each of 20 thresholds, sums, the first largest score.  Both start from the map
and the truth and end with the target; both are timed in turn, repeat by repeat, by processor time, which other work
on the machine changes less than the clock's (given too).  `equal` compares thresholds and targets of all maps.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from record import record

from segfocus.ops.patches import THRESHOLDS, apply_thresholds, best_thresholds, threshold_target

SIDE = 512
SEEDS = [0, 1, 2]


def scene(seed: int, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """A probability map and its truth: a few winding lines, errors that vary slowly over the picture."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((side, side), np.uint8)
    for _ in range(4):
        along = np.linspace(0, 1, 60)
        ends = rng.uniform(0, side, (2, 2))
        line = ends[0] + along[:, None] * (ends[1] - ends[0]) + 25 * np.sin(9 * along + rng.uniform(0, 6))[:, None]
        cv2.polylines(truth, [line.round().astype(np.int32)], False, 1, int(rng.integers(4, 14)))
    slow, fast = (
        cv2.resize(rng.standard_normal((cells, cells)), (side, side), interpolation=cv2.INTER_CUBIC)
        for cells in (16, side // 4)
    )
    logits = 6 * (cv2.blur(truth.astype(np.float64), (9, 9)) - 0.45) + 1.5 * slow + fast
    return (1 / (1 + np.exp(-logits))).astype(np.float32), truth


def by_loops(probability: np.ndarray, truth: np.ndarray, patch: int) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds and target, one patch and one threshold after the other."""
    rows, columns = (size // patch for size in probability.shape)
    found = np.zeros((rows, columns), np.float32)
    target = np.zeros(probability.shape, np.uint8)
    whole = truth.astype(np.float32)
    for row in range(rows):
        for column in range(columns):
            pixels = np.s_[row * patch : (row + 1) * patch, column * patch : (column + 1) * patch]
            own, labels = probability[pixels], whole[pixels]
            best = -1.0
            for step, threshold in enumerate(np.float32(THRESHOLDS), 1):
                above = own > threshold if own.dtype == np.float32 else own > 255 * step // 20
                mask = above.astype(np.float32)
                overlap = float((mask * labels).sum())
                score = (overlap + 1) / (float(mask.sum()) + float(labels.sum()) - overlap + 1)
                if score > best:
                    best, found[row, column], target[pixels] = score, threshold, mask
    return found, target


def in_turn(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, dict[str, float]]:
    """Median and least processor and median wall milliseconds of each, in turn, after a call that does not count."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for repeat in range(repeats + 1):
        for name, function in functions.items():
            wall, processor = time.perf_counter(), time.process_time()
            function()
            spent = time.process_time() - processor, time.perf_counter() - wall
            if repeat:
                times[name].append(spent)
    return {
        name: {
            "processor_ms": round(1000 * statistics.median(one[0] for one in spent), 3),
            "least_processor_ms": round(1000 * min(one[0] for one in spent), 3),
            "wall_ms": round(1000 * statistics.median(one[1] for one in spent), 3),
        }
        for name, spent in times.items()
    }


def measure(patch: int, kind: str, repeats: int) -> dict[str, Any]:
    """One line of the table."""
    scenes = [scene(seed) for seed in SEEDS]
    if kind == "uint8":
        scenes = [((255 * probability).round().astype(np.uint8), truth) for probability, truth in scenes]
    equal = True
    for probability, truth in scenes:
        found, target = by_loops(probability, truth, patch)
        thresholds = best_thresholds(probability, truth, patch)
        mask = apply_thresholds(probability, thresholds, patch)
        equal &= np.array_equal(thresholds, found) and np.array_equal(mask, target != 0)
        equal &= np.array_equal(threshold_target(probability, truth, patch), target)
    probability, truth = scenes[0]
    functions: dict[str, Callable[[], Any]] = {
        "loops": lambda: by_loops(probability, truth, patch),
        "histogram": lambda: threshold_target(probability, truth, patch),
        "pooled": lambda: threshold_target(probability, truth, patch, score="pooled"),
        "every_cut": lambda: threshold_target(probability, truth, patch, thresholds=None),
    }
    times = in_turn(functions, repeats)
    ratios = {
        name: round(times["loops"][of] / times["histogram"][of], 1)
        for name, of in (("ratio", "processor_ms"), ("ratio_of_least", "least_processor_ms"))
    }
    return {"patch": patch, "map": kind, "equal": bool(equal), "repeats": repeats, **ratios, **times}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="patches of 64 and 16 px, five repeats; writes no file")
    given = parser.parse_args()
    cv2.setNumThreads(1)
    rows = []
    for patch in (64, 16) if given.quick else (256, 128, 64, 32, 16):
        for kind in ("float32", "uint8"):
            rows.append(measure(patch, kind, 5 if given.quick else 15))
            print(json.dumps(rows[-1]), flush=True)
    if not given.quick:
        note = (
            "target of one 512 x 512 map, 20 thresholds, score foreground; medians; see benchmarks/patch_thresholds.py"
        )
        print(record("patch_thresholds", {"targets": rows}, seeds=SEEDS, note=note, threads=1))


if __name__ == "__main__":
    main()

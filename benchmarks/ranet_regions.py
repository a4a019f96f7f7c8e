"""Region construction of RANet: time and memory against the size of the map, and how good the regions are.

python benchmarks/ranet_regions.py          -> results/ranet_regions.json
python benchmarks/ranet_regions.py --quick  small maps, few repeats, prints only

Time and memory: `construct_regions` on one picture of generated scores (19 classes, wobbly Voronoi cells), with the
backends "torch" and "numba" and with "tables", the definition vectorised in plain PyTorch, which holds tables of all
pairs.  Every row runs in a process of its own; memory is its peak above what it held before the first measured call
(compiled code loaded, inputs made).  Worst cases: one flat region, and pure noise.
Quality: adjusted Rand index (scikit-learn) of the regions against the objects that the scores were made from.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import record

sys.path.insert(0, str(Path(__file__).parents[1]))

from segfocus.ops.regions import RegionRules, construct_regions, definition
from tests.ops.regions.scenes import Scene, flat, noise, voronoi

CLASSES = 19
SIZES = [(33, 33), (65, 65), (97, 97), (129, 257)]
TABLE_SIZES = [(33, 33), (65, 65)]
MOST_TRAINED = 33 * 33
SEEDS = list(range(6))


def picture(kind: str, height: int, width: int, seed: int = 0) -> Scene:
    """A scene at the stride of a whole picture: about one object for 470 cells."""
    if kind == "scene":
        objects = max(4, height * width // 470)
        return voronoi(height, width, seed=seed, objects=objects, classes=CLASSES, finer=8)
    return {"flat": flat, "noise": noise}[kind](height, width, seed=seed, classes=CLASSES)


def resident_mib(kind: str) -> float:
    """Memory of this process, now ("VmRSS") or at its highest since the last reset ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))


def reset_peak() -> float:
    """Hand free memory back, start the high-water mark anew, and return the memory in use.

    Making the inputs takes more than what is measured, and would hide it.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident_mib("VmRSS")


def timed(function: Callable[[], Any], repeats: int) -> tuple[Any, float, float]:
    """Last result, median wall and median processor seconds."""
    wall, processor, result = [], [], None
    for _ in range(repeats):
        start, used = time.perf_counter(), time.process_time()
        result = function()
        wall.append(time.perf_counter() - start)
        processor.append(time.process_time() - used)
    return result, statistics.median(wall), statistics.median(processor)


def row(backend: str, kind: str, height: int, width: int, repeats: int, threads: int) -> dict[str, Any]:
    """One line of the table, measured in this process."""
    torch.set_num_threads(threads)
    rules = RegionRules()
    name = backend
    if backend == "tables":
        # the definition refuses maps of this size, to keep them out of real use; here they are the point
        definition.MOST_PIXELS = height * width
        name = "dense"

    def construct(scene: Scene, gradient: bool) -> Any:
        boundary = scene.boundary[None].clone().requires_grad_(gradient)
        semantic = scene.semantic[None].clone().requires_grad_(gradient)
        regions = construct_regions(boundary, semantic, rules, name)
        return regions, boundary, semantic

    warm, _, _ = construct(picture("scene", 9, 40), True)  # compiles, loads, starts threads
    warm.scores.sum().backward()
    scene = picture(kind, height, width)
    before = reset_peak()
    with torch.no_grad():
        (found, _, _), forward, forward_cpu = timed(lambda: construct(scene, False), repeats)
    forward_peak = resident_mib("VmHWM") - before

    def training() -> float:
        regions, _, _ = construct(scene, True)
        start = time.perf_counter()
        regions.scores.sum().backward()
        return time.perf_counter() - start

    # autograd would keep some eighty tables of 71 MB at 65 x 65
    trains = backend != "tables" or height * width <= MOST_TRAINED
    backward = statistics.median(training() for _ in range(repeats)) if trains else None
    return {
        "backend": backend,
        "picture": kind,
        "map": [height, width],
        "repeats": repeats,
        "regions": int(found.labels.max()) + 1,
        "mean_score": round(float(found.scores.mean()), 5),
        "forward_s": round(forward, 4),
        "forward_cpu_s": round(forward_cpu, 4),
        "backward_s": None if backward is None else round(backward, 4),
        "forward_extra_mib": round(forward_peak, 1),
        "training_extra_mib": round(resident_mib("VmHWM") - before, 1) if trains else None,
    }


def plan(quick: bool) -> list[tuple[str, str, int, int, int]]:
    """Backend, picture, height, width and repeats of every row."""
    if quick:
        return [(backend, "scene", 25, 25, 2) for backend in ("numba", "torch", "tables")] + [
            ("numba", "flat", 33, 33, 2)
        ]
    rows = [("numba", "scene", *size, 7) for size in SIZES] + [("torch", "scene", *size, 5) for size in SIZES[:-1]]
    rows += [("numba", kind, 97, 97, 5) for kind in ("flat", "noise")] + [("torch", "noise", 97, 97, 5)]
    # half a minute or more a repeat
    rows += [("torch", "flat", 97, 97, 3), ("torch", "scene", *SIZES[-1], 3)]
    return [*rows, ("tables", "scene", *TABLE_SIZES[0], 5), ("tables", "scene", *TABLE_SIZES[1], 1)]


def quality(quick: bool) -> list[dict[str, Any]]:
    """Adjusted Rand index of every way of grouping, mean and extremes over scenes."""
    from sklearn.metrics import adjusted_rand_score

    size, seeds = ((25, 25), SEEDS[:2]) if quick else ((97, 97), SEEDS)
    scenes = [picture("scene", *size, seed=seed) for seed in seeds]
    found = []
    for grouping, ends, smallest in [
        ("first", True, 8),
        ("first", True, 1),
        ("first", False, 8),
        ("first", False, 1),
        ("components", True, 8),
        ("components", True, 1),
    ]:
        rules = RegionRules(
            grouping=grouping, end_points=ends, min_region=smallest, max_regions=256 if smallest > 1 else None
        )
        labels = [construct_regions(scene.boundary[None], scene.semantic[None], rules).labels[0] for scene in scenes]
        scores = [
            adjusted_rand_score(scene.objects.flatten().numpy(), label.flatten().numpy())
            for scene, label in zip(scenes, labels, strict=True)
        ]
        found.append(
            {
                "grouping": grouping,
                "end_points": ends,
                "min_region": smallest,
                "rand_index_mean": round(float(np.mean(scores)), 3),
                "rand_index_range": [round(min(scores), 3), round(max(scores), 3)],
                "regions_mean": round(float(np.mean([int(label.max()) + 1 for label in labels])), 1),
                "objects_mean": round(float(np.mean([len(scene.objects.unique()) for scene in scenes])), 1),
            }
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="small maps, few repeats; prints, writes no file")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--row", help="one row as JSON, in this process; prints JSON")
    given = parser.parse_args()
    if given.row:
        print(json.dumps(row(*json.loads(given.row), given.threads)))
        return
    torch.set_num_threads(given.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": str(given.threads)}
    rows = []
    for one in plan(given.quick):
        command = [sys.executable, __file__, "--threads", str(given.threads), "--row", json.dumps(one)]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    results = {"construction": rows, "quality": quality(given.quick)}
    print(json.dumps(results["quality"], indent=1))
    if not given.quick:
        note = "19 classes, generated scores; medians; tables at 65x65 from one run; see benchmarks/ranet_regions.py"
        print(record("ranet_regions", results, seeds=SEEDS, note=note, threads=given.threads))


if __name__ == "__main__":
    main()

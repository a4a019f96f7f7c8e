"""Speed and memory of the metrics against named peers.

python benchmarks/metrics.py        -> results/metrics.json

One 1024 x 2048 picture of 19 classes (generated), two threads.  Contestants of a ratio run in one process, interleaved,
under the same allocator; everything is measured under glibc's default allocator and under ours.  Peers:

  torchmetrics   MulticlassConfusionMatrix.update, with its checks (the default) and without
  fast_hist      NumPy's bincount on the masked joint index, as DeepLab's and many other evaluations do
  erode loop     Boundary IoU as boundary-iou-api computes it: every class's mask eroded d times with a 3 x 3 square
  naive tail     torch interpolate + softmax + argmax, torchmetrics, the erode loop, Pillow's PNG
"""

from __future__ import annotations

import argparse
import io
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from record import record

from segfocus.allocator import VARIABLE, tune_allocator
from segfocus.data.classes import Classes
from segfocus.metrics import Comparison, Suite, boundary_counts, confusion_matrix

SIZE, NUM_CLASSES, REPEATS = (1024, 2048), 19, 9
SQUARE = np.ones((3, 3), np.uint8)


def scene(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, prediction (uint8) and the logits at a quarter of the size that give the prediction."""
    rng = np.random.default_rng(seed)
    height, width = SIZE

    def smooth(cells: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
        noise = rng.normal(size=(NUM_CLASSES, *cells)).astype(np.float32)
        return np.stack([cv2.resize(channel, size[::-1], interpolation=cv2.INTER_CUBIC) for channel in noise])

    quarter = (height // 4, width // 4)
    logits = 3 * smooth((6, 12), quarter) + smooth((40, 80), quarter)
    noisy = logits + 0.6 * smooth((64, 128), quarter)
    truth = large_labels(noisy)
    truth[:40] = 255
    return truth, large_labels(logits), logits


def large_labels(logits: np.ndarray) -> np.ndarray:
    import torch

    large = torch.nn.functional.interpolate(torch.from_numpy(logits)[None], size=SIZE, mode="bilinear")
    return large.argmax(1)[0].to(torch.uint8).numpy()


def fast_hist(target: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    counted = target < NUM_CLASSES
    joint = NUM_CLASSES * target[counted].astype(int) + prediction[counted]
    return np.bincount(joint, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)


def eroded_band(mask: np.ndarray, distance: int) -> np.ndarray:
    height, width = mask.shape
    padded = cv2.copyMakeBorder(mask, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=0)
    return mask - cv2.erode(padded, SQUARE, iterations=distance)[1 : height + 1, 1 : width + 1]


def erode_loop(target: np.ndarray, prediction: np.ndarray, distance: int) -> tuple[np.ndarray, np.ndarray]:
    counts = np.zeros((2, NUM_CLASSES), np.int64)
    guess = np.where(target == 255, target, prediction)
    for train_id in range(NUM_CLASSES):
        first, second = (eroded_band((labels == train_id).astype(np.uint8), distance) for labels in (target, guess))
        counts[:, train_id] = (first * second).sum(), ((first + second) > 0).sum()
    return counts[0], counts[1]


def interleaved(contestants: dict[str, Callable[[], Any]], repeats: int = REPEATS) -> dict[str, dict[str, float]]:
    """Median wall and processor milliseconds of each; the first round warms up."""
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    processor: dict[str, list[float]] = {name: [] for name in contestants}
    for repeat in range(repeats + 1):
        for name, function in contestants.items():
            start, used = time.perf_counter(), time.process_time()
            function()
            if repeat:
                wall[name].append(1e3 * (time.perf_counter() - start))
                processor[name].append(1e3 * (time.process_time() - used))
    return {
        name: {
            "wall_ms": round(statistics.median(wall[name]), 2),
            "cpu_ms": round(statistics.median(processor[name]), 2),
        }
        for name in contestants
    }


def kernels() -> dict[str, Any]:
    import torch
    from PIL import Image
    from torchmetrics.classification import MulticlassConfusionMatrix

    from segfocus.metrics import labels_from_scores

    torch.set_num_threads(2)
    target, prediction, logits = scene()
    truth, guess = torch.from_numpy(target).long(), torch.from_numpy(prediction).long()
    small = torch.from_numpy(logits)[None]
    metrics = {
        checks: MulticlassConfusionMatrix(NUM_CLASSES, ignore_index=255, validate_args=checks)
        for checks in (True, False)
    }
    wide = round(0.02 * float(np.hypot(*SIZE)))

    ours, peer = confusion_matrix(target, prediction, NUM_CLASSES), fast_hist(target, prediction)
    metrics[True].update(guess, truth)
    assert (ours == peer).all()
    assert (metrics[True].compute().numpy() == peer).all()
    for distance in (3, wide):
        for first, second in zip(
            boundary_counts(target, prediction, NUM_CLASSES, distance),
            erode_loop(target, prediction, distance),
            strict=True,
        ):
            np.testing.assert_array_equal(first, second)

    def naive_tail() -> None:
        large = torch.nn.functional.interpolate(small, size=SIZE, mode="bilinear")
        labels = large.softmax(1).argmax(1)
        metrics[True].update(labels[0], truth)
        found = labels[0].to(torch.uint8).numpy()
        erode_loop(target, found, wide)
        Image.fromarray(found).save(io.BytesIO(), "PNG")

    def tail() -> None:
        labels = labels_from_scores(logits, SIZE)
        confusion_matrix(target, labels, NUM_CLASSES)
        boundary_counts(target, labels, NUM_CLASSES, wide)
        cv2.imencode(".png", labels)

    return {
        "confusion_matrix": interleaved(
            {
                "segfocus": lambda: confusion_matrix(target, prediction, NUM_CLASSES),
                "fast_hist": lambda: fast_hist(target, prediction),
                "torchmetrics": lambda: metrics[True].update(guess, truth),
                "torchmetrics, validate_args=False": lambda: metrics[False].update(guess, truth),
            }
        ),
        **{
            f"boundary_iou_{distance}px": interleaved(
                {
                    "segfocus": lambda distance=distance: boundary_counts(target, prediction, NUM_CLASSES, distance),
                    "erode loop": lambda distance=distance: erode_loop(target, prediction, distance),
                }
            )
            for distance in (3, wide)
        },
        "evaluation_tail": interleaved({"segfocus": tail, "naive tail": naive_tail}, 7),
        "labels_equal_to_torch": float((labels_from_scores(logits, SIZE) == prediction).mean()),
    }


def full_set() -> dict[str, Any]:
    """Every group of scores on one picture, with probabilities, instances, a baseline and a thin class."""
    from segfocus.metrics.regions import components

    target, prediction, logits = scene()
    classes = Classes.of([f"class {index}" for index in range(NUM_CLASSES)], thin=["class 5"])
    large = np.stack([cv2.resize(channel, SIZE[::-1]) for channel in logits])
    probabilities = np.exp(large - large.max(0))
    probabilities /= probabilities.sum(0)
    instances = components(target)[0]
    options = {"probabilities": True, "instances": True}

    def compared() -> Comparison:
        return Comparison(
            target, prediction, NUM_CLASSES, probabilities=probabilities, instances=instances, name="picture"
        )

    suite = Suite(classes, **options)
    found = interleaved(
        {"all groups": lambda: suite.add(compared()), "basic": lambda: Suite(classes, "basic").add(compared())}, 5
    )
    parts = {group: [] for group in suite.tallies}
    for _ in range(5):
        comparison = compared()
        for group, tally in suite.tallies.items():
            start = time.perf_counter()
            tally.count(comparison)
            parts[group].append(1e3 * (time.perf_counter() - start))
    found["groups_wall_ms"] = {group: round(statistics.median(times), 1) for group, times in parts.items()}
    return found


def memory() -> dict[str, Any]:
    """Peak resident memory after 10 and after 60 pictures of one suite, MiB."""
    target, prediction, _ = scene()
    small = (slice(0, 512), slice(0, 512))
    suite = Suite(Classes.of([f"class {index}" for index in range(NUM_CLASSES)]))
    found = {}
    for index in range(60):
        guess = np.roll(prediction, index, 1)
        suite.add(Comparison(target[small], guess[small], NUM_CLASSES, name=str(index)))
        if index + 1 in (10, 60):
            found[f"after_{index + 1}_pictures_mib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return found


_TIMED = """
import sys, time
begin, reads = float(sys.argv.pop(1)), []
sys.addaudithook(lambda event, what: event == "open" and "masks/0" in str(what[0]) and reads.append(time.time()))
from segfocus.cli import main
code = main(sys.argv[1:])
print(reads[0] - begin, time.time() - begin)
sys.exit("torch" if "torch" in sys.modules else code)
"""


def start_up() -> dict[str, dict[str, float]]:
    """Seconds from the start of the process until the first mask is opened, and until eight pairs are done (medians).

    Fails where a verb fails or has imported torch.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rng = np.random.default_rng(0)
        for part in ("images", "masks", "predictions"):
            (folder / part).mkdir()
            for index in range(8):
                shape, values = ((64, 64, 3), 255) if part == "images" else ((64, 64), 2)
                cv2.imwrite(str(folder / part / f"{index}.png"), rng.integers(0, values, shape, np.uint8))
        (folder / "classes.yaml").write_text("classes: {0: a, 1: b}\n")
        verbs = {
            "report": [
                "--predictions",
                "predictions",
                "--labels",
                "masks",
                "--classes",
                "classes.yaml",
                "--out",
                "page",
            ],
            "doctor": ["--images", "images", "--masks", "masks"],
        }
        found = {}
        for verb, arguments in verbs.items():
            times = []
            for _ in range(8):
                command = [sys.executable, "-c", _TIMED, str(time.time()), verb, *arguments]
                done = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
                times.append([float(value) for value in done.stdout.splitlines()[-1].split()])
            first, whole = (round(statistics.median(values), 3) for values in zip(*times[1:], strict=True))
            found[verb] = {"first_file_s": first, "eight_pairs_s": whole}
    return found


PARTS = {"kernels": kernels, "full_set": full_set, "memory": memory}


def ratios(found: dict[str, Any]) -> dict[str, float]:
    """Times of each peer over ours, wall clock."""
    return {
        f"{name}: {peer}": round(times["wall_ms"] / part["segfocus"]["wall_ms"], 2)
        for name, part in found["kernels"].items()
        if isinstance(part, dict)
        for peer, times in part.items()
        if peer != "segfocus"
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--part", choices=PARTS, help="one part, in this process; prints JSON")
    given = parser.parse_args()
    if given.part:
        tune_allocator()
        print(json.dumps(PARTS[given.part]()))
        return
    results: dict[str, Any] = {}
    for allocator in ("default", "tuned"):
        environment = {**os.environ, "OMP_NUM_THREADS": "2", VARIABLE: allocator}
        found = {}
        for part in PARTS:
            done = subprocess.run(
                [sys.executable, __file__, "--part", part], env=environment, check=True, capture_output=True, text=True
            )
            found[part] = json.loads(done.stdout.splitlines()[-1])
        results[f"{allocator}_allocator"] = {**found, "ratios": ratios(found)}
    results["start_up_s"] = start_up()
    print(record("metrics", results, seeds=[0], note="1024x2048, 19 classes; medians; see benchmarks/metrics.py"))
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()

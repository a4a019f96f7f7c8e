"""Training speed of the lite FoR-Net at 360x480, batch 8, against a plain loop; and the loader's own rate.

python benchmarks/train_speed.py --root CAMVID        -> results/train_speed.json

Peer: the same network and loss in a plain loop (NCHW, float32, AdamW).  Ours: channels_last, the precision that
`training.precision auto` picks, fused AdamW.  The allocator belongs to a process, so plain and ours are timed
interleaved in one process under the C library's default allocator, and again in one under ours; these processes are
started in turn.  Medians of REPEATS steps over ROUNDS processes each.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from record import record

BATCH, HEIGHT, WIDTH, CLASSES = 8, 360, 480, 11
REPEATS, ROUNDS = 7, 2


def worker(allocator: str) -> None:
    """Times plain and ours, interleaved, in this process; prints JSON."""
    if allocator == "tuned":
        from segfocus.allocator import tune_allocator

        assert tune_allocator()
    import torch

    from segfocus.backbone import LiteBackbone
    from segfocus.methods.fornet import FoRNet

    torch.manual_seed(0)
    image = torch.rand(BATCH, 3, HEIGHT, WIDTH)
    coarse = torch.randint(0, CLASSES, (BATCH, HEIGHT // 8, WIDTH // 8))
    target = coarse.repeat_interleave(8, 1).repeat_interleave(8, 2)

    def stepper(layout, precision, fused):
        torch.manual_seed(0)
        network = FoRNet(LiteBackbone(), CLASSES).train().to(memory_format=layout)
        optimizer = torch.optim.AdamW(network.parameters(), 1e-3, fused=fused)
        batch = image.contiguous(memory_format=layout)

        def step() -> float:
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                terms = network.loss(network(batch), target)
            loss = torch.stack(list(terms.values())).sum()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            return loss.item()

        return step

    steppers = {
        "plain": stepper(torch.contiguous_format, "fp32", False),
        "ours_fp32": stepper(torch.channels_last, "fp32", True),
        "ours_bf16": stepper(torch.channels_last, "bf16", True),
    }
    wall: dict[str, list[float]] = {name: [] for name in steppers}
    processor: dict[str, list[float]] = {name: [] for name in steppers}
    losses: dict[str, float] = {}
    for repeat in range(REPEATS + 2):
        for name, step in steppers.items():
            start, start_processor = time.perf_counter(), time.process_time()
            losses[name] = step()
            if repeat >= 2:
                wall[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - start_processor)
    print(json.dumps({"wall": wall, "cpu": processor, "loss": losses}))


def loader_rate(root: str) -> dict[str, float]:
    """Pictures a second that the loader gives when nothing else runs."""
    from segfocus.data.module import SegmentationData
    from segfocus.recipe import load_recipe

    recipe = load_recipe("fornet-camvid")
    recipe.data.root = root
    data = SegmentationData(recipe.data, seed=0)
    data.setup("fit")
    data.start_step, data.total_steps = 0, 70
    batches = iter(data.train_dataloader())
    for _ in range(10):
        next(batches)
    start = time.perf_counter()
    count = sum(len(next(batches)["name"]) for _ in range(60))
    return {
        "pictures_per_second": round(count / (time.perf_counter() - start), 1),
        "loader_processes": recipe.data.workers,
    }


def whole_training(root: str, steps: int = 90) -> dict[str, float]:
    """Epochs of CamVid that `segfocus train fornet-camvid` does in 60 minutes, from the clock of its own log."""
    import csv

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "segfocus", "train", "fornet-camvid", "--data.root", root, "--out", str(out)]
        subprocess.run(
            [*command, "--training.steps", str(steps), "--training.validate_every", "100"],
            check=True,
            capture_output=True,
        )
        rows = [row for row in csv.DictReader((out / "metrics.csv").open()) if row["loss"]]
        precision = json.loads((out / "environment.json").read_text()).get("precision_timing", {})
    minutes = float(rows[-1]["minutes"]) - float(rows[19]["minutes"])
    epochs = float(rows[-1]["epoch"]) - float(rows[19]["epoch"])
    return {
        "epochs_in_60_minutes": round(60 * epochs / minutes, 1),
        "pictures_per_second": round(367 * epochs / minutes / 60, 2),
        "steps_timed": steps - 20,
        **precision,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", help="CamVid folder")
    parser.add_argument("--worker", choices=["default", "tuned"])
    arguments = parser.parse_args()
    if arguments.worker:
        worker(arguments.worker)
        return
    found: dict[str, dict[str, dict[str, list[float]]]] = {}
    for _ in range(ROUNDS):
        for allocator in ("default", "tuned"):
            command = [sys.executable, __file__, "--worker", allocator]
            values = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            for kind in ("wall", "cpu"):
                for name, times in values[kind].items():
                    found.setdefault(allocator, {}).setdefault(kind, {}).setdefault(name, []).extend(times)
    seconds = {
        kind: {
            allocator: {name: round(statistics.median(times), 4) for name, times in found[allocator][kind].items()}
            for allocator in found
        }
        for kind in ("wall", "cpu")
    }
    wall = seconds["wall"]
    ours = min(wall["tuned"]["ours_fp32"], wall["tuned"]["ours_bf16"])
    results = {
        "seconds_per_step": seconds,
        "speedup_over_plain_default_allocator": round(wall["default"]["plain"] / ours, 2),
        "speedup_over_plain_both_our_allocator": round(wall["tuned"]["plain"] / ours, 2),
        "pictures_per_second_step_alone": round(BATCH / ours, 1),
    }
    if arguments.root:
        results["loader"] = loader_rate(arguments.root)
        results["loader_over_step"] = round(
            results["loader"]["pictures_per_second"] / results["pictures_per_second_step_alone"], 2
        )
        results["training"] = whole_training(arguments.root)
    note = "lite FoR-Net, 360x480, batch 8, 11 classes; medians; CPU time (all threads) beside wall time"
    print(record("train_speed", results, seeds=[0], note=note))
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()

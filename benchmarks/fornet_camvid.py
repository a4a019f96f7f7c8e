"""FoR-Net lite on CamVid from scratch: the learning curve, and what the focus gives.

python benchmarks/fornet_camvid.py curve RUN --root CAMVID                 -> results/fornet_camvid.json
    RUN: folder of `segfocus train fornet-camvid --data.root CAMVID`; its last weights are scored
python benchmarks/fornet_camvid.py focus --root CAMVID --runs FOLDER --minutes M   -> results/fornet_focus.json
    three networks trained for equal time: learned selection, random selection, none (K = 0); seeds 0, 1, 2
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from record import record

from segfocus.files import write_json

SEEDS = (0, 1, 2)
ROWS: dict[str, dict[str, Any]] = {
    "learned selection, K = 25 %": {},
    "random selection, K = 25 %": {"selector": "random"},
    "no selection, K = 0": {"ratio": 0.0},
}
KEPT = ("miou", "per_class", "pixel_accuracy", "mean_accuracy", "boundary_iou", "n_pictures")


def curve(run: Path, root: str, note: str) -> None:
    from segfocus.checkpoint import load
    from segfocus.training.run import evaluate

    rows = list(csv.DictReader((run / "metrics.csv").open()))
    steps = {int(row["step"]): row for row in rows if row["loss"]}
    validations = {int(row["step"]): row for row in rows if row["val_miou"]}  # of a repeated one the later counts
    points = [
        {
            "epoch": round(float(steps[int(row["step"])]["epoch"]), 1),
            "minutes": round(float(row["minutes"]), 2),
            "val_miou": round(float(row["val_miou"]), 5),
            "val_boundary_iou_3": round(float(row["val_boundary_iou_3"]), 5),
        }
        for row in validations.values()
    ]
    last = steps[max(steps)]
    loaded = load(run / "last.safetensors")
    loaded.recipe.data.root = root
    scores = evaluate(loaded, split="val")
    results = {
        "epochs": round(float(last["epoch"]), 1),
        "steps": int(last["step"]),
        "minutes": points[-1]["minutes"],
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "val": {key: scores[key] for key in KEPT},
        "how": {**scores["how"], "checkpoint": "last.safetensors"},
        "environment": {
            k: v
            for k, v in json.loads((run / "environment.json").read_text()).items()
            if k in ("git_commit", "started", "precision_timing")
        },
        "curve": points,
    }
    note = (
        "lite FoR-Net from scratch on CamVid train (367 pictures), scored on CamVid val (101 pictures, one clip), void "
        "ignored, single scale, the averaged weights of the last step (not chosen on val); the machine was shared with "
        f"other work while this ran. {note}"
    )
    print(record("fornet_camvid", results, seeds=[0], note=note), results["val"]["miou"])


def step_seconds() -> dict[str, float]:
    """Median seconds of a training step of each row, interleaved in this process."""
    from segfocus.allocator import tune_allocator

    tune_allocator()
    import torch

    from segfocus.backbone import LiteBackbone
    from segfocus.methods.fornet import FoRNet

    image = torch.rand(8, 3, 360, 480).contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, 11, (8, 45, 60)).repeat_interleave(8, 1).repeat_interleave(8, 2)
    networks = {
        name: FoRNet(LiteBackbone(), 11, **options).to(memory_format=torch.channels_last)
        for name, options in ROWS.items()
    }
    optimizers = {name: torch.optim.AdamW(network.parameters(), fused=True) for name, network in networks.items()}
    times: dict[str, list[float]] = {name: [] for name in ROWS}
    for repeat in range(11):
        for name, network in networks.items():
            start = time.process_time()
            with torch.autocast("cpu", torch.bfloat16):
                loss = torch.stack(list(network.loss(network(image), target).values())).sum()
            optimizers[name].zero_grad()
            loss.backward()
            optimizers[name].step()
            if repeat > 1:
                times[name].append((time.process_time() - start) / torch.get_num_threads())
    return {name: statistics.median(values) for name, values in times.items()}


def focus(root: str, runs: Path, minutes: float) -> None:
    plan = runs / "steps.json"  # measured once: a second call goes on with the same lengths
    if not plan.is_file():
        measured = step_seconds()
        lengths = {name: round(60 * minutes / value) for name, value in measured.items()}
        write_json(plan, {"minutes": minutes, "seconds": measured, "steps": lengths})
    known = json.loads(plan.read_text())
    minutes, seconds, steps = known["minutes"], known["seconds"], known["steps"]
    print(seconds, steps, flush=True)
    found: dict[str, Any] = {}
    for seed in SEEDS:
        for name, options in ROWS.items():
            folder = runs / f"focus-{list(ROWS).index(name)}-{seed}"
            command = [
                sys.executable,
                "-m",
                "segfocus",
                "train",
                "fornet-camvid",
                "--data.root",
                root,
                "--out",
                str(folder),
            ]
            command += [
                "--training.seed",
                str(seed),
                "--training.steps",
                str(steps[name]),
                "--training.precision",
                "bf16-mixed",
            ]
            command += [
                "--training.validate_every",
                "1000",
                "--training.ema_decay",
                "0.99",
                "--model.options",
                json.dumps(options),
            ]
            if not (folder / "scores.json").is_file():
                subprocess.run([*command, "--overwrite"], check=True, capture_output=True)
            scores = json.loads((folder / "scores.json").read_text())
            row = found.setdefault(
                name, {"steps": steps[name], "seconds_per_step": round(seconds[name], 4), "runs": []}
            )
            row["runs"].append({"seed": seed, **{key: scores[key] for key in KEPT}})
            print(seed, name, scores["miou"], scores["boundary_iou"], flush=True)
            summarise(found)
            note = (
                f"equal time: {minutes:g} minutes of training steps a row, turned into steps by CPU seconds per step "
                "measured interleaved in one process, so that other work on the machine favours no row; loading and "
                "validation excluded; CamVid val, last weights; a short budget: compare rows, not with the literature"
            )
            record(
                "fornet_focus",
                {"minutes": minutes, "rows": found},
                seeds=sorted({r["seed"] for row in found.values() for r in row["runs"]}),
                note=note,
            )


def summarise(found: dict[str, Any]) -> None:
    for row in found.values():
        values = {"miou": [run["miou"] for run in row["runs"]]}
        values |= {f"boundary_iou_{d}": [run["boundary_iou"][d] for run in row["runs"]] for d in ("1", "3", "5")}
        row["mean"] = {key: round(statistics.mean(v), 5) for key, v in values.items()}
        row["standard_deviation"] = {
            key: round(statistics.stdev(v), 5) if len(v) > 1 else None for key, v in values.items()
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["curve", "focus"])
    parser.add_argument("run", nargs="?", type=Path)
    parser.add_argument("--root")
    parser.add_argument("--note", default="", help="what else must be known about the run")
    parser.add_argument("--runs", type=Path)
    parser.add_argument("--minutes", type=float, default=3.0)
    arguments = parser.parse_args()
    if arguments.what == "curve":
        curve(arguments.run, arguments.root, arguments.note)
    else:
        focus(arguments.root, arguments.runs, arguments.minutes)


if __name__ == "__main__":
    main()

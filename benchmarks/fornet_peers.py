"""Lite FoR-Net against known light networks: equal pictures, recipe and training time, all from scratch.

python benchmarks/fornet_peers.py calibrate --root CAMVID --runs FOLDER   how many steps each does in the time given
python benchmarks/fornet_peers.py train --root CAMVID --runs FOLDER       trains them one after the other (goes on with
                                                                          what an earlier call left)
python benchmarks/fornet_peers.py score --root CAMVID --runs FOLDER       -> results/fornet_peers.json
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from fornet_rows import folder_name, kept, score
from record import record

from segfocus.files import write_json

MINUTES = 60
NETWORKS: dict[str, dict[str, Any]] = {
    "lite FoR-Net": {},
    "LR-ASPP MobileNetV3-large": {"base": {"kind": "torchvision", "name": "lraspp_mobilenet_v3_large"}},
    "SegFormer-B0": {"base": {"kind": "segformer", "size": "b0"}},
    "lite FoR-Net without focus": {"ratio": 0.0},
}
"""name -> options of the method: `plain` where they name a base, else FoR-Net"""


def command(name: str, root: str, folder: Path, steps: int, precision: str = "auto") -> list[str]:
    """Train a network from scratch by the recipe fornet-camvid; precision auto: the faster one for this network."""
    options = NETWORKS[name]
    settings = {
        "data.root": root,
        "training.steps": steps,
        "training.validate_every": 10,
        "training.precision": precision,
        "model.method": "plain" if "base" in options else "fornet",
        "model.options": json.dumps(options),
        "out": folder,
    }
    if (folder / "resume.ckpt").is_file():
        return [sys.executable, "-m", "segfocus", "train", "--resume", str(folder)]
    parts = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    return [sys.executable, "-m", "segfocus", "train", "fornet-camvid", *parts, "--overwrite"]


def steps_per_minute(folder: Path) -> float:
    """Of the last three quarters of a short run, validation not counted."""
    rows = [row for row in csv.DictReader((folder / "metrics.csv").open()) if row["loss"]]
    first, last = rows[len(rows) // 4], rows[-1]
    return (int(last["step"]) - int(first["step"])) / (float(last["minutes"]) - float(first["minutes"]))


def calibrate(root: str, runs: Path) -> None:
    plan: dict[str, Any] = {}
    for name in NETWORKS:
        folder = runs / f"calibrate-{folder_name(name)}"
        subprocess.run(command(name, root, folder, 40), check=True, capture_output=True)
        speed = steps_per_minute(folder)
        precision = yaml.safe_load((folder / "recipe.yaml").read_text())["training"]["precision"]
        plan[name] = {"steps_per_minute": round(speed, 1), "steps": int(MINUTES * speed), "precision": precision}
        print(name, plan[name], flush=True)
    write_json(runs / "plan.json", plan)


def folder_of(runs: Path, name: str) -> Path:
    return runs / folder_name(name)


def train(root: str, runs: Path) -> None:
    plan = json.loads((runs / "plan.json").read_text())
    for name in NETWORKS:
        folder = folder_of(runs, name)
        if not (folder / "scores.json").is_file():
            subprocess.run(command(name, root, folder, plan[name]["steps"], plan[name]["precision"]), check=True)


def compare(root: str, runs: Path, note: str) -> None:
    plan = json.loads((runs / "plan.json").read_text())
    suites, rows = {}, {}
    for name in NETWORKS:
        folder = folder_of(runs, name)
        suite = suites[name] = score(folder / "last.safetensors", root)
        found = kept(suite)
        logged = csv.DictReader((folder / "metrics.csv").open())
        metrics = list({row["step"]: row for row in logged if row["val_miou"]}.values())
        rows[name] = {
            **plan[name],
            "steps": int(metrics[-1]["step"]),
            "val": found,
            "curve": [
                {"step": int(row["step"]), **{key: round(float(row[key]), 5) for key in CURVE}} for row in metrics
            ],
        }
        print(name, found["miou"], found["boundary_iou"], found["thin_recall"], flush=True)
    ours = next(iter(NETWORKS))
    for name in list(NETWORKS)[1:]:
        change = suites[ours].difference(suites[name])
        rows[name]["lite_minus_this"] = {key: change[key] for key in ("miou", "boundary_iou", "per_class")}
    text = (
        f"budget: the steps that {MINUTES} quiet minutes on 2 cores give each network (calibrate), so that other work "
        "on the machine favours none; CamVid train (367 pictures), 360x480, batch 8, one seed, from scratch; scored on "
        f"val (101 pictures, one clip), void ignored, single scale, averaged weights of the last step. {note}"
    )
    record("fornet_peers", {"minutes": MINUTES, "rows": rows}, seeds=[0], note=text.strip())


CURVE = ("val_miou", "val_boundary_iou_3")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["calibrate", "train", "score"])
    parser.add_argument("--root", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--note", default="")
    arguments = parser.parse_args()
    if arguments.what == "score":
        compare(arguments.root, arguments.runs, arguments.note)
    else:
        {"calibrate": calibrate, "train": train}[arguments.what](arguments.root, arguments.runs)


if __name__ == "__main__":
    main()

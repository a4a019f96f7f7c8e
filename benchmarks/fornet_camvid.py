"""FoR-Net lite on CamVid from scratch: the learning curve and the scores of the last weights.

python benchmarks/fornet_camvid.py RUN --root CAMVID                       -> results/fornet_camvid.json
    RUN: folder of `segfocus train fornet-camvid --data.root CAMVID`
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from record import record

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--root", required=True)
    parser.add_argument("--note", default="", help="what else must be known about the run")
    arguments = parser.parse_args()
    curve(arguments.run, arguments.root, arguments.note)


if __name__ == "__main__":
    main()

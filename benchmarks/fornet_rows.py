"""What FoR-Net's selection is worth: every selector and every K trained alike from one common checkpoint.

python benchmarks/fornet_rows.py START --root CAMVID --runs FOLDER --steps N   -> results/fornet_rows.json
    START: a network trained without focus (K = 0): its branches and its residual never learned, its selector did (to
    find boundaries).  Each row trains everything for N steps; seeds 0, 1, 2.  A second call goes on where the first one
    was stopped.
python benchmarks/fornet_rows.py shipped --rows "boundary, K = 25 %" "no focus, K = 0" ... --result fornet_unlearn ...
    The other way round: what a network trained with focus loses for good when it goes on without it.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from record import record

from segfocus.checkpoint import read_metadata

SEEDS = (0, 1, 2)
REFERENCE = "boundary, K = 25 %"
ROWS: dict[str, dict[str, Any]] = {
    REFERENCE: {},
    "error, K = 25 %": {"selector": "error"},
    "loss, K = 25 %": {"selector": "loss"},
    "entropy, K = 25 %": {"selector": "entropy"},
    "random, K = 25 %": {"selector": "random"},
    "boundary, K = 10 %": {"ratio": 0.1},
    "boundary, K = 50 %": {"ratio": 0.5},
    "no focus, K = 0": {"ratio": 0.0},
    "dense, K = 100 %": {"ratio": 1.0},
    "dense, narrower: the MACs of K = 25 %": {"ratio": 1.0, "branches": [[1, 1], [3, 2]], "decoder_refine": 16},
}
LEAST = 0.45
"""mIoU that the start must have on val for a row to count"""


def score(path: str | Path, root: str, split: str = "val") -> Any:
    """The suite of a checkpoint's predictions of a split."""
    from segfocus.checkpoint import load
    from segfocus.data import open_dataset
    from segfocus.inference.predictor import Predictor
    from segfocus.metrics.comparison import Comparison
    from segfocus.metrics.suite import Suite

    loaded = load(path)
    loaded.recipe.data.root = root
    predictor = Predictor(loaded)
    dataset = open_dataset(loaded.recipe.data, split, classes=loaded.classes)
    suite: Suite | None = None
    for index in range(len(dataset)):
        picture, target = dataset.read(index)
        found = predictor(picture)
        name = dataset.pairs[index].name
        if suite is None:
            rates = [] if found.importance is None else ["importance"]
            suite = Suite(loaded.classes, ["overlap", "regions", "intervals", *rates], importance=bool(rates))
        suite.add(
            Comparison(np.asarray(target), found.labels, suite.num_classes, importance=found.importance, name=name)
        )
    return suite


def gmac(options: dict[str, Any]) -> float:
    """Of a 360x480 picture, as it is run: only the selected blocks."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from segfocus.backbone import LiteBackbone
    from segfocus.methods.fornet import FoRNet

    network = FoRNet(LiteBackbone(), 11, **options).eval()
    network.execution = "dense" if options.get("ratio") == 1.0 else "sparse"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.rand(1, 3, 360, 480))
    return round(counter.get_total_flops() / 2e9, 4)


def kept(suite: Any) -> dict[str, Any]:
    """Of a suite's summary what the FoR-Net tables say; thin_recall: of pixels in parts up to 4 px wide."""
    summary = suite.summary()
    widths = summary["regions"]["thickness"]
    thin = [place for place, name in enumerate(widths["bins"]) if name in ("1-2", "3-4")]
    pixels = sum(widths["pixels"][place] for place in thin)
    wrong = sum(widths["pixels"][place] * widths["error_rate"][place] for place in thin if widths["pixels"][place])
    found = {key: summary[key] for key in ("miou", "boundary_iou", "per_class", "importance") if key in summary}
    return {**found, "trimap_miou": summary["trimap"]["miou"], "thin_recall": 1 - wrong / pixels}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("start")
    parser.add_argument("--root", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--learning-rate", type=float, default=0.001)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), help="which, beside the reference")
    parser.add_argument("--result", default="fornet_rows")
    arguments = parser.parse_args()
    names = list(dict.fromkeys([REFERENCE, *arguments.rows]))  # first what the others are compared with
    recipe = read_metadata(arguments.start).recipe
    settings_of_start = {
        "options": recipe.model.options,
        "steps": recipe.training.steps,
        "epochs": recipe.training.epochs,
        "seed": recipe.training.seed,
    }
    start = score(arguments.start, arguments.root).summary()["miou"]
    if start < LEAST:
        raise SystemExit(f"expected a start of at least {LEAST} mIoU on val, got {start:.3f}")
    rows: dict[str, Any] = {}
    for seed in SEEDS:
        reference: Any = None
        for name in names:
            options = ROWS[name]
            folder = arguments.runs / f"{folder_name(name)}-{seed}"
            settings = {
                "data.root": arguments.root,
                "model.start": arguments.start,
                "model.options": json.dumps(options),
                "training.seed": seed,
                "training.steps": arguments.steps,
                "training.validate_every": 1000,
                "training.ema_decay": 0.99,
                "training.precision": "bf16-mixed",
                "optimizer.learning_rate": arguments.learning_rate,
                "optimizer.warmup_steps": 30,
                "out": folder,
            }
            if (folder / "scores.json").is_file():
                check_reused(folder, arguments, options)
            else:
                command = [sys.executable, "-m", "segfocus", "train", "fornet-camvid", "--overwrite"]
                command += [part for key, value in settings.items() for part in (f"--{key}", str(value))]
                subprocess.run(command, check=True, capture_output=True)
            suite = score(folder / "last.safetensors", arguments.root)
            reference = suite if name == REFERENCE else reference
            row = rows.setdefault(name, {"options": options, "gmac": gmac(options), "runs": []})
            found = {"seed": seed, **kept(suite)}
            if name != REFERENCE:
                change = suite.difference(reference)
                found["minus_reference"] = {key: change[key] for key in ("miou", "boundary_iou")}
            row["runs"].append(found)
            row["mean"], row["standard_deviation"] = spread(row["runs"])
            print(seed, name, found["miou"], found["boundary_iou"], found["thin_recall"], flush=True)
            record(
                arguments.result,
                {
                    "start": {**settings_of_start, "miou": start},
                    "steps": arguments.steps,
                    "learning_rate": arguments.learning_rate,
                    "reference": REFERENCE,
                    "rows": rows,
                },
                seeds=[done for done in SEEDS if done <= seed],
                note="fine-tuned from one common checkpoint (in one trained without focus, branches and residual are "
                "as at the beginning; learned selectors begin as its boundary selector; the narrower residual begins "
                f"at random); {arguments.steps} steps of batch 8, learning rate {arguments.learning_rate}; CamVid "
                "train, scored on val (101 pictures), void ignored, single scale, averaged weights of the last step; "
                "minus_reference: paired bootstrap over pictures, 95 %; a short budget: compare rows, not with the "
                "literature",
            )


def folder_name(row: str) -> str:
    """Small letters, digits and hyphens: `boundary-k-25`."""
    return re.sub(r"[^a-z0-9]+", "-", row.lower()).strip("-")


def check_reused(folder: Path, arguments: argparse.Namespace, options: dict[str, Any]) -> None:
    """Refuse a finished run that was trained otherwise than this call would."""
    recipe = read_metadata(folder / "last.safetensors").recipe
    got = (recipe.model.options, recipe.model.start, recipe.training.steps, recipe.optimizer.learning_rate)
    expected = (options, arguments.start, arguments.steps, arguments.learning_rate)
    if got != expected:
        raise SystemExit(f"expected a run of {expected} in {folder}, got {got}; try another --runs")


def spread(runs: list[dict[str, Any]]) -> tuple[dict[str, float], dict[str, float | None]]:
    """Mean and standard deviation over seeds."""
    values = {key: [run[key] for run in runs] for key in ("miou", "thin_recall")}
    values |= {f"boundary_iou_{d}": [run["boundary_iou"][d] for run in runs] for d in ("1", "3", "5")}
    mean = {key: round(statistics.mean(list_), 5) for key, list_ in values.items()}
    return mean, {key: round(statistics.stdev(v), 5) if len(v) > 1 else None for key, v in values.items()}


if __name__ == "__main__":
    main()

"""RANet on CamVid at 180x240, from scratch, beside other context blocks on the same backbone; equal steps a row.

python benchmarks/ranet_camvid.py --root CAMVID --runs FOLDER [--steps 1000] [--parallel 2] -> results/ranet_camvid.json

Half-size copies of the pictures and finished runs are kept in FOLDER: a second call goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
from record import record
from tqdm import tqdm

from segfocus.data.pictures import PICTURE_EXTENSIONS, list_files
from segfocus.files import write_json

SEEDS = (0, 1, 2)
CHANNELS = 128
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain head": ("context", {"block": "none"}),
    "pyramid pooling": ("context", {"block": "ppm"}),
    "non-local": ("context", {"block": "non_local"}),
    "RANet": ("ranet", {}),
}
"""with every seed"""
ABLATIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "RANet, no intra-region collection and distribution": ("ranet", {"intra": False}),
    "RANet, no inter-region interaction": ("ranet", {"inter": False}),
    "RANet, boundary map only": ("ranet", {"evidence": "boundary"}),
    "RANet, semantic map only": ("ranet", {"evidence": "semantic"}),
    "RANet, neither (O = J A: its convolutions and losses alone)": ("ranet", {"intra": False, "inter": False}),
    "RANet, K = 2": ("ranet", {"representatives": 2}),
    "RANet, K = 12": ("ranet", {"representatives": 12}),
    "RANet, attention scaled by 1 / sqrt(channels)": ("ranet", {"attention_scale": "sqrt"}),
    "RANet, connected components": ("ranet", {"grouping": "components"}),
    "RANet, official mode": ("ranet", {"mode": "official"}),
}
"""with the first seed only"""
LAST = ("RANet, connected components", "RANet, official mode")
"""not rows of the paper: trained after everything else"""
COUNTED = 0.35
"""val mIoU below which a row says nothing"""


def half_size(root: Path, target: Path) -> Path:
    """Pictures averaged 2x2 to 180x240, masks by the nearest pixel."""
    done = target / "done"
    if done.is_file():
        return target
    for kind, method in (("images", cv2.INTER_AREA), ("masks", cv2.INTER_NEAREST)):
        for path in tqdm(list_files(root / kind, PICTURE_EXTENSIONS), f"half-size {kind}", disable=None):
            read = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            assert read is not None, path
            out = (target / path.relative_to(root)).with_suffix(".png")
            out.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(out), cv2.resize(read, (read.shape[1] // 2, read.shape[0] // 2), interpolation=method))
    done.touch()
    return target


def train(name: str, seed: int, root: Path, runs: Path, steps: int, threads: int) -> dict[str, Any]:
    """Train and score one row, or read what an earlier call found."""
    method, options = {**ROWS, **ABLATIONS}[name]
    slug = "".join(c if c.isalnum() else "-" for c in name.lower())
    folder = runs / f"{slug}-{seed}-{steps}"
    found = folder / "row.json"
    if not found.is_file():
        options = {"channels": CHANNELS, "neck": "sum", **options}
        command = f"{sys.executable} -m segfocus train ranet-lite-camvid --overwrite --model.method {method}".split()
        command += ["--data.root", str(root), "--out", str(folder), "--model.options", json.dumps(options)]
        command += ["--data.crop", "180", "240", "--data.batch_size", "8", "--training.ema_decay", "0.99"]
        command += ["--training.seed", str(seed), "--training.steps", str(steps)]
        command += ["--training.validate_every", "1000", "--training.precision", "bf16-mixed"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "NUMBA_NUM_THREADS": str(threads)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode:
            raise SystemExit(f"{name}: {done.stderr[-2000:]}")
        code = f"from ranet_camvid import score; score({str(folder)!r}, {str(root)!r})"
        here = {**environment, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
        subprocess.run([sys.executable, "-c", code], env=here, check=True)
    return {"seed": seed, **json.loads(found.read_text())}


def score(folder: str, root: str) -> None:
    """Scores of a run's last (averaged) weights on val, coarse and fine; writes row.json."""
    from segfocus.checkpoint import load
    from segfocus.training.run import evaluate

    loaded = load(Path(folder) / "last.safetensors")
    loaded.recipe.data.root = root
    scores = evaluate(loaded, split="val", metrics=["thin"])
    rows = (Path(folder) / "metrics.csv").read_text().splitlines()
    minutes = float(rows[-1].split(",")[rows[0].split(",").index("minutes")])
    baseline = scores.get("baseline")
    result = {
        "parameters": sum(parameter.numel() for parameter in loaded.model.parameters()),
        "minutes": round(minutes, 2),
        "miou": scores["miou"],
        "boundary_iou": scores["boundary_iou"],
        "pole_skeleton_recall": scores["thin"]["pole"]["topology_sensitivity"],
        "coarse_miou": None if baseline is None else baseline["scores"]["miou"],
        "coarse_boundary_iou": None if baseline is None else baseline["scores"]["boundary_iou"],
    }
    write_json(Path(folder) / "row.json", result)


def summarise(rows: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, runs in rows.items():
        runs = sorted(runs, key=lambda run: run["seed"])
        values = {"miou": [run["miou"] for run in runs]}
        values |= {f"boundary_iou_{d}": [run["boundary_iou"][d] for run in runs] for d in ("1", "3")}
        if all(run["coarse_miou"] is not None for run in runs):
            values["coarse_miou"] = [run["coarse_miou"] for run in runs]
            values["fine_minus_coarse"] = [run["miou"] - run["coarse_miou"] for run in runs]
        several = len(runs) > 1
        found[name] = {
            "counts": min(values["miou"]) >= COUNTED,
            "mean": {key: round(statistics.mean(v), 5) for key, v in values.items()},
            "standard_deviation": {key: round(statistics.stdev(v), 5) for key, v in values.items()}
            if several
            else None,
            "runs": runs,
        }
    if all(len(rows.get(name, [])) == len(SEEDS) for name in ROWS):
        ranet = {run["seed"]: run["miou"] for run in rows["RANet"]}
        for name in ROWS:
            differences = [ranet[run["seed"]] - run["miou"] for run in rows[name]]
            found[name]["ranet_minus_this"] = {
                "mean": round(statistics.mean(differences), 5),
                "standard_deviation": round(statistics.stdev(differences), 5),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--parallel", type=int, default=2, help="runs at once, with one thread each if two")
    arguments = parser.parse_args()
    root = half_size(arguments.root, arguments.runs / "camvid-180x240")
    for listing in arguments.root.glob("*.txt"):
        (root / listing.name).write_text(listing.read_text())
    jobs = [(name, seed) for seed in SEEDS for name in ROWS]
    jobs[len(ROWS) : len(ROWS)] = [(name, SEEDS[0]) for name in ABLATIONS if name not in LAST]
    jobs += [(name, SEEDS[0]) for name in LAST]
    threads = max(1, (os.cpu_count() or 2) // arguments.parallel)
    rows: dict[str, list[dict[str, Any]]] = {}
    note = (
        f"CamVid at 180x240 (half size), lite backbone from scratch, features of {CHANNELS} channels at stride 8, "
        f"{arguments.steps} steps of 8 pictures a row (a few minutes), averaged weights of the last step, scored on "
        "val; a short budget: compare rows, not with the literature. minutes: a run's own, "
        f"{arguments.parallel} at once with {threads} thread(s) each"
    )
    with ThreadPoolExecutor(arguments.parallel) as pool:
        waiting = [
            (name, pool.submit(train, name, seed, root, arguments.runs, arguments.steps, threads))
            for name, seed in jobs
        ]
        for name, result in waiting:
            rows.setdefault(name, []).append(row := result.result())
            print(name, row["seed"], row["miou"], row["coarse_miou"], row["minutes"], flush=True)
            results = {"steps": arguments.steps, "rows": summarise(rows)}
            record("ranet_camvid", results, seeds=list(SEEDS), note=note, threads=threads)


if __name__ == "__main__":
    main()

"""Refiners on maps of binary networks trained here: base, rivals, ThreshNet and its ablations, equal steps a row.

python benchmarks/refine_evidence.py deepcrack --root DEEPCRACK --runs FOLDER [--seeds 0 1 2] [--parallel 2]
    -> results/refine_deepcrack.json (also deepcrack_holdout, drive, nuclei)

Each seed trains a base (packaged recipe) on the split `fit`, writes its maps of `holdout` and of the split that is
scored, fits or trains every row on the first and scores it on the second; `deepcrack_holdout` fits on one half of
`holdout` and scores the other, told apart by photographs.  Finished work is kept in FOLDER: a second
call goes on where the first stopped.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from record import record

from segfocus.errors import SegfocusError
from segfocus.ops.patches import apply_thresholds, best_single_threshold, best_thresholds_of_all

SETS = {
    "deepcrack": ("deepcrack", "unet-deepcrack", "test"),
    "deepcrack_holdout": ("deepcrack", "unet-deepcrack", "holdout"),
    "drive": ("drive", "unet-drive", "test"),
    "nuclei": ("nuclei_dsb2018", "unet-nuclei", "val"),
}
"""name -> reader, recipe of the base, split that is scored"""
COUNTED = 0.55
"""foreground IoU below which a base of DeepCrack says nothing"""
STEPS = 300
FEW = ("fixed", "global_threshold", "temperature", "platt", "patch_oracle", "guided_filter", "crf", "threshnet")
ROWS: dict[str, tuple[str, ...]] = {
    "deepcrack": ("all",),
    "deepcrack_holdout": (*FEW, "threshnet_regular"),
    "drive": (*FEW, "threshnet_regular"),
    "nuclei": (*FEW, "threshnet_regular"),
}
"""names of rows of `segfocus.refinement.entrants.ENTRANTS`"""
ABLATIONS: dict[str, dict[str, Any]] = {
    "global branch only": {"combine": "global"},
    "local branch only": {"combine": "local"},
    "L_rs only": {"region_weight": 1.0, "regular_weight": 0.0},
    "focal loss only": {"region_weight": 1.0, "regular_weight": 0.0, "focal_weight": 1.0, "boundary_weight": 0.0},
    "boundary loss only": {"region_weight": 1.0, "regular_weight": 0.0, "focal_weight": 0.0, "boundary_weight": 1.0},
}
"""rows of Table 1, with every seed; the branches are trained together and taken apart after, the losses are trained"""
SINGLE: dict[str, dict[str, Any]] = {
    "P = 16": {"patch": 16},
    "P = 32": {"patch": 32},
    "P = 128": {"patch": 128},
    "P = 256": {"patch": 256},
    "pooled thresholds": {"score": "pooled"},
    "full width": {"width": 32},
}
"""further rows, with the first seed"""
CURVE = (16, 32, 64, 128, 256, 512)
PLAIN = ("score", "difference")
NUMBERS = ("mae", "ece", "harm_rate", "fixed_rate", "ms_per_megapixel", "peak_memory", "parameters", "fit_seconds")


def slug(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def base_and_maps(name: str, seed: int, root: str, runs: Path) -> tuple[Path | None, Path]:
    """Folders of the maps to fit by (None: a half of those that are scored) and to score, of a base of this seed."""
    from segfocus.recipe import load_recipe
    from segfocus.refinement.export_maps import export_maps
    from segfocus.training.run import train

    _, recipe_name, scored = SETS[name]
    base = runs / f"base-{seed}"
    if not (base / "done").is_file():
        resume = (base / "recipe.yaml").is_file()
        recipe = load_recipe(recipe_name)
        recipe.data.root = root
        recipe.training = dataclasses.replace(recipe.training, seed=seed)
        train(None if resume else recipe, base, resume=resume)
        (base / "done").touch()
    folders = []
    for split in dict.fromkeys(("holdout", scored)):
        folder = runs / f"maps-{seed}-{split}"
        export_maps(base / "best.safetensors", folder, split=split)
        folders.append(folder)
    return (folders[0] if len(folders) > 1 else None), folders[-1]


def trained(row: str, options: dict[str, Any], seed: int, fit: Path, classes: Path, runs: Path, steps: int) -> Path:
    """Checkpoint of an ablation, trained like the rows of the leaderboard."""
    from segfocus.refinement.recipes import row_recipe
    from segfocus.training.run import train

    folder = runs / f"rows-{seed}" / slug(row)
    if not (folder / "done").is_file():
        resume = (folder / "recipe.yaml").is_file()
        recipe = row_recipe("threshnet", str(fit / "maps"), str(fit / "masks"), None, steps, seed)
        recipe.data = dataclasses.replace(recipe.data, classes=str(classes))
        recipe.model = dataclasses.replace(recipe.model, options={**recipe.model.options, **options})
        train(None if resume else recipe, folder, resume=resume)
        (folder / "done").touch()
    return folder / "best.safetensors"


def branch(row: str, combine: str, whole: Path, seed: int, runs: Path) -> Path:
    """The trained ThreshNet with one branch alone deciding."""
    from segfocus.checkpoint import load, save

    path = runs / f"rows-{seed}" / slug(row) / "best.safetensors"
    loaded = load(whole)
    recipe = loaded.recipe
    recipe.model = dataclasses.replace(recipe.model, options={**recipe.model.options, "combine": combine})
    save(path, loaded.model, recipe, loaded.classes, loaded.scores)
    return path


def one_seed(
    name: str, seed: int, root: str, runs: Path, steps: int, first: bool, ablations: bool, single: bool
) -> None:
    """Everything of one seed, the rows of the leaderboard first."""
    from segfocus.refinement.compare import compare

    fit, scored = base_and_maps(name, seed, root, runs)
    out = runs / f"compare-{seed}"
    given = {} if fit is None else {f"fit_{kind}": fit / kind for kind in ("maps", "masks", "images")}

    def leaderboard(methods: list[str | Path]) -> None:
        found = compare(
            scored / "maps", scored / "masks", images=scored / "images", classes=scored / "classes.yaml",
            methods=methods, steps=steps, seed=seed, out=out, **given,
        )  # fmt: skip
        if found["failures"]:
            raise SegfocusError(f"{name}, seed {seed}: {found['failures'][0]}")

    rows: list[str | Path] = list(ROWS[name])
    leaderboard(rows)
    if ablations:
        whole = out / "runs" / "threshnet" / "best.safetensors"
        for row, options in ABLATIONS.items():
            taken_apart = "combine" in options
            rows.append(
                branch(row, options["combine"], whole, seed, runs)
                if taken_apart
                else trained(row, options, seed, fit or out / "fit", scored / "classes.yaml", runs, steps)
            )
            leaderboard(rows)
    for row, options in SINGLE.items() if first and single else ():
        rows.append(trained(row, options, seed, fit or out / "fit", scored / "classes.yaml", runs, steps))
        leaderboard(rows)
    if first:
        (runs / "curve.json").write_text(json.dumps(curve(fit or scored, scored)), encoding="utf-8")


def curve(fit: Path, scored: Path) -> dict[str, Any]:
    """IoU of the scored maps at 0.5, at the best threshold of the others, and with the best threshold of each patch."""
    import cv2

    def pairs(folder: Path) -> list[tuple[np.ndarray, np.ndarray]]:
        names = sorted(path.stem for path in (folder / "maps").glob("*.png"))
        read = [
            tuple(cv2.imread(str(folder / kind / f"{name}.png"), cv2.IMREAD_UNCHANGED) for kind in ("maps", "masks"))
            for name in names
        ]
        return [(values, truth) for values, truth in read if values is not None and truth is not None]

    found = pairs(scored)

    def iou(masks: list[np.ndarray]) -> float:
        hit = sum(int((mask & (truth == 1)).sum()) for mask, (_, truth) in zip(masks, found, strict=True))
        either = sum(
            int(((mask | (truth == 1)) & (truth != 255)).sum()) for mask, (_, truth) in zip(masks, found, strict=True)
        )
        return hit / either

    single, own = best_single_threshold(pairs(fit)), best_single_threshold(found)
    oracle = {
        score: {
            str(patch): iou(
                [
                    apply_thresholds(values, best, patch)
                    for (values, _), best in zip(found, best_thresholds_of_all(found, patch, score=score), strict=True)
                ]
            )
            for patch in CURVE
        }
        for score in ("foreground", "pooled")
    }
    return {
        "at_0.5": iou([values > 32767 for values, _ in found]),
        "single_threshold": {"threshold": single, "iou": iou([values > single * 65535 for values, _ in found])},
        "single_threshold_of_its_own": {"threshold": own, "iou": iou([values > own * 65535 for values, _ in found])},
        "oracle": oracle,
    }


def summarise(name: str, seeds: list[int], runs: Path) -> dict[str, Any]:
    """Mean and standard deviation over seeds of every row, from their leaderboards."""
    boards = {
        seed: json.loads((runs / f"compare-{seed}" / "leaderboard.json").read_text(encoding="utf-8")) for seed in seeds
    }
    titles = {f"{slug(row)}-best": row for row in (*ABLATIONS, *SINGLE)}
    rows: dict[str, dict[int, dict[str, Any]]] = {}
    for seed, board in boards.items():
        for row in board["rows"]:
            rows.setdefault(titles.get(row["name"], row["name"]), {})[seed] = row
    found: dict[str, Any] = {}
    for row, runs_of in rows.items():
        values = {key: [run[key]["value"] for run in runs_of.values()] for key in PLAIN}
        values |= {key: [run[key] for run in runs_of.values()] for key in NUMBERS}
        values |= {
            f"boundary_iou_{d}": [run["boundary_iou"][d] for run in runs_of.values()] for d in ["1", "3", "5", "15"]
        }
        values = {key: numbers for key, numbers in values.items() if all(number is not None for number in numbers)}
        found[row] = {
            "seeds": list(runs_of),
            "mean": {key: round(statistics.mean(numbers), 6) for key, numbers in values.items()},
            "standard_deviation": {key: round(statistics.stdev(numbers), 6) for key, numbers in values.items()}
            if len(runs_of) > 1
            else None,
            "values": {key: [round(number, 6) for number in numbers] for key, numbers in values.items()},
            "difference_intervals": [run["difference"]["interval"] for run in runs_of.values()],
            "score_intervals": [run["score"]["interval"] for run in runs_of.values()],
        }
    adds = [board["thresholds_add"] for board in boards.values() if board["thresholds_add"] is not None]
    base = [rows["base"][seed]["score"]["value"] for seed in seeds]
    result: dict[str, Any] = {
        "split": SETS[name][2],
        "pictures": boards[seeds[0]]["n_pictures"],
        "fit_pictures": boards[seeds[0]]["n_fit_pictures"],
        "steps": boards[seeds[0]]["settings"]["steps"],
        "base_counts": min(base) >= COUNTED if name.startswith("deepcrack") else None,
        "rows": found,
        "thresholds_add": {
            "runs": adds,
            "mean": round(statistics.mean(add["value"] for add in adds), 6) if adds else None,
            "standard_deviation": round(statistics.stdev(add["value"] for add in adds), 6) if len(adds) > 1 else None,
        },
        "other_work": {seed: board["other_work"] for seed, board in boards.items()},
    }
    if (runs / "curve.json").is_file():
        result["curve"] = json.loads((runs / "curve.json").read_text(encoding="utf-8"))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("set", choices=list(SETS))
    parser.add_argument("--root", required=True)
    parser.add_argument("--runs", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--parallel", type=int, default=2)
    parser.add_argument("--ablations", action="store_true", help="also the rows of Table 1")
    parser.add_argument(
        "--single", action="store_true", help="also, with the first seed, other patches and the full width"
    )
    parser.add_argument("--worker", type=int, help="the work of one seed alone")
    parser.add_argument("--summary", action="store_true", help="results of what is finished")
    given = parser.parse_args()
    runs = given.runs / given.set
    runs.mkdir(parents=True, exist_ok=True)
    if given.worker is not None:
        first = given.worker == given.seeds[0]
        one_seed(given.set, given.worker, given.root, runs, given.steps, first, given.ablations, given.single)
        return
    if not given.summary:
        threads = max(1, (os.cpu_count() or 1) // given.parallel)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}

        def work(seed: int) -> None:
            command = [sys.executable, __file__, *sys.argv[1:], "--worker", str(seed)]
            subprocess.run(command, env=environment, check=True)

        with ThreadPoolExecutor(given.parallel) as pool:
            list(pool.map(work, given.seeds))
    note = (
        f"{given.set}: base trained here from scratch on the split fit, refiners fitted on its maps of holdout with "
        f"{given.steps} steps of 4 crops of 256x256 a trained row, quarter-width ThreshNet; one thread a row; seeds of "
        "base and refiner alike; differences are paired with the base of the same seed"
    )
    print(record(f"refine_{given.set}", summarise(given.set, given.seeds, runs), seeds=given.seeds, note=note))


if __name__ == "__main__":
    main()

"""The checkpoint that comes with the package, from a finished run: half precision, no path of this machine, scored.

python benchmarks/ship_weights.py RUN --root CAMVID [--weights last|best] [--note TEXT]
    -> src/segfocus/weights/fornet_lite_camvid.safetensors, the scores in the model card beside it, and
       results/shipped_weights.json
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from record import record

from segfocus.allocator import tune_allocator
from segfocus.checkpoint import Checkpoint, load, save
from segfocus.files import write_text
from segfocus.recipe import Recipe
from segfocus.shipped import package_checkpoint
from segfocus.training.evaluation import evaluate

LARGEST = 6_000_000
"""bytes"""
CHANGE = 0.001
"""largest change of a score by half precision: 0.1 points"""
TERMS = "trained on CamVid: non-commercial use only"
PLACES = ("root", "images", "masks", "val_images", "val_masks", "maps", "classes")
"""fields of the recipe's data section that name files of the machine it ran on"""
METRICS = ("basic", "thin")
CARD = re.compile(r"(<!-- scores: [^>]*-->\n).*(<!-- end of scores -->)", re.DOTALL)


def portable(recipe: Recipe) -> Recipe:
    """The recipe without files of the machine it ran on."""
    start = recipe.model.start if recipe.model.start == NAME else None
    return dataclasses.replace(
        recipe,
        data=dataclasses.replace(recipe.data, **dict.fromkeys(PLACES)),
        model=dataclasses.replace(recipe.model, start=start),
    )


def scored(loaded: Checkpoint, root: str, split: str) -> dict[str, Any]:
    data = dataclasses.replace(loaded.recipe.data, root=root)
    scores = evaluate(loaded, data, split, metrics=METRICS)
    scores.pop("how")
    return scores


def numbers(scores: Any, prefix: str = "") -> dict[str, float]:
    """All fractions of the scores by their dotted names."""
    if isinstance(scores, dict):
        return {k: v for key, item in scores.items() for k, v in numbers(item, f"{prefix}.{key}").items()}
    return {prefix.strip("."): scores} if isinstance(scores, float) else {}


def card_text(recipe: Recipe, val: dict[str, Any], holdout: dict[str, Any], unseen: bool, note: str) -> str:
    """Training and scores in Markdown."""
    training, data = recipe.training, recipe.data
    sides = "x".join(map(str, data.crop or []))
    rows: list[tuple[str, ...]] = [("", "val (101 pictures)", "holdout (62)")]
    for name, key in (("mIoU", "miou"), ("pixel accuracy", "pixel_accuracy"), ("mean accuracy", "mean_accuracy")):
        rows.append((name, *(f"{100 * scores[key]:.1f}" for scores in (val, holdout))))
    for distance in ("1", "3"):
        values = (f"{100 * scores['boundary_iou'][distance]:.1f}" for scores in (val, holdout))
        rows.append((f"Boundary IoU, d = {distance} px", *values))
    for name in val["classes"]:
        found = [scores["per_class"][name] for scores in (val, holdout)]
        rows.append((f"IoU of {name}", *("" if value is None else f"{100 * value:.1f}" for value in found)))
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "|---|---|---|")
    seen = "not trained on" if unseen else "part of the training pictures: not a test"
    return (
        f"Trained on `{data.train_split}` for {training.steps} steps of {data.batch_size} crops of {sides} px, "
        f"{recipe.optimizer.name} at {recipe.optimizer.learning_rate:g}, seed {training.seed}. Scores in percent, of "
        "exactly the stored weights; single scale, whole pictures, void ignored. `val` is one clip; `holdout` (the "
        f"frames 0001TP of train) was {seen}.{' ' + note if note else ''}\n\n" + "\n".join(lines) + "\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--root", required=True, help="folder of CamVid")
    parser.add_argument("--weights", choices=["last", "best"], default="last", help="last: not chosen on val")
    parser.add_argument("--note", default="", help="what else must be known about the run")
    arguments = parser.parse_args()
    tune_allocator()
    whole = load(arguments.run / f"{arguments.weights}.safetensors")
    recipe = portable(whole.recipe)
    target = package_checkpoint()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / target.name
        save(file, whole.model, recipe, whole.classes, half=True, terms=TERMS)
        half = load(file)
        val = scored(half, arguments.root, "val")
        before, after = numbers(scored(whole, arguments.root, "val")), numbers(val)
        assert before.keys() == after.keys()
        changes = {name: abs(after[name] - before[name]) for name in before}
        worst = max(changes, key=changes.__getitem__)
        overall = {name: change for name, change in changes.items() if not re.search("per_class|thin", name)}
        assert max(overall.values()) < CHANGE, f"half precision changes {overall}"
        # again with the scores of exactly these weights
        save(file, whole.model, recipe, whole.classes, {**val, "split": "val"}, half=True, terms=TERMS)
        size = file.stat().st_size
        assert size <= LARGEST, f"{size} bytes"
        assert str(arguments.root).encode() not in file.read_bytes()
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
    holdout = scored(load(target), arguments.root, "holdout")
    unseen = recipe.data.train_split == "fit"
    card = target.with_suffix(".md")
    text = card_text(recipe, val, holdout, unseen, arguments.note)
    filled, count = CARD.subn(lambda found: found[1] + text + found[2], card.read_text(encoding="utf-8"))
    assert count == 1
    write_text(card, filled)
    results = {
        "file": target.name,
        "bytes": size,
        "parameters": sum(parameter.numel() for parameter in whole.model.parameters()),
        "weights": arguments.weights,
        "trained_on": recipe.data.train_split,
        "steps": recipe.training.steps,
        "holdout_unseen": unseen,
        "half_precision": {
            "largest_change_overall": max(overall.values()),
            "largest_change": {"score": worst, "change": changes[worst]},
        },
        "val": val,
        "holdout": holdout,
    }
    note = (
        "scores of exactly the stored half-precision weights, in float32, single scale, whole pictures, void ignored; "
        f"val is one clip; holdout (frames 0001TP of train) was {'not ' if unseen else ''}trained on. {arguments.note}"
    )
    print(record("shipped_weights", results, seeds=[recipe.training.seed], note=note.strip()), val["miou"], size)


if __name__ == "__main__":
    main()

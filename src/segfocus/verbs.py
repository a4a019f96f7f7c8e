"""The verbs of the command line: plain functions of their arguments, which import what they need inside."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segfocus.console import say, table
from segfocus.errors import SegfocusError, nearest
from segfocus.options import add_recipe_options, changed, overrides, parse, verb_parser
from segfocus.prediction_options import (
    add_max_pixels,
    add_prediction_options,
    check_target,
    evaluation_changes,
    max_pixels_changes,
    one_of_each,
    pair,
)
from segfocus.prediction_options import size as size_of
from segfocus.recipe import load_recipe, recipe_names

if TYPE_CHECKING:
    from jsonargparse import Namespace

    from segfocus.recipe import DataConfig

SECTIONS = ("data", "model", "optimizer", "training", "evaluation")
SHIPPED = "weights/fornet_lite_camvid.safetensors"
"""inside the package: what `predict` uses when no checkpoint is named"""
SAVES = ("labels", "color", "overlay", "probabilities")
_LENGTHS = ("epochs", "steps", "minutes")


def train(arguments: list[str]) -> None:
    """Train a recipe, or resume a run; then score its best weights and write the report."""
    parser = verb_parser(
        "train",
        "RECIPE [--out runs/NAME] [--section.field VALUE ...]\n       segfocus train --resume runs/NAME",
        "Trains a recipe (a name from `segfocus list recipes` or a YAML file), scores the best weights on the "
        "validation split and writes report.html into the run folder. Every field of the recipe is an option; "
        "[what stands in brackets] holds where the recipe's file does not say otherwise.",
    )
    parser.add_argument("recipe", nargs="?", help="name or YAML file")
    parser.add_argument("--out", metavar="DIR", help="run folder [runs/RECIPE-YYYYMMDD-HHMMSS]")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing run folder")
    parser.add_argument("--resume", metavar="DIR", help="go on with a stopped run, to the end its recipe says")
    add_max_pixels(parser)
    add_recipe_options(parser, SECTIONS)
    values = parse(parser, arguments)
    changes = max_pixels_changes(values, overrides(values, SECTIONS))
    if values.resume is not None:
        run = _resume(values, changes)
    elif values.recipe is None:
        raise SegfocusError(f"train: expected a recipe; try one of {', '.join(recipe_names())}, or --resume runs/NAME")
    else:
        from segfocus.training.run import train as run_training

        recipe = changed(load_recipe(values.recipe), _one_length(changes))
        run = run_training(recipe, values.out, overwrite=values.overwrite, name=Path(values.recipe).stem)
    _finish(run, arguments, "train")


def _one_length(changes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A length given on the command line replaces the recipe's, whichever unit that is in."""
    training = changes.get("training", {})
    if not any(training.get(name) is not None for name in _LENGTHS):
        return changes
    return {**changes, "training": {**dict.fromkeys(_LENGTHS), **training}}


def _resume(values: Namespace, changes: dict[str, dict[str, Any]]) -> Path:
    if values.recipe is not None or values.out is not None or values.overwrite:
        raise SegfocusError("train --resume: the run folder says the rest; leave out the recipe, --out and --overwrite")
    if changes:
        section, fields = next(iter(changes.items()))
        raise SegfocusError(
            f"train --resume: a resumed run keeps its recipe, got --{section}.{next(iter(fields))}; where only the "
            f"data has moved, try to edit {Path(values.resume) / 'recipe.yaml'}"
        )
    from segfocus.training.run import train as run_training

    return run_training(out=values.resume, resume=True)


def demo(arguments: list[str]) -> None:
    """Train the lite FoR-Net on generated scenes, and open up where it is wrong."""
    parser = verb_parser(
        "demo",
        "[--out DIR] [--minutes X]",
        "Trains on generated street-like scenes on the CPU, measures, and writes report.html. Downloads nothing.",
    )
    parser.add_argument("--out", metavar="DIR", help="run folder [runs/demo-YYYYMMDD-HHMMSS]")
    parser.add_argument("--minutes", type=float, metavar="X", help="length of the training [as in the recipe]")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing run folder")
    add_recipe_options(parser, ["data", "training"])
    values = parse(parser, arguments)
    changes = _one_length({**overrides(values, ["data", "training"])})
    if values.minutes is not None:
        changes = _one_length({**changes, "training": {**changes.get("training", {}), "minutes": values.minutes}})
    from segfocus.demo import run_demo

    _finish(run_demo(values.out, values.overwrite, changes), arguments, "demo")


def _finish(run: Path, arguments: list[str], verb: str) -> None:
    """Score and report; only the first of several processes does."""
    if int(os.environ.get("LOCAL_RANK", 0)) != 0:
        return
    from segfocus.report.runs import score_and_report

    try:
        scores, report = score_and_report(run, shlex.join(["segfocus", verb, *arguments]))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped while scoring; go on with: segfocus train --resume {run}") from None
    _show_scores(scores)
    say(f"run     {run}")
    say(f"report  {report}", style="bold")


def evaluate(arguments: list[str]) -> None:
    """Score a checkpoint on a split."""
    parser = verb_parser(
        "evaluate",
        "CHECKPOINT [--data.root DIR] [--split val] [--json FILE] [--report DIR]",
        "Scores a checkpoint at the pictures' own sizes. Data options and the way predictions are made default to "
        "those of the checkpoint's recipe.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a .safetensors file of a run folder")
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="split of the data set [the recipe's data.val_split; all of --data.images where that is given]",
    )
    parser.add_argument("--json", metavar="FILE", help="write the scores there")
    parser.add_argument("--report", metavar="DIR", help="write report.html there")
    parser.add_argument("--worst", type=int, default=12, metavar="N", help="pictures in the report [12]")
    add_prediction_options(parser)
    add_max_pixels(parser)
    parser.add_argument("--boundary-distances", metavar="N,N", help="distances of the Boundary IoU in pixels [1,3,5]")
    add_recipe_options(parser, ["data"])
    values = parse(parser, arguments)
    check_target(values.json, "--json")
    check_target(values.report, "--report", folder=Path(values.report or "").suffix.lower() not in {".html", ".htm"})
    from segfocus.checkpoint import read_metadata
    from segfocus.files import write_json
    from segfocus.report.runs import evaluate_and_report

    metadata = read_metadata(values.checkpoint)
    changes = max_pixels_changes(values, overrides(values, ["data"]))
    recipe = changed(metadata.recipe, {**changes, "evaluation": evaluation_changes(values)})
    scores, report = evaluate_and_report(
        Path(values.checkpoint),
        recipe,
        values.split or _split(recipe.data, changes.get("data", {})),
        report=None if values.report is None else Path(values.report),
        device=values.device,
        worst=values.worst,
        command=shlex.join(["segfocus", "evaluate", *arguments]),
    )
    _show_scores(scores)
    if values.json is not None:
        write_json(values.json, scores)
        say(f"scores  {values.json}")
    if report is not None:
        say(f"report  {report}", style="bold")


def _split(data: DataConfig, given: dict[str, Any]) -> str:
    """Of pictures named for this evaluation all are scored: holding out a share of them has no sense."""
    named = data.name == "folder" and given.get("images") is not None
    return "all" if named and not {"val_images", "val_split"} & set(given) else data.val_split


def predict(arguments: list[str]) -> None:
    """Label pictures."""
    parser = verb_parser(
        "predict",
        "[CHECKPOINT] PICTURES... [--out DIR] [--save labels,color,overlay,probabilities]",
        "Labels pictures and folders of pictures at their own sizes. A first argument that ends in .safetensors is "
        "the checkpoint; without one the weights that come with the package are used.",
    )
    parser.add_argument("inputs", nargs="+", metavar="PICTURES", help="picture files or folders")
    parser.add_argument("--out", default="predictions", metavar="DIR", help="folder for the results [predictions]")
    parser.add_argument(
        "--save",
        default="labels,overlay",
        metavar="KINDS",
        help="labels (8-bit train ids), color, overlay, probabilities (npz float16) [labels,overlay]",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results of earlier runs")
    add_max_pixels(parser)
    add_prediction_options(parser)
    values = parse(parser, arguments)
    checkpoint, pictures = _checkpoint_and_pictures(values.inputs)
    kinds = one_of_each(values.save, SAVES)
    from segfocus.checkpoint import read_metadata

    changes = max_pixels_changes(values, {"evaluation": evaluation_changes(values)})
    recipe = changed(read_metadata(checkpoint).recipe, changes)
    from segfocus.inference.folder import predict_folder
    from segfocus.inference.predictor import Predictor

    how = recipe.evaluation
    predictor = Predictor(
        checkpoint,
        window=pair(how.window),
        stride=pair(how.stride),
        scales=tuple(how.scales),
        flip=how.flip,
        device=values.device,
        max_pixels=recipe.data.max_pixels,
    )
    written = predict_folder(
        predictor, [Path(item) for item in pictures], Path(values.out), save=kinds, overwrite=values.overwrite
    )
    say(f"{len(written)} files in {values.out}")


def _checkpoint_and_pictures(inputs: list[str]) -> tuple[Path, list[str]]:
    if Path(inputs[0]).suffix == ".safetensors":
        if len(inputs) == 1:
            raise SegfocusError(f"predict: expected pictures after the checkpoint {inputs[0]}, got none")
        return Path(inputs[0]), inputs[1:]
    shipped = Path(__file__).parent / SHIPPED
    if not shipped.is_file():
        raise SegfocusError(
            "predict: this version comes without weights; name a checkpoint first: "
            "segfocus predict runs/NAME/best.safetensors PICTURES"
        )
    return shipped, inputs


def list_(arguments: list[str]) -> None:
    """Methods, datasets, recipes."""
    parser = verb_parser("list", "[methods|datasets|recipes]", "Lists what there is.")
    parser.add_argument("what", nargs="?", metavar="methods|datasets|recipes")
    what = parse(parser, arguments).what
    listings = {"methods": _methods, "datasets": _datasets, "recipes": _recipes}
    if what is not None and what not in listings:
        raise SegfocusError(f"list: unknown '{what}'; {nearest(what, listings)}")
    for name in listings if what is None else [what]:
        say(name, style="bold")
        say(table(listings[name]()))


def _methods() -> list[tuple[str, str]]:
    from segfocus.methods import METHODS, SUMMARIES

    return [(name, SUMMARIES.get(name, "")) for name in METHODS]


def _datasets() -> list[tuple[str, str]]:
    from segfocus.data import DATASETS

    return [(name, f"{reader.summary}; splits {', '.join(reader.splits)}") for name, reader in DATASETS.items()]


def _recipes() -> list[tuple[str, str]]:
    return [(name, load_recipe(name).description) for name in recipe_names()]


def describe(arguments: list[str]) -> None:
    """A recipe or checkpoint in numbers."""
    parser = verb_parser(
        "describe",
        "RECIPE|CHECKPOINT [--size 512x1024] [--json FILE]",
        "The resolved recipe, parameters, GMAC (multiply-adds of one picture) and output maps. Nothing is fetched "
        "and no memory is used for weights.",
    )
    parser.add_argument("what", metavar="RECIPE|CHECKPOINT", help="recipe name, YAML file or .safetensors file")
    parser.add_argument("--size", metavar="HxW", help="picture size [the recipe's crop, else 512x1024]")
    parser.add_argument(
        "--num-classes", type=int, metavar="N", help="2 or more, for the recipe's own; not with a checkpoint"
    )
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    add_recipe_options(parser, ["data", "model"])
    values = parse(parser, arguments)
    check_target(values.json, "--json")
    from segfocus.describe import describe as describe_network
    from segfocus.describe import described_recipe, text_of

    recipe, classes = described_recipe(values.what, overrides(values, ["data", "model"]), values.num_classes)
    size = None if values.size is None else size_of(values.size, "--size")
    found = describe_network(recipe, classes, size)
    say(text_of(found))
    if values.json is not None:
        from segfocus.files import write_json

        write_json(values.json, found)


def _show_scores(scores: dict[str, Any]) -> None:
    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}"

    rows = [(name, percent(value)) for name, value in scores["per_class"].items()]
    rows += [("mIoU", percent(scores["miou"])), ("pixel accuracy", percent(scores["pixel_accuracy"]))]
    rows += [(f"Boundary IoU {d} px", percent(value)) for d, value in scores["boundary_iou"].items()]
    say(f"IoU in percent, {scores['n_pictures']} pictures")
    say(table(rows))

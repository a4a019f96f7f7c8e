"""The verbs of the command line: plain functions of their arguments, which import what they need inside."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segfocus.console import say, table
from segfocus.errors import SegfocusError, nearest
from segfocus.options import add_recipe_options, changed, overrides, parse, verb_parser
from segfocus.recipe import load_recipe, recipe_names

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

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
    add_recipe_options(parser, SECTIONS)
    values = parse(parser, arguments)
    changes = overrides(values, SECTIONS)
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
    parser.add_argument("--split", metavar="NAME", help="split of the data set [the recipe's data.val_split]")
    parser.add_argument("--json", metavar="FILE", help="write the scores there")
    parser.add_argument("--report", metavar="DIR", help="write report.html there")
    parser.add_argument("--worst", type=int, default=12, metavar="N", help="pictures in the report [12]")
    _add_prediction_options(parser)
    parser.add_argument("--boundary-distances", metavar="N,N", help="distances of the Boundary IoU in pixels [1,3,5]")
    add_recipe_options(parser, ["data"])
    values = parse(parser, arguments)
    from segfocus.checkpoint import read_metadata
    from segfocus.files import write_json
    from segfocus.report.runs import evaluate_and_report

    metadata = read_metadata(values.checkpoint)
    recipe = changed(metadata.recipe, {**overrides(values, ["data"]), "evaluation": _evaluation_changes(values)})
    scores, report = evaluate_and_report(
        Path(values.checkpoint),
        recipe,
        values.split or recipe.data.val_split,
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
    parser.add_argument("--max-pixels", type=int, metavar="N", help="larger pictures are refused [180000000]")
    _add_prediction_options(parser)
    values = parse(parser, arguments)
    checkpoint, pictures = _checkpoint_and_pictures(values.inputs)
    kinds = _one_of_each(values.save, SAVES)
    from segfocus.checkpoint import read_metadata

    recipe = changed(read_metadata(checkpoint).recipe, {"evaluation": _evaluation_changes(values)})
    from segfocus.inference.folder import predict_folder
    from segfocus.inference.predictor import Predictor

    how = recipe.evaluation
    predictor = Predictor(
        checkpoint,
        window=_pair(how.window),
        stride=_pair(how.stride),
        scales=tuple(how.scales),
        flip=how.flip,
        device=values.device,
        max_pixels=values.max_pixels or recipe.data.max_pixels,
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
    parser.add_argument("--num-classes", type=int, metavar="N", help="where the recipe does not say its classes [19]")
    parser.add_argument("--json", metavar="FILE", help="write the numbers there")
    add_recipe_options(parser, ["data", "model"])
    values = parse(parser, arguments)
    from segfocus.describe import describe as describe_network
    from segfocus.describe import described_recipe, text_of

    recipe, classes = described_recipe(values.what, overrides(values, ["data", "model"]), values.num_classes)
    size = None if values.size is None else _sizes(values.size, "--size", 2)
    found = describe_network(recipe, classes, size)
    say(text_of(found))
    if values.json is not None:
        from segfocus.files import write_json

        write_json(values.json, found)


def _add_prediction_options(parser: ArgumentParser) -> None:
    parser.add_argument("--window", metavar="HxW", help="sliding window in pixels, or 'none' [as in the recipe]")
    parser.add_argument("--stride", metavar="HxW", help="step of the window in pixels [two thirds of the window]")
    parser.add_argument("--scales", metavar="X,X", help="scales whose predictions are averaged [as in the recipe]")
    parser.add_argument("--flip", action="store_true", help="average with the prediction of the mirrored picture")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps [auto]")


def _evaluation_changes(values: Namespace) -> dict[str, Any]:
    """The given prediction options as fields of the recipe's evaluation section."""
    changes: dict[str, Any] = {}
    for name in ("window", "stride"):
        given = values.get(name)
        if given is not None:
            changes[name] = None if given == "none" else list(_sizes(given, f"--{name}", 2))
    if changes.get("window", ...) is None:
        changes["stride"] = None
    if values.scales is not None:
        changes["scales"] = _numbers(values.scales, "--scales", float)
    if values.flip:
        changes["flip"] = True
    if values.get("boundary_distances") is not None:
        changes["boundary_distances"] = _numbers(values.boundary_distances, "--boundary-distances", int)
    return changes


def _numbers(text: str, option: str, kind: type) -> list[Any]:
    try:
        numbers = [kind(part) for part in text.split(",")]
    except ValueError:
        raise SegfocusError(f"{option}: expected numbers like 1,2,3, got '{text}'") from None
    if any(number <= 0 for number in numbers):
        raise SegfocusError(f"{option}: expected numbers above 0, got '{text}'")
    return numbers


def _sizes(text: str, option: str, count: int) -> tuple[int, int]:
    parts = text.lower().replace(",", "x").split("x")
    if len(parts) != count or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise SegfocusError(f"{option}: expected HEIGHTxWIDTH in pixels, for example 360x480, got '{text}'")
    return int(parts[0]), int(parts[1])


def _pair(values: list[int] | None) -> tuple[int, int] | None:
    return None if values is None else (values[0], values[1])


def _one_of_each(text: str, valid: tuple[str, ...]) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for kind in kinds:
        if kind not in valid:
            raise SegfocusError(f"--save: unknown '{kind}'; {nearest(kind, valid)}")
    if not kinds:
        raise SegfocusError(f"--save: expected some of {','.join(valid)}, got nothing")
    return kinds


def _show_scores(scores: dict[str, Any]) -> None:
    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}"

    rows = [(name, percent(value)) for name, value in scores["per_class"].items()]
    rows += [("mIoU", percent(scores["miou"])), ("pixel accuracy", percent(scores["pixel_accuracy"]))]
    rows += [(f"Boundary IoU {d} px", percent(value)) for d, value in scores["boundary_iou"].items()]
    say(f"IoU in percent, {scores['n_pictures']} pictures")
    say(table(rows))

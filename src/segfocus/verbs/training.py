"""`segfocus train` and `segfocus demo`: train, score the best weights, write the report."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segfocus.console import say
from segfocus.errors import SegfocusError
from segfocus.options import add_recipe_options, changed, overrides, parse, verb_parser
from segfocus.prediction_options import add_max_pixels, max_pixels_changes
from segfocus.recipe import Recipe, load_recipe, recipe_names
from segfocus.verbs.scores_text import show_scores

if TYPE_CHECKING:
    from jsonargparse import Namespace

SECTIONS = ("data", "model", "optimizer", "training", "evaluation")
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
    train_and_report(values, max_pixels_changes(values, overrides(values, SECTIONS)), arguments, "train")


def train_and_report(
    values: Namespace,
    changes: dict[str, dict[str, Any]],
    arguments: list[str],
    verb: str,
    before: Callable[[Recipe], None] | None = None,
) -> None:
    """Train `values.recipe` with `changes`, or resume, then score and report.

    Args:
        values: with recipe, out, overwrite and resume.
        verb: what the user typed behind segfocus.
        before: called with the recipe before a new run, in the first of several processes.
    """
    if values.resume is not None:
        run = _resume(values, changes, verb)
    elif values.recipe is None:
        raise SegfocusError(f"{verb}: expected a recipe; try one of {', '.join(recipe_names())}, or --resume runs/NAME")
    else:
        from segfocus.training.run import train as run_training

        recipe = changed(load_recipe(values.recipe), _one_length(changes))
        if before is not None and _first_process():
            before(recipe)
        run = run_training(recipe, values.out, overwrite=values.overwrite, name=Path(values.recipe).stem)
    _finish(run, arguments, verb)


def _one_length(changes: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A length given on the command line replaces the recipe's, whichever unit that is in."""
    training = changes.get("training", {})
    if not any(training.get(name) is not None for name in _LENGTHS):
        return changes
    return {**changes, "training": {**dict.fromkeys(_LENGTHS), **training}}


def _resume(values: Namespace, changes: dict[str, dict[str, Any]], verb: str) -> Path:
    if values.recipe is not None or values.out is not None or values.overwrite:
        raise SegfocusError(
            f"{verb} --resume: the run folder says the rest; leave out the recipe, --out and --overwrite"
        )
    if changes:
        section, fields = next(iter(changes.items()))
        raise SegfocusError(
            f"{verb} --resume: a resumed run keeps its recipe, got --{section}.{next(iter(fields))}; where only the "
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


def _first_process() -> bool:
    return int(os.environ.get("LOCAL_RANK", 0)) == 0


def _finish(run: Path, arguments: list[str], verb: str) -> None:
    """Score and report; only the first of several processes does."""
    if not _first_process():
        return
    from segfocus.report.runs import score_and_report

    try:
        scores, report = score_and_report(run, shlex.join(["segfocus", *verb.split(), *arguments]))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped while scoring; go on with: segfocus train --resume {run}") from None
    show_scores(scores)
    say(f"run     {run}")
    say(f"report  {report}", style="bold")

"""`segfocus evaluate`: score a checkpoint on a split."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segfocus.console import say
from segfocus.options import add_recipe_options, changed, overrides, parse, verb_parser
from segfocus.prediction_options import (
    add_max_pixels,
    add_metrics_option,
    add_prediction_options,
    check_target,
    chosen_metrics,
    evaluation_changes,
    max_pixels_changes,
)
from segfocus.verbs.scores_text import show_scores

if TYPE_CHECKING:
    from segfocus.recipe import DataConfig


def evaluate(arguments: list[str]) -> None:
    """Score a checkpoint on a split."""
    parser = verb_parser(
        "evaluate",
        "CHECKPOINT [--data.root DIR] [--split val] [--metrics all] [--json FILE] [--report DIR]",
        "Scores a checkpoint at the pictures' own sizes. Data options and the way predictions are made default to "
        "those of the checkpoint's recipe.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a .safetensors file, or 'shipped'")
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="split of the data set [the recipe's data.val_split; all of --data.images where that is given]",
    )
    parser.add_argument("--json", metavar="FILE", help="write the scores there")
    add_metrics_option(parser, "all with --report, else basic")
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
        metrics=chosen_metrics(values.metrics) or ("basic" if values.report is None else "all"),
        command=shlex.join(["segfocus", "evaluate", *arguments]),
    )
    show_scores(scores)
    if values.json is not None:
        write_json(values.json, scores)
        say(f"scores  {values.json}")
    if report is not None:
        say(f"report  {report}", style="bold")


def _split(data: DataConfig, given: dict[str, Any]) -> str:
    """Of pictures named for this evaluation all are scored: holding out a share of them has no sense."""
    named = data.name == "folder" and given.get("images") is not None
    return "all" if named and not {"val_images", "val_split"} & set(given) else data.val_split

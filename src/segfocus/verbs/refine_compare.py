"""`segfocus refine compare`: the leaderboard of refiners on one folder of maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from segfocus.console import say, table
from segfocus.errors import SegfocusError
from segfocus.options import parse, verb_parser
from segfocus.verbs.refine import add_folders


def compare_(arguments: list[str]) -> int | None:
    """Fit, train and score refiners on one folder of maps."""
    parser = verb_parser(
        "refine compare",
        "--maps DIR --masks DIR --out DIR [--images DIR] [--methods all] [--steps N]",
        "Fits, trains and scores refiners on the maps of any network, and writes DIR/report.html and "
        "DIR/leaderboard.json: what each gains, breaks and costs. What is fitted is fitted on the --fit-... folders, "
        "else on a half of the maps, and scored on the others. The same call again goes on where it stopped.",
    )
    add_folders(parser)
    parser.add_argument("--masks", metavar="DIR", help="true masks, called like the maps")
    parser.add_argument("--classes", metavar="FILE", help="classes file [found in the masks]")
    parser.add_argument(
        "--methods", nargs="+", default=["all"], metavar="NAME", help="all, or rows and checkpoints of refiners [all]"
    )
    parser.add_argument("--fit-maps", metavar="DIR", help="maps of other pictures, to fit and train on")
    parser.add_argument("--fit-masks", metavar="DIR", help="their masks")
    parser.add_argument("--fit-images", metavar="DIR", help="their pictures")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder of the report")
    parser.add_argument("--minutes", type=float, metavar="X", help="length of each training")
    parser.add_argument("--steps", type=int, metavar="N", help="length of each training in optimiser steps")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the trainings [0]")
    parser.add_argument("--patch", type=int, metavar="N", help="side of the oracle's patches in pixels")
    parser.add_argument("--overwrite", action="store_true", help="make all rows anew")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps [auto]")
    values = parse(parser, arguments)
    if not values.maps:
        raise SegfocusError("refine compare: expected the folder of the maps, got none; try --maps DIR --masks DIR")
    from segfocus.refinement.compare import compare
    from segfocus.refinement.map_folder import places

    found = places(values.maps, values.masks, values.images)
    if found.masks is None:
        raise SegfocusError("refine compare: expected the folder of the true masks, got none; try --masks DIR")
    fit = places(values.fit_maps, values.fit_masks, values.fit_images) if values.fit_maps else None
    methods = [name for text in values.methods for name in text.split(",") if name]
    results = compare(
        found.maps,
        found.masks,
        images=found.images,
        classes=values.classes or found.classes,
        methods="all" if methods == ["all"] else methods,
        fit_maps=values.fit_maps if fit is None else fit.maps,
        fit_masks=values.fit_masks if fit is None else fit.masks,
        fit_images=values.fit_images if fit is None else fit.images,
        out=values.out,
        logits=values.logits,
        minutes=values.minutes,
        steps=values.steps,
        seed=values.seed,
        device=values.device,
        overwrite=values.overwrite,
        **({} if values.patch is None else {"patch": values.patch}),
    )
    _show(results)
    say(f"report  {Path(values.out) / 'report.html'}", style="bold")
    for line in results["failures"]:
        say(f"segfocus: {line}", error=True, style="yellow")
    return 1 if results["failures"] else None


def _show(results: dict[str, Any]) -> None:
    """The leaderboard as lines, best first."""

    def percent(value: float | None) -> str:
        return "–" if value is None else f"{100 * value:.1f}"

    rows = [(row["title"], percent(row["score"]["value"])) for row in results["rows"]]
    score = "mIoU" if results["foreground"] is None else f"IoU of {results['foreground']}"
    say(f"{score} in percent, {results['n_pictures']} pictures")
    say(table(rows))

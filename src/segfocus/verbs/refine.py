"""`segfocus refine`: better masks from the probability maps of any network."""

from __future__ import annotations

import functools
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
    size,
)

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

    from segfocus.inference.refiner import MapRefiner
    from segfocus.recipe import Recipe

ACTIONS = {
    "export-maps": "write the probability maps of a checkpoint over a split, with masks and pictures",
    "train": "train a refiner on maps of any network and their masks",
    "apply": "refine a folder of maps with a trained refiner",
    "compare": "leaderboard of all refiners on one folder of maps: gain, harm, cost",
}
"""what follows `segfocus refine` -> what it does"""

_ABOUT = """segfocus refine: better masks from the probability maps of any network.

usage: segfocus refine ACTION [arguments]        segfocus refine ACTION --help tells more

{actions}

Maps: npy, npz, PNG of 8 or 16 bits or TIFF, [height, width] of the foreground or [classes, height, width].

Starts: segfocus refine export-maps runs/NAME/best.safetensors --data.root DIR --out MAPS
        segfocus refine train threshnet-deepcrack --maps MAPS/maps --masks MAPS/masks
        segfocus refine apply runs/NAME/best.safetensors --maps DIR --out DIR
        segfocus refine compare --maps DIR --masks DIR --out report"""


def refine(arguments: list[str]) -> int | None:
    """Hand on to one of `ACTIONS`; returns the exit status where that is not 0."""
    if not arguments or arguments[0] in {"--help", "-h", "help"}:
        say(_ABOUT.format(actions=table(list(ACTIONS.items()))))
        return None
    action, *rest = arguments
    if action not in ACTIONS:
        raise SegfocusError(f"refine: unknown action '{action}'; {nearest(action, ACTIONS)}")
    from segfocus.verbs.refine_compare import compare_

    functions = {"export-maps": export_, "train": train_, "apply": apply_, "compare": compare_}
    try:
        return functions[action](rest)
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(str(stop) or "stopped; the same command goes on") from None


def export_(arguments: list[str]) -> None:
    """Write the maps of a checkpoint over a split."""
    parser = verb_parser(
        "refine export-maps",
        "CHECKPOINT --out MAPS [--data.root DIR] [--split NAME] [--folds N]",
        "Writes MAPS/maps, MAPS/masks (train ids, 255 void), MAPS/images, MAPS/classes.yaml and MAPS/maps.json. The "
        "same call again goes on where it stopped. Data options and the way predictions are made default to those of "
        "the checkpoint's recipe.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a .safetensors file of a network that sees pictures")
    parser.add_argument("--out", required=True, metavar="MAPS", help="folder for the maps")
    parser.add_argument(
        "--split",
        metavar="NAME",
        help="split of the data set, or train:2of5 for a fold of it [the recipe's data.val_split; with --folds its "
        "data.train_split]",
    )
    parser.add_argument(
        "--format", metavar="KIND", help="png16 (foreground of two classes), npz or npy, 16 bits [png16, else npz]"
    )
    parser.add_argument(
        "--folds",
        type=int,
        metavar="N",
        help="train the recipe N times anew, each time without one fold of the split, and write that fold's maps",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the maps of an earlier call")
    add_prediction_options(parser)
    add_max_pixels(parser)
    add_recipe_options(parser, ["data"])
    values = parse(parser, arguments)
    check_target(values.out, "--out", folder=True)
    from segfocus.checkpoint import read_metadata
    from segfocus.refinement.export_maps import export_maps

    changes = max_pixels_changes(values, overrides(values, ["data"]))
    recipe = changed(read_metadata(values.checkpoint).recipe, {**changes, "evaluation": evaluation_changes(values)})
    record = export_maps(
        values.checkpoint,
        values.out,
        recipe.data,
        values.split,
        recipe.evaluation,
        format=values.format,
        folds=values.folds,
        device=values.device,
        overwrite=values.overwrite,
        command=shlex.join(["segfocus", "refine", "export-maps", *arguments]),
    )
    say(f"{len(record['names'])} maps in {values.out}; {100 * record['uncertain_share']:.1f} % of the pixels uncertain")


def train_(arguments: list[str]) -> None:
    """Train a refiner on maps; score and report as `segfocus train` does."""
    from segfocus.verbs.training import SECTIONS, train_and_report

    parser = verb_parser(
        "refine train",
        "RECIPE --maps DIR --masks DIR [--images DIR] [--out runs/NAME] [--section.field VALUE ...]\n"
        "       segfocus refine train --resume runs/NAME",
        "Trains a refiner on probability maps of any network and their masks, holds a share of them out, scores the "
        "best weights on it beside the maps as they were, and writes report.html into the run folder. Every field of "
        "the recipe is an option; [what stands in brackets] holds where the recipe's file does not say otherwise.",
    )
    parser.add_argument("recipe", nargs="?", help="name of a refiner's recipe or YAML file")
    add_folders(parser)
    parser.add_argument("--masks", metavar="DIR", help="true masks, called like the maps")
    parser.add_argument("--out", metavar="DIR", help="run folder [runs/RECIPE-YYYYMMDD-HHMMSS]")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing run folder")
    parser.add_argument("--resume", metavar="DIR", help="go on with a stopped run, to the end its recipe says")
    add_max_pixels(parser)
    add_recipe_options(parser, SECTIONS)
    values = parse(parser, arguments)
    changes = max_pixels_changes(values, overrides(values, SECTIONS))
    if values.resume is None:
        if values.recipe is None:
            raise SegfocusError(f"refine train: expected a recipe; try one of {_refiner_recipes()}")
        changes = {**changes, "data": _data(values, changes.get("data", {}))}
    elif values.maps or values.masks or values.images or values.logits:
        raise SegfocusError("refine train --resume: the run folder says which maps; leave out --maps and the like")
    wanted = "batch_size" in changes.get("data", {})
    train_and_report(
        values, changes, arguments, "refine train", before=functools.partial(_look_at_maps, keep_batch=wanted)
    )


def _data(values: Namespace, data: dict[str, Any]) -> dict[str, Any]:
    """The recipe's data section with the folders that were given."""
    from segfocus.refinement.map_folder import places

    maps, masks = values.maps or data.get("maps"), values.masks or data.get("masks")
    if not maps:
        raise SegfocusError("refine train: expected the folder of the maps, got none; try --maps DIR --masks DIR")
    found = places(maps, masks, values.images or data.get("images"))
    if found.masks is None:
        raise SegfocusError("refine train: expected the folder of the true masks, got none; try --masks DIR")
    named = {"maps": found.maps, "masks": found.masks, "images": found.images}
    if "classes" not in data:
        named["classes"] = found.classes
    given = {key: str(path) for key, path in named.items() if path is not None}
    return {**data, "name": "maps", **given, **({"logits": True} if values.logits else {})}


def _look_at_maps(recipe: Recipe, keep_batch: bool) -> None:
    """Refuse what is no refiner, warn where the maps leave nothing to learn, and fit the batch to many classes."""
    from segfocus.data import open_dataset
    from segfocus.data.maps import MapsDataset
    from segfocus.methods import method_class
    from segfocus.methods.base import Refiner
    from segfocus.refinement.recipes import batch_for
    from segfocus.refinement.saturation import say_saturated, uncertain_share
    from segfocus.training.checks import check

    if not issubclass(method_class(recipe.model.method), Refiner):
        raise SegfocusError(
            f"refine train: expected the recipe of a refiner, got one of {recipe.model.method}; try "
            f"{_refiner_recipes()}"
        )
    check(recipe)
    dataset = open_dataset(recipe.data, recipe.data.train_split)
    assert isinstance(dataset, MapsDataset)
    say_saturated(uncertain_share(dataset), str(recipe.data.maps))
    classes, batch = dataset.classes.num_classes, recipe.data.batch_size
    if not keep_batch and (fitting := batch_for(batch, classes)) < batch:
        recipe.data.batch_size = fitting
        say(
            f"{fitting} map{'s' if fitting > 1 else ''} of {classes} classes a step; --data.batch_size N says otherwise"
        )


def _refiner_recipes() -> str:
    from segfocus.recipe import load_recipe, recipe_names

    return ", ".join(name for name in recipe_names() if load_recipe(name).data.name == "maps")


def apply_(arguments: list[str]) -> None:
    """Refine a folder of maps."""
    parser = verb_parser(
        "refine apply",
        "CHECKPOINT --maps DIR [--images DIR] --out DIR [--save labels probabilities]",
        "Refines maps of any size and writes DIR/labels and DIR/probabilities in the maps' own format. The same call "
        "again goes on where it stopped. The way maps are gone through defaults to that of the checkpoint's recipe.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="a .safetensors file of a refiner")
    add_folders(parser)
    parser.add_argument("--out", required=True, metavar="DIR", help="folder for the results")
    parser.add_argument(
        "--save",
        nargs="+",
        default=["labels", "probabilities"],
        metavar="KIND",
        help="labels (8-bit train ids), probabilities (as the maps were stored) [labels probabilities]",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace results of earlier runs")
    parser.add_argument("--window", metavar="HxW", help="tiles in pixels, or 'none': whole maps [as in the recipe]")
    parser.add_argument(
        "--stride", metavar="HxW", help="step of the tiles [three quarters of a --window, else as in the recipe]"
    )
    parser.add_argument(
        "--resize",
        metavar="HxW",
        help="size that maps are brought to first, or 'none' [none with a --window, else as in the recipe]",
    )
    parser.add_argument("--shifts", action="store_true", help="average over patches moved by half of their side")
    parser.add_argument("--no-shifts", action="store_true", help="do not, whatever the recipe says")
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda, cuda:1 or mps [auto]")
    add_max_pixels(parser)
    values = parse(parser, arguments)
    if not values.maps:
        raise SegfocusError("refine apply: expected the folder of the maps, got none; try --maps DIR")
    kinds = one_of_each(",".join(values.save), ("labels", "probabilities"))
    from segfocus.checkpoint import read_metadata
    from segfocus.inference.refine import refine_folder
    from segfocus.refinement.map_folder import places

    recipe = changed(read_metadata(values.checkpoint).recipe, max_pixels_changes(values, {}))
    found = places(values.maps, images=values.images)
    refiner = _refiner(values, recipe)
    written = refine_folder(
        refiner,
        found.maps,
        Path(values.out),
        images=found.images if values.images or refiner.model.reads_picture else None,
        save=kinds,
        logits=values.logits,
        overwrite=values.overwrite,
        max_pixels=recipe.data.max_pixels,
    )
    say(f"{len(written)} files in {values.out}")


def _refiner(values: Namespace, recipe: Recipe) -> MapRefiner:
    """The refiner as its recipe goes through maps, with what was given instead."""
    from segfocus.inference.refiner import MapRefiner

    def given(name: str, default: list[int] | None) -> tuple[int, int] | None:
        text = getattr(values, name)
        return pair(default) if text is None else None if text == "none" else size(text, f"--{name}")

    if values.shifts and values.no_shifts:
        raise SegfocusError("expected one of --shifts and --no-shifts, got both")
    how = recipe.evaluation
    return MapRefiner(
        values.checkpoint,
        window=given("window", None if values.resize not in (None, "none") else how.window),
        stride=given("stride", None if values.window or values.resize not in (None, "none") else how.stride),
        resize=given("resize", None if values.window not in (None, "none") else recipe.data.resize),
        shifts=(how.shifts and not values.no_shifts) or values.shifts,
        device=values.device,
    )


def add_folders(parser: ArgumentParser) -> None:
    """Add --maps, --images and --logits."""
    parser.add_argument("--maps", metavar="DIR", help="probability maps, or the folder that export-maps wrote")
    parser.add_argument("--images", metavar="DIR", help="pictures, called like the maps, for refiners that read them")
    parser.add_argument("--logits", action="store_true", help="the maps hold logits")

"""Probability maps of a segmenter over a split, as files: what a refiner is fitted to and compared on."""

from __future__ import annotations

import copy
import dataclasses
import datetime
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

import segfocus
from segfocus.checkpoint import Metadata, load, read_metadata
from segfocus.data import open_dataset
from segfocus.data.folds import fold_numbers
from segfocus.errors import SegfocusError
from segfocus.recipe import DataConfig, EvaluationConfig, Recipe
from segfocus.refinement.map_folder import MapFolder
from segfocus.refinement.saturation import say_saturated, uncertain_pixels

if TYPE_CHECKING:
    from segfocus.data.dataset import SegmentationDataset
    from segfocus.inference.predictor import Predictor

_log = logging.getLogger("segfocus")


def export_maps(
    checkpoint: str | Path,
    out: str | Path,
    data: DataConfig | None = None,
    split: str | None = None,
    evaluation: EvaluationConfig | None = None,
    *,
    format: str | None = None,
    folds: int | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: bool = True,
    on_error: Callable[[str, SegfocusError], None] | None = None,
    command: str | None = None,
) -> dict[str, Any]:
    """Write the maps of a split, its masks and its pictures to OUT; see `MapFolder` for the files.

    The same call again goes on where it stopped.  Says so where the split was trained on, whose maps are better than
    those of new pictures will be, and where the maps are saturated: a refiner learns little from either.

    Args:
        checkpoint: of a segmenter.
        data: which pictures; default the checkpoint's own recipe.
        split: default the recipe's validation split, with `folds` its training split.
        evaluation: window, scales, flip; default the recipe's.
        format: one of `segfocus.refinement.map_folder.FORMATS`; default png16 for two classes, else npz.
        folds: train the checkpoint's recipe so many times anew, on all folds of the split but one, and write the maps
            of the one with the last weights (the best ones would be chosen on the fold itself).  Runs in OUT/runs.
        device: "auto", "cpu", "cuda", ...
        overwrite: replace the maps that an earlier call wrote to OUT.
        progress: a bar on standard error where that is a terminal.
        on_error: called with the name of each picture that could not be predicted, and why.
        command: what the user typed, for the record.

    Returns:
        What OUT/maps.json holds.

    Raises:
        SegfocusError: before anything is written: no segmenter, other classes, no such split, OUT holds other files.
            At the end: some pictures could not be predicted (they are named; all others are done).
        KeyboardInterrupt: Ctrl-C; the same call goes on.
    """
    metadata = read_metadata(checkpoint)
    _check_segmenter(metadata, checkpoint)
    data = data or metadata.recipe.data
    evaluation = evaluation or metadata.recipe.evaluation
    split = split or (data.val_split if folds is None else data.train_split)
    dataset = _open(metadata, data, split)
    maps = MapFolder(Path(out), format or ("png16" if metadata.classes.num_classes == 2 else "npz"), metadata.classes)
    settings = {"dataset": data.name, "split": split, "folds": folds, "how": _how(evaluation)}
    made = {
        "checkpoint": str(checkpoint),
        "recipe": metadata.recipe.to_dict(),
        "root": data.root or data.images,
        "command": command,
        "segfocus": segfocus.__version__,
        "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    if folds is None:
        only = _predictor(checkpoint, evaluation, data, device)
        settings["weights"] = only.settings()["weights"]
        maps.begin(settings, dataset.pairs, made, overwrite)
        _say_trained_on(metadata, data, split, dataset)
        work: Iterator[tuple[Callable[[], Predictor], SegmentationDataset]] = iter([(lambda: only, dataset)])
    else:
        if folds < 2:
            raise SegfocusError(f"--folds: expected 2 or more, got {folds}; try 5")
        settings["recipe"] = fold_recipe(metadata.recipe, data, split, 1, folds).to_dict()
        fold_numbers([pair.name for pair in dataset.pairs], folds)
        maps.begin(settings, dataset.pairs, made, overwrite)
        work = _folds(metadata, data, split, evaluation, folds, maps.out, device)
    failed: list[str] = []
    uncertain = pixels = 0
    bar = tqdm(total=len(dataset), unit="map", file=sys.stderr, disable=None if progress else True)
    with bar:
        for predictor_of, part in work:
            for index, pair in enumerate(part.pairs):
                bar.update()
                if maps.finished(pair):
                    probabilities = maps.read(pair)
                else:
                    predictor = predictor_of()
                    try:
                        picture, target = part.read(index)
                        probabilities = predictor(picture, pair.name).probabilities
                    except SegfocusError as error:
                        failed.append(str(error))
                        if on_error is not None:
                            on_error(pair.name, error)
                        continue
                    maps.write(pair, probabilities, target, picture)
                uncertain += uncertain_pixels(probabilities)
                pixels += probabilities[0].size
    if failed:
        more = f"; and {len(failed) - 5} more" if len(failed) > 5 else ""
        raise SegfocusError(
            f"{len(failed)} of {len(dataset)} pictures have no map, the others are done: {'; '.join(failed[:5])}{more}"
        )
    maps.end(uncertain, pixels)
    say_saturated(uncertain / pixels, str(out))
    return maps.record


# -------------------------------------------------------------------------------------------------------- the parts


def _check_segmenter(metadata: Metadata, checkpoint: str | Path) -> None:
    from segfocus.methods import method_class
    from segfocus.methods.base import Segmenter

    if not issubclass(method_class(metadata.recipe.model.method), Segmenter):
        raise SegfocusError(
            f"{checkpoint}: expected a network that sees pictures, got the refiner {metadata.recipe.model.method}; "
            "try segfocus refine apply"
        )


def _open(metadata: Metadata, data: DataConfig, split: str) -> SegmentationDataset:
    """The split, of the checkpoint's classes."""
    # the checkpoint's own classes read its own dataset, also where the classes file has gone or was never needed
    own = data.name == metadata.recipe.data.name and data.classes in (None, metadata.recipe.data.classes)
    dataset = open_dataset(data, split, classes=metadata.classes if own else None)
    if dataset.classes.names != metadata.classes.names:
        raise SegfocusError(
            f"{data.name}: expected the checkpoint's classes {', '.join(metadata.classes.names[:5])}, got "
            f"{', '.join(dataset.classes.names[:5])}; try --data.classes with the names and the order of the training"
        )
    return dataset


def _how(evaluation: EvaluationConfig) -> dict[str, Any]:
    """What of the evaluation section decides the maps."""
    found = {key: getattr(evaluation, key) for key in ("window", "stride", "scales", "flip", "focus", "adaptive")}
    # maps written before there was a choice of focus stay those of the same call
    return {key: value for key, value in found.items() if value is not None or key not in ("focus", "adaptive")}


def _predictor(checkpoint: str | Path, evaluation: EvaluationConfig, data: DataConfig, device: str) -> Predictor:
    from segfocus.inference.predictor import Predictor

    return Predictor(load(checkpoint), **_how(evaluation), device=device, max_pixels=data.max_pixels)


def _say_trained_on(metadata: Metadata, data: DataConfig, split: str, dataset: SegmentationDataset) -> None:
    """Warn where pictures of the split are among those that the checkpoint was trained on."""
    own = metadata.recipe.data
    if data.name != own.name:
        return
    where = dataclasses.replace(own, root=data.root)
    try:
        trained = open_dataset(where, own.train_split, classes=metadata.classes)
    except SegfocusError as error:
        _log.warning("cannot tell which pictures of %s the checkpoint was trained on: %s", split, error)
        return
    seen = {pair.picture.resolve() for pair in trained.pairs}
    both = sum(pair.picture.resolve() in seen for pair in dataset.pairs)
    if both:
        _log.warning(
            "%d of %d pictures of %s were trained on: their maps are better than those of new pictures; try another "
            "--split, or --folds 5 for maps of networks that have not seen them",
            both,
            len(dataset),
            split,
        )


# -------------------------------------------------------------------------------------------------------- the folds


def fold_recipe(recipe: Recipe, data: DataConfig, split: str, number: int, count: int) -> Recipe:
    """The recipe that trains on all folds of a split but one, in one process; validation only watches."""
    changed = copy.deepcopy(recipe)
    sides = {"train_split": f"{split}:not{number}of{count}", "val_split": f"{split}:{number}of{count}"}
    names = ("name", "root", "images", "masks", "val_images", "val_masks", "val_share", "classes", "max_pixels")
    places = {name: getattr(data, name) for name in names}
    changed.data = dataclasses.replace(changed.data, **places, **sides)
    # of several processes each would start this whole command again
    changed.training = dataclasses.replace(changed.training, devices=1)
    changed.description = f"{recipe.description} (without fold {number} of {count})"
    return changed


def _folds(
    metadata: Metadata,
    data: DataConfig,
    split: str,
    evaluation: EvaluationConfig,
    count: int,
    out: Path,
    device: str,
) -> Iterator[tuple[Callable[[], Predictor], SegmentationDataset]]:
    """Each fold with what trains its network, or goes on to, once its first map is asked for."""
    for number in range(1, count + 1):
        part = _open(metadata, data, f"{split}:{number}of{count}")
        recipe = fold_recipe(metadata.recipe, data, split, number, count)
        known: list[Predictor] = []

        def predictor_of(
            recipe: Recipe = recipe, run: Path = out / "runs" / f"fold_{number}", known: list[Predictor] = known
        ) -> Predictor:
            if not known:
                known.append(_predictor(_train_fold(recipe, run), evaluation, data, device))
            return known[0]

        yield predictor_of, part


def _train_fold(recipe: Recipe, run: Path) -> Path:
    from segfocus.training.run import train

    try:
        if (run / "recipe.yaml").is_file():
            train(out=run, resume=True)
        else:
            train(recipe, run, overwrite=True)  # what a run that was stopped before its recipe was written left
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"stopped while training in {run}; the same command goes on") from None
    return run / "last.safetensors"
